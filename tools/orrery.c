/* SPDX-License-Identifier: Apache-2.0 */
/* The command: finds the sub-command, prints its failure, maps it to an exit status. */
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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
    {"trace", cmd_trace, "turn the trace of a run into pictures and tables"},
    {"info", cmd_info, "version, machine, workers, blocks"},
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

/* The library keeps code, message and remedy of a thread's last failure; the command's own go the same way. */
static char own_message[512], own_remedy[512];

/* Arguments may hold anything. */
static void one_line(char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < 0x20 || *text == 0x7f)
            *text = '?';
}

int command_fail(int code, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(own_message, sizeof(own_message), format, args);
    va_end(args);
    one_line(own_message);
    own_remedy[0] = '\0';
    return code;
}

int command_remedy(int code, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(own_remedy, sizeof(own_remedy), format, args);
    va_end(args);
    one_line(own_remedy);
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

/* ---- several processes -------------------------------------------------------------------------------------- */

static int number_of(const char *const *variables, int otherwise)
{
    for (; *variables; variables++)
        if (getenv(*variables))
            return atoi(getenv(*variables));
    return otherwise;
}

/* Looked up in what launchers set: before MPI starts, so that every failure is told once. */
static int rank(void)
{
    static const char *const variables[] = {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", NULL};

    return number_of(variables, 0);
}

static int check_ranks(void)
{
    static const char *const variables[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", NULL};
    int ranks = number_of(variables, 1);

    if (ranks > 1)
        return command_remedy(command_fail(ORR_EINVAL, "mpi: started as %d processes; this version runs in one", ranks),
                              "start it without mpiexec: --dp and --pp divide the work over the cores of one process");
    return ORR_OK;
}

/* ---- the command ----------------------------------------------------------------------------------------------- */

static int run_command(int argc, char **argv)
{
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
        if (strcmp(argv[0], commands[i].name) != 0)
            continue;
        int code = check_ranks();
        return code == 0 ? commands[i].run(argc, argv) : code;
    }
    return command_remedy(command_fail(ORR_EINVAL, "%s: is no command", argv[0]), "'orrery --help' lists them");
}

int main(int argc, char **argv)
{
    occupy_streams();
    atexit(check_output);
    /* A full disk or a file size limit must come back as an error of write(). */
    signal(SIGXFSZ, SIG_IGN);
    setenv("STARPU_SILENT", "1", 0);
    if (argc < 2) {
        usage(stderr);
        return 2;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || (strcmp(argv[1], "help") == 0 && argc == 2)) {
        usage(stdout);
        return 0;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("orrery %s\n", orr_version());
        return 0;
    }
    char *help[] = {argv[2], "--help", NULL};
    int code = strcmp(argv[1], "help") == 0 ? run_command(2, help) : run_command(argc - 1, argv + 1);
    failed = code != 0;
    if (failed && rank() == 0) {
        const char *remedy = own_message[0] ? own_remedy : orr_error_remedy();
        fflush(stdout);
        fprintf(stderr, "orrery: %s\n", own_message[0] ? own_message : orr_error());
        if (remedy[0])
            fprintf(stderr, "orrery: %s\n", remedy);
    }
    orr_shutdown();
    return exit_status(code);
}
