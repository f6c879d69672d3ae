/* SPDX-License-Identifier: Apache-2.0 */
/* Text to train language models on: a corpus is one long array of token ids, a sampler cuts it into sequences. Data with labels
 * is in examples.h. */
#ifndef ORRERY_DATA_H
#define ORRERY_DATA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <orrery/dtype.h>
#include <orrery/tokenizer.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- corpus --------------------------------------------------------------------------------------
 * The tokens of all inputs, one after the other, numbered from 0. Opened once, then constant. */

struct orr_corpus;

/* The tokens [first, last) of a corpus. */
struct orr_range {
    int64_t first, last;
};

/* Opens `count` inputs in their order. Each path is
 *   a file, or
 *   a directory: every file below it in byte order of the paths, but what begins with a dot, leads
 *     nowhere or is no regular file, or
 *   a glob pattern (glob(7)), where no file has that very name: its matches in byte order, or
 *   a prefix: P, where there is no P but a P.idx.
 * A file called *.bin holds tokens:
 *   with an .idx file beside it, Megatron-LM's pair (megatron/core/datasets/indexed_dataset.py): the index has "MMIDIDX" and two
 *     zero bytes, version 1 as uint64, the element type as uint8 (8: uint16, 4: int32; others are refused), the numbers of
 *     sequences S and of documents' ends D as uint64, S sizes as int32, S pointers as int64, D sequence numbers as int64; nothing
 *     else. An .idx file stands for its .bin. Sequences follow each other; where documents end is not looked at;
 *   with llm.c's header (dev/data/data_common.py): 256 int32, of which 20240520, version 1, count; then
 *     `count` uint16; nothing else;
 *   otherwise uint16 alone, as nanoGPT writes (data/.../prepare.py).
 * All are little-endian. Any other file is text for `tokenizer`, whatever its bytes. Text that is
 * already token ids (the "bytes" tokenizer) and tokens stay in the mapped file; the file must not be
 * shortened by others meanwhile. Empty files among the many of a directory or pattern are passed over.
 * After `max_bytes` bytes of input (0 = no limit) the rest is left out. The tokenizer is borrowed for
 * the call.
 * NULL with ORR_ENOENT (no such file, unreadable, no file in the directory, no match), ORR_EFORMAT
 * (empty file, bad header, truncated, surplus bytes, a format with labels), ORR_EINVAL (no paths), ORR_ENOMEM;
 * the message begins with the path. */
struct orr_corpus *orr_corpus_open(const char *const *paths, int count, const struct orr_tokenizer *tokenizer,
                                   int64_t max_bytes);
void orr_corpus_destroy(struct orr_corpus *corpus);

/* The functions below only read: any thread may call them. */

/* The number of tokens, > 0. */
int64_t orr_corpus_size(const struct orr_corpus *corpus);

/* The number of files that it consists of. */
int orr_corpus_files(const struct orr_corpus *corpus);

/* out[k] = token start + k, k = 0..count-1, across file borders. ORR_EINVAL where that leaves the corpus. */
int orr_corpus_read(const struct orr_corpus *corpus, int64_t start, int64_t count, int32_t *out);

/* Reads every token: 0 if all are in 0..vocab-1, else ORR_EFORMAT with file, position in that file and id. */
int orr_corpus_check_vocab(const struct orr_corpus *corpus, int vocab);

/* Sets *validation to the last floor(fraction x size) tokens and *train to those before.
 * 0 <= fraction < 1, else ORR_EINVAL. */
int orr_corpus_split(const struct orr_corpus *corpus, double fraction, struct orr_range *train,
                     struct orr_range *validation);

/* A hash (FNV-1a, 64 bits) of the number of tokens and of 65536 of them (all, where there are fewer) in
 * runs spread evenly. It depends on the tokens alone, not on names or on how files divide them, so that a
 * resumed run can tell that it was given another corpus; it does not notice every small edit. */
uint64_t orr_corpus_fingerprint(const struct orr_corpus *corpus);

/* ---- sampler -------------------------------------------------------------------------------------
 * Numbers the sequences ("samples") of a run 0, 1, 2, ...; what a sample holds is a pure function of the
 * fields below and its number, so that the position in the data is one integer. With N tokens in the
 * range and T = seq:
 *
 *   shuffled    epoch e = n / windows, each with a shift s(e) drawn from 0..shifts-1;
 *               sample n begins at token first + s(e) + T p(n mod windows), p = orr_rng_permute() of epoch e.
 *               windows = max(1, (N-T)/T), shifts = min(T, N - T windows): every shift leaves room for
 *               the same number of windows of T+1 tokens.
 *   sequential  one epoch of windows = ceil((N-1)/T) in order, where each token but the first is the
 *               target of exactly one position; the last is padded. */
struct orr_sampler {
    const struct orr_corpus *corpus;    /* borrowed                                     */
    struct orr_range range;             /* the tokens that are drawn from               */
    int seq;                            /* T, positions of a sample                     */
    bool sequential;
    uint64_t seed;                      /* chooses shifts and permutations              */
    int64_t windows;                    /* samples of an epoch, >= 1                    */
    int shifts;                         /* 1 when sequential                            */
};

/* Fills *sampler; it needs no end. ORR_EINVAL where the range leaves the corpus, seq < 1, or the range is
 * shorter than seq + 1 tokens (the remedy says which seq would do). */
int orr_sampler_init(struct orr_sampler *sampler, const struct orr_corpus *corpus, struct orr_range range, int seq,
                     uint64_t seed);

/* The same for evaluation: sequential. Two tokens are enough, since the last window may be partial. */
int orr_sampler_init_sequential(struct orr_sampler *sampler, const struct orr_corpus *corpus, struct orr_range range,
                                int seq);

/* input[seq] = the tokens of sample n, target[seq] = the token that follows each. Where a sequential
 * sampler's last window is partial, the inputs beyond it are 0 and the targets ORR_IGNORE. ORR_EINVAL
 * for n < 0, and for n >= windows when sequential. Any thread. */
int orr_sampler_read(const struct orr_sampler *sampler, int64_t n, int32_t *input, int32_t *target);

#ifdef __cplusplus
}
#endif
#endif
