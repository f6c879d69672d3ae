/* SPDX-License-Identifier: Apache-2.0 */
#include <orrery/checkpoint.h>

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <orrery/safetensors.h>

#include "io/io.h"
#include "io/json.h"
#include "train/train.h"

static const char PREFIX[] = "transformer.";

static bool is_directory(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

char *orr_checkpoint_resolve(const char *path)
{
    char *latest = orri_format("%s/latest", path);

    if (!latest)
        return NULL;
    if (is_directory(latest))
        return latest;
    free(latest);
    if (is_directory(path))
        return orri_strdup(path);
    orri_remedy(orri_fail(ORR_ENOENT, path, "is no checkpoint directory"),
                "name the directory given as --out, or one of its step-* directories");
    return NULL;
}

/* ---- files of named tensors ---------------------------------------------------------------------------- */

/* A model's tensors may lie in several files; where[] is parallel to file[]. */
struct shards {
    char *directory;
    int count;
    struct orr_safetensors **file;
};

static void shards_close(struct shards *s)
{
    for (int i = 0; i < s->count; i++)
        orr_safetensors_destroy(s->file[i]);
    free(s->file);
    free(s->directory);
}

static int shards_add(struct shards *s, const char *name)
{
    char *path = orri_format("%s/%s", s->directory, name);
    struct orr_safetensors **more = realloc(s->file, (size_t)(s->count + 1) * sizeof(*more));

    if (!path || !more) {
        free(path);
        if (more)
            s->file = more;
        return orri_fail(ORR_ENOMEM, name, "no room for its name");
    }
    s->file = more;
    for (int i = 0; i < s->count; i++) {
        if (strcmp(orr_safetensors_path(s->file[i]), path) == 0) {
            free(path);
            return ORR_OK;
        }
    }
    s->file[s->count] = orr_safetensors_open(path);
    free(path);
    if (!s->file[s->count])
        return orr_error_code();
    s->count++;
    return ORR_OK;
}

static int shards_add_index(struct shards *s, const char *index)
{
    json_t *object, *value;
    const char *name;
    int status = orri_json_load(index, &object);

    if (status != 0)
        return status;
    json_t *map = json_object_get(object, "weight_map");
    if (!json_is_object(map))
        status = orri_fail(ORR_EFORMAT, index, "has no object 'weight_map'");
    json_object_foreach(map, name, value) {
        if (status != 0)
            break;
        const char *shard = json_string_value(value);
        if (!shard || strchr(shard, '/'))
            status = orri_fail(ORR_EFORMAT, index, "weight_map of '%s' names no file beside it", name);
        else
            status = shards_add(s, shard);
    }
    if (status == 0 && s->count == 0)
        status = orri_fail(ORR_EFORMAT, index, "weight_map names no file");
    json_decref(object);
    return status;
}

static int shards_open(struct shards *s, const char *directory, const char *name)
{
    *s = (struct shards){.directory = orri_strdup(directory)};
    char *index = orri_format("%s/%s.index.json", directory, name);
    struct stat st;
    int status = s->directory && index ? ORR_OK : ORR_ENOMEM;

    if (status == 0)
        status = stat(index, &st) == 0 ? shards_add_index(s, index) : shards_add(s, name);
    free(index);
    if (status != 0)
        shards_close(s);
    return status;
}

static const struct orr_tensor_info *lookup(const struct orr_safetensors *file, const char *name)
{
    for (int i = 0; i < orr_safetensors_count(file); i++)
        if (strcmp(orr_safetensors_get(file, i)->name, name) == 0)
            return orr_safetensors_get(file, i);
    return NULL;
}

static const struct orr_tensor_info *shards_find(const struct shards *s, const char *name,
                                                 const struct orr_safetensors **file)
{
    const char *bare = strncmp(name, PREFIX, sizeof(PREFIX) - 1) == 0 ? name + sizeof(PREFIX) - 1 : NULL;

    for (int i = 0; i < s->count; i++) {
        const struct orr_tensor_info *tensor = lookup(s->file[i], name);
        if (!tensor && bare)
            tensor = lookup(s->file[i], bare);
        if (tensor) {
            *file = s->file[i];
            return tensor;
        }
    }
    return NULL;
}

static void describe_shape(char *text, size_t size, int ndim, const int64_t *shape)
{
    int n = snprintf(text, size, "[");

    for (int i = 0; i < ndim && n < (int)size; i++)
        n += snprintf(text + n, size - (size_t)n, "%s%lld", i ? "," : "", (long long)shape[i]);
    if (n < (int)size)
        snprintf(text + n, size - (size_t)n, "]");
}

/* Reads the tensor called `name`, which must have the view's shape, to `out`. */
static int read_view(const struct shards *s, const char *name, const struct orr_view *view, float *out)
{
    const struct orr_safetensors *file = NULL;
    const struct orr_tensor_info *tensor = shards_find(s, name, &file);

    if (!tensor)
        return orri_remedy(orri_fail(ORR_ENOENT, orr_safetensors_path(s->file[0]), "tensor '%s' is missing", name),
                           "the file belongs to another model than config.json describes");
    if (tensor->ndim != view->ndim || memcmp(tensor->shape, view->shape, (size_t)view->ndim * sizeof(int64_t)) != 0) {
        char found[96], wanted[96];
        describe_shape(found, sizeof(found), tensor->ndim, tensor->shape);
        describe_shape(wanted, sizeof(wanted), view->ndim, view->shape);
        return orri_remedy(orri_fail(ORR_EFORMAT, orr_safetensors_path(file), "tensor '%s' has shape %s, not %s", name,
                                     found, wanted),
                           "the file belongs to another model than config.json describes");
    }
    return orr_safetensors_read_f32(file, tensor, 0, orri_view_count(view), out);
}

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);

    return n >= m && strcmp(text + n - m, end) == 0;
}

