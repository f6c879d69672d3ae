/* SPDX-License-Identifier: Apache-2.0 */
/* A pass of a block is written once, for every device and dtype, of kernels: ORRI_KERNEL(o, name, arguments) is
 * orri_cuda_name(o->cuda, arguments) on a CUDA device and orri_cpu_name(arguments) elsewhere. What a kernel computes stands in
 * math_cuda.h; the other ones are in math_cpu.h. */
#ifndef ORRI_KERNELS_H
#define ORRI_KERNELS_H

#include <orrery/block.h>

#include "codelets/math/math_cpu.h"
#include "codelets/math/math_cuda.h"

#ifdef ORR_HAVE_CUDA
#define ORRI_KERNEL(o, name, ...) ((o)->cuda ? orri_cuda_##name((o)->cuda, __VA_ARGS__) : orri_cpu_##name(__VA_ARGS__))
/* Bytes of scratch that a kernel takes, `cuda` telling where. */
#define ORRI_SCRATCH(cuda, name, ...) ((cuda) ? orri_cuda_##name##_scratch(__VA_ARGS__) : orri_cpu_##name##_scratch(__VA_ARGS__))
/* The table of passes on a CUDA device, of a block that has one for all. */
#define ORRI_CUDA(...) __VA_ARGS__
#else
#define ORRI_KERNEL(o, name, ...) orri_cpu_##name(__VA_ARGS__)
#define ORRI_SCRATCH(cuda, name, ...) ((void)(cuda), orri_cpu_##name##_scratch(__VA_ARGS__))
#define ORRI_CUDA(...) {NULL}
#endif

#endif
