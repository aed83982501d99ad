//! Products in f32: of an F32 cache, and of a Bf16 cache widened while it is read. Generic over the instruction set;
//! all give the same bits: one fused multiply-add per dimension, or per key, in order.
//! Every `unsafe` here has the contract of [`Lanes`](super::super::lanes::Lanes) and takes valid tiles.
use super::super::exp::Float;
use super::super::kv::GROUP;
use super::tile::{PROBS, SCORES, Tile};

/// Rows that are computed together.
pub(super) const BLOCK: usize = 4;

/// Runs an expression for blocks of [`BLOCK`] rows and for what is left, the number of rows being a constant in it.
macro_rules! by_rows {
    ($t:ident, |$row:ident, $n:ident| $call:expr) => {{
        let mut $row = 0;
        while $row < $t.rows {
            macro_rules! with {
                ($rows:expr) => {{
                    const $n: usize = $rows;
                    $call
                }};
            }
            match $t.rows - $row {
                1 => with!(1),
                2 => with!(2),
                3 => with!(3),
                _ => with!($crate::cpu::attention::wide::BLOCK),
            }
            $row += $crate::cpu::attention::wide::BLOCK;
        }
    }};
}
pub(super) use by_rows;

/// Products of queries and keys into `scores`.
///
/// # Safety
/// See the module; the tile's type is Bf16 if `BF16`, F32 otherwise.
#[inline(always)]
pub(super) unsafe fn scores<L: Float, const BF16: bool>(t: &Tile) {
    // SAFETY: see above.
    unsafe { by_rows!(t, |row, N| scores_of::<L, BF16, N>(t, row)) }
}

#[inline(always)]
unsafe fn scores_of<L: Float, const BF16: bool, const N: usize>(t: &Tile, row: usize) {
    for page in t.first..t.last {
        // SAFETY: `row..row + N` are rows of the tile; pages hold two groups of keys, then values.
        unsafe {
            let keys = [t.pages[page], t.pages[page].add(t.page.group_bytes())];
            let queries: [*const u8; N] =
                std::array::from_fn(|r| t.q.add((row + r) * t.query_bytes()));
            let mut sums = [[L::splat(0.0); 2]; N];
            if BF16 {
                for pair in 0..t.page.key_dims / 2 {
                    let k = [
                        L::load_bf16_pairs(keys[0].cast::<u16>().add(pair * 32)),
                        L::load_bf16_pairs(keys[1].cast::<u16>().add(pair * 32)),
                    ];
                    for (q, sums) in queries.iter().zip(&mut sums) {
                        let [a, b] = wide(q.cast::<[u16; 2]>().add(pair).read());
                        let (a, b) = (L::splat(a), L::splat(b));
                        for (sum, k) in sums.iter_mut().zip(&k) {
                            *sum = b.fma(k.1, a.fma(k.0, *sum));
                        }
                    }
                }
            } else {
                for d in 0..t.page.key_dims {
                    let k = [
                        L::load(keys[0].cast::<f32>().add(d * GROUP)),
                        L::load(keys[1].cast::<f32>().add(d * GROUP)),
                    ];
                    for (q, sums) in queries.iter().zip(&mut sums) {
                        let q = L::splat(q.cast::<f32>().add(d).read());
                        for (sum, k) in sums.iter_mut().zip(&k) {
                            *sum = q.fma(*k, *sum);
                        }
                    }
                }
            }
            for (r, sums) in sums.iter().enumerate() {
                let to = t.scores.add((row + r) * SCORES + page * 2 * GROUP);
                sums[0].store(to);
                sums[1].store(to.add(GROUP));
            }
        }
    }
}

