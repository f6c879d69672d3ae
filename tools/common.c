/* SPDX-License-Identifier: Apache-2.0 */
#include <ctype.h>
#include <errno.h>
#include <glob.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "tools/tools.h"

struct model_options model_options;
struct data_options data_options = {.validation_fraction = 0.01, .mask_probability = 0.15};
struct layout_options layout_options = {.dp = 1, .pp = 1, .tp = 1, .seed = 1, .watchdog = 120, .heartbeat = 6,
                                        .dtype = "fp32", .device = "auto", .pin = "home", .update = "device",
                                        .master_weights = "fp32", .attention = "auto", .cpu_group = "core"};

struct setting model_table[] = {
    SETTING("model", "M", "a directory in Hugging Face's layout, a config.json, or a preset: tiny-gpt2, gpt2, gpt2-medium, "
                   "gpt2-large, gpt2-xl, tiny-llama, llama-3.2-1b, llama-3.1-8b, mistral-7b, qwen2.5-0.5b", OPTION_TEXT, &model_options.model, 0, 0, false),
    SETTING("set", "KEY=VALUE", "override a key of config.json, by its Hugging Face name", OPTION_LIST, &model_options.set, 0,
     0, false),
    SETTING("tokenizer", "T", "bytes, a tokenizer.json, vocabulary files or their directory (default: the model's, else bytes)",
     OPTION_TEXT, &model_options.tokenizer, 0, 0, false),
    {0},
};

struct setting data_table[] = {
    SETTING("data", "PATH", "text, a directory or pattern of text files, a .bin file of tokens, or data with labels: .tsv, .conll; repeatable", OPTION_LIST,
     &data_options.data, 0, 0, false),
    SETTING("task", "TASK", "lm, mlm (masked tokens), classify or tag, where neither the data nor the model tells", OPTION_TEXT,
     &data_options.task, 0, 0, false),
    SETTING("truncate", NULL, "cut sequences with labels that are longer than --seq", OPTION_FLAG, &data_options.truncate, 0, 0, false),
    SETTING("mask-probability", "P", "with mlm, of a token to be chosen (0.15)", OPTION_REAL, &data_options.mask_probability, 1e-6, 1,
     false),
    {0},
};

struct setting validation_table[] = {
    SETTING("val", "PATH", "validation data, as --data; repeatable", OPTION_LIST, &data_options.validation, 0, 0, false),
    SETTING("val-fraction", "F", "without --val, the last part of the data that is held out (0.01; 0 = none)", OPTION_REAL,
     &data_options.validation_fraction, 0, 0.999, false),
    {0},
};

