/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/supervise.h"

#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <wordexp.h>

#include "tools/process.h"
#include "tools/tools.h"

bool supervision_wanted(int argc, char **argv)
{
    bool wanted = getenv("ORRERY_MAX_RESTARTS") || getenv("ORRERY_LAUNCHER");

    if (argc < 2 || strcmp(argv[1], "train") != 0 || getenv("ORRERY_RESTART"))
        return false;
    for (int i = 2; i < argc; i++)      /* options may be abbreviated */
        wanted |= strncmp(argv[i], "--max-r", 7) == 0 || strncmp(argv[i], "--lau", 5) == 0;
    return wanted;
}

/* ---- the command line of the job ---------------------------------------------------------------------------------- */

/* As a shell would, but for commands in it. */
static int split(const char *text, struct words *out)
{
    wordexp_t words;
    int error = wordexp(text, &words, WRDE_NOCMD), status = ORR_OK;

    if (error == WRDE_NOSPACE)
        return command_fail(ORR_ENOMEM, "memory: no room for the arguments");
    if (error)
        return command_remedy(command_fail(ORR_EINVAL, "--launcher: '%s' is no simple command", text),
                              "write it as for a shell, as in --launcher \"mpiexec -n 4\"");
    for (size_t i = 0; status == 0 && i < words.we_wordc; i++)
        status = words_add(out, words.we_wordv[i]);
    wordfree(&words);
    return status;
}

static int ranks(void)
{
    const char *size = getenv("OMPI_COMM_WORLD_SIZE");

    return size ? atoi(size) : 0;
}

static int add_launcher(const struct supervision *s, struct words *out)
{
    char count[16];

    if (s->launcher)
        return split(s->launcher, out);
    if (ranks() == 0)
        return ORR_OK;
    snprintf(count, sizeof(count), "%d", ranks());
    const char *words[] = {"mpiexec", "--oversubscribe", "-n", count};
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
        ORR_TRY(words_add(out, words[i]));
    return ORR_OK;
}

static int compose(const struct supervision *s, const char *resume, struct words *out)
{
    ORR_TRY(add_launcher(s, out));
    ORR_TRY(words_add_self(out, "train", &s->arguments));
    if (resume) {
        ORR_TRY(words_add(out, "--resume"));
        ORR_TRY(words_add(out, resume));
    }
    return ORR_OK;
}

/* ---- one run ------------------------------------------------------------------------------------------------------ */

static bool begins(const char *text, const char *beginning)
{
    return strncmp(text, beginning, strlen(beginning)) == 0;
}

/* What the outer mpiexec told this process about its own job; settings of the user's stay. */
static void forget_launcher(void)
{
    static const char *const own[] = {"PMIX_", "PMI_", "ORTE_", "OMPI_MCA_orte_", "OMPI_MCA_ess", "OMPI_MCA_pmix",
                                      "OMPI_MCA_initial_wdir", "OMPI_MCA_mpi_oversubscribe", "OMPI_MCA_shmem_RUNTIME",
                                      "OMPI_APP_", "OMPI_COMM", "OMPI_FILE_", "OMPI_FIRST_", "OMPI_NUM_", "OMPI_UNIVERSE_"};
    extern char **environ;
    cpu_set_t all;

    if (getenv("OMPI_MCA_orte_bound_at_launch")) {
        memset(&all, 0xff, sizeof(all));
        sched_setaffinity(0, sizeof(all), &all);
    }
    for (char **e = environ; *e;) {
        bool remove = false;
        for (size_t i = 0; i < sizeof(own) / sizeof(own[0]); i++)
            remove |= begins(*e, own[i]);
        char *name = remove ? strndup(*e, strcspn(*e, "=")) : NULL;
        if (!name || unsetenv(name) != 0)
            e++;
        free(name);
    }
}

/* Else Open MPI's mpiexec would wait for a host that is gone until TCP gives up (docs/core.md), and no restart would come. */
static void hasten_launcher(void)
{
    setenv("OMPI_MCA_oob_tcp_keepalive_time", "1", 0);
    setenv("OMPI_MCA_oob_tcp_keepalive_intvl", "1", 0);
    setenv("OMPI_MCA_oob_tcp_keepalive_probes", "7", 0);
}

static void prepare(const void *context)
{
    const int64_t *restart = context;
    char text[32];

    snprintf(text, sizeof(text), "%lld", (long long)*restart);
    forget_launcher();
    hasten_launcher();
    unsetenv("ORRERY_MAX_RESTARTS");
    unsetenv("ORRERY_LAUNCHER");
    setenv("ORRERY_RESTART", text, 1);
}

/* ---- all of them --------------------------------------------------------------------------------------------------- */

static struct stat look_at_latest(const char *out)
{
    char path[PATH_MAX];
    struct stat st;

