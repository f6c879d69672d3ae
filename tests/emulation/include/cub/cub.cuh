/* SPDX-License-Identifier: Apache-2.0 */
#include <cub/device/device_radix_sort.cuh>
