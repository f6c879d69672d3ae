/* SPDX-License-Identifier: Apache-2.0 */
#include <orrery/checkpoint.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <orrery/safetensors.h>

#include "io/io.h"
#include "train/train.h"

/* ---- what is written where --------------------------------------------------------------------------------- */

struct item {
    const struct orr_safetensors *file;     /* that has it      */
    const struct orr_tensor_info *tensor;
    struct orr_tensor_spec spec;            /* as it is written */
    int number, shard;
};

struct plan {
    int count, shards;
    struct item *item;                      /* in the order of the files */
    struct orr_tensor_spec *spec;           /* likewise                  */
    char **shard_name;                      /* [shards]                  */
    int64_t bytes, parameters;
    float *wide, *rounded;                  /* [PIECE]                   */
};

enum { PIECE = 1 << 16 };                   /* elements that are converted at a time */

static void plan_free(struct plan *plan)
{
    for (int i = 0; plan->shard_name && i < plan->shards; i++)
        free(plan->shard_name[i]);
    free(plan->shard_name);
    free(plan->item);
    free(plan->spec);
    free(plan->wide);
    free(plan->rounded);
}

/* F64 would be rounded twice on its way to a narrow dtype. */
static int choose_dtype(const struct item *item, const struct orr_conversion *conversion, enum orr_dtype *dtype)
{
    enum orr_dtype given = item->tensor->dtype;

    *dtype = conversion->keep ? given : conversion->dtype;
    if (given == *dtype || given == ORR_F32 || given == ORR_BF16 || given == ORR_F16 || (given == ORR_F64 && *dtype == ORR_F32))
        return ORR_OK;
    return orri_remedy(orri_fail(ORR_EFORMAT, orr_safetensors_path(item->file), "tensor '%s' is not converted from %s to %s",
                                 item->tensor->name, orr_dtype_name(given), orr_dtype_name(*dtype)),
                       "store it as F32, BF16 or F16");
}

static int find_items(struct plan *plan, const struct orr_model *model, const struct orri_shards *from,
                      const struct orr_conversion *conversion)
{
    for (int i = 0; i < plan->count; i++) {
        struct item *item = &plan->item[i];
        int v;
        const struct orri_group *group = orri_model_view(model, i, &v);
        const struct orr_view *view = &group->view[v];
        ORR_TRY(orri_weights_find(model, from, group->name[v], view, &item->file, &item->tensor));
        item->number = i;
        item->spec = (struct orr_tensor_spec){group->name[v], ORR_F32, view->ndim, {view->shape[0], view->shape[1]}};
        ORR_TRY(choose_dtype(item, conversion, &item->spec.dtype));
    }
    return ORR_OK;
}

/* Wide ones first, because readers want tensors aligned; else as the model has them. */
static int compare_items(const void *a, const void *b)
{
    const struct item *x = a, *y = b;
    size_t n = orr_dtype_size(x->spec.dtype), m = orr_dtype_size(y->spec.dtype);

    return n != m ? (n < m) - (n > m) : (x->number > y->number) - (x->number < y->number);
}

static int64_t elements(const struct item *item)
{
    return (int64_t)(item->tensor->bytes / orr_dtype_size(item->tensor->dtype));
}

/* As transformers: a file is full where the next tensor would be too much for it. */
static void deal(struct plan *plan, int64_t most)
{
    int64_t filled = 0;

    plan->shards = 1;
    for (int i = 0; i < plan->count; i++) {
        int64_t bytes = elements(&plan->item[i]) * (int64_t)orr_dtype_size(plan->item[i].spec.dtype);
        if (most > 0 && filled > 0 && bytes > most - filled) {
            plan->shards++;
            filled = 0;
        }
        filled += bytes;
        plan->item[i].shard = plan->shards - 1;
        plan->bytes += bytes;
        plan->parameters += elements(&plan->item[i]);
    }
}

static int name_shards(struct plan *plan)
{
    plan->shard_name = orri_calloc((size_t)plan->shards, sizeof(*plan->shard_name));
    for (int s = 0; plan->shard_name && s < plan->shards; s++) {
        plan->shard_name[s] = plan->shards == 1 ? orri_strdup(ORRI_WEIGHTS)
                                                : orri_format("model-%05d-of-%05d.safetensors", s + 1, plan->shards);
        if (!plan->shard_name[s])
            return ORR_ENOMEM;
    }
    return plan->shard_name ? ORR_OK : ORR_ENOMEM;
}