    snprintf(path, sizeof(path), "%s/latest", out);
    return lstat(path, &st) == 0 ? st : (struct stat){0};
}

/* Whether the job has saved there since: a checkpoint that lay there before belongs to another run. */
static bool has_saved(const char *out, const struct stat *before)
{
    struct stat now = look_at_latest(out);

    return now.st_ino != 0 && (now.st_ino != before->st_ino || now.st_mtim.tv_sec != before->st_mtim.tv_sec ||
                               now.st_mtim.tv_nsec != before->st_mtim.tv_nsec);
}

static bool by_accident(int status)
{
    static const int meant[] = {0, 2, 3, 130, FAILS_AGAIN, CANNOT_START};

    for (size_t i = 0; i < sizeof(meant) / sizeof(meant[0]); i++)
        if (status == meant[i])
            return false;
    return true;
}

static int run_all(const struct supervision *s, int *ended)
{
    struct stat before = look_at_latest(s->out);
    char how[64];

    process_forward_signals();
    for (int64_t restart = 0;; restart++) {
        struct words words = {0};
        bool saved = has_saved(s->out, &before);
        int status = compose(s, saved ? s->out : s->resume, &words);
        if (status == 0)
            status = process_run(&(struct process){&words, prepare, &restart, NULL, NULL});
        words_free(&words);
        if (status < 0)
            return status;
        if (!by_accident(status) || process_stopped() || restart == s->max_restarts) {
            *ended = status == FAILS_AGAIN ? 1 : status == CANNOT_START ? 2 : status;
            return ORR_OK;
        }
        snprintf(how, sizeof(how), status > 128 ? "was ended by signal %d" : "failed with status %d",
                 status > 128 ? status - 128 : status);
        fprintf(stderr, "orrery: train: the run %s; restart %lld of %lld, %s%s\n", how, (long long)restart + 1,
                (long long)s->max_restarts,
                has_saved(s->out, &before) ? "from the last checkpoint in " : "from the beginning: nothing was saved in ",
                s->out);
    }
}

/* ---- under mpiexec --------------------------------------------------------------------------------------------------- */

/* The processes of one job on one host meet by the job's name. */
static socklen_t meeting_point(struct sockaddr_un *address)
{
    const char *job = getenv("PMIX_NAMESPACE");

    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    snprintf(address->sun_path + 1, sizeof(address->sun_path) - 1, "orrery-%u-%s", (unsigned)getuid(), job ? job : "");
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(address->sun_path + 1));
}

/* Waits for the status that rank 0 ends with; 1 where it is gone. */
static int wait_for_first(void)
{
    struct sockaddr_un address;
    socklen_t size = meeting_point(&address);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    unsigned char status;

    while (fd >= 0 && connect(fd, (struct sockaddr *)&address, size) != 0)
        usleep(100000);     /* mpiexec ends this process, too, where rank 0 does not come */
    return fd >= 0 && read(fd, &status, 1) == 1 ? status : 1;
}

static int open_meeting_point(void)
{
    struct sockaddr_un address;
    socklen_t size = meeting_point(&address);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd >= 0 && bind(fd, (struct sockaddr *)&address, size) == 0 && listen(fd, ranks()) == 0)
        return fd;
    if (fd >= 0)
        close(fd);
    return command_fail(ORR_EDEVICE, "train: no socket for the other processes: %s", strerror(errno));
}

static void tell_others(int listener, int status)
{
    unsigned char byte = (unsigned char)status;

    for (int i = 1; i < ranks(); i++) {
        int fd = accept(listener, NULL, NULL);
        if (fd >= 0)
            (void)!write(fd, &byte, 1);
        if (fd >= 0)
            close(fd);
    }
}

static int run_under_mpiexec(const struct supervision *s, int *ended)
{
    if (atoi(getenv("OMPI_COMM_WORLD_RANK")) > 0) {
        *ended = wait_for_first();
        return ORR_OK;
    }
    int listener = open_meeting_point();
    if (listener < 0)
        return listener;
    int status = run_all(s, ended);
    tell_others(listener, status == 0 ? *ended : 1);
    close(listener);
    return status;
}

int supervise(const struct supervision *s, int *ended)
{
    const char *here = getenv("OMPI_COMM_WORLD_LOCAL_SIZE");
    bool launched = process_launched();

    if (!s->out)
        return command_remedy(command_fail(ORR_EINVAL, "--max-restarts: needs --out"),
                              "name a directory for the checkpoints with --out");
    if (launched && (s->launcher || !here || atoi(here) != ranks()))
        return command_remedy(command_fail(ORR_EINVAL, "--max-restarts: cannot start the ranks of several hosts anew from "
                                                       "one of them"),
                              "start orrery without mpiexec, and give the command with --launcher, as in --launcher "
                              "\"mpiexec -n 8 --hostfile hosts\"");
    return launched ? run_under_mpiexec(s, ended) : run_all(s, ended);
}
