// The kernels of pruning and attention on CUDA devices.
//
// NVRTC compiles this text for the device at hand when a kernel is first needed, with the constants below; without
// fused multiply-adds where results are compared with the CPU's. A test compiles it for the host instead
// (tests/gpu/emulator.hpp), where every CUDA thread is a fiber, and compares it with the methods on the CPU.
//
// Matrices are row-major. A *score* is |weight| times the scale of its column; scores are not negative, so their bits
// order as they do.

#ifdef EMULATED
#include "emulator.hpp"
#endif

typedef unsigned int u32;
typedef unsigned long long u64;

// Threads of a block, in kernels where they work together.
#define THREADS 256
#define WARP 32
#define ALL_LANES 0xffffffffu

// Columns in a group of an N:M pattern.
#ifndef GROUP
#define GROUP 4
#endif

__device__ static float score_of(float weight, const float *scales, u32 column) {
    return scales ? fabsf(weight) * scales[column] : fabsf(weight);
}

// --- Precision -------------------------------------------------------------------------------------------------------

// How values are stored: 0 is f32, 1 is bf16, 2 is f16.
#ifndef STORED
#define STORED 0
#endif
#if STORED == 0
typedef float Stored;
__device__ static Stored stored(float x) { return x; }
__device__ static float widened(Stored x) { return x; }
#elif STORED == 1
typedef unsigned short Stored;
__device__ static Stored stored(float x) {
    const u32 bits = __float_as_uint(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (Stored)(bits >> 16 | 0x40u);  // no number stays none
    return (Stored)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);                   // to nearest, ties to even
}
__device__ static float widened(Stored x) { return __uint_as_float((u32)x << 16); }
#else
typedef unsigned short Stored;
__device__ static Stored stored(float x) {
    Stored half;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(x));
    return half;
}
__device__ static float widened(Stored half) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(half));
    return x;
}
#endif

// --- Elementwise -----------------------------------------------------------------------------------------------------

// silu(gate)·up, where silu(x) = x / (1 + e⁻ˣ): in f32, and rounded once.
extern "C" __global__ void swiglu(const Stored *gate, const Stored *up, Stored *out, u64 count) {
    for (u64 i = (u64)blockIdx.x * THREADS + threadIdx.x; i < count; i += (u64)gridDim.x * THREADS) {
        const float g = widened(gate[i]);
        out[i] = stored(g / (1.0f + expf(-g)) * widened(up[i]));
    }
}

// --- Statistics ------------------------------------------------------------------------------------------------------

// Sums of squares down the columns of x (rows × columns), over `each` rows at a time: partial (parts × columns). Grid:
// columns / THREADS × parts. What is summed in which order does not depend on the device.
extern "C" __global__ void column_squares(const Stored *x, float *partial, u32 rows, u32 columns, u32 each) {
    const u32 column = blockIdx.x * THREADS + threadIdx.x;
    if (column >= columns) return;
    const u32 first = blockIdx.y * each, last = first + each < rows ? first + each : rows;
    float sum = 0.0f;
    for (u32 row = first; row < last; row++) {
        const float value = widened(x[(u64)row * columns + column]);
        sum += value * value;
    }
    partial[(u64)blockIdx.y * columns + column] = sum;
}

// Adds the parts, one after the other, to the sums.
extern "C" __global__ void add_parts(const float *partial, float *sums, u32 parts, u32 columns) {
    const u32 column = blockIdx.x * THREADS + threadIdx.x;
    if (column >= columns) return;
    float sum = 0.0f;
    for (u32 part = 0; part < parts; part++) sum += partial[(u64)part * columns + column];
    sums[column] += sum;
}

// --- Selection by the digits of scores -------------------------------------------------------------------------------
//
// The element of a given rank is found digit by digit, from the highest: count how often each digit occurs among the
// scores that begin with the digits found so far, and see where the rank falls.

#define DIGIT_BITS 11
#define DIGITS (1 << DIGIT_BITS)

