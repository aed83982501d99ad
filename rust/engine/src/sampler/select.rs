//! The k best of a row and the nucleus of a distribution, without sorting the vocabulary.
//! Order everywhere: larger first, of equals the smaller id first.
use std::cmp::Ordering;

use candle_vllm_kernels::cpu::Cpu;
use candle_vllm_kernels::cpu::logits::{self, Few, PIVOTS};

/// (value, id).
pub type Entry = (f32, u32);

/// Larger value first, of equals the smaller id. Values are never NaN.
pub fn better(a: &Entry, b: &Entry) -> Ordering {
    b.0.partial_cmp(&a.0)
        .unwrap_or(Ordering::Equal)
        .then(a.1.cmp(&b.1))
}

/// Memory of a selection, used again and again.
#[derive(Default)]
pub struct Scratch {
    entries: Vec<Entry>,
    keys: Vec<i32>,
    few: Few,
    fewer: Few,
}

/// Puts the `k` best entries of `row` into `out`, by id; `maxima` are those of [`logits::peak`].
///
/// The k-th largest of the maxima of groups is a lower bound of the k-th largest value, so only values from there on
/// are looked at: hardly more than k of them.
pub fn top_k(
    cpu: Cpu,
    row: &[f32],
    maxima: &[f32],
    k: usize,
    scratch: &mut Scratch,
    out: &mut Few,
) {
    out.ids.clear();
    out.values.clear();
    let k = k.min(row.len());
    if k == 0 {
        return;
    }
    let mut bound = f32::NEG_INFINITY;
    if k < maxima.len() {
        let keys = &mut scratch.keys;
        keys.clear();
        keys.extend(maxima.iter().map(|x| flip(x.to_bits() as i32)));
        let from = keys.len() - k;
        bound = f32::from_bits(flip(*keys.select_nth_unstable(from).1) as u32);
    }
    logits::collect(cpu, row, maxima, bound, out);
    if out.ids.len() <= k {
        return;
    }
    let entries = &mut scratch.entries;
    entries.clear();
    entries.extend(out.values.iter().copied().zip(out.ids.iter().copied()));
    let last = *entries.select_nth_unstable_by(k - 1, better).1;
    retain(out, |entry| better(&entry, &last).is_le());
}

/// The bits of a float to an integer of the same order, and back.
fn flip(bits: i32) -> i32 {
    bits ^ (bits >> 31 & i32::MAX)
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

/// The last entry of the nucleus of weights above 0 and at most 1: the best, one after the other, until their sum
/// reaches `target`. Where rounding keeps it from being reached, all belong to it.
///
/// Sums above a few pivots at a time, equally far apart in the weights' bits, narrow the place down: no sorting.
pub fn nucleus(cpu: Cpu, weights: &Few, mut target: f64, scratch: &mut Scratch) -> Entry {
    const FEW: usize = 48;
    let (mut low, mut high) = (1u32, 1.0f32.to_bits() + 1);
    let mut now = std::mem::take(&mut scratch.few);
    let mut whole = true;
    let last = loop {
        let list = if whole { weights } else { &now };
        if list.ids.is_empty() {
            break (f32::from_bits(high), u32::MAX);
        }
        if list.ids.len() <= FEW || high - low <= 1 {
            break walk(list, target, &mut scratch.entries);
        }
        let step = f64::from(high - low) / (PIVOTS + 1) as f64;
        let mut pivots = [0u32; PIVOTS];
        for (i, pivot) in pivots.iter_mut().enumerate() {
            *pivot = low + ((i + 1) as f64 * step) as u32;
        }
        let sums = logits::above(cpu, &list.values, &pivots.map(f32::from_bits));
        // Sums fall with the pivots: the last that still reaches the target bounds from below, the next from above.
        let reach = sums.iter().take_while(|&&sum| sum >= target).count();
        if reach < PIVOTS {
            target -= sums[reach];
            high = pivots[reach];
        }
        if reach > 0 {
            low = pivots[reach - 1];
        }
        let (least, below) = (f32::from_bits(low), f32::from_bits(high));
        logits::between(cpu, list, least, below, &mut scratch.fewer);
        std::mem::swap(&mut now, &mut scratch.fewer);
        whole = false;
    };
    scratch.few = now;
    last
}

/// The same by sorting.
fn walk(list: &Few, mut target: f64, entries: &mut Vec<Entry>) -> Entry {
    entries.clear();
    entries.extend(list.values.iter().copied().zip(list.ids.iter().copied()));
    // Equal values stand in order of id already.
    entries.sort_by(better);
    let mut last = (f32::MAX, 0);
    for &entry in entries.iter() {
        last = entry;
        target -= f64::from(entry.0);
        if target <= 0.0 {
            break;
        }
    }
    last
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
        top_k(cpu, row, &maxima, k, &mut Scratch::default(), &mut out);
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
    fn masked_values_are_taken_last() {
        let mut row = vec![f32::NEG_INFINITY; 300];
        (row[7], row[200]) = (1.0, 2.0);
        let out = best(&row, 3);
        assert_eq!(out[..2], [(2.0, 200), (1.0, 7)]);
        assert_eq!(out[2].0, f32::NEG_INFINITY);
    }

    #[test]
    fn the_nucleus_ends_where_a_walk_down_the_sorted_list_ends() {
        let cpu = Cpu::detect().unwrap();
        let mut scratch = Scratch::default();
        for n in [1u64, 2, 15, 17, 49, 300, 4000, 20_000] {
            // Sixteenths add up exactly; all but the first case of a size have a tail of small ones.
            for power in [1, 4, 12] {
                let row: Vec<f32> = (0..n)
                    .map(|i| ((uniform(9, i) * 16.0).floor() as f32 + 1.0) / 16.0)
                    .map(|w| w.powi(power).max(2f32.powi(-9)))
                    .map(|w| (w * 512.0).round() / 512.0)
                    .collect();
                let total: f64 = row.iter().map(|&w| f64::from(w)).sum();
                let list = Few {
                    ids: (0..n as u32).collect(),
                    values: row.clone(),
                };
                for p in [0.01, 0.3, 0.5, 0.9, 0.999, 1.0] {
                    let mut left = p * total;
                    let walk = sorted(&row);
                    let expected = walk.iter().find(|e| {
                        left -= f64::from(e.0);
                        left <= 0.0
                    });
                    assert_eq!(
                        nucleus(cpu, &list, p * total, &mut scratch),
                        *expected.unwrap_or(&walk[n as usize - 1]),
                        "{n} {power} {p}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_target_out_of_reach_takes_all() {
        let cpu = Cpu::detect().unwrap();
        let values: Vec<f32> = (0..3000).map(|i| uniform(3, i) as f32 + 1e-3).collect();
        let list = Few {
            ids: (0..3000).collect(),
            values,
        };
        let last = nucleus(cpu, &list, 1e9, &mut Scratch::default());
        assert!(list.values.iter().all(|&w| w >= last.0));
    }
}
