// Runs CUDA kernels on the CPU, one CPU thread per CUDA thread, blocks one after the other.
//
// Enough of CUDA for the kernels of this folder: indices, __shared__ arrays of fixed size,
// __syncthreads, atomicAdd. No warp shuffles, no `extern __shared__`, no textures. Slow, and
// meant to be: each thread is real, so a forgotten __syncthreads() is a real race, which
// -fsanitize=thread reports, and an index out of range is a real one, for -fsanitize=address.
#pragma once
#define CUDA_ON_CPU 1

// C's headers where they do: C++'s threads, streams and containers take three times as long to compile.
#include <climits>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <pthread.h>
#include <tuple>
#include <type_traits>
#include <utility>
#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#define __global__
#define __device__
#define __host__
#define __constant__ static const
#ifndef __shared__
#define __shared__ static  // one block at a time, so its shared memory is simply static
#endif
#define __forceinline__ inline
#define __launch_bounds__(...)

struct dim3 {
    unsigned int x = 1, y = 1, z = 1;
};
static thread_local dim3 threadIdx, blockIdx;
static dim3 blockDim, gridDim;

namespace cuda_on_cpu {

// Where the threads of a block wait for one another. It orders what comes before it with what comes
// after it and nothing else: a mutex, locked anew by each thread that wakes, would hide some races.
struct Barrier {
    unsigned threads, missing, phase, waits;  // waits: of each thread that has returned

    explicit Barrier(unsigned n) : threads(n), missing(n), phase(0), waits(UINT_MAX) {}

    void arrive(bool for_the_last_time)
    {
        unsigned mine = __atomic_load_n(&phase, __ATOMIC_ACQUIRE);
        if (for_the_last_time) __atomic_sub_fetch(&threads, 1, __ATOMIC_ACQ_REL);
        if (__atomic_sub_fetch(&missing, 1, __ATOMIC_ACQ_REL) == 0) {
            __atomic_store_n(&missing, __atomic_load_n(&threads, __ATOMIC_ACQUIRE), __ATOMIC_RELEASE);
            __atomic_store_n(&phase, mine + 1, __ATOMIC_RELEASE);
            wake_all();
        } else if (!for_the_last_time) {
            while (__atomic_load_n(&phase, __ATOMIC_ACQUIRE) == mine) sleep_while(mine);
        }
    }

#ifdef __linux__
    void sleep_while(unsigned value) { syscall(SYS_futex, &phase, FUTEX_WAIT_PRIVATE, value, nullptr, nullptr, 0); }
    void wake_all() { syscall(SYS_futex, &phase, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0); }
#else
    void sleep_while(unsigned) { sched_yield(); }
    void wake_all() {}
#endif
};
static Barrier *block_barrier = nullptr;
static thread_local unsigned own_waits = 0;

}  // namespace cuda_on_cpu

static inline void __syncthreads()
{
    cuda_on_cpu::own_waits++;
    if (cuda_on_cpu::block_barrier) cuda_on_cpu::block_barrier->arrive(false);
}

template <class A, class B> static inline auto min(A a, B b) -> std::common_type_t<A, B> { return b < a ? b : a; }
template <class A, class B> static inline auto max(A a, B b) -> std::common_type_t<A, B> { return a < b ? b : a; }
template <class T> static inline T __ldg(const T *at) { return *at; }
static inline float __fdividef(float a, float b) { return a / b; }
static inline unsigned int __float_as_uint(float value) { unsigned int bits; std::memcpy(&bits, &value, 4); return bits; }
template <class T> static inline T atomicAdd(T *at, T value)
{
    T old, sum;
    __atomic_load(at, &old, __ATOMIC_SEQ_CST);
    do sum = old + value; while (!__atomic_compare_exchange(at, &old, &sum, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST));
    return old;
}

// The 16 bits of `value` in half precision, rounded to nearest even; what cvt.rn.f16.f32 gives.
static inline unsigned short half_bits(float value)
{
    _Float16 half = (_Float16)value;
    unsigned short bits;
    std::memcpy(&bits, &half, sizeof bits);
    return bits;
}

// And back.
static inline float half_value(unsigned short bits)
{
    _Float16 half;
    std::memcpy(&half, &bits, sizeof bits);
    return (float)half;
}

