// Runs CUDA kernels on the CPU, one std::thread per CUDA thread, blocks one after the other.
//
// Enough of CUDA for the kernels of this folder: indices, __shared__ arrays of fixed size,
// __syncthreads, atomicAdd. No warp shuffles, no `extern __shared__`, no textures. Slow, and
// meant to be: each thread is real, so a forgotten __syncthreads() is a real race, which
// -fsanitize=thread reports, and an index out of range is a real one, for -fsanitize=address.
#pragma once
#define CUDA_ON_CPU 1

#include <atomic>
#include <barrier>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <thread>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __shared__ static  // one block at a time, so its shared memory is simply static
#define __forceinline__ inline
#define __launch_bounds__(...)

struct dim3 {
    unsigned int x = 1, y = 1, z = 1;
};
static thread_local dim3 threadIdx, blockIdx;
static dim3 blockDim, gridDim;

static std::barrier<> *block_barrier = nullptr;
static inline void __syncthreads() { if (block_barrier) block_barrier->arrive_and_wait(); }

template <class A, class B> static inline auto min(A a, B b) -> std::common_type_t<A, B> { return b < a ? b : a; }
template <class A, class B> static inline auto max(A a, B b) -> std::common_type_t<A, B> { return a < b ? b : a; }
template <class T> static inline T __ldg(const T *at) { return *at; }
static inline float __fdividef(float a, float b) { return a / b; }
static inline unsigned int __float_as_uint(float value) { unsigned int bits; std::memcpy(&bits, &value, 4); return bits; }
template <class T> static inline T atomicAdd(T *at, T value) { return std::atomic_ref<T>(*at).fetch_add(value); }

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
    std::vector<char> bytes;
};

[[noreturn]] static void refuse(const std::string &why)
{
    std::fprintf(stderr, "cuda_on_cpu: %s\n", why.c_str());
    std::exit(3);
}

template <class T> static T as(std::vector<Argument> &arguments, size_t i)
{
    auto &bytes = arguments[i].bytes;
    if constexpr (std::is_pointer_v<T>) {
        return reinterpret_cast<T>(bytes.data());
    } else {
        if (bytes.size() != sizeof(T))
            refuse("argument " + std::to_string(i) + " has " + std::to_string(bytes.size()) + " bytes, the kernel takes "
                   + std::to_string(sizeof(T)));
        T value;
        std::memcpy(&value, bytes.data(), sizeof(T));
        return value;
    }
}

template <class Call> static void run_block(const Call &call, dim3 block)
{
#ifdef SERIAL  // a kernel that never waits needs no threads
    for (unsigned z = 0; z < blockDim.z; z++)
        for (unsigned y = 0; y < blockDim.y; y++)
            for (unsigned x = 0; x < blockDim.x; x++) {
                threadIdx = {x, y, z};
                blockIdx = block;
                call();
            }
#else
    std::barrier<> barrier(blockDim.x * blockDim.y * blockDim.z);
    block_barrier = &barrier;
    std::vector<std::thread> threads;
    for (unsigned z = 0; z < blockDim.z; z++)
        for (unsigned y = 0; y < blockDim.y; y++)
            for (unsigned x = 0; x < blockDim.x; x++)
                threads.emplace_back([&, x, y, z] {
                    threadIdx = {x, y, z};
                    blockIdx = block;
                    call();
                    block_barrier->arrive_and_drop();  // a thread that returned is waited for no longer
                });
    for (auto &thread : threads) thread.join();
#endif
}

template <class... P, size_t... I>
static void run(void (*kernel)(P...), std::vector<Argument> &arguments, std::index_sequence<I...>)
{
    std::tuple<P...> values(as<P>(arguments, I)...);
    for (unsigned z = 0; z < gridDim.z; z++)
        for (unsigned y = 0; y < gridDim.y; y++)
            for (unsigned x = 0; x < gridDim.x; x++)
                run_block([&] { std::apply(kernel, values); }, dim3{x, y, z});
}

// argv: program, kernel, grid x y z, block x y z, file. The file holds, for each argument, its
// length in bytes (8 bytes) and its bytes; it is written back after the run.
template <class... P> static int main_for(void (*kernel)(P...), char **argv)
{
    unsigned size[6];
    for (int i = 0; i < 6; i++) size[i] = std::strtoul(argv[2 + i], nullptr, 10);
    gridDim = {size[0], size[1], size[2]};
    blockDim = {size[3], size[4], size[5]};

    std::vector<Argument> arguments;
    std::ifstream in(argv[8], std::ios::binary);
    for (uint64_t length; in.read(reinterpret_cast<char *>(&length), sizeof length);) {
        arguments.push_back({std::vector<char>(length)});
        in.read(arguments.back().bytes.data(), length);
    }
    in.close();
    if (arguments.size() != sizeof...(P))
        refuse("the kernel takes " + std::to_string(sizeof...(P)) + " arguments, not " + std::to_string(arguments.size()));
    run(kernel, arguments, std::index_sequence_for<P...>{});

    std::ofstream out(argv[8], std::ios::binary);
    for (auto &argument : arguments) {
        uint64_t length = argument.bytes.size();
        out.write(reinterpret_cast<const char *>(&length), sizeof length);
        out.write(argument.bytes.data(), length);
    }
    return out.good() ? 0 : 4;
}

}  // namespace cuda_on_cpu
