/* SPDX-License-Identifier: Apache-2.0 */
/* Command-line options as tables, parsed by argp. */
#ifndef TOOLS_OPTIONS_H
#define TOOLS_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

enum kind {
    OPTION_INT,         /* int64_t, from min to max                 */
    OPTION_REAL,        /* double, from min to max                  */
    OPTION_TEXT,        /* const char *                             */
    OPTION_FLAG,        /* bool                                     */
    OPTION_LIST,        /* struct list; repeatable                  */
    OPTION_ARGUMENT     /* const char *; a word without a name, by its place; `name` is what the help calls it */
};

struct list {
    const char **item;
    int count;
};

/* One option. With `environment` the variable ORRERY_SOME_NAME is read for --some-name, which wins. */
struct setting {
    const char *name;
    const char *value;          /* what its value is called in the help; NULL for flags     */
    const char *help;
    enum kind kind;
    void *target;
    double min, max;            /* of numbers */
    bool environment;
    bool given;                 /* set when it was in the arguments or the environment      */
    const char *text;           /* its value as it was given last                           */
};

#define SETTING(name, value, help, kind, target, min, max, environment) \
    {name, value, help, kind, target, min, max, environment, false, NULL}

enum { HELP_GIVEN = 1 };

/* Parses argv[1..] of a sub-command by several tables (each ended by a NULL name; the list ended by NULL). Collective:
 * all ranks must have been given the same, --threads aside. Returns 0, HELP_GIVEN where it printed help, or an error. */
int options_parse(const char *command, const char *summary, struct setting *const tables[], int argc, char **argv);

/* Whether the option called `name` of a table was given. */
bool options_given(const struct setting *table, const char *name);

/* Forgets what was parsed, targets aside, and empties the lists: before the tables are parsed again. */
void options_reset(struct setting *const tables[]);

/* The options that were given, as arguments that would give them again, all but those called `except`, ended by NULL. */
struct arguments {
    const char **item;
    int count;
};
int arguments_collect(struct arguments *arguments, struct setting *const tables[], const char *const *except);
void arguments_free(struct arguments *arguments);

#endif
