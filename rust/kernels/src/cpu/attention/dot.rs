//! Products of a Bf16 cache by `vdpbf16ps`: two dimensions, or two keys, a step, added in f32.
//! Every `unsafe` here needs AVX-512 with BF16 and takes valid tiles.
use super::super::buffer::prefetch;
use super::super::kv::GROUP;
use super::tile::{PROBS, SCORES, Tile};
use super::wide::by_rows;
use std::arch::x86_64::*;

#[inline(always)]
unsafe fn pairs(at: *const u8) -> __m512bh {
    // SAFETY: 64 readable bytes; every bit pattern is a vector of bf16.
    unsafe { std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(at.cast())) }
}

/// As [`pairs`]; asks for what lies `ahead` bytes on.
#[inline(always)]
unsafe fn pairs_ahead(at: *const u8, ahead: isize) -> __m512bh {
    prefetch::<2>(at.wrapping_offset(ahead));
    // SAFETY: passed on.
    unsafe { pairs(at) }
}

/// As [`Tile::ahead`]; the rows from `row` on, unless they are the first, read the same again.
#[inline(always)]
pub(super) fn ahead(t: &Tile, row: usize, page: usize, values: bool, n: usize) -> isize {
    if row == 0 {
        t.ahead(page, values, n)
    } else {
        0
    }
}

#[inline(always)]
pub(super) unsafe fn broadcast(at: *const u8) -> __m512bh {
    // SAFETY: 4 readable bytes; as above.
    unsafe {
        let pair = at.cast::<i32>().read_unaligned();
        std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(pair))
    }
}

/// Products of queries and keys into `scores`.
///
/// # Safety
/// See the module.
#[inline(always)]
pub(super) unsafe fn scores(t: &Tile) {
    // SAFETY: see above.
    unsafe { by_rows!(t, |row, N| scores_of::<N>(t, row)) }
}

#[inline(always)]
unsafe fn scores_of<const N: usize>(t: &Tile, row: usize) {
    let mut page = t.first;
    // SAFETY: `row..row + N` are rows of the tile, the pages exist.
    unsafe {
        // Four groups of keys at a time: enough sums in flight for the latency of the instruction.
        while page + 2 <= t.last {
            let (a, b) = (t.keys[page], t.keys[page + 1]);
            let group = t.page.group_bytes();
            scores_at::<N, 4>(t, row, page, [a, a.add(group), b, b.add(group)]);
            page += 2;
        }
        if page < t.last {
            let keys = [t.keys[page], t.keys[page].add(t.page.group_bytes())];
            scores_at::<N, 2>(t, row, page, keys);
        }
    }
}

/// Scores of `N` rows for `G` groups of keys, the first being the first of `page`.
#[inline(always)]
unsafe fn scores_at<const N: usize, const G: usize>(
    t: &Tile,
    row: usize,
    page: usize,
    keys: [*const u8; G],
) {
    // SAFETY: see `scores_of`.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); G]; N];
        let mut by = [0; G];
        for (g, by) in by.iter_mut().enumerate() {
            *by = ahead(t, row, page + g / 2, false, G / 2);
        }
        for pair in 0..t.page.key_dims / 2 {
            let mut k = [pairs_ahead(keys[0].add(pair * 64), by[0]); G];
            for g in 1..G {
                k[g] = pairs_ahead(keys[g].add(pair * 64), by[g]);
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let q = broadcast(t.q.add((row + r) * t.query_bytes() + pair * 4));
                for (sum, k) in sums.iter_mut().zip(k) {
                    *sum = _mm512_dpbf16_ps(*sum, k, q);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            let to = t.scores.add((row + r) * SCORES + page * 2 * GROUP);
            for (g, sum) in sums.iter().enumerate() {
                _mm512_storeu_ps(to.add(g * GROUP), *sum);
            }
        }
    }
}

/// Sums of values weighted by probability into `out`.
///
/// # Safety
/// See the module.
#[inline(always)]
pub(super) unsafe fn values(t: &Tile) {
    let groups = t.page.value_dims / GROUP;
    for group in (0..groups).step_by(4) {
        // SAFETY: see above.
        unsafe {
            match groups - group {
                1 => by_rows!(t, |row, N| values_of::<N, 1>(t, row, group)),
                2 => by_rows!(t, |row, N| values_of::<N, 2>(t, row, group)),
                3 => by_rows!(t, |row, N| values_of::<N, 3>(t, row, group)),
                _ => by_rows!(t, |row, N| values_of::<N, 4>(t, row, group)),
            }
        }
    }
}

#[inline(always)]
unsafe fn values_of<const N: usize, const G: usize>(t: &Tile, row: usize, group: usize) {
    // SAFETY: `row..row + N` are rows of the tile, `group..group + G` groups of 16 dimensions.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); G]; N];
        for page in t.first..t.last {
            let values = t.values[page].add(group * 1024);
            let by = ahead(t, row, page, true, 1);
            for pair in 0..GROUP {
                let mut v = [pairs_ahead(values.add(pair * 64), by); G];
                for (g, v) in v.iter_mut().enumerate().skip(1) {
                    *v = pairs_ahead(values.add(g * 1024 + pair * 64), by);
                }
                for (r, sums) in sums.iter_mut().enumerate() {
                    let p = t
                        .probs()
                        .add((row + r) * PROBS + page * 2 * GROUP + 2 * pair);
                    let p = broadcast(p.cast());
                    for (sum, v) in sums.iter_mut().zip(v) {
                        *sum = _mm512_dpbf16_ps(*sum, v, p);
                    }
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (g, sum) in sums.iter().enumerate() {
                let at = (row + r) * t.page.value_dims + (group + g) * GROUP;
                _mm512_storeu_ps(t.out.add(at), *sum);
            }
        }
    }
}
