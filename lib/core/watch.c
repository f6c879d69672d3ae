/* SPDX-License-Identifier: Apache-2.0 */
#include "core/watch.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <starpu.h>
#include <starpu_profiling.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/core.h"
#include "core/ranks.h"

enum {
    DEFAULT_WATCHDOG = 120,     /* seconds */
    DEFAULT_HEARTBEAT = 6,
    TOLD_AT_MOST = 24,          /* lines of what is pending */
    ADDRESSES = 8,
    CONNECT_MS = 2000,
    LAUNCHER_MS = 3500,         /* for the launcher to notice by itself that a host is silent */
    BEAT_MS = 100
};

/* What one neighbour tells the next. */
enum { ALIVE = '.', LEAVES = 'l', ENDS = 'e' };

struct orri_pending {
    struct orri_pending *next, *previous;
    struct starpu_task *task;       /* NULL: a transfer */
    const char *name;
    int layer, microbatch, peer;
    bool receive;
    int64_t tag;
    double since;
};

/* How the next rank finds this one. */
struct card {
    uint64_t token;
    int pid, addresses;
    struct sockaddr_in address[ADDRESSES];
    char host[64];
};

static struct {
    pthread_mutex_t lock;
    struct orri_pending *first, *unused;
    double progress;                /* when something ended last, or came to be pending after nothing was */
    double watchdog, heartbeat;     /* seconds; 0 = off */
    bool running, stopping;
    pthread_t thread;
    int wake, from_previous, to_next;
    struct card previous;
} watch = {.lock = PTHREAD_MUTEX_INITIALIZER, .wake = -1, .from_previous = -1, .to_next = -1};

/* ---- ending the job -------------------------------------------------------------------------------------------- */

static void exit_now(int number)
{
    (void)number;
    _exit(1);
}

