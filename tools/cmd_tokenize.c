/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/tools.h"

static const char *name = "bytes";
static struct list files;
static bool decode;

static struct setting table[] = {
    SETTING("tokenizer", "T", "bytes (default)", OPTION_TEXT, &name, 0, 0, false),
    SETTING("data", "FILE", "read lines from a file (default: standard input); repeatable", OPTION_LIST, &files, 0, 0, false),
    SETTING("decode", NULL, "turn lines of ids back into text", OPTION_FLAG, &decode, 0, 0, false),
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

int cmd_tokenize(int argc, char **argv)
{
    struct orr_tokenizer *tokenizer = NULL;
    int status = options_parse("tokenize", "Turns text lines into ids, one line per line, or back.", tables, argc, argv);

    if (status == 0 && !(tokenizer = orr_tokenizer_open(name)))
        status = orr_error_code();
    if (status == 0 && files.count == 0)
        status = each_line(tokenizer, stdin, "standard input");
    for (int i = 0; status == 0 && i < files.count; i++) {
        FILE *f = fopen(files.item[i], "r");
        if (!f) {
            status = command_fail(ORR_ENOENT, "%s: cannot be opened: %s", files.item[i], strerror(errno));
            break;
        }
        status = each_line(tokenizer, f, files.item[i]);
        fclose(f);
    }
    orr_tokenizer_destroy(tokenizer);
    return status;
}
