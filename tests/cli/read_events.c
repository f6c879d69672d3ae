/* SPDX-License-Identifier: Apache-2.0 */
/* Reads TensorBoard's event files, knowing nothing of how they were written, and prints a line per thing found:
 *
 *     version TEXT | start STEP | STEP TAG VALUE
 *
 * Exit status 1, with a message, for anything that is not as TFRecord and protocol buffers have it. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static uint32_t table[256];
static const char *path;

static void die(const char *what)
{
    fprintf(stderr, "%s: %s\n", path, what);
    exit(1);
}

/* CRC-32C from a table, its check value from the catalogue of parametrised CRC algorithms. */
static uint32_t crc(const uint8_t *data, size_t size)
{
    uint32_t c = 0xffffffff;

    while (size--)
        c = table[(c ^ *data++) & 0xff] ^ (c >> 8);
    return c ^ 0xffffffff;
}

static void make_table(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int k = 0; k < 8; k++)
            c = c & 1 ? (c >> 1) ^ 0x82f63b78 : c >> 1;
        table[i] = c;
    }
    if (crc((const uint8_t *)"123456789", 9) != 0xe3069283)
        die("the checksum is computed wrongly here");
}

static uint64_t little(const uint8_t *data, int bytes)
{
    uint64_t x = 0;

    while (bytes--)
        x = x << 8 | data[bytes];
    return x;
}

static void check(const uint8_t *data, size_t size, const uint8_t *sum)
{
    uint32_t unmasked = (uint32_t)little(sum, 4) - 0xa282ead8;

    unmasked = unmasked << 15 | unmasked >> 17;
    if (unmasked != crc(data, size))
        die("a checksum is wrong");
}

/* One field of a message. */
struct field {
    int number, wire;
    uint64_t value;             /* of wire types 0, 1, 5 */
    const uint8_t *data;        /* of wire type 2        */
    size_t size;
};

static uint64_t varint(const uint8_t **at, const uint8_t *end)
{
    uint64_t x = 0;

    for (int shift = 0; shift < 64; shift += 7) {
        if (*at == end)
            die("a varint is cut off");
        uint8_t byte = *(*at)++;
        x |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80)
            return x;
    }
    die("a varint is too long");
    return 0;
}

static int next(const uint8_t **at, const uint8_t *end, struct field *f)
{
    if (*at == end)
        return 0;
    uint64_t key = varint(at, end);
    *f = (struct field){.number = (int)(key >> 3), .wire = (int)(key & 7)};
    if (f->wire == 0) {
        f->value = varint(at, end);
        return 1;
    }
    f->size = f->wire == 1 ? 8 : f->wire == 5 ? 4 : f->wire == 2 ? varint(at, end) : SIZE_MAX;
    if (f->size > (size_t)(end - *at))
        die("a field is cut off or of an unknown type");
    f->data = *at;
    if (f->wire != 2)
        f->value = little(f->data, (int)f->size);
    *at += f->size;
    return 1;
}

static void print_value(long long step, const uint8_t *at, const uint8_t *end)
{
    struct field f, tag = {0};
    float value = 0;
    int found = 0;

    while (next(&at, end, &f)) {
        if (f.number == 1 && f.wire == 2)
            tag = f;
        if (f.number == 2 && f.wire == 5) {
            uint32_t bits = (uint32_t)f.value;
            memcpy(&value, &bits, sizeof(value));
            found = 1;
        }
    }
    if (!tag.data || !found)
        die("a value has no tag or no number");
    printf("%lld %.*s %.9g\n", step, (int)tag.size, tag.data, value);
}

static void print_event(const uint8_t *at, const uint8_t *end)
{
    struct field f;
    long long step = 0;
    double wall = 0;

    while (next(&at, end, &f)) {
        const uint8_t *inner = f.data, *inner_end = f.data ? f.data + f.size : NULL;
        struct field g;
        if (f.number == 1 && f.wire == 1)
            memcpy(&wall, f.data, sizeof(wall));
        else if (f.number == 2 && f.wire == 0)
            step = (long long)f.value;
        else if (f.number == 3 && f.wire == 2)
            printf("version %.*s\n", (int)f.size, f.data);
        else if (f.number == 5 && f.wire == 2)
            while (next(&inner, inner_end, &g)) {
                if (g.number != 1 || g.wire != 2)
                    die("a summary holds something else than values");
                print_value(step, g.data, g.data + g.size);
            }
        else if (f.number == 7 && f.wire == 2 && next(&inner, inner_end, &g) && g.number == 1 && g.value == 1)
            printf("start %lld\n", step);
        else
            die("an event holds something unknown");
    }
    double age = (double)time(NULL) - wall;
    if (!(age > -60 && age < 86400))
        die("an event is not of today");
}

int main(int argc, char **argv)
{
    static uint8_t record[1 << 16];

    make_table();
    for (int i = 1; i < argc; i++) {
        path = argv[i];
        FILE *f = fopen(path, "rb");
        size_t n;
        if (!f)
            die("cannot be opened");
        while ((n = fread(record, 1, 12, f)) == 12) {
            check(record, 8, record + 8);
            uint64_t size = little(record, 8);
            if (size > sizeof(record) - 4 || fread(record, 1, size + 4, f) != size + 4)
                die("a record is cut off");
            check(record, size, record + size);
            print_event(record, record + size);
        }
        if (n != 0)
            die("surplus bytes");
        fclose(f);
    }
    return 0;
}