// The three digits of 32 bits: 11, 11 and 10 of them.
__device__ static u32 shift_of(u32 digit) { return digit == 0 ? 21 : digit == 1 ? 10 : 0; }
__device__ static u32 mask_of(u32 digit) { return digit == 2 ? (1u << 10) - 1 : DIGITS - 1; }

// Whether the digits before `digit` are those of `prefix`.
__device__ static bool begins_with(u32 bits, u32 prefix, u32 digit) {
    return digit == 0 || (bits ^ prefix) >> (shift_of(digit) + (digit == 1 ? 11 : 10)) == 0;
}

// By all threads of a block: the digit that the element of this rank (from 0) has, in found[0], and its rank among the
// elements that have it, in found[1]; both in shared memory, as the counts are.
__device__ static void find_digit(const u32 *counts, u32 rank, u32 *found) {
    __shared__ u32 sums[THREADS];
    const u32 own = DIGITS / THREADS;
    u32 sum = 0;
    for (u32 i = 0; i < own; i++) sum += counts[threadIdx.x * own + i];
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        u32 part = 0;
        while (rank >= sums[part]) rank -= sums[part++];
        u32 digit = part * own;
        while (rank >= counts[digit]) rank -= counts[digit++];
        found[0] = digit;
        found[1] = rank;
    }
    __syncthreads();
}

// What the selection over a whole matrix has found so far.
struct Selection {
    u32 bits;            // the digits found, the rest 0
    u32 rank;            // of the element among those that begin so
    u32 blocks_done;     // of the count that runs
    u32 counts[DIGITS];  // of the next digit
};

// One of three launches, for digits 0, 1 and 2, after which selection->bits are those of the score that has the rank
// which selection->rank began with. The scores are of the first `columns` of each row of `weights`, whose rows are
// `stride` apart. Grid and blocks: one-dimensional, THREADS threads.
extern "C" __global__ void count_digit(const float *weights, u64 rows, u32 columns, u64 stride, const float *scales,
                                       u32 digit, Selection *selection) {
    __shared__ u32 counts[DIGITS];
    __shared__ u32 found[2];
    __shared__ bool is_last;
    for (u32 i = threadIdx.x; i < DIGITS; i += THREADS) counts[i] = 0;
    __syncthreads();
    const u32 prefix = selection->bits;
    for (u64 i = (u64)blockIdx.x * THREADS + threadIdx.x; i < rows * columns; i += (u64)gridDim.x * THREADS) {
        const u64 row = i / columns;
        const u32 column = (u32)(i - row * columns);
        const u32 bits = __float_as_uint(score_of(weights[row * stride + column], scales, column));
        if (begins_with(bits, prefix, digit)) atomicAdd(&counts[bits >> shift_of(digit) & mask_of(digit)], 1u);
    }
    __syncthreads();
    for (u32 i = threadIdx.x; i < DIGITS; i += THREADS) {
        if (counts[i]) atomicAdd(&selection->counts[i], counts[i]);
    }
    // The block that ends last finds the digit, from the counts of all.
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) is_last = atomicAdd(&selection->blocks_done, 1u) == gridDim.x - 1;
    __syncthreads();
    if (!is_last) return;
    __threadfence();
    for (u32 i = threadIdx.x; i < DIGITS; i += THREADS) {
        // An atomic read: what other blocks have written may not be in this one's cache.
        counts[i] = atomicAdd(&selection->counts[i], 0u);
        selection->counts[i] = 0;
    }
    __syncthreads();
    find_digit(counts, selection->rank, found);
    if (threadIdx.x == 0) {
        selection->bits = prefix | found[0] << shift_of(digit);
        selection->rank = found[1];
        selection->blocks_done = 0;
    }
}

// Every weight whose score is at most the selected one becomes zero.
extern "C" __global__ void prune_up_to(float *weights, u64 count, const Selection *selection) {
    const float limit = __uint_as_float(selection->bits);
    for (u64 i = (u64)blockIdx.x * THREADS + threadIdx.x; i < count; i += (u64)gridDim.x * THREADS) {
        if (fabsf(weights[i]) <= limit) weights[i] = 0.0f;
    }
}

