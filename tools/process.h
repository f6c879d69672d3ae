/* SPDX-License-Identifier: Apache-2.0 */
/* Processes that a command starts and waits for, one at a time. */
#ifndef TOOLS_PROCESS_H
#define TOOLS_PROCESS_H

#include <stdbool.h>
#include <stdio.h>

#include "tools/options.h"

/* A command line, ended by NULL. */
struct words {
    char **item;
    int count;
};

int words_add(struct words *w, const char *text);
int words_add_self(struct words *w, const char *command, const struct arguments *arguments);   /* this program's COMMAND */
void words_free(struct words *w);

/* The exit status of a process that could not be started. */
enum { CANNOT_START = 127 };

struct process {
    const struct words *words;
    void (*prepare)(const void *context);   /* called in it before the program is, unless NULL      */
    const void *context;
    FILE *out, *err;                        /* files for what it prints; NULL: where this one's goes */
};

/* Runs it to its end; it ends with this process. Returns its exit status, 128 + number for a signal, or a negative error. */
int process_run(const struct process *p);

/* From here on SIGINT and SIGTERM go to the process that runs; whether one has come. */
void process_forward_signals(void);
bool process_stopped(void);

/* The path of a file that comes with Orrery: `built` below the build tree, where the executable is of one, else `installed` below
 * share/orrery, beside the executable's folder or where make install has put it. It need not exist. */
int process_data(char *path, size_t size, const char *built, const char *installed);

/* Whether mpiexec or its like has started this one. */
bool process_launched(void);

#endif
