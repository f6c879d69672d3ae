/* SPDX-License-Identifier: Apache-2.0 */
/* TensorBoard's event files: TFRecords that each hold one Event message of protocol buffers.
 *
 *     record  = length (uint64), masked CRC-32C of the length (uint32), data, masked CRC-32C of the data (uint32), all
 *               little-endian; masked = rotate right by 15, add 0xa282ead8
 *               (https://www.tensorflow.org/tutorials/load_data/tfrecord, tensorflow's lib/io/record_writer.h)
 *     Event   = wall_time 1: double, step 2: int64, and one of file_version 3: string, summary 5: Summary,
 *               session_log 7: SessionLog            (tensorboard/compat/proto/event.proto)
 *     Summary = value 1, repeated: { tag 1: string, simple_value 2: float }           (.../summary.proto)
 *
 * A field of protocol buffers is a key, 8 x number + type, and a value: type 0 a varint, 1 eight bytes, 2 a varint
 * length and so many bytes, 5 four bytes (https://protobuf.dev/programming-guides/encoding/). */
#include <orrery/report.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

#include "core/core.h"
#include "io/io.h"
#include "report/report.h"

struct orr_tensorboard {
    char *path;
    int fd;
};

/* ---- encoding ------------------------------------------------------------------------------------------------ */

enum { RECORD = 512, HEADER = 12, FOOTER = 4 };     /* bytes; the longest event here takes about 130 */

struct message {
    size_t size;
    unsigned char data[RECORD];
};

enum wire { VARINT = 0, EIGHT_BYTES = 1, BYTES = 2, FOUR_BYTES = 5 };

static void put(struct message *m, const void *data, size_t bytes)
{
    memcpy(m->data + m->size, data, bytes);
    m->size += bytes;
}

/* The low `bytes` bytes of x, little-endian. */
static void put_fixed(struct message *m, uint64_t x, int bytes)
{
    for (int i = 0; i < bytes; i++)
        m->data[m->size++] = (unsigned char)(x >> 8 * i);
}

static void put_varint(struct message *m, uint64_t x)
{
    for (; x >= 0x80; x >>= 7)
        m->data[m->size++] = (unsigned char)(x | 0x80);
    m->data[m->size++] = (unsigned char)x;
}

static void put_key(struct message *m, int number, enum wire wire)
{
    put_varint(m, (uint64_t)number << 3 | wire);
}

static void put_bytes(struct message *m, int number, const void *data, size_t bytes)
{
    put_key(m, number, BYTES);
    put_varint(m, bytes);
    put(m, data, bytes);
}

static void put_scalar(struct message *summary, const char *tag, double value)
{
    struct message v = {0};
    float narrow = (float)value;
    uint32_t bits;

    memcpy(&bits, &narrow, sizeof(bits));
    put_bytes(&v, 1, tag, strlen(tag));
    put_key(&v, 2, FOUR_BYTES);
    put_fixed(&v, bits, 4);
    put_bytes(summary, 1, v.data, v.size);
}

/* CRC-32C (Castagnoli), bit by bit: there are a few hundred bytes in a step. */
static uint32_t crc32c(const unsigned char *data, size_t bytes)
{
    uint32_t crc = ~(uint32_t)0;

    for (size_t i = 0; i < bytes; i++) {
        crc ^= data[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78 : 0);
    }
    return ~crc;
}

static uint32_t masked(uint32_t crc)
{
    return (crc >> 15 | crc << 17) + 0xa282ead8;
}

/* Appends the event whose field `number` is data[bytes]. */
static int append(struct orr_tensorboard *t, int64_t step, int number, const void *data, size_t bytes)
{
    struct message event = {0}, record = {0};
    struct timeval now;
    uint64_t bits;

    gettimeofday(&now, NULL);
    double wall = (double)now.tv_sec + 1e-6 * (double)now.tv_usec;
    memcpy(&bits, &wall, sizeof(bits));
    put_key(&event, 1, EIGHT_BYTES);
    put_fixed(&event, bits, 8);
    put_key(&event, 2, VARINT);
    put_varint(&event, (uint64_t)step);
    put_bytes(&event, number, data, bytes);

    put_fixed(&record, event.size, 8);
    put_fixed(&record, masked(crc32c(record.data, 8)), 4);
    put(&record, event.data, event.size);
    put_fixed(&record, masked(crc32c(event.data, event.size)), 4);
    return orri_append(t->fd, t->path, record.data, record.size);
}

/* ---- the file --------------------------------------------------------------------------------------------------- */

/* A run resumed within the second it was stopped in must not write to the same file. */
static int create(struct orr_tensorboard *t, const char *directory)
{
    char host[128] = "localhost";
    struct timeval now;

    gethostname(host, sizeof(host) - 1);
    gettimeofday(&now, NULL);
    for (int64_t seconds = now.tv_sec;; seconds++) {
        free(t->path);
        t->path = orri_format("%s/events.out.tfevents.%010lld.%s.%ld", directory, (long long)seconds, host, (long)getpid());
        if (!t->path)
            return ORR_ENOMEM;
        t->fd = open(t->path, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0666);
        if (t->fd >= 0)
            return ORR_OK;
        if (errno != EEXIST)
            return orri_remedy(orri_fail(ORR_ENOENT, t->path, "cannot be made: %s", strerror(errno)),
                               "name another directory with --tensorboard");
    }
}

static int begin(struct orr_tensorboard *t, const char *directory, int64_t after)
{
    static const char version[] = "brain.Event:2";
    static const unsigned char session_start[] = {1 << 3 | VARINT, 1};      /* SessionLog { status 1: START } */

    if (orri_make_folder(directory) != 0)
        return orri_remedy(orri_fail(ORR_ENOENT, directory, "cannot be made: %s", strerror(errno)),
                           "name another directory with --tensorboard");
    ORR_TRY(create(t, directory));
    ORR_TRY(append(t, 0, 3, version, strlen(version)));
    return after < 0 ? ORR_OK : append(t, after + 1, 7, session_start, sizeof(session_start));
}

struct orr_tensorboard *orr_tensorboard_open(const char *directory, int64_t after)
{
    struct orr_tensorboard *t = orri_calloc(1, sizeof(*t));

    if (!t)
        return NULL;
    t->fd = -1;
    if (begin(t, directory, after) != 0) {
        orr_tensorboard_destroy(t);
        return NULL;
    }
    return t;
}

void orr_tensorboard_destroy(struct orr_tensorboard *t)
{
    if (!t)
        return;
    if (t->fd >= 0)
        close(t->fd);
    free(t->path);
    free(t);
}

int orr_tensorboard_step(struct orr_tensorboard *t, const struct orr_metric *m)
{
    struct message summary = {0};

    put_scalar(&summary, "train/loss", m->loss);
    put_scalar(&summary, "train/lr", m->lr);
    put_scalar(&summary, "train/grad_norm", m->grad_norm);
    put_scalar(&summary, "train/tokens_per_s", m->tokens_per_s);
    return append(t, m->step, 5, summary.data, summary.size);
}

int orr_tensorboard_validation(struct orr_tensorboard *t, int64_t step, double loss)
{
    struct message summary = {0};

    put_scalar(&summary, "validation/loss", loss);
    return append(t, step, 5, summary.data, summary.size);
}