static int plan_create(struct plan *plan, const struct orr_model *model, const struct orri_shards *from,
                       const struct orr_conversion *conversion)
{
    size_t count = (size_t)model->views;

    *plan = (struct plan){.count = model->views,
                          .item = orri_calloc(count, sizeof(*plan->item)),
                          .spec = orri_calloc(count, sizeof(*plan->spec)),
                          .wide = orri_alloc(PIECE * sizeof(*plan->wide)),
                          .rounded = orri_alloc(PIECE * sizeof(*plan->rounded))};
    if (!plan->item || !plan->spec || !plan->wide || !plan->rounded)
        return ORR_ENOMEM;
    ORR_TRY(orri_weights_check_names(model, from));
    ORR_TRY(find_items(plan, model, from, conversion));
    qsort(plan->item, count, sizeof(*plan->item), compare_items);
    for (size_t i = 0; i < count; i++)
        plan->spec[i] = plan->item[i].spec;
    deal(plan, conversion->shard_bytes);
    return name_shards(plan);
}

/* ---- tensors ------------------------------------------------------------------------------------------------- */

/* Whether a finite value has become infinite. */
static bool overflowed(enum orr_dtype dtype, int64_t count, const float *wide)
{
    const float least = dtype == ORR_F16 ? 65520 : dtype == ORR_BF16 ? 0x1.ffp127F : INFINITY;   /* that does */
    bool found = false;

    for (int64_t i = 0; i < count; i++)
        found |= fabsf(wide[i]) >= least && isfinite(wide[i]);
    return found;
}

static int write_rounded(struct plan *plan, const struct item *item, struct orr_safetensors_writer *writer, int index)
{
    enum orr_dtype dtype = item->spec.dtype;
    int64_t count = elements(item), size = (int64_t)orr_dtype_size(dtype);

    for (int64_t k = 0; k < count; k += PIECE) {
        int64_t n = count - k < PIECE ? count - k : PIECE;
        ORR_TRY(orr_safetensors_read_f32(item->file, item->tensor, k, n, plan->wide));
        if (overflowed(dtype, n, plan->wide))
            return orri_remedy(orri_fail(ORR_EINVAL, orr_safetensors_path(item->file), "tensor '%s' has a value that %s cannot hold",
                                         item->tensor->name, orr_dtype_label(dtype)),
                               dtype == ORR_F16 ? "choose bf16 or fp32" : "choose fp32");
        orri_round(dtype, (size_t)n, plan->wide, plan->rounded);
        ORR_TRY(orr_safetensors_write(writer, index, (size_t)(k * size), plan->rounded, (size_t)(n * size)));
    }
    return ORR_OK;
}

/* What has been read of the mapped file must not fill the memory. */
static void release(const struct orr_tensor_info *tensor)
{
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    const uintptr_t data = (uintptr_t)tensor->data;
    uintptr_t first = (data + page - 1) / page * page, last = (data + tensor->bytes) / page * page;

    if (first < last)
        madvise((void *)first, last - first, MADV_DONTNEED);
}

static int write_items(struct plan *plan, int first, int count, struct orr_safetensors_writer *writer)
{
    for (int i = 0; i < count; i++) {
        const struct item *item = &plan->item[first + i];
        if (item->tensor->dtype == item->spec.dtype)
            ORR_TRY(orr_safetensors_write(writer, i, 0, item->tensor->data, item->tensor->bytes));
        else
            ORR_TRY(write_rounded(plan, item, writer, i));
        release(item->tensor);
    }
    return ORR_OK;
}

static int write_shard(struct plan *plan, int first, int count, const char *path)
{
    struct orr_safetensors_writer *writer = orr_safetensors_writer_create(path, plan->spec + first, count);
    int status = writer ? write_items(plan, first, count, writer) : orr_error_code();

    if (status == 0)
        status = orr_safetensors_writer_finish(writer);
    orr_safetensors_writer_destroy(writer);
    return status;
}

