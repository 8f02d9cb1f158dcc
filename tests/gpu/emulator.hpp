// Enough of CUDA to run src/gpu/kernels.cu on the host: every CUDA thread is a fiber, blocks run one after the other.
//
// Fibers run in another random order after every barrier, so that a kernel which lacks one gives wrong results. A
// barrier that not all threads of its warp or block reach ends the program.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <vector>

#include <ucontext.h>

#define __global__
#define __device__
#define __shared__ static

struct Index {
    unsigned x, y;
};
inline Index threadIdx, blockIdx, gridDim;

namespace emulator {

const unsigned WARP_SIZE = 32;

enum class State { Ready, AtWarpBarrier, AtBlockBarrier, Done };

struct Fiber {
    ucontext_t context;
    State state = State::Ready;
    std::vector<char> stack = std::vector<char>(1 << 16);
};

inline std::vector<std::unique_ptr<Fiber>> fibers;
inline ucontext_t scheduler;
inline unsigned current;
inline std::function<void()> body;
// What the lanes of each warp exchange.
inline std::vector<unsigned> exchanged;

inline void wait(State state) {
    fibers[current]->state = state;
    swapcontext(&fibers[current]->context, &scheduler);
}

inline void entry() {
    body();
    fibers[current]->state = State::Done;
}

// Lets the threads go on that are at this barrier with all others of theirs that still run: whether there were any.
inline bool release(size_t first, size_t last, State barrier) {
    bool any = false;
    for (size_t i = first; i < last; i++) {
        if (fibers[i]->state != State::Done && fibers[i]->state != barrier) return false;
        any |= fibers[i]->state == barrier;
    }
    for (size_t i = first; any && i < last; i++) {
        if (fibers[i]->state == barrier) fibers[i]->state = State::Ready;
    }
    return any;
}

// Runs a kernel on a grid of x × y blocks.
inline void launch(Index grid, unsigned threads, std::function<void()> kernel) {
    static std::mt19937 random(0);
    gridDim = grid;
    body = kernel;
    exchanged.assign(threads, 0);
    std::vector<unsigned> order(threads);
    for (unsigned i = 0; i < threads; i++) order[i] = i;
    for (unsigned block = 0; block < grid.x * grid.y; block++) {
        blockIdx = {block % grid.x, block / grid.x};
        fibers.clear();
        for (unsigned i = 0; i < threads; i++) {
            auto fiber = std::make_unique<Fiber>();
            getcontext(&fiber->context);
            fiber->context.uc_stack.ss_sp = fiber->stack.data();
            fiber->context.uc_stack.ss_size = fiber->stack.size();
            fiber->context.uc_link = &scheduler;
            makecontext(&fiber->context, entry, 0);
            fibers.push_back(std::move(fiber));
        }
        for (;;) {
            std::shuffle(order.begin(), order.end(), random);
            bool went_on = false, all_done = true;
            for (unsigned i : order) {
                if (fibers[i]->state != State::Ready) continue;
                went_on = true;
                current = i;
                threadIdx = {i, 0};
                swapcontext(&scheduler, &fibers[i]->context);
            }
            for (unsigned i = 0; i < threads; i += WARP_SIZE) {
                went_on |= release(i, std::min(i + WARP_SIZE, threads), State::AtWarpBarrier);
            }
            went_on |= release(0, threads, State::AtBlockBarrier);
            for (auto &fiber : fibers) all_done &= fiber->state == State::Done;
            if (all_done) break;
            if (!went_on) {
                std::fprintf(stderr, "not all threads reach a barrier\n");
                std::exit(1);
            }
        }
    }
}

template <typename T> T exchange(T value, std::function<unsigned(unsigned)> with) {
    const unsigned own = current, first = own / WARP_SIZE * WARP_SIZE;
    std::memcpy(&exchanged[own], &value, sizeof value);
    wait(State::AtWarpBarrier);
    std::memcpy(&value, &exchanged[first + with(own % WARP_SIZE)], sizeof value);
    wait(State::AtWarpBarrier);
    return value;
}

}  // namespace emulator

inline void __syncthreads() { emulator::wait(emulator::State::AtBlockBarrier); }
inline void __syncwarp() { emulator::wait(emulator::State::AtWarpBarrier); }
inline void __threadfence() {}

template <typename T> T __shfl_xor_sync(unsigned, T value, unsigned offset) {
    return emulator::exchange(value, [=](unsigned lane) { return lane ^ offset; });
}

inline unsigned __ballot_sync(unsigned, bool holds) {
    const unsigned own = emulator::current, first = own / emulator::WARP_SIZE * emulator::WARP_SIZE;
    emulator::exchanged[own] = holds;
    emulator::wait(emulator::State::AtWarpBarrier);
    unsigned ballot = 0;
    for (unsigned lane = 0; lane < emulator::WARP_SIZE; lane++) ballot |= emulator::exchanged[first + lane] << lane;
    emulator::wait(emulator::State::AtWarpBarrier);
    return ballot;
}

inline unsigned __popc(unsigned x) { return __builtin_popcount(x); }

inline unsigned atomicAdd(unsigned *at, unsigned value) {
    const unsigned before = *at;
    *at += value;
    return before;
}

inline unsigned __float_as_uint(float x) {
    unsigned bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}

inline float __uint_as_float(unsigned bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}
