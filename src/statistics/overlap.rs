//! How much of what one mask keeps another keeps too.

/// Two masks of one weight matrix, or several pairs of them together.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Overlap {
    /// Weights that a mask keeps, the mean of both.
    kept: f64,
    /// Weights that both keep.
    both: f64,
    /// As many as two masks of these sizes keep both where neither knows of the other.
    by_chance: f64,
}

impl Overlap {
    /// Adds two masks that keep so many `of` the weights each, and so many both.
    ///
    /// By chance |A|·|B|/n weights are in both. Where every group of weights that are pruned together (a row, N of M, a block of
    /// columns) keeps the same share, the sum over groups comes to that too.
    pub fn add(&mut self, [a, b]: [u64; 2], both: u64, of: u64) {
        self.kept += (a + b) as f64 / 2.0;
        self.both += both as f64;
        self.by_chance += a as f64 * b as f64 / of.max(1) as f64;
    }

    /// |A ∩ B| over the mean of |A| and |B| (Dice's coefficient); None where nothing is kept.
    pub fn share(&self) -> Option<f64> {
        (self.kept > 0.0).then(|| self.both / self.kept)
    }

    /// The share that is expected by chance; None where nothing is kept.
    pub fn chance(&self) -> Option<f64> {
        (self.kept > 0.0).then(|| self.by_chance / self.kept)
    }
}

#[cfg(test)]
mod tests {
    use rand::seq::SliceRandom;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn the_share_is_of_what_a_mask_keeps() {
        let mut overlap = Overlap::default();
        assert_eq!((overlap.share(), overlap.chance()), (None, None));
        overlap.add([50, 50], 40, 100);
        assert_eq!((overlap.share(), overlap.chance()), (Some(0.8), Some(0.5)));
        overlap.add([20, 40], 15, 100);
        assert_eq!((overlap.share(), overlap.chance()), (Some(55.0 / 80.0), Some(33.0 / 80.0)));
        let mut none = Overlap::default();
        none.add([0, 0], 0, 0);
        assert_eq!(none.share(), None);
    }

    /// A random mask that keeps so many of each group of so many weights.
    fn mask(rng: &mut ChaCha8Rng, (keeps, of): (usize, usize), groups: usize) -> Vec<bool> {
        let mut group: Vec<bool> = (0..of).map(|i| i < keeps).collect();
        let mut groups_of = || {
            group.shuffle(rng);
            group.clone()
        };
        (0..groups).flat_map(|_| groups_of()).collect()
    }

    #[test]
    fn independent_masks_share_what_chance_says_under_each_constraint() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        // Rows, N of M, a whole matrix; then blocks of columns that keep one fewer of so many.
        for (keeps, groups) in [((24, 48), 32), ((2, 4), 384), ((1, 4), 384), ((614, 1536), 1), ((191, 384), 4)] {
            let (mut measured, draws) = (0.0, 400);
            let mut overlap = Overlap::default();
            for _ in 0..draws {
                let (a, b) = (mask(&mut rng, keeps, groups), mask(&mut rng, keeps, groups));
                let both = a.iter().zip(&b).filter(|(a, b)| **a && **b).count();
                overlap.add([(keeps.0 * groups) as u64; 2], both as u64, a.len() as u64);
                measured += both as f64 / (keeps.0 * groups) as f64 / draws as f64;
            }
            let (share, chance) = (overlap.share().unwrap(), overlap.chance().unwrap());
            assert!((share - measured).abs() < 1e-12 && (share - chance).abs() < 0.003, "{keeps:?}: {share} {chance}");
        }
        // Of masks of unlike sizes, too.
        let mut overlap = Overlap::default();
        for _ in 0..400 {
            let (x, y) = (rng.random_range(200..300), rng.random_range(500..600));
            let (a, b) = (mask(&mut rng, (x, 1000), 1), mask(&mut rng, (y, 1000), 1));
            let both = a.iter().zip(&b).filter(|(a, b)| **a && **b).count();
            overlap.add([x as u64, y as u64], both as u64, 1000);
        }
        assert!((overlap.share().unwrap() - overlap.chance().unwrap()).abs() < 0.003);
    }
}
