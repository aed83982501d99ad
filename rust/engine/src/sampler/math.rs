//! Passes over one row of logits: best value, exponentials, sums. Written as loops over lanes that compile to vectors.
//! Sums are taken in an order fixed by position, so a row's result depends on nothing but the row.
use crate::error::{Error, Result};

/// Lanes of the inner loops.
const LANES: usize = 16;
/// Entries that one partial sum or one block maximum covers.
pub const BLOCK: usize = 64;

/// The first of the largest values: (index, value). Fails on NaN, +infinity and a row of nothing but -infinity.
pub fn peak(row: &[f32]) -> Result<(usize, f32)> {
    let mut best = [f32::NEG_INFINITY; LANES];
    let mut nan = [false; LANES];
    let mut chunks = row.chunks_exact(LANES);
    for chunk in &mut chunks {
        for ((b, n), &x) in best.iter_mut().zip(&mut nan).zip(chunk) {
            *b = if x > *b { x } else { *b };
            *n |= x.is_nan();
        }
    }
    for ((b, n), &x) in best.iter_mut().zip(&mut nan).zip(chunks.remainder()) {
        *b = if x > *b { x } else { *b };
        *n |= x.is_nan();
    }
    let max = best.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if nan.contains(&true) {
        return Err(Error::Generation(
            "the model computed logits that are not numbers (NaN)".into(),
        ));
    }
    match row.iter().position(|&x| x == max) {
        Some(at) if max.is_finite() => Ok((at, max)),
        _ => Err(Error::Generation(format!(
            "no token can be sampled: the largest logit is {max}"
        ))),
    }
}

/// e^x for x <= 0, relative error below 3e-7; 0 below -87.
///
/// Cephes' `expf` (Moshier): x = n ln 2 + r with |r| <= ln 2 / 2, a polynomial for e^r, n put into the exponent.
/// The standard library's `exp` is a call per value, which would make sampling slower than a layer of a small model.
#[inline(always)]
fn exp(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let t = x.max(-87.0) * std::f32::consts::LOG2_E + ROUND;
    let n = t - ROUND;
    let r = x.max(-87.0) - n * (355.0 / 512.0) - n * -2.121_944_4e-4;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let e = p * r * r + r + 1.0;
    let scale = f32::from_bits((t.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127)) << 23);
    if x < -87.0 { 0.0 } else { e * scale }
}

/// Appends e^((x - max) scale) of every `x` to `weights`, 0 where that is below `floor`, and one sum per [`BLOCK`]
/// entries to `sums`. Returns the total.
pub fn weigh(
    row: &[f32],
    max: f32,
    scale: f32,
    floor: f32,
    weights: &mut Vec<f32>,
    sums: &mut Vec<f64>,
) -> f64 {
    weights.clear();
    weights.resize(row.len(), 0.0);
    sums.clear();
    let mut total = 0.0;
    for (xs, ws) in row.chunks(BLOCK).zip(weights.chunks_mut(BLOCK)) {
        for (x, w) in xs.iter().zip(&mut *ws) {
            let e = exp((x - max) * scale);
            *w = if e >= floor { e } else { 0.0 };
        }
        let sum = sum(ws);
        sums.push(sum);
        total += sum;
    }
    total
}

/// Sets weights to 0 that come after `last` (smaller, or equal with a larger id) or are below `floor`, and brings `sums`
/// up to date. Returns the total.
pub fn cut(weights: &mut [f32], sums: &mut [f64], last: (f32, u32), floor: f32) -> f64 {
    let mut total = 0.0;
    let mut id = 0;
    for (ws, s) in weights.chunks_mut(BLOCK).zip(sums) {
        for w in &mut *ws {
            let keep = (*w > last.0 || (*w == last.0 && id <= last.1)) && *w >= floor;
            *w = if keep { *w } else { 0.0 };
            id += 1;
        }
        *s = sum(ws);
        total += *s;
    }
    total
}

