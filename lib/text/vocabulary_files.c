/* SPDX-License-Identifier: Apache-2.0 */
#include "core/core.h"
#include "io/json.h"
#include "text/files.h"

#include <stdlib.h>

/* ---- lines ----------------------------------------------------------------------------------------------------------- */

struct lines {
    const char *path, *text, *end;
    long number;
};

/* The next line without its end. false: there is none. */
static bool next_line(struct lines *lines, const char **line, size_t *size)
{
    if (lines->text == lines->end)
        return false;
    const char *end = memchr(lines->text, '\n', (size_t)(lines->end - lines->text));
    *line = lines->text;
    *size = (size_t)((end ? end : lines->end) - *line);
    lines->text = end ? end + 1 : lines->end;
    lines->number++;
    while (*size > 0 && strchr(" \t\r", (*line)[*size - 1]) && (*line)[*size - 1])
        --*size;
    return true;
}

static int line_fail(const struct lines *lines, const char *what)
{
    char *where = orri_format("%s:%ld", lines->path, lines->number);
    int status = where ? orri_fail(ORR_EFORMAT, where, "%s", what) : ORR_ENOMEM;

    free(where);
    return status == ORR_EFORMAT ? orri_remedy(status, "correct that line, or get the file again") : status;
}

/* ---- what all have --------------------------------------------------------------------------------------------------------- */

/* Takes the object; NULL: an allocation failed. */
static json_t *made(json_t *object)
{
    if (!object)
        orri_fail(ORR_ENOMEM, "tokenizer", "no room for its description");
    return object;
}

json_t *orri_byte_level_object(bool add_prefix_space)
{
    return made(json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", add_prefix_space, "trim_offsets", true,
                          "use_regex", true));
}

json_t *orri_added_object(const char *content, int64_t id, bool left)
{
    return made(json_pack("{s:I, s:s, s:b, s:b, s:b, s:b, s:b}", "id", (json_int_t)id, "content", content, "single_word", false,
                          "lstrip", left, "rstrip", false, "normalized", false, "special", true));
}

static bool is_true(const struct orri_configs *configs, const char *key, bool standard)
{
    const json_t *value = json_object_get(configs->config, key);

    return json_is_boolean(value) ? json_is_true(value) : standard;
}

/* The tokens with a meaning that are in the vocabulary, each once: those that are named, and `standard`, which ends with NULL. */
static json_t *added_tokens(const json_t *vocab, const struct orri_configs *configs, const char *const *standard, bool roberta)
{
    json_t *list = json_array();
    const char *names[2 * ORR_SPECIALS + 8];
    int count = 0;

    for (int i = 0; i < ORR_SPECIALS; i++) {
        names[count++] = orri_special_name(configs->map, i);
        names[count++] = orri_special_name(configs->config, i);
    }
    for (int i = 0; standard[i]; i++)
        names[count++] = standard[i];
    for (int i = 0; list && i < count; i++) {
        const json_t *id = names[i] ? json_object_get(vocab, names[i]) : NULL;
        bool again = !json_is_integer(id);
        for (int k = 0; !again && k < i; k++)
            again = names[k] && strcmp(names[i], names[k]) == 0;
        if (!again)
            json_array_append_new(list, orri_added_object(names[i], json_integer_value(id),
                                                          roberta && strcmp(names[i], "<mask>") == 0));
    }
    return made(list);
}

/* ---- WordPiece ------------------------------------------------------------------------------------------------------------- */

static json_t *read_words(const char *path, const struct orri_source *source)
{
    struct lines lines = {path, source->data, source->data + source->size, 0};
    json_t *vocab = json_object();
    const char *line;
    size_t size;
    int status = vocab ? ORR_OK : ORR_ENOMEM;

    while (status == 0 && next_line(&lines, &line, &size)) {
        json_t *token = memchr(line, '\0', size) ? NULL : json_stringn(line, size);
        if (!token)
            status = line_fail(&lines, "is not UTF-8");
        else if (json_object_get(vocab, json_string_value(token)))
            status = line_fail(&lines, "holds a token that another line has, too");
        else if (json_object_set_new(vocab, json_string_value(token), json_integer(lines.number - 1)) != 0)
            status = ORR_ENOMEM;
        json_decref(token);
    }
    if (status == 0)
        return vocab;
    json_decref(vocab);
    return status == ORR_ENOMEM ? made(NULL) : NULL;
}

/* [CLS] A [SEP], [CLS] A [SEP] B [SEP]; NULL where the vocabulary has no such tokens: then there is none. */
static json_t *bert_processing(const json_t *vocab)
{
    const json_t *class = json_object_get(vocab, "[CLS]"), *separator = json_object_get(vocab, "[SEP]");

    if (!class || !separator)
        return json_null();
    return json_pack("{s:s, s:[s, I], s:[s, I]}", "type", "BertProcessing", "sep", "[SEP]", json_integer_value(separator), "cls",
                     "[CLS]", json_integer_value(class));
}

