/* SPDX-License-Identifier: Apache-2.0 */
/* StarPU's recorder of events, FxT. */
#ifndef ORRI_FXT_H
#define ORRI_FXT_H

/* What the file of a rank is called, with the rank behind it. */
#define ORRI_FXT_FILE "prof_file_"

/* Before StarPU starts: it records into directory/prof_file__RANK, which it writes when it stops. Of several ranks
 * StarPU-MPI then aligns the clocks by a barrier at the start and one at the end. NULL leaves everything to StarPU's own
 * variables. ORR_EINVAL where StarPU has no FxT. Main thread. */
int orri_fxt_start(const char *directory);

/* After StarPU stopped: what orri_fxt_start() asked for does not hold for the next start. */
void orri_fxt_stop(void);

#endif
