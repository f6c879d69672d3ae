/* SPDX-License-Identifier: Apache-2.0 */
/* Devices, their memory, and copies. */
#include "emulation.h"

#include <algorithm>
#include <cstdlib>
#include <string>
#include <sys/mman.h>

namespace emulated {

std::mutex lock;

namespace {

enum { ALIGNMENT = 256, FENCE = 256, FENCE_BYTE = 0xa5 };

std::vector<std::unique_ptr<device>> *all;
std::map<uintptr_t, size_t> *pinned;
thread_local int current;
int key = -1;                   /* protection key of device memory */
bool guarded;                   /* without one: nobody may touch it while no work of a device is done */
std::mutex guard_lock;
int working;

/* What an allocation takes: whole units, and a fence behind. */
size_t whole(size_t bytes) { return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT + FENCE; }

/* Lets the calling thread touch device memory for as long as this is there. */
struct pass {
    pass() { allow_device_memory(true); }
    ~pass() { allow_device_memory(false); }
};

void start()
{
    long count = setting("ORRERY_EMULATED_DEVICES", 1);
    size_t size = (size_t)setting("ORRERY_EMULATED_MEMORY_MIB", 1024) << 20;

    pinned = new std::map<uintptr_t, size_t>;
    all = new std::vector<std::unique_ptr<device>>;
    key = pkey_alloc(0, PKEY_DISABLE_ACCESS);
    guarded = key < 0 && setting("ORRERY_EMULATED_GUARD", 1);
    for (long k = 0; k < count; k++) {
        device *d = new device();
        void *memory = mmap(nullptr, size, guarded ? PROT_NONE : PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

        if (memory == MAP_FAILED)
            die("no address space for %zu MiB", size >> 20);
        madvise(memory, size, MADV_HUGEPAGE);   /* opened and closed fifty times as fast */
        if (key >= 0)
            pkey_mprotect(memory, size, PROT_READ | PROT_WRITE, key);
        d->number = (int)k;
        d->memory = static_cast<unsigned char *>(memory);
        d->size = size;
        d->standard = create_stream(d, false);
        all->emplace_back(d);
    }
}

/* `lock` is held; nothing was written behind what was asked for. */
void check_fence(const device *d, uintptr_t at, size_t bytes)
{
    const unsigned char *memory = reinterpret_cast<const unsigned char *>(at);

    for (size_t k = bytes; k < whole(bytes); k++)
        if (memory[k] != FENCE_BYTE)
            die("device %d: byte %zu of an allocation of %zu bytes was written", d->number, k, bytes);
}

void release(device *d, uintptr_t at)
{
    size_t bytes = d->blocks.at(at);

    check_fence(d, at, bytes);
    memset(reinterpret_cast<void *>(at), POISON, whole(bytes));
    d->used -= whole(bytes);
    d->blocks.erase(at);
}

}

const std::vector<std::unique_ptr<device>> &devices()
{
    static std::once_flag once;

    std::call_once(once, start);
    return *all;
}

device *current_device()
{
    return (size_t)current < devices().size() ? devices()[(size_t)current].get() : nullptr;
}

device *device_at(const void *at)
{
    for (const auto &d : devices())
        if (at >= d->memory && at < d->memory + d->size)
            return d.get();
    return nullptr;
}

bool is_pinned(const void *at, size_t bytes)
{
    std::lock_guard<std::mutex> guard(lock);
    uintptr_t first = reinterpret_cast<uintptr_t>(at);
    auto behind = pinned->upper_bound(first);

    if (behind == pinned->begin())
        return false;
    --behind;
    return first + bytes <= behind->first + behind->second;
}

void must_be_allocated(const char *call, device *of, const void *at, size_t bytes)
{
    std::lock_guard<std::mutex> guard(lock);
    uintptr_t first = reinterpret_cast<uintptr_t>(at);
    auto behind = of->blocks.upper_bound(first);

    if (behind == of->blocks.begin())
        die("%s: %p is not allocated on device %d", call, at, of->number);
    --behind;
    if (first + bytes > behind->first + behind->second)
        die("%s: %zu bytes from %p are beyond the %zu bytes allocated at %p", call, bytes, at, behind->second,
            reinterpret_cast<void *>(behind->first));
}

void allow_device_memory(bool allow)
{
    if (key >= 0) {
        pkey_set(key, allow ? 0 : PKEY_DISABLE_ACCESS);
    } else if (guarded) {
        std::lock_guard<std::mutex> guard(guard_lock);

        if (allow ? working++ == 0 : --working == 0)
            for (const auto &d : *all)
                if (mprotect(d->memory, d->size, allow ? PROT_READ | PROT_WRITE : PROT_NONE))
                    die("the memory of device %d cannot be protected", d->number);
    }
}

}

using namespace emulated;

extern "C" {

/* ---- devices --------------------------------------------------------------------------------------------------- */

cudaError_t cudaGetDeviceCount(int *count)
{
    *count = (int)devices().size();
    return *count ? cudaSuccess : note(cudaErrorNoDevice);
}

cudaError_t cudaSetDevice(int number)
{
    if (number < 0 || (size_t)number >= devices().size())
        return note(cudaErrorInvalidDevice);
    current = number;
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int *number)
{
    *number = current;
    return current_device() ? cudaSuccess : note(cudaErrorNoDevice);
}

cudaError_t cudaDeviceSynchronize(void)
{
    device *d = current_device();

    if (!d)
        return note(cudaErrorNoDevice);
    drain(d);
    std::lock_guard<std::mutex> guard(lock);
    return note(d->error);
}

cudaError_t cudaDeviceReset(void)
{
    device *d = current_device();

    if (!d)
        return note(cudaErrorNoDevice);
    drain(d);
    forget_streams(d);
    std::lock_guard<std::mutex> guard(lock);
    pass allowed;
    while (!d->blocks.empty())
        release(d, d->blocks.begin()->first);
    d->error = cudaSuccess;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int number)
{
    if (number < 0 || (size_t)number >= devices().size())
        return note(cudaErrorInvalidDevice);
    memset(p, 0, sizeof(*p));
    snprintf(p->name, sizeof(p->name), "emulated CUDA device");
    p->uuid.bytes[0] = (char)(number + 1);
    p->totalGlobalMem = devices()[(size_t)number]->size;
    p->sharedMemPerBlock = FREE_SHARED;
    p->sharedMemPerBlockOptin = MAX_SHARED;
    p->sharedMemPerMultiprocessor = MAX_SHARED + (1 << 10);
    p->reservedSharedMemPerBlock = 1 << 10;
    p->regsPerBlock = p->regsPerMultiprocessor = 64 << 10;
    p->warpSize = warpSize;
    p->memPitch = 0x7fffffff;
    p->maxThreadsPerBlock = MAX_THREADS;
    p->maxThreadsPerMultiProcessor = 2048;
    p->maxBlocksPerMultiProcessor = 32;
    p->maxThreadsDim[0] = p->maxThreadsDim[1] = MAX_THREADS;
    p->maxThreadsDim[2] = 64;
    p->maxGridSize[0] = 0x7fffffff;
    p->maxGridSize[1] = p->maxGridSize[2] = 65535;
    p->totalConstMem = 64 << 10;
    p->major = 9;
    p->minor = 0;
    p->multiProcessorCount = 4;
    p->asyncEngineCount = 2;
    p->concurrentKernels = 1;
    p->unifiedAddressing = 1;
    p->canMapHostMemory = 1;
    p->l2CacheSize = 4 << 20;
    p->memoryBusWidth = 256;
    p->textureAlignment = 512;
    p->pciBusID = 0xe0 + number;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int number)
{
    cudaDeviceProp p;
    cudaError_t error = cudaGetDeviceProperties(&p, number);

    if (error)
        return error;
    switch (attribute) {
    case cudaDevAttrComputeMode: *value = cudaComputeModeDefault; break;
    case cudaDevAttrComputeCapabilityMajor: *value = p.major; break;
    case cudaDevAttrComputeCapabilityMinor: *value = p.minor; break;
    case cudaDevAttrMultiProcessorCount: *value = p.multiProcessorCount; break;
    case cudaDevAttrWarpSize: *value = p.warpSize; break;
    case cudaDevAttrMaxThreadsPerBlock: *value = p.maxThreadsPerBlock; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = p.maxThreadsPerMultiProcessor; break;
    case cudaDevAttrMaxBlocksPerMultiprocessor: *value = p.maxBlocksPerMultiProcessor; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = (int)p.sharedMemPerBlock; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = (int)p.sharedMemPerBlockOptin; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = (int)p.sharedMemPerMultiprocessor; break;
    case cudaDevAttrMaxGridDimX: *value = p.maxGridSize[0]; break;
    case cudaDevAttrMaxGridDimY: *value = p.maxGridSize[1]; break;
    case cudaDevAttrMaxGridDimZ: *value = p.maxGridSize[2]; break;
    case cudaDevAttrMaxBlockDimX: *value = p.maxThreadsDim[0]; break;
    case cudaDevAttrMaxBlockDimY: *value = p.maxThreadsDim[1]; break;
    case cudaDevAttrMaxBlockDimZ: *value = p.maxThreadsDim[2]; break;
    case cudaDevAttrL2CacheSize: *value = p.l2CacheSize; break;
    case cudaDevAttrGlobalMemoryBusWidth: *value = p.memoryBusWidth; break;
    case cudaDevAttrMemoryClockRate: case cudaDevAttrClockRate: *value = 1000000; break;
    case cudaDevAttrAsyncEngineCount: *value = p.asyncEngineCount; break;
    case cudaDevAttrConcurrentKernels: *value = p.concurrentKernels; break;
    case cudaDevAttrUnifiedAddressing: *value = p.unifiedAddressing; break;
    case cudaDevAttrCanMapHostMemory: *value = p.canMapHostMemory; break;
    case cudaDevAttrPciBusId: *value = p.pciBusID; break;
    case cudaDevAttrPciDeviceId: case cudaDevAttrPciDomainId: *value = 0; break;
    case cudaDevAttrManagedMemory: case cudaDevAttrConcurrentManagedAccess: case cudaDevAttrMemoryPoolsSupported:
    case cudaDevAttrCooperativeLaunch: case cudaDevAttrIntegrated: *value = 0; break;
    default: die("cudaDeviceGetAttribute: attribute %d is not emulated", (int)attribute);
    }
    return cudaSuccess;
}

cudaError_t cudaDeviceCanAccessPeer(int *can, int number, int peer)
{
    if (number < 0 || (size_t)number >= devices().size() || peer < 0 || (size_t)peer >= devices().size())
        return note(cudaErrorInvalidDevice);
    *can = number != peer;
    return cudaSuccess;
}

cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned)
{
    return (size_t)peer < devices().size() && peer != current ? cudaSuccess : note(cudaErrorInvalidDevice);
}

cudaError_t cudaDeviceDisablePeerAccess(int) { return cudaSuccess; }

cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version) { return cudaRuntimeGetVersion(version); }