namespace cuda_on_cpu {

struct Argument {
    uint64_t length;
    char *bytes;
};

template <class... V> [[noreturn]] static void refuse(const char *why, V... values)
{
    std::fprintf(stderr, "cuda_on_cpu: ");
    std::fprintf(stderr, why, values...);
    std::fprintf(stderr, "\n");
    std::exit(3);
}

template <class T> static T as(const Argument *arguments, size_t i)
{
    const Argument &argument = arguments[i];
    if constexpr (std::is_pointer_v<T>) {
        return reinterpret_cast<T>(argument.bytes);
    } else {
        if (argument.length != sizeof(T))
            refuse("argument %zu has %zu bytes, the kernel takes %zu", i, (size_t)argument.length, sizeof(T));
        T value;
        std::memcpy(&value, argument.bytes, sizeof(T));
        return value;
    }
}

template <class Call> struct Thread {
    const Call *call;
    dim3 thread, block;
    pthread_t handle;

    static void *begin(void *given)
    {
        auto &self = *static_cast<Thread *>(given);
        threadIdx = self.thread;
        blockIdx = self.block;
        (*self.call)();
        unsigned others = UINT_MAX;  // of the first thread that returned
        bool first = __atomic_compare_exchange_n(
            &block_barrier->waits, &others, own_waits, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
        if (!first && others != own_waits)
            refuse("one thread comes by __syncthreads() %u times, another one of its block %u times; every "
                   "thread must come by, also one that has no pixel", others, own_waits);
        block_barrier->arrive(true);  // a thread that returned is waited for no longer
        return nullptr;
    }
};

static uint64_t divisor(uint64_t a, uint64_t b) { return b ? divisor(b, a % b) : a; }

// Calls `visit` for each index below `size`, in no order that a kernel could rely on: a thread that reads
// what the one before it has written finds it unwritten.
template <class Visit> static void out_of_order(dim3 size, const Visit &visit)
{
    uint64_t n = (uint64_t)size.x * size.y * size.z, step = n * 5 / 8 + 1;
    while (divisor(step, n) > 1) step++;
    for (uint64_t k = 0, i = n / 2; k < n; k++, i = (i + step) % n)
        visit(dim3{unsigned(i % size.x), unsigned(i / size.x % size.y), unsigned(i / size.x / size.y)});
}

template <class Call> static void run_block(const Call &call, dim3 block)
{
#ifdef SERIAL  // a kernel that never waits needs no threads
    out_of_order(blockDim, [&](dim3 thread) {
        threadIdx = thread;
        blockIdx = block;
        call();
    });
#else
    unsigned n = blockDim.x * blockDim.y * blockDim.z;
    Barrier barrier{n};
    block_barrier = &barrier;
    auto *threads = static_cast<Thread<Call> *>(std::malloc(n * sizeof(Thread<Call>)));
    for (unsigned i = 0; i < n; i++) {
        dim3 thread{i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y};
        threads[i] = {&call, thread, block, {}};
        if (pthread_create(&threads[i].handle, nullptr, Thread<Call>::begin, &threads[i]) != 0)
            refuse("this machine starts no more than %u threads; the block has %u", i, n);
    }
    for (unsigned i = 0; i < n; i++) pthread_join(threads[i].handle, nullptr);
    std::free(threads);
#endif
}

template <class... P, size_t... I>
static void run(void (*kernel)(P...), const Argument *arguments, std::index_sequence<I...>)
{
    std::tuple<P...> values(as<P>(arguments, I)...);
    out_of_order(gridDim, [&](dim3 block) { run_block([&] { std::apply(kernel, values); }, block); });
}

// argv: program, kernel, grid x y z, block x y z, file. The file holds, for each argument, its
// length in bytes (8 bytes) and its bytes; it is written back after the run.
template <class... P> static int main_for(void (*kernel)(P...), char **argv)
{
    unsigned size[6];
    for (int i = 0; i < 6; i++) size[i] = std::strtoul(argv[2 + i], nullptr, 10);
    gridDim = {size[0], size[1], size[2]};
    blockDim = {size[3], size[4], size[5]};

    Argument arguments[sizeof...(P) + 1];
    size_t count = 0;
    std::FILE *in = std::fopen(argv[8], "rb");
    if (!in) return 4;
    for (uint64_t length; std::fread(&length, sizeof length, 1, in) == 1; count++) {
        Argument argument{length, static_cast<char *>(std::malloc(length))};
        if (std::fread(argument.bytes, 1, length, in) != length) return 4;
        if (count < sizeof...(P)) arguments[count] = argument;
    }
    std::fclose(in);
    if (count != sizeof...(P)) refuse("the kernel takes %zu arguments, not %zu", sizeof...(P), count);
    run(kernel, arguments, std::index_sequence_for<P...>{});

    std::FILE *out = std::fopen(argv[8], "wb");
    if (!out) return 4;
    bool good = true;
    for (size_t i = 0; i < count; i++) {
        good &= std::fwrite(&arguments[i].length, sizeof arguments[i].length, 1, out) == 1;
        good &= std::fwrite(arguments[i].bytes, 1, arguments[i].length, out) == arguments[i].length;
        std::free(arguments[i].bytes);
    }
    return std::fclose(out) == 0 && good ? 0 : 4;
}

}  // namespace cuda_on_cpu
