/* SPDX-License-Identifier: Apache-2.0 */
/* What the sub-commands of `orrery` share. On several ranks each of them runs the same command: what one of them can
 * fail at alone goes through orr_ranks_settle() before what they do together. */
#ifndef TOOLS_H
#define TOOLS_H

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include <models/family.h>
#include <orrery/orrery.h>

#include "tools/options.h"

/* Record the command's own error, as the library does its own, and return `code`. */
int command_fail(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));
int command_remedy(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* ---- options that several commands share: defaults, then what was given -------------------------- */

struct model_options {
    const char *model, *tokenizer;
    struct list set;
};

struct data_options {
    struct list data, validation;
    double validation_fraction, mask_probability;
    const char *task;
    bool truncate;
};

struct layout_options {
    int64_t dp, pp, tp, stages, zero, zero_slots, threads, seed, pretend_ranks, pretend_rank;
    double watchdog, heartbeat;
    bool sequence_parallel;
    bool tf32;
    const char *slots, *dtype, *device, *pin, *update, *master_weights, *attention, *cpu_group;
};

extern struct model_options model_options;
extern struct data_options data_options;
extern struct layout_options layout_options;
extern const char *trace_path;
extern struct setting model_table[], data_table[], validation_table[], layout_table[], trace_table[];

/* Which of `words`, which end with NULL, was given to --option: its index. ORR_EINVAL with all of them where it is none. */
int choose(const char *option, const char *given, const char *const *words, int *which);

/* What was given to an option that takes fp32, bf16 or fp16; and to --sync. ORR_EINVAL. */
int read_dtype(const char *option, const char *given, enum orr_dtype *dtype);
int read_sync(const char *given, enum orr_sync *sync);

/* ---- what they open ------------------------------------------------------------------------------- */

/* A model as the command line names it: a directory (a checkpoint, or one with `latest`), a config.json, a preset. */
struct opened {
    char *directory;            /* NULL for a preset or a bare config.json          */
    bool weights;               /* the directory has parameters                     */
    struct orr_config *config;
    struct orr_hyper hyper;
    struct orr_tokenizer *tokenizer;
    struct orr_mesh mesh;
    struct orr_slot_policy slots;
    enum orr_dtype dtype;
    struct orr_model *model;
};

/* Checks the layout options, reads the configuration with --set, starts the runtime and builds the model, without
 * allocating it, on all ranks together. change, unless NULL, may alter the configuration before. shape, unless NULL, says
 * which microbatches will be trained on, so that stages can be balanced by measured times; or that tokens will be generated, one after
 * the other, of which in one process all workers compute a shard unless a layout is given. */
struct shape {
    int64_t batch, micro_batch, seq;    /* micro_batch 0: default_micro_batch(); seq 0: the model's positions */
    bool generating;                    /* then these mean nothing                                            */
};
int open_model(struct opened *o, int (*change)(struct orr_config *config), const struct shape *shape);

/* The tokenizer of --tokenizer; where none is named (NULL) that of a model's directory, unless NULL, if it has one; else bytes. NULL on
 * failure. */
struct orr_tokenizer *open_tokenizer(const char *name, const char *directory);

/* The part of that which needs no runtime: checks the layout options, and reads the configuration. */
int read_model(struct opened *o, int (*change)(struct orr_config *config));

/* --device, --pin, --update, --tf32, --attention and --cpu-group. ORR_EINVAL. */
int read_device(struct orr_runtime_options *runtime);

/* Whether a task can take microbatches of this shape. */
int check_shape(const struct opened *o, int64_t micro_batch, int64_t seq);

/* That, and whether running the model forward fits into the machine: so many microbatches at a time, each with
 * `floats` of predictions. */
int check_prediction(const struct opened *o, int micro_batch, int seq, int microbatches, int64_t floats);

/* Whether generating for so many prompts at a time fits, each with so many beams, up to so many positions; `cache`: they are
 * continued. ORR_ENOFIT. */
struct generation_shape {
    int prompts, beams, positions;
    bool cache;
};
int check_generation(const struct opened *o, const struct generation_shape *shape);

/* The value of --kv-cache: whether there is one; NULL: where sequences are not cut into chunks. ORR_EINVAL. */
int read_kv_cache(const struct opened *o, const char *value, bool *cache);

/* Allocates it: with the directory's parameters, or random ones from --seed; and the same where the head may be another than the
 * directory's. */
int fill_model(struct opened *o);
int fill_model_for_task(struct opened *o);
void close_model(struct opened *o);

/* With --trace: leaves beside the traces what ran. */
int describe_trace(const struct opened *o, int microbatches, int64_t steps);

/* Opens a list of inputs, the same on every rank, and checks every token against the vocabulary. NULL on failure. */
struct orr_corpus *open_data(const struct opened *o, const struct list *paths);

/* The ids of "--ids", "5 6 7; 8 9 1", or of a file with a sequence per line. */
struct sequences {
    bool labels;                /* they are labels: -100 means none                 */
    int count, longest;
    int *length;
    int32_t **ids;
};
int add_sequence(struct sequences *s, char *text, const char *where);    /* one line's; an empty one adds none */
int check_sequences(const struct sequences *s, const struct orr_hyper *hyper, int shortest);
int read_sequences(const char *text, const char *path, struct sequences *out);
int read_labels(const char *text, const struct sequences *of, struct sequences *out);       /* as many, and as long, as those */
void free_sequences(struct sequences *s);
extern struct setting sequences_table[];
extern const char *ids_text, *ids_path;

/* The default microbatch: enough of them that every worker of a replica has one and another waits. */
int default_micro_batch(int batch, int dp);

/* Prints an object as one line and releases it. */
int print_json(json_t *object);

/* ---- the commands ----------------------------------------------------------------------------------- */
int cmd_train(int argc, char **argv);
int supervise_train(int argc, char **argv, int *ended);     /* cmd_train() by processes of its own: supervise.h */
int cmd_eval(int argc, char **argv);
int cmd_generate(int argc, char **argv);
int cmd_logits(int argc, char **argv);
int cmd_grads(int argc, char **argv);
int cmd_tokenize(int argc, char **argv);
int cmd_convert(int argc, char **argv);
int cmd_bench(int argc, char **argv);
int compare_bench(int argc, char **argv);                   /* it, with --against: compare.h */
int cmd_info(int argc, char **argv);
int cmd_selftest(int argc, char **argv);
int cmd_trace(int argc, char **argv);

#endif
