/* SPDX-License-Identifier: Apache-2.0 */
/* OUT/partition.jsonl: who computed what where microbatches are dealt by speed, so that a run which is resumed repeats the
 * steps that were made behind its checkpoint. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/ranks.h"
#include "io/json.h"
#include "train/train.h"

struct orri_record {
    struct orr_training *training;
    FILE *file;                 /* of rank 0                              */
    char *path;
    int64_t first, count;       /* steps, from 0, whose shares are known  */
    int *share;                 /* [count][dp]                            */
};

/* The shares of a line, which is of step *step, from 1. False for anything else, such as a line that a kill left, or one of a
 * run with other replicas or microbatches. */
static bool read_line(const struct orr_training *t, const char *line, json_int_t *step, int *share)
{
    json_t *object = json_loads(line, 0, NULL), *shares = json_object_get(object, "microbatches");
    json_int_t left = t->microbatches;
    size_t dp = (size_t)t->model->mesh.dp;
    bool good = strchr(line, '\n') && json_is_integer(json_object_get(object, "step")) && json_array_size(shares) == dp;

    *step = json_integer_value(json_object_get(object, "step"));
    for (size_t d = 0; good && d < dp; d++) {
        json_int_t count = json_integer_value(json_array_get(shares, d));
        good = count >= 1 && count <= left;
        share[d] = (int)count;
        left -= count;
    }
    json_decref(object);
    return good && left == 0;
}

/* Reads the steps behind `after` that follow each other, and leaves the file as long as the lines up to the last of them. */
static int read_file(struct orri_record *r, int64_t after)
{
    int dp = r->training->model->mesh.dp;
    int *share = orri_alloc((size_t)dp * sizeof(*share));
    char *line = NULL;
    size_t size = 0;
    off_t end = 0;
    int status = share ? ORR_OK : ORR_ENOMEM;

    r->first = after;
    while (status == 0 && getline(&line, &size, r->file) >= 0) {
        json_int_t step;
        if (!read_line(r->training, line, &step, share) || step > after + r->count + 1)
            break;
        end = ftello(r->file);
        if (step <= after + r->count)
            continue;
        int *more = realloc(r->share, (size_t)(r->count + 1) * (size_t)dp * sizeof(*more));
        if (!more) {
            status = orri_fail(ORR_ENOMEM, r->path, "no room for its shares");
            break;
        }
        r->share = more;
        memcpy(r->share + r->count++ * dp, share, (size_t)dp * sizeof(*share));
    }
    free(line);
    free(share);
    if (status == 0 && (ftruncate(fileno(r->file), end) != 0 || fseeko(r->file, end, SEEK_SET) != 0))
        status = orri_fail(ORR_EIO, r->path, "cannot be shortened: %s", strerror(errno));
    return status;
}

static int open_file(struct orri_record *r, const char *out, int64_t after)
{
    r->path = orri_format("%s/partition.jsonl", out);
    if (!r->path)
        return ORR_ENOMEM;
    r->file = fopen(r->path, after >= 0 ? "a+" : "w");
    if (!r->file)
        return orri_remedy(orri_fail(ORR_EINVAL, r->path, "cannot be written: %s", strerror(errno)),
                           "name a directory that can be written with --out");
    rewind(r->file);
    return after >= 0 ? read_file(r, after) : ORR_OK;
}

/* What rank 0 has read, on all. */
static int spread(struct orri_record *r)
{
    int64_t known[] = {r->first, r->count};
    size_t dp = (size_t)r->training->model->mesh.dp;

    ORR_TRY(orri_ranks_broadcast(known, sizeof(known), 0));
    r->first = known[0];
    r->count = known[1];
    if (r->training->model->rank > 0 && r->count > 0)
        r->share = orri_alloc((size_t)r->count * dp * sizeof(*r->share));
    ORR_TRY(orr_ranks_settle(r->share || r->count == 0 ? ORR_OK : ORR_ENOMEM));
    return r->count == 0 ? ORR_OK : orri_ranks_broadcast(r->share, (size_t)r->count * dp * sizeof(*r->share), 0);
}

int orri_record_open(struct orr_training *t, const char *out, int64_t after, struct orri_record **record)
{
    struct orri_record *r = orri_calloc(1, sizeof(*r));

    *record = r;
    ORR_TRY(orr_ranks_settle(r ? ORR_OK : ORR_ENOMEM));
    r->training = t;
    ORR_TRY(orr_ranks_settle(t->model->rank == 0 ? open_file(r, out, after) : ORR_OK));
    return spread(r);
}

void orri_record_close(struct orri_record *r)
{
    if (!r)
        return;
    if (r->file)
        fclose(r->file);
    free(r->path);
    free(r->share);
    free(r);
}

int orri_record_prescribe(struct orri_record *r)
{
    int64_t step = r->training->steps;

    if (step < r->first || step >= r->first + r->count)
        return ORR_OK;
    return orr_training_prescribe(r->training, step, r->share + (step - r->first) * r->training->model->mesh.dp);
}

int orri_record_step(struct orri_record *r)
{
    int64_t step = r->training->steps - 1;
    int dp = r->training->model->mesh.dp, *share;

    if (!r->file || (step >= r->first && step < r->first + r->count))
        return ORR_OK;
    share = orri_alloc((size_t)dp * sizeof(*share));
    if (!share || orr_training_shares(r->training, step, share) != 0) {
        free(share);
        return ORR_ENOMEM;
    }
    fprintf(r->file, "{\"step\": %lld, \"microbatches\": [", (long long)step + 1);
    for (int d = 0; d < dp; d++)
        fprintf(r->file, "%s%d", d ? ", " : "", share[d]);
    fprintf(r->file, "]}\n");
    free(share);
    return fflush(r->file) == 0 ? ORR_OK : orri_fail(ORR_EIO, r->path, "cannot be written: %s", strerror(errno));
}
