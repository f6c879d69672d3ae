/* SPDX-License-Identifier: Apache-2.0 */
/* The command: finds the sub-command, prints its failure, maps it to an exit status. */
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/compare.h"
#include "tools/selftest.h"
#include "tools/supervise.h"
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
    {"convert", cmd_convert, "a model's files in another dtype, or divided otherwise"},
    {"bench", cmd_bench, "time training steps on random tokens"},
    {"trace", cmd_trace, "turn the trace of a run into pictures and tables"},
    {"info", cmd_info, "version, machine, workers, blocks"},
    {"selftest", cmd_selftest, "whether a CUDA device computes what the CPU does"},
};

static void usage(FILE *out)
{
    fprintf(out, "Usage: orrery COMMAND [OPTIONS]\n\nTrains and runs Transformers as a task graph on StarPU.\n\n");
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
        fprintf(out, "  %-10s %s\n", commands[i].name, commands[i].does);
    fprintf(out, "\n'orrery COMMAND --help' tells a command's options, 'orrery --version' the version. To begin with:\n\n"
                 "  orrery train --model tiny-gpt2 --data FILE --steps 1000 --out run\n"
                 "  orrery generate --model run --prompt TEXT\n");
}

int command_fail(int code, const char *format, ...)
{
    char message[512];
    va_list args;

    va_start(args, format);
    vsnprintf(message, sizeof(message), format, args);
    va_end(args);
    return orr_error_set(code, message, "");
}

int command_remedy(int code, const char *format, ...)
{
    char remedy[512];
    va_list args;

    va_start(args, format);
    vsnprintf(remedy, sizeof(remedy), format, args);
    va_end(args);
    return orr_error_set(code, orr_error(), remedy);
}

static int exit_status(int code)
{
    switch (code) {
    case ORR_OK:
    case HELP_GIVEN: return 0;
    case SELFTEST_SKIPPED: return SELFTEST_SKIPPED;
    case ORR_EINVAL:
    case ORR_EFORMAT:
    case ORR_ENOENT: return 2;
    case ORR_ENOFIT: return 3;
    case ORR_EINTR: return 130;
    case ORR_ENONFINITE: return getenv("ORRERY_RESTART") ? FAILS_AGAIN : 1;
    default: return 1;
    }
}

/* ---- standard streams ------------------------------------------------------------------------------------ */

/* A descriptor that the caller closed would be given to the next file that is opened, and the progress be written
 * into a checkpoint. These fail instead. */
static void occupy_streams(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0)
            (void)!open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY);
}

static bool failed;

/* At exit, because argp ends the process itself after printing help. What failed otherwise has been told. */
static void check_output(void)
{
    if (failed || (fflush(stdout) == 0 && !ferror(stdout)))
        return;
    fprintf(stderr, "orrery: standard output: cannot be written\n");
    _exit(1);
}

/* ---- the command ----------------------------------------------------------------------------------------------- */

static int run_command(int argc, char **argv)
{
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
        if (strcmp(argv[0], commands[i].name) == 0)
            return commands[i].run(argc, argv);
    return command_remedy(command_fail(ORR_EINVAL, "%s: is no command", argv[0]), "'orrery --help' lists them");
}

static int run(int argc, char **argv)
{
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || (strcmp(argv[1], "help") == 0 && argc == 2)) {
        usage(stdout);
        return HELP_GIVEN;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("orrery %s\n", orr_version());
        return HELP_GIVEN;
    }
    char *help[] = {argv[2], "--help", NULL};
    return strcmp(argv[1], "help") == 0 ? run_command(2, help) : run_command(argc - 1, argv + 1);
}

/* MPI starts before anything that can differ between ranks: one that ended before would leave the others waiting. Only
 * rank 0 prints. */
static int start_ranks(int argc, char **argv)
{
    ORR_TRY(orr_ranks_start());
    if (orr_rank() > 0 && !freopen("/dev/null", "w", stdout))
        command_fail(ORR_EIO, "/dev/null: cannot be opened");
    return orr_ranks_agree("command", argc > 1 ? argv[1] : "");
}

/* Before MPI starts ranks are known by what launchers set. */
static bool prints(void)
{
    const char *rank = getenv("OMPI_COMM_WORLD_RANK");

    return rank ? atoi(rank) == 0 : orr_rank() == 0;
}

static int report(int code)
{
    failed = code < 0;
    if (failed && prints()) {
        fflush(stdout);
        fprintf(stderr, "orrery: %s\n", orr_error());
        if (orr_error_remedy()[0])
            fprintf(stderr, "orrery: %s\n", orr_error_remedy());
    }
    return exit_status(code);
}

int main(int argc, char **argv)
{
    int ended = 0;

    occupy_streams();
    atexit(check_output);
    /* A full disk or a file size limit must come back as an error of write(). */
    signal(SIGXFSZ, SIG_IGN);
    setenv("STARPU_SILENT", "1", 0);
    if (argc < 2) {
        usage(stderr);
        return 2;
    }
    if (supervision_wanted(argc, argv)) {
        int status = report(supervise_train(argc - 1, argv + 1, &ended));
        /* Without MPI nothing else holds a launcher back from ending rank 0 before it has told why. */
        if (status && !prints())
            sleep(1);
        return status ? status : ended;
    }
    if (comparison_wanted(argc, argv))
        return report(compare_bench(argc - 1, argv + 1));
    int code = start_ranks(argc, argv);
    if (code == 0)
        code = orr_ranks_settle(run(argc, argv));
    int status = report(code);
    orr_shutdown();
    return status;
}
