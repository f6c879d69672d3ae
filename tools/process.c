/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/process.h"

#include <errno.h>
#include <libgen.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tools/tools.h"

/* ---- command lines ------------------------------------------------------------------------------------------------ */

int words_add(struct words *w, const char *text)
{
    char **more = realloc(w->item, (size_t)(w->count + 2) * sizeof(*more));
    char *copy = strdup(text);

    if (more)
        w->item = more;
    if (!more || !copy) {
        free(copy);
        return command_fail(ORR_ENOMEM, "memory: no room for the arguments");
    }
    w->item[w->count++] = copy;
    w->item[w->count] = NULL;
    return ORR_OK;
}

static int own_path(char *path, size_t size)
{
    ssize_t n = readlink("/proc/self/exe", path, size - 1);

    if (n < 0)
        return command_fail(ORR_EDEVICE, "/proc/self/exe: cannot be read: %s", strerror(errno));
    path[n] = '\0';
    return ORR_OK;
}

int process_data(char *path, size_t size, const char *built, const char *installed)
{
    char self[PATH_MAX], file[2 * PATH_MAX];

    ORR_TRY(own_path(self, sizeof(self)));
    char *folder = dirname(self);
    size_t length = strlen(folder);
    bool libtool = length > 6 && strcmp(folder + length - 6, "/.libs") == 0;
    snprintf(file, sizeof(file), "%.*s/%s", (int)(libtool ? length - 6 : length), folder, built);
    if (access(file, R_OK) != 0)
        snprintf(file, sizeof(file), "%s/../share/orrery/%s", folder, installed);
    if (access(file, R_OK) != 0)
        snprintf(file, sizeof(file), "%s/%s", ORR_DATADIR, installed);
    snprintf(path, size, "%s", file);
    return ORR_OK;
}

int words_add_self(struct words *w, const char *command, const struct arguments *arguments)
{
    char self[PATH_MAX];

    ORR_TRY(own_path(self, sizeof(self)));
    ORR_TRY(words_add(w, self));
    ORR_TRY(words_add(w, command));
    for (int i = 0; i < arguments->count; i++)
        ORR_TRY(words_add(w, arguments->item[i]));
    return ORR_OK;
}

void words_free(struct words *w)
{
    for (int i = 0; i < w->count; i++)
        free(w->item[i]);
    free(w->item);
    *w = (struct words){0};
}

/* ---- signals ------------------------------------------------------------------------------------------------------ */

static volatile sig_atomic_t child, stopped;

static void forward(int number)
{
    int saved = errno;

    stopped = 1;
    if (child > 0)
        kill(child, number);
    errno = saved;
}

void process_forward_signals(void)
{
    struct sigaction action = {.sa_handler = forward};

    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

bool process_stopped(void)
{
    return stopped;
}

/* ---- processes ---------------------------------------------------------------------------------------------------- */

static _Noreturn void become(const struct process *p, pid_t parent)
{
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent)
        _exit(1);
    if (p->prepare)
        p->prepare(p->context);
    if ((p->out && dup2(fileno(p->out), STDOUT_FILENO) < 0) || (p->err && dup2(fileno(p->err), STDERR_FILENO) < 0))
        _exit(1);
    execvp(p->words->item[0], p->words->item);
    fprintf(stderr, "orrery: %s: cannot be started: %s\n", p->words->item[0], strerror(errno));
    _exit(CANNOT_START);
}

int process_run(const struct process *p)
{
    sigset_t signals, before;
    pid_t parent = getpid();
    int status;

    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    sigprocmask(SIG_BLOCK, &signals, &before);      /* none is lost between fork() and child's number */
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        signal(SIGINT, SIG_DFL);
        signal(SIGTERM, SIG_DFL);
        sigprocmask(SIG_SETMASK, &before, NULL);
        become(p, parent);
    }
    child = pid;
    sigprocmask(SIG_SETMASK, &before, NULL);
    if (pid < 0)
        return command_fail(ORR_EDEVICE, "%s: cannot be started: %s", p->words->item[0], strerror(errno));
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return command_fail(ORR_EDEVICE, "%s: cannot be waited for: %s", p->words->item[0], strerror(errno));
    child = 0;
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

bool process_launched(void)
{
    return getenv("OMPI_COMM_WORLD_SIZE") || getenv("PMIX_RANK") || getenv("PMI_RANK");
}