struct setting layout_table[] = {
    SETTING("dp", "D", "replicas (data parallel)", OPTION_INT, &layout_options.dp, 1, 1 << 20, true),
    SETTING("pp", "P", "pipeline coordinates", OPTION_INT, &layout_options.pp, 1, 1 << 20, true),
    SETTING("tp", "T", "shards of each block (tensor parallel)", OPTION_INT, &layout_options.tp, 1, 64, true),
    SETTING("stages", "S", "pipeline stages, a multiple of --pp, dealt in turn (default: --pp)", OPTION_INT,
     &layout_options.stages, 1, 1 << 20, true),
    SETTING("sequence-parallel", NULL, "cut the residual stream into --tp chunks of the sequence", OPTION_FLAG,
     &layout_options.sequence_parallel, 0, 0, true),
    SETTING("zero", "N", "what replicas share out: 1 or 2 optimizer state, 3 parameters too (1)", OPTION_INT,
     &layout_options.zero, 1, 3, true),
    SETTING("zero-slots", "K", "with --zero 3, parameters of a size that a rank has room to receive (2)", OPTION_INT,
     &layout_options.zero_slots, 1, 1 << 16, true),
    SETTING("slots", "POLICY", "microbatches in flight: gpipe, 1f1b, h1, zb or a number", OPTION_TEXT, &layout_options.slots, 0,
     0, true),
    SETTING("device", "D", "where blocks run: auto (default: CUDA devices where there are any), cpu or cuda", OPTION_TEXT,
     &layout_options.device, 0, 0, true),
    SETTING("pin", "HOW", "home (default): each coordinate of the mesh has a CUDA device; none: the scheduler chooses", OPTION_TEXT,
     &layout_options.pin, 0, 0, true),
    SETTING("update", "WHERE", "device (default): where the gradients are; cpu: optimizer state stays in main memory, CPU cores update",
     OPTION_TEXT, &layout_options.update, 0, 0, true),
    SETTING("tf32", NULL, "on CUDA devices, round the factors of fp32 matrix products to TF32", OPTION_FLAG, &layout_options.tf32, 0,
     0, true),
    SETTING("attention", "BY", "on CUDA devices: auto (default: Orrery's kernels), own (the same) or cudnn (where it can)",
     OPTION_TEXT, &layout_options.attention, 0, 0, true),
    SETTING("cpu-group", "WHICH", "cores that compute a task together: core (default: one), l3 (that share a cache) or numa (a node's)",
     OPTION_TEXT, &layout_options.cpu_group, 0, 0, true),
    SETTING("threads", "N", "cores to compute on, each a worker without groups (default: STARPU_NCPU, else all)", OPTION_INT, &layout_options.threads, 1,
     4096, true),
    SETTING("watchdog", "SECONDS", "end the run when no task has ended for so long while some are pending (120; 0 = never)",
     OPTION_REAL, &layout_options.watchdog, 0, 1e9, true),
    SETTING("heartbeat", "SECONDS", "end the run when a rank has given no sign of life for so long (6; 0 = never)", OPTION_REAL,
     &layout_options.heartbeat, 0, 1e9, true),
    SETTING("dtype", "TYPE", "what to compute in: fp32, bf16 or fp16, with fp32 masters (fp32)", OPTION_TEXT, &layout_options.dtype, 0, 0, true),
    SETTING("master-weights", "HOW", "with --dtype bf16: fp32 (default), or none: bf16 alone, that updates round at random",
     OPTION_TEXT, &layout_options.master_weights, 0, 0, true),
    SETTING("seed", "S", "of initialisation, data order, dropout and sampling (1)", OPTION_INT, &layout_options.seed, 0, 1e15,
     true),
    {0},
};

const char *trace_path;

struct setting trace_table[] = {
    SETTING("trace", "DIR", "record a trace of every rank there, for 'orrery trace DIR'", OPTION_TEXT, &trace_path, 0, 0, true),
    {0},
};

const char *ids_text, *ids_path;

struct setting sequences_table[] = {
    SETTING("ids", "IDS", "token sequences, as in \"5 6 7; 8 9 1\"", OPTION_TEXT, &ids_text, 0, 0, false),
    SETTING("ids-file", "FILE", "a token sequence per line", OPTION_TEXT, &ids_path, 0, 0, false),
    {0},
};

/* ---- words ------------------------------------------------------------------------------------------------ */

int choose(const char *option, const char *given, const char *const *words, int *which)
{
    char remedy[80] = "use ";
    int count = 0;

    for (; words[count]; count++) {
        if (strcmp(given, words[count]) == 0) {
            *which = count;
            return ORR_OK;
        }
    }
    for (int i = 0; i < count; i++)
        snprintf(remedy + strlen(remedy), sizeof(remedy) - strlen(remedy), "%s%s", i == 0 ? "" : i == count - 1 ? " or " : ", ",
                 words[i]);
    return command_remedy(command_fail(ORR_EINVAL, "--%s: '%s' is none", option, given), "%s", remedy);
}

int read_dtype(const char *option, const char *given, enum orr_dtype *dtype)
{
    static const char *const words[] = {[ORR_F32] = "fp32", [ORR_BF16] = "bf16", [ORR_F16] = "fp16", NULL};
    int which;

    ORR_TRY(choose(option, given, words, &which));
    *dtype = (enum orr_dtype)which;
    return ORR_OK;
}

int read_sync(const char *given, enum orr_sync *sync)
{
    static const char *const words[] = {[ORR_SYNC_GRADIENTS] = "gradients", [ORR_SYNC_PARAMETERS] = "parameters", NULL};
    int which;

    ORR_TRY(choose("sync", given, words, &which));
    *sync = (enum orr_sync)which;
    return ORR_OK;
}

