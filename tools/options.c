/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/options.h"

#include <argp.h>
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <orrery/error.h>

#include "tools/tools.h"

enum { HELP_KEY = 'h', FIRST_KEY = 1000 };

struct parse {
    const char *command;
    const struct argp *argp;
    struct setting **option;     /* by key */
    int count;
    struct setting *argument;   /* the word without a name, or NULL */
    int status;
};

static int bad_number(const struct setting *o, const char *where, const char *text)
{
    if (o->kind == OPTION_INT)
        return command_fail(ORR_EINVAL, "%s: '%s' is no whole number from %.0f to %.0f", where, text, o->min, o->max);
    return command_fail(ORR_EINVAL, "%s: '%s' is no number from %g to %.12g", where, text, o->min, o->max);
}

static int set(struct setting *o, const char *where, const char *text)
{
    char *end;

    errno = 0;
    switch (o->kind) {
    case OPTION_INT: {
        long long value = strtoll(text, &end, 10);
        if (*text == '\0' || *end != '\0' || errno != 0 || (double)value < o->min || (double)value > o->max)
            return bad_number(o, where, text);
        *(int64_t *)o->target = value;
        break;
    }
    case OPTION_REAL: {
        double value = strtod(text, &end);
        if (*text == '\0' || *end != '\0' || !(value >= o->min && value <= o->max))
            return bad_number(o, where, text);
        *(double *)o->target = value;
        break;
    }
    case OPTION_TEXT:
    case OPTION_ARGUMENT: *(const char **)o->target = text; break;
    case OPTION_FLAG: *(bool *)o->target = !text || strcmp(text, "0") != 0; break;
    case OPTION_LIST: {
        struct list *list = o->target;
        const char **more = realloc(list->item, (size_t)(list->count + 1) * sizeof(*more));
        if (!more)
            return command_fail(ORR_ENOMEM, "%s: no room for another", where);
        list->item = more;
        list->item[list->count++] = text;
        break;
    }
    }
    o->given = true;
    o->text = text;
    return 0;
}

/* What getopt could not take: no option, several that begin so, one without its value or with one too many. */
static int bad_option(const struct parse *p, const char *text)
{
    const char *name = text + strspn(text, "-");
    size_t length = strcspn(name, "=");
    const struct setting *found = NULL;
    int matches = 0;

    for (int i = 0; i < p->count; i++) {
        if (strncmp(p->option[i]->name, name, length) == 0) {
            found = p->option[i];
            matches++;
        }
    }
    if (matches > 1)
        command_fail(ORR_EINVAL, "%.60s: is the beginning of %d options", text, matches);
    else if (matches == 0 || strncmp(text, "--", 2) != 0)
        command_fail(ORR_EINVAL, "%.60s: is no option of %s", text, p->command);
    else if (found->kind == OPTION_FLAG)
        command_fail(ORR_EINVAL, "--%s: takes no value", found->name);
    else
        return command_remedy(command_fail(ORR_EINVAL, "--%s: has no value", found->name), "write --%s %s", found->name,
                              found->value);
    return command_remedy(ORR_EINVAL, "'orrery %s --help' lists the options", p->command);
}

static error_t parse_one(int key, char *arg, struct argp_state *state)
{
    struct parse *p = state->input;

    if (key == ARGP_KEY_ERROR && p->status == 0)
        p->status = bad_option(p, state->argv[state->next - 1]);
    if (key == HELP_KEY) {
        argp_help(p->argp, stdout, ARGP_HELP_STD_HELP, state->argv[0]);
        p->status = HELP_GIVEN;
        return EINVAL;
    }
    if (key == ARGP_KEY_ARG && p->argument && !p->argument->given)
        return set(p->argument, p->argument->name, arg);
    if (key == ARGP_KEY_ARG) {
        p->status = command_remedy(command_fail(ORR_EINVAL, "%s: '%s' is no option", p->command, arg),
                                   "'orrery %s --help' lists the options", p->command);
        return EINVAL;
    }
    if (key < FIRST_KEY || key >= FIRST_KEY + p->count)
        return ARGP_ERR_UNKNOWN;
    struct setting *o = p->option[key - FIRST_KEY];
    char where[80];
    snprintf(where, sizeof(where), "--%s", o->name);
    p->status = set(o, where, arg);
    return p->status ? EINVAL : 0;
}

static int read_environment(struct parse *p)
{
    for (int i = 0; i < p->count; i++) {
        struct setting *o = p->option[i];
        char name[80] = "ORRERY_";
        size_t n = strlen(name);
        if (!o->environment)
            continue;
        for (const char *c = o->name; *c && n < sizeof(name) - 1; c++)
            name[n++] = *c == '-' ? '_' : (char)toupper((unsigned char)*c);
        const char *text = getenv(name);
        if (text && set(o, name, text) != 0)
            return ORR_EINVAL;
    }
    return 0;
}

