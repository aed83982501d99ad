//! Products of a cache of one byte an element by `vdpbf16ps`: codes become bf16, which holds all of them exactly, by
//! looking up the two bytes of each. For AVX-512 with BF16 and VBMI; few rows take the codes as they are read, more find
//! a segment of them widened (`widen`): both give the same bits.
//! Every `unsafe` here takes valid tiles.
use super::super::buffer::prefetch;
use super::super::kv::codes::{fp8_value, int8_value};
use super::super::kv::{GROUP, KvType, PAGE};
use super::dot::{ahead, broadcast};
use super::tile::{PROBS, SCORES, Tile};
use super::wide::{MOST, by_rows};
use std::arch::x86_64::*;

/// Most rows that take codes as they are read.
pub(super) const FEW: usize = MOST;
/// Rows up to which four groups are summed at once: more sums do not fit beside the tables.
const NARROW: usize = 3;

/// The bytes of each code's bf16 but for its sign: the low ones, the high ones.
struct Bytes([[u8; 128]; 2]);

static INT8: Bytes = Bytes::of(KvType::Int8);
static FP8: Bytes = Bytes::of(KvType::Fp8);

impl Bytes {
    const fn of(dtype: KvType) -> Bytes {
        let mut bytes = [[0; 128]; 2];
        let mut code = 0;
        while code < 128 {
            let value = match dtype {
                KvType::Fp8 => fp8_value(code as u8),
                _ => int8_value(code as u8),
            };
            let [_, _, low, high] = value.to_bits().to_le_bytes();
            (bytes[0][code], bytes[1][code]) = (low, high);
            code += 1;
        }
        Bytes(bytes)
    }
}

/// Where the bytes of four rows of 16 go, so that low and high bytes interleaved are pairs of rows: in each 128 bits four
/// lanes of the first two rows, then of the others.
static ORDER: [u8; 64] = {
    let mut order = [0; 64];
    let mut i = 0;
    while i < 64 {
        let (quarter, half, pair, row) = (i / 16, i / 8 % 2, i / 2 % 4, i % 2);
        order[i] = ((2 * half + row) * 16 + 4 * quarter + pair) as u8;
        i += 1;
    }
    order
};

/// The tables, in registers.
#[derive(Clone, Copy)]
struct Table {
    low: [__m512i; 2],
    high: [__m512i; 2],
    order: __m512i,
}

impl Table {
    #[inline(always)]
    unsafe fn new<const IS_FP8: bool>() -> Table {
        let Bytes([low, high]) = if IS_FP8 { &FP8 } else { &INT8 };
        // SAFETY: 128 bytes a table, 64 of the order.
        unsafe {
            let (low, high) = (
                low.as_ptr().cast::<__m512i>(),
                high.as_ptr().cast::<__m512i>(),
            );
            Table {
                low: [_mm512_loadu_si512(low), _mm512_loadu_si512(low.add(1))],
                high: [_mm512_loadu_si512(high), _mm512_loadu_si512(high.add(1))],
                order: _mm512_loadu_si512(ORDER.as_ptr().cast()),
            }
        }
    }

    /// Four rows of 16 codes as two pairs of rows of bf16; asks for what lies `ahead` bytes on.
    #[inline(always)]
    unsafe fn pairs<const IS_FP8: bool>(self, at: *const u8, ahead: isize) -> [__m512bh; 2] {
        prefetch::<2>(at.wrapping_offset(ahead));
        // SAFETY: 64 readable bytes; every bit pattern is a vector of bf16.
        unsafe {
            let codes = _mm512_permutexvar_epi8(self.order, _mm512_loadu_si512(at.cast()));
            // The uppermost bit of an index is not looked at.
            let index = if IS_FP8 {
                codes
            } else {
                _mm512_abs_epi8(codes)
            };
            let low = _mm512_permutex2var_epi8(self.low[0], index, self.low[1]);
            let high = _mm512_permutex2var_epi8(self.high[0], index, self.high[1]);
            // high | codes & sign
            let sign = _mm512_set1_epi8(-128);
            let high = _mm512_ternarylogic_epi64::<0xf8>(high, codes, sign);
            let (a, b) = (
                _mm512_unpacklo_epi8(low, high),
                _mm512_unpackhi_epi8(low, high),
            );
            [
                std::mem::transmute::<__m512i, __m512bh>(a),
                std::mem::transmute::<__m512i, __m512bh>(b),
            ]
        }
    }
}

/// Products of queries and codes into `scores`.
///
/// # Safety
/// See the module; at most [`FEW`] rows.
#[inline(always)]
pub(super) unsafe fn scores<const IS_FP8: bool>(t: &Tile) {
    // SAFETY: see above.
    unsafe {
        let table = Table::new::<IS_FP8>();
        by_rows!(t, |row, N| scores_of::<IS_FP8, N>(t, table, row))
    }
}