/* ---- models ---------------------------------------------------------------------------------------------- */

static bool is_directory(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

static char *join(const char *directory, const char *name)
{
    char *path = NULL;

    return asprintf(&path, "%s/%s", directory, name) < 0 ? NULL : path;
}

static bool exists(const char *directory, const char *name)
{
    struct stat st;
    char *path = join(directory, name);
    bool there = path && stat(path, &st) == 0;

    free(path);
    return there;
}

/* Parameters that are not read as they lie there must not be taken for none, which are drawn at random. */
static int check_no_parameters(const char *directory)
{
    static const char *const patterns[] = {"%s/model-*.safetensors", "%s/pytorch_model*.bin"};
    glob_t found = {0};
    char *pattern = NULL;
    int status = ORR_OK;

    for (size_t i = 0; status == 0 && i < sizeof(patterns) / sizeof(patterns[0]); i++) {
        if (asprintf(&pattern, patterns[i], directory) < 0)
            return command_fail(ORR_ENOMEM, "memory: no room for a name");
        if (glob(pattern, 0, NULL, &found) == 0)
            status = command_remedy(command_fail(ORR_ENOENT, "%s: has %s, but neither model.safetensors nor "
                                                 "model.safetensors.index.json", directory, strrchr(found.gl_pathv[0], '/') + 1),
                                    i == 0 ? "get the missing file" : "write it with save_pretrained() of transformers");
        globfree(&found);
        free(pattern);
    }
    return status;
}

static int open_config(struct opened *o, const char *name)
{
    struct stat st;

    if (is_directory(name)) {
        o->directory = orr_checkpoint_resolve(name);
        if (!o->directory)
            return orr_error_code();
        o->weights = exists(o->directory, "model.safetensors") || exists(o->directory, "model.safetensors.index.json");
        if (!o->weights)
            ORR_TRY(check_no_parameters(o->directory));
        char *path = join(o->directory, "config.json");
        o->config = path ? orr_config_open(path) : NULL;
        free(path);
        if (!o->config && orr_error_code() == ORR_ENOENT)
            return command_remedy(ORR_ENOENT, "name a checkpoint, as one of a run's step-* directories is, or a directory in "
                                              "Hugging Face's layout");
    } else if (stat(name, &st) == 0) {
        o->config = orr_config_open(name);
    } else {
        o->config = orr_family_preset(name);
        if (!o->config)
            return command_remedy(command_fail(ORR_ENOENT, "%s: there is no such directory, config.json or preset", name),
                                  "presets are %s", orr_family_presets());
    }
    return o->config ? ORR_OK : orr_error_code();
}

struct orr_tokenizer *open_tokenizer(const char *name, const char *directory)
{
    char *resolved = !name && directory ? orr_checkpoint_resolve(directory) : NULL;

    if (!name && directory && !resolved)
        return NULL;
    if (!name)
        name = resolved && orr_tokenizer_in(resolved) ? resolved : "bytes";
    struct orr_tokenizer *tokenizer = orr_tokenizer_open(name);
    if (!tokenizer && name == resolved)
        command_remedy(orr_error_code(), "name another one with --tokenizer; bytes, where there are only ids to be read");
    free(resolved);
    return tokenizer;
}

static int check_layout(struct opened *o)
{
    const struct layout_options *l = &layout_options;

    ORR_TRY(read_dtype("dtype", l->dtype, &o->dtype));
    if (l->slots)
        ORR_TRY(orr_slot_policy_parse(l->slots, &o->slots));
    return ORR_OK;
}

int read_model(struct opened *o, int (*change)(struct orr_config *config))
{
    if (!model_options.model)
        return command_remedy(command_fail(ORR_EINVAL, "--model: is missing"),
                              "name a directory, a config.json or a preset such as tiny-gpt2");
    ORR_TRY(check_layout(o));
    ORR_TRY(open_config(o, model_options.model));
    for (int i = 0; i < model_options.set.count; i++)
        ORR_TRY(orr_config_set(o->config, model_options.set.item[i]));
    if (change)
        ORR_TRY(change(o->config));
    ORR_TRY(orr_family_read(o->config, &o->hyper));
    o->tokenizer = open_tokenizer(model_options.tokenizer, o->directory);
    return o->tokenizer ? ORR_OK : orr_error_code();
}

/* Each rank reads its own copy of the files. */
static int agree_on_model(const struct opened *o)
{
    char *text = orr_config_text(o->config);

    ORR_TRY(orr_ranks_settle(text ? ORR_OK : orr_error_code()));
    int status = orr_ranks_agree("--model", o->directory ? o->directory : "");
    if (status == 0)
        status = orr_ranks_agree(orr_config_name(o->config), text);
    free(text);
    return status;
}

/* A token's work has no other parallelism than that of shards. More of them than this have not been measured. */
static int shards_for_tokens(const struct opened *o)
{
    enum { MOST = 8 };
    static const char *const layout[] = {"dp", "pp", "tp", "stages", "zero", "sequence-parallel"};
    int shards = orr_worker_count() < MOST ? orr_worker_count() : MOST;

    for (size_t i = 0; i < sizeof(layout) / sizeof(layout[0]); i++)
        if (options_given(layout_table, layout[i]))
            return o->mesh.tp;
    if (orr_rank_count() > 1 || orr_device_count() > 0)
        return o->mesh.tp;
    return shards < o->hyper.shards ? shards : o->hyper.shards;
}

static void expect(struct opened *o, const struct shape *shape)
{
    int64_t seq = shape->seq ? shape->seq : o->hyper.positions;
    int64_t batch = shape->micro_batch ? shape->micro_batch : default_micro_batch((int)shape->batch, o->mesh.dp);

    if (seq <= INT_MAX && batch <= INT_MAX) {
        o->mesh.batch = (int)batch;
        o->mesh.seq = (int)seq;
    }
}

int read_device(struct orr_runtime_options *runtime)
{
    static const char *const devices[] = {[ORR_DEVICE_AUTO] = "auto", [ORR_DEVICE_CPU] = "cpu", [ORR_DEVICE_CUDA] = "cuda", NULL};
    static const char *const kernels[] = {[ORR_ATTENTION_AUTO] = "auto", [ORR_ATTENTION_OWN] = "own",
                                          [ORR_ATTENTION_CUDNN] = "cudnn", NULL};
    static const char *const groups[] = {[ORR_CPU_GROUP_CORE] = "core", [ORR_CPU_GROUP_L3] = "l3", [ORR_CPU_GROUP_NUMA] = "numa", NULL};
    static const char *const pins[] = {"home", "none", NULL}, *const updates[] = {"device", "cpu", NULL};
    const struct layout_options *l = &layout_options;
    int device, attention, unpinned, on_cpu, group;

    ORR_TRY(choose("device", l->device, devices, &device));
    ORR_TRY(choose("attention", l->attention, kernels, &attention));
    ORR_TRY(choose("pin", l->pin, pins, &unpinned));
    ORR_TRY(choose("update", l->update, updates, &on_cpu));
    ORR_TRY(choose("cpu-group", l->cpu_group, groups, &group));
    runtime->device = (enum orr_device)device;
    runtime->attention = (enum orr_attention_kernels)attention;
    runtime->tf32 = l->tf32;
    runtime->unpinned = unpinned;
    runtime->update_on_cpu = on_cpu;
    runtime->cpu_group = (enum orr_cpu_group)group;
    return ORR_OK;
}

int open_model(struct opened *o, int (*change)(struct orr_config *config), const struct shape *shape)
{
    const struct layout_options *l = &layout_options;
    struct orr_runtime_options runtime = {.threads = (int)l->threads,
                                          .trace = trace_path,
                                          .watchdog = l->watchdog > 0 ? l->watchdog : -1,
                                          .heartbeat = l->heartbeat > 0 ? l->heartbeat : -1};

    *o = (struct opened){0};
    ORR_TRY(orr_ranks_settle(read_device(&runtime)));
    ORR_TRY(orr_ranks_settle(read_model(o, change)));
    ORR_TRY(agree_on_model(o));
    if (trace_path)
        ORR_TRY(orr_ranks_settle(orr_rank() == 0 ? orr_trace_prepare(trace_path) : ORR_OK));
    ORR_TRY(orr_init(&runtime));
    o->mesh = (struct orr_mesh){
        .dp = (int)layout_options.dp,
        .pp = (int)layout_options.pp,
        .tp = (int)layout_options.tp,
        .ranks = layout_options.pretend_ranks ? (int)layout_options.pretend_ranks : orr_rank_count(),
        .pretended = layout_options.pretend_ranks ? (int)layout_options.pretend_rank + 1 : 0,
        .stages = (int)layout_options.stages,
        .sequence_parallel = layout_options.sequence_parallel,
        .zero = (int)layout_options.zero,
        .parameter_slots = (int)layout_options.zero_slots,
    };
    if (shape && shape->generating)
        o->mesh.tp = shards_for_tokens(o);
    else if (shape)
        expect(o, shape);
    o->model = orr_family_create(o->config, o->dtype, &o->mesh);
    static const char *const masters[] = {"fp32", "none", NULL};
    int status = o->model ? ORR_OK : orr_error_code(), none = 0;
    if (status == 0)
        status = choose("master-weights", l->master_weights, masters, &none);
    if (status == 0 && none)
        status = orr_model_drop_masters(o->model);
    return orr_ranks_settle(status);
}

int check_shape(const struct opened *o, int64_t micro_batch, int64_t seq)
{
    if (seq > o->hyper.positions)
        return command_remedy(command_fail(ORR_EINVAL, "--seq: %lld tokens are more than the model's %d positions",
                                           (long long)seq, o->hyper.positions),
                              "choose --seq of at most %d", o->hyper.positions);
    if (micro_batch * seq > INT32_MAX)
        return command_remedy(command_fail(ORR_ENOFIT, "--micro-batch: %lld sequences of %lld tokens are more than a task "
                                                       "takes, which is %d tokens",
                                           (long long)micro_batch, (long long)seq, INT32_MAX),
                              "lower --micro-batch or --seq");
    return ORR_OK;
}

/* With `kept` bytes beside what slots and parameters take. */
static int check_room(const struct opened *o, const struct orr_slots_options *slots, int64_t kept, const char *remedy)
{
    int64_t have = (int64_t)orr_memory_total();
    struct orr_memory_need need;

    ORR_TRY(orr_slots_memory(o->model, slots, 0, orr_rank(), &need));
    if (need.total <= have - kept)
        return ORR_OK;
    return command_remedy(command_fail(ORR_ENOFIT, "memory: this needs %lld MiB (parameters %lld MiB); the machine has "
                                                   "%lld MiB",
                                       (long long)((need.total + kept) >> 20), (long long)(need.parameters >> 20),
                                       (long long)(have >> 20)),
                          "%s", remedy);
}

int check_prediction(const struct opened *o, int micro_batch, int seq, int microbatches, int64_t floats)
{
    struct orr_slots_options slots = {
        .batch = micro_batch, .seq = seq, .microbatches = microbatches, .predict_floats = floats};

    ORR_TRY(check_shape(o, micro_batch, seq));
    return check_room(o, &slots, 0, micro_batch > 1 ? "lower --micro-batch or --seq, or choose a smaller model"
                                                    : "choose a smaller model");
}

/* Beside the slots for a whole sequence there are some for one token of each, which are counted as predictions are; and the logits of
 * all, with what a search sorts. */
int check_generation(const struct opened *o, const struct generation_shape *shape)
{
    int sequences = shape->prompts * shape->beams, most = (int)orr_split(sequences, shape->beams, o->mesh.dp, 0).count;
    struct orr_slots_options slots = {
        .batch = 1, .seq = o->hyper.positions, .microbatches = 1,
        .predict_floats = (int64_t)(most + 1) * (o->hyper.vocab + o->hyper.width)};
    int64_t kept = ((int64_t)sequences * (int64_t)sizeof(float) + 32 * (int64_t)shape->beams) * o->hyper.vocab;

    if (shape->cache)
        kept += orr_cache_memory(o->model, sequences, shape->beams, shape->positions, orr_rank());
    return check_room(o, &slots, kept, shape->prompts > 1 ? "give fewer prompts at a time (--batch), or choose a smaller model"
                                                          : "choose a smaller model");
}

int read_kv_cache(const struct opened *o, const char *value, bool *cache)
{
    static const char *const words[] = {"off", "on", NULL};
    int choice = orr_mesh_chunks(&o->mesh) == 1;

    if (value)
        ORR_TRY(choose("kv-cache", value, words, &choice));
    *cache = choice;
    return ORR_OK;
}

int fill_model(struct opened *o)
{
    return orr_ranks_settle(o->weights ? orr_weights_load(o->model, o->directory)
                                       : orr_model_randomize(o->model, (uint64_t)layout_options.seed));
}

int fill_model_for_task(struct opened *o)
{
    if (!o->weights)
        return fill_model(o);
    return orr_ranks_settle(orr_weights_load_base(o->model, o->directory, (uint64_t)layout_options.seed));
}

int describe_trace(const struct opened *o, int microbatches, int64_t steps)
{
    struct orr_trace_run run = {.mesh = o->mesh, .stages = orr_mesh_stages(&o->mesh), .microbatches = microbatches,
                                .workers = orr_worker_count(), .steps = steps};

    if (!trace_path || orr_rank() > 0)
        return ORR_OK;
    snprintf(run.model, sizeof(run.model), "%s", model_options.model);
    snprintf(run.slots, sizeof(run.slots), "%s", layout_options.slots ? layout_options.slots : "");
    return orr_trace_describe(trace_path, &run);
}

void close_model(struct opened *o)
{
    orr_model_destroy(o->model);
    orr_tokenizer_destroy(o->tokenizer);
    orr_config_destroy(o->config);
    free(o->directory);
}

int default_micro_batch(int batch, int dp)
{
    int per_replica = batch / dp, wanted = 2 * orr_worker_count_least() * orr_rank_count() / dp;
    int micro = wanted > 0 ? per_replica / wanted : per_replica;

    if (micro < 1)
        micro = 1;
    while (per_replica % micro != 0)
        micro--;
    return micro;
}

/* ---- data ------------------------------------------------------------------------------------------------- */

static int agree_on_data(const struct orr_corpus *corpus)
{
    char text[64];

    snprintf(text, sizeof(text), "%lld tokens\nfingerprint %016llx", (long long)orr_corpus_size(corpus),
             (unsigned long long)orr_corpus_fingerprint(corpus));
    return orr_ranks_agree("data", text);
}

struct orr_corpus *open_data(const struct opened *o, const struct list *paths)
{
    struct orr_corpus *corpus = orr_corpus_open(paths->item, paths->count, o->tokenizer, 0);
    int status = corpus ? orr_corpus_check_vocab(corpus, o->hyper.vocab) : orr_error_code();

    status = orr_ranks_settle(status);
    if (status == 0)
        status = agree_on_data(corpus);
    if (status == 0)
        return corpus;
    orr_corpus_destroy(corpus);
    return NULL;
}

int add_sequence(struct sequences *s, char *text, const char *where)
{
    int32_t *ids = malloc((strlen(text) / 2 + 1) * sizeof(*ids));
    int n = 0;

    while (ids) {
        char *end;
        while (isspace((unsigned char)*text) || *text == ',')
            text++;
        if (*text == '\0')
            break;
        errno = 0;
        long id = strtol(text, &end, 10);
        if (end == text || errno != 0 || id < (s->labels ? ORR_IGNORE : 0) || id > INT32_MAX ||
            (*end && *end != ',' && !isspace((unsigned char)*end))) {
            free(ids);
            return command_remedy(command_fail(ORR_EINVAL, "%s: '%.20s' is no %s", where, text, s->labels ? "label" : "token id"),
                                  "write whole numbers from 0, separated by blanks%s", s->labels ? ", and -100 for none" : "");
        }
        ids[n++] = (int32_t)id;
        text = end;
    }
    if (!ids)
        return command_fail(ORR_ENOMEM, "%s: no room for the ids", where);
    if (n == 0) {       /* an empty line is no sequence */
        free(ids);
        return ORR_OK;
    }
    int *length = realloc(s->length, (size_t)(s->count + 1) * sizeof(*length));
    int32_t **all = realloc(s->ids, (size_t)(s->count + 1) * sizeof(*all));
    if (length)
        s->length = length;
    if (all)
        s->ids = all;
    if (!length || !all) {
        free(ids);
        return command_fail(ORR_ENOMEM, "%s: no room for the ids", where);
    }
    s->length[s->count] = n;
    s->ids[s->count++] = ids;
    if (n > s->longest)
        s->longest = n;
    return ORR_OK;
}

static int read_lines(const char *path, struct sequences *out)
{
    FILE *f = is_directory(path) ? (errno = EISDIR, NULL) : fopen(path, "r");
    char *line = NULL, where[512];
    size_t size = 0;
    int status = ORR_OK;

    if (!f)
        return command_fail(ORR_ENOENT, "%s: cannot be opened: %s", path, strerror(errno));
    for (long number = 1; status == 0 && getline(&line, &size, f) >= 0; number++) {
        snprintf(where, sizeof(where), "%s:%ld", path, number);
        status = add_sequence(out, line, where);
    }
    free(line);
    fclose(f);
    return status;
}

static int read_parts(const char *text, const char *where, struct sequences *out)
{
    char *copy = strdup(text), *rest = copy;
    int status = copy ? ORR_OK : command_fail(ORR_ENOMEM, "%s: no room for it", where);

    for (char *part; status == 0 && (part = strsep(&rest, ";")) != NULL;)
        status = add_sequence(out, part, where);
    free(copy);
    return status;
}

int read_labels(const char *text, const struct sequences *of, struct sequences *out)
{
    *out = (struct sequences){.labels = true};
    int status = read_parts(text, "--labels", out);
    bool alike = out->count == of->count;
    for (int i = 0; alike && i < of->count; i++)
        alike = out->length[i] == of->length[i];
    if (status == 0 && !alike)
        status = command_remedy(command_fail(ORR_EINVAL, "--labels: are not as many as the tokens of each sequence"),
                                "give a label for each token, and -100 for none");
    if (status != 0)
        free_sequences(out);
    return status;
}

int read_sequences(const char *text, const char *path, struct sequences *out)
{
    int status;

    *out = (struct sequences){0};
    if (!text == !path)
        return command_remedy(command_fail(ORR_EINVAL, text ? "--ids: cannot be given together with --ids-file"
                                                            : "--ids: is missing, and so is --ids-file"),
                              "as in --ids \"5 6 7; 8 9 1\"");
    status = path ? read_lines(path, out) : read_parts(text, "--ids", out);
    if (status == 0 && out->count == 0)
        status = command_fail(ORR_EINVAL, "%s: holds no token ids", path ? path : "--ids");
    if (status != 0)
        free_sequences(out);
    return status;
}

int check_sequences(const struct sequences *s, const struct orr_hyper *hyper, int shortest)
{
    const char *where = ids_path ? ids_path : "--ids";

    for (int i = 0; i < s->count; i++) {
        if (s->length[i] < shortest || s->length[i] - (shortest - 1) > hyper->positions)
            return command_fail(ORR_EINVAL, "%s: sequence %d has %d tokens; the model takes %d to %d", where, i + 1,
                                s->length[i], shortest, hyper->positions + shortest - 1);
        for (int t = 0; t < s->length[i]; t++)
            if (s->ids[i][t] >= hyper->vocab)
                return command_fail(ORR_EINVAL,
                                    "%s: sequence %d, position %d: token id %d is outside the vocabulary of %d", where,
                                    i + 1, t + 1, s->ids[i][t], hyper->vocab);
    }
    return ORR_OK;
}

void free_sequences(struct sequences *s)
{
    for (int i = 0; i < s->count; i++)
        free(s->ids[i]);
    free(s->ids);
    free(s->length);
    *s = (struct sequences){0};
}

/* ---- output ------------------------------------------------------------------------------------------------ */

int print_json(json_t *object)
{
    int failed = !object || json_dumpf(object, stdout, JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(9)) != 0;

    json_decref(object);
    putchar('\n');
    return failed ? command_fail(ORR_EIO, "standard output: cannot be written") : ORR_OK;
}
