// Runs a kernel of src/gpu/kernels.cu on the host: emulate KERNEL NUMBER..., matrices of f32 on standard input and output.

#include <string>

#include "../../src/gpu/kernels.cu"

static std::vector<float> read(size_t count) {
    std::vector<float> values(count);
    if (std::fread(values.data(), sizeof(float), count, stdin) != count) {
        std::fprintf(stderr, "expected %zu more values\n", count);
        std::exit(1);
    }
    return values;
}

static void write(const std::vector<float> &values) { std::fwrite(values.data(), sizeof(float), values.size(), stdout); }

static void select(Selection &selection, const float *weights, u64 rows, u32 columns, u64 stride, const float *scales) {
    for (u32 digit = 0; digit < 3; digit++) {
        emulator::launch({3, 1}, THREADS, [&] {
            count_digit(weights, rows, columns, stride, scales, digit, &selection);
        });
    }
}

int main(int argc, char **argv) {
    const std::string kernel = argv[1];
    std::vector<u32> n;
    for (int i = 2; i < argc; i++) n.push_back((u32)std::strtoul(argv[i], nullptr, 10));

    if (kernel == "prune_up_to") {  // rows columns rank: weights
        auto weights = read(n[0] * n[1]);
        Selection selection = {0, n[2], 0, {}};
        select(selection, weights.data(), n[0], n[1], n[1], nullptr);
        emulator::launch({2, 1}, THREADS, [&] { prune_up_to(weights.data(), weights.size(), &selection); });
        write(weights);
    } else if (kernel == "prune_rows") {  // rows columns gone: weights, scales
        auto weights = read(n[0] * n[1]), scales = read(n[1]);
        emulator::launch({n[0], 1}, THREADS, [&] { prune_rows(weights.data(), n[1], scales.data(), n[2]); });
        write(weights);
    } else if (kernel == "prune_groups") {  // rows columns gone: weights, scales
        auto weights = read(n[0] * n[1]), scales = read(n[1]);
        const u32 groups = n[0] * n[1] / GROUP;
        emulator::launch({(groups + THREADS - 1) / THREADS, 1}, THREADS, [&] {
            prune_groups(weights.data(), groups, n[1], scales.data(), n[2]);
        });
        write(weights);
    } else if (kernel == "solve_block") {  // rows columns start width selects rank-or-gone: weights, factor, scales
        const u32 rows = n[0], d = n[1], start = n[2], width = n[3];
        auto weights = read(rows * d), factor = read(d * d), scales = read(d);
        std::vector<float> errors(rows * width, NAN);
        Selection selection = {0, n[5], 0, {}};
        if (n[4]) select(selection, &weights[start], rows, width, d, &scales[start]);
        emulator::launch({(rows + ROWS - 1) / ROWS, 1}, THREADS, [&] {
            solve_block(&weights[start], rows, width, d, &factor[start * d + start], &scales[start], errors.data(),
                        n[4] ? &selection : nullptr, n[5]);
        });
        write(weights);
        write(errors);
    } else if (kernel == "causal_softmax") {  // heads rows seen stride past: scores; scale is 1/4
        auto scores = read(n[0] * n[1] * n[3]);
        std::vector<Stored> weights(scores.size());
        emulator::launch({n[1], n[0]}, THREADS, [&] { causal_softmax(scores.data(), weights.data(), n[2], n[3], n[4], 0.25f); });
        std::vector<float> wide;
        for (Stored x : weights) wide.push_back(widened(x));
        write(wide);
    } else if (kernel == "swiglu") {  // count: gate, up
        auto gate = read(n[0]), up = read(n[0]);
        std::vector<Stored> g, u, product(n[0]);
        for (float value : gate) g.push_back(stored(value));
        for (float value : up) u.push_back(stored(value));
        emulator::launch({2, 1}, THREADS, [&] { swiglu(g.data(), u.data(), product.data(), n[0]); });
        std::vector<float> wide;
        for (Stored value : product) wide.push_back(widened(value));
        write(wide);
    } else if (kernel == "log_likelihoods") {  // vocabulary id...: logits
        std::vector<u32> ids(n.begin() + 1, n.end());
        auto logits = read(ids.size() * n[0]);
        std::vector<float> out(ids.size(), NAN);
        emulator::launch({(u32)ids.size(), 1}, THREADS, [&] { log_likelihoods(logits.data(), ids.data(), out.data(), n[0]); });
        write(out);
    } else if (kernel == "compare_logits") {  // vocabulary id...: dense, pruned
        std::vector<u32> ids(n.begin() + 1, n.end());
        auto dense = read(ids.size() * n[0]), pruned = read(ids.size() * n[0]);
        std::vector<float> out(ids.size() * 4, NAN);
        emulator::launch({(u32)ids.size(), 1}, THREADS, [&] {
            compare_logits(dense.data(), pruned.data(), ids.data(), out.data(), n[0]);
        });
        write(out);
    } else if (kernel == "pack_left") {  // count: weights; the bytes, what is left
        auto wide = read(n[0]);
        std::vector<Stored> weights;
        for (float value : wide) weights.push_back(stored(value));
        const u32 tiles = (n[0] + TILE - 1) / TILE;
        std::vector<unsigned char> bits((n[0] + 7) / 8, 0xff);
        std::vector<u32> counts(tiles, 12345), offsets;
        u32 left = 0;
        emulator::launch({tiles, 1}, THREADS, [&] { mark_left(weights.data(), n[0], bits.data(), counts.data()); });
        for (u32 count : counts) offsets.push_back(left), left += count;
        std::vector<Stored> values(left);
        emulator::launch({tiles, 1}, THREADS, [&] { take_left(weights.data(), n[0], offsets.data(), values.data()); });
        wide.assign(bits.begin(), bits.end());
        for (Stored value : values) wide.push_back(widened(value));
        write(wide);
    } else if (kernel == "add_squares") {  // rows columns each: x, sums
        auto x = read(n[0] * n[1]), sums = read(n[1]);
        const u32 parts = (n[0] + n[2] - 1) / n[2], blocks = (n[1] + THREADS - 1) / THREADS;
        std::vector<Stored> narrow;
        for (float value : x) narrow.push_back(stored(value));
        std::vector<float> partial(parts * n[1], NAN);
        emulator::launch({blocks, parts}, THREADS, [&] { column_squares(narrow.data(), partial.data(), n[0], n[1], n[2]); });
        emulator::launch({blocks, 1}, THREADS, [&] { add_parts(partial.data(), sums.data(), parts, n[1]); });
        write(sums);
    } else if (kernel == "split_heads") {  // heads is-rotated position...: x, cos, sin
        const u32 heads = n[0], rows = (u32)n.size() - 2;
        std::vector<u32> positions(n.begin() + 2, n.end());
        const u32 table = *std::max_element(positions.begin(), positions.end()) + 1;
        auto x = read(rows * heads * DIM), cos = read(table * DIM / 2), sin = read(table * DIM / 2);
        std::vector<Stored> narrow, split(x.size());
        for (float value : x) narrow.push_back(stored(value));
        emulator::launch({rows, 1}, THREADS, [&] {
            split_heads(narrow.data(), split.data(), heads, positions.data(), n[1] ? cos.data() : nullptr, sin.data());
        });
        std::vector<float> wide;
        for (Stored value : split) wide.push_back(widened(value));
        write(wide);
    } else if (kernel == "decode") {  // query-heads key-value-heads room position...: q, k, v, cos, sin, caches
        const u32 heads = n[0], key_values = n[1], room = n[2], sequences = (u32)n.size() - 3, half = DIM / 2;
        auto q = read(sequences * heads * DIM), k = read(sequences * key_values * DIM), v = read(sequences * key_values * DIM);
        auto cos = read(room * half), sin = read(room * half);
        std::vector<std::vector<float>> held;
        std::vector<float *> caches;
        for (u32 i = 0; i < 2 * sequences; i++) held.push_back(read(key_values * room * DIM));
        for (auto &cache : held) caches.push_back(cache.data());
        std::vector<u32> positions(n.begin() + 3, n.end()), rooms(sequences, room);
        std::vector<float> out(q.size());
#if STORED == 0
        emulator::launch({key_values, sequences}, WARP, [&] {
            keep_token(k.data(), v.data(), caches.data(), positions.data(), rooms.data(), cos.data(), sin.data());
        });
        emulator::launch({heads, sequences}, THREADS, [&] {
            decode_attention(q.data(), out.data(), caches.data(), positions.data(), rooms.data(), cos.data(), sin.data(),
                             key_values, 1 / std::sqrt((float)DIM));
        });
#endif
        write(out);
        for (auto &cache : held) write(cache);
    } else {
        std::fprintf(stderr, "no kernel %s\n", kernel.c_str());
        return 1;
    }
    return 0;
}