/* Masks that older versions of transformers stored, and the copy of a tied head. */
static bool passed_over(const struct orr_model *model, const char *name)
{
    return ends_with(name, ".attn.bias") || ends_with(name, ".attn.masked_bias") ||
           (strcmp(name, "lm_head.weight") == 0 && orr_model_find(model, name) < 0);
}

static int check_leftovers(const struct orr_model *model, const struct shards *s)
{
    for (int f = 0; f < s->count; f++) {
        for (int i = 0; i < orr_safetensors_count(s->file[f]); i++) {
            const char *name = orr_safetensors_get(s->file[f], i)->name;
            char full[512];
            snprintf(full, sizeof(full), "%s%s", PREFIX, name);
            if (orr_model_find(model, name) < 0 && orr_model_find(model, full) < 0 && !passed_over(model, name))
                return orri_remedy(orri_fail(ORR_EFORMAT, orr_safetensors_path(s->file[f]),
                                             "tensor '%s' is none of this model's", name),
                                   "the file belongs to another model than config.json describes");
        }
    }
    return ORR_OK;
}

int orr_weights_load(struct orr_model *model, const char *directory)
{
    struct shards shards;
    int status = shards_open(&shards, directory, "model.safetensors");

    if (status != 0)
        return status;
    status = check_leftovers(model, &shards);
    if (status == 0)
        status = orr_model_allocate(model);
    for (int i = 0; status == 0 && i < model->views; i++) {
        int v; struct orri_group *g = orri_model_view(model, i, &v);
        float *x = orri_alloc((size_t)orri_view_count(&g->view[v]) * 4);
        status = read_view(&shards, g->name[v], &g->view[v], x);
        if (status == 0) status = orr_model_write(model, i, x);
        free(x);
    }
    shards_close(&shards);
    return status;
}

/* ---- writing ----------------------------------------------------------------------------------------------- */

static struct orr_tile *value_tile(void *self, int parameter);
/* Writes, for every view and each of `copies` layers of its tile, one tensor; names[view * copies + copy]. */
static int write_tiles(struct orr_model *model, struct orr_tile *(*tile_of)(void *self, int parameter), void *self,
                       int copies, char *const *names, const char *path)
{
    int count = model->views * copies, status = ORR_OK;
    struct orr_tensor_spec *specs = orri_calloc((size_t)count, sizeof(*specs));

    if (!specs)
        return ORR_ENOMEM;
    for (int i = 0; i < count; i++) {
        struct orr_parameter_info info;
        orr_model_parameter(model, i / copies, &info);
        specs[i] = (struct orr_tensor_spec){names[i], ORR_F32, info.ndim, {info.shape[0], info.shape[1]}};
    }
    struct orr_safetensors_writer *writer = orr_safetensors_writer_create(path, specs, count);
    free(specs);
    if (!writer)
        return orr_error_code();
    for (int i = 0; status == 0 && i < count; i++) {
        int v; struct orri_group *g = orri_model_view(model, i / copies, &v);
        size_t n = (size_t)orri_view_count(&g->view[v]);
        float *x = orri_alloc(n * 4);
        status = copies == 1 && tile_of == value_tile ? orr_model_read(model, i, x) : orr_training_read_state(self, i / copies, i % copies, x);
        if (status == 0) status = orr_safetensors_write(writer, i, 0, x, n * 4);
        free(x);
    }
    if (status == 0)
        status = orr_safetensors_writer_finish(writer);
    orr_safetensors_writer_destroy(writer);
    return status;
}

