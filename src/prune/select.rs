//! Which scores are the smallest: the selections that methods share.

use std::sync::LazyLock;

use rayon::prelude::*;

/// Calls `prune` with the columns of the `count` smallest scores (≥ 0), ties to the lower column, as a
/// stable sort gives them.
pub fn smallest(scores: &[f32], count: usize, keys: &mut Vec<u64>, mut prune: impl FnMut(usize)) {
    // A score and its column as one number that orders by score, then by column: scores are ≥ 0, and
    // the bits of such floats order as the floats do.
    keys.clear();
    keys.extend(scores.iter().enumerate().map(|(j, s)| (u64::from(s.to_bits()) << 32) | j as u64));
    if count > 0 && count < keys.len() {
        keys.select_nth_unstable(count - 1);
    }
    keys.iter().take(count).for_each(|k| prune(*k as u32 as usize));
}

/// As [`smallest`], but with ties broken as `torch.topk` breaks them on a CPU.
///
/// The published code selects the members of an N:M group with `torch.topk`, which is C++'s
/// `nth_element` over (score, column). Of equal scores, which go is an accident of that algorithm, and
/// not a small one where weights were quantised and every group has ties: on a 4-bit SmolLM2-135M at
/// 2:4, magnitude pruning's perplexity differs by a third between this rule and the lowest column first.
pub fn smallest_of_group(scores: &[f32], count: usize, pairs: &mut Vec<(f32, usize)>, mut prune: impl FnMut(usize)) {
    // What is not a number compares with none, and goes last all the same.
    if let (Ok(scores), 1..4) = (<&[f32; 4]>::try_from(scores), count)
        && !scores.iter().any(|score| score.is_nan())
    {
        let gone = SMALLEST_OF_FOUR[count - 1][orders(scores)];
        return (0..4).filter(|j| gone >> j & 1 == 1).for_each(prune);
    }
    select(scores, count, pairs);
    pairs.iter().take(count).for_each(|&(_, j)| prune(j));
}

/// Of four scores, which are smaller than which: a bit for each of the twelve ordered pairs. All else that
/// [`smallest_of_group`] does depends on.
fn orders([a, b, c, d]: &[f32; 4]) -> usize {
    let pairs = [(a, b), (a, c), (a, d), (b, c), (b, d), (c, d)];
    pairs.iter().fold(0, |bits, (x, y)| bits << 2 | usize::from(x < y) << 1 | usize::from(y < x))
}

/// What goes of four scores by their [`orders`], a bit each, where one, two or three do. Groups of four are the most
/// common ones, of which a weight has millions.
static SMALLEST_OF_FOUR: LazyLock<[[u8; 1 << 12]; 3]> = LazyLock::new(|| {
    let mut gone = [[0; 1 << 12]; 3];
    // Every order of four, ties included, is one of four numbers up to three.
    for code in 0..4u32.pow(4) {
        let scores = [0, 1, 2, 3].map(|i| (code >> (2 * i) & 3) as f32);
        for (i, gone) in gone.iter_mut().enumerate() {
            let mut pairs = vec![];
            select(&scores, i + 1, &mut pairs);
            gone[orders(&scores)] = pairs[..=i].iter().fold(0, |bits, &(_, j)| bits | 1 << j);
        }
    }
    gone
});

/// Makes pairs of scores and their columns, of which the first `count` are the smallest.
fn select(scores: &[f32], count: usize, pairs: &mut Vec<(f32, usize)>) {
    pairs.clear();
    pairs.extend(scores.iter().copied().zip(0..));
    if count > 0 && count < pairs.len() {
        introselect(pairs, count - 1);
    }
}

/// libstdc++'s `nth_element`, step by step (Musser 1997, "Introspective Sorting and Selection
/// Algorithms"): partition around the median of three until at most three elements remain around
/// `nth`, then sort these by insertion.
fn introselect(v: &mut [(f32, usize)], nth: usize) {
    let (mut first, mut last) = (0, v.len());
    let mut depth = 2 * v.len().ilog2();
    while last - first > 3 {
        if depth == 0 {
            // libstdc++ goes on with a heap; at this depth it never does for groups of up to 1000.
            v[first..last].sort_by(|a, b| a.0.total_cmp(&b.0));
            return;
        }
        depth -= 1;
        let cut = partition_around_median(v, first, last);
        if cut <= nth {
            first = cut;
        } else {
            last = cut;
        }
    }
    v[first..last].sort_by(|a, b| a.0.total_cmp(&b.0)); // stable, as insertion is
}

/// Moves the median of the second, middle and last element to the front and partitions the rest by
/// it; equal elements stop both scans. Where the upper part begins.
fn partition_around_median(v: &mut [(f32, usize)], first: usize, last: usize) -> usize {
    let (a, b, c) = (first + 1, first + (last - first) / 2, last - 1);
    let less = |i: usize, j: usize| v[i].0 < v[j].0;
    let median = match (less(a, b), less(b, c), less(a, c)) {
        (true, true, _) | (false, false, false) => b,
        (true, false, true) | (false, true, false) => c,
        (true, false, false) | (false, _, true) => a,
    };
    v.swap(first, median);
    let pivot = v[first].0;
    let (mut low, mut high) = (first + 1, last);
    loop {
        while v[low].0 < pivot {
            low += 1;
        }
        high -= 1;
        while pivot < v[high].0 {
            high -= 1;
        }
        if low >= high {
            return low;
        }
        v.swap(low, high);
        low += 1;
    }
}

