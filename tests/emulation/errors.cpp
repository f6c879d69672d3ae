/* SPDX-License-Identifier: Apache-2.0 */
#include "emulation.h"

#include <cstdlib>
#include <map>
#include <mutex>
#include <string>

namespace emulated {

namespace {

thread_local cudaError_t last = cudaSuccess;

struct failure {
    unsigned long calls, at;
};

std::mutex counting;
std::map<std::string, failure> *failures;

/* "cudaMalloc:3,launch:7" */
void read_failures()
{
    const char *text = getenv("ORRERY_EMULATED_FAIL");
    std::string rest = text ? text : "";

    failures = new std::map<std::string, failure>;
    while (!rest.empty()) {
        std::string one = rest.substr(0, rest.find(','));
        size_t colon = one.find(':');

        rest.erase(0, one.size() + 1);
        if (colon == std::string::npos || atol(one.c_str() + colon + 1) <= 0)
            die("ORRERY_EMULATED_FAIL=%s: not a list of call:number", text);
        (*failures)[one.substr(0, colon)] = { 0, strtoul(one.c_str() + colon + 1, nullptr, 10) };
    }
}

}

bool fails(const char *name)
{
    std::lock_guard<std::mutex> guard(counting);

    if (!failures)
        read_failures();
    auto found = failures->find(name);
    return found != failures->end() && ++found->second.calls == found->second.at;
}

cudaError_t note(cudaError_t error)
{
    if (error != cudaSuccess)
        last = error;
    return error;
}

long setting(const char *name, long otherwise)
{
    const char *text = getenv(name);
    char *end;
    long value;

    if (!text || !*text)
        return otherwise;
    value = strtol(text, &end, 10);
    if (*end || value < 0)
        die("%s=%s: not a number", name, text);
    return value;
}

}

using namespace emulated;

extern "C" {

cudaError_t cudaGetLastError(void)
{
    cudaError_t error = last;

    last = cudaSuccess;
    return error;
}

cudaError_t cudaPeekAtLastError(void) { return last; }

#define ERRORS(X) \
    X(cudaSuccess, "no error") \
    X(cudaErrorInvalidValue, "invalid argument") \
    X(cudaErrorMemoryAllocation, "out of memory") \
    X(cudaErrorInvalidConfiguration, "invalid configuration argument") \
    X(cudaErrorInvalidDevice, "invalid device ordinal") \
    X(cudaErrorInvalidResourceHandle, "invalid resource handle") \
    X(cudaErrorInvalidMemcpyDirection, "invalid copy direction for memcpy") \
    X(cudaErrorInvalidDevicePointer, "invalid device pointer") \
    X(cudaErrorNoDevice, "no CUDA-capable device is detected") \
    X(cudaErrorNotReady, "device not ready") \
    X(cudaErrorIllegalAddress, "an illegal memory access was encountered") \
    X(cudaErrorLaunchFailure, "unspecified launch failure") \
    X(cudaErrorPeerAccessAlreadyEnabled, "peer access is already enabled") \
    X(cudaErrorPeerAccessUnsupported, "peer access is not supported between these two devices") \
    X(cudaErrorHostMemoryAlreadyRegistered, "part or all of the requested memory range is already mapped") \
    X(cudaErrorHostMemoryNotRegistered, "pointer does not correspond to a registered memory region") \
    X(cudaErrorNotSupported, "operation not supported") \
    X(cudaErrorUnknown, "unknown error")

const char *cudaGetErrorString(cudaError_t error)
{
    switch (error) {
#define TEXT(name, text) case name: return text;
    ERRORS(TEXT)
    default: return "an error that the emulated device does not know";
    }
}

const char *cudaGetErrorName(cudaError_t error)
{
    switch (error) {
#define NAME(name, text) case name: return #name;
    ERRORS(NAME)
    default: return "unrecognized error code";
    }
}

}