static void free_names(char **names, int count)
{
    for (int i = 0; names && i < count; i++)
        free(names[i]);
    free(names);
}

static struct orr_tile *value_tile(void *self, int parameter)
{
    return &((struct orr_model *)self)->parameter[parameter]->value;
}

static struct orr_tile *state_tile(void *self, int parameter)
{
    return &((struct orr_training *)self)->state[parameter];
}

int orr_weights_save(struct orr_model *model, const char *directory)
{
    char **names = orri_calloc((size_t)model->views, sizeof(*names));
    char *path = orri_format("%s/model.safetensors", directory);
    int status = names && path ? ORR_OK : ORR_ENOMEM;

    for (int i = 0; status == 0 && i < model->views; i++) {
        struct orr_parameter_info info;
        orr_model_parameter(model, i, &info);
        names[i] = orri_strdup(info.name);
        status = names[i] ? ORR_OK : ORR_ENOMEM;
    }
    if (status == 0)
        status = write_tiles(model, value_tile, model, 1, names, path);
    free_names(names, model->views);
    free(path);
    return status;
}

static char *state_name(const struct orr_training *t, int index, int which)
{
    struct orr_parameter_info info;

    orr_model_parameter(t->model, index, &info);
    return orri_format("%s.%s", info.name, orr_training_state_name(t, which));
}

static int optimizer_save(struct orr_training *t, const char *directory)
{
    int states = orr_optimizer_state_count(t->options.optimizer.kind), count = t->model->views * states;
    char **names = orri_calloc((size_t)count, sizeof(*names));
    char *path = orri_format("%s/optimizer.safetensors", directory);
    int status = names && path ? ORR_OK : ORR_ENOMEM;

    for (int i = 0; status == 0 && i < count; i++) {
        names[i] = state_name(t, i / states, i % states);
        status = names[i] ? ORR_OK : ORR_ENOMEM;
    }
    if (status == 0)
        status = write_tiles(t->model, state_tile, t, states, names, path);
    free_names(names, count);
    free(path);
    return status;
}

static int json_beside(const struct orr_config *config, const char *directory, const char *name)
{
    char *path = orri_format("%s/%s", directory, name);
    int status = path ? orr_config_save(config, path) : ORR_ENOMEM;

    free(path);
    return status;
}

static int write_parts(const char *directory, struct orr_training *t, const struct orr_config *config,
                       struct orr_config *trainer)
{
    char number[48];

    snprintf(number, sizeof(number), "step=%lld", (long long)t->steps);
    ORR_TRY(orr_config_set(trainer, number));
    snprintf(number, sizeof(number), "samples=%lld", (long long)t->samples);
    ORR_TRY(orr_config_set(trainer, number));
    ORR_TRY(json_beside(config, directory, "config.json"));
    ORR_TRY(orr_weights_save(t->model, directory));
    ORR_TRY(optimizer_save(t, directory));
    return json_beside(trainer, directory, "trainer.json");
}

/* The number of a step directory, named as orr_checkpoint_save() does it, with `end` behind; or -1. */
static int64_t step_of(const char *name, const char *end)
{
    long long step;
    char again[64];

    if (sscanf(name, "step-%lld", &step) != 1 || step < 0)
        return -1;
    snprintf(again, sizeof(again), "step-%08lld%s", step, end);
    return strcmp(name, again) == 0 ? step : -1;
}

/* What is to be removed next from `out`: what a crash left half-written, then, while there are more than `keep` up to
 * step `newest`, the oldest of them. Later ones are another run's. malloc'ed; NULL: nothing. */
