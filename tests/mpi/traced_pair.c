/* SPDX-License-Identifier: Apache-2.0 */
/* Two ranks that compute what a pipeline of two stages would, with sleeping tasks called as Orrery's: rank 0 sends to
 * rank 1 what F made, rank 1 sends it back after its B. Run by traced_pair.sh as `mpiexec -n 2 traced_pair DIR`. */
#include <starpu_mpi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <orrery/orrery.h>

enum { STEPS = 3, MICROBATCHES = 4, FLOATS = 5000, MILLISECONDS = 3, LONG_MILLISECONDS = 100, SECONDS_AHEAD = 5 };

/* The clock of FxT, which lets a program have its own: rank 1's is ahead, as if it ran on another machine. */
uint64_t fut_getstamp(void);
uint64_t fut_getstamp(void)
{
    const char *rank = getenv("OMPI_COMM_WORLD_RANK");
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)(now.tv_sec + (rank && rank[0] == '1' ? SECONDS_AHEAD : 0)) * 1000000000u + (uint64_t)now.tv_nsec;
}

static void sleep_for(long milliseconds)
{
    nanosleep(&(struct timespec){.tv_nsec = milliseconds * 1000000L}, NULL);
}

static void work(void *buffers[], void *argument)
{
    (void)buffers, (void)argument;
    sleep_for(MILLISECONDS);
}

/* The first of a step: long enough that rank 1 is asleep when it ends. */
static void work_long(void *buffers[], void *argument)
{
    (void)buffers, (void)argument;
    sleep_for(LONG_MILLISECONDS);
}

static void nothing(void *buffers[], void *argument)
{
    (void)buffers, (void)argument;
}

static struct starpu_codelet forward = {.cpu_funcs = {work}, .nbuffers = 1, .modes = {STARPU_RW}, .name = "toy_F"};
static struct starpu_codelet first = {.cpu_funcs = {work_long}, .nbuffers = 1, .modes = {STARPU_RW}, .name = "toy_F"};
static struct starpu_codelet backward = {.cpu_funcs = {work}, .nbuffers = 1, .modes = {STARPU_RW}, .name = "toy_B"};
static struct starpu_codelet weights = {.cpu_funcs = {work}, .nbuffers = 1, .modes = {STARPU_R}, .name = "toy_W"};
static struct starpu_codelet update = {.cpu_funcs = {work}, .name = "update"};
static struct starpu_codelet report = {.cpu_funcs = {nothing}, .name = "report"};

enum { LOW, MIDDLE, HIGH };

static int submit(struct starpu_codelet *codelet, starpu_data_handle_t handle, int priority)
{
    return codelet->nbuffers ? starpu_task_insert(codelet, codelet->modes[0], handle, STARPU_PRIORITY, priority, 0)
                             : starpu_task_insert(codelet, STARPU_PRIORITY, priority, 0);
}

static int exchange(int from, starpu_data_handle_t handle, int tag)
{
    return orr_rank() == from ? starpu_mpi_isend_detached(handle, 1 - from, tag, MPI_COMM_WORLD, NULL, NULL)
                              : starpu_mpi_irecv_detached(handle, from, tag, MPI_COMM_WORLD, NULL, NULL);
}

static int step(int number, starpu_data_handle_t *handle)
{
    for (int m = 0; m < MICROBATCHES; m++) {
        int tag = 2 * (number * MICROBATCHES + m);
        if (orr_rank() == 0)
            ORR_TRY(submit(m == 0 ? &first : &forward, handle[m], m == 0 ? HIGH : MIDDLE));
        ORR_TRY(exchange(0, handle[m], tag));
        if (orr_rank() == 1) {
            ORR_TRY(submit(&forward, handle[m], MIDDLE));
            ORR_TRY(submit(&backward, handle[m], HIGH));
        }
        ORR_TRY(exchange(1, handle[m], tag + 1));
        if (orr_rank() == 0)
            ORR_TRY(submit(&backward, handle[m], HIGH));
        ORR_TRY(submit(&weights, handle[m], LOW));
    }
    starpu_task_wait_for_all();
    ORR_TRY(submit(&update, NULL, HIGH));
    starpu_task_wait_for_all();
    ORR_TRY(submit(&report, NULL, HIGH));
    return starpu_task_wait_for_all();
}

static int run(const char *directory)
{
    struct orr_trace_run about = {.model = "toys", .mesh = {.dp = 1, .pp = 2, .tp = 1, .ranks = 2}, .stages = 2,
                                  .slots = "4", .microbatches = MICROBATCHES, .workers = 1, .steps = STEPS};
    static float values[MICROBATCHES][FLOATS];
    starpu_data_handle_t handle[MICROBATCHES];

    ORR_TRY(orr_ranks_start());         /* or both would be rank 0 to it */
    ORR_TRY(orr_trace_prepare(directory));
    ORR_TRY(orr_init(&(struct orr_runtime_options){.threads = 1, .trace = directory}));
    if (orr_rank_count() != 2)
        return ORR_EINVAL;
    for (int m = 0; m < MICROBATCHES; m++)
        starpu_vector_data_register(&handle[m], STARPU_MAIN_RAM, (uintptr_t)values[m], FLOATS, sizeof(float));
    for (int s = 0; s < STEPS; s++)
        ORR_TRY(step(s, handle));
    for (int m = 0; m < MICROBATCHES; m++)
        starpu_data_unregister(handle[m]);
    if (orr_rank() == 0)
        ORR_TRY(orr_trace_describe(directory, &about));
    return ORR_OK;
}

int main(int argc, char **argv)
{
    int status = argc == 2 ? run(argv[1]) : ORR_EINVAL;

    if (status != 0)
        fprintf(stderr, "%s\n", argc == 2 ? orr_error() : "usage: traced_pair DIR");
    orr_shutdown();
    return status != 0;
}
