/* SPDX-License-Identifier: Apache-2.0 */
/* Compares the tensors of two safetensors files, with the largest magnitude of the golden one as the measure.
 *
 *     compare_tensors TOLERANCE FOUND GOLDEN all PREFIX          every tensor of FOUND but those of integers with PREFIX + its name, or with its
 *                                                                name; every one of GOLDEN with PREFIX must be found
 *     compare_tensors TOLERANCE FOUND GOLDEN part NAME I OTHER   NAME[I] with OTHER, which is the beginning of it; the
 *                                                                rest must be zero
 *
 * Prints how many tensors and how far apart. Exit status 0, 1 (they differ), 2 (cannot be read). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <orrery/orrery.h>

struct tensor {
    const struct orr_tensor_info *info;
    int64_t count;
    float *values;
};

static double tolerance, farthest;
static int compared, different;

static void die(const char *what)
{
    fprintf(stderr, "compare_tensors: %s\n", what);
    exit(2);
}

static struct orr_safetensors *open_file(const char *path)
{
    struct orr_safetensors *file = orr_safetensors_open(path);

    if (!file)
        die(orr_error());
    return file;
}

static struct tensor read_tensor(const struct orr_safetensors *file, const char *name)
{
    struct tensor t = {.info = orr_safetensors_find(file, name), .count = 1};

    if (!t.info)
        die(orr_error());
    for (int d = 0; d < t.info->ndim; d++)
        t.count *= t.info->shape[d];
    t.values = malloc((size_t)t.count * sizeof(float) + 1);
    if (!t.values || orr_safetensors_read_f32(file, t.info, 0, t.count, t.values) != 0)
        die(orr_error());
    return t;
}

static void compare(const char *name, const float *found, const float *golden, int64_t count)
{
    double most = 0, apart = 0;

    for (int64_t i = 0; i < count; i++) {
        double d = fabs((double)found[i] - golden[i]);
        most = fmax(most, fabs((double)golden[i]));
        apart = isnan(d) ? INFINITY : fmax(apart, d);
    }
    apart = most > 0 ? apart / most : apart;
    farthest = fmax(farthest, apart);
    compared++;
    if (!(apart <= tolerance)) {
        printf("%s: %g apart\n", name, apart);
        different++;
    }
}

static void check_shape(const char *name, const int64_t *found, int found_dims, const int64_t *golden, int golden_dims)
{
    bool equal = found_dims == golden_dims;

    for (int d = 0; equal && d < golden_dims; d++)
        equal = found[d] == golden[d];
    if (!equal) {
        printf("%s: another shape\n", name);
        different++;
    }
}

static void compare_all(const struct orr_safetensors *found, const struct orr_safetensors *golden, const char *prefix)
{
    int expected = 0, prefixed = 0;

    for (int i = 0; i < orr_safetensors_count(golden); i++)
        expected += orr_safetensors_get(golden, i)->dtype == ORR_F32 &&
                    strncmp(orr_safetensors_get(golden, i)->name, prefix, strlen(prefix)) == 0;
    for (int i = 0; i < orr_safetensors_count(found); i++) {
        const char *name = orr_safetensors_get(found, i)->name;
        char other[512];
        if (orr_safetensors_get(found, i)->dtype != ORR_F32)
            continue;
        snprintf(other, sizeof(other), "%s%s", prefix, name);
        bool with = orr_safetensors_find(golden, other) != NULL;
        struct tensor a = read_tensor(found, name), b = read_tensor(golden, with ? other : name);
        prefixed += with;
        check_shape(name, a.info->shape, a.info->ndim, b.info->shape, b.info->ndim);
        if (a.count == b.count)
            compare(name, a.values, b.values, a.count);
        free(a.values);
        free(b.values);
    }
    if (prefixed != expected) {
        printf("%d of %d tensors were found\n", prefixed, expected);
        different++;
    }
}

static void compare_part(const struct orr_safetensors *found, const struct orr_safetensors *golden, const char *name,
                         int index, const char *other)
{
    struct tensor a = read_tensor(found, name), b = read_tensor(golden, other);

    if (a.info->ndim != 3 || b.info->ndim < 2 || index >= a.info->shape[0])
        die("a part is compared of three dimensions with two");
    int64_t part = a.info->shape[1] * a.info->shape[2];
    const float *from = a.values + index * part;
    check_shape(name, &a.info->shape[2], 1, &b.info->shape[b.info->ndim - 1], 1);
    if (b.count > part)
        die("the golden tensor is longer");
    compare(name, from, b.values, b.count);
    for (int64_t i = b.count; i < part; i++) {
        if (from[i] != 0) {
            printf("%s: not zero behind the end\n", name);
            different++;
            break;
        }
    }
    free(a.values);
    free(b.values);
}

int main(int argc, char **argv)
{
    if (argc < 6)
        die("too few arguments");
    tolerance = atof(argv[1]);
    struct orr_safetensors *found = open_file(argv[2]), *golden = open_file(argv[3]);
    if (strcmp(argv[4], "all") == 0)
        compare_all(found, golden, argv[5]);
    else if (argc == 8 && strcmp(argv[4], "part") == 0)
        compare_part(found, golden, argv[5], atoi(argv[6]), argv[7]);
    else
        die("all or part");
    printf("%d tensors, %g apart\n", compared, farthest);
    orr_safetensors_destroy(found);
    orr_safetensors_destroy(golden);
    return different || compared == 0;
}
