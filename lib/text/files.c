/* SPDX-License-Identifier: Apache-2.0 */
/* The files of a tokenizer: finding them, keeping what they hold, and saving that elsewhere. Vocabulary files without a
 * tokenizer.json are turned into the object that such a file would hold (vocabulary_files.c). */
#include "core/core.h"
#include "io/io.h"
#include "io/json.h"
#include "text/files.h"
#include "text/text.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>

/* ---- what is there ------------------------------------------------------------------------------------------------- */

static bool is_directory(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

static bool has(const char *directory, const char *name)
{
    struct stat st;
    char *path = orri_format("%s/%s", directory, name);
    bool there = path && stat(path, &st) == 0;

    free(path);
    return there;
}

static const char *base_of(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash ? slash + 1 : path;
}

static char *folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');

    return !slash ? orri_strdup(".") : orri_format("%.*s", slash == path ? 1 : (int)(slash - path), path);
}

/* Keeps a file's bytes, under the name that it is looked for by. */
static int keep(struct orri_files *t, const char *path, const char *name, const struct orri_source **kept)
{
    struct orri_source *s = &t->source[t->source_count];
    struct orri_map map;

    ORR_TRY(orri_map_open(&map, path, false));
    s->name = orri_strdup(name);
    s->data = orri_alloc(map.size + 1);
    if (s->name && s->data) {
        memcpy(s->data, map.data, map.size);
        s->data[map.size] = '\0';
        s->size = map.size;
    }
    t->source_count++;
    orri_map_close(&map);
    *kept = s;
    return s->name && s->data ? ORR_OK : ORR_ENOMEM;
}

/* ---- tokens with a meaning -------------------------------------------------------------------------------------------- */

static const struct {
    const char *key, *spelling[5];
} meanings[ORR_SPECIALS] = {
    [ORR_UNKNOWN] = {"unk_token", {"<unk>", "[UNK]", "<|endoftext|>"}},
    [ORR_BEGIN] = {"bos_token", {"<s>", "<bos>", "<|begin_of_text|>", "<|endoftext|>"}},
    [ORR_END] = {"eos_token", {"</s>", "<eos>", "<|end_of_text|>", "<|endoftext|>"}},
    [ORR_PAD] = {"pad_token", {"<pad>", "[PAD]"}},
    [ORR_CLASS] = {"cls_token", {"[CLS]"}},
    [ORR_SEPARATOR] = {"sep_token", {"[SEP]"}},
    [ORR_MASK] = {"mask_token", {"[MASK]", "<mask>"}},
};

/* "<s>", or an object with such a "content". NULL: it is not named. */
const char *orri_special_name(const json_t *config, enum orr_special special)
{
    const json_t *value = json_object_get(config, meanings[special].key);

    return json_string_value(json_is_object(value) ? json_object_get(value, "content") : value);
}

/* By what the files beside say; else, of unknown ones, by the model; else, where they name no token at all, by how such are
 * spelled. */
static void find_special(struct orri_files *t, const struct orri_configs *configs)
{
    bool said = false;

    for (int i = 0; i < ORR_SPECIALS; i++)
        said = said || json_object_get(configs->map, meanings[i].key) || json_object_get(configs->config, meanings[i].key);
    for (int i = 0; i < ORR_SPECIALS; i++) {
        const char *name = orri_special_name(configs->map, i);
        name = name ? name : orri_special_name(configs->config, i);
        t->special[i] = name ? orr_tokenizer_id(&t->base, name) : -1;
        if (t->special[i] < 0 && i == ORR_UNKNOWN)
            t->special[i] = t->model.unknown;
        for (int k = 0; !said && t->special[i] < 0 && meanings[i].spelling[k]; k++)
            t->special[i] = orr_tokenizer_id(&t->base, meanings[i].spelling[k]);
    }
}

static int read_config(struct orri_files *t, const char *directory, const char *name, json_t **config)
{
    const struct orri_source *s;

    if (!has(directory, name))
        return ORR_OK;
    char *path = orri_format("%s/%s", directory, name);
    int status = path ? keep(t, path, name, &s) : ORR_ENOMEM;
    if (status == 0)
        status = orri_json_parse(path, s->data, s->size, config);
    free(path);
    return status;
}

/* ---- reading --------------------------------------------------------------------------------------------------------------- */

static int read_whole(struct orri_files *t, const char *path, const struct orri_configs *configs)
{
    const struct orri_source *s;
    json_t *object;

    ORR_TRY(keep(t, path, "tokenizer.json", &s));
    ORR_TRY(orri_json_parse(path, s->data, s->size, &object));
    int status = orri_files_build(t, path, object);
    json_decref(object);
    if (status == 0)
        find_special(t, configs);
    return status;
}

static int build(struct orri_files *t, const char *path, json_t *object, const struct orri_configs *configs)
{
    int status = object ? orri_files_build(t, path, object) : orr_error_code();

    json_decref(object);
    if (status == 0)
        find_special(t, configs);
    return status;
}

static int read_words(struct orri_files *t, const char *path, const struct orri_configs *configs)
{
    const struct orri_source *s;

    ORR_TRY(keep(t, path, "vocab.txt", &s));
    return build(t, path, orri_wordpiece_object(path, s, configs), configs);
}