/// Sums of values weighted by probability into `out`.
///
/// # Safety
/// As [`scores`].
#[inline(always)]
pub(super) unsafe fn values<L: Float, const BF16: bool>(t: &Tile) {
    let groups = t.page.value_dims / GROUP;
    for group in (0..groups).step_by(2) {
        // SAFETY: see above.
        unsafe {
            if groups - group > 1 {
                by_rows!(t, |row, N| values_of::<L, BF16, N, 2>(t, row, group));
            } else {
                by_rows!(t, |row, N| values_of::<L, BF16, N, 1>(t, row, group));
            }
        }
    }
}

#[inline(always)]
unsafe fn values_of<L: Float, const BF16: bool, const N: usize, const G: usize>(
    t: &Tile,
    row: usize,
    group: usize,
) {
    let mut sums = [[zero::<L>(); G]; N];
    for page in t.first..t.last {
        for pair in 0..GROUP {
            // SAFETY: `row..row + N` are rows of the tile, `group..group + G` groups of 16 dimensions.
            unsafe {
                if BF16 {
                    add_pair(t, row, group, page, pair, &mut sums);
                } else {
                    add_key(t, row, group, page, 2 * pair, &mut sums);
                    add_key(t, row, group, page, 2 * pair + 1, &mut sums);
                }
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        for (g, sum) in sums.iter().enumerate() {
            // SAFETY: as above.
            unsafe {
                sum.store(
                    t.out
                        .add((row + r) * t.page.value_dims + (group + g) * GROUP),
                );
            }
        }
    }
}

#[inline(always)]
fn zero<L: Float>() -> L {
    // SAFETY: inlined where the instruction set is enabled.
    unsafe { L::splat(0.0) }
}

/// Adds two keys of a Bf16 cache.
#[inline(always)]
unsafe fn add_pair<L: Float, const N: usize, const G: usize>(
    t: &Tile,
    row: usize,
    group: usize,
    page: usize,
    pair: usize,
    sums: &mut [[L; G]; N],
) {
    // SAFETY: as `values_of`.
    unsafe {
        let values = t.pages[page].add(t.page.key_bytes()).cast::<u16>();
        let mut v = [L::load_bf16_pairs(values.add(group * 512 + pair * 32)); G];
        for (g, v) in v.iter_mut().enumerate().skip(1) {
            *v = L::load_bf16_pairs(values.add((group + g) * 512 + pair * 32));
        }
        for (r, sums) in sums.iter_mut().enumerate() {
            let p = t.probs.add((row + r) * PROBS + page * 2 * GROUP + 2 * pair);
            let [a, b] = wide(p.cast::<[u16; 2]>().read());
            let (a, b) = (L::splat(a), L::splat(b));
            for (sum, v) in sums.iter_mut().zip(&v) {
                *sum = b.fma(v.1, a.fma(v.0, *sum));
            }
        }
    }
}

/// Adds one key of an F32 cache.
#[inline(always)]
unsafe fn add_key<L: Float, const N: usize, const G: usize>(
    t: &Tile,
    row: usize,
    group: usize,
    page: usize,
    key: usize,
    sums: &mut [[L; G]; N],
) {
    // SAFETY: as `values_of`.
    unsafe {
        let values = t.pages[page].add(t.page.key_bytes()).cast::<f32>();
        let at = values.add(key * t.page.value_dims + group * GROUP);
        let mut v = [L::load(at); G];
        for (g, v) in v.iter_mut().enumerate().skip(1) {
            *v = L::load(at.add(g * GROUP));
        }
        for (r, sums) in sums.iter_mut().enumerate() {
            let p = L::splat(*t.scores.add((row + r) * SCORES + page * 2 * GROUP + key));
            for (sum, v) in sums.iter_mut().zip(&v) {
                *sum = p.fma(*v, *sum);
            }
        }
    }
}

/// Two bf16 as f32.
#[inline(always)]
fn wide(pair: [u16; 2]) -> [f32; 2] {
    [
        f32::from_bits(u32::from(pair[0]) << 16),
        f32::from_bits(u32::from(pair[1]) << 16),
    ]
}
