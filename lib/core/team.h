/* SPDX-License-Identifier: Apache-2.0 */
/* The threads that compute a task together: a worker that has several cores is the master of an OpenMP team. */
#ifndef ORRI_TEAM_H
#define ORRI_TEAM_H

#include <stddef.h>

/* Calls `call` for parts of 0 .. total - 1, each n long from `begin` on, and together all of them: the whole at once where the
 * calling thread is alone, else a part per thread of its team. Parts begin at multiples of `grain` and are as long at least. Inside a
 * part there is no team: they do not nest. Scratch is each thread's own. */
#define ORRI_TEAM_FOR(total, grain, begin, n, call) \
    do { \
        if (orri_team_size() == 1 || (size_t)(total) < 2 * (size_t)(grain)) { \
            const __typeof__(total) begin = 0, n = (total); \
            call; \
        } else { \
            _Pragma("omp parallel num_threads(orri_team_size())") \
            { \
                const struct orri_share orri_mine = orri_team_share((size_t)(total), (size_t)(grain)); \
                const __typeof__(total) begin = (__typeof__(total))orri_mine.first, n = (__typeof__(total))orri_mine.count; \
                if (n > 0) \
                    call; \
            } \
        } \
    } while (0)

/* Elements that are worth a thread, where there is little to do for each; columns of sums over rows, whole cache lines. */
enum { ORRI_TEAM_ELEMENTS = 8192, ORRI_TEAM_COLUMNS = 64 };

/* Threads of the calling thread's team: 1 where it has none, and inside a part. */
int orri_team_size(void);

/* This thread's number in a part, 0 for the master; and its share. */
int orri_team_place(void);
struct orri_share {
    size_t first, count;
};
struct orri_share orri_team_share(size_t count, size_t grain);

/* The largest team of this process, whose threads may all need memory for a task. */
int orri_team_largest(void);

/* The calling thread becomes the master of a team, of which each thread calls bind(argument, its number) first, unless NULL. A team
 * that the system has not the threads for is smaller. Or it gives it up, as all do then, and its threads end. */
void orri_team_start(int threads, void (*bind)(void *argument, int place), void *argument);
void orri_team_stop(void);

#endif