// In each row the `gone` (> 0) weights of the smallest scores become zero, ties to the lower column. A block a row, of
// THREADS threads.
extern "C" __global__ void prune_rows(float *weights, u32 columns, const float *scales, u32 gone) {
    __shared__ u32 counts[DIGITS];
    __shared__ u32 found[2];
    __shared__ u32 equal_in_warp[THREADS / WARP];
    float *row = weights + (u64)blockIdx.x * columns;
    u32 limit = 0, rank = gone - 1;
    for (u32 digit = 0; digit < 3; digit++) {
        for (u32 i = threadIdx.x; i < DIGITS; i += THREADS) counts[i] = 0;
        __syncthreads();
        for (u32 c = threadIdx.x; c < columns; c += THREADS) {
            const u32 bits = __float_as_uint(score_of(row[c], scales, c));
            if (begins_with(bits, limit, digit)) atomicAdd(&counts[bits >> shift_of(digit) & mask_of(digit)], 1u);
        }
        __syncthreads();
        find_digit(counts, rank, found);
        limit |= found[0] << shift_of(digit);
        rank = found[1];
        __syncthreads();
    }
    // Of those that equal the limit, the first rank + 1 go.
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    u32 equal_before = 0;
    for (u32 first = 0; first < columns; first += THREADS) {
        const u32 c = first + threadIdx.x;
        const u32 bits = c < columns ? __float_as_uint(score_of(row[c], scales, c)) : ALL_LANES;
        const u32 equal = __ballot_sync(ALL_LANES, bits == limit);
        if (lane == 0) equal_in_warp[warp] = __popc(equal);
        __syncthreads();
        u32 before = equal_before + __popc(equal & ((1u << lane) - 1));
        for (u32 w = 0; w < THREADS / WARP; w++) {
            if (w < warp) before += equal_in_warp[w];
            equal_before += equal_in_warp[w];
        }
        if (c < columns && (bits < limit || (bits == limit && before <= rank))) row[c] = 0.0f;
        __syncthreads();
    }
}

// --- N:M groups ------------------------------------------------------------------------------------------------------

// A member of a group.
struct Member {
    float score;
    u32 column;
};

__device__ static void swap(Member *v, u32 a, u32 b) {
    const Member t = v[a];
    v[a] = v[b];
    v[b] = t;
}

// Sorts v[first .. last] by score; equal ones stay in their order.
__device__ static void insertion_sort(Member *v, u32 first, u32 last) {
    for (u32 i = first + 1; i < last; i++) {
        const Member moved = v[i];
        u32 j = i;
        for (; j > first && moved.score < v[j - 1].score; j--) v[j] = v[j - 1];
        v[j] = moved;
    }
}

// Brings the `count` smallest of a group to its front, with ties as torch.topk breaks them on a CPU: libstdc++'s
// nth_element, step by step, as prune/select.rs has it and says why.
__device__ static void smallest_first(Member *v, u32 count) {
    u32 first = 0, last = GROUP, depth = 0;
    if (count == 0 || count >= GROUP) return;
    for (u32 n = GROUP; n > 1; n >>= 1) depth += 2;
    while (last - first > 3) {
        if (depth-- == 0) break;
        const u32 a = first + 1, b = first + (last - first) / 2, c = last - 1;
        const bool ab = v[a].score < v[b].score, bc = v[b].score < v[c].score, ac = v[a].score < v[c].score;
        const u32 median = ab ? (bc ? b : ac ? c : a) : ac ? a : bc ? c : b;
        swap(v, first, median);
        const float pivot = v[first].score;
        u32 low = first + 1, high = last;
        for (;;) {
            while (v[low].score < pivot) low++;
            high--;
            while (pivot < v[high].score) high--;
            if (low >= high) break;
            swap(v, low, high);
            low++;
        }
        if (low <= count - 1) first = low;
        else last = low;
    }
    insertion_sort(v, first, last);
}