#[inline(always)]
unsafe fn scores_of<const IS_FP8: bool, const N: usize>(t: &Tile, table: Table, row: usize) {
    let group = t.page.group_bytes();
    let mut page = t.first;
    // SAFETY: `row..row + N` are rows of the tile, the pages exist.
    unsafe {
        while N <= NARROW && page + 2 <= t.last {
            let (a, b) = (t.keys[page], t.keys[page + 1]);
            let keys = [a, a.add(group), b, b.add(group)];
            scores_at::<IS_FP8, N, 4>(t, table, row, page, keys);
            page += 2;
        }
        while page < t.last {
            let keys = [t.keys[page], t.keys[page].add(group)];
            scores_at::<IS_FP8, N, 2>(t, table, row, page, keys);
            page += 1;
        }
    }
}

/// Scores of `N` rows for `G` groups of keys, the first being the first of `page`.
#[inline(always)]
unsafe fn scores_at<const IS_FP8: bool, const N: usize, const G: usize>(
    t: &Tile,
    table: Table,
    row: usize,
    page: usize,
    keys: [*const u8; G],
) {
    // SAFETY: see `scores_of`; keys are padded to a multiple of 32 dimensions.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); G]; N];
        let mut by = [0; G];
        for (g, by) in by.iter_mut().enumerate() {
            *by = ahead(t, row, page + g / 2, false, G / 2);
        }
        for four in 0..t.page.key_dims / 4 {
            let mut k = [table.pairs::<IS_FP8>(keys[0].add(four * 64), by[0]); G];
            for g in 1..G {
                k[g] = table.pairs::<IS_FP8>(keys[g].add(four * 64), by[g]);
            }
            for half in 0..2 {
                for (r, sums) in sums.iter_mut().enumerate() {
                    let q = t.q.add((row + r) * t.query_bytes() + (2 * four + half) * 4);
                    let q = broadcast(q);
                    for (sum, k) in sums.iter_mut().zip(k) {
                        *sum = _mm512_dpbf16_ps(*sum, k[half], q);
                    }
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            let to = t.scores.add((row + r) * SCORES + page * PAGE);
            for (g, sum) in sums.iter().enumerate() {
                _mm512_storeu_ps(to.add(g * GROUP), *sum);
            }
        }
    }
}

/// Sums of codes of values weighted by probability into `out`.
///
/// # Safety
/// As [`scores`].
#[inline(always)]
pub(super) unsafe fn values<const IS_FP8: bool>(t: &Tile) {
    let groups = t.page.value_dims / GROUP;
    // SAFETY: see above.
    unsafe {
        let table = Table::new::<IS_FP8>();
        let mut group = 0;
        while group < groups {
            let left = groups - group;
            if t.rows <= NARROW && left >= 4 {
                by_rows!(t, |row, N| values_of::<IS_FP8, N, 4>(t, table, row, group));
                group += 4;
            } else if left >= 2 {
                by_rows!(t, |row, N| values_of::<IS_FP8, N, 2>(t, table, row, group));
                group += 2;
            } else {
                by_rows!(t, |row, N| values_of::<IS_FP8, N, 1>(t, table, row, group));
                group += 1;
            }
        }
    }
}

#[inline(always)]
unsafe fn values_of<const IS_FP8: bool, const N: usize, const G: usize>(
    t: &Tile,
    table: Table,
    row: usize,
    group: usize,
) {
    // SAFETY: `row..row + N` are rows of the tile, `group..group + G` groups of 16 dimensions.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); G]; N];
        for page in t.first..t.last {
            let values = t.values[page].add(group * PAGE * GROUP);
            let by = ahead(t, row, page, true, 1);
            for four in 0..PAGE / 4 {
                let mut v = [table.pairs::<IS_FP8>(values.add(four * 64), by); G];
                for (g, v) in v.iter_mut().enumerate().skip(1) {
                    let at = values.add(g * PAGE * GROUP + four * 64);
                    *v = table.pairs::<IS_FP8>(at, by);
                }
                for half in 0..2 {
                    for (r, sums) in sums.iter_mut().enumerate() {
                        let p = t.probs().add((row + r) * PROBS + page * PAGE);
                        let p = broadcast(p.add(4 * four + 2 * half).cast());
                        for (sum, v) in sums.iter_mut().zip(v) {
                            *sum = _mm512_dpbf16_ps(*sum, v[half], p);
                        }
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

/// Writes `count` codes (a multiple of 64) as bf16; asks for those at `next`.
///
/// # Safety
/// As the module; both places hold as many.
#[inline(always)]
pub(super) unsafe fn widen<const IS_FP8: bool>(
    from: *const u8,
    count: usize,
    next: *const u8,
    to: *mut u8,
) {
    let ahead = next.addr().wrapping_sub(from.addr()) as isize;
    // SAFETY: the caller's.
    unsafe {
        let table = Table::new::<IS_FP8>();
        for i in (0..count).step_by(64) {
            let [a, b] = table.pairs::<IS_FP8>(from.add(i), ahead);
            let to = to.add(2 * i);
            _mm512_storeu_si512(to.cast(), std::mem::transmute::<__m512bh, __m512i>(a));
            _mm512_storeu_si512(
                to.add(64).cast(),
                std::mem::transmute::<__m512bh, __m512i>(b),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_a_bf16() {
        for code in 0..=255u8 {
            for value in [int8_value(code), fp8_value(code)] {
                assert_eq!(value.to_bits() & 0xffff, 0, "{code}");
            }
        }
    }
}
