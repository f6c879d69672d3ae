/* SPDX-License-Identifier: Apache-2.0 */
#include <orrery/checkpoint.h>

#include <dirent.h>
#include <errno.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <orrery/safetensors.h>

#include "core/ranks.h"
#include "io/io.h"
#include "io/json.h"
#include "train/train.h"

/* Parameters; and, where these are rounded, what they were rounded from. */
static const char WEIGHTS[] = "model.safetensors", MASTERS[] = "master.safetensors";

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

/* The rest of a name that begins with what names of the model's files may leave out, or NULL. */
static const char *bare_name(const struct orr_model *model, const char *name)
{
    size_t n = model->rules.prefix ? strlen(model->rules.prefix) : 0;

    return n > 0 && strncmp(name, model->rules.prefix, n) == 0 ? name + n : NULL;
}

static const struct orr_tensor_info *shards_find(const struct orr_model *model, const struct shards *s, const char *name,
                                                 const struct orr_safetensors **file)
{
    const char *bare = bare_name(model, name);

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

/* Finds the tensor called `name`, which must have a view's shape. */
static int find_view(const struct orr_model *model, const struct shards *s, const char *name, const struct orr_view *view,
                     const struct orr_safetensors **file, const struct orr_tensor_info **tensor)
{
    *tensor = shards_find(model, s, name, file);
    if (!*tensor)
        return orri_remedy(orri_fail(ORR_ENOENT, orr_safetensors_path(s->file[0]), "tensor '%s' is missing", name),
                           "the file belongs to another model than config.json describes");
    if ((*tensor)->ndim != view->ndim ||
        memcmp((*tensor)->shape, view->shape, (size_t)view->ndim * sizeof(int64_t)) != 0) {
        char found[96], wanted[96];
        describe_shape(found, sizeof(found), (*tensor)->ndim, (*tensor)->shape);
        describe_shape(wanted, sizeof(wanted), view->ndim, view->shape);
        return orri_remedy(orri_fail(ORR_EFORMAT, orr_safetensors_path(*file), "tensor '%s' has shape %s, not %s", name,
                                     found, wanted),
                           "the file belongs to another model than config.json describes");
    }
    return ORR_OK;
}

enum { PIECE = 1024 };      /* floats that are converted at a time */

static int read_run(const struct orr_safetensors *file, const struct orr_tensor_info *tensor, int64_t first, int64_t count,
                    const struct orr_tile *tile, void *data, int64_t at)
{
    float values[PIECE];

    if (tile->dtype == ORR_F32)
        return orr_safetensors_read_f32(file, tensor, first, count, (float *)data + at);
    for (int64_t k = 0; k < count; k += PIECE) {
        int64_t n = count - k < PIECE ? count - k : PIECE;
        ORR_TRY(orr_safetensors_read_f32(file, tensor, first + k, n, values));
        orri_put(tile, data, at + k, n, values);
    }
    return ORR_OK;
}

/* Whether a parameter has something of number `piece` of its view v. */
static bool has_piece(const struct orr_model *model, const struct orri_parameter *parameter, int v, int piece)
{
    const struct orr_view *whole = &parameter->group->view[parameter->number[v]];

    return whole->pieces == 0 ||
           orri_run_piece(whole, orr_view_run(whole, model->mesh.tp, parameter->shard, 0), piece).count > 0;
}

/* Reads what a parameter has of number `piece` of its view v, from the tensor called `name` to a tile, after `offset` elements. */
static int read_piece(const struct orr_model *model, const struct orri_parameter *parameter, int v, int piece, const struct shards *s,
                      const char *name, const struct orr_tile *tile, void *data, int64_t offset)
{
    const struct orr_view *whole = &parameter->group->view[parameter->number[v]], shape = orri_view_piece(whole);
    const struct orr_safetensors *file = NULL;
    const struct orr_tensor_info *tensor;

    ORR_TRY(find_view(model, s, name, &shape, &file, &tensor));
    for (int64_t i = 0; i < orr_view_run_count(whole, model->mesh.tp); i++) {
        struct orr_run run = orri_run_piece(whole, orr_view_run(whole, model->mesh.tp, parameter->shard, i), piece);
        ORR_TRY(read_run(file, tensor, run.whole, run.count, tile, data, offset + run.part));
    }
    return ORR_OK;
}

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);

    return n >= m && strcmp(text + n - m, end) == 0;
}

