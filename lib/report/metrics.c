/* SPDX-License-Identifier: Apache-2.0 */
#include <orrery/report.h>

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>

#include "core/core.h"
#include "io/io.h"
#include "report/report.h"

struct orr_metrics {
    char *path;
    int fd;
};

/* The length of the leading lines that are whole and belong to steps up to `keep`. */
static size_t kept_length(const char *text, size_t size, int64_t keep)
{
    size_t length = 0;

    while (length < size) {
        const char *end = memchr(text + length, '\n', size - length);
        if (!end)
            break;
        size_t line = (size_t)(end - text) + 1 - length;
        json_t *object = json_loadb(text + length, line, 0, NULL);
        json_t *step = json_object_get(object, "step");
        bool later = keep >= 0 && json_is_integer(step) && json_integer_value(step) > keep;
        json_decref(object);
        if (later)
            break;
        length += line;
    }
    return length;
}

static int cut_tail(struct orr_metrics *m, int64_t keep)
{
    struct orri_map map;
    struct stat st;

    if (fstat(m->fd, &st) != 0)
        return orri_fail(ORR_EIO, m->path, "cannot be read: %s", strerror(errno));
    if (!S_ISREG(st.st_mode))
        return ORR_OK;
    ORR_TRY(orri_map_open(&map, m->path, true));
    size_t length = kept_length((const char *)map.data, map.size, keep);
    bool cut = length < map.size;
    orri_map_close(&map);
    if (cut && ftruncate(m->fd, (off_t)length) != 0)
        return orri_fail(ORR_EIO, m->path, "cannot be shortened: %s", strerror(errno));
    return ORR_OK;
}

struct orr_metrics *orr_metrics_open(const char *path, int64_t keep)
{
    struct orr_metrics *m = orri_calloc(1, sizeof(*m));

    if (!m)
        return NULL;
    m->path = orri_strdup(path);
    m->fd = m->path ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666) : -1;
    if (m->path && m->fd < 0)
        orri_remedy(orri_fail(ORR_ENOENT, path, "cannot be opened for writing: %s", strerror(errno)),
                    "name another file with --metrics");
    if (m->fd < 0 || cut_tail(m, keep) != 0) {
        orr_metrics_destroy(m);
        return NULL;
    }
    return m;
}

void orr_metrics_destroy(struct orr_metrics *m)
{
    if (!m)
        return;
    if (m->fd >= 0)
        close(m->fd);
    free(m->path);
    free(m);
}

int orri_append(int fd, const char *path, const void *data, size_t bytes)
{
    struct stat st;
    const char *from = data;
    bool regular = fstat(fd, &st) == 0 && S_ISREG(st.st_mode);

    while (bytes > 0) {
        ssize_t n = write(fd, from, bytes);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            int error = n < 0 ? errno : ENOSPC;
            if (regular && from != (const char *)data && ftruncate(fd, st.st_size) != 0)
                error = errno;
            return orri_remedy(orri_fail(ORR_EIO, path, "cannot be written: %s", strerror(error)), "%s",
                               error == ENOSPC || error == EDQUOT ? "free some space, or write to another disk"
                               : error == EFBIG ? "raise the limit on file sizes (ulimit -f)"
                                                : "");
        }
        from += n;
        bytes -= (size_t)n;
    }
    return ORR_OK;
}

static int append(struct orr_metrics *m, json_t *object)
{
    char *line = object ? json_dumps(object, JSON_COMPACT | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(9)) : NULL;

    json_decref(object);
    if (!line)
        return orri_fail(ORR_ENOMEM, m->path, "no room for a line");
    size_t length = strlen(line);
    line[length++] = '\n';      /* in place of the end of the string */
    int status = orri_append(m->fd, m->path, line, length);
    free(line);
    return status;
}

static json_t *number(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

int orr_metrics_step(struct orr_metrics *m, const struct orr_metric *x)
{
    json_t *line = json_pack("{s:I,s:o,s:f,s:o,s:I,s:f,s:f}", "step", (json_int_t)x->step, "loss", number(x->loss), "lr", x->lr,
                             "grad_norm", number(x->grad_norm), "tokens", (json_int_t)x->tokens, "tokens_per_s",
                             x->tokens_per_s, "step_ms", x->step_ms);

    if (line && x->loss_scale > 0) {
        json_object_set_new(line, "loss_scale", json_real(x->loss_scale));
        json_object_set_new(line, "skipped", json_boolean(x->skipped));
    }
    return append(m, line);
}

int orr_metrics_validation(struct orr_metrics *m, int64_t step, double loss)
{
    return append(m, json_pack("{s:I,s:f}", "step", (json_int_t)step, "val_loss", loss));
}
