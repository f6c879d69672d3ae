/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/tasks.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- which task --------------------------------------------------------------------------------------------- */

/* The data's, unless its endings tell none. */
static int task_of_data(const struct orr_config *config, enum orr_task *task)
{
    static const enum orr_task tasks[] = {[ORR_FORMAT_TSV] = ORR_TASK_CLASSIFY, [ORR_FORMAT_CONLL] = ORR_TASK_TAG,
                                          [ORR_FORMAT_PAIRS] = ORR_TASK_SEQ2SEQ};
    enum orr_format format = ORR_FORMAT_TEXT;
    struct orr_hyper hyper;

    if (data_options.data.count > 0)
        ORR_TRY(orr_examples_format(data_options.data.item, data_options.data.count, &format));
    if (format != ORR_FORMAT_TEXT) {
        *task = tasks[format];
        return ORR_OK;
    }
    ORR_TRY(orr_family_read(config, &hyper));
    bool labelled = hyper.task.task == ORR_TASK_CLASSIFY || hyper.task.task == ORR_TASK_TAG;
    *task = !labelled ? hyper.task.task : hyper.causal ? ORR_TASK_LM : ORR_TASK_MLM;
    return ORR_OK;
}

static enum orr_format format_of(enum orr_task task)
{
    return task == ORR_TASK_CLASSIFY ? ORR_FORMAT_TSV : task == ORR_TASK_TAG ? ORR_FORMAT_CONLL : ORR_FORMAT_PAIRS;
}

/* Those that the configuration has, where it is for this task already; NULL with ORR_OK where it is not. */
static int labels_of_config(const struct orr_config *config, enum orr_task task, struct orr_labels **labels)
{
    struct orr_task_head head;
    char key[16];

    *labels = NULL;
    ORR_TRY(orr_task_read(config, task == ORR_TASK_CLASSIFY ? ORR_TASK_TAG : ORR_TASK_CLASSIFY, &head));
    if (head.task != task || !orr_config_has(config, "id2label"))
        return ORR_OK;
    struct orr_config *names = orr_config_section(config, "id2label");
    const char **name = calloc((size_t)head.labels, sizeof(*name));
    int status = names ? ORR_OK : orr_error_code();
    if (status == 0 && !name)
        status = command_fail(ORR_ENOMEM, "labels: no room for %d of them", head.labels);
    for (int i = 0; status == 0 && i < head.labels; i++) {
        snprintf(key, sizeof(key), "%d", i);
        status = orr_config_string(names, key, &name[i]);
    }
    if (status == 0 && !(*labels = orr_labels_create(name, head.labels)))
        status = orr_error_code();
    orr_config_destroy(names);
    free(name);
    return status;
}

static struct orr_examples *open_examples(const struct list *paths, enum orr_task task, const struct orr_labels *labels)
{
    return orr_examples_open(paths->item, paths->count, format_of(task), labels);
}

static int set_labels(struct orr_config *config, enum orr_task task)
{
    struct orr_labels *labels;

    ORR_TRY(labels_of_config(config, task, &labels));
    if (labels) {
        orr_labels_destroy(labels);
        return ORR_OK;
    }
    struct orr_examples *examples = open_examples(&data_options.data, task, NULL);
    if (!examples)
        return orr_error_code();
    const struct orr_labels *found = orr_examples_labels(examples);
    int status = orr_labels_count(found) > 1 ? ORR_OK
                                             : command_remedy(command_fail(ORR_EFORMAT, "%s: there is one label alone, '%s'",
                                                                           data_options.data.item[0], orr_labels_names(found)[0]),
                                                              "give data with several labels");
    if (status == 0)
        status = orr_family_set_task(config, task, orr_labels_names(found), orr_labels_count(found));
    orr_examples_destroy(examples);
    return status;
}

int choose_task(struct orr_config *config, enum orr_task *task)
{
    static const char *const words[] = {[ORR_TASK_LM] = "lm", [ORR_TASK_MLM] = "mlm", [ORR_TASK_CLASSIFY] = "classify",
                                        [ORR_TASK_TAG] = "tag", [ORR_TASK_SEQ2SEQ] = "seq2seq", NULL};
    int which;

    ORR_TRY(task_of_data(config, task));
    if (data_options.task) {
        ORR_TRY(choose("task", data_options.task, words, &which));
        *task = (enum orr_task)which;
    }
    if (data_options.data.count > 0 && (*task == ORR_TASK_CLASSIFY || *task == ORR_TASK_TAG))
        return set_labels(config, *task);
    return orr_family_set_task(config, *task, NULL, 0);
}

bool has_rows(enum orr_task task)
{
    return task != ORR_TASK_LM;
}

/* ---- examples -------------------------------------------------------------------------------------------------- */

static int make_sequences(const struct opened *o, const struct orr_examples *examples, int seq, struct orr_sequences **sequences)
{
    const struct orr_sequence_options options = {.seq = seq, .truncate = data_options.truncate, .label_last = o->hyper.causal,
                                                 .start = -1, .end = -1};

    *sequences = orr_sequences_create(examples, o->tokenizer, &options);
    return *sequences ? orr_sequences_check_vocab(*sequences, o->hyper.vocab) : orr_error_code();
}