/* What is no parameter, and the copy of a tied head. */
static bool passed_over(const struct orr_model *model, const char *name)
{
    for (const char *const *pattern = model->rules.ignored; pattern && *pattern; pattern++)
        if (fnmatch(*pattern, name, 0) == 0)
            return true;
    return strcmp(name, "lm_head.weight") == 0 && orr_model_find(model, name) < 0;
}

static bool is_known(const struct orr_model *model, const char *name)
{
    const char *prefix = model->rules.prefix ? model->rules.prefix : "";
    char full[512];

    snprintf(full, sizeof(full), "%s%s", prefix, name);
    return orr_model_find(model, name) >= 0 || orr_model_find(model, full) >= 0 || passed_over(model, name);
}

static int check_leftovers(const struct orr_model *model, const struct shards *s)
{
    for (int f = 0; f < s->count; f++) {
        for (int i = 0; i < orr_safetensors_count(s->file[f]); i++) {
            const char *name = orr_safetensors_get(s->file[f], i)->name;
            if (!is_known(model, name))
                return orri_remedy(orri_fail(ORR_EFORMAT, orr_safetensors_path(s->file[f]),
                                             "tensor '%s' is none of this model's", name),
                                   "the file belongs to another model than config.json describes");
        }
    }
    return ORR_OK;
}

/* Names copy `copy` of the tensor called `name`; malloc'ed. */
typedef char *name_of(void *self, const char *name, int copy);

/* The tile that has `copies` layers of a parameter; without a handle where this rank has none. */
typedef struct orr_tile *tile_of(void *self, const struct orri_parameter *parameter);

struct tiles {
    name_of *name;
    tile_of *tile;
    void *self;
    int copies;
    enum orr_dtype dtype;       /* in the file that is written */
};

static int read_view(const struct orr_model *model, const struct orri_parameter *parameter, int v, const struct tiles *tiles, int copy,
                     const struct shards *s, const struct orr_tile *tile, void *data)
{
    const struct orri_group *group = parameter->group;
    int64_t offset = copy * parameter->count + parameter->view[v].offset;
    int number = parameter->number[v], status = ORR_OK;

    for (int piece = 0; status == 0 && piece < orri_view_pieces(&group->view[number]); piece++) {
        if (!has_piece(model, parameter, v, piece))
            continue;
        char *name = tiles->name(tiles->self, model->tensor[group->first[number] + piece].name, copy);
        status = name ? read_piece(model, parameter, v, piece, s, name, tile, data, offset) : ORR_ENOMEM;
        free(name);
    }
    return status;
}

static int read_tile(const struct orr_model *model, const struct orri_parameter *parameter, const struct tiles *tiles,
                     const struct shards *s, const struct orr_tile *tile, void *data)
{
    int status = ORR_OK;

    for (int i = 0; status == 0 && i < parameter->views * tiles->copies; i++)
        status = read_view(model, parameter, i / tiles->copies, tiles, i % tiles->copies, s, tile, data);
    return status;
}

/* Reads what this rank has of the tensors. */
static int read_tiles(const struct orr_model *model, const struct tiles *tiles, const struct shards *s)
{
    int status = ORR_OK;

    for (int p = 0; status == 0 && p < model->parameters; p++) {
        struct orr_tile *tile = tiles->tile(tiles->self, model->parameter[p]);
        if (!tile->handle)
            continue;
        void *data = orr_tile_acquire(tile, true);
        if (!data)
            return orri_fail(ORR_EDEVICE, "StarPU", "a tile cannot be written");
        status = read_tile(model, model->parameter[p], tiles, s, tile, data);
        orr_tile_release(tile);
    }
    return status;
}

static char *value_name(void *self, const char *name, int copy)
{
    (void)self, (void)copy;
    return orri_strdup(name);
}

static struct orr_tile *value_tile(void *self, const struct orri_parameter *parameter)
{
    (void)self;
    return (struct orr_tile *)&parameter->value;
}

static struct tiles values_in(enum orr_dtype dtype)
{
    return (struct tiles){value_name, value_tile, NULL, 1, dtype};
}