static void tell_next(char what)
{
    if (watch.to_next >= 0)
        (void)!send(watch.to_next, &what, 1, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* Once one rank has said why. */
static _Noreturn void end_job(void)
{
    tell_next(ENDS);
    /* Where the launcher cannot be reached any more MPI_Abort() does not end. */
    signal(SIGALRM, exit_now);
    alarm(2);
    orri_ranks_abort(1);
    _exit(1);
}

int orri_watch_fail(int code, const char *message)
{
    if (orr_rank_count() == 1)
        return code;
    fprintf(stderr, "orrery: rank %d: %s\n", orr_rank(), message);
    end_job();
}

/* ---- what is pending -------------------------------------------------------------------------------------------- */

static struct orri_pending *add(struct orri_pending what)
{
    if (!watch.running || watch.watchdog == 0)
        return NULL;
    what.since = orri_seconds();
    pthread_mutex_lock(&watch.lock);
    struct orri_pending *p = watch.unused;
    if (p)
        watch.unused = p->next;
    else
        p = malloc(sizeof(*p));
    if (p) {
        if (!watch.first)
            watch.progress = what.since;
        what.next = watch.first;
        *p = what;
        if (p->next)
            p->next->previous = p;
        watch.first = p;
    }
    pthread_mutex_unlock(&watch.lock);
    return p;
}

struct orri_pending *orri_watch_task(struct starpu_task *task, const char *name, int layer, int microbatch)
{
    return add((struct orri_pending){.task = task, .name = name, .layer = layer, .microbatch = microbatch});
}

struct orri_pending *orri_watch_transfer(bool receive, int peer, const char *tile_name, int64_t tag)
{
    return add((struct orri_pending){.name = tile_name, .receive = receive, .peer = peer, .tag = tag});
}

void orri_watch_done(void *pending)
{
    struct orri_pending *p = pending;

    if (!p)
        return;
    double now = orri_seconds();
    pthread_mutex_lock(&watch.lock);
    if (p->previous)
        p->previous->next = p->next;
    else
        watch.first = p->next;
    if (p->next)
        p->next->previous = p->previous;
    p->next = watch.unused;
    watch.unused = p;
    watch.progress = now;
    pthread_mutex_unlock(&watch.lock);
}

static const char *state_of(const struct starpu_task *task)
{
    switch (task->status) {
    case STARPU_TASK_READY: return "ready, no worker has taken it";
    case STARPU_TASK_RUNNING: return "running";
    case STARPU_TASK_FINISHED: return "ended, its callback has not";
    case STARPU_TASK_BLOCKED_ON_DATA: return "waiting for its data";
    case STARPU_TASK_BLOCKED_ON_TAG:
    case STARPU_TASK_BLOCKED_ON_TASK: return "waiting for another task";
    default: return "waiting";
    }
}

static void tell_pending(FILE *out, const struct orri_pending *p, double now)
{
    char where[64] = "";
    int n = 0;

    if (!p->task) {
        fprintf(out, "orrery: rank %d: tile '%s': not %s rank %d for %.0f s (tag %lld)\n", orr_rank(), p->name,
                p->receive ? "received from" : "taken by", p->peer, now - p->since, (long long)p->tag);
        return;
    }
    if (p->layer >= 0)
        n = snprintf(where, sizeof(where), ", layer %d", p->layer);
    if (p->microbatch >= 0)
        snprintf(where + n, sizeof(where) - (size_t)n, ", microbatch %d", p->microbatch);
    fprintf(out, "orrery: rank %d: task %s%s: %s", orr_rank(), p->name, where, state_of(p->task));
    struct starpu_profiling_task_info *info = p->task->profiling_info;
    if (p->task->status == STARPU_TASK_RUNNING && info)
        fprintf(out, " for %.0f s",
                1e-6 * (starpu_timing_now() - starpu_timing_timespec_to_us(&info->start_time)));
    fputc('\n', out);
}

/* What runs and what is to be received first: those explain why the rest waits. */
static int urgency(const struct orri_pending *p)
{
    if (!p->task)
        return p->receive ? 0 : 2;
    return p->task->status == STARPU_TASK_RUNNING ? 0 : p->task->status == STARPU_TASK_READY ? 1 : 3;
}

static void tell_stall(double stalled, double now)
{
    const struct orri_pending *last = watch.first;
    int tasks = 0, messages = 0, told = 0;
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);       /* in one piece, since other ranks write as well */

    if (!out)
        return;
    for (const struct orri_pending *p = watch.first; p; p = p->next) {
        *(p->task ? &tasks : &messages) += 1;
        last = p;
    }
    fprintf(out, "orrery: rank %d: watchdog: nothing has ended for %.0f s; pending: tasks %d, messages %d\n", orr_rank(),
            stalled, tasks, messages);
    for (int u = 0; u < 4; u++)
        for (const struct orri_pending *p = last; p; p = p->previous)   /* the oldest first */
            if (urgency(p) == u && told++ < TOLD_AT_MOST)
                tell_pending(out, p, now);
    if (told > TOLD_AT_MOST)
        fprintf(out, "orrery: rank %d: and %d more\n", orr_rank(), told - TOLD_AT_MOST);
    fprintf(out, "orrery: rank %d: where a task may take that long, set a longer time with --watchdog\n", orr_rank());
    if (fclose(out) == 0)
        fputs(text, stderr);
    free(text);
}

static void check_stall(double now)
{
    pthread_mutex_lock(&watch.lock);
    bool stalled = watch.watchdog > 0 && watch.first && now - watch.progress > watch.watchdog;
    if (stalled)
        tell_stall(now - watch.progress, now);
    pthread_mutex_unlock(&watch.lock);
    if (stalled) {
        sleep(orr_rank_count() > 1);    /* the others tell what they wait for */
        end_job();
    }
}

/* ---- signs of life ---------------------------------------------------------------------------------------------- */

static _Noreturn void lost(const char *how, bool silent)
{
    int rank = (orr_rank() + orr_rank_count() - 1) % orr_rank_count();

    fprintf(stderr, "orrery: rank %d (host %s, pid %d): lost: %s\n", rank, watch.previous.host, watch.previous.pid, how);
    if (!silent) {
        tell_next(ENDS);
        sleep(1);       /* mpiexec finds the process itself, and tells how it ended */
    }
    /* An mpirun that is told to end ranks on a host that does not answer waits for its answer; one that knows does not. */
    for (int waited = 0; silent && waited < LAUNCHER_MS; waited += BEAT_MS) {
        tell_next(ALIVE);
        usleep(1000 * BEAT_MS);
    }
    end_job();
}

/* True when the rank before has said that it leaves. */
static bool listen_to_previous(double *silence)
{
    char said[64];
    ssize_t n;

    while ((n = recv(watch.from_previous, said, sizeof(said), MSG_DONTWAIT)) > 0) {
        *silence = 0;
        if (memchr(said, ENDS, (size_t)n)) {
            tell_next(ENDS);
            sleep(2);       /* the launcher ends this rank, unless it cannot reach it any more */
            _exit(1);
        }
        if (memchr(said, LEAVES, (size_t)n))
            return true;
    }
    if (n == 0 || (errno != EAGAIN && errno != EINTR))
        lost("its process has ended", false);
    return false;
}

static void *run(void *unused)
{
    double last = orri_seconds(), beat = 0, silence = 0;
    bool left = watch.from_previous < 0, leaves = false;
    char how[64];

    (void)unused;
    snprintf(how, sizeof(how), "no sign of life for %.0f s", watch.heartbeat);
    while (!leaves || !left) {
        struct pollfd wait[] = {{.fd = leaves ? -1 : watch.wake, .events = POLLIN},
                                {.fd = left ? -1 : watch.from_previous, .events = POLLIN}};
        double tick = watch.heartbeat > 0 ? watch.heartbeat / 12 : 1;
        if (watch.watchdog > 0 && watch.watchdog / 8 < tick)
            tick = watch.watchdog / 8;
        poll(wait, 2, (int)(1000 * tick) + 1);
        double now = orri_seconds(), gap = now - last;
        last = now;
        /* A rank that was not run itself for a while has not listened. */
        silence += gap < 2 * tick ? gap : 2 * tick;
        if (!left)
            left = listen_to_previous(&silence);
        if (!left && silence > watch.heartbeat)
            lost(how, true);
        if (!leaves && __atomic_load_n(&watch.stopping, __ATOMIC_ACQUIRE)) {
            leaves = true;
            tell_next(LEAVES);
        } else if (!leaves && now - beat > watch.heartbeat / 6) {
            tell_next(ALIVE);
            beat = now;
        }
        check_stall(now);
    }
    return NULL;
}

static int open_listener(void)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd >= 0 && listen(fd, 8) == 0)      /* on a port that the system chooses */
        return fd;
    if (fd >= 0)
        close(fd);
    return -1;
}

