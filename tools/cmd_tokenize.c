/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/tools.h"

static const char *name, *model, *train;
static int64_t vocab_size;
static struct list files, special;
static bool decode;

static struct setting table[] = {
    SETTING("tokenizer", "T", "bytes (default), a tokenizer.json, vocabulary files or their directory", OPTION_TEXT, &name, 0, 0,
     false),
    SETTING("model", "DIR", "the tokenizer in a model's directory", OPTION_TEXT, &model, 0, 0, false),
    SETTING("data", "FILE", "read lines from a file (default: standard input); repeatable", OPTION_LIST, &files, 0, 0, false),
    SETTING("decode", NULL, "turn lines of ids back into text", OPTION_FLAG, &decode, 0, 0, false),
    SETTING("train", "FILE.json", "make a byte-level byte-pair encoding from --data, and write it there", OPTION_TEXT, &train, 0, 0,
     false),
    SETTING("vocab-size", "N", "with --train: how many tokens", OPTION_INT, &vocab_size, 0, INT_MAX, false),
    SETTING("special", "TOKEN", "with --train: a special token, which comes first; repeatable", OPTION_LIST, &special, 0, 0, false),
    {0},
};

static struct setting *const tables[] = {table, NULL};

static int encode_line(const struct orr_tokenizer *tokenizer, const char *line, size_t length)
{
    int32_t *ids;
    size_t count;

    ORR_TRY(orr_tokenizer_encode(tokenizer, line, length, &ids, &count));
    for (size_t i = 0; i < count; i++)
        printf(i ? " %d" : "%d", ids[i]);
    putchar('\n');
    free(ids);
    return ORR_OK;
}

static int decode_line(const struct orr_tokenizer *tokenizer, char *line, const char *where)
{
    struct sequences s = {0};
    char *text;
    size_t size;

    ORR_TRY(add_sequence(&s, line, where));
    int status = s.count ? orr_tokenizer_decode(tokenizer, s.ids[0], (size_t)s.length[0], &text, &size) : ORR_OK;
    if (status == 0 && s.count) {
        fwrite(text, 1, size, stdout);
        free(text);
    }
    putchar('\n');
    free_sequences(&s);
    return status;
}

static int each_line(const struct orr_tokenizer *tokenizer, FILE *f, const char *path)
{
    char *line = NULL, where[512];
    size_t size = 0;
    int status = ORR_OK;
    ssize_t length;

    for (long number = 1; status == 0 && (length = getline(&line, &size, f)) >= 0; number++) {
        if (length > 0 && line[length - 1] == '\n')
            line[--length] = '\0';
        snprintf(where, sizeof(where), "%s:%ld", path, number);
        status = decode ? decode_line(tokenizer, line, where) : encode_line(tokenizer, line, (size_t)length);
    }
    if (status == 0 && ferror(f))
        status = command_fail(ORR_ENOENT, "%s: cannot be read: %s", path, strerror(errno));
    free(line);
    return status;
}

static int each_file(const struct orr_tokenizer *tokenizer)
{
    if (files.count == 0)
        return each_line(tokenizer, stdin, "standard input");
    for (int i = 0; i < files.count; i++) {
        FILE *f = fopen(files.item[i], "r");
        if (!f)
            return command_fail(ORR_ENOENT, "%s: cannot be opened: %s", files.item[i], strerror(errno));
        int status = each_line(tokenizer, f, files.item[i]);
        fclose(f);
        ORR_TRY(status);
    }
    return ORR_OK;
}

static int convert(void)
{
    if (vocab_size || special.count)
        return command_remedy(command_fail(ORR_EINVAL, "--%s: there is no --train", vocab_size ? "vocab-size" : "special"),
                              "name the file to write with --train");
    if (name && model)
        return command_remedy(command_fail(ORR_EINVAL, "--model: there is --tokenizer, too"), "give one of them");
    struct orr_tokenizer *tokenizer = open_tokenizer(name, model);
    int status = tokenizer ? each_file(tokenizer) : orr_error_code();
    orr_tokenizer_destroy(tokenizer);
    return status;
}

static int make(void)
{
    if (name || model || decode)
        return command_remedy(command_fail(ORR_EINVAL, "--train: there is --%s, too",
                                           name ? "tokenizer" : model ? "model" : "decode"),
                              "give one of them");
    if (vocab_size == 0)
        return command_remedy(command_fail(ORR_EINVAL, "--vocab-size: is missing"), "say how many tokens, as in --vocab-size 8000");
    if (files.count == 0)
        return command_remedy(command_fail(ORR_EINVAL, "--data: is missing"), "name the text files to train on");
    return orr_tokenizer_train(files.item, files.count, (int)vocab_size, special.item, special.count, train);
}

int cmd_tokenize(int argc, char **argv)
{
    int status = options_parse("tokenize", "Turns text lines into ids, one line per line, or back; or makes a tokenizer.", tables,
                               argc, argv);

    if (status == 0)
        status = train ? make() : convert();
    return status;
}