// Of every GROUP consecutive weights the `gone` of the smallest scores become zero. A thread a group.
extern "C" __global__ void prune_groups(float *weights, u64 groups, u32 columns, const float *scales, u32 gone) {
    const u64 group = (u64)blockIdx.x * THREADS + threadIdx.x;
    if (group >= groups) return;
    float *own = weights + group * GROUP;
    const u32 column = (u32)(group * GROUP % columns);
    Member members[GROUP];
    for (u32 i = 0; i < GROUP; i++) {
        members[i].score = score_of(own[i], scales, column + i);
        members[i].column = i;
    }
    smallest_first(members, gone);
    for (u32 i = 0; i < gone; i++) own[members[i].column] = 0.0f;
}

// --- SparseGPT -------------------------------------------------------------------------------------------------------

// Columns that are compensated together, and whether the rows of so many fit into shared memory.
#ifndef COLUMNS
#define COLUMNS 128
#endif
#define ROWS (THREADS / WARP)
#define IN_SHARED (COLUMNS * ROWS * 4 <= 40960)

// One block of columns of SparseGPT: prunes `columns` (at most COLUMNS) of each row of `weights` from left to right, and
// makes up for each removed weight to its right within the block. `factor` is the block's own part of U, its rows
// `stride` apart as those of the weights are; `scales` are 1/u_jj. `errors` (rows × columns) get what the columns to the
// right of the block are made up by. Up to the score in `selection` weights go; without it, `gone` of every GROUP, which
// are chosen when they are reached. A warp a row, THREADS threads a block.
extern "C" __global__ void solve_block(float *weights, u32 rows, u32 columns, u64 stride, const float *factor,
                                       const float *scales, float *errors, const Selection *selection, u32 gone) {
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, row = blockIdx.x * ROWS + warp;
    if (row >= rows) return;
    float *from = weights + row * stride;
    // Until a column is reached, its error says whether its weight is to go.
    float *error = errors + (u64)row * columns;
#if IN_SHARED
    __shared__ float copies[ROWS][COLUMNS];
    float *w = copies[warp];
    for (u32 c = lane; c < columns; c += WARP) w[c] = from[c];
#else
    float *w = from;
#endif
    if (selection) {
        const float limit = __uint_as_float(selection->bits);
        for (u32 c = lane; c < columns; c += WARP) error[c] = score_of(from[c], scales, c) <= limit ? 1.0f : 0.0f;
    }
    __syncwarp();
    for (u32 j = 0; j < columns; j++) {
        if (!selection && j % GROUP == 0) {
            Member members[GROUP];
            for (u32 i = 0; i < GROUP; i++) {
                members[i].score = score_of(w[j + i], scales, j + i);
                members[i].column = i;
            }
            // Every lane finds the same.
            smallest_first(members, gone);
            if (lane == 0) {
                for (u32 i = 0; i < GROUP; i++) error[j + members[i].column] = i < gone ? 1.0f : 0.0f;
            }
            __syncwarp();
        }
        if (error[j] != 0.0f) {
            const float *u = factor + j * stride;
            const float lost = w[j] / u[j];
            __syncwarp();
            if (lane == 0) {
                error[j] = lost;
                w[j] = 0.0f;
            }
            for (u32 c = j + 1 + lane; c < columns; c += WARP) w[c] -= lost * u[c];
        }
        __syncwarp();
    }
#if IN_SHARED
    for (u32 c = lane; c < columns; c += WARP) from[c] = w[c];
#endif
}

// --- Attention -------------------------------------------------------------------------------------------------------

// Values of a head.
#ifndef DIM
#define DIM 64
#endif

// Value `d` of a head at a position, rotated: with x₁ and x₂ the halves of the head, (x₁·cos − x₂·sin, x₂·cos + x₁·sin).
__device__ static float rotated(const Stored *head, u32 d, u32 position, const float *cos, const float *sin) {
    const u32 half = DIM / 2, i = d % half;
    const float c = cos[(u64)position * half + i], s = sin[(u64)position * half + i];
    const float x1 = widened(head[i]), x2 = widened(head[i + half]);
    return d < half ? x1 * c - x2 * s : x2 * c + x1 * s;
}

