/* SPDX-License-Identifier: Apache-2.0 */
/* Streams and events. Every stream has a thread of the system, which does what it was given in order. */
#include "emulation.h"

#include <atomic>
#include <chrono>
#include <random>
#include <thread>

using namespace emulated;

struct CUstream_st {
    device *of;
    bool blocking;          /* waits for the default stream and is waited for by it */
    std::mutex lock;
    std::condition_variable changed;
    std::deque<std::function<void()>> work;
    uint64_t given = 0, done = 0;
    bool ending = false;
};

struct CUevent_st {
    bool timed;
    moment at;
    std::shared_ptr<std::chrono::steady_clock::time_point> time;
};

namespace emulated {

namespace {

/* Handles that are valid. */
std::map<CUstream_st *, std::shared_ptr<CUstream_st>> *streams;
std::set<cudaEvent_t> *events;

void work_of(std::shared_ptr<CUstream_st> s)
{
    static std::atomic<unsigned> seed;
    std::minstd_rand random(++seed);
    long jitter = setting("ORRERY_EMULATED_JITTER", 0);
    std::unique_lock<std::mutex> guard(s->lock);

    allow_device_memory(true);
    for (;;) {
        s->changed.wait(guard, [&] { return s->ending || !s->work.empty(); });
        if (s->work.empty())
            return;
        std::function<void()> work = std::move(s->work.front());

        s->work.pop_front();
        guard.unlock();
        if (jitter > 0)
            std::this_thread::sleep_for(std::chrono::microseconds(random() % (unsigned long)jitter));
        work();
        work = nullptr;
        guard.lock();
        s->done++;
        s->changed.notify_all();
    }
}

void give(CUstream_st *s, std::function<void()> work)
{
    std::lock_guard<std::mutex> guard(s->lock);

    s->work.push_back(std::move(work));
    s->given++;
    s->changed.notify_all();
}

moment end_of(CUstream_st *s)
{
    std::lock_guard<std::mutex> guard(s->lock);
    moment end;

    end.in = streams->at(s);
    end.ticket = s->given;
    return end;
}

/* With `lock` held. */
cudaError_t find_stream(cudaStream_t handle, CUstream_st **found)
{
    device *current = current_device();

    if (!current)
        return cudaErrorNoDevice;
    if (handle == nullptr || handle == cudaStreamLegacy)
        *found = current->standard;
    else if (streams->count(handle))
        *found = handle;
    else
        return cudaErrorInvalidResourceHandle;
    return (*found)->of->error;
}

}

bool moment::passed() const
{
    if (!in)
        return true;
    std::lock_guard<std::mutex> guard(in->lock);
    return in->done >= ticket;
}

void moment::wait() const
{
    if (!in)
        return;
    std::unique_lock<std::mutex> guard(in->lock);
    in->changed.wait(guard, [this] { return in->done >= ticket; });
}

cudaError_t device_of(cudaStream_t handle, device **of)
{
    std::lock_guard<std::mutex> guard(lock);
    CUstream_st *s;
    cudaError_t error = find_stream(handle, &s);

    if (!error)
        *of = s->of;
    return error;
}

cudaError_t enqueue(cudaStream_t handle, std::function<void()> work, moment *end)
{
    std::lock_guard<std::mutex> guard(lock);
    CUstream_st *s;
    std::vector<moment> before;
    cudaError_t error = find_stream(handle, &s);

    if (error)
        return error;
    /* What comes before lies behind: no circle can come to be. */
    if (s == s->of->standard) {
        for (CUstream_st *other : s->of->streams)
            if (other != s && other->blocking)
                before.push_back(end_of(other));
    } else if (s->blocking) {
        before.push_back(end_of(s->of->standard));
    }
    if (before.empty())
        give(s, std::move(work));
    else
        give(s, [work, before] {
            for (const moment &m : before)
                m.wait();
            work();
        });
    if (end)
        *end = end_of(s);
    return cudaSuccess;
}

CUstream_st *create_stream(device *of, bool blocking)
{
    std::shared_ptr<CUstream_st> s = std::make_shared<CUstream_st>();

    if (!streams) {
        streams = new std::map<CUstream_st *, std::shared_ptr<CUstream_st>>;
        events = new std::set<cudaEvent_t>;
    }
    s->of = of;
    s->blocking = blocking;
    (*streams)[s.get()] = s;
    of->streams.insert(s.get());
    std::thread(work_of, s).detach();
    return s.get();
}

void drain(device *of)
{
    std::vector<moment> ends;

    {
        std::lock_guard<std::mutex> guard(lock);

        for (CUstream_st *s : of->streams)
            ends.push_back(end_of(s));
    }
    for (const moment &end : ends)
        end.wait();
}

static void end_stream(CUstream_st *s)
{
    std::shared_ptr<CUstream_st> keep = streams->at(s);
    std::lock_guard<std::mutex> guard(s->lock);

    s->ending = true;
    s->changed.notify_all();
    s->of->streams.erase(s);
    streams->erase(s);
}

void forget_streams(device *of)
{
    std::lock_guard<std::mutex> guard(lock);
    std::set<CUstream_st *> all = of->streams;

    for (CUstream_st *s : all)
        if (s != of->standard)
            end_stream(s);
}

}

