/* SPDX-License-Identifier: Apache-2.0 */
#include "core/ranks.h"

#include <dlfcn.h>
#include <limits.h>
#include <starpu.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/core.h"

#ifdef ORR_HAVE_MPI
#include <mpi.h>

enum { MESSAGE_SIZE = 1024, REMEDY_SIZE = 512, MERGE_SIZE = 64 << 20 };

static struct {
    bool running;               /* MPI_Init was called and has to be ended        */
    int settled;                /* the status that ended what the ranks do together */
    int rank, count;
    int place, on_host;
    MPI_Comm all, host;
} ranks = {.count = 1, .on_host = 1};

/* ---- starting and stopping ---------------------------------------------------------------------------------- */

/* Without a launcher MPI would start a daemon of its own and StarPU-MPI give a core to its communication thread, for
 * nothing. */
static bool launched(void)
{
    static const char *const marks[] = {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK"};

    for (size_t i = 0; i < ORRI_COUNT(marks); i++)
        if (getenv(marks[i]))
            return true;
    return false;
}

static uint64_t hash_file(const char *path, uint64_t hash)
{
    unsigned char buffer[1 << 16];
    FILE *f = fopen(path, "rb");
    size_t n;

    while (f && (n = fread(buffer, 1, sizeof(buffer), f)) > 0)
        hash = orri_hash(hash, buffer, n);
    if (f)
        fclose(f);
    return hash;
}

/* The program and the library it was loaded with, byte for byte: a version number is the same for two builds. */
static int agree_on_build(void)
{
    struct {
        char version[64];
        int starpu[3];
        uint64_t program, library;
    } build = {.version = PACKAGE_VERSION};
    Dl_info library;

    starpu_get_version(&build.starpu[0], &build.starpu[1], &build.starpu[2]);
    build.program = hash_file("/proc/self/exe", ORRI_HASH);
    if (dladdr((void *)(uintptr_t)orr_version, &library) != 0 && library.dli_fname)
        build.library = hash_file(library.dli_fname, ORRI_HASH);
    int status = orri_ranks_agree("build", &build, sizeof(build));
    return status ? orri_remedy(status, "install the same program, liborrery and StarPU on every host") : ORR_OK;
}

int orr_ranks_start(void)
{
    int given;

    if (ranks.running || !launched())
        return ORR_OK;
    setenv("OMPI_MCA_mpi_yield_when_idle", "1", 0);     /* cores.c says what yielding is */
    if (MPI_Init_thread(NULL, NULL, MPI_THREAD_MULTIPLE, &given) != MPI_SUCCESS)
        return orri_fail(ORR_EDEVICE, "MPI", "MPI_Init_thread failed");
    ranks.running = true;
    MPI_Comm_rank(MPI_COMM_WORLD, &ranks.rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks.count);
    MPI_Comm_dup(MPI_COMM_WORLD, &ranks.all);
    MPI_Comm_split_type(ranks.all, MPI_COMM_TYPE_SHARED, ranks.rank, MPI_INFO_NULL, &ranks.host);
    MPI_Comm_rank(ranks.host, &ranks.place);
    MPI_Comm_size(ranks.host, &ranks.on_host);
    int status = given == MPI_THREAD_MULTIPLE ? ORR_OK
                                              : orri_fail(ORR_EDEVICE, "MPI", "this MPI has no MPI_THREAD_MULTIPLE");
    ORR_TRY(orr_ranks_settle(status));
    return agree_on_build();
}

void orri_ranks_stop(void)
{
    if (!ranks.running)
        return;
    MPI_Comm_free(&ranks.host);
    MPI_Comm_free(&ranks.all);
    MPI_Finalize();
    ranks.running = false;
    ranks.settled = ORR_OK;
    ranks.rank = ranks.place = 0;
    ranks.count = ranks.on_host = 1;
}

int orr_rank(void)
{
    return ranks.rank;
}

int orr_rank_count(void)
{
    return ranks.count;
}

int orri_ranks_on_host(void)
{
    return ranks.on_host;
}

int orri_ranks_place_on_host(void)
{
    return ranks.place;
}

/* ---- collectives --------------------------------------------------------------------------------------------- */

/* MPI's own waits spin, and take the core from the rank that is waited for. */
static int finish(MPI_Request *request)
{
    struct timespec pause = {0, 20000};

    for (int done = 0;;) {
        MPI_Test(request, &done, MPI_STATUS_IGNORE);
        if (done)
            return ORR_OK;
        nanosleep(&pause, NULL);
        if (pause.tv_nsec < 1000000)
            pause.tv_nsec *= 2;
    }
}

static void send_to_all(void *data, size_t bytes, int root)
{
    MPI_Request request;

    for (size_t done = 0; done < bytes;) {
        int n = bytes - done < INT_MAX ? (int)(bytes - done) : INT_MAX;
        MPI_Ibcast((char *)data + done, n, MPI_BYTE, root, ranks.all, &request);
        finish(&request);
        done += (size_t)n;
    }
}

static int least(int value)
{
    MPI_Request request;
    int result;

    MPI_Iallreduce(&value, &result, 1, MPI_INT, MPI_MIN, ranks.all, &request);
    finish(&request);
    return result;
}

static int tell(int status, int failed)
{
    struct {
        int status;
        char message[MESSAGE_SIZE], remedy[REMEDY_SIZE];
    } first = {.status = status};
    char message[MESSAGE_SIZE + 32];

    if (failed == ranks.rank && status < 0) {
        snprintf(first.message, sizeof(first.message), "%s", orr_error());
        snprintf(first.remedy, sizeof(first.remedy), "%s", orr_error_remedy());
    }
    send_to_all(&first, sizeof(first), failed);
    bool alike = status == first.status && strcmp(first.message, orr_error()) == 0;
    bool all_alike = least(alike);
    if (first.status > 0)
        return first.status;
    snprintf(message, sizeof(message), "rank %d: %s", failed, first.message);
    return orr_error_set(first.status, all_alike ? first.message : message, first.remedy);
}

int orr_ranks_settle(int status)
{
    if (ranks.count == 1)
        return status;
    if (ranks.settled)
        return ranks.settled;
    int failed = least(status != 0 ? ranks.rank : INT_MAX);
    if (failed != INT_MAX)
        ranks.settled = tell(status, failed);
    return ranks.settled;
}

int orri_ranks_barrier(void)
{
    return orr_ranks_settle(ORR_OK);
}

int orri_ranks_broadcast(void *data, size_t bytes, int root)
{
    ORR_TRY(orr_ranks_settle(ORR_OK));
    if (ranks.count > 1)
        send_to_all(data, bytes, root);
    return ORR_OK;
}

int orri_ranks_merge(void *data, size_t bytes)
{
    ORR_TRY(orr_ranks_settle(ORR_OK));
    for (size_t done = 0; ranks.count > 1 && done < bytes;) {
        MPI_Request request;
        int n = bytes - done < MERGE_SIZE ? (int)(bytes - done) : MERGE_SIZE;
        MPI_Iallreduce(MPI_IN_PLACE, (char *)data + done, n, MPI_BYTE, MPI_BOR, ranks.all, &request);
        finish(&request);
        done += (size_t)n;
    }
    return ORR_OK;
}

int orr_ranks_least(int *value)
{
    ORR_TRY(orr_ranks_settle(ORR_OK));
    if (ranks.count > 1)
        *value = least(*value);
    return ORR_OK;
}

int orri_ranks_gather_on_host(const void *mine, size_t bytes, void *all)
{
    MPI_Request request;

    ORR_TRY(orr_ranks_settle(ORR_OK));
    if (ranks.on_host == 1) {
        memcpy(all, mine, bytes);
        return ORR_OK;
    }
    MPI_Iallgather(mine, (int)bytes, MPI_BYTE, all, (int)bytes, MPI_BYTE, ranks.host, &request);
    return finish(&request);
}

int orri_ranks_shift(const void *mine, void *previous, size_t bytes)
{
    int next = (ranks.rank + 1) % ranks.count, before = (ranks.rank + ranks.count - 1) % ranks.count;
    MPI_Request request[2];

    ORR_TRY(orr_ranks_settle(ORR_OK));
    MPI_Irecv(previous, (int)bytes, MPI_BYTE, before, 0, ranks.all, &request[0]);
    MPI_Isend(mine, (int)bytes, MPI_BYTE, next, 0, ranks.all, &request[1]);
    finish(&request[0]);
    return finish(&request[1]);
}

void orri_ranks_abort(int status)
{
    if (ranks.running)
        MPI_Abort(MPI_COMM_WORLD, status);
}

/* rank 0's bytes on every rank, malloc'ed, with a 0 behind them; NULL, on all ranks, where one has no room. */
static char *from_first(const void *data, size_t *bytes)
{
    uint64_t size = *bytes;

    if (orri_ranks_broadcast(&size, sizeof(size), 0) != 0)
        return NULL;
    char *copy = orri_alloc(size + 1);
    if (orr_ranks_settle(copy ? ORR_OK : ORR_ENOMEM) != 0) {
        free(copy);
        return NULL;
    }
    copy[size] = '\0';
    if (ranks.rank == 0)
        memcpy(copy, data, size);
    send_to_all(copy, size, 0);
    *bytes = size;
    return copy;
}

int orri_ranks_agree(const char *what, const void *data, size_t bytes)
{
    size_t size = bytes;

    if (ranks.count == 1)
        return ORR_OK;
    char *first = from_first(data, &size);
    if (!first)
        return ranks.settled;
    bool same = size == bytes && memcmp(first, data, size) == 0;
    free(first);
    return orr_ranks_settle(same ? ORR_OK : orri_fail(ORR_EINVAL, what, "differs from that of rank 0"));
}

/* The first line in which two texts differ; where one has ended, "nothing". */
static int tell_difference(const char *what, const char *text, const char *first)
{
    while (*text && *first) {
        size_t n = strcspn(text, "\n"), m = strcspn(first, "\n");
        if (n != m || memcmp(text, first, n) != 0)
            break;
        text += n + (text[n] == '\n');
        first += m + (first[m] == '\n');
    }
    if (!*text)
        text = "nothing";
    if (!*first)
        first = "nothing";
    return orri_fail(ORR_EINVAL, what, "'%.*s' where rank 0 has '%.*s'", (int)strcspn(text, "\n"), text,
                     (int)strcspn(first, "\n"), first);
}

int orr_ranks_agree(const char *what, const char *text)
{
    size_t size = strlen(text);

    if (ranks.count == 1)
        return ORR_OK;
    char *first = from_first(text, &size);
    if (!first)
        return ranks.settled;
    int status = strcmp(text, first) == 0 ? ORR_OK : tell_difference(what, text, first);
    free(first);
    return orr_ranks_settle(status);
}

#else

int orr_ranks_start(void)
{
    return ORR_OK;
}

void orri_ranks_stop(void)
{
}

int orr_rank(void)
{
    return 0;
}

int orr_rank_count(void)
{
    return 1;
}

int orri_ranks_on_host(void)
{
    return 1;
}

int orri_ranks_place_on_host(void)
{
    return 0;
}

int orri_ranks_barrier(void)
{
    return ORR_OK;
}

int orri_ranks_broadcast(void *data, size_t bytes, int root)
{
    (void)data, (void)bytes, (void)root;
    return ORR_OK;
}

int orri_ranks_merge(void *data, size_t bytes)
{
    (void)data, (void)bytes;
    return ORR_OK;
}

int orr_ranks_least(int *value)
{
    (void)value;
    return ORR_OK;
}

int orri_ranks_gather_on_host(const void *mine, size_t bytes, void *all)
{
    memcpy(all, mine, bytes);
    return ORR_OK;
}

int orri_ranks_shift(const void *mine, void *previous, size_t bytes)
{
    memcpy(previous, mine, bytes);
    return ORR_OK;
}

void orri_ranks_abort(int status)
{
    (void)status;
}

int orr_ranks_settle(int status)
{
    return status;
}

int orri_ranks_agree(const char *what, const void *data, size_t bytes)
{
    (void)what, (void)data, (void)bytes;
    return ORR_OK;
}

int orr_ranks_agree(const char *what, const char *text)
{
    (void)what, (void)text;
    return ORR_OK;
}

#endif