/* ---- memory of a device ------------------------------------------------------------------------------------------ */

cudaError_t cudaMalloc(void **at, size_t bytes)
{
    device *d = current_device();
    uintptr_t free;

    if (!d)
        return note(cudaErrorNoDevice);
    *at = nullptr;
    if (bytes == 0)
        return cudaSuccess;
    if (fails("cudaMalloc") || bytes > d->size)
        return note(cudaErrorMemoryAllocation);
    std::lock_guard<std::mutex> guard(lock);
    if (d->error)
        return note(d->error);
    /* The first gap that is large enough. */
    free = reinterpret_cast<uintptr_t>(d->memory);
    for (const auto &block : d->blocks) {
        if (block.first - free >= whole(bytes))
            break;
        free = block.first + whole(block.second);
    }
    if (reinterpret_cast<uintptr_t>(d->memory) + d->size - free < whole(bytes))
        return note(cudaErrorMemoryAllocation);
    pass allowed;
    *at = reinterpret_cast<void *>(free);
    memset(*at, POISON, bytes);
    memset(static_cast<char *>(*at) + bytes, FENCE_BYTE, whole(bytes) - bytes);
    d->blocks[free] = bytes;
    d->used += whole(bytes);
    return cudaSuccess;
}

cudaError_t cudaFree(void *at)
{
    device *d;

    if (!current_device())
        return note(cudaErrorNoDevice);
    if (!at)
        return cudaSuccess;
    d = device_at(at);
    if (!d)
        return note(cudaErrorInvalidValue);
    drain(d);
    std::lock_guard<std::mutex> guard(lock);
    if (!d->blocks.count(reinterpret_cast<uintptr_t>(at)))
        return note(cudaErrorInvalidValue);
    pass allowed;
    release(d, reinterpret_cast<uintptr_t>(at));
    return note(d->error);
}

