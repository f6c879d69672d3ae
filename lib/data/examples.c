/* SPDX-License-Identifier: Apache-2.0 */
#include <orrery/examples.h>

#include "core/core.h"
#include "data/paths.h"
#include "data/labels.h"
#include "io/io.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct file {
    char *path;
    struct orri_map map;
};

/* Where an example is: a line, or the lines of a sentence, without the end of the last. */
struct place {
    const char *at;
    size_t size;
    int file;
    int64_t line;
};

struct orr_examples {
    enum orr_format format;
    struct file *files;
    int file_count;
    struct place *places;
    int64_t count, capacity;
    struct orr_labels *labels;
};

static const char *const endings[] = {
    [ORR_FORMAT_TSV] = ".tsv",
    [ORR_FORMAT_CONLL] = ".conll",
    [ORR_FORMAT_PAIRS] = ".pairs",
};

/* ---- formats --------------------------------------------------------------------------------------- */

static enum orr_format format_of(const char *path)
{
    for (int f = ORR_FORMAT_TSV; f <= ORR_FORMAT_PAIRS; f++)
        if (orri_ends_with(path, endings[f]))
            return (enum orr_format)f;
    return ORR_FORMAT_TEXT;
}

/* The format of all files of a list. */
static int common_format(const struct orri_paths *files, enum orr_format *format)
{
    *format = format_of(files->items[0].path);
    for (size_t i = 1; i < files->count; i++)
        if (format_of(files->items[i].path) != *format)
            return orri_remedy(orri_fail(ORR_EFORMAT, files->items[i].path, "is of another kind than %s", files->items[0].path),
                               "give files with one ending: .tsv, .conll or .pairs, or say with --task what they are");
    return 0;
}

int orr_examples_format(const char *const *paths, int count, enum orr_format *format)
{
    struct orri_paths files = {0};

    *format = ORR_FORMAT_TEXT;
    int rc = orri_paths_find(&files, paths, count);
    if (rc == 0 && files.count)
        rc = common_format(&files, format);
    orri_paths_free(&files);
    return rc;
}

/* The format to read a list of files by: `wanted`, or what their endings tell. */
static int choose_format(const struct orri_paths *files, enum orr_format wanted, enum orr_format *format)
{
    *format = wanted;
    if (wanted == ORR_FORMAT_TEXT) {
        ORR_TRY(common_format(files, format));
        if (*format == ORR_FORMAT_TEXT)
            return orri_remedy(orri_fail(ORR_EFORMAT, files->items[0].path, "its ending tells no kind of labelled data"),
                               "call it .tsv, .conll or .pairs, or say with --task what it is");
        return 0;
    }
    for (size_t i = 0; i < files->count; i++) {
        enum orr_format own = format_of(files->items[i].path);
        if (own != ORR_FORMAT_TEXT && own != wanted)
            return orri_remedy(orri_fail(ORR_EFORMAT, files->items[i].path, "a %s file, where %s is wanted", endings[own],
                                         endings[wanted]), "give another --task, or other files");
    }
    return 0;
}

/* ---- lines ----------------------------------------------------------------------------------------- */

struct cursor {
    const char *path;
    const char *next, *end;
    int64_t line;               /* number of the line that was read last */
};

struct text {
    const char *at;
    size_t size;
};

/* Before the first line of a file, behind its byte order mark. */
static struct cursor begin(const struct file *file)
{
    const char *data = (const char *)file->map.data;
    const size_t mark = file->map.size >= 3 && memcmp(data, "\xef\xbb\xbf", 3) == 0 ? 3 : 0;

    return (struct cursor){file->path, data + mark, data + file->map.size, 0};
}

/* The next line without its end: false behind the last. */
static bool next_line(struct cursor *c, struct text *line)
{
    if (c->next == c->end)
        return false;
    const char *newline = memchr(c->next, '\n', (size_t)(c->end - c->next)), *stop = newline ? newline : c->end;
    line->at = c->next;
    line->size = (size_t)(stop - c->next);
    if (line->size && line->at[line->size - 1] == '\r')
        line->size--;
    c->next = newline ? newline + 1 : c->end;
    c->line++;
    return true;
}

