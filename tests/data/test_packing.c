/* SPDX-License-Identifier: Apache-2.0 */
/* Shuffled packing: what holds of every epoch. */
#include "check_main.h"
#include "data/tiny.h"
#include "files.h"

#include <pthread.h>
#include <stdbool.h>

#include <orrery/dtype.h>
#include <orrery/rng.h>
#include <orrery/rows.h>

enum { T = 64, COUNT = 3000 };

/* Example i of lengths between 1 and T that are drawn, most of them short; of pairs the two lengths are about the same. */
static struct orr_sequences *make(bool pairs)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijkl";
    const char *path = at(pairs ? "a.pairs" : "a.tsv");
    const struct orr_sequence_options options = {.seq = T, .start = '0', .end = -1};
    const struct orr_rng rng = {7, 1, 0};
    FILE *f = fopen(path, "w");

    ck_assert_ptr_nonnull(f);
    for (int i = 0; i < COUNT; i++) {
        float u[2];
        orr_rng_uniform(&rng, (uint64_t)(2 * i), 2, u);
        int size = 1 + (int)(u[0] * u[0] * (T - 2)), other = 1 + (int)((0.5f + u[1] / 2) * (float)(size - 1));
        if (pairs)
            fprintf(f, "%.*s\t%.*s\n", other, letters, size, letters);
        else
            fprintf(f, "%d\t%.*s\n", i % 5, size, letters);
    }
    fclose(f);
    struct orr_examples *e = orr_examples_open(&path, 1, ORR_FORMAT_TEXT, NULL);
    ck_assert_msg(e != NULL, "%s", orr_error());
    struct orr_sequences *s = orr_sequences_create(e, &tiny, &options);
    ck_assert_msg(s != NULL, "%s", orr_error());
    orr_examples_destroy(e);
    return s;
}

static int64_t rows_of(struct orr_packing *p, int64_t epochs)
{
    int64_t rows;

    ck_assert_int_eq(orr_packing_count(p, epochs, &rows), 0);
    return rows;
}

/* Adds what row n holds to seen[COUNT]; spans follow each other and fit. */
static void visit(struct orr_packing *p, int64_t n, char *seen)
{
    struct orr_span spans[T];
    int count, at_position = 0, source_at = 0;

    ck_assert_int_eq(orr_packing_spans(p, n, spans, &count), 0);
    ck_assert_int_ge(count, 1);
    for (int k = 0; k < count; k++) {
        ck_assert_int_eq(spans[k].first, at_position);
        ck_assert_int_eq(spans[k].source_first, source_at);
        ck_assert_int_ge(spans[k].count, 1);
        at_position += spans[k].count;
        source_at += spans[k].source_count;
        seen[spans[k].example]++;
    }
    ck_assert_int_le(at_position, T);
    ck_assert_int_le(source_at, T);
}

/* Each epoch has each example once, and the rows are full. */
static void check_epochs(const struct orr_sequences *s, double least)
{
    struct orr_packing *p = orr_packing_create(s, (struct orr_subset){0}, 3);
    char seen[COUNT];
    double fill, source_fill;

    ck_assert_msg(p != NULL, "%s", orr_error());
    ck_assert_int_eq(orr_packing_examples(p), COUNT);
    ck_assert_int_eq(rows_of(p, 0), 0);
    for (int epoch = 0; epoch < 4; epoch++) {
        memset(seen, 0, sizeof(seen));
        for (int64_t n = rows_of(p, epoch); n < rows_of(p, epoch + 1); n++)
            visit(p, n, seen);
        for (int i = 0; i < COUNT; i++)
            ck_assert_msg(seen[i] == 1, "example %d is %d times in epoch %d", i, seen[i], epoch);
    }
    ck_assert_int_eq(orr_packing_fill(p, &fill, &source_fill), 0);
    ck_assert_msg(fill >= least && fill <= 1, "%g is not filled", fill);
    orr_packing_destroy(p);
}

START_TEST(epochs)
{
    struct orr_sequences *s = make(false);

    check_epochs(s, 0.98);
    orr_sequences_destroy(s);
    s = make(true);
    check_epochs(s, 0.9);
    orr_sequences_destroy(s);
}
END_TEST

struct row {
    int32_t tokens[T], labels[T], places[T], source[T], source_places[T];
};

static void read_row(struct orr_packing *p, int64_t n, struct row *row)
{
    const struct orr_row_arrays arrays = {row->tokens, row->labels, row->places, NULL, row->source, row->source_places};

    memset(row, 0, sizeof(*row));
    ck_assert_int_eq(orr_packing_read(p, n, 1, &arrays), 0);
}

