/* SPDX-License-Identifier: Apache-2.0 */
/* The post-processor: what is put around one sequence, and around two. */
#include "core/core.h"
#include "text/text.h"

#include <stdlib.h>

static int add(struct orri_template *to, int sequence, int32_t id, int64_t type)
{
    struct orri_part *parts = realloc(to->part, (to->count + 1) * sizeof(*parts));

    if (!parts)
        return orri_fail(ORR_ENOMEM, "tokenizer", "no room for a template");
    to->part = parts;
    to->part[to->count++] = (struct orri_part){sequence, id, (int32_t)type};
    return ORR_OK;
}

/* ---- TemplateProcessing ---------------------------------------------------------------------------------------- */

/* A special token stands for one id or several. */
static int add_special(const struct orri_files *t, const struct orri_component *c, struct orri_template *to, const char *name,
                       int64_t type)
{
    const json_t *ids = json_object_get(json_object_get(json_object_get(c->json, "special_tokens"), name), "ids");

    if (!json_is_array(ids) || json_array_size(ids) == 0)
        return orri_component_fail(c, "special_tokens has no ids for \"%.64s\"", name);
    for (size_t i = 0; i < json_array_size(ids); i++) {
        const json_t *id = json_array_get(ids, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= t->vocab.count)
            return orri_component_fail(c, "special_tokens: \"%.64s\" has an id outside the vocabulary of %d", name, t->vocab.count);
        ORR_TRY(add(to, -1, (int32_t)json_integer_value(id), type));
    }
    return ORR_OK;
}

static int load_part(const struct orri_files *t, const struct orri_component *c, struct orri_template *to, const char *key,
                     const json_t *part)
{
    const json_t *sequence = json_object_get(part, "Sequence"), *special = json_object_get(part, "SpecialToken");
    const json_t *body = sequence ? sequence : special;
    const char *id = json_string_value(json_object_get(body, "id"));
    const json_t *type = json_object_get(body, "type_id");

    if (json_object_size(part) != 1 || !id || !json_is_integer(type) || json_integer_value(type) < 0 ||
        json_integer_value(type) > INT32_MAX)
        return orri_component_fail(c, "%s: a part is neither a Sequence nor a SpecialToken with an id and a type_id", key);
    if (special)
        return add_special(t, c, to, id, json_integer_value(type));
    if (strcmp(id, "A") != 0 && strcmp(id, "B") != 0)
        return orri_component_fail(c, "%s: a Sequence is \"%.64s\", neither A nor B", key, id);
    return add(to, id[0] == 'B', -1, json_integer_value(type));
}

static int load_parts(const struct orri_files *t, const struct orri_component *c, const char *key, bool two, struct orri_template *to)
{
    const json_t *list = json_object_get(c->json, key);
    int times[2] = {0, 0};

    if (!json_is_array(list))
        return orri_component_fail(c, "%s is no list", key);
    for (size_t i = 0; i < json_array_size(list); i++)
        ORR_TRY(load_part(t, c, to, key, json_array_get(list, i)));
    for (size_t i = 0; i < to->count; i++)
        if (to->part[i].sequence >= 0)
            times[to->part[i].sequence]++;
    if (times[0] != 1 || times[1] != two)
        return orri_component_fail(c, "%s has not every Sequence once", key);
    return ORR_OK;
}

static int load_template(struct orri_files *t, const struct orri_component *c)
{
    static const char *const keys[] = {"single", "pair", "special_tokens", NULL};

    ORR_TRY(orri_component_keys(c, keys));
    ORR_TRY(load_parts(t, c, "single", false, &t->base.one));
    return load_parts(t, c, "pair", true, &t->base.two);
}

/* ---- BertProcessing, RobertaProcessing ------------------------------------------------------------------------------- */

/* A token as a list of its spelling and its id. */
static int load_token(const struct orri_files *t, const struct orri_component *c, const char *key, int32_t *id)
{
    const json_t *pair = json_object_get(c->json, key), *number = json_array_get(pair, 1);

    if (json_array_size(pair) != 2 || !json_is_string(json_array_get(pair, 0)) || !json_is_integer(number))
        return orri_component_fail(c, "%s is not [\"token\", id]", key);
    if (json_integer_value(number) < 0 || json_integer_value(number) >= t->vocab.count)
        return orri_component_fail(c, "%s: id %lld is outside the vocabulary of %d", key, (long long)json_integer_value(number),
                                   t->vocab.count);
    *id = (int32_t)json_integer_value(number);
    return ORR_OK;
}

/* CLS A SEP; and behind it B SEP, or SEP B SEP. */
static int load_pair(struct orri_files *t, const struct orri_component *c, bool roberta)
{
    struct orri_template *both[] = {&t->base.one, &t->base.two};
    int32_t class, separator;

    ORR_TRY(load_token(t, c, "cls", &class));
    ORR_TRY(load_token(t, c, "sep", &separator));
    for (int i = 0; i < 2; i++) {
        ORR_TRY(add(both[i], -1, class, 0));
        ORR_TRY(add(both[i], 0, -1, 0));
        ORR_TRY(add(both[i], -1, separator, 0));
    }
    if (roberta)
        ORR_TRY(add(&t->base.two, -1, separator, 0));
    ORR_TRY(add(&t->base.two, 1, -1, !roberta));
    return add(&t->base.two, -1, separator, !roberta);
}

static int load_bert(struct orri_files *t, const struct orri_component *c)
{
    static const char *const keys[] = {"sep", "cls", NULL};

    ORR_TRY(orri_component_keys(c, keys));
    return load_pair(t, c, false);
}

static int load_roberta(struct orri_files *t, const struct orri_component *c)
{
    static const char *const keys[] = {"sep", "cls", "trim_offsets", "add_prefix_space", NULL};

    ORR_TRY(orri_component_keys(c, keys));
    return load_pair(t, c, true);
}

/* ---- the component ------------------------------------------------------------------------------------------------------ */

int orri_load_post_processor(struct orri_files *t, const struct orri_component *c)
{
    static const char *const sequence[] = {"processors", NULL},
                            *const byte_level[] = {"add_prefix_space", "trim_offsets", "use_regex", NULL};
    static const struct {
        const char *type;
        int (*load)(struct orri_files *t, const struct orri_component *c);
    } types[] = {{"TemplateProcessing", load_template}, {"BertProcessing", load_bert}, {"RobertaProcessing", load_roberta}};

    if (strcmp(c->type, "Sequence") == 0) {
        ORR_TRY(orri_component_keys(c, sequence));
        return orri_component_each(c, "processors", t, orri_load_post_processor);
    }
    if (strcmp(c->type, "ByteLevel") == 0)      /* it moves offsets, which nothing here has */
        return orri_component_keys(c, byte_level);
    for (size_t i = 0; i < ORRI_COUNT(types); i++)
        if (strcmp(c->type, types[i].type) == 0)
            return t->base.one.count ? orri_component_fail(c, "there is another template before it") : types[i].load(t, c);
    return orri_component_unknown(c);
}
