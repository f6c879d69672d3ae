/* SPDX-License-Identifier: Apache-2.0 */
/* Orrery: trains and runs Transformers as an asynchronous task graph on StarPU.
 *
 * Rules that hold for every function of the public headers:
 *  - names start with orr_ or ORR_; nothing else is exported;
 *  - int functions return 0 or a negative code of enum orr_status, pointer functions NULL; the
 *    message is in orr_error();
 *  - X_create and X_open give an object that the caller owns and ends with X_destroy, which takes
 *    NULL too; a pointer argument is borrowed for the call unless its comment says otherwise;
 *  - one thread at a time may call into an object, and the thread that called orr_init() drives
 *    models and trainers; what may be called from any thread says so;
 *  - a function that ends in _submit only submits tasks: its effect is there after the next wait;
 *  - shapes are written B (batch: sequences), T (tokens of a sequence), C (width), H (heads),
 *    V (vocabulary); sizes are in bytes and times in seconds unless the name says otherwise. */
#ifndef ORRERY_ORRERY_H
#define ORRERY_ORRERY_H

#include <orrery/checkpoint.h>
#include <orrery/config.h>
#include <orrery/cuda.h>
#include <orrery/data.h>
#include <orrery/dtype.h>
#include <orrery/block.h>
#include <orrery/error.h>
#include <orrery/examples.h>
#include <orrery/infer.h>
#include <orrery/mesh.h>
#include <orrery/model.h>
#include <orrery/report.h>
#include <orrery/rng.h>
#include <orrery/rows.h>
#include <orrery/runtime.h>
#include <orrery/safetensors.h>
#include <orrery/scores.h>
#include <orrery/tile.h>
#include <orrery/tokenizer.h>
#include <orrery/trace.h>
#include <orrery/train.h>
#include <orrery/trainer.h>

#endif
