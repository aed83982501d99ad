//! The k best of a row, without sorting the vocabulary.
//! Order everywhere: larger first, of equals the smaller id first.
use std::cmp::Ordering;

use candle_vllm_kernels::cpu::Cpu;
use candle_vllm_kernels::cpu::logits::{self, Few};

/// (value, id).
pub type Entry = (f32, u32);

/// Larger value first, of equals the smaller id. Values are never NaN.
pub fn better(a: &Entry, b: &Entry) -> Ordering {
    b.0.partial_cmp(&a.0)
        .unwrap_or(Ordering::Equal)
        .then(a.1.cmp(&b.1))
}

/// Puts the `k` best entries of `row` into `out`, by id; `maxima` are those of [`logits::peak`], `entries` memory
/// that is used again.
///
/// What k maxima of groups reach is a lower bound of the k-th largest value, so only values from there on are looked at:
/// hardly more than k of them.
pub fn top_k(
    cpu: Cpu,
    row: &[f32],
    maxima: &[f32],
    k: usize,
    entries: &mut Vec<Entry>,
    out: &mut Few,
) {
    out.ids.clear();
    out.values.clear();
    let k = k.min(row.len());
    if k == 0 {
        return;
    }
    let bound = if k < maxima.len() {
        lower_bound(cpu, maxima, k)
    } else {
        f32::NEG_INFINITY
    };
    logits::collect(cpu, row, maxima, bound, out);
    if out.ids.len() <= k {
        return;
    }
    entries.clear();
    entries.extend(out.values.iter().copied().zip(out.ids.iter().copied()));
    let last = *entries.select_nth_unstable_by(k - 1, better).1;
    retain(out, |entry| better(&entry, &last).is_le());
}

/// A value that at least `k` of `values` reach, and seldom many more: down from the largest in steps that double, then
/// halfway between what is too high and what is not.
fn lower_bound(cpu: Cpu, values: &[f32], k: usize) -> f32 {
    const HALVINGS: usize = 20;
    let max = logits::peak_by(cpu, &[], values).value;
    let (mut high, mut low, mut step) = (max, max - 1.0, 1.0);
    let mut reach = logits::count(cpu, values, low);
    while reach < k {
        step *= 2.0;
        (high, low) = (low, max - step);
        reach = logits::count(cpu, values, low);
    }
    for _ in 0..HALVINGS {
        if reach <= k + k / 8 {
            break;
        }
        let middle = low + (high - low) * 0.5;
        match logits::count(cpu, values, middle) {
            fewer if fewer < k => high = middle,
            now => (low, reach) = (middle, now),
        }
    }
    low
}

/// Keeps some entries, in order.
fn retain(few: &mut Few, keep: impl Fn(Entry) -> bool) {
    let mut kept = 0;
    for i in 0..few.ids.len() {
        let entry = (few.values[i], few.ids[i]);
        if keep(entry) {
            (few.values[kept], few.ids[kept]) = entry;
            kept += 1;
        }
    }
    few.ids.truncate(kept);
    few.values.truncate(kept);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::random::uniform;
    use super::*;

    fn sorted(row: &[f32]) -> Vec<Entry> {
        let mut all: Vec<Entry> = row.iter().copied().zip(0..).collect();
        all.sort_by(better);
        all
    }

    fn best(row: &[f32], k: usize) -> Vec<Entry> {
        let cpu = Cpu::detect().unwrap();
        let (mut maxima, mut out) = (Vec::new(), Few::default());
        logits::peak(cpu, row, &mut maxima);
        top_k(cpu, row, &maxima, k, &mut Vec::new(), &mut out);
        assert!(out.ids.is_sorted());
        let mut out: Vec<Entry> = out.values.into_iter().zip(out.ids).collect();
        out.sort_by(better);
        out
    }

    #[test]
    fn the_k_best_are_those_of_a_full_sort() {
        for (n, levels) in [
            (1, 1.0),
            (5, 3.0),
            (64, 1e6),
            (65, 10.0),
            (1000, 4.0),
            (5000, 1e6),
            (5000, 100.0),
        ] {
            let row: Vec<f32> = (0..n).map(|i| (uniform(n, i) * levels) as f32).collect();
            for k in [1, 2, 5, 20, 64, 70, 500, 5000] {
                assert_eq!(
                    best(&row, k),
                    sorted(&row)[..k.min(row.len())],
                    "n {n} k {k}"
                );
            }
        }
    }

    #[test]
    fn what_k_values_reach_is_close_to_the_k_th() {
        let cpu = Cpu::detect().unwrap();
        for (spread, shift) in [(20.0, -5.0), (1e-3, 3.0), (1e9, 0.0), (0.0, 1.0)] {
            let values: Vec<f32> = (0..1000)
                .map(|i| (uniform(4, i) * spread + shift) as f32)
                .collect();
            for k in [1, 10, 50, 500, 999] {
                let bound = lower_bound(cpu, &values, k);
                let reach = logits::count(cpu, &values, bound);
                let ties = spread == 0.0;
                assert!(reach >= k && (ties || reach <= k + k / 8), "{spread} {k}");
            }
        }
    }

    #[test]
    fn masked_values_are_taken_last() {
        let mut row = vec![f32::NEG_INFINITY; 300];
        (row[7], row[200]) = (1.0, 2.0);
        let out = best(&row, 3);
        assert_eq!(out[..2], [(2.0, 200), (1.0, 7)]);
        assert_eq!(out[2].0, f32::NEG_INFINITY);
    }
}