extern "C" {

/* ---- streams --------------------------------------------------------------------------------------------------- */

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int)
{
    device *of = current_device();

    if (!of)
        return note(cudaErrorNoDevice);
    if (!stream || flags & ~(unsigned)cudaStreamNonBlocking)
        return note(cudaErrorInvalidValue);
    if (fails("cudaStreamCreate"))
        return note(cudaErrorMemoryAllocation);
    std::lock_guard<std::mutex> guard(lock);
    *stream = create_stream(of, !(flags & cudaStreamNonBlocking));
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags)
{
    return cudaStreamCreateWithPriority(stream, flags, 0);
}

cudaError_t cudaStreamCreate(cudaStream_t *stream) { return cudaStreamCreateWithPriority(stream, 0, 0); }

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    std::lock_guard<std::mutex> guard(lock);

    if (!streams || !streams->count(stream) || stream->of->standard == stream)
        return note(cudaErrorInvalidResourceHandle);
    end_stream(stream);
    return cudaSuccess;
}

static cudaError_t end_of_handle(cudaStream_t stream, moment *end)
{
    std::lock_guard<std::mutex> guard(lock);
    CUstream_st *s;
    cudaError_t error = find_stream(stream, &s);

    if (!error)
        *end = end_of(s);
    return error;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    moment end;
    cudaError_t error = end_of_handle(stream, &end);

    if (error)
        return note(error);
    if (fails("cudaStreamSynchronize"))
        return note(cudaErrorUnknown);
    end.wait();
    std::lock_guard<std::mutex> guard(lock);
    return note(end.in->of->error);
}

cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    moment end;
    cudaError_t error = end_of_handle(stream, &end);

    if (error)
        return note(error);
    return end.passed() ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *data)
{
    return note(enqueue(stream, [=] {
        allow_device_memory(false);
        function(data);
        allow_device_memory(true);
    }));
}

/* ---- events ---------------------------------------------------------------------------------------------------- */

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags)
{
    if (!current_device())
        return note(cudaErrorNoDevice);
    if (!event)
        return note(cudaErrorInvalidValue);
    std::lock_guard<std::mutex> guard(lock);
    *event = new CUevent_st;
    (*event)->timed = !(flags & cudaEventDisableTiming);
    events->insert(*event);
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *event) { return cudaEventCreateWithFlags(event, cudaEventDefault); }

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    std::lock_guard<std::mutex> guard(lock);

    if (!events || !events->erase(event))
        return note(cudaErrorInvalidResourceHandle);
    delete event;
    return cudaSuccess;
}

