//! Which scores are the smallest: the selections that methods share.

/// A score and its column as one number that orders by score, then by column.
///
/// Scores are ≥ 0, and the bits of such floats order as the floats do.
fn key(score: f32, column: usize) -> u64 {
    (u64::from(score.to_bits()) << 32) | column as u64
}

/// Calls `prune` with the columns of the `count` smallest scores (≥ 0), ties to the lower column.
pub fn smallest(scores: impl Iterator<Item = f32>, count: usize, keys: &mut Vec<u64>, mut prune: impl FnMut(usize)) {
    keys.clear();
    keys.extend(scores.enumerate().map(|(j, s)| key(s, j)));
    if count == 0 {
        return;
    }
    if count < keys.len() {
        keys.select_nth_unstable(count - 1);
    }
    keys.iter().take(count).for_each(|k| prune(*k as u32 as usize));
}

/// The published threshold rule: the value at index ⌊ratio·n⌋ of the sorted scores.
/// Everything at or below it goes, so at least ⌊ratio·n⌋ + 1 of n.
pub fn threshold(scores: &mut [f32], ratio: f64) -> f32 {
    let index = ((scores.len() as f64 * ratio) as usize).min(scores.len() - 1);
    *scores.select_nth_unstable_by(index, f32::total_cmp).1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_go_to_the_lower_column() {
        let mut gone = vec![];
        smallest([2.0, 1.0, 1.0, 0.5, 1.0].into_iter(), 3, &mut vec![], |j| gone.push(j));
        gone.sort();
        assert_eq!(gone, [1, 2, 3]);
    }

    #[test]
    fn the_threshold_is_an_element_of_the_sorted_scores() {
        let scores: Vec<f32> = (0..100).map(|i| ((i * 37) % 100) as f32).collect();
        assert_eq!(threshold(&mut scores.clone(), 0.5), 50.0);
        assert_eq!(threshold(&mut scores.clone(), 0.999), 99.0);
    }
}