/* Splits a line at its TABs: *count columns, of which the first `max` are kept. */
static void split_tabs(struct text line, struct text *columns, int max, int *count)
{
    const char *end = line.at + line.size;

    *count = 0;
    for (const char *at = line.at;; (*count)++) {
        const char *tab = memchr(at, '\t', (size_t)(end - at)), *stop = tab ? tab : end;
        if (*count < max)
            columns[*count] = (struct text){at, (size_t)(stop - at)};
        if (!tab)
            break;
        at = tab + 1;
    }
    (*count)++;
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

/* The number of columns between blanks, and the first and the last of them. */
static int split_blanks(struct text line, struct text *first, struct text *last)
{
    const char *at = line.at, *end = line.at + line.size;
    int count = 0;

    for (;;) {
        while (at < end && is_blank(*at))
            at++;
        if (at == end)
            return count;
        last->at = at;
        while (at < end && !is_blank(*at))
            at++;
        last->size = (size_t)(at - last->at);
        if (count++ == 0)
            *first = *last;
    }
}

/* ---- reading --------------------------------------------------------------------------------------- */

struct reader {
    struct orr_examples *examples;
    const struct orr_labels *given;
    struct orri_label_set found;    /* where none are given */
    int columns;                    /* of the lines so far; 0: none yet */
};

/* Adds the example of lines `line` to the cursor's, which begin at `at` and end before `stop`. */
static int add_example(struct orr_examples *e, const char *at, const char *stop, int64_t line)
{
    if (e->count == e->capacity) {
        int64_t capacity = e->capacity ? 2 * e->capacity : 1024;
        struct place *places = realloc(e->places, (size_t)capacity * sizeof(*places));
        if (!places)
            return orri_fail(ORR_ENOMEM, e->files[e->file_count - 1].path, "no room for %lld examples", (long long)capacity);
        e->places = places;
        e->capacity = capacity;
    }
    e->places[e->count++] = (struct place){at, (size_t)(stop - at), e->file_count - 1, line};
    return 0;
}

static int bad(const struct cursor *c, const char *what, const char *remedy)
{
    return orri_remedy(orri_fail_line(c->path, c->line, "%s", what), "%s", remedy);
}

static int other_columns(const struct reader *r, const struct cursor *c, int count)
{
    return orri_remedy(orri_fail_line(c->path, c->line, "has %d columns, the lines before it %d", count, r->columns),
                       "give every line as many columns");
}

/* "the labels are: a, b, c" */
static void list_labels(const struct orr_labels *labels, char *text, size_t size)
{
    const char *const *names = orr_labels_names(labels);
    size_t used = (size_t)snprintf(text, size, "the labels are:");

    for (int i = 0; i < orr_labels_count(labels); i++) {
        if (used + strlen(names[i]) + 8 > size) {
            snprintf(text + used, size - used, " ...");
            return;
        }
        used += (size_t)snprintf(text + used, size - used, "%s %s", i ? "," : "", names[i]);
    }
}

/* No more of a name than fits into a message. */
static int shown(struct text text)
{
    return text.size > 64 ? 64 : (int)text.size;
}

/* A label that must be one of those given, or is collected. */
static int take_label(struct reader *r, const struct cursor *c, struct text label)
{
    char remedy[256];

    if (!r->given) {
        int rc = orri_label_set_add(&r->found, label.at, label.size);
        if (rc != ORR_EFORMAT)
            return rc;
        return orri_remedy(orri_fail_line(c->path, c->line, "%s", orr_error() + strlen("labels: ")),
                           r->examples->format == ORR_FORMAT_TSV ? "put the label into the first column, LABEL<TAB>TEXT"
                                                                 : "put the tag into the last column");
    }
    if (orr_labels_find(r->given, label.at, label.size) >= 0)
        return 0;
    list_labels(r->given, remedy, sizeof(remedy));
    return orri_remedy(orri_fail_line(c->path, c->line, "\"%.*s\" is none of the %d labels", shown(label), label.at,
                                      orr_labels_count(r->given)), "%s", remedy);
}

static int read_tsv_line(struct reader *r, const struct cursor *c, struct text line)
{
    struct text columns[3];
    int count;

    split_tabs(line, columns, 3, &count);
    if (count < 2)
        return bad(c, "has one column", "write LABEL<TAB>TEXT");
    if (count > 3)
        return bad(c, "has more than three columns", "write LABEL<TAB>TEXT or LABEL<TAB>TEXT<TAB>TEXT, with blanks for TABs in "
                       "texts");
    if (r->columns && count != r->columns)
        return other_columns(r, c, count);
    r->columns = count;
    if (!columns[0].size)
        return bad(c, "the label is empty", "write LABEL<TAB>TEXT");
    if (!columns[1].size || (count == 3 && !columns[2].size))
        return bad(c, "the text is empty", "give a text, or take the line out");
    ORR_TRY(take_label(r, c, columns[0]));
    return add_example(r->examples, line.at, line.at + line.size, c->line);
}

static int read_pairs_line(struct reader *r, const struct cursor *c, struct text line)
{
    struct text columns[2];
    int count;

    split_tabs(line, columns, 2, &count);
    if (count != 2)
        return bad(c, count < 2 ? "has one column" : "has more than two columns", "write SOURCE<TAB>TARGET");
    if (!columns[0].size || !columns[1].size)
        return bad(c, columns[0].size ? "the target is empty" : "the source is empty", "give a text, or take the line out");
    return add_example(r->examples, line.at, line.at + line.size, c->line);
}

static bool is_tag(struct text tag)
{
    if (tag.size == 1)
        return tag.at[0] == 'O';
    return tag.size > 2 && memchr("BIES", tag.at[0], 4) && tag.at[1] == '-';
}

static int read_token(struct reader *r, const struct cursor *c, int count, struct text tag)
{
    if (count < 2)
        return bad(c, "has one column", "write a word, a blank or TAB, and its tag");
    if (r->columns && count != r->columns)
        return other_columns(r, c, count);
    r->columns = count;
    if (!is_tag(tag))
        return orri_remedy(orri_fail_line(c->path, c->line, "\"%.*s\" is no tag", shown(tag), tag.at),
                           "write O, or B- or I- and a type, in the last column");
    return take_label(r, c, tag);
}

/* Is this the beginning of a document, which has no tag of its own? */
static bool is_document(struct text line)
{
    static const char mark[] = "-DOCSTART-";

    return line.size >= sizeof(mark) - 1 && memcmp(line.at, mark, sizeof(mark) - 1) == 0;
}

static int check_zeros(const struct cursor *c, struct text line)
{
    if (!memchr(line.at, '\0', line.size))
        return 0;
    return bad(c, "has a zero byte", "give a text file");
}

static int read_sentences(struct reader *r, struct cursor *c)
{
    const char *from = NULL, *stop = NULL;      /* of the sentence so far */
    int64_t first = 0;
    struct text line, word, tag;

    r->columns = 0;
    while (next_line(c, &line)) {
        ORR_TRY(check_zeros(c, line));
        int count = is_document(line) ? 0 : split_blanks(line, &word, &tag);
        if (count == 0) {
            if (from)
                ORR_TRY(add_example(r->examples, from, stop, first));
            from = NULL;
            continue;
        }
        ORR_TRY(read_token(r, c, count, tag));
        if (!from) {
            from = line.at;
            first = c->line;
        }
        stop = line.at + line.size;
    }
    return from ? add_example(r->examples, from, stop, first) : 0;
}

static int read_lines(struct reader *r, struct cursor *c)
{
    struct text line;

    while (next_line(c, &line)) {
        if (line.size == 0)
            continue;
        ORR_TRY(check_zeros(c, line));
        ORR_TRY(r->examples->format == ORR_FORMAT_TSV ? read_tsv_line(r, c, line) : read_pairs_line(r, c, line));
    }
    return 0;
}

/* Takes the path. */
static int read_file(struct reader *r, char *path, bool given)
{
    struct orr_examples *e = r->examples;
    struct file *file = &e->files[e->file_count++];
    const int64_t before = e->count;

    file->path = path;
    ORR_TRY(orri_map_open(&file->map, path, !given));
    struct cursor c = begin(file);
    ORR_TRY(e->format == ORR_FORMAT_CONLL ? read_sentences(r, &c) : read_lines(r, &c));
    if (given && e->count == before)
        return orri_remedy(orri_fail(ORR_EFORMAT, path, "holds no examples, only empty lines"), "give a file with examples");
    return 0;
}

static int read_all(struct reader *r, struct orri_paths *files, const char *first)
{
    struct orr_examples *e = r->examples;

    e->files = orri_calloc(files->count, sizeof(*e->files));
    if (!e->files)
        return ORR_ENOMEM;
    for (size_t i = 0; i < files->count; i++) {
        char *path = files->items[i].path;
        files->items[i].path = NULL;
        ORR_TRY(read_file(r, path, files->items[i].given));
    }
    if (e->count == 0)
        return orri_remedy(orri_fail(ORR_EFORMAT, first, "no examples: every file is empty"), "give files with examples");
    if (e->format == ORR_FORMAT_PAIRS)
        return 0;
    e->labels = r->given ? orr_labels_create(orr_labels_names(r->given), orr_labels_count(r->given))
                         : orri_label_set_finish(&r->found);
    return e->labels ? 0 : ORR_ENOMEM;
}

struct orr_examples *orr_examples_open(const char *const *paths, int count, enum orr_format format,
                                       const struct orr_labels *labels)
{
    struct orri_paths files = {0};

    if (count < 1) {
        orri_fail(ORR_EINVAL, "data", "no files are given");
        return NULL;
    }
    struct reader r = {orri_calloc(1, sizeof(*r.examples)), labels, {0}, 0};
    if (!r.examples)
        return NULL;
    int rc = orri_paths_find(&files, paths, count);
    if (rc == 0)
        rc = choose_format(&files, format, &r.examples->format);
    if (rc == 0)
        rc = read_all(&r, &files, paths[0]);
    orri_paths_free(&files);
    orri_label_set_free(&r.found);
    if (rc != 0) {
        orr_examples_destroy(r.examples);
        return NULL;
    }
    return r.examples;
}

void orr_examples_destroy(struct orr_examples *examples)
{
    if (!examples)
        return;
    for (int i = 0; i < examples->file_count; i++) {
        orri_map_close(&examples->files[i].map);
        free(examples->files[i].path);
    }
    free(examples->files);
    free(examples->places);
    orr_labels_destroy(examples->labels);
    free(examples);
}

/* ---- asking ---------------------------------------------------------------------------------------- */

enum orr_format orr_examples_kind(const struct orr_examples *examples)
{
    return examples->format;
}

int64_t orr_examples_count(const struct orr_examples *examples)
{
    return examples->count;
}

const struct orr_labels *orr_examples_labels(const struct orr_examples *examples)
{
    return examples->labels;
}

uint64_t orr_examples_fingerprint(const struct orr_examples *examples)
{
    uint64_t hash = orri_hash(ORRI_HASH, &examples->count, sizeof(examples->count));

    for (int64_t i = 0; i < examples->count; i++) {
        hash = orri_hash(hash, &examples->places[i].size, sizeof(examples->places[i].size));
        hash = orri_hash(hash, examples->places[i].at, examples->places[i].size);
    }
    for (int i = 0; examples->labels && i < orr_labels_count(examples->labels); i++) {
        const char *name = orr_labels_names(examples->labels)[i];
        hash = orri_hash(hash, name, strlen(name) + 1);
    }
    return hash;
}

void orr_examples_get(const struct orr_examples *examples, int64_t i, struct orr_example *example)
{
    const struct place *p = &examples->places[i];
    struct text columns[3] = {0};
    int count;

    *example = (struct orr_example){.file = examples->files[p->file].path, .line = p->line, .label = -1};
    if (examples->format == ORR_FORMAT_CONLL)
        return;
    const bool labelled = examples->format == ORR_FORMAT_TSV;
    split_tabs((struct text){p->at, p->size}, columns, 3, &count);
    if (labelled)
        example->label = orr_labels_find(examples->labels, columns[0].at, columns[0].size);
    example->first = columns[labelled].at;
    example->first_size = columns[labelled].size;
    example->second = columns[labelled + 1].at;
    example->second_size = columns[labelled + 1].size;
}

/* Appends a word, ended by a zero byte, at *memory. */
static void add_word(struct orr_sentence *s, char **memory, struct text word, int tag)
{
    s->words[s->count] = memcpy(*memory, word.at, word.size);
    s->tags[s->count++] = tag;
    *memory += word.size;
    *(*memory)++ = '\0';
}

int orr_examples_sentence(const struct orr_examples *examples, int64_t i, struct orr_sentence *sentence)
{
    const struct place *p = &examples->places[i];
    struct cursor c = {examples->files[p->file].path, p->at, p->at + p->size, p->line - 1};
    struct text line, word = {0}, tag = {0};
    size_t lines = 1;

    *sentence = (struct orr_sentence){0};
    if (examples->format != ORR_FORMAT_CONLL)
        return orri_fail(ORR_EINVAL, c.path, "holds no sentences with tags");
    for (const char *at = p->at; (at = memchr(at, '\n', (size_t)(c.end - at))); at++)
        lines++;
    /* One piece of memory: the words are no longer than their lines, whose ends are the zero bytes. */
    sentence->words = orri_alloc(lines * sizeof(*sentence->words) + p->size + 1);
    sentence->tags = orri_alloc(lines * sizeof(*sentence->tags));
    if (!sentence->words || !sentence->tags) {
        orr_sentence_free(sentence);
        return ORR_ENOMEM;
    }
    char *memory = (char *)(sentence->words + lines);
    while (next_line(&c, &line)) {
        split_blanks(line, &word, &tag);
        add_word(sentence, &memory, word, orr_labels_find(examples->labels, tag.at, tag.size));
    }
    return 0;
}

void orr_sentence_free(struct orr_sentence *sentence)
{
    free(sentence->words);
    free(sentence->tags);
    *sentence = (struct orr_sentence){0};
}
