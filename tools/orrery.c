/* SPDX-License-Identifier: Apache-2.0 */
/* The command: finds the sub-command, prints its failure, maps it to an exit status. */
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/tools.h"

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *does;
} commands[] = {
    {"train", cmd_train, "train or fine-tune a model; write checkpoints and metrics"},
    {"eval", cmd_eval, "loss and perplexity on text"},
    {"generate", cmd_generate, "text from a prompt"},
    {"logits", cmd_logits, "logits of token sequences, to a file"},
    {"grads", cmd_grads, "loss and gradients of token sequences, to a file"},
    {"tokenize", cmd_tokenize, "text lines to ids, and back"},
    {"bench", cmd_bench, "time training steps on random tokens"},
    {"info", cmd_info, "version, machine, workers, blocks"},
};

static void usage(FILE *out)
{
    fprintf(out, "Usage: orrery COMMAND [OPTIONS]\n\nTrains and runs Transformers as a task graph on StarPU.\n\n");
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
        fprintf(out, "  %-10s %s\n", commands[i].name, commands[i].does);
    fprintf(out, "\n'orrery COMMAND --help' tells a command's options, 'orrery --version' the version.\n");
}

/* The library keeps code, message and remedy of a thread's last failure; the command's own go the same way. */
static char own_message[512], own_remedy[512];

int command_fail(int code, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(own_message, sizeof(own_message), format, args);
    va_end(args);
    own_remedy[0] = '\0';
    return code;
}

int command_remedy(int code, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(own_remedy, sizeof(own_remedy), format, args);
    va_end(args);
    return code;
}

static int exit_status(int code)
{
    switch (code) {
    case ORR_OK: return 0;
    case ORR_EINVAL:
    case ORR_EFORMAT:
    case ORR_ENOENT: return 2;
    case ORR_ENOFIT: return 3;
    case ORR_EINTR: return 130;
    default: return 1;
    }
}

int main(int argc, char **argv)
{
    /* A full disk or a file size limit must come back as an error of write(). */
    signal(SIGXFSZ, SIG_IGN);
    setenv("STARPU_SILENT", "1", 0);
    if (argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "help") == 0)) {
        usage(stdout);
        return 0;
    }
    if (argc > 1 && strcmp(argv[1], "--version") == 0) {
        printf("orrery %s\n", orr_version());
        return 0;
    }
    for (size_t i = 0; argc > 1 && i < sizeof(commands) / sizeof(commands[0]); i++) {
        if (strcmp(argv[1], commands[i].name) != 0)
            continue;
        int code = commands[i].run(argc - 1, argv + 1);
        const char *message = own_message[0] ? own_message : orr_error();
        const char *remedy = own_message[0] ? own_remedy : orr_error_remedy();
        fflush(stdout);
        if (code != 0)
            fprintf(stderr, "orrery: %s\n", message);
        if (code != 0 && remedy[0])
            fprintf(stderr, "orrery: %s\n", remedy);
        orr_shutdown();
        if (code == 0 && (fflush(stdout) != 0 || ferror(stdout))) {
            fprintf(stderr, "orrery: standard output: cannot be written\n");
            return 1;
        }
        return exit_status(code);
    }
    if (argc > 1)
        fprintf(stderr, "orrery: '%s' is no command\norrery: 'orrery --help' lists them\n", argv[1]);
    else
        usage(stderr);
    return 2;
}