/* A row is a function of seed and number alone, in whatever order it is asked for. */
START_TEST(pure)
{
    struct orr_sequences *s = make(true);
    struct orr_packing *p = orr_packing_create(s, (struct orr_subset){0}, 3);
    struct orr_packing *again = orr_packing_create(s, (struct orr_subset){0}, 3);
    struct orr_packing *other = orr_packing_create(s, (struct orr_subset){0}, 4);
    const int64_t rows = rows_of(p, 5), first = rows_of(p, 1);
    struct row a, b;
    int same_epoch = 0, same_seed = 0;

    ck_assert_int_gt(rows, 1000);
    for (int64_t n = rows - 1; n >= 0; n -= 7) {
        read_row(again, n, &a);
        read_row(p, (n + 1000) % rows, &b);
        read_row(p, n, &b);
        ck_assert_int_eq(memcmp(&a, &b, sizeof(a)), 0);
        read_row(other, n, &b);
        same_seed += memcmp(&a, &b, sizeof(a)) == 0;
        if (n < first) {
            read_row(p, first + n, &b);
            same_epoch += memcmp(&a, &b, sizeof(a)) == 0;
        }
    }
    ck_assert_int_le(same_seed, 3);
    ck_assert_int_le(same_epoch, 3);
    ck_assert_int_eq(orr_packing_read(p, -1, 1, &(struct orr_row_arrays){.tokens = a.tokens}), ORR_EINVAL);
    orr_packing_destroy(p);
    orr_packing_destroy(again);
    orr_packing_destroy(other);
    orr_sequences_destroy(s);
}
END_TEST

struct job {
    struct orr_packing *packing;
    const struct row *expected;
    int64_t rows;
    uint32_t seed;
    int wrong;
};

static void *read_some(void *arg)
{
    struct job *job = arg;
    const struct orr_rng rng = {job->seed, 2, 0};

    for (uint64_t i = 0; i < 500; i++) {
        struct row row = {0};
        uint32_t word;
        orr_rng_words(&rng, i, 1, &word);
        const int64_t n = (int64_t)(word % (uint64_t)job->rows);
        const struct orr_row_arrays arrays = {row.tokens, row.labels, row.places, NULL, row.source, row.source_places};
        if (orr_packing_read(job->packing, n, 1, &arrays) != 0 || memcmp(&row, &job->expected[n], sizeof(row)) != 0)
            job->wrong++;
    }
    return NULL;
}

START_TEST(threads)
{
    struct orr_sequences *s = make(true);
    struct orr_packing *p = orr_packing_create(s, (struct orr_subset){0}, 3);
    const int64_t rows = rows_of(p, 3);
    struct row *expected = malloc((size_t)rows * sizeof(*expected));
    pthread_t thread[4];
    struct job jobs[4];

    for (int64_t n = 0; n < rows; n++)
        read_row(p, n, &expected[n]);
    orr_packing_destroy(p);
    p = orr_packing_create(s, (struct orr_subset){0}, 3);
    for (int i = 0; i < 4; i++) {
        jobs[i] = (struct job){p, expected, rows, (uint32_t)i, 0};
        ck_assert_int_eq(pthread_create(&thread[i], NULL, read_some, &jobs[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        ck_assert_int_eq(pthread_join(thread[i], NULL), 0);
        ck_assert_int_eq(jobs[i].wrong, 0);
    }
    free(expected);
    orr_packing_destroy(p);
    orr_sequences_destroy(s);
}
END_TEST

START_TEST(subsets)
{
    static const struct orr_subset train = {0.1, false}, held_out = {0.1, true};
    struct orr_sequences *s = make(false);
    struct orr_packing *a = orr_packing_create(s, train, 3), *b = orr_packing_create_in_order(s, held_out);
    char seen[COUNT] = {0};
    int early = 0;
    struct orr_span spans[T];
    int64_t last = -1, rows;
    int count;

    ck_assert_int_eq(orr_packing_examples(a), COUNT - COUNT / 10);
    ck_assert_int_eq(orr_packing_examples(b), COUNT / 10);
    for (int64_t n = 0; n < rows_of(a, 1); n++)
        visit(a, n, seen);
    for (int64_t n = 0; n < rows_of(b, 1); n++) {
        visit(b, n, seen);
        ck_assert_int_eq(orr_packing_spans(b, n, spans, &count), 0);
        for (int k = 0; k < count; k++) {
            ck_assert_int_gt(spans[k].example, last);
            last = spans[k].example;
            early += last < COUNT / 2;
        }
    }
    for (int i = 0; i < COUNT; i++)
        ck_assert_int_eq(seen[i], 1);
    ck_assert_int_gt(early, COUNT / 20 - 40);      /* not from one end: the mean is 150, the deviation 8 */
    ck_assert_int_lt(early, COUNT / 20 + 40);
    ck_assert_int_eq(orr_packing_count(b, 2, &rows), ORR_EINVAL);
    orr_packing_destroy(a);
    orr_packing_destroy(b);

    ck_assert_ptr_null(orr_packing_create(s, (struct orr_subset){1, false}, 3));
    expect_error(ORR_EINVAL, "data: ", "a validation fraction of 1");
    ck_assert_ptr_null(orr_packing_create(s, (struct orr_subset){-0.1, false}, 3));
    ck_assert_ptr_null(orr_packing_create_in_order(s, (struct orr_subset){0.0001, true}));
    expect_error(ORR_EINVAL, "data: ", "no examples: the fraction 0.0001 of 3000 is none");
    ck_assert_ptr_null(orr_packing_create_in_order(s, (struct orr_subset){0, true}));
    orr_sequences_destroy(s);
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("packing");
    TCase *t = tcase_create("packing");

    tcase_add_checked_fixture(t, files_setup, files_teardown);
    tcase_set_timeout(t, 60);
    tcase_add_test(t, epochs);
    tcase_add_test(t, pure);
    tcase_add_test(t, threads);
    tcase_add_test(t, subsets);
    suite_add_tcase(s, t);
    return s;
}