static int open_labelled(const struct opened *o, int seq, bool in_order, struct task_data *d)
{
    enum orr_task task = o->hyper.task.task;
    struct orr_labels *labels;
    struct orr_sequence_counts counts;

    ORR_TRY(labels_of_config(o->config, task, &labels));
    d->examples = open_examples(&data_options.data, task, labels);
    if (d->examples && data_options.validation.count > 0)
        d->held_out = open_examples(&data_options.validation, task, labels);
    orr_labels_destroy(labels);
    if (!d->examples || (data_options.validation.count > 0 && !d->held_out))
        return orr_error_code();
    ORR_TRY(make_sequences(o, d->examples, seq, &d->sequences));
    orr_sequences_tell(d->sequences, &counts);
    d->tokens = counts.tokens;
    d->fingerprint = orr_examples_fingerprint(d->examples);
    if (in_order) {
        d->validation = orr_packing_create_in_order(d->sequences, (struct orr_subset){0});
        return d->validation ? ORR_OK : orr_error_code();
    }
    double fraction = d->held_out ? 0 : data_options.validation_fraction;
    d->train = orr_packing_create(d->sequences, (struct orr_subset){fraction, false}, (uint64_t)layout_options.seed);
    if (!d->train)
        return orr_error_code();
    if (d->held_out)
        ORR_TRY(make_sequences(o, d->held_out, seq, &d->held_out_sequences));
    bool any = d->held_out || floor(fraction * (double)orr_examples_count(d->examples)) >= 1;
    if (any)
        d->validation = orr_packing_create_in_order(d->held_out ? d->held_out_sequences : d->sequences,
                                                    d->held_out ? (struct orr_subset){0} : (struct orr_subset){fraction, true});
    return any && !d->validation ? orr_error_code() : ORR_OK;
}

/* ---- masked text ------------------------------------------------------------------------------------------------- */

static int open_masked(const struct opened *o, int seq, bool in_order, struct task_data *d)
{
    double probability = data_options.mask_probability;
    struct orr_range train, validation;
    bool separate = data_options.validation.count > 0;

    d->corpus = open_data(o, &data_options.data);
    if (!d->corpus)
        return orr_error_code();
    d->fingerprint = orr_corpus_fingerprint(d->corpus);
    ORR_TRY(orr_corpus_split(d->corpus, separate || in_order ? 0 : data_options.validation_fraction, &train, &validation));
    d->tokens = train.last - train.first;
    if (in_order) {
        validation = train;
    } else {
        ORR_TRY(orr_masking_init(&d->masking, d->corpus, train, o->tokenizer, seq, probability, (uint64_t)layout_options.seed));
        if (separate) {
            d->validation_corpus = open_data(o, &data_options.validation);
            if (!d->validation_corpus)
                return orr_error_code();
            validation = (struct orr_range){0, orr_corpus_size(d->validation_corpus)};
        }
    }
    if (validation.last - validation.first < 2)
        return ORR_OK;
    ORR_TRY(orr_masking_init_sequential(&d->validation_masking, d->validation_corpus ? d->validation_corpus : d->corpus, validation,
                                        o->tokenizer, seq, probability, (uint64_t)layout_options.seed));
    d->validation_rows = orr_masking_source(&d->validation_masking);
    d->validation_count = d->validation_masking.sampler.windows;
    return ORR_OK;
}

/* ---- either ---------------------------------------------------------------------------------------------------------- */

static int open_rows(const struct opened *o, int seq, bool in_order, struct task_data *d)
{
    if (data_options.data.count == 0)
        return command_remedy(command_fail(ORR_EINVAL, "--data: is missing"), "name a file of text, or with labels");
    if (o->hyper.task.task == ORR_TASK_MLM) {
        ORR_TRY(open_masked(o, seq, in_order, d));
        d->rows = orr_masking_source(&d->masking);
        return ORR_OK;
    }
    ORR_TRY(open_labelled(o, seq, in_order, d));
    if (d->train)
        d->rows = orr_packing_source(d->train);
    if (!d->validation)
        return ORR_OK;
    d->validation_rows = orr_packing_source(d->validation);
    return orr_packing_count(d->validation, 1, &d->validation_count);
}

int open_task(const struct opened *o, int seq, struct task_data *data)
{
    return open_rows(o, seq, false, data);
}

int open_task_in_order(const struct opened *o, int seq, struct task_data *data)
{
    return open_rows(o, seq, true, data);
}

int count_rows(struct task_data *d, double epochs, int64_t *rows)
{
    int64_t whole;

    if (!d->train) {
        *rows = (int64_t)ceil(epochs * (double)d->masking.sampler.windows);
        return ORR_OK;
    }
    ORR_TRY(orr_packing_count(d->train, (int64_t)ceil(epochs), &whole));
    *rows = (int64_t)ceil((double)whole * epochs / ceil(epochs));
    return ORR_OK;
}

void close_task(struct task_data *d)
{
    orr_packing_destroy(d->train);
    orr_packing_destroy(d->validation);
    orr_sequences_destroy(d->sequences);
    orr_sequences_destroy(d->held_out_sequences);
    orr_examples_destroy(d->examples);
    orr_examples_destroy(d->held_out);
    orr_corpus_destroy(d->corpus);
    orr_corpus_destroy(d->validation_corpus);
}