static int weights_load(struct orr_model *model, const char *directory, const char *name)
{
    const struct tiles values = values_in(ORR_F32);
    struct shards shards;
    int status = shards_open(&shards, directory, name);

    if (status != 0)
        return status;
    status = check_leftovers(model, &shards);
    if (status == 0)
        status = orr_model_allocate(model);
    if (status == 0)
        status = read_tiles(model, &values, &shards);
    shards_close(&shards);
    return status;
}

int orr_weights_load(struct orr_model *model, const char *directory)
{
    ORR_TRY(orri_model_settle(model, weights_load(model, directory, WEIGHTS)));
    return orri_model_submitted(model, orri_model_share(model, NULL));
}

/* ---- writing ----------------------------------------------------------------------------------------------- */

/* Elements first .. of tensor `index`, from those from number `at` on of a tile of another dtype than the file's. */
static int write_converted(struct orr_safetensors_writer *writer, int index, enum orr_dtype dtype, int64_t first, int64_t count,
                           const struct orr_tile *tile, const void *data, int64_t at)
{
    float wide[PIECE], rounded[PIECE];
    size_t size = orr_dtype_size(dtype);

    for (int64_t k = 0; k < count; k += PIECE) {
        int64_t n = count - k < PIECE ? count - k : PIECE;
        orri_get(tile, data, at + k, n, wide);
        orri_round(dtype, (size_t)n, wide, rounded);
        ORR_TRY(orr_safetensors_write(writer, index, (size_t)(first + k) * size, rounded, (size_t)n * size));
    }
    return ORR_OK;
}

/* What a run of copy `copy` of view v of a group has of each of the view's tensors; run.part is in the tile. */
static int write_run(const struct orri_group *group, int v, const struct tiles *tiles, int copy,
                     struct orr_run run, const struct orr_tile *tile, const char *data, struct orr_safetensors_writer *writer)
{
    int64_t size = (int64_t)orr_dtype_size(tile->dtype);

    for (int piece = 0; piece < orri_view_pieces(&group->view[v]); piece++) {
        struct orr_run part = orri_run_piece(&group->view[v], run, piece);
        int index = (group->first[v] + piece) * tiles->copies + copy;
        if (part.count == 0)
            continue;
        if (tile->dtype == tiles->dtype)
            ORR_TRY(orr_safetensors_write(writer, index, (size_t)(part.whole * size), data + part.part * size,
                                          (size_t)(part.count * size)));
        else
            ORR_TRY(write_converted(writer, index, tiles->dtype, part.whole, part.count, tile, data, part.part));
    }
    return ORR_OK;
}

static int write_tile(const struct orr_model *model, const struct orri_parameter *parameter, const struct tiles *tiles,
                      const struct orr_tile *tile, const char *data, struct orr_safetensors_writer *writer)
{
    int copies = tiles->copies;

    for (int i = 0; i < parameter->views * copies; i++) {
        int v = i / copies, copy = i % copies, number = parameter->number[v];
        const struct orr_view *whole = &parameter->group->view[number];
        for (int64_t n = 0; n < orr_view_run_count(whole, model->mesh.tp); n++) {
            struct orr_run run = orr_view_run(whole, model->mesh.tp, parameter->shard, n);
            run.part += copy * parameter->count + parameter->view[v].offset;
            ORR_TRY(write_run(parameter->group, number, tiles, copy, run, tile, data, writer));
        }
    }
    return ORR_OK;
}

/* Writes the parameters that this rank owns. */
static int write_own(const struct orr_model *model, const struct tiles *tiles, struct orr_safetensors_writer *writer)
{
    int status = ORR_OK;

    for (int p = 0; status == 0 && p < model->parameters; p++) {
        struct orr_tile *tile = tiles->tile(tiles->self, model->parameter[p]);
        if (model->parameter[p]->here != 0)
            continue;
        const char *data = orr_tile_acquire(tile, false);
        if (!data)
            return orri_fail(ORR_EDEVICE, "StarPU", "a tile cannot be read");
        status = write_tile(model, model->parameter[p], tiles, tile, data, writer);
        orr_tile_release(tile);
    }
    return status;
}

