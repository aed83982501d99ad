//! Random numbers as a function of (seed, position): no state, so a seeded answer does not depend on what runs beside
//! it, on preemption or on the order of rows.
use std::hash::{BuildHasher, RandomState};

/// Bijective mixing of 64 bits (the finaliser of SplitMix64, Steele et al. 2014).
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Uniform in [0, 1) with 53 random bits: the number of the `position`-th generated token (from 0) of a request.
///
/// `mix(mix(seed + g) + (position + 1) g)` with g the odd golden-ratio constant: SplitMix64 started at a mixed seed,
/// so that neighbouring seeds give unrelated streams.
pub fn uniform(seed: u64, position: u64) -> f64 {
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    let start = mix(seed.wrapping_add(GOLDEN));
    let bits = mix(start.wrapping_add(position.wrapping_add(1).wrapping_mul(GOLDEN)));
    (bits >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

/// The random numbers of one token: [`uniform`], and those that follow from it.
pub struct Numbers {
    seed: u64,
    position: u64,
    drawn: u64,
}

impl Numbers {
    /// Those of the `position`-th token of a request.
    pub fn new(seed: u64, position: u64) -> Self {
        Self {
            seed,
            position,
            drawn: 0,
        }
    }

    /// The next one, in [0, 1). The second and later ones belong to streams of their own, whose seeds are mixed from the
    /// request's seed and their count.
    pub fn draw(&mut self) -> f64 {
        let seed = match self.drawn {
            0 => self.seed,
            n => mix(self.seed ^ mix(n)),
        };
        self.drawn += 1;
        uniform(seed, self.position)
    }
}

/// A seed that nobody chose: different for every call and every process.
pub fn fresh_seed(request: u64) -> u64 {
    RandomState::new().hash_one(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_uniform_over_positions_and_over_seeds() {
        for by_seed in [false, true] {
            let mut bins = [0f64; 64];
            let n = 64_000u64;
            for i in 0..n {
                let u = if by_seed {
                    uniform(i, 3)
                } else {
                    uniform(3, i)
                };
                assert!((0.0..1.0).contains(&u));
                bins[(u * 64.0) as usize] += 1.0;
            }
            let expected = n as f64 / 64.0;
            let chi: f64 = bins.iter().map(|b| (b - expected).powi(2) / expected).sum();
            // 63 degrees of freedom: 103.4 is exceeded once in a thousand.
            assert!(chi < 103.4, "{chi}");
        }
    }

    #[test]
    fn neighbours_are_unrelated() {
        let n = 10_000;
        let pairs = (0..n).map(|i| (uniform(7, i) - 0.5) * (uniform(8, i) - 0.5));
        let correlation = pairs.sum::<f64>() / n as f64 * 12.0;
        assert!(correlation.abs() < 0.04, "{correlation}");
        assert_ne!(fresh_seed(1), fresh_seed(1));
    }
}
