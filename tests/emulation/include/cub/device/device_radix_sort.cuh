/* SPDX-License-Identifier: Apache-2.0 */
/* In the place of CUB's: the sort that Orrery uses, stable as CUB's is. */
#ifndef ORRI_EMULATED_DEVICE_RADIX_SORT_CUH
#define ORRI_EMULATED_DEVICE_RADIX_SORT_CUH

#include <algorithm>
#include <vector>

#include <cuda_runtime.h>

namespace cub {

struct DeviceRadixSort {
    /* Without temporary storage, the size of it. As CUB's, what is there may be written before all is read. */
    template <typename K, typename V, typename N>
    static cudaError_t SortPairs(void *temporary, size_t &bytes, const K *keys_in, K *keys_out, const V *values_in,
                                 V *values_out, N count, int begin_bit = 0, int end_bit = sizeof(K) * 8, cudaStream_t stream = 0)
    {
        size_t needed = std::max<size_t>(1, (size_t)count * (sizeof(K) + sizeof(V)));
        cudaLaunchConfig_t config = {};

        if (!temporary) {
            bytes = needed;
            return cudaSuccess;
        }
        if (bytes < needed)
            return cudaErrorInvalidValue;
        if (count == 0)
            return cudaSuccess;
        config.gridDim = dim3(1);
        config.blockDim = dim3(1);
        config.stream = stream;
        return emulated::launch(&config, reinterpret_cast<const void *>(&sort<K, V>), [=] {
            sort(keys_in, keys_out, values_in, values_out, (size_t)count, begin_bit, end_bit);
            std::memset(temporary, 0xff, needed);
        });
    }

private:
    template <typename K> static unsigned long long digits(K key, int begin_bit, int end_bit)
    {
        unsigned long long bits = (unsigned long long)key;

        static_assert(std::is_integral<K>::value, "integers alone");
        if (std::is_signed<K>::value)
            bits ^= 1ull << (sizeof(K) * 8 - 1);
        if (end_bit < 64)
            bits &= (1ull << end_bit) - 1;
        return bits >> begin_bit;
    }

    template <typename K, typename V>
    static void sort(const K *keys_in, K *keys_out, const V *values_in, V *values_out, size_t count, int begin_bit, int end_bit)
    {
        std::vector<std::pair<K, V>> pairs;

        for (size_t k = 0; k < count; k++)
            pairs.emplace_back(keys_in[k], values_in[k]);
        std::stable_sort(pairs.begin(), pairs.end(), [=](const std::pair<K, V> &a, const std::pair<K, V> &b) {
            return digits(a.first, begin_bit, end_bit) < digits(b.first, begin_bit, end_bit);
        });
        for (size_t k = 0; k < count; k++) {
            keys_out[k] = pairs[k].first;
            values_out[k] = pairs[k].second;
        }
    }
};

}

#endif