cudaError_t cudaMemGetInfo(size_t *free, size_t *total)
{
    device *d = current_device();

    if (!d)
        return note(cudaErrorNoDevice);
    std::lock_guard<std::mutex> guard(lock);
    *free = d->size - d->used;
    *total = d->size;
    return note(d->error);
}

cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *attributes, const void *at)
{
    device *d = device_at(at);

    memset(attributes, 0, sizeof(*attributes));
    attributes->device = d ? d->number : is_pinned(at, 1) ? current : -1;
    attributes->type = d ? cudaMemoryTypeDevice : is_pinned(at, 1) ? cudaMemoryTypeHost : cudaMemoryTypeUnregistered;
    attributes->devicePointer = attributes->type == cudaMemoryTypeUnregistered ? nullptr : const_cast<void *>(at);
    attributes->hostPointer = attributes->type == cudaMemoryTypeHost ? const_cast<void *>(at) : nullptr;
    return cudaSuccess;
}

/* ---- pinned memory of the host ------------------------------------------------------------------------------------- */

cudaError_t cudaHostRegister(void *at, size_t bytes, unsigned)
{
    uintptr_t first = reinterpret_cast<uintptr_t>(at);

    if (!current_device())
        return note(cudaErrorNoDevice);
    if (!at || bytes == 0 || device_at(at))
        return note(cudaErrorInvalidValue);
    std::lock_guard<std::mutex> guard(lock);
    auto behind = pinned->lower_bound(first);
    if (behind != pinned->end() && behind->first < first + bytes)
        return note(cudaErrorHostMemoryAlreadyRegistered);
    if (behind != pinned->begin()) {
        --behind;
        if (behind->first + behind->second > first)
            return note(cudaErrorHostMemoryAlreadyRegistered);
    }
    (*pinned)[first] = bytes;
    return cudaSuccess;
}