/// ln of the sum of e^x over the row, with `max` its largest value.
pub fn log_sum_exp(row: &[f32], max: f32) -> f64 {
    let mut total = 0.0;
    let mut block = [0f32; BLOCK];
    for xs in row.chunks(BLOCK) {
        for (x, e) in xs.iter().zip(&mut block) {
            *e = exp(x - max);
        }
        total += sum(&block[..xs.len()]);
    }
    total.ln() + f64::from(max)
}

/// e^((x - max) scale) of one value.
pub fn weight(x: f32, max: f32, scale: f32) -> f32 {
    exp((x - max) * scale)
}

fn sum(values: &[f32]) -> f64 {
    let mut lanes = [0f32; LANES];
    let mut chunks = values.chunks_exact(LANES);
    for chunk in &mut chunks {
        lanes.iter_mut().zip(chunk).for_each(|(l, &v)| *l += v);
    }
    lanes
        .iter_mut()
        .zip(chunks.remainder())
        .for_each(|(l, &v)| *l += v);
    lanes.iter().map(|&l| f64::from(l)).sum()
}

/// The entry at which the running sum of `weights` passes `target`, which lies in [0, total); entries of weight 0 are
/// never taken. `sums` holds the sum of every [`BLOCK`] entries.
pub fn pick(weights: &[f32], sums: &[f64], mut target: f64) -> usize {
    let mut last = 0;
    for (block, (ws, &sum)) in weights.chunks(BLOCK).zip(sums).enumerate() {
        if sum <= 0.0 {
            continue;
        }
        // The last weight of a block stands in when the two ways of adding round differently.
        last = block * BLOCK + ws.iter().rposition(|&w| w > 0.0).unwrap_or(0);
        if target < sum {
            for (i, &w) in ws.iter().enumerate() {
                target -= f64::from(w);
                if target < 0.0 && w > 0.0 {
                    return block * BLOCK + i;
                }
            }
            return last;
        }
        target -= sum;
    }
    last
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn exponentials_are_close() {
        let mut worst = 0f64;
        for i in 0..870_000 {
            let x = -i as f32 * 1e-4;
            worst = worst.max((f64::from(exp(x)) / f64::from(x).exp() - 1.0).abs());
        }
        assert!(worst < 3e-7, "{worst}");
        assert_eq!(
            (exp(0.0), exp(-88.0), exp(f32::NEG_INFINITY)),
            (1.0, 0.0, 0.0)
        );
    }

    #[test]
    fn the_first_maximum_wins_and_bad_rows_are_refused() {
        for n in [1, 7, 16, 17, 1000] {
            let mut row: Vec<f32> = (0..n).map(|i| -(i as f32)).collect();
            assert_eq!(peak(&row).unwrap(), (0, 0.0));
            row[n - 1] = 5.0;
            assert_eq!(peak(&row).unwrap(), (n - 1, 5.0));
            row[n / 2] = 5.0;
            assert_eq!(peak(&row).unwrap(), (n / 2, 5.0));
            row[n / 3] = f32::NAN;
            assert!(peak(&row).unwrap_err().to_string().contains("NaN"));
            row[n / 3] = f32::INFINITY;
            assert!(peak(&row).is_err());
        }
        assert!(peak(&[f32::NEG_INFINITY; 3]).is_err());
        assert_eq!(peak(&[f32::NEG_INFINITY, -3.0]).unwrap(), (1, -3.0));
    }

    #[test]
    fn picking_walks_the_running_sum() {
        let row = [0.0f32, f32::NEG_INFINITY, 1.0, 2.0];
        let (mut w, mut s) = (Vec::new(), Vec::new());
        let total = weigh(&row, 2.0, 1.0, 0.0, &mut w, &mut s);
        assert_eq!(pick(&w, &s, 0.0), 0);
        assert_eq!(pick(&w, &s, f64::from(w[0]) * 1.0001), 2);
        assert_eq!(pick(&w, &s, total * 0.999_999), 3);
        assert_eq!(
            pick(&w, &s, total),
            3,
            "rounding past the end gives the last token that can be"
        );
    }
}