// Heads that lie side by side in each row of x (rows × heads·DIM) into heads one after the other (heads × rows × DIM);
// rotated as positions[row] says, where there is a table. A block a row, of THREADS threads.
extern "C" __global__ void split_heads(const Stored *x, Stored *heads, u32 count, const u32 *positions, const float *cos,
                                       const float *sin) {
    const u64 row = blockIdx.x;
    for (u32 i = threadIdx.x; i < count * DIM; i += THREADS) {
        const u32 head = i / DIM, d = i % DIM;
        const Stored *from = x + (row * count + head) * DIM;
        const Stored value = cos ? stored(rotated(from, d, positions[row], cos, sin)) : from[d];
        heads[((u64)head * gridDim.x + row) * DIM + d] = value;
    }
}

// By all threads of a block: the largest of their values, or the sum, in all of them. `room` is shared memory for a
// value a warp.
__device__ static float over_block(float value, bool sums, float *room) {
    for (u32 offset = WARP / 2; offset > 0; offset /= 2) {
        const float other = __shfl_xor_sync(ALL_LANES, value, offset);
        value = sums ? value + other : fmaxf(value, other);
    }
    __syncthreads();
    if (threadIdx.x % WARP == 0) room[threadIdx.x / WARP] = value;
    __syncthreads();
    value = room[0];
    for (u32 w = 1; w < THREADS / WARP; w++) value = sums ? value + room[w] : fmaxf(value, room[w]);
    return value;
}

// Softmax of scores (heads × rows × seen, rows `stride` apart) times `scale` into weights of the same shape. Row r sees
// the positions up to `past` + r; the weights of those behind are 0. Grid: rows × heads, blocks of THREADS threads.
extern "C" __global__ void causal_softmax(const float *scores, Stored *weights, u32 seen, u32 stride, u32 past,
                                          float scale) {
    __shared__ float room[THREADS / WARP];
    const u64 at = ((u64)blockIdx.y * gridDim.x + blockIdx.x) * stride;
    const float *from = scores + at;
    Stored *to = weights + at;
    const u32 own = past + blockIdx.x + 1;
    float largest = from[0];
    for (u32 c = threadIdx.x; c < own; c += THREADS) largest = fmaxf(largest, from[c]);
    largest = over_block(largest, false, room);
    float sum = 0.0f;
    for (u32 c = threadIdx.x; c < own; c += THREADS) sum += expf((from[c] - largest) * scale);
    sum = over_block(sum, true, room);
    for (u32 c = threadIdx.x; c < seen; c += THREADS) {
        to[c] = stored(c < own ? expf((from[c] - largest) * scale) / sum : 0.0f);
    }
}

// --- Scores ----------------------------------------------------------------------------------------------------------

// The largest logit of a row, and the sum of the exponentials below it.
__device__ static void exponentials(const float *logits, u32 vocabulary, float *room, float *largest, float *sum) {
    float most = logits[0], total = 0.0f;
    for (u32 i = threadIdx.x; i < vocabulary; i += THREADS) most = fmaxf(most, logits[i]);
    most = over_block(most, false, room);
    for (u32 i = threadIdx.x; i < vocabulary; i += THREADS) total += expf(logits[i] - most);
    *largest = most;
    *sum = over_block(total, true, room);
}

// ln softmax of a row's logits at one place each (rows). Grid: rows, blocks of THREADS threads.
extern "C" __global__ void log_likelihoods(const float *logits, const u32 *ids, float *out, u32 vocabulary) {
    __shared__ float room[THREADS / WARP];
    const float *row = logits + (u64)blockIdx.x * vocabulary;
    float largest, sum;
    exponentials(row, vocabulary, room, &largest, &sum);
    if (threadIdx.x == 0) out[blockIdx.x] = row[ids[blockIdx.x]] - largest - logf(sum);
}

