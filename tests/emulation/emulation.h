/* SPDX-License-Identifier: Apache-2.0 */
/* Inside the emulated device. */
#ifndef ORRI_EMULATION_H
#define ORRI_EMULATION_H

#include <algorithm>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <vector>

#include <cuda_runtime.h>

namespace emulated {

/* Every byte of memory that nothing was written to: not a number in each format. */
enum { POISON = 0xff };

/* ---- kernels (blocks.cpp) -------------------------------------------------------------------------------------- */

enum { MAX_THREADS = 1024, MAX_SHARED = 227 << 10, FREE_SHARED = 48 << 10 };

/* Runs every block of a grid, one after the other, in the calling thread of the system. */
void run_grid(const void *kernel, dim3 grid, dim3 block, size_t shared, const std::function<void()> &body);

/* ---- devices and their memory (memory.cpp) ---------------------------------------------------------------------- */

struct device {
    int number;
    unsigned char *memory;                  /* its arena */
    size_t size, used;
    std::map<uintptr_t, size_t> blocks;     /* what was asked for */
    CUstream_st *standard;                  /* the default stream */
    std::set<CUstream_st *> streams;        /* all of them */
    cudaError_t error;                      /* of work, after which the device is lost */
};

/* The devices, from the first call on; `lock` is held by who reads or changes what is in them or submits work. */
extern std::mutex lock;
const std::vector<std::unique_ptr<device>> &devices();
/* That of this thread; NULL: there is none. */
device *current_device();

/* The device that an address belongs to, or NULL. */
device *device_at(const void *at);
bool is_pinned(const void *at, size_t bytes);
/* Ends the process where `bytes` from there are not within one allocation. */
void must_be_allocated(const char *call, device *of, const void *at, size_t bytes);
/* Whether this thread may touch the memory of devices, where the processor has protection keys. */
void allow_device_memory(bool allow);

/* ---- streams (streams.cpp) -------------------------------------------------------------------------------------- */

/* A point in a stream: `ticket` pieces of work. */
struct moment {
    std::shared_ptr<CUstream_st> in;
    uint64_t ticket = 0;

    bool passed() const;
    void wait() const;
};

/* Gives `stream` (NULL: the default stream of the current device) work to do after what it has. `end`, if not NULL, becomes
 * the moment when it is done. The error is that of the call. */
cudaError_t enqueue(cudaStream_t stream, std::function<void()> work, moment *end = nullptr);
/* The device of a stream. */
cudaError_t device_of(cudaStream_t stream, device **of);

CUstream_st *create_stream(device *of, bool blocking);
/* Waits for all work of a device. */
void drain(device *of);
/* After which the handles of its streams are gone. */
void forget_streams(device *of);

/* ---- errors (errors.cpp) --------------------------------------------------------------------------------------- */

/* Counts a call of `name`; true where ORRERY_EMULATED_FAIL says that it fails. */
bool fails(const char *name);

/* Notes what cudaGetLastError() tells this thread; gives `error` back. */
cudaError_t note(cudaError_t error);

/* The number in an environment variable. */
long setting(const char *name, long otherwise);

}

#endif
