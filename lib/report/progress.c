/* SPDX-License-Identifier: Apache-2.0 */
#include <orrery/report.h>

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include <orrery/runtime.h>

#include "core/core.h"

enum { QUIET_SECONDS = 5 };     /* between lines where there is no terminal */

/* mpiexec gives its ranks terminals, whatever it writes to by itself. */
static bool launcher_has_terminal(int number)
{
    char path[64];

    snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)getppid(), number);
    int fd = open(path, O_WRONLY | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    bool terminal = fd >= 0 && isatty(fd);
    if (fd >= 0)
        close(fd);
    return terminal;
}

void orr_progress_start(struct orr_progress *p, FILE *out, int64_t steps, double flops_per_token)
{
    bool terminal = isatty(fileno(out)) && (orr_rank_count() == 1 || launcher_has_terminal(fileno(out)));

    *p = (struct orr_progress){.out = out, .terminal = terminal, .steps = steps, .flops_per_token = flops_per_token};
}

static void describe_time(char *text, size_t size, double seconds)
{
    long s = (long)(seconds + 0.5);

    if (s < 3600)
        snprintf(text, size, "%ld:%02ld", s / 60, s % 60);
    else
        snprintf(text, size, "%ld:%02ld:%02ld", s / 3600, s / 60 % 60, s % 60);
}

static void end_line(struct orr_progress *p)
{
    if (p->open_line)
        fputc('\n', p->out);
    p->open_line = false;
}

void orr_progress_step(struct orr_progress *p, const struct orr_metric *m)
{
    double now = orri_seconds(), seconds = m->step_ms / 1000;
    char left[32];

    if (m->skipped)
        orr_progress_say(p, "step %lld/%lld  overflow: skipped; the loss scale becomes %g", (long long)m->step,
                         (long long)p->steps, m->loss_scale / 2);
    p->rate = p->rate > 0 ? 0.9 * p->rate + 0.1 * seconds : seconds;
    bool last = m->step == p->steps;
    if (!last && p->last > 0 && now - p->last < (p->terminal ? 0.1 : QUIET_SECONDS))
        return;
    p->last = now;
    describe_time(left, sizeof(left), p->rate * (double)(p->steps - m->step));
    fprintf(p->out, "%sstep %lld/%lld  loss %.4f  %.0f tokens/s  %.1f GFLOP/s  %s left%s", p->terminal ? "\r" : "",
            (long long)m->step, (long long)p->steps, m->loss, m->tokens_per_s,
            m->tokens_per_s * p->flops_per_token / 1e9, left, p->terminal ? "\033[K" : "\n");
    p->open_line = p->terminal;
    if (last)
        end_line(p);
    fflush(p->out);
}

void orr_progress_validation(struct orr_progress *p, int64_t step, double loss)
{
    orr_progress_say(p, "step %lld/%lld  validation loss %.4f", (long long)step, (long long)p->steps, loss);
}

void orr_progress_say(struct orr_progress *p, const char *format, ...)
{
    va_list args;

    end_line(p);
    va_start(args, format);
    vfprintf(p->out, format, args);
    va_end(args);
    fputc('\n', p->out);
    fflush(p->out);
}
