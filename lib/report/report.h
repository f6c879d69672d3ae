/* SPDX-License-Identifier: Apache-2.0 */
#ifndef ORRI_REPORT_H
#define ORRI_REPORT_H

#include <stddef.h>

/* Appends to a file in one write where the system takes it, so that a reader, or a kill, finds whole records. What was
 * written of one that does not fit is taken back. ORR_EIO. */
int orri_append(int fd, const char *path, const void *data, size_t bytes);

#endif
