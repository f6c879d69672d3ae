/* SPDX-License-Identifier: Apache-2.0 */
/* Times the tokens of a generation, and beside them what bounds them: every parameter is read once for each. */
#include "tools/bench_generate.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "tools/tools.h"

enum { READ_BYTES = 256 << 20, HUGE_PAGE = 2 << 20, READS = 10, LANES = 16, MOST_READERS = 256, WARM_UP = 2, PROMPT_STREAM = 0x70726f };

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- the speed of memory ------------------------------------------------------------------------------------ */

struct reader {
    pthread_t thread;
    const uint64_t *words;
    size_t count;
    uint64_t sum;
};

static void *read_words(void *argument)
{
    struct reader *r = argument;
    uint64_t sum[LANES] = {0};

    for (size_t i = 0; i + LANES <= r->count; i += LANES)
        for (int l = 0; l < LANES; l++)
            sum[l] += r->words[i + (size_t)l];
    for (int l = 0; l < LANES; l++)
        r->sum += sum[l];
    return NULL;
}

/* Seconds that `readers` threads take to read a buffer that no cache holds, once; negative on failure. */
static double read_once(const uint64_t *words, int readers)
{
    struct reader reader[MOST_READERS];
    double start = now();
    int started = 0;

    for (; started < readers; started++) {
        struct reader *r = &reader[started];
        size_t count = READ_BYTES / sizeof(*words) / (size_t)readers;
        *r = (struct reader){.words = words + (size_t)started * count, .count = count};
        if (pthread_create(&r->thread, NULL, read_words, r) != 0)
            break;
    }
    for (int i = 0; i < started; i++)
        pthread_join(reader[i].thread, NULL);
    return started == readers ? now() - start : -1;
}

double bench_read_speed(int threads)
{
    cpu_set_t mine;
    int cores = sched_getaffinity(0, sizeof(mine), &mine) == 0 ? CPU_COUNT(&mine) : 1;
    int readers = threads > 0 && threads < cores ? threads : cores < MOST_READERS ? cores : MOST_READERS;
    uint64_t *words = aligned_alloc(HUGE_PAGE, READ_BYTES);
    double best = 0;

    if (!words)
        return -1;
    madvise(words, READ_BYTES, MADV_HUGEPAGE);
    memset(words, 1, READ_BYTES);
    for (int i = 0; i < READS && best >= 0; i++) {
        double seconds = read_once(words, readers);
        best = seconds <= 0 ? -1 : READ_BYTES / seconds > best ? READ_BYTES / seconds : best;
    }
    free(words);
    return best;
}

/* ---- the tokens ------------------------------------------------------------------------------------------------ */

static int make_prompts(struct orr_sequence *sequences, const struct orr_hyper *hyper, const struct generation *g)
{
    for (int s = 0; s < g->batch; s++) {
        int32_t *tokens = malloc(((size_t)g->prompt + (size_t)g->tokens) * sizeof(*tokens));
        if (!tokens)
            return command_fail(ORR_ENOMEM, "bench: no room for the tokens");
        sequences[s] = (struct orr_sequence){tokens, g->prompt, false};
        struct orr_rng rng = {(uint64_t)layout_options.seed, PROMPT_STREAM, (uint32_t)s};
        for (int t = 0; t < g->prompt; t++) {
            uint32_t word;
            orr_rng_words(&rng, (uint64_t)t, 1, &word);
            tokens[t] = (int32_t)(word % (uint32_t)hyper->vocab);
        }
    }
    return ORR_OK;
}

/* The likeliest token behind every sequence, again and again: seconds[0] with the prompt, and those of each further one. What is
 * made once (parameters, primitives, memory) is made before. */
static int time_tokens(struct orr_predictor *predictor, struct orr_sequence *sequences, const struct generation *g, double *seconds)
{
    const struct orr_sampling likeliest = {.top_p = 1};

    ORR_TRY(orr_generate(predictor, sequences, g->batch, WARM_UP, -1, &likeliest, NULL, NULL));
    for (int s = 0; s < g->batch; s++)
        sequences[s].count = g->prompt;     /* begins anew */
    for (int i = 0; i < g->tokens; i++) {
        double start = now();
        ORR_TRY(orr_generate(predictor, sequences, g->batch, 1, -1, &likeliest, NULL, NULL));
        seconds[i] = now() - start;
    }
    return ORR_OK;
}

static json_t *report(const struct opened *o, const struct generation *g, double *seconds)
{
    double bytes = (double)orr_model_size(o->model) * (double)orr_dtype_size(o->dtype), prompt = seconds[0];
    double token = orr_median(seconds + 1, (size_t)g->tokens - 1), speed = g->read_speed;

    return json_pack("{s:f,s:f,s:f,s:f,s:f,s:f,s:f,s:I,s:s,s:s,s:i,s:i,s:i,s:i,s:i,s:i,s:i}", "tokens_per_s", g->batch / token,
                     "token_ms", 1e3 * token, "prompt_ms", 1e3 * prompt, "parameter_mib", bytes / 0x1p20, "read_gb_per_s",
                     speed / 1e9, "read_ms", 1e3 * bytes / speed, "times_read", token * speed / bytes, "peak_rss_mib",
                     (json_int_t)(orr_memory_peak() >> 20), "model", model_options.model, "dtype", layout_options.dtype, "batch",
                     g->batch, "prompt", g->prompt, "tokens", g->tokens, "dp", o->mesh.dp, "pp", o->mesh.pp, "tp", o->mesh.tp,
                     "workers", orr_worker_count());
}

json_t *bench_generate(struct opened *o, const struct generation *g)
{
    struct orr_sequence *sequences = calloc((size_t)g->batch, sizeof(*sequences));
    double *seconds = malloc((size_t)g->tokens * sizeof(*seconds));
    struct orr_predictor *predictor =
        orr_predictor_create(o->model, o->hyper.vocab, o->hyper.width, o->hyper.positions);
    int status = !predictor ? orr_error_code() : ORR_OK;

    if (status == 0 && (!sequences || !seconds))
        status = command_fail(ORR_ENOMEM, "bench: no room for the times");
    if (status == 0)
        status = make_prompts(sequences, &o->hyper, g);
    if (status == 0 && g->cache)
        status = orr_predictor_continue(predictor, g->batch, 1);
    if (status == 0)
        status = time_tokens(predictor, sequences, g, seconds);
    json_t *object = status == 0 ? report(o, g, seconds) : NULL;
    orr_predictor_destroy(predictor);
    for (int s = 0; sequences && s < g->batch; s++)
        free(sequences[s].tokens);
    free(sequences);
    free(seconds);
    return object;
}