// Loss, Jensen-Shannon and KL divergence, and agreement (rows × 4) of the pruned model's logits with the dense model's
// (rows × vocabulary each). With d = ln q − ln p and t = ln(½ + ½·eᵈ): JS = ½·Σ q·d − (p + q)·t, KL = −Σ p·d. Grid: rows,
// blocks of THREADS threads.
extern "C" __global__ void compare_logits(const float *dense, const float *pruned, const u32 *ids, float *out,
                                          u32 vocabulary) {
    __shared__ float room[THREADS / WARP];
    const u64 at = (u64)blockIdx.x * vocabulary;
    const float *zp = dense + at, *zq = pruned + at;
    float p_largest, p_sum, q_largest, q_sum;
    exponentials(zp, vocabulary, room, &p_largest, &p_sum);
    exponentials(zq, vocabulary, room, &q_largest, &q_sum);
    const float shift = logf(q_sum) - logf(p_sum);
    // The first of the largest, which f32 counts exactly: vocabularies have fewer than 2²⁴ words.
    float js = 0.0f, kl = 0.0f, first = -16777216.0f;
    for (u32 i = threadIdx.x; i < vocabulary; i += THREADS) {
        const float p = expf(zp[i] - p_largest) / p_sum, q = expf(zq[i] - q_largest) / q_sum;
        const float d = zq[i] - q_largest - (zp[i] - p_largest) - shift, held = fminf(fmaxf(d, -80.0f), 80.0f);
        js += q * held - (p + q) * logf(0.5f + 0.5f * expf(held));
        kl -= p * d;
        if (zq[i] == q_largest) first = fmaxf(first, -(float)i);
    }
    js = over_block(js, true, room);
    kl = over_block(kl, true, room);
    first = over_block(first, false, room);
    if (threadIdx.x == 0) {
        float *to = out + 4 * (u64)blockIdx.x;
        to[0] = logf(q_sum) - (zq[ids[blockIdx.x]] - q_largest);
        to[1] = 0.5f * js;
        to[2] = kl;
        // Where the pruned model's logits are no numbers, none is the largest.
        const u32 best = (u32)-first;
        to[3] = best < vocabulary && zp[best] == p_largest ? 1.0f : 0.0f;
    }
}

// --- Pruned weights, packed ------------------------------------------------------------------------------------------

// Weights that one thread packs, and a block.
#define OCTET 8
#define TILE (THREADS * OCTET)

// Which weights are left, a bit each (from the lowest), and how many of each tile. Grid: tiles, blocks of THREADS threads.
extern "C" __global__ void mark_left(const Stored *weights, u64 count, unsigned char *bits, u32 *left_of) {
    __shared__ float room[THREADS / WARP];
    const u64 octet = (u64)blockIdx.x * THREADS + threadIdx.x;
    u32 byte = 0, left = 0;
    for (u32 k = 0; k < OCTET && octet * OCTET + k < count; k++) {
        if (widened(weights[octet * OCTET + k]) == 0.0f) continue;
        byte |= 1u << k;
        left++;
    }
    if (octet * OCTET < count) bits[octet] = (unsigned char)byte;
    const float sum = over_block((float)left, true, room);
    if (threadIdx.x == 0) left_of[blockIdx.x] = (u32)sum;
}

// The weights that are left, one after the other; those of a tile begin at its offset. Grid: as above.
extern "C" __global__ void take_left(const Stored *weights, u64 count, const u32 *offsets, Stored *out) {
    __shared__ u32 before[THREADS];
    const u64 first = ((u64)blockIdx.x * THREADS + threadIdx.x) * OCTET;
    u32 left = 0;
    for (u32 k = 0; k < OCTET && first + k < count; k++) left += widened(weights[first + k]) != 0.0f;
    before[threadIdx.x] = left;
    __syncthreads();
    // Sums over ever longer runs of threads.
    for (u32 run = 1; run < THREADS; run *= 2) {
        const u32 sum = before[threadIdx.x] + (threadIdx.x >= run ? before[threadIdx.x - run] : 0);
        __syncthreads();
        before[threadIdx.x] = sum;
        __syncthreads();
    }
    u64 to = (u64)offsets[blockIdx.x] + before[threadIdx.x] - left;
    for (u32 k = 0; k < OCTET && first + k < count; k++) {
        if (widened(weights[first + k]) != 0.0f) out[to++] = weights[first + k];
    }
}

// --- Decoding --------------------------------------------------------------------------------------------------------