cudaError_t cudaHostUnregister(void *at)
{
    if (!current_device())
        return note(cudaErrorNoDevice);
    std::lock_guard<std::mutex> guard(lock);
    return note(pinned->erase(reinterpret_cast<uintptr_t>(at)) ? cudaSuccess : cudaErrorHostMemoryNotRegistered);
}

cudaError_t cudaHostAlloc(void **at, size_t bytes, unsigned flags)
{
    cudaError_t error;

    if (!current_device())
        return note(cudaErrorNoDevice);
    if (fails("cudaHostAlloc"))
        return note(cudaErrorMemoryAllocation);
    *at = aligned_alloc(4096, (std::max<size_t>(bytes, 1) + 4095) / 4096 * 4096);
    if (!*at)
        return note(cudaErrorMemoryAllocation);
    error = cudaHostRegister(*at, std::max<size_t>(bytes, 1), flags);
    if (!error)
        memset(*at, POISON, bytes);
    return error;
}

cudaError_t cudaMallocHost(void **at, size_t bytes) { return cudaHostAlloc(at, bytes, 0); }

cudaError_t cudaFreeHost(void *at)
{
    cudaError_t error;

    if (!at)
        return cudaSuccess;
    /* As the real one, it waits for what may still use it. */
    for (const auto &d : devices())
        drain(d.get());
    error = cudaHostUnregister(at);
    if (error)
        return error;
    free(at);
    return cudaSuccess;
}

