//! Products in f32: of an F32 cache, and of one of any other type widened: while it is read for few rows, page by page
//! into this thread's working memory for more. Generic over the type and the instruction set; all give the same bits:
//! one fused multiply-add per dimension, or per key, in order.
//! Every `unsafe` here has the contract of [`Lanes`](super::super::lanes::Lanes) and takes valid tiles.
use super::super::exp::Float;
use super::super::kv::{GROUP, PAGE};
use super::element::{Ahead, Element, F32};
use super::scales;
use super::softmax::{self, Exact, Put};
use super::tile::{ROWS, SCORES, Tile};
use std::cell::Cell;

/// Most rows that are computed together.
pub(super) const MOST: usize = 6;
/// Most rows for which a cache is widened while it is read, each time anew.
const DIRECT: usize = 2 * MOST;
/// Registers of sums up to which two groups are summed at once: beside four of keys or values, more do not fit into the 16
/// of AVX2.
const FEW: usize = 5;

/// A cache line of f32.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; GROUP]);

thread_local! {
    /// Queries of a tile and a page's keys or values, widened.
    static WORK: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
}

/// Places in the working memory.
#[derive(Clone, Copy)]
struct Work {
    /// `[rows][key_dims]`
    q: *mut f32,
    /// Keys `[2 groups][key_dims][16]` or values `[groups][32][16]`.
    page: *mut f32,
}

/// bf16 as f32, over the scores.
struct Rounded;

impl<L: Float> Put<L> for Rounded {
    const ROUNDED: bool = true;
    #[inline(always)]
    unsafe fn put(p: [L; 2], scores: *mut f32, _: *mut u16) {
        // SAFETY: see the module.
        unsafe {
            p[0].round_bf16().store(scores);
            p[1].round_bf16().store(scores.add(GROUP));
        }
    }
}

/// Scores, softmax and values of a tile.
///
/// # Safety
/// See the module; the tile's type is that of `E`.
#[inline(always)]
pub(super) unsafe fn segment<L: Float, E: Element>(t: &mut Tile) {
    let mut memory = WORK.take();
    let queries = ROWS * t.page.key_dims / GROUP;
    let lines = queries + t.page.key_dims.max(t.page.value_dims) * PAGE / GROUP;
    if E::WIDENED && memory.len() < lines {
        memory.resize(lines, Line([0.0; GROUP]));
    }
    let q = memory.as_mut_ptr().cast::<f32>();
    let page = q.wrapping_add(queries * GROUP);
    let work = Work { q, page };
    // SAFETY: see above; the memory holds both places where they are used.
    unsafe {
        scores::<L, E>(t, work);
        if E::SCALED {
            scales::keys::<L>(t);
        }
        if E::ROUNDED {
            softmax::softmax::<L, Rounded>(t);
        } else {
            softmax::softmax::<L, Exact>(t);
        }
        if E::SCALED {
            scales::values::<L>(t);
        }
        values::<L, E>(t, work);
    }
    WORK.set(memory);
}

/// Runs an expression for blocks of at most [`MOST`] rows of about the same height, a constant in it.
macro_rules! by_rows {
    ($t:ident, |$row:ident, $n:ident| $call:expr) => {{
        let mut $row = 0;
        while $row < $t.rows {
            let left = $t.rows - $row;
            let height = left.div_ceil(left.div_ceil($crate::cpu::attention::wide::MOST));
            macro_rules! with {
                ($rows:expr) => {{
                    const $n: usize = $rows;
                    $call
                }};
            }
            match height {
                1 => with!(1),
                2 => with!(2),
                3 => with!(3),
                4 => with!(4),
                5 => with!(5),
                _ => with!($crate::cpu::attention::wide::MOST),
            }
            $row += height;
        }
    }};
}
#[cfg(target_arch = "x86_64")]
pub(super) use by_rows;

/// Products of queries and keys into `scores`.
#[inline(always)]
unsafe fn scores<L: Float, E: Element>(t: &Tile, work: Work) {
    let mut q = t.q.cast::<f32>();
    // SAFETY: see the module.
    unsafe {
        if E::ROUNDED {
            for i in 0..t.rows * t.page.key_dims {
                let bits = u32::from(*t.q.cast::<u16>().add(i));
                work.q.add(i).write(f32::from_bits(bits << 16));
            }
            q = work.q;
        }
        for page in t.first..t.last {
            let at = t.keys[page];
            let mut at = Ahead {
                at,
                by: t.ahead(page, false, 1),
            };
            if E::WIDENED && t.rows > DIRECT {
                widen::<L, E>(at, work.page, t.page.key_dims * GROUP);
                let at = Ahead::none(work.page.cast());
                by_rows!(t, |row, N| keys_of::<L, F32, N>(t, q, at, row, page));
            } else {
                by_rows!(t, |row, N| {
                    keys_of::<L, E, N>(t, q, at, row, page);
                    at.by = 0;
                });
            }
        }
    }
}

/// Widens `pairs` pairs of lanes: two rows of 16 after two rows.
#[inline(always)]
unsafe fn widen<L: Float, E: Element>(from: Ahead, to: *mut f32, pairs: usize) {
    for i in 0..pairs / GROUP {
        // SAFETY: both hold `pairs` pairs, a multiple of 16.
        unsafe {
            let (a, b) = E::rows::<L>(from, 2 * i * GROUP, GROUP);
            let to = to.add(2 * i * GROUP);
            a.store(to);
            b.store(to.add(GROUP));
        }
    }
}

