/* SPDX-License-Identifier: Apache-2.0 */
/* Nothing hangs in silence. Each rank has a thread that
 *  - ends the job, with a list of what is pending, when something is and nothing has ended for a while (the watchdog);
 *  - exchanges signs of life around the ring of ranks, over sockets of its own, so that a long message or kernel does
 *    not delay them, and ends the job with the name of a rank that died or cannot be reached any more.
 * A job ends with exit status 1, on all ranks. */
#ifndef ORRI_WATCH_H
#define ORRI_WATCH_H

#include <stdbool.h>
#include <stdint.h>

#include <orrery/runtime.h>

struct starpu_task;
struct orri_pending;

/* Collective; MPI runs. Takes `watchdog` and `heartbeat` of the options (NULL: the defaults). Where two neighbours cannot
 * connect it says so and goes on without signs of life between them. Errors: ORR_ENOMEM, ORR_EDEVICE. */
int orri_watch_start(const struct orr_runtime_options *options);

/* Collective; returns when the neighbour has called it too. Nothing may be pending. Legal without start. */
void orri_watch_stop(void);

/* Registers a task that is being submitted, or a message that is awaited. `name` (of the codelet and pass, or of the
 * tile) is borrowed until orri_watch_done(). layer and microbatch are told where they are not negative. The task must
 * not be destroyed before orri_watch_done(), which its callback may call. NULL, which orri_watch_done() takes, without
 * memory or watchdog. Any thread. */
struct orri_pending *orri_watch_task(struct starpu_task *task, const char *name, int layer, int microbatch);
struct orri_pending *orri_watch_transfer(bool receive, int peer, const char *tile_name, int64_t tag);

/* What has been registered has ended: the watchdog starts to count anew. A callback of StarPU. Any thread, once. */
void orri_watch_done(void *pending);

/* For a failure that the other ranks cannot see from the graph: with one rank returns `code`, else prints the message and
 * ends the job. Any thread. */
int orri_watch_fail(int code, const char *message);

#endif