static char *find_superfluous(const char *out, int64_t newest, int keep)
{
    DIR *dir = opendir(out);
    int64_t oldest = INT64_MAX;
    int count = 0;
    char *left = NULL;

    if (!dir)
        return NULL;
    for (struct dirent *entry; !left && (entry = readdir(dir)) != NULL;) {
        int64_t step = step_of(entry->d_name, "");
        if (step_of(entry->d_name, ".tmp") >= 0)
            left = orri_format("%s/%s", out, entry->d_name);
        count += step >= 0 && step <= newest;
        if (step >= 0 && step < oldest)
            oldest = step;
    }
    closedir(dir);
    if (left || keep == 0 || count <= keep)
        return left;
    return orri_format("%s/step-%08lld", out, (long long)oldest);
}

/* A checkpoint goes whole: renamed first, so that what a kill leaves is not taken for one. */
static int remove_checkpoint(const char *path)
{
    char *temp = ends_with(path, ".tmp") ? orri_strdup(path) : orri_format("%s.tmp", path);
    int status = temp ? orri_remove_tree(temp) : ORR_ENOMEM;

    if (status == 0 && strcmp(path, temp) != 0) {
        if (rename(path, temp) != 0)
            status = orri_fail(ORR_EIO, path, "cannot be removed: %s", strerror(errno));
        else
            status = orri_remove_tree(temp);
    }
    free(temp);
    return status;
}

static int prune(const char *out, int64_t newest, int keep)
{
    int status = ORR_OK;

    for (char *path; status == 0 && (path = find_superfluous(out, newest, keep)) != NULL; free(path))
        status = remove_checkpoint(path);
    return status;
}

int orr_checkpoint_prepare(const char *out)
{
    char *probe = orri_format("%s/.writable", out);
    int status = probe ? orri_make_folder(out) : ORR_ENOMEM;

    if (status == 0)
        status = orri_write_file(probe, "", 0);
    if (status == 0)
        status = orri_remove_tree(probe);
    if (status == 0)
        status = prune(out, 0, 0);
    free(probe);
    return status == ORR_EIO ? orri_remedy(ORR_EINVAL, "name a directory that can be written with --out") : status;
}

int orr_checkpoint_save(const char *out, struct orr_training *t, const struct orr_config *config,
                        struct orr_config *trainer, int keep)
{
    struct orri_folder folder;
    char name[40];
    snprintf(name, sizeof(name), "step-%08lld", (long long)t->steps);
    char *path = orri_format("%s/%s", out, name), *latest = orri_format("%s/latest", out);
    int status = path && latest ? orri_folder_begin(&folder, path) : ORR_ENOMEM;

    if (status == 0) {
        status = write_parts(folder.temp, t, config, trainer);
        if (status == 0)
            status = orr_model_status(t->model);    /* a step that failed meanwhile must not be kept */
        if (status == 0)
            status = orri_folder_commit(&folder);
        orri_folder_abort(&folder);
    }
    if (status == 0)
        status = orri_symlink(name, latest);
    if (status == 0)
        status = prune(out, t->steps, keep);
    free(path);
    free(latest);
    return status;
}

/* ---- reading ------------------------------------------------------------------------------------------------- */

static int optimizer_load(struct orr_training *t, const char *directory)
{
    int states = orr_optimizer_state_count(t->options.optimizer.kind);
    struct shards shards;
    int status = shards_open(&shards, directory, "optimizer.safetensors");

    if (status != 0)
        return status;
    for (int i = 0; status == 0 && i < t->model->views * states; i++) {
        int v; struct orri_group *g = orri_model_view(t->model, i / states, &v);
        char *name = state_name(t, i / states, i % states);
        float *x = orri_alloc((size_t)orri_view_count(&g->view[v]) * 4);
        status = read_view(&shards, name, &g->view[v], x);
        if (status == 0) status = orr_training_write_state(t, i / states, i % states, x);
        free(x); free(name);
    }
    shards_close(&shards);
    return status == ORR_ENOENT ? orri_remedy(status, "resume with the --optimizer that wrote the checkpoint") : status;
}

int orr_checkpoint_load(const char *directory, struct orr_training *t)
{
    char *path = orri_format("%s/trainer.json", directory);
    struct orr_config *trainer = path ? orr_config_open(path) : NULL;
    int64_t step = 0, samples = 0;
    int status = trainer ? orr_config_int(trainer, "step", 0, INT64_MAX, &step) : orr_error_code();

    if (status == 0)
        status = orr_config_int(trainer, "samples", 0, INT64_MAX, &samples);

    free(path);
    orr_config_destroy(trainer);
    if (status != 0)
        return status;
    ORR_TRY(orr_weights_load(t->model, directory));
    ORR_TRY(optimizer_load(t, directory));
    return orr_training_resume(t, step, samples);
}
