/* SPDX-License-Identifier: Apache-2.0 */
/* The threads of a block are fibers of one thread of the system. A fiber runs until its thread waits for others, and then
 * switches to one that does not. A fiber whose thread has ended goes on with one that has not begun, so that a kernel without
 * barriers needs a single one. */
#include "emulation.h"

#include "include/codelets/math/ptx_cuda.h"

#include <cstdarg>
#include <cstdlib>
#include <cxxabi.h>
#include <dlfcn.h>
#include <link.h>
#include <memory>
#include <string>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

__thread uint3 threadIdx, blockIdx;
__thread dim3 blockDim, gridDim;

namespace emulated {

__thread unsigned char *shared_memory;

namespace {

/* ---- fibers --------------------------------------------------------------------------------------------------- */

enum { STACK = 256 << 10, PAGE = 4096, SHARED = 228 << 10 };

static_assert((int)SHARED >= (int)MAX_SHARED && SHARED % PAGE == 0, "whole pages");

#if defined(__x86_64__)
typedef void *context;

/* Keeps what a callee must keep on the stack that is left. */
extern "C" void orri_emulation_switch(context *from, context to);
asm(R"(
.text
.globl orri_emulation_switch
.hidden orri_emulation_switch
.type orri_emulation_switch, @function
orri_emulation_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size orri_emulation_switch, . - orri_emulation_switch
)");

void make_context(context *fresh, void *stack, size_t bytes, void (*entry)())
{
    void **top = reinterpret_cast<void **>(static_cast<char *>(stack) + bytes);

    *--top = nullptr;       /* where the entry would return to */
    *--top = reinterpret_cast<void *>(entry);
    for (int k = 0; k < 6; k++)
        *--top = nullptr;
    *fresh = top;
}

void switch_context(context *from, context *to) { orri_emulation_switch(from, *to); }
#else
typedef ucontext_t context;

void make_context(context *fresh, void *stack, size_t bytes, void (*entry)())
{
    getcontext(fresh);
    fresh->uc_stack.ss_sp = stack;
    fresh->uc_stack.ss_size = bytes;
    fresh->uc_link = nullptr;
    makecontext(fresh, entry, 0);
}

void switch_context(context *from, context *to) { swapcontext(from, to); }
#endif

struct fiber {
    context at;
    void *stack;

    explicit fiber(void (*entry)())
    {
        stack = mmap(nullptr, PAGE + STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (stack == MAP_FAILED || mprotect(stack, PAGE, PROT_NONE))
            die("no memory for a stack");
        make_context(&at, static_cast<char *>(stack) + PAGE, STACK, entry);
    }
    ~fiber() { munmap(stack, PAGE + STACK); }
    fiber(const fiber &) = delete;
};

/* ---- a block -------------------------------------------------------------------------------------------------- */

struct meeting {
    unsigned mask, here;
    exchange what;
};

/* cp.async; global is NULL for zeros. */
struct async_copy {
    void *shared;
    const void *global;
    int bytes;
};

/* Of one thread: what was begun, in groups but for the last `open`. */
struct async_copies {
    std::vector<std::vector<async_copy>> groups;
    std::vector<async_copy> open;
};

struct warp {
    unsigned alive, ready;      /* lanes: not exited; those among them that wait for nothing */
    std::vector<meeting> meetings;
    void *mine[32];
    const char *waits[32];
    unsigned mask[32];
};

/* Of one thread of the system. */
struct multiprocessor {
    const void *kernel;
    const std::function<void()> *body;
    unsigned threads, warps, alive, waiting;
    bool backwards;             /* the order of warps, so that a result that depends on it shows */
    unsigned current;           /* thread */
    enum barrier kind;
    int count, result;
    context host;
    fiber *now;
    std::vector<warp> warp_of = std::vector<warp>(MAX_THREADS / 32);
    std::vector<uint3> index;
    fiber *runs[MAX_THREADS];
    std::vector<async_copies> copies = std::vector<async_copies>(MAX_THREADS);
    bool copied;                /* a thread of this block began a copy */
    std::vector<std::unique_ptr<fiber>> fibers;
    std::vector<fiber *> idle;
    unsigned char *shared_end = nullptr;    /* what is behind cannot be touched */