json_t *orri_wordpiece_object(const char *path, const struct orri_source *source, const struct orri_configs *configs)
{
    static const char *const standard[] = {"[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]", NULL};
    json_t *vocab = read_words(path, source);
    const char *unknown = orri_special_name(configs->map, ORR_UNKNOWN);

    if (!vocab)
        return NULL;
    unknown = unknown ? unknown : orri_special_name(configs->config, ORR_UNKNOWN);
    const json_t *accents = json_object_get(configs->config, "strip_accents");
    json_t *normalizer = json_pack("{s:s, s:b, s:b, s:O?, s:b}", "type", "BertNormalizer", "clean_text", true, "handle_chinese_chars",
                                   is_true(configs, "tokenize_chinese_chars", true), "strip_accents", accents, "lowercase",
                                   is_true(configs, "do_lower_case", true));
    json_t *object = json_pack("{s:o, s:o, s:{s:s}, s:o, s:{s:s, s:s, s:b}, s:{s:s, s:s, s:s, s:i, s:O}}", "added_tokens",
                               added_tokens(vocab, configs, standard, false), "normalizer", normalizer, "pre_tokenizer", "type",
                               "BertPreTokenizer", "post_processor", bert_processing(vocab), "decoder", "type", "WordPiece", "prefix",
                               "##", "cleanup", true, "model", "type", "WordPiece", "unk_token", unknown ? unknown : "[UNK]",
                               "continuing_subword_prefix", "##", "max_input_chars_per_word", 100, "vocab", vocab);
    json_decref(vocab);
    return made(object);
}

/* ---- byte-pair encodings ------------------------------------------------------------------------------------------------------- */

static json_t *read_merges(const char *path, const struct orri_source *source)
{
    static const char version[] = "#version";
    struct lines lines = {path, source->data, source->data + source->size, 0};
    json_t *merges = json_array();
    const char *line;
    size_t size;
    int status = merges ? ORR_OK : ORR_ENOMEM;

    while (status == 0 && next_line(&lines, &line, &size)) {
        if (size == 0 || (size >= strlen(version) && memcmp(line, version, strlen(version)) == 0))
            continue;
        const char *blank = memchr(line, ' ', size);
        if (!blank || memchr(blank + 1, ' ', size - (size_t)(blank + 1 - line)))
            status = line_fail(&lines, "is not two tokens with a blank between them");
        else if (memchr(line, '\0', size) || json_array_append_new(merges, json_stringn(line, size)) != 0)
            status = line_fail(&lines, "is not UTF-8");
    }
    if (status == 0)
        return merges;
    json_decref(merges);
    return status == ORR_ENOMEM ? made(NULL) : NULL;
}

/* Other vocabularies of this kind do not begin with a character for each byte, and are cut in other ways. */
static int check_alphabet(const char *path, const json_t *vocab)
{
    struct orri_text character = {0};
    int status = ORR_OK;

    for (int byte = 0; status == 0 && byte < 256; byte++) {
        const char spelled = (char)byte;
        character.size = 0;
        status = orri_bytes_spell(&spelled, 1, &character);
        if (status == 0)
            status = orri_text_add(&character, "", 1);
        if (status == 0 && !json_object_get(vocab, character.data))
            status = orri_remedy(orri_fail(ORR_EFORMAT, path, "is not byte-level: it has no token for byte %d", byte),
                                 "use the tokenizer.json of this tokenizer");
    }
    orri_text_free(&character);
    return status;
}

static json_t *roberta_processing(const json_t *vocab)
{
    const json_t *class = json_object_get(vocab, "<s>"), *separator = json_object_get(vocab, "</s>");

    if (!class || !separator)
        return json_null();
    return json_pack("{s:s, s:[s, I], s:[s, I]}", "type", "RobertaProcessing", "sep", "</s>", json_integer_value(separator), "cls",
                     "<s>", json_integer_value(class));
}

static json_t *bpe_object(json_t *vocab, json_t *merges, const struct orri_configs *configs)
{
    static const char *const gpt2[] = {"<|endoftext|>", NULL}, *const roberta[] = {"<s>", "</s>", "<unk>", "<pad>", "<mask>", NULL};
    const char *class = json_string_value(json_object_get(configs->config, "tokenizer_class"));
    bool is_roberta = class && strncmp(class, "Roberta", strlen("Roberta")) == 0;

    return made(json_pack("{s:o, s:o, s:o, s:o, s:{s:s, s:O, s:O}}", "added_tokens",
                          added_tokens(vocab, configs, is_roberta ? roberta : gpt2, is_roberta), "pre_tokenizer",
                          orri_byte_level_object(is_true(configs, "add_prefix_space", false)), "post_processor",
                          is_roberta ? roberta_processing(vocab) : json_null(), "decoder", orri_byte_level_object(true), "model",
                          "type", "BPE", "vocab", vocab, "merges", merges));
}

json_t *orri_bpe_object(const char *path, const struct orri_source *source, const char *merges_path, const struct orri_source *merges,
                        const struct orri_configs *configs)
{
    json_t *vocab, *list = NULL, *object = NULL;

    if (orri_json_parse(path, source->data, source->size, &vocab) != 0)
        return NULL;
    if (check_alphabet(path, vocab) == 0 && (list = read_merges(merges_path, merges)) != NULL)
        object = bpe_object(vocab, list, configs);
    json_decref(list);
    json_decref(vocab);
    return object;
}