/* The addresses of this host; its loopback where it has no other. */
static void write_card(int listener, struct card *card)
{
    struct sockaddr_in bound = {0};
    socklen_t size = sizeof(bound);
    struct ifaddrs *all = NULL;

    memset(card, 0, sizeof(*card));
    card->pid = (int)getpid();
    gethostname(card->host, sizeof(card->host) - 1);
    if (getrandom(&card->token, sizeof(card->token), 0) < 0 || listener < 0 ||
        getsockname(listener, (struct sockaddr *)&bound, &size) != 0 || getifaddrs(&all) != 0)
        return;
    for (int loopback = 0; loopback < 2 && card->addresses == 0; loopback++) {
        for (struct ifaddrs *i = all; i && card->addresses < ADDRESSES; i = i->ifa_next) {
            bool is_loopback = (i->ifa_flags & IFF_LOOPBACK) != 0;
            if (!i->ifa_addr || i->ifa_addr->sa_family != AF_INET || !(i->ifa_flags & IFF_UP) || is_loopback != loopback)
                continue;
            struct sockaddr_in *a = &card->address[card->addresses++];
            memcpy(a, i->ifa_addr, sizeof(*a));
            a->sin_port = bound.sin_port;
        }
    }
    freeifaddrs(all);
}

static bool wait_for(int fd, short events)
{
    struct pollfd wait = {.fd = fd, .events = events};

    return poll(&wait, 1, CONNECT_MS) == 1 && (wait.revents & events);
}