/* One tensor for every view, or piece of one, and copy, whole, whoever has its parts. */
static int specify(const struct orr_model *model, const struct tiles *tiles, struct orr_tensor_spec *specs,
                   char **names)
{
    for (int i = 0; i < model->tensors * tiles->copies; i++) {
        const struct orri_tensor *tensor = &model->tensor[i / tiles->copies];
        const struct orr_view view = orri_view_piece(&tensor->group->view[tensor->view]);
        names[i] = tiles->name(tiles->self, tensor->name, i % tiles->copies);
        if (!names[i])
            return ORR_ENOMEM;
        specs[i] = (struct orr_tensor_spec){names[i], tiles->dtype, view.ndim, {view.shape[0], view.shape[1]}};
    }
    return ORR_OK;
}

/* Rank 0 begins the file, all write to it, each what it owns, and rank 0 ends it. */
static int write_file(const struct orr_model *model, const struct tiles *tiles, const struct orr_tensor_spec *specs,
                      const char *path)
{
    int count = model->tensors * tiles->copies, status = ORR_OK;
    struct orr_safetensors_writer *writer = NULL;

    if (model->rank == 0 && !(writer = orr_safetensors_writer_create(path, specs, count)))
        status = orr_error_code();
    status = orri_model_settle(model, status);
    if (status == 0 && !writer && !(writer = orr_safetensors_writer_join(path, specs, count)))
        status = orr_error_code();
    if (status == 0)
        status = write_own(model, tiles, writer);
    if (status == 0 && model->rank > 0)
        status = orr_safetensors_writer_sync(writer);
    status = orri_model_settle(model, status);
    if (status == 0 && model->rank == 0)
        status = orr_safetensors_writer_finish(writer);
    orr_safetensors_writer_destroy(writer);
    return orri_model_settle(model, status);
}

static void free_names(char **names, int count)
{
    for (int i = 0; names && i < count; i++)
        free(names[i]);
    free(names);
}

static int write_tiles(const struct orr_model *model, const struct tiles *tiles, const char *directory,
                       const char *name)
{
    int count = model->tensors * tiles->copies;
    struct orr_tensor_spec *specs = orri_calloc((size_t)count, sizeof(*specs));
    char **names = orri_calloc((size_t)count, sizeof(*names));
    char *path = orri_format("%s/%s", directory, name);
    int status = specs && names && path ? specify(model, tiles, specs, names) : ORR_ENOMEM;

    status = orri_model_settle(model, status);
    if (status == 0)
        status = write_file(model, tiles, specs, path);
    free_names(names, count);
    free(specs);
    free(path);
    return status;
}

int orr_weights_save(struct orr_model *model, const char *directory, enum orr_dtype dtype)
{
    const struct tiles values = values_in(dtype);

    if (dtype != ORR_F32 && dtype != ORR_BF16 && dtype != ORR_F16)
        return orri_fail(ORR_EINVAL, "model", "parameters are not saved in %s", orr_dtype_name(dtype));
    if (model->frozen)
        return orri_fail(ORR_EINVAL, "model", "it is frozen: there are no parameters in fp32 to save");
    return write_tiles(model, &values, directory, WEIGHTS);
}

/* Of replicas that have parameters of their own one's state is as good as another's: they were made equal before. */
struct state {
    struct orr_training *training;
    int replica;                /* -1: the owner */
};

static char *state_name(void *self, const char *name, int copy)
{
    const struct state *state = self;

    return orri_format("%s.%s", name, orr_training_state_name(state->training, copy));
}

static struct orr_tile *state_tile(void *self, const struct orri_parameter *parameter)
{
    const struct state *state = self;

    return orri_state_tile(state->training, parameter, state->replica < 0 ? parameter->owner : state->replica);
}

static struct tiles states_of(struct state *state)
{
    return (struct tiles){state_name, state_tile, state, orr_optimizer_state_count(state->training->options.optimizer.kind),
                          ORR_F32};
}

static char *outer_name(void *self, const char *name, int copy)
{
    (void)self, (void)copy;
    return orri_format("%s.outer_momentum", name);
}

static struct orr_tile *outer_tile(void *self, const struct orri_parameter *parameter)
{
    return &((struct orr_training *)self)->outer[parameter->index];
}

/* The momentum of the parameters that replicas have in common, where there is such. */
static const char OUTER[] = "outer.safetensors";

static bool has_outer(const struct orr_training *t)
{
    return t->states > 1 && t->options.outer_momentum > 0;
}

static int json_beside(const struct orr_config *config, const char *directory, const char *name)
{
    char *path = orri_format("%s/%s", directory, name);
    int status = path ? orr_config_save(config, path) : ORR_ENOMEM;

    free(path);
    return status;
}

