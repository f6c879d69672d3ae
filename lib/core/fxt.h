/* SPDX-License-Identifier: Apache-2.0 */
/* StarPU's recorder of events, FxT. */
#ifndef ORRI_FXT_H
#define ORRI_FXT_H

/* What the file of a rank is called, with the rank behind it. */
#define ORRI_FXT_FILE "prof_file_"

/* Before StarPU starts: it records into directory/prof_file__RANK, which it writes when it stops. NULL leaves
 * everything to StarPU's own variables. ORR_EINVAL where StarPU has no FxT; ORR_ENOMEM. Main thread. */
int orri_fxt_start(const char *directory);

/* After StarPU-MPI started, on all ranks: where orri_fxt_start() asked for traces, measures how far the clocks of the
 * ranks are apart and records it, so that the translated traces have one clock. Nothing on one rank. Main thread. */
void orri_fxt_align(int ranks);

/* After StarPU stopped: what orri_fxt_start() asked for does not hold for the next start. */
void orri_fxt_stop(void);

#endif
