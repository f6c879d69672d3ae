/* SPDX-License-Identifier: Apache-2.0 */
/* In the place of the toolkit's cuda_runtime.h, for .cu files that a host compiler reads. */
#ifndef ORRI_EMULATED_CUDA_RUNTIME_H
#define ORRI_EMULATED_CUDA_RUNTIME_H

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <tuple>
#include <utility>

#include <cuda_runtime_api.h>
#include <vector_functions.h>

#include "emulation/kernel.h"
#include "emulation/intrinsics.h"

#endif