static int write_index(const struct plan *plan, const char *directory)
{
    const char **names = orri_calloc((size_t)plan->count, sizeof(*names)), **files = orri_calloc((size_t)plan->count, sizeof(*files));
    int status = names && files ? ORR_OK : ORR_ENOMEM;

    for (int i = 0; status == 0 && i < plan->count; i++) {
        names[i] = plan->spec[i].name;
        files[i] = plan->shard_name[plan->item[i].shard];
    }
    if (status == 0)
        status = orri_shards_write_index(directory, ORRI_WEIGHTS, plan->count, names, files, plan->bytes, plan->parameters);
    free(names);
    free(files);
    return status;
}

static int write_weights(struct plan *plan, const char *directory)
{
    for (int s = 0, first = 0; s < plan->shards; s++) {
        int count = 0;
        while (first + count < plan->count && plan->item[first + count].shard == s)
            count++;
        char *path = orri_format("%s/%s", directory, plan->shard_name[s]);
        int status = path ? write_shard(plan, first, count, path) : ORR_ENOMEM;
        free(path);
        ORR_TRY(status);
        first += count;
    }
    return plan->shards > 1 ? write_index(plan, directory) : ORR_OK;
}

/* ---- what lies beside ---------------------------------------------------------------------------------------- */

static const char *const beside[] = {
    "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "encoder.json", "vocab.bpe", "vocab.txt", "tokenizer.model", "spiece.model",
    "sentencepiece.bpe.model", "chat_template.jinja", "chat_template.json",
};

static int copy_file(const char *from, const char *to)
{
    struct orri_map map;

    ORR_TRY(orri_map_open(&map, from, true));
    int status = orri_write_file(to, map.data, map.size);
    orri_map_close(&map);
    return status;
}

static int copy_beside(const char *from, const char *to)
{
    struct stat st;
    int status = ORR_OK;

    for (size_t i = 0; status == 0 && i < ORRI_COUNT(beside); i++) {
        char *old = orri_format("%s/%s", from, beside[i]), *new = orri_format("%s/%s", to, beside[i]);
        if (!old || !new)
            status = ORR_ENOMEM;
        else if (stat(old, &st) == 0)
            status = copy_file(old, new);
        free(old);
        free(new);
    }
    return status;
}

/* Where tensors have several dtypes the configuration goes on saying what it said. */
static int write_config(const struct plan *plan, const char *directory, struct orr_config *config)
{
    enum orr_dtype dtype = plan->spec[0].dtype;
    char *path = orri_format("%s/config.json", directory);
    int status = path ? ORR_OK : ORR_ENOMEM;
    bool one = dtype == ORR_F32 || dtype == ORR_BF16 || dtype == ORR_F16;

    for (int i = 1; i < plan->count; i++)
        one = one && plan->spec[i].dtype == dtype;
    if (status == 0 && one)
        status = orr_config_set_dtype(config, dtype);
    if (status == 0)
        status = orr_config_save(config, path);
    free(path);
    return status;
}

/* ---- the whole ------------------------------------------------------------------------------------------------ */

static int write_all(struct plan *plan, const char *from, const char *to, struct orr_config *config)
{
    struct orri_folder folder;
    int status = orri_folder_begin(&folder, to);

    if (status == ORR_EIO)
        return orri_remedy(ORR_EINVAL, "name a directory that can be written");
    if (status == 0)
        status = write_weights(plan, folder.temp);
    if (status == 0)
        status = copy_beside(from, folder.temp);
    if (status == 0)
        status = write_config(plan, folder.temp, config);
    if (status == 0)
        status = orri_folder_commit(&folder);
    orri_folder_abort(&folder);
    return status;
}

int orr_checkpoint_convert(const struct orr_model *model, const char *from, const char *to, struct orr_config *config,
                           const struct orr_conversion *conversion)
{
    struct orri_shards shards;
    struct plan plan;

    ORR_TRY(orri_folder_check_new(to));
    ORR_TRY(orri_shards_open(&shards, from, ORRI_WEIGHTS));
    int status = plan_create(&plan, model, &shards, conversion);
    if (status == 0)
        status = write_all(&plan, from, to, config);
    plan_free(&plan);
    orri_shards_close(&shards);
    return status;
}