    ~multiprocessor();
};

thread_local multiprocessor here;

const char barrier_name[] = "__syncthreads";

multiprocessor::~multiprocessor()
{
    if (shared_end)
        munmap(shared_end - SHARED - PAGE, SHARED + 2 * PAGE);
}

/* Its name where the object exports it, else a place for addr2line. */
std::string name_of(const void *kernel)
{
    Dl_info info = {};
    char *plain, text[64];
    std::string name;

    if (!dladdr(kernel, &info) || !info.dli_fname)
        return "?";
    if (info.dli_sname && info.dli_saddr == kernel) {
        plain = abi::__cxa_demangle(info.dli_sname, nullptr, nullptr, nullptr);
        name = plain ? plain : info.dli_sname;
        free(plain);
        return name;
    }
    snprintf(text, sizeof(text), "+%#zx", (size_t)(static_cast<const char *>(kernel) - static_cast<char *>(info.dli_fbase)));
    return info.dli_fname + std::string(text);
}

void tell_waiting(multiprocessor *m)
{
    for (unsigned w = 0; w < m->warps; w++)
        for (unsigned k = 0; k < 32 && 32 * w + k < m->threads; k++) {
            const warp &of = m->warp_of[w];

            if (!(of.alive >> k & 1))
                continue;
            /* One line for neighbours that wait for the same. */
            unsigned last = k;
            while (last < 31 && of.alive >> (last + 1) & 1 && of.waits[last + 1] == of.waits[k] && of.mask[last + 1] == of.mask[k])
                last++;
            fprintf(stderr, "  warp %u, lanes %u to %u wait in %s", w, k, last, of.waits[k]);
            if (of.waits[k] != barrier_name)
                fprintf(stderr, ", mask %08x", of.mask[k]);
            fputc('\n', stderr);
            k = last;
        }
}

/* The thread that goes on, after the current one in a round; all that wait at a barrier where everyone does. */
unsigned next_thread(multiprocessor *m)
{
    for (int again = 0; again < 2; again++) {
        unsigned first = m->current / 32, lane = m->current % 32;

        for (unsigned k = 0; k <= m->warps; k++) {
            unsigned w = (m->backwards ? first + m->warps - k % m->warps : first + k) % m->warps;
            unsigned ready = m->warp_of[w].ready;

            if (k == 0)
                ready &= -1u << lane;
            if (ready)
                return 32 * w + (unsigned)__builtin_ctz(ready);
        }
        if (m->waiting == 0 || m->waiting < m->alive)
            break;
        m->result = m->kind == COUNT ? m->count : m->kind == AND ? m->count == (int)m->waiting : m->count != 0;
        m->waiting = 0;
        m->count = 0;
        for (unsigned w = 0; w < m->warps; w++)
            m->warp_of[w].ready = m->warp_of[w].alive;
    }
    if (m->alive == 0)
        return MAX_THREADS;
    fprintf(stderr, "emulated device: kernel %s, block (%u,%u,%u): threads wait for each other for ever\n",
            name_of(m->kernel).c_str(), blockIdx.x, blockIdx.y, blockIdx.z);
    tell_waiting(m);
    abort();
}

void run_threads();

/* Leaves the current fiber for thread `next`. */
void go_on_with(multiprocessor *m, unsigned next)
{
    fiber *from = m->now;

    m->current = next;
    if (!m->runs[next]) {
        if (m->idle.empty()) {
            m->fibers.emplace_back(new fiber(run_threads));
            m->idle.push_back(m->fibers.back().get());
        }
        m->runs[next] = m->idle.back();
        m->idle.pop_back();
    }
    m->now = m->runs[next];
    if (m->now != from)
        switch_context(from ? &from->at : &m->host, &m->now->at);
}

/* Where the current thread waits until it is ready. */
void wait_ready(multiprocessor *m, const char *where, unsigned mask)
{
    unsigned self = m->current;
    warp *w = &m->warp_of[self / 32];

    w->waits[self % 32] = where;
    w->mask[self % 32] = mask;
    w->ready &= ~(1u << self % 32);
    go_on_with(m, next_thread(m));
    threadIdx = m->index[self];
}

/* Holds a meeting where everyone has come. */
bool hold(warp *w, size_t k)
{
    meeting m = w->meetings[k];
    void *lane[32];

    if ((m.mask & w->alive) != m.here)
        return false;
    for (int l = 0; l < 32; l++)
        lane[l] = m.here >> l & 1 ? w->mine[l] : nullptr;
    w->meetings.erase(w->meetings.begin() + (long)k);
    m.what(lane);
    w->ready |= m.here;
    return true;
}

void run_threads()
{
    multiprocessor *m = &here;

    for (;;) {
        unsigned self = m->current;
        warp *w = &m->warp_of[self / 32];

        threadIdx = m->index[self];
        (*m->body)();
        /* One that has exited has come to every barrier, and to no meeting. */
        w->alive &= ~(1u << self % 32);
        w->ready &= ~(1u << self % 32);
        m->alive--;
        for (size_t k = 0; k < w->meetings.size();)
            if (!hold(w, k))
                k++;
        unsigned next = next_thread(m);
        if (next < MAX_THREADS && !m->runs[next]) {
            m->current = next;
            m->runs[next] = m->now;
            continue;
        }
        fiber *mine = m->now;
        m->idle.push_back(mine);
        if (next < MAX_THREADS) {
            go_on_with(m, next);
        } else {
            m->now = nullptr;
            switch_context(&mine->at, &m->host);
        }
    }
}

void run_block(multiprocessor *m)
{
    m->alive = m->threads;
    m->waiting = 0;
    m->count = 0;
    for (unsigned w = 0; w < m->warps; w++) {
        unsigned lanes = m->threads - 32 * w;

        m->warp_of[w].alive = m->warp_of[w].ready = lanes < 32 ? (1u << lanes) - 1 : -1u;
        m->warp_of[w].meetings.clear();
    }
    if (m->copied)
        for (unsigned t = 0; t < m->threads; t++) {
            m->copies[t].groups.clear();
            m->copies[t].open.clear();
        }
    m->copied = false;
    memset(m->runs, 0, sizeof(m->runs[0]) * m->threads);
    m->now = nullptr;
    go_on_with(m, m->backwards ? 32 * (m->warps - 1) : 0);
}

/* Variables in shared memory are thread-local (kernel.h): those of the object that a kernel is in, for this thread. */
struct statics {
    uintptr_t kernel;
    void *at;
    size_t bytes;
};

int find_statics(struct dl_phdr_info *info, size_t, void *data)
{
    statics *found = static_cast<statics *>(data);
    bool here = false;

    for (int k = 0; k < info->dlpi_phnum; k++) {
        const ElfW(Phdr) &header = info->dlpi_phdr[k];
        uintptr_t first = info->dlpi_addr + header.p_vaddr;

        if (header.p_type == PT_LOAD && found->kernel >= first && found->kernel - first < header.p_memsz)
            here = true;
    }
    if (!here)
        return 0;
    for (int k = 0; k < info->dlpi_phnum; k++)
        if (info->dlpi_phdr[k].p_type == PT_TLS && info->dlpi_tls_data) {
            found->at = info->dlpi_tls_data;
            found->bytes = info->dlpi_phdr[k].p_memsz;
        }
    return 1;
}

}

void die(const char *format, ...)
{
    va_list arguments;

    fprintf(stderr, "emulated device: ");
    if (here.now)
        fprintf(stderr, "kernel %s, block (%u,%u,%u), thread (%u,%u,%u): ", name_of(here.kernel).c_str(), blockIdx.x,
                blockIdx.y, blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    abort();
}

unsigned lane() { return here.current % 32; }

int synchronise(enum barrier kind, int predicate)
{
    multiprocessor *m = &here;

    if (m->waiting > 0 && m->kind != kind)
        die("a barrier at which others wait for another kind of barrier");
    m->kind = kind;
    m->waiting++;
    m->count += predicate != 0;
    wait_ready(m, barrier_name, 0);
    return m->result;
}

void meet(unsigned mask, exchange what, const char *name, void *mine)
{
    multiprocessor *m = &here;
    unsigned bit = 1u << m->current % 32;
    warp *w = &m->warp_of[m->current / 32];
    size_t k = 0;

    if (!(mask & bit))
        die("%s with mask %08x by lane %u", name, mask, m->current % 32);
    w->mine[m->current % 32] = mine ? mine : &mine;
    while (k < w->meetings.size() && (w->meetings[k].mask != mask || w->meetings[k].what != what))
        k++;
    if (k == w->meetings.size())
        w->meetings.push_back({ mask, 0, what });
    w->meetings[k].here |= bit;
    if (!hold(w, k))
        wait_ready(m, name, mask);
}

void begin_copy(void *shared, const void *global, int bytes, bool inside)
{
    if ((uintptr_t)shared % (unsigned)bytes || (inside && (uintptr_t)global % (unsigned)bytes))
        die("cp.async: %d bytes between addresses that are no multiples of it", bytes);
    memset(shared, POISON, (size_t)bytes);
    here.copied = true;
    here.copies[here.current].open.push_back({ shared, inside ? global : nullptr, bytes });
}

void commit_copies()
{
    async_copies *mine = &here.copies[here.current];

    mine->groups.push_back(std::move(mine->open));
    mine->open.clear();
}

void wait_copies(int pending)
{
    async_copies *mine = &here.copies[here.current];
    size_t done = mine->groups.size() > (size_t)pending ? mine->groups.size() - (size_t)pending : 0;

    for (size_t g = 0; g < done; g++)
        for (const async_copy &copy : mine->groups[g])
            if (copy.global)
                memcpy(copy.shared, copy.global, (size_t)copy.bytes);
            else
                memset(copy.shared, 0, (size_t)copy.bytes);
    mine->groups.erase(mine->groups.begin(), mine->groups.begin() + (long)done);
}

void run_grid(const void *kernel, dim3 grid, dim3 block, size_t shared, const std::function<void()> &body)
{
    multiprocessor *m = &here;
    statics fixed = { reinterpret_cast<uintptr_t>(kernel), nullptr, 0 };
    size_t dynamic = (shared + 15) / 16 * 16;

    if (!m->shared_end) {
        char *at = static_cast<char *>(mmap(nullptr, SHARED + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));

        if (at == MAP_FAILED || mprotect(at + PAGE, SHARED, PROT_READ | PROT_WRITE))
            die("no memory for shared memory");
        m->shared_end = reinterpret_cast<unsigned char *>(at + PAGE + SHARED);
    }
    dl_iterate_phdr(find_statics, &fixed);
    m->kernel = kernel;
    m->body = &body;
    m->threads = block.x * block.y * block.z;
    m->warps = (m->threads + 31) / 32;
    m->index.clear();
    for (unsigned z = 0; z < block.z; z++)
        for (unsigned y = 0; y < block.y; y++)
            for (unsigned x = 0; x < block.x; x++)
                m->index.push_back({ x, y, z });
    blockDim = block;
    gridDim = grid;
    shared_memory = m->shared_end - dynamic;
    m->backwards = false;
    for (blockIdx.z = 0; blockIdx.z < grid.z; blockIdx.z++)
        for (blockIdx.y = 0; blockIdx.y < grid.y; blockIdx.y++)
            for (blockIdx.x = 0; blockIdx.x < grid.x; blockIdx.x++) {
                memset(shared_memory, POISON, dynamic);
                if (fixed.bytes)
                    memset(fixed.at, POISON, fixed.bytes);
                run_block(m);
                m->backwards = !m->backwards;
            }
}

}