static int set_number(struct orr_config *config, const char *key, int64_t value)
{
    char text[64];

    snprintf(text, sizeof(text), "%s=%lld", key, (long long)value);
    return orr_config_set(config, text);
}

/* The files that rank 0 writes alone. */
static int write_texts(const char *directory, struct orr_training *t, const struct orr_config *config,
                       struct orr_config *trainer)
{
    struct orr_loss_scale scale;

    ORR_TRY(set_number(trainer, "step", t->steps));
    ORR_TRY(set_number(trainer, "samples", t->samples));
    ORR_TRY(orr_training_loss_scale(t, &scale));
    if (t->model->dtype == ORR_F16) {
        char text[64];
        snprintf(text, sizeof(text), "loss_scale=%.17g", scale.scale);
        ORR_TRY(orr_config_set(trainer, text));
        ORR_TRY(set_number(trainer, "good_steps", scale.good));
        ORR_TRY(set_number(trainer, "skipped_steps", scale.skipped));
    }
    ORR_TRY(json_beside(config, directory, "config.json"));
    return json_beside(trainer, directory, "trainer.json");
}

static int write_parts(const char *directory, struct orr_training *t, const struct orr_config *config,
                       struct orr_config *trainer)
{
    struct state owners = {t, -1};
    struct tiles states = states_of(&owners), outer = {outer_name, outer_tile, t, 1, ORR_F32}, masters = values_in(ORR_F32);
    enum orr_dtype dtype = t->options.checkpoint_dtype;

    ORR_TRY(orri_model_settle(t->model, orr_training_synchronise(t)));
    ORR_TRY(orri_model_settle(t->model, t->model->rank == 0 ? write_texts(directory, t, config, trainer) : ORR_OK));
    ORR_TRY(orr_weights_save(t->model, directory, dtype));
    if (dtype != ORR_F32 && !(t->model->masterless && dtype == t->model->dtype))
        ORR_TRY(write_tiles(t->model, &masters, directory, MASTERS));
    ORR_TRY(write_tiles(t->model, &states, directory, "optimizer.safetensors"));
    return has_outer(t) ? write_tiles(t->model, &outer, directory, OUTER) : ORR_OK;
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

/* A file shows whether `out` can be written, and is the same directory everywhere. */
static int write_probe(const char *out, const char *probe)
{
    int status = orri_make_folder(out);

    return status == 0 ? orri_write_file(probe, "", 0) : status;
}

static int find_probe(const char *out, const char *probe)
{
    struct stat st;

    if (stat(probe, &st) == 0)
        return ORR_OK;
    return orri_remedy(orri_fail(ORR_EINVAL, out, "is not the directory that rank 0 has: %s", strerror(errno)),
                       "name a directory that all ranks share with --out");
}

static int remove_probe(const char *out, const char *probe)
{
    int status = orri_remove_tree(probe);

    return status == 0 ? prune(out, 0, 0) : status;
}

static int prepared(int status)
{
    if (status == ORR_EIO)
        status = orri_remedy(ORR_EINVAL, "name a directory that can be written with --out");
    return orr_ranks_settle(status);
}

int orr_checkpoint_prepare(const char *out)
{
    char *probe = orri_format("%s/.writable", out);
    bool first = orr_rank() == 0;
    int status = prepared(!probe ? ORR_ENOMEM : first ? write_probe(out, probe) : ORR_OK);

    if (status == 0)
        status = prepared(first ? ORR_OK : find_probe(out, probe));
    if (status == 0)
        status = prepared(first ? remove_probe(out, probe) : ORR_OK);
    else if (probe && first)
        unlink(probe);
    free(probe);
    return status;
}

/* Rank 0's part when all have written theirs. */
static int commit(struct orri_folder *folder, const char *out, const char *name, int64_t step, int keep)
{
    char *latest = orri_format("%s/latest", out);
    int status = latest ? orri_folder_commit(folder) : ORR_ENOMEM;

    if (status == 0)
        status = orri_symlink(name, latest);
    if (status == 0)
        status = prune(out, step, keep);
    free(latest);
    return status;
}

int orr_checkpoint_save(const char *out, struct orr_training *t, const struct orr_config *config,
                        struct orr_config *trainer, int keep)
{
    struct orri_folder folder = {0};
    bool first = t->model->rank == 0;
    char name[40];
    snprintf(name, sizeof(name), "step-%08lld", (long long)t->steps);
    char *path = orri_format("%s/%s", out, name), *temp = orri_format("%s/%s.tmp", out, name);
    int status = path && temp ? ORR_OK : ORR_ENOMEM;