cudaError_t cudaHostGetDevicePointer(void **on_device, void *at, unsigned)
{
    if (!is_pinned(at, 1))
        return note(cudaErrorInvalidValue);
    *on_device = at;
    return cudaSuccess;
}

/* ---- copies ---------------------------------------------------------------------------------------------------------- */

}

namespace {

/* `depth` slices of `height` rows of `width` bytes. */
struct extent {
    size_t width, height, depth;
};

struct place {
    char *at;
    size_t pitch, slice;

    char *row(size_t y, size_t z) const { return at + z * slice + y * pitch; }
    /* From the first byte to the last. */
    size_t bytes(extent e) const { return (e.depth - 1) * slice + (e.height - 1) * pitch + e.width; }
};

void move(place to, place from, extent e)
{
    for (size_t z = 0; z < e.depth; z++)
        for (size_t y = 0; y < e.height; y++)
            memmove(to.row(y, z), from.row(y, z), e.width);
}

cudaError_t copy(const char *call, place to, place from, extent e, cudaMemcpyKind kind, cudaStream_t stream, bool wait)
{
    device *target, *source;
    moment end;
    cudaError_t error;

    if (!current_device())
        return note(cudaErrorNoDevice);
    if (fails(call))
        return note(cudaErrorUnknown);
    if (e.width == 0 || e.height == 0 || e.depth == 0)
        return cudaSuccess;
    if ((e.height > 1 && (to.pitch < e.width || from.pitch < e.width)))
        return note(cudaErrorInvalidPitchValue);
    target = device_at(to.at);
    source = device_at(from.at);
    if (kind != cudaMemcpyDefault && ((kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice) != (target != nullptr) ||
                                      (kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice) != (source != nullptr)))
        return note(cudaErrorInvalidValue);
    if (target)
        must_be_allocated(call, target, to.at, to.bytes(e));
    if (source)
        must_be_allocated(call, source, from.at, from.bytes(e));
    if (!source && !wait && !is_pinned(from.at, from.bytes(e))) {
        /* Staged: the caller may change it from here on. */
        auto staged = std::make_shared<std::vector<char>>(e.width * e.height * e.depth);
        place packed = { staged->data(), e.width, e.width * e.height };

        move(packed, from, e);
        error = enqueue(stream, [=] { move(to, { staged->data(), packed.pitch, packed.slice }, e); }, &end);
    } else {
        error = enqueue(stream, [=] { move(to, from, e); }, &end);
    }
    if (error)
        return note(error);
    /* Between places of the device it does not wait, whatever it is called. */
    if (!(target && source) && (wait || (!target && !is_pinned(to.at, to.bytes(e)))))
        end.wait();
    return cudaSuccess;
}

place linear(const void *at, size_t bytes) { return { static_cast<char *>(const_cast<void *>(at)), bytes, bytes }; }

place pitched(const void *at, size_t pitch) { return { static_cast<char *>(const_cast<void *>(at)), pitch, 0 }; }

place pitched3(const cudaPitchedPtr &p, const cudaPos &at)
{
    return { static_cast<char *>(p.ptr) + at.z * p.ysize * p.pitch + at.y * p.pitch + at.x, p.pitch, p.ysize * p.pitch };
}

cudaError_t copy3(const char *call, const cudaMemcpy3DPeerParms *p, cudaStream_t stream)
{
    place to = pitched3(p->dstPtr, p->dstPos), from = pitched3(p->srcPtr, p->srcPos);
    device *target = device_at(to.at), *source = device_at(from.at);

    if (p->srcArray || p->dstArray || !target || !source || target->number != p->dstDevice || source->number != p->srcDevice)
        return note(cudaErrorInvalidValue);
    return copy(call, to, from, { p->extent.width, p->extent.height, p->extent.depth }, cudaMemcpyDeviceToDevice, stream, false);
}

/* Copies between devices that are not given a stream come after all that both have, and before what follows. */
template <typename F> cudaError_t between(int first, int second, F copy)
{
    cudaError_t error;

    if (first < 0 || second < 0 || (size_t)std::max(first, second) >= devices().size())
        return note(cudaErrorInvalidDevice);
    drain(devices()[(size_t)first].get());
    drain(devices()[(size_t)second].get());
    error = copy();
    return error ? error : cudaStreamSynchronize(nullptr);
}

cudaError_t set(const char *call, void *at, size_t pitch, int value, size_t width, size_t height, cudaStream_t stream)
{
    device *d = device_at(at);
    char *memory = static_cast<char *>(at);

    if (!current_device())
        return note(cudaErrorNoDevice);
    if (fails(call))
        return note(cudaErrorUnknown);
    if (width == 0 || height == 0)
        return cudaSuccess;
    if (!d)
        return note(cudaErrorInvalidValue);
    must_be_allocated(call, d, at, (height - 1) * pitch + width);
    return note(enqueue(stream, [=] {
        for (size_t y = 0; y < height; y++)
            memset(memory + y * pitch, value, width);
    }));
}

}