/* One option per line, as they were given. How many workers a rank has is its own affair. */
static int agree(struct setting *const given[])
{
    struct arguments a = {0};
    char *text = NULL;
    size_t size;
    int status = arguments_collect(&a, given, (const char *const[]){"threads", NULL});
    FILE *f = status == 0 ? open_memstream(&text, &size) : NULL;

    for (int i = 0; f && i < a.count; i++)
        fprintf(f, "%s\n", a.item[i]);
    if (status == 0 && (!f || fclose(f) != 0))
        status = command_fail(ORR_ENOMEM, "memory: no room for the options");
    status = orr_ranks_settle(status);
    if (status == 0)
        status = orr_ranks_agree("options", text);
    free(text);
    arguments_free(&a);
    return status;
}

/* The summary and, behind the list of options (argp's \v), what can be set from outside. */
static void describe(const struct parse *p, const char *summary, char *text, size_t size)
{
    size_t used = (size_t)snprintf(text, size, "%s", summary);
    const char *separator = "\v";

    for (int i = 0; i < p->count && used < size; i++) {
        if (!p->option[i]->environment)
            continue;
        used += (size_t)snprintf(text + used, size - used, "%s--%s", separator, p->option[i]->name);
        separator = ", ";
    }
    if (*separator == ',' && used < size)
        snprintf(text + used, size - used, " can be set by environment variables too, as in ORRERY_DP=2; the option wins.");
}

int options_parse(const char *command, const char *summary, struct setting *const tables[], int argc, char **argv)
{
    struct parse p = {.command = command};
    int count = 0;

    for (int t = 0; tables[t]; t++)
        for (struct setting *o = tables[t]; o->name; o++)
            count++;
    p.option = calloc((size_t)count, sizeof(*p.option));
    struct argp_option *known = calloc((size_t)count + 2, sizeof(*known));
    if (!p.option || !known) {
        free(p.option);
        free(known);
        return command_fail(ORR_ENOMEM, "memory: no room for the options");
    }
    for (int t = 0; tables[t]; t++) {
        for (struct setting *o = tables[t]; o->name; o++) {
            if (o->kind == OPTION_ARGUMENT) {
                p.argument = o;
                continue;
            }
            known[p.count] = (struct argp_option){.name = o->name,
                                                  .key = FIRST_KEY + p.count,
                                                  .arg = o->kind == OPTION_FLAG ? NULL : o->value,
                                                  .doc = o->help,
                                                  .group = t + 1};
            p.option[p.count++] = o;
        }
    }
    known[p.count] = (struct argp_option){.name = "help", .key = HELP_KEY, .doc = "print this list", .group = -1};
    char name[64], doc[512];
    snprintf(name, sizeof(name), "orrery %s", command);
    describe(&p, summary, doc, sizeof(doc));
    char *program = argv[0];
    argv[0] = name;
    struct argp argp = {.options = known, .parser = parse_one,
                        .args_doc = p.argument ? p.argument->name : NULL, .doc = doc};
    p.argp = &argp;
    int status = read_environment(&p);
    if (status == 0 && argp_parse(&argp, argc, argv, ARGP_NO_ERRS | ARGP_NO_HELP, NULL, &p) != 0)
        status = p.status ? p.status : ORR_EINVAL;
    argv[0] = program;
    free(p.option);
    free(known);
    return status == 0 ? agree(tables) : status;
}

bool options_given(const struct setting *table, const char *name)
{
    while (table->name && strcmp(table->name, name) != 0)
        table++;
    return table->name && table->given;
}

void options_reset(struct setting *const tables[])
{
    for (int t = 0; tables[t]; t++) {
        for (struct setting *o = tables[t]; o->name; o++) {
            o->given = false;
            if (o->kind == OPTION_LIST)
                ((struct list *)o->target)->count = 0;
        }
    }
}

static int add_argument(struct arguments *a, const char *name, const char *text)
{
    const char **more = realloc(a->item, (size_t)(a->count + 1) * sizeof(*more));
    char *argument = NULL;

    if (more)
        a->item = more;
    if (!more || asprintf(&argument, text ? "--%s=%s" : "--%s", name, text) < 0)
        return command_fail(ORR_ENOMEM, "memory: no room for the arguments");
    a->item[a->count++] = argument;
    return 0;
}

static bool is_one_of(const char *name, const char *const *names)
{
    while (*names && strcmp(*names, name) != 0)
        names++;
    return *names != NULL;
}

int arguments_collect(struct arguments *a, struct setting *const tables[], const char *const *except)
{
    for (int t = 0; tables[t]; t++) {
        for (const struct setting *o = tables[t]; o->name; o++) {
            const struct list *list = o->target;
            if (!o->given || is_one_of(o->name, except))
                continue;
            for (int i = 0; i < (o->kind == OPTION_LIST ? list->count : 1); i++)
                ORR_TRY(add_argument(a, o->name, o->kind == OPTION_LIST ? list->item[i] : o->text));
        }
    }
    return 0;
}

void arguments_free(struct arguments *a)
{
    for (int i = 0; i < a->count; i++)
        free((char *)a->item[i]);
    free(a->item);
}
