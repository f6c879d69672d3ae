/* SPDX-License-Identifier: Apache-2.0 */
#include "data/labels.h"

#include "core/core.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

enum { LABELS_MAX = 4096 };

struct orr_labels {
    int count;
    char **names;
    int *order;     /* the numbers in the order of the names' bytes */
    bool integers;  /* a name is one                                */
};

/* Names go to a model's config.json, which holds nothing else. */
static bool is_utf8(const char *name, size_t size)
{
    json_t *text = json_stringn(name, size);

    json_decref(text);
    return text != NULL;
}

/* ---- a set that grows ------------------------------------------------------------------------------ */

static int compare(const char *name, const char *bytes, size_t size)
{
    int sign = strncmp(name, bytes, size);

    return sign ? sign : name[size] != '\0';
}

int orri_label_set_add(struct orri_label_set *set, const char *name, size_t size)
{
    int low = 0, high = set->count;

    while (low < high) {
        int middle = (low + high) / 2, sign = compare(set->names[middle], name, size);
        if (sign == 0)
            return 0;
        if (sign < 0)
            low = middle + 1;
        else
            high = middle;
    }
    if (!is_utf8(name, size))
        return orri_fail(ORR_EFORMAT, "labels", "a label is not UTF-8");
    if (set->count == LABELS_MAX)
        return orri_fail(ORR_EFORMAT, "labels", "there are more than %d different labels", LABELS_MAX);
    char **names = realloc(set->names, (size_t)(set->count + 1) * sizeof(*names));
    set->names = names ? names : set->names;
    char *copy = orri_format("%.*s", (int)size, name);
    if (!names || !copy) {
        free(copy);
        return orri_fail(ORR_ENOMEM, "labels", "no room for %d", set->count + 1);
    }
    memmove(names + low + 1, names + low, (size_t)(set->count - low) * sizeof(*names));
    names[low] = copy;
    set->count++;
    return 0;
}

void orri_label_set_free(struct orri_label_set *set)
{
    for (int i = 0; i < set->count; i++)
        free(set->names[i]);
    free(set->names);
    *set = (struct orri_label_set){0};
}

static bool is_integer(const char *name)
{
    const char *digits = name + (*name == '-' || *name == '+');
    size_t n = strspn(digits, "0123456789");

    return n > 0 && n <= 18 && digits[n] == '\0';
}

static int by_value(const void *a, const void *b)
{
    const char *x = *(char *const *)a, *y = *(char *const *)b;
    long long i = strtoll(x, NULL, 10), k = strtoll(y, NULL, 10);

    return i != k ? (i > k) - (i < k) : strcmp(x, y);
}

struct orr_labels *orri_label_set_finish(struct orri_label_set *set)
{
    bool integers = true;

    for (int i = 0; i < set->count; i++)
        integers = integers && is_integer(set->names[i]);
    if (integers)
        qsort(set->names, (size_t)set->count, sizeof(*set->names), by_value);
    return orr_labels_create((const char *const *)set->names, set->count);
}

/* ---- constant ones --------------------------------------------------------------------------------- */

/* Puts the last of the first `count` of `order` where it belongs. */
static int insert(struct orr_labels *l, int count)
{
    const int last = count - 1;
    int i = last;

    for (; i > 0; i--) {
        int sign = strcmp(l->names[l->order[i - 1]], l->names[last]);
        if (sign == 0)
            return orri_remedy(orri_fail(ORR_EINVAL, "labels", "\"%s\" is there twice", l->names[last]),
                               "give every label a name of its own");
        if (sign < 0)
            break;
        l->order[i] = l->order[i - 1];
    }
    l->order[i] = last;
    return 0;
}

static int fill(struct orr_labels *l, const char *const *names, int count)
{
    l->names = orri_calloc((size_t)count, sizeof(*l->names));
    l->order = orri_calloc((size_t)count, sizeof(*l->order));
    if (!l->names || !l->order)
        return ORR_ENOMEM;
    for (int i = 0; i < count; i++) {
        if (!names[i][0])
            return orri_remedy(orri_fail(ORR_EINVAL, "labels", "number %d has an empty name", i), "give it a name");
        if (!is_utf8(names[i], strlen(names[i])))
            return orri_remedy(orri_fail(ORR_EINVAL, "labels", "the name of number %d is not UTF-8", i), "give it another");
        l->integers = l->integers || is_integer(names[i]);
        l->names[l->count++] = orri_strdup(names[i]);
        if (!l->names[i])
            return ORR_ENOMEM;
        ORR_TRY(insert(l, l->count));
    }
    return 0;
}

struct orr_labels *orr_labels_create(const char *const *names, int count)
{
    if (count < 1) {
        orri_remedy(orri_fail(ORR_EINVAL, "labels", "there are none"), "give a label or more");
        return NULL;
    }
    struct orr_labels *l = orri_calloc(1, sizeof(*l));
    if (l && fill(l, names, count) != 0) {
        orr_labels_destroy(l);
        return NULL;
    }
    return l;
}

void orr_labels_destroy(struct orr_labels *labels)
{
    if (!labels)
        return;
    for (int i = 0; i < labels->count; i++)
        free(labels->names[i]);
    free(labels->names);
    free(labels->order);
    free(labels);
}

int orr_labels_count(const struct orr_labels *labels)
{
    return labels->count;
}

const char *const *orr_labels_names(const struct orr_labels *labels)
{
    return (const char *const *)labels->names;
}

/* A decimal number in 0..count-1, or -1. */
static int number_below(int count, const char *digits, size_t size)
{
    int value = 0;

    if (size < 1 || size > 9)
        return -1;
    for (size_t i = 0; i < size; i++) {
        if (!isdigit((unsigned char)digits[i]))
            return -1;
        value = 10 * value + digits[i] - '0';
    }
    return value < count ? value : -1;
}

int orr_labels_find(const struct orr_labels *labels, const char *name, size_t size)
{
    int low = 0, high = labels->count;

    while (low < high) {
        int middle = (low + high) / 2, sign = compare(labels->names[labels->order[middle]], name, size);
        if (sign == 0)
            return labels->order[middle];
        if (sign < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return labels->integers ? -1 : number_below(labels->count, name, size);
}