static int connect_to(const struct card *card)
{
    for (int a = 0; a < card->addresses; a++) {
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        int error = 0;
        socklen_t size = sizeof(error);
        if (fd < 0)
            return -1;
        bool there = connect(fd, (const struct sockaddr *)&card->address[a], sizeof(card->address[a])) == 0 ||
                     (errno == EINPROGRESS && wait_for(fd, POLLOUT) &&
                      getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 && error == 0);
        if (there && send(fd, &card->token, sizeof(card->token), MSG_NOSIGNAL) == sizeof(card->token))
            return fd;
        close(fd);
    }
    return -1;
}

/* Whoever connects and does not know the token is not the next rank. */
static int accept_next(int listener, uint64_t token)
{
    const char here = ALIVE;

    while (listener >= 0 && wait_for(listener, POLLIN)) {
        uint64_t said = 0;
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0)
            continue;
        if (wait_for(fd, POLLIN) && recv(fd, &said, sizeof(said), 0) == sizeof(said) && said == token &&
            send(fd, &here, 1, MSG_NOSIGNAL) == 1)
            return fd;
        close(fd);
    }
    return -1;
}

/* The barriers let nobody wait long: all have connected before the first accepts, and answered before the first asks. */
static int meet(int listener, uint64_t token)
{
    char here;

    watch.from_previous = connect_to(&watch.previous);
    ORR_TRY(orri_ranks_barrier());
    watch.to_next = accept_next(listener, token);
    ORR_TRY(orri_ranks_barrier());
    if (watch.from_previous >= 0 && wait_for(watch.from_previous, POLLIN) && recv(watch.from_previous, &here, 1, 0) == 1)
        return ORR_OK;
    fprintf(stderr, "orrery: rank %d: no connection to host %s for signs of life: its loss may go unnoticed\n", orr_rank(),
            watch.previous.host);
    if (watch.from_previous >= 0)
        close(watch.from_previous);
    watch.from_previous = -1;
    return ORR_OK;
}

static int join_ring(void)
{
    struct card mine;
    int listener = open_listener();

    write_card(listener, &mine);
    int status = orri_ranks_shift(&mine, &watch.previous, sizeof(mine));
    if (status == 0)
        status = meet(listener, mine.token);
    if (listener >= 0)
        close(listener);
    return status;
}

/* ---- starting and stopping -------------------------------------------------------------------------------------- */

static double choose(double wanted, double otherwise)
{
    return wanted > 0 ? wanted : wanted < 0 ? 0 : otherwise;
}

int orri_watch_start(const struct orr_runtime_options *options)
{
    watch.watchdog = choose(options ? options->watchdog : 0, DEFAULT_WATCHDOG);
    watch.heartbeat = orr_rank_count() > 1 ? choose(options ? options->heartbeat : 0, DEFAULT_HEARTBEAT) : 0;
    if (watch.heartbeat > 0)
        ORR_TRY(join_ring());
    if (watch.watchdog == 0 && watch.heartbeat == 0)
        return ORR_OK;
    watch.wake = eventfd(0, EFD_CLOEXEC);
    watch.stopping = false;
    watch.running = watch.wake >= 0 && pthread_create(&watch.thread, NULL, run, NULL) == 0;
    return watch.running ? ORR_OK : orri_fail(ORR_EDEVICE, "watch", "no thread can be started: %s", strerror(errno));
}

static void close_all(void)
{
    int *all[] = {&watch.wake, &watch.from_previous, &watch.to_next};

    for (size_t i = 0; i < ORRI_COUNT(all); i++) {
        if (*all[i] >= 0)
            close(*all[i]);
        *all[i] = -1;
    }
}

static void free_list(struct orri_pending **list)
{
    while (*list) {
        struct orri_pending *p = *list;
        *list = p->next;
        free(p);
    }
}

void orri_watch_stop(void)
{
    if (watch.running) {
        __atomic_store_n(&watch.stopping, true, __ATOMIC_RELEASE);
        eventfd_write(watch.wake, 1);
        pthread_join(watch.thread, NULL);
    }
    watch.running = false;
    close_all();
    free_list(&watch.first);
    free_list(&watch.unused);
}