/// Scores of `N` rows for the keys of a page.
#[inline(always)]
unsafe fn keys_of<L: Float, E: Element, const N: usize>(
    t: &Tile,
    q: *const f32,
    keys: Ahead,
    row: usize,
    page: usize,
) {
    let group = GROUP * t.page.key_dims * E::BYTES;
    // SAFETY: `row..row + N` are rows of the tile; a page has two groups of keys.
    unsafe {
        let to = t.scores.add(row * SCORES + page * PAGE);
        let q = q.add(row * t.page.key_dims);
        if N * L::REGISTERS <= FEW {
            products::<L, E, N, 2>(t, q, [keys, keys.add(group)], to);
        } else {
            products::<L, E, N, 1>(t, q, [keys], to);
            products::<L, E, N, 1>(t, q, [keys.add(group)], to.add(GROUP));
        }
    }
}

/// Scores of `N` rows for `G` groups of keys.
#[inline(always)]
unsafe fn products<L: Float, E: Element, const N: usize, const G: usize>(
    t: &Tile,
    q: *const f32,
    keys: [Ahead; G],
    to: *mut f32,
) {
    let dims = t.page.key_dims;
    // SAFETY: the rows' queries and scores and the groups exist.
    unsafe {
        let mut sums = [[L::splat(0.0); G]; N];
        for pair in 0..dims / 2 {
            for g in 0..G {
                let (a, b) = E::rows::<L>(keys[g], 2 * pair * GROUP, GROUP);
                for (r, sums) in sums.iter_mut().enumerate() {
                    let q = q.add(r * dims + 2 * pair);
                    let sum = a.fma(L::splat(*q), sums[g]);
                    sums[g] = b.fma(L::splat(*q.add(1)), sum);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (g, sum) in sums.iter().enumerate() {
                sum.store(to.add(r * SCORES + g * GROUP));
            }
        }
    }
}

/// Sums of values weighted by probability into `out`.
#[inline(always)]
unsafe fn values<L: Float, E: Element>(t: &Tile, work: Work) {
    let groups = t.page.value_dims / GROUP;
    for page in t.first..t.last {
        // SAFETY: see the module; values lie behind the keys.
        unsafe {
            let at = Ahead {
                at: t.values[page],
                by: t.ahead(page, true, 1),
            };
            if E::WIDENED && t.rows > DIRECT {
                widen::<L, E>(at, work.page, t.page.value_dims * GROUP);
                let from = Values {
                    at: Ahead::none(work.page.cast()),
                    key: GROUP,
                    group: PAGE * GROUP,
                };
                by_rows!(t, |row, N| values_of::<L, F32, N>(
                    t, &from, row, page, groups
                ));
            } else {
                let (key, group) = if E::WIDENED {
                    (GROUP, PAGE * GROUP)
                } else {
                    (t.page.value_dims, GROUP)
                };
                let mut from = Values { at, key, group };
                by_rows!(t, |row, N| {
                    values_of::<L, E, N>(t, &from, row, page, groups);
                    from.at.by = 0;
                });
            }
        }
    }
}

/// Where the values of a page lie: elements from key to key, and from 16 dimensions to the next.
struct Values {
    at: Ahead,
    key: usize,
    group: usize,
}

/// Adds the values of a page to `N` rows.
#[inline(always)]
unsafe fn values_of<L: Float, E: Element, const N: usize>(
    t: &Tile,
    from: &Values,
    row: usize,
    page: usize,
    groups: usize,
) {
    let mut group = 0;
    // SAFETY: `row..row + N` are rows of the tile, `group..` groups of 16 dimensions.
    unsafe {
        while group + 2 <= groups && N * L::REGISTERS <= FEW {
            add::<L, E, N, 2>(t, from, row, page, group);
            group += 2;
        }
        while group < groups {
            add::<L, E, N, 1>(t, from, row, page, group);
            group += 1;
        }
    }
}

/// Adds `G` groups of 16 dimensions of a page's values to `N` rows.
#[inline(always)]
unsafe fn add<L: Float, E: Element, const N: usize, const G: usize>(
    t: &Tile,
    from: &Values,
    row: usize,
    page: usize,
    group: usize,
) {
    // SAFETY: see `values_of`.
    unsafe {
        let out = t.out.add(row * t.page.value_dims + group * GROUP);
        let p = t.scores.add(row * SCORES + page * PAGE);
        let mut sums = [[L::splat(0.0); G]; N];
        if page > t.first {
            for (r, sums) in sums.iter_mut().enumerate() {
                for (g, sum) in sums.iter_mut().enumerate() {
                    *sum = L::load(out.add(r * t.page.value_dims + g * GROUP));
                }
            }
        }
        for pair in 0..PAGE / 2 {
            for g in 0..G {
                let at = (group + g) * from.group + 2 * pair * from.key;
                let (a, b) = E::rows::<L>(from.at, at, from.key);
                for (r, sums) in sums.iter_mut().enumerate() {
                    let p = p.add(r * SCORES + 2 * pair);
                    let sum = a.fma(L::splat(*p), sums[g]);
                    sums[g] = b.fma(L::splat(*p.add(1)), sum);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (g, sum) in sums.iter().enumerate() {
                sum.store(out.add(r * t.page.value_dims + g * GROUP));
            }
        }
    }
}