#define LANE_DIMS ((DIM + WARP - 1) / WARP)

// Keeps the key, rotated, and the value of one new token of each sequence. Of sequence s, caches[2·s] has the keys and
// caches[2·s + 1] the values, (key-value heads × rooms[s] × DIM) each, and positions[s] is where the token stands. Grid:
// key-value heads × sequences, a warp a block.
extern "C" __global__ void keep_token(const Stored *k, const Stored *v, Stored *const *caches, const u32 *positions,
                                      const u32 *rooms, const float *cos, const float *sin) {
    const u32 head = blockIdx.x, sequence = blockIdx.y, position = positions[sequence];
    const u64 from = ((u64)sequence * gridDim.x + head) * DIM, to = ((u64)head * rooms[sequence] + position) * DIM;
    for (u32 d = threadIdx.x; d < DIM; d += WARP) {
        caches[2 * sequence][to + d] = stored(rotated(k + from, d, position, cos, sin));
        caches[2 * sequence + 1][to + d] = v[from + d];
    }
}

// Attention of one new token of each sequence to all that its caches hold, itself included (sequences × query heads ×
// DIM). Grid: query heads × sequences, blocks of THREADS threads. A warp takes every so many positions, with a softmax
// of its own as it goes; in the end they are joined.
extern "C" __global__ void decode_attention(const Stored *q, Stored *out, Stored *const *caches, const u32 *positions,
                                            const u32 *rooms, const float *cos, const float *sin, u32 key_values,
                                            float scale) {
    __shared__ float query[DIM];
    __shared__ float largest_of[THREADS / WARP], sum_of[THREADS / WARP], values_of[THREADS / WARP][DIM];
    const u32 head = blockIdx.x, sequence = blockIdx.y, lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const u32 seen = positions[sequence] + 1, group = gridDim.x / key_values;
    const u64 at = ((u64)sequence * gridDim.x + head) * DIM, of_head = (u64)(head / group) * rooms[sequence] * DIM;
    const Stored *keys = caches[2 * sequence] + of_head, *values = caches[2 * sequence + 1] + of_head;
    for (u32 d = threadIdx.x; d < DIM; d += THREADS) query[d] = rotated(q + at, d, seen - 1, cos, sin) * scale;
    __syncthreads();
    float largest = __uint_as_float(0xff800000u), sum = 0.0f, own[LANE_DIMS];
    for (u32 i = 0; i < LANE_DIMS; i++) own[i] = 0.0f;
    for (u32 p = warp; p < seen; p += THREADS / WARP) {
        float score = 0.0f;
        for (u32 d = lane; d < DIM; d += WARP) score += query[d] * widened(keys[(u64)p * DIM + d]);
        for (u32 offset = WARP / 2; offset > 0; offset /= 2) score += __shfl_xor_sync(ALL_LANES, score, offset);
        const float before = largest;
        largest = fmaxf(largest, score);
        const float kept = expf(before - largest), weight = expf(score - largest);
        sum = sum * kept + weight;
        for (u32 i = 0; i < LANE_DIMS; i++) {
            const u32 d = i * WARP + lane;
            if (d < DIM) own[i] = own[i] * kept + weight * widened(values[(u64)p * DIM + d]);
        }
    }
    if (lane == 0) {
        largest_of[warp] = largest;
        sum_of[warp] = sum;
    }
    for (u32 i = 0; i < LANE_DIMS; i++) {
        if (i * WARP + lane < DIM) values_of[warp][i * WARP + lane] = own[i];
    }
    __syncthreads();
    for (u32 w = 0; w < THREADS / WARP; w++) largest = fmaxf(largest, largest_of[w]);
    for (u32 d = threadIdx.x; d < DIM; d += THREADS) {
        float total = 0.0f, all = 0.0f;
        for (u32 w = 0; w < THREADS / WARP; w++) {
            // A warp that saw no position has no weight.
            const float weight = expf(largest_of[w] - largest);
            total += sum_of[w] * weight;
            all += values_of[w][d] * weight;
        }
        out[at + d] = stored(all / total);
    }
}