    if (status == 0 && first)
        status = orri_folder_begin(&folder, path);
    status = orri_model_settle(t->model, status);
    if (status == 0)
        status = write_parts(temp, t, config, trainer);
    if (status == 0)    /* a step that failed meanwhile must not be kept */
        status = orri_model_settle(t->model, orr_model_status(t->model));
    if (status == 0 && first)
        status = commit(&folder, out, name, t->steps, keep);
    orri_folder_abort(&folder);
    free(path);
    free(temp);
    return orri_model_settle(t->model, status);
}

/* ---- reading ------------------------------------------------------------------------------------------------- */

static int optimizer_load(struct orr_training *t, const char *directory)
{
    struct shards shards;
    int status = shards_open(&shards, directory, "optimizer.safetensors");

    if (status != 0)
        return status;
    for (int r = 0; status == 0 && r < t->states; r++) {
        struct state replica = {t, r};
        struct tiles states = states_of(&replica);
        status = read_tiles(t->model, &states, &shards);
    }
    shards_close(&shards);
    return status == ORR_ENOENT ? orri_remedy(status, "resume with the --optimizer that wrote the checkpoint") : status;
}

static bool has_file(const char *directory, const char *name, int *status)
{
    struct stat st;
    char *path = orri_format("%s/%s", directory, name);
    bool there = path && stat(path, &st) == 0;

    *status = path ? ORR_OK : ORR_ENOMEM;
    free(path);
    return there;
}

/* A run that had none begins without momentum. */
static int outer_load(struct orr_training *t, const char *directory)
{
    struct tiles outer = {outer_name, outer_tile, t, 1, ORR_F32};
    struct shards shards;
    int status;

    if (!has_outer(t) || !has_file(directory, OUTER, &status))
        return has_outer(t) ? status : ORR_OK;
    ORR_TRY(shards_open(&shards, directory, OUTER));
    status = read_tiles(t->model, &outer, &shards);
    shards_close(&shards);
    return status;
}

/* A run that did not compute in fp16 left no scale: then that of the options stays. */
static int scale_load(struct orr_training *t, const struct orr_config *trainer)
{
    struct orr_loss_scale scale = {0};

    if (t->model->dtype != ORR_F16 || !orr_config_has(trainer, "loss_scale"))
        return ORR_OK;
    ORR_TRY(orr_config_double(trainer, "loss_scale", 0x1p-20, 0x1p120, &scale.scale));
    ORR_TRY(orr_config_int(trainer, "good_steps", 0, INT64_MAX, &scale.good));
    ORR_TRY(orr_config_int(trainer, "skipped_steps", 0, INT64_MAX, &scale.skipped));
    return orr_training_set_loss_scale(t, &scale);
}

static int load(const char *directory, struct orr_training *t, int64_t *step, int64_t *samples)
{
    char *path = orri_format("%s/trainer.json", directory);
    struct orr_config *trainer = path ? orr_config_open(path) : NULL;
    int status = trainer ? orr_config_int(trainer, "step", 0, INT64_MAX, step) : orr_error_code();

    if (status == 0)
        status = orr_config_int(trainer, "samples", 0, INT64_MAX, samples);
    if (status == 0)
        status = scale_load(t, trainer);
    free(path);
    orr_config_destroy(trainer);
    bool masters = status == 0 && has_file(directory, MASTERS, &status);
    if (status == 0)
        status = weights_load(t->model, directory, masters ? MASTERS : WEIGHTS);
    if (status == 0)
        status = optimizer_load(t, directory);
    return status == 0 ? outer_load(t, directory) : status;
}

int orr_checkpoint_load(const char *directory, struct orr_training *t)
{
    int64_t step = 0, samples = 0;

    ORR_TRY(orri_model_settle(t->model, load(directory, t, &step, &samples)));
    int status = orri_model_share(t->model, NULL);
    return orri_model_submitted(t->model, status == 0 ? orr_training_resume(t, step, samples) : status);
}