extern "C" {

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind, cudaStream_t stream)
{
    return copy("cudaMemcpyAsync", linear(to, bytes), linear(from, bytes), { bytes, 1, 1 }, kind, stream, false);
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind)
{
    return copy("cudaMemcpy", linear(to, bytes), linear(from, bytes), { bytes, 1, 1 }, kind, nullptr, true);
}

cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width, size_t height,
                              enum cudaMemcpyKind kind, cudaStream_t stream)
{
    return copy("cudaMemcpy2DAsync", pitched(to, to_pitch), pitched(from, from_pitch), { width, height, 1 }, kind, stream, false);
}

cudaError_t cudaMemcpy2D(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width, size_t height,
                         enum cudaMemcpyKind kind)
{
    return copy("cudaMemcpy2D", pitched(to, to_pitch), pitched(from, from_pitch), { width, height, 1 }, kind, nullptr, true);
}

cudaError_t cudaMemcpyPeerAsync(void *to, int, const void *from, int, size_t bytes, cudaStream_t stream)
{
    return copy("cudaMemcpyPeerAsync", linear(to, bytes), linear(from, bytes), { bytes, 1, 1 }, cudaMemcpyDeviceToDevice, stream,
                false);
}

cudaError_t cudaMemcpyPeer(void *to, int to_device, const void *from, int from_device, size_t bytes)
{
    return between(to_device, from_device, [=] { return cudaMemcpyPeerAsync(to, to_device, from, from_device, bytes, nullptr); });
}

cudaError_t cudaMemcpy3DPeerAsync(const struct cudaMemcpy3DPeerParms *p, cudaStream_t stream)
{
    return copy3("cudaMemcpy3DPeerAsync", p, stream);
}

cudaError_t cudaMemcpy3DPeer(const struct cudaMemcpy3DPeerParms *p)
{
    return between(p->dstDevice, p->srcDevice, [=] { return copy3("cudaMemcpy3DPeer", p, nullptr); });
}

cudaError_t cudaMemsetAsync(void *at, int value, size_t bytes, cudaStream_t stream)
{
    return set("cudaMemsetAsync", at, bytes, value, bytes, 1, stream);
}

cudaError_t cudaMemset(void *at, int value, size_t bytes) { return set("cudaMemset", at, bytes, value, bytes, 1, nullptr); }

cudaError_t cudaMemset2DAsync(void *at, size_t pitch, int value, size_t width, size_t height, cudaStream_t stream)
{
    return set("cudaMemset2DAsync", at, pitch, value, width, height, stream);
}

}
