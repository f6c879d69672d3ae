/* SPDX-License-Identifier: Apache-2.0 */
/* Activations, gates and rotary positions: elements alone, or in pairs. */
#include "codelets/math/math_cuda.h"
#include "core/kernel_cuda.h"

namespace {

/* In the forms of activation.c. */
constexpr float TWO_ROOT = 1.5957691216057308f, CUBIC = 0.044715f, ROOT_2_PI = 0.39894228f;

__device__ __forceinline__ float activate(enum orr_activation kind, float u)
{
    switch (kind) {
    case ORR_GELU_TANH: return u / (1.0f + expf(-TWO_ROOT * (u + CUBIC * (u * u * u))));
    case ORR_GELU: return u * normcdff(u);
    case ORR_RELU: return u < 0 ? 0.0f : u;
    case ORR_TANH: return tanhf(u);
    default: return u / (1.0f + expf(-u));
    }
}

__device__ __forceinline__ float slope(enum orr_activation kind, float u)
{
    if (kind == ORR_GELU_TANH) {
        float v = u < -10.0f ? -10.0f : u > 10.0f ? 10.0f : u, square = v * v;
        float e = expf(-TWO_ROOT * v * (1.0f + CUBIC * square)), s = 1.0f / (1.0f + e);

        return s + v * s * (e * s) * (TWO_ROOT * (1.0f + 3.0f * CUBIC * square));
    }
    if (kind == ORR_GELU)
        return normcdff(u) + u * (ROOT_2_PI * expf(-0.5f * u * u));
    if (kind == ORR_RELU)
        return u <= 0 ? 0.0f : 1.0f;
    if (kind == ORR_TANH)
        return 1.0f - tanhf(u) * tanhf(u);
    float s = 1.0f / (1.0f + expf(-u));
    return s * (1.0f + u * (1.0f - s));
}

template <typename T> struct activation {
    enum orr_activation kind;
    const T *u;
    T *h;

    enum { wide = orri_wide<T> };
    template <int N> __device__ void at(size_t k) const
    {
        float v[N];

        orri_load<N>(u + k, v);
        for (int i = 0; i < N; i++)
            v[i] = activate(kind, v[i]);
        orri_store<N>(h + k, v);
    }
};

template <typename T> struct activation_backward {
    enum orr_activation kind;
    const T *dh, *u;
    T *du;

    enum { wide = orri_wide<T> };
    template <int N> __device__ void at(size_t k) const
    {
        float d[N], v[N];

        orri_load<N>(dh + k, d);
        orri_load<N>(u + k, v);
        for (int i = 0; i < N; i++)
            d[i] *= slope(kind, v[i]);
        orri_store<N>(du + k, d);
    }
};

template <typename T> struct gated {
    enum orr_activation kind;
    size_t width;
    const T *u;
    T *h;

    enum { wide = orri_wide<T> };
    template <int N> __device__ void at(size_t r, size_t j) const
    {
        const T *gate = u + 2 * r * width + j;
        float g[N], up[N];

        orri_load<N>(gate, g);
        orri_load<N>(gate + width, up);
        for (int i = 0; i < N; i++)
            up[i] *= activate(kind, g[i]);
        orri_store<N>(h + r * width + j, up);
    }
};

template <typename T> struct gated_backward {
    enum orr_activation kind;
    size_t width;
    const T *dh;
    T *u;

    enum { wide = orri_wide<T> };
    template <int N> __device__ void at(size_t r, size_t j) const
    {
        T *gate = u + 2 * r * width + j;
        float g[N], up[N], d[N];

        orri_load<N>(gate, g);
        orri_load<N>(gate + width, up);
        orri_load<N>(dh + r * width + j, d);
        for (int i = 0; i < N; i++) {
            float active = activate(kind, g[i]);

            g[i] = d[i] * up[i] * slope(kind, g[i]);
            up[i] = d[i] * active;
        }
        orri_store<N>(gate, g);
        orri_store<N>(gate + width, up);
    }
};

/* Column j of a row is pair j % half of head j / half. */
template <typename T> struct rotation {
    struct orri_rotary rotary;
    int seq, first;
    const int32_t *places;
    float sign;
    T *x;
    int64_t ld;

    enum { wide = 1 };
    template <int N> __device__ void at(size_t r, size_t j) const
    {
        size_t half = (size_t)rotary.half, d = j % half;
        T *a = x + r * ld + j / half * 2 * half + d, *b = a + half;
        int position = places ? places[r] : first + (int)(r % (size_t)seq);
        float s, c, u = orri_to_float(*a), v = orri_to_float(*b);

        sincosf((float)position * rotary.frequency[d], &s, &c);
        s *= sign;
        *a = orri_from_float<T>(u * c - v * s);
        *b = orri_from_float<T>(v * c + u * s);
    }
};

}

void orri_cuda_activate(struct orr_cuda *cuda, enum orr_dtype dtype, enum orr_activation kind, size_t count, const void *u, void *h)
{
    ORRI_WITH_TYPE(dtype, orri_each(cuda, "activate", count, orri_is_wide(u, h),
                                    activation<T>{kind, static_cast<const T *>(u), static_cast<T *>(h)}));
}

void orri_cuda_activate_backward(struct orr_cuda *cuda, enum orr_dtype dtype, enum orr_activation kind, size_t count, const void *dh,
                                 const void *u, void *du)
{
    ORRI_WITH_TYPE(dtype, orri_each(cuda, "activate_backward", count, orri_is_wide(dh, u, du),
                                    activation_backward<T>{kind, static_cast<const T *>(dh), static_cast<const T *>(u),
                                                           static_cast<T *>(du)}));
}

void orri_cuda_gated(struct orr_cuda *cuda, enum orr_dtype dtype, enum orr_activation kind, int rows, int width, const void *u,
                     void *h)
{
    ORRI_WITH_TYPE(dtype, orri_rows(cuda, "gated", (size_t)rows, (size_t)width, orri_is_wide(u, h),
                                    gated<T>{kind, (size_t)width, static_cast<const T *>(u), static_cast<T *>(h)}));
}

void orri_cuda_gated_backward(struct orr_cuda *cuda, enum orr_dtype dtype, enum orr_activation kind, int rows, int width,
                              const void *dh, void *u)
{
    ORRI_WITH_TYPE(dtype, orri_rows(cuda, "gated_backward", (size_t)rows, (size_t)width, orri_is_wide(dh, u),
                                    gated_backward<T>{kind, (size_t)width, static_cast<const T *>(dh), static_cast<T *>(u)}));
}

void orri_cuda_rotate(struct orr_cuda *cuda, enum orr_dtype dtype, const struct orri_rotary *rotary, int batch, int seq, int heads,
                      int first, const int32_t *places, bool inverse, void *x, int64_t ld)
{
    ORRI_WITH_TYPE(dtype, orri_rows(cuda, "rotate", (size_t)batch * (size_t)seq, (size_t)heads * (size_t)rotary->half, false,
                                    rotation<T>{*rotary, seq, first, places, inverse ? -1.0f : 1.0f, static_cast<T *>(x), ld}));
}