static int read_pair(struct orri_files *t, const char *directory, const char *const names[2], const struct orri_configs *configs)
{
    const struct orri_source *vocab, *merges;
    char *path[2] = {orri_format("%s/%s", directory, names[0]), orri_format("%s/%s", directory, names[1])};
    char *both = orri_format("%s/%s and %s", directory, names[0], names[1]);
    int status = path[0] && path[1] && both ? ORR_OK : ORR_ENOMEM;

    if (status == 0)
        status = keep(t, path[0], names[0], &vocab);
    if (status == 0)
        status = keep(t, path[1], names[1], &merges);
    if (status == 0)
        status = build(t, both, orri_bpe_object(path[0], vocab, path[1], merges, configs), configs);
    free(path[0]);
    free(path[1]);
    free(both);
    return status;
}

static const char *const pairs[][2] = {{"vocab.json", "merges.txt"}, {"encoder.json", "vocab.bpe"}};

static int read_directory(struct orri_files *t, const char *directory)
{
    struct orri_configs configs = {NULL, NULL};
    int status = read_config(t, directory, "special_tokens_map.json", &configs.map);

    if (status == 0)
        status = read_config(t, directory, "tokenizer_config.json", &configs.config);
    const char *const name = has(directory, "tokenizer.json") ? "tokenizer.json" : "vocab.txt";
    char *path = orri_format("%s/%s", directory, name);
    status = status == 0 && !path ? ORR_ENOMEM : status;
    bool done = status != 0;
    if (!done && strcmp(name, "tokenizer.json") == 0) {
        status = read_whole(t, path, &configs);
        done = true;
    }
    for (size_t i = 0; !done && i < ORRI_COUNT(pairs); i++)
        if (has(directory, pairs[i][0])) {
            status = read_pair(t, directory, pairs[i], &configs);
            done = true;
        }
    if (!done && has(directory, name))
        status = read_words(t, path, &configs);
    else if (!done)
        status = orri_remedy(orri_fail(ORR_ENOENT, directory, "holds no tokenizer"),
                             "put tokenizer.json there, or vocab.json and merges.txt, or vocab.txt");
    free(path);
    json_decref(configs.map);
    json_decref(configs.config);
    return status;
}

static int read_file(struct orri_files *t, const char *path)
{
    const struct orri_configs none = {NULL, NULL};

    for (size_t i = 0; i < ORRI_COUNT(pairs); i++)
        if (strcmp(base_of(path), pairs[i][0]) == 0 || strcmp(base_of(path), pairs[i][1]) == 0) {
            char *folder = folder_of(path);
            int status = folder ? read_pair(t, folder, pairs[i], &none) : ORR_ENOMEM;
            free(folder);
            return status;
        }
    const char *ending = strrchr(base_of(path), '.');
    return ending && strcmp(ending, ".txt") == 0 ? read_words(t, path, &none) : read_whole(t, path, &none);
}

bool orr_tokenizer_in(const char *directory)
{
    return has(directory, "tokenizer.json") || has(directory, pairs[0][0]) || has(directory, pairs[1][0]) ||
           has(directory, "vocab.txt");
}

struct orr_tokenizer *orri_files_open(const char *path)
{
    struct orri_files *t = orri_calloc(1, sizeof(*t));

    if (!t)
        return NULL;
    t->base.class = &orri_tokenizer_files;
    pthread_mutex_init(&t->lock, NULL);
    t->base.name = orri_strdup(path);
    int status = !t->base.name ? ORR_ENOMEM : is_directory(path) ? read_directory(t, path) : read_file(t, path);
    if (status == 0)
        return &t->base;
    orr_tokenizer_destroy(&t->base);
    return NULL;
}

/* ---- the kind ---------------------------------------------------------------------------------------------------------------- */

static void destroy(struct orr_tokenizer *tokenizer)
{
    orri_files_free((struct orri_files *)tokenizer);
}

static int32_t special(const struct orr_tokenizer *tokenizer, enum orr_special special)
{
    return ((const struct orri_files *)tokenizer)->special[special];
}

static int32_t id(const struct orr_tokenizer *tokenizer, const char *token)
{
    const struct orri_files *t = (const struct orri_files *)tokenizer;

    for (int i = 0; i < t->added_count; i++)
        if (strcmp(t->added[i].text, token) == 0)
            return t->added[i].id;
    return orri_vocab_id(&t->vocab, token, strlen(token));
}

static const char *token(const struct orr_tokenizer *tokenizer, int32_t id)
{
    const struct orri_files *t = (const struct orri_files *)tokenizer;

    return id >= 0 && id < t->vocab.count ? t->vocab.token[id] : NULL;
}

static int save(const struct orr_tokenizer *tokenizer, const char *directory)
{
    const struct orri_files *t = (const struct orri_files *)tokenizer;

    for (int i = 0; i < t->source_count; i++) {
        char *path = orri_format("%s/%s", directory, t->source[i].name);
        int status = path ? orri_write_file(path, t->source[i].data, t->source[i].size) : ORR_ENOMEM;
        free(path);
        ORR_TRY(status);
    }
    return ORR_OK;
}

const struct orri_tokenizer_class orri_tokenizer_files = {
    .name = "files",
    .encode = orri_files_encode,
    .decode = orri_files_decode,
    .destroy = destroy,
    .special = special,
    .id = id,
    .token = token,
    .save = save,
};
