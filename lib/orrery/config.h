/* SPDX-License-Identifier: Apache-2.0 */
/* A model's configuration: Hugging Face's config.json. */
#ifndef ORRERY_CONFIG_H
#define ORRERY_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include <orrery/dtype.h>

#ifdef __cplusplus
extern "C" {
#endif

struct orr_config;

/* An empty configuration; `name` stands for the file in messages. NULL with ORR_ENOMEM. */
struct orr_config *orr_config_create(const char *name);

/* Reads a file that is one JSON object. NULL with ORR_ENOENT, ORR_EFORMAT ("file:line: what"). */
struct orr_config *orr_config_open(const char *path);
void orr_config_destroy(struct orr_config *config);

/* Applies "key=value": the value is JSON (12, 0.1, true, "text"), or, where it is none, a string. Keys that the
 * configuration does not have are taken too: their readers have defaults. ORR_EINVAL for text without '=' or key. */
int orr_config_set(struct orr_config *config, const char *assignment);

/* Sets the dtype of the parameters, ORR_F32, ORR_BF16 or ORR_F16, under the key that the configuration has for it: "dtype" as of
 * transformers 5, or "torch_dtype". ORR_EINVAL. */
int orr_config_set_dtype(struct orr_config *config, enum orr_dtype dtype);

/* The object as text, a key per line in alphabetical order. malloc'ed; NULL with ORR_ENOMEM. */
char *orr_config_text(const struct orr_config *config);

/* Writes the object to a file, whole or not at all. ORR_EIO. */
int orr_config_save(const struct orr_config *config, const char *path);

/* True where the key is there and not null. */
bool orr_config_has(const struct orr_config *config, const char *key);

/* The value under a key that must be there, in a range. ORR_ENOENT where it is missing or null, ORR_EFORMAT for
 * another type or value; file, key and remedy are in the message. */
int orr_config_int(const struct orr_config *config, const char *key, int64_t min, int64_t max, int64_t *value);
int orr_config_double(const struct orr_config *config, const char *key, double min, double max, double *value);
int orr_config_bool(const struct orr_config *config, const char *key, bool *value);
int orr_config_string(const struct orr_config *config, const char *key, const char **value);

/* The object under a key that must be there, as a configuration of its own, "FILE: KEY" in messages; the caller's to destroy. NULL
 * with ORR_ENOENT where it is missing or null, ORR_EFORMAT where it is no object. */
struct orr_config *orr_config_section(const struct orr_config *config, const char *key);

/* Item `index` of the list of strings under a key that is there. ORR_EFORMAT where it is no list, has none of this number or another
 * type there. */
int orr_config_item(const struct orr_config *config, const char *key, int index, const char **value);

/* A key with a value other than null that is none of known[], which NULL ends, or NULL. Borrowed. */
const char *orr_config_other_key(const struct orr_config *config, const char *const *known);

/* Where it was read from, or the name it was created with. Borrowed. */
const char *orr_config_name(const struct orr_config *config);

#ifdef __cplusplus
}
#endif
#endif
