//! The k best of a row and the nucleus of a distribution, without sorting the vocabulary.
//! Order everywhere: larger first, of equals the smaller id first.
use std::cmp::Ordering;

use super::math::BLOCK;

/// (value, id).
pub type Entry = (f32, u32);

/// Larger value first, of equals the smaller id. Values are never NaN.
pub fn better(a: &Entry, b: &Entry) -> Ordering {
    b.0.partial_cmp(&a.0)
        .unwrap_or(Ordering::Equal)
        .then(a.1.cmp(&b.1))
}

/// Puts the `k` best entries of `row` into `out`, in no order. `maxima` is scratch.
///
/// The k-th largest of the maxima of blocks is a lower bound of the k-th largest value, so only values from there on
/// are looked at twice: hardly more than k of them.
pub fn top_k(row: &[f32], k: usize, maxima: &mut Vec<f32>, out: &mut Vec<Entry>) {
    out.clear();
    let (k, blocks) = (k.min(row.len()), row.len().div_ceil(BLOCK));
    if k == 0 {
        return;
    }
    let mut bound = f32::NEG_INFINITY;
    if k < blocks {
        maxima.clear();
        maxima.extend(row.chunks(BLOCK).map(maximum));
        let (_, kth, _) = maxima.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
        bound = *kth;
    }
    for (block, values) in row.chunks(BLOCK).enumerate() {
        let first = (block * BLOCK) as u32;
        if bound == f32::NEG_INFINITY || maximum(values) >= bound {
            out.extend(
                (first..)
                    .zip(values)
                    .filter(|&(_, &x)| x >= bound)
                    .map(|(id, &x)| (x, id)),
            );
        }
    }
    if out.len() > k {
        out.select_nth_unstable_by(k - 1, better);
        out.truncate(k);
    }
}

fn maximum(values: &[f32]) -> f32 {
    let mut best = [f32::NEG_INFINITY; 16];
    for chunk in values.chunks(16) {
        best.iter_mut()
            .zip(chunk)
            .for_each(|(b, &x)| *b = if x > *b { x } else { *b });
    }
    best.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

/// The last entry of the nucleus: the best entries, one after the other, until their sum reaches `target`. Reorders
/// `entries`, which must not be empty. Halves the entries around their median again and again: linear time.
pub fn nucleus(mut entries: &mut [Entry], mut target: f64) -> Entry {
    const FEW: usize = 16;
    while entries.len() > FEW {
        let middle = entries.len() / 2;
        entries.select_nth_unstable_by(middle, better);
        let (upper, lower) = entries.split_at_mut(middle);
        let sum: f64 = upper.iter().map(|e| f64::from(e.0)).sum();
        if sum >= target {
            entries = upper;
        } else {
            target -= sum;
            entries = lower;
        }
    }
    entries.sort_unstable_by(better);
    let mut last = entries[0];
    for &entry in entries.iter() {
        last = entry;
        target -= f64::from(entry.0);
        if target <= 0.0 {
            break;
        }
    }
    last
}

/// The same for all weights of a row, each in [0, 1] at the index of its id, in one pass and a look at few.
///
/// The high bits of a weight choose one of about a thousand bins, in order of size; the bin in which the sum reaches
/// `target` is the only one whose entries are compared. `bins` and `entries` are scratch.
pub fn nucleus_of_row(
    weights: &[f32],
    mut target: f64,
    bins: &mut Vec<f64>,
    entries: &mut Vec<Entry>,
) -> Entry {
    // Sign, exponent and three bits of the fraction.
    const SHIFT: u32 = 20;
    let bin = |w: f32| (w.to_bits() >> SHIFT) as usize;
    bins.clear();
    bins.resize(bin(1.0) + 1, 0.0);
    for &w in weights {
        if let Some(sum) = bins.get_mut(bin(w)) {
            *sum += f64::from(w);
        }
    }
    let mut chosen = 0;
    for (i, &sum) in bins.iter().enumerate().rev().filter(|(_, sum)| **sum > 0.0) {
        chosen = i;
        if sum >= target {
            break;
        }
        target -= sum;
    }
    entries.clear();
    entries.extend(
        (0..)
            .zip(weights)
            .filter(|&(_, &w)| bin(w) == chosen)
            .map(|(id, &w)| (w, id)),
    );
    if entries.is_empty() {
        return (0.0, u32::MAX);
    }
    nucleus(entries, target)
}

#[cfg(test)]
mod tests {
    use super::super::random::uniform;
    use super::*;

    fn sorted(row: &[f32]) -> Vec<Entry> {
        let mut all: Vec<Entry> = row.iter().copied().zip(0..).collect();
        all.sort_by(better);
        all
    }

    #[test]
    fn the_k_best_are_those_of_a_full_sort() {
        let (mut maxima, mut out) = (Vec::new(), Vec::new());
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
                top_k(&row, k, &mut maxima, &mut out);
                out.sort_by(better);
                assert_eq!(out, sorted(&row)[..k.min(row.len())], "n {n} k {k}");
            }
        }
    }

    #[test]
    fn masked_values_are_taken_last() {
        let mut row = vec![f32::NEG_INFINITY; 300];
        (row[7], row[200]) = (1.0, 2.0);
        let (mut maxima, mut out) = (Vec::new(), Vec::new());
        top_k(&row, 3, &mut maxima, &mut out);
        out.sort_by(better);
        assert_eq!(out[..2], [(2.0, 200), (1.0, 7)]);
        assert_eq!(out[2].0, f32::NEG_INFINITY);
    }

    #[test]
    fn the_nucleus_ends_where_a_walk_down_the_sorted_list_ends() {
        for n in [1u64, 2, 15, 17, 300, 4000] {
            let row: Vec<f32> = (0..n)
                .map(|i| (uniform(9, i) * 16.0).floor() as f32 + 1.0)
                .collect();
            let total: f64 = row.iter().map(|&w| f64::from(w)).sum();
            for p in [0.01, 0.3, 0.5, 0.9, 0.999, 1.0] {
                let mut left = p * total;
                let walk = sorted(&row);
                let expected = walk.iter().find(|e| {
                    left -= f64::from(e.0);
                    left <= 0.0
                });
                let mut entries: Vec<Entry> = row.iter().copied().zip(0..).collect();
                assert_eq!(
                    nucleus(&mut entries, p * total),
                    *expected.unwrap_or(&walk[n as usize - 1]),
                    "{n} {p}"
                );
            }
        }
    }

    #[test]
    fn the_nucleus_of_a_row_is_that_of_its_entries() {
        let (mut bins, mut scratch) = (Vec::new(), Vec::new());
        for (n, power) in [
            (1u64, 1),
            (40, 1),
            (40, 30),
            (3000, 1),
            (3000, 4),
            (3000, 60),
        ] {
            let mut row: Vec<f32> = (0..n).map(|i| (uniform(4, i) as f32).powi(power)).collect();
            row[n as usize / 2] = 1.0;
            let total: f64 = row.iter().map(|&w| f64::from(w)).sum();
            for p in [0.001, 0.3, 0.5, 0.9, 0.999] {
                let mut entries: Vec<Entry> = row.iter().copied().zip(0..).collect();
                let expected = nucleus(&mut entries, p * total);
                assert_eq!(
                    nucleus_of_row(&row, p * total, &mut bins, &mut scratch),
                    expected,
                    "{n} {power} {p}"
                );
            }
        }
    }
}
