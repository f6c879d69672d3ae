/* SPDX-License-Identifier: Apache-2.0 */
/* Copies that passes keep of parameters, in the layout that a library likes best: made once per update instead of at every use.
 * One table for the process. */
#ifndef ORRI_KEPT_H
#define ORRI_KEPT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The copy of what is at address `of` that `key` names: `bytes` bytes, aligned to cache lines, that fill() has written, all of them.
 * It is filled when it is first asked for, and again when `version` is another than the last time; of several threads that ask
 * at once one fills it and the others wait. Calls with the same `of` and key have the same bytes. NULL, without an error, where
 * `version` is 0 or there is no memory: the caller goes another way.
 *
 * Valid until it is asked for with another version, or forgotten. So nobody may use a copy any longer when one of a later version
 * is asked for. Passes do not: what changes the parameters waits for all that read them, and what reads the changed ones waits for
 * that (sequential consistency; struct orr_operands). Any thread. */
const void *orri_kept(const void *of, uint64_t version, const void *key, size_t key_bytes, size_t bytes,
                      void (*fill)(void *argument, void *copy), void *argument);

/* Drops the copies of what lies in the `bytes` bytes from `first` on, which nobody uses any longer. */
void orri_kept_forget(const void *first, size_t bytes);

/* Bytes of all copies, as they were asked for. */
size_t orri_kept_bytes(void);

#ifdef __cplusplus
}
#endif
#endif