/// Where the threshold stands among so many sorted scores (one at least): at ⌊ratio·n⌋, or last.
pub fn rank(scores: usize, ratio: f64) -> usize {
    ((scores as f64 * ratio) as usize).min(scores - 1)
}

/// The published threshold rule: the value at index ⌊ratio·n⌋ of the sorted scores (≥ 0).
/// Everything at or below it goes, so at least ⌊ratio·n⌋ + 1 of n.
pub fn threshold(scores: &[f32], ratio: f64) -> f32 {
    let index = rank(scores.len(), ratio);
    // The bits of such floats order as the floats do. The upper ones say in which bin the value lies, and only that
    // bin is looked through.
    const BINS: usize = 1 << 12;
    /// Few enough that threads share them out evenly, many beside the bins.
    const CHUNK: usize = 1 << 14;
    let bin = |score: &f32| (score.to_bits() >> 19) as usize % BINS;
    let count = |mut counts: Vec<u32>, chunk: &[f32]| {
        chunk.iter().for_each(|score| counts[bin(score)] += 1);
        counts
    };
    let none = || vec![0u32; BINS];
    let sum = |mut sums: Vec<u32>, counts: Vec<u32>| {
        sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        sums
    };
    let counts = scores.par_chunks(CHUNK).fold(none, count).reduce(none, sum);
    let (mut below, mut at) = (0, 0);
    while below + counts[at] as usize <= index {
        below += counts[at] as usize;
        at += 1;
    }
    let of_bin = |chunk: &[f32]| {
        let mut found = vec![];
        // One in some thirty is of the bin, and none can be foretold: every score is written, and only those count.
        for scores in chunk.chunks(64) {
            let (mut held, mut count) = ([0f32; 64], 0);
            for score in scores {
                held[count] = *score;
                count += usize::from(bin(score) == at);
            }
            found.extend_from_slice(&held[..count]);
        }
        found
    };
    let mut candidates = scores.par_chunks(CHUNK).map(of_bin).collect::<Vec<_>>().concat();
    *candidates.select_nth_unstable_by(index - below, f32::total_cmp).1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_go_to_the_lower_column() {
        let mut gone = vec![];
        smallest(&[2.0, 1.0, 1.0, 0.5, 1.0], 3, &mut vec![], |j| gone.push(j));
        gone.sort();
        assert_eq!(gone, [1, 2, 3]);
    }

    #[test]
    fn the_threshold_is_an_element_of_the_sorted_scores() {
        let scores: Vec<f32> = (0..100).map(|i| ((i * 37) % 100) as f32).collect();
        assert_eq!(threshold(&scores, 0.5), 50.0);
        assert_eq!(threshold(&scores, 0.999), 99.0);
    }

    #[test]
    fn the_threshold_is_where_a_sort_finds_it() {
        let noise = |i: usize| ((i as f32 * 12.9898).sin() * 43758.547).fract().abs();
        let mut scores: Vec<f32> = (0..200_000).map(|i| noise(i) * noise(i + 7).powi(20)).collect();
        scores.extend([0.0, 0.0, f32::MAX, 1e-44]);
        let mut sorted = scores.clone();
        sorted.sort_by(f32::total_cmp);
        for ratio in [0.0, 1e-6, 0.3, 0.5, 0.999_999, 1.0] {
            let expected = sorted[((sorted.len() as f64 * ratio) as usize).min(sorted.len() - 1)];
            assert_eq!(threshold(&scores, ratio), expected, "{ratio}");
        }
    }

    #[test]
    fn of_four_goes_what_the_selection_step_by_step_takes() {
        let values = [0.0, 1e-40, 0.5, 0.500_000_06, 7.0, f32::MAX, f32::NAN];
        for code in 0..7usize.pow(4) {
            let scores: [f32; 4] = std::array::from_fn(|i| values[code / 7usize.pow(i as u32) % 7]);
            for count in 0..=4 {
                let (mut gone, mut pairs) = (vec![], vec![]);
                smallest_of_group(&scores, count, &mut vec![], |j| gone.push(j));
                select(&scores, count, &mut pairs);
                let mut expected: Vec<usize> = pairs[..count].iter().map(|&(_, j)| j).collect();
                expected.sort();
                assert_eq!(
                    gone.iter().copied().collect::<std::collections::BTreeSet<_>>(),
                    expected.into_iter().collect()
                );
            }
        }
    }

    #[test]
    fn a_group_loses_its_smallest_scores_whatever_the_ties() {
        for code in 0..3usize.pow(8) {
            for m in [4, 8] {
                let scores: Vec<f32> = (0..m).map(|i| (code / 3usize.pow(i as u32) % 3) as f32).collect();
                for count in 1..m {
                    let mut gone = vec![];
                    smallest_of_group(&scores, count, &mut vec![], |j| gone.push(j));
                    gone.sort();
                    gone.dedup();
                    assert_eq!(gone.len(), count);
                    let mut sorted = scores.clone();
                    sorted.sort_by(f32::total_cmp);
                    let mut lost: Vec<f32> = gone.iter().map(|&j| scores[j]).collect();
                    lost.sort_by(f32::total_cmp);
                    assert_eq!(lost, sorted[..count], "{scores:?}");
                }
            }
        }
    }
}
