//! The scales with which integers of few bits come nearest to values, by least squares: for each of some ways to round,
//! the best scale (and minimum) for the integers that it gives; of those the one that leaves the least.
//! Sums are kept in 16 lanes, so that compilers make vectors of them and every machine has the same bits.

/// Lanes of a sum, and the least number of values.
const LANES: usize = 16;

/// `x` to the nearest integer, ties to even, where |x| < 2^22.
#[inline(always)]
pub(super) fn nearest(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0;
    (x + MAGIC) - MAGIC
}

fn total(lanes: [f32; LANES]) -> f32 {
    lanes.into_iter().sum()
}

/// How much an error counts at each value: more where the value is large, as products are.
pub(super) fn importance(values: &[f32], out: &mut [f32]) {
    let squares: f32 = values.iter().map(|v| v * v).sum();
    let usual = (squares / values.len().max(1) as f32).sqrt();
    for (w, v) in out.iter_mut().zip(values) {
        *w = usual + v.abs();
    }
}

/// The value that is furthest from 0, with its sign.
fn peak(values: &[f32]) -> f32 {
    let further = |most: f32, v: &f32| if v.abs() > most.abs() { *v } else { most };
    values.iter().fold(0.0, further)
}

/// The sums of w * v * q and w * q * q, where q is `v * inverse` as an integer from `-half` to `half - 1`.
fn moments(values: &[f32], weights: &[f32], inverse: f32, half: f32) -> [f32; 2] {
    let (mut vq, mut qq) = ([0f32; LANES], [0f32; LANES]);
    let weights = weights.as_chunks::<LANES>().0;
    for (v, w) in values.as_chunks::<LANES>().0.iter().zip(weights) {
        for i in 0..LANES {
            let q = nearest((v[i] * inverse).max(-half).min(half - 1.0));
            vq[i] += w[i] * v[i] * q;
            qq[i] += w[i] * q * q;
        }
    }
    [total(vq), total(qq)]
}

/// The scale d with which d * q, q from `-half` to `half - 1`, comes nearest to `values`, a multiple of 16 of them. It is
/// negative where the value furthest from 0 is positive: `-half` reaches further than `half - 1`.
pub(super) fn centred(values: &[f32], weights: &[f32], half: f32) -> f32 {
    let peak = peak(values);
    if peak == 0.0 {
        return 0.0;
    }
    let (mut best, mut scale) = (0.0, peak / -half);
    for step in -9..=9 {
        let inverse = (step as f32 * 0.1 - half) / peak;
        let [vq, qq] = moments(values, weights, inverse, half);
        if qq > 0.0 && vq * vq > best * qq {
            best = vq * vq / qq;
            scale = vq / qq;
        }
    }
    scale
}

/// A scale and what is added: v = scale * q + minimum.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Affine {
    pub scale: f32,
    pub minimum: f32,
}

/// The sums of w * q, w * q * q and w * v * q, where q is `(v - least) * inverse` as an integer from 0 to `most`.
fn sums(values: &[f32], weights: &[f32], least: f32, inverse: f32, most: f32) -> [f32; 3] {
    let (mut one, mut two, mut own) = ([0f32; LANES], [0f32; LANES], [0f32; LANES]);
    let weights = weights.as_chunks::<LANES>().0;
    for (v, w) in values.as_chunks::<LANES>().0.iter().zip(weights) {
        for i in 0..LANES {
            let q = nearest(((v[i] - least) * inverse).max(0.0).min(most));
            one[i] += w[i] * q;
            two[i] += w[i] * q * q;
            own[i] += w[i] * v[i] * q;
        }
    }
    [total(one), total(two), total(own)]
}

