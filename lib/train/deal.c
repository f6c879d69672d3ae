/* SPDX-License-Identifier: Apache-2.0 */
/* Which replica computes which microbatch: in turn, or in proportion to what each was seen to need. */
#include <stdlib.h>
#include <string.h>

#include "train/train.h"

/* A step's shares are known ORRI_DEALS / 2 steps before it at most, and asked for as long after it. */
static struct orri_deal *deal_of(struct orr_training *t, int64_t step)
{
    return &t->deal[step % ORRI_DEALS];
}

int orri_deals_create(struct orr_training *t)
{
    size_t dp = (size_t)t->model->mesh.dp;

    t->replica = orri_alloc(2 * (size_t)t->microbatches * sizeof(*t->replica));
    t->share = orri_calloc(ORRI_DEALS * dp, sizeof(*t->share));
    t->pace = orri_calloc(2 * dp, sizeof(*t->pace));
    if (!t->replica || !t->share || !t->pace)
        return ORR_ENOMEM;
    t->turn = t->replica + t->microbatches;
    for (int i = 0; i < ORRI_DEALS; i++)
        t->deal[i] = (struct orri_deal){.step = -1, .share = t->share + (size_t)i * dp};
    if (t->options.partition == ORR_PARTITION_DYNAMIC) {
        t->model->busy = orri_calloc(dp, sizeof(*t->model->busy));
        if (!t->model->busy)
            return ORR_ENOMEM;
    }
    return ORR_OK;
}

void orri_deals_destroy(struct orr_training *t)
{
    free(t->replica);
    free(t->share);
    free(t->pace);
    free(t->model->busy);
    t->model->busy = NULL;
}

/* Round by round, each replica as long as it has any left: microbatch m of an even deal goes to replica m mod dp. */
void orri_deal_out(struct orr_training *t)
{
    int dp = t->model->mesh.dp, m = 0;
    struct orri_deal *deal = deal_of(t, t->steps);

    pthread_mutex_lock(&t->lock);
    if (deal->step != t->steps) {
        deal->step = t->steps;
        for (int d = 0; d < dp; d++)
            deal->share[d] = (int)orr_split(t->microbatches, 1, dp, d).count;
    }
    pthread_mutex_unlock(&t->lock);
    for (int turn = 0; m < t->microbatches; turn++) {
        for (int d = 0; d < dp; d++) {
            if (turn < deal->share[d]) {
                t->replica[m] = d;
                t->turn[m++] = turn;
            }
        }
    }
}

void orri_set_share(struct orr_training *t, int64_t step, const int *share)
{
    struct orri_deal *deal = deal_of(t, step);

    if (deal->step == step)
        return;     /* it was prescribed */
    deal->step = step;
    memcpy(deal->share, share, (size_t)t->model->mesh.dp * sizeof(*share));
}

double orri_busy_seconds(struct orr_training *t, int replica)
{
    return 1e-9 * (double)__atomic_exchange_n(&t->model->busy[replica], 0, __ATOMIC_RELAXED);
}

/* The replica whose share is furthest below what its weight deserves (sign 1), or above it (-1), and that can give one up. */
static int furthest(int dp, const double *due, const int *share, int sign)
{
    int most = -1;

    for (int d = 0; d < dp; d++)
        if ((sign > 0 || share[d] > 1) && (most < 0 || sign * (due[d] - share[d]) > sign * (due[most] - share[most])))
            most = d;
    return most;
}

/* In proportion, by the largest remainder (Hamilton's method), but one at least. weight[] becomes what is due. */
static void apportion(int dp, int microbatches, double *weight, int *share)
{
    double sum = 0;
    int left = microbatches;

    for (int d = 0; d < dp; d++)
        sum += weight[d];
    for (int d = 0; d < dp; d++) {
        weight[d] *= microbatches / sum;
        share[d] = weight[d] < 1 ? 1 : (int)weight[d];
        left -= share[d];
    }
    for (; left > 0; left--)
        share[furthest(dp, weight, share, 1)]++;
    for (; left < 0; left++)
        share[furthest(dp, weight, share, -1)]--;
}

/* Of a replica of which nothing was measured yet it is taken that it is like the mean of the others. */
void orri_deal(struct orr_training *t, int64_t step, const double *busy, int *share)
{
    int dp = t->model->mesh.dp, known = 0;
    const struct orri_deal *deal = deal_of(t, step);
    double *pace = t->pace, *speed = t->pace + dp, sum = 0;

    for (int d = 0; d < dp; d++) {
        double now = busy[d] / deal->share[d];      /* seconds of a microbatch, smoothed over about four steps */
        if (now > 0)
            pace[d] = pace[d] == 0 ? now : 0.75 * pace[d] + 0.25 * now;
        speed[d] = pace[d] > 0 ? 1 / pace[d] : 0;
        sum += speed[d];
        known += pace[d] > 0;
    }
    for (int d = 0; d < dp; d++)
        if (pace[d] == 0)
            speed[d] = known > 0 ? sum / known : 1;
    apportion(dp, t->microbatches, speed, share);
}

int orr_training_shares(struct orr_training *t, int64_t step, int *share)
{
    pthread_mutex_lock(&t->lock);
    bool known = step >= 0 && deal_of(t, step)->step == step;
    if (known)
        memcpy(share, deal_of(t, step)->share, (size_t)t->model->mesh.dp * sizeof(*share));
    pthread_mutex_unlock(&t->lock);
    return known ? ORR_OK
                 : orri_fail(ORR_EINVAL, "train", "the shares of step %lld are not known", (long long)step + 1);
}

int orr_training_prescribe(struct orr_training *t, int64_t step, const int *share)
{
    int64_t sum = 0;

    for (int d = 0; d < t->model->mesh.dp; d++) {
        if (share[d] < 1)
            return orri_fail(ORR_EINVAL, "train", "a replica has %d microbatches", share[d]);
        sum += share[d];
    }
    if (sum != t->microbatches || step < t->steps || step >= t->steps + ORRI_DEALS / 2)
        return orri_fail(ORR_EINVAL, "train", "%lld microbatches are prescribed for step %lld, not %d for one of the next %d",
                         (long long)sum, (long long)step + 1, t->microbatches, ORRI_DEALS / 2);
    pthread_mutex_lock(&t->lock);
    deal_of(t, step)->step = -1;
    orri_set_share(t, step, share);
    pthread_mutex_unlock(&t->lock);
    return ORR_OK;
}