static cudaError_t find_event(cudaEvent_t event, moment *at)
{
    std::lock_guard<std::mutex> guard(lock);

    if (!events || !events->count(event))
        return cudaErrorInvalidResourceHandle;
    *at = event->at;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    auto time = std::make_shared<std::chrono::steady_clock::time_point>();
    moment at;
    cudaError_t error = find_event(event, &at);

    if (!error && fails("cudaEventRecord"))
        error = cudaErrorUnknown;
    if (!error)
        error = enqueue(stream, [=] { *time = std::chrono::steady_clock::now(); }, &at);
    if (error)
        return note(error);
    std::lock_guard<std::mutex> guard(lock);
    event->at = at;
    event->time = time;
    return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    moment at;
    cudaError_t error = find_event(event, &at);

    if (error || !at.in)
        return note(error);
    if (!at.passed())
        return cudaErrorNotReady;
    std::lock_guard<std::mutex> guard(lock);
    return note(at.in->of->error);
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    moment at;
    cudaError_t error = find_event(event, &at);

    if (error || !at.in)
        return note(error);
    at.wait();
    std::lock_guard<std::mutex> guard(lock);
    return note(at.in->of->error);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned)
{
    moment at;
    cudaError_t error = find_event(event, &at);

    if (!error && at.in)
        error = enqueue(stream, [=] { at.wait(); });
    return note(error);
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t start, cudaEvent_t end)
{
    moment first, last;
    cudaError_t error = find_event(start, &first);

    if (!error)
        error = find_event(end, &last);
    if (error)
        return note(error);
    if (!first.in || !last.in || !start->timed || !end->timed)
        return note(cudaErrorInvalidResourceHandle);
    if (!first.passed() || !last.passed())
        return cudaErrorNotReady;
    *ms = std::chrono::duration<float, std::milli>(*end->time - *start->time).count();
    return cudaSuccess;
}

}

/* ---- launch ---------------------------------------------------------------------------------------------------- */

namespace emulated {

static std::mutex limits_lock;
static std::map<const void *, size_t> limits;

cudaError_t set_function_attribute(const void *kernel, cudaFuncAttribute attribute, int value)
{
    if (fails("cudaFuncSetAttribute"))
        return note(cudaErrorUnknown);
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize)
        return attribute == cudaFuncAttributePreferredSharedMemoryCarveout ? cudaSuccess : note(cudaErrorInvalidValue);
    if (value < 0 || value > MAX_SHARED)
        return note(cudaErrorInvalidValue);
    std::lock_guard<std::mutex> guard(limits_lock);
    limits[kernel] = (size_t)value;
    return cudaSuccess;
}

cudaError_t launch(const cudaLaunchConfig_t *config, const void *kernel, std::function<void()> body)
{
    dim3 grid = config->gridDim, block = config->blockDim;
    size_t shared = config->dynamicSmemBytes, allowed = FREE_SHARED;
    device *of;
    cudaError_t error = device_of(config->stream, &of);

    if (error)
        return note(error);
    if (fails("launch"))
        return note(cudaErrorLaunchFailure);
    if (of != current_device())
        return note(cudaErrorInvalidResourceHandle);
    if (grid.x == 0 || grid.x > 0x7fffffff || grid.y == 0 || grid.y > 65535 || grid.z == 0 || grid.z > 65535 ||
        (uint64_t)block.x * block.y * block.z == 0 || block.x > MAX_THREADS || block.y > MAX_THREADS || block.z > 64 ||
        (uint64_t)block.x * block.y * block.z > MAX_THREADS)
        return note(cudaErrorInvalidConfiguration);
    {
        std::lock_guard<std::mutex> guard(limits_lock);
        auto found = limits.find(kernel);

        if (found != limits.end())
            allowed = found->second;
    }
    if (shared > allowed)
        return note(cudaErrorInvalidValue);
    return note(enqueue(config->stream, [=] {
        if (fails("kernel")) {
            std::lock_guard<std::mutex> guard(lock);

            of->error = cudaErrorIllegalAddress;
        } else {
            run_grid(kernel, grid, block, shared, body);
        }
    }));
}

}

extern "C" cudaError_t cudaFuncSetAttribute(const void *kernel, cudaFuncAttribute attribute, int value)
{
    return set_function_attribute(kernel, attribute, value);
}