/// The scale and minimum with which scale * q + minimum, q from 0 to `most`, comes nearest to `values`, a multiple of 16
/// of them. `below`: the minimum is at most 0.
pub(super) fn affine(values: &[f32], weights: &[f32], most: f32, below: bool) -> Affine {
    let ends = |[least, greatest]: [f32; 2], v: &f32| [least.min(*v), greatest.max(*v)];
    let [mut least, greatest] = values.iter().fold([f32::INFINITY, f32::NEG_INFINITY], ends);
    if below {
        least = least.min(0.0);
    }
    if greatest <= least {
        return Affine {
            scale: 0.0,
            minimum: least,
        };
    }
    let weigh = |[all, own]: [f32; 2], (v, w): (&f32, &f32)| [all + w, own + w * v];
    let [all, own] = values.iter().zip(weights).fold([0.0; 2], weigh);
    let plain = Affine {
        scale: (greatest - least) / most,
        minimum: least,
    };
    let (mut best, mut found) = (f32::NEG_INFINITY, plain);
    for step in -10..=10 {
        let inverse = (most + step as f32 * 0.1) / (greatest - least);
        let [one, two, mixed] = sums(values, weights, least, inverse, most);
        let det = all * two - one * one;
        let mut fit = match det > 0.0 {
            true => Affine {
                scale: (all * mixed - own * one) / det,
                minimum: (two * own - one * mixed) / det,
            },
            false => plain,
        };
        if below && fit.minimum > 0.0 {
            fit = Affine {
                scale: if two > 0.0 { mixed / two } else { 0.0 },
                minimum: 0.0,
            };
        }
        // What is left is the sum of w * v * v less this, at the best scale and minimum for these integers.
        let merit = fit.scale * mixed + fit.minimum * own;
        if det > 0.0 && fit.scale > 0.0 && merit > best {
            (best, found) = (merit, fit);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::testing::Random;

    #[test]
    fn integers_are_found_again() {
        let codes: Vec<i32> = (0..32).map(|i| i * 7 % 16 - 8).collect();
        let values: Vec<f32> = codes.iter().map(|q| *q as f32 * 0.37).collect();
        let scale = centred(&values, &[1.0; 32], 8.0);
        assert!((scale - 0.37).abs() < 1e-6, "{scale}");
        let shifted: Vec<f32> = codes.iter().map(|q| *q as f32 * 0.37 - 1.0).collect();
        let fit = affine(&shifted, &[1.0; 32], 15.0, false);
        assert!((fit.scale - 0.37).abs() < 1e-5, "{fit:?}");
        assert!((fit.minimum + 8.0 * 0.37 + 1.0).abs() < 1e-4, "{fit:?}");
    }

    #[test]
    fn the_search_beats_the_ends() {
        let mut random = Random::new(5);
        let left = |values: &[f32], scale: f32, minimum: f32, ends: [f32; 2]| -> f32 {
            let off = |v: &f32| {
                let q = ((v - minimum) / scale).round().clamp(ends[0], ends[1]);
                (v - minimum - scale * q).powi(2)
            };
            values.iter().map(off).sum()
        };
        for _ in 0..50 {
            let values: Vec<f32> = (0..32).map(|_| random.unit().powi(3)).collect();
            let scale = centred(&values, &[1.0; 32], 8.0);
            let plain = peak(&values) / -8.0;
            let ends = [-8.0, 7.0];
            assert!(left(&values, scale, 0.0, ends) <= left(&values, plain, 0.0, ends) * 1.0001);
            let fit = affine(&values, &[1.0; 32], 15.0, false);
            let least = values.iter().fold(f32::MAX, |l, v| l.min(*v));
            let most = values.iter().fold(f32::MIN, |m, v| m.max(*v));
            let (own, ends) = ((most - least) / 15.0, [0.0, 15.0]);
            let found = left(&values, fit.scale, fit.minimum, ends);
            assert!(found <= left(&values, own, least, ends) * 1.0001);
        }
    }

    #[test]
    fn what_is_alike_has_no_scale() {
        assert_eq!(centred(&[0.0; 16], &[1.0; 16], 8.0), 0.0);
        let alike = affine(&[-2.5; 16], &[1.0; 16], 3.0, true);
        assert_eq!((alike.scale, alike.minimum), (0.0, -2.5));
        let above = affine(&[2.5; 16], &[1.0; 16], 3.0, true);
        assert_eq!(above.minimum, 0.0);
        assert!((above.scale * 3.0 - 2.5).abs() < 1e-6, "{above:?}");
    }
}
