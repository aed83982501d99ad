//! Products of a Bf16 cache by tiles: 16 rows of queries or probabilities by 16 keys or dimensions at once. A row's bits
//! do not depend on the other rows, so one query is computed as sixteen are.
//! Every `unsafe` here takes valid tiles, and tile registers that exist.
use super::super::kv::GROUP;
use super::super::tile::{ROWS as TILE, Tiles};
use super::tile::{PROBS, SCORES, Tile};

/// Bytes of an operand tile in the cache: 16 rows of 64 bytes.
const BYTES: usize = 1024;

/// Products of queries and keys into `scores`.
///
/// # Safety
/// See the module; queries, scores, probabilities and output have room for 32 rows.
#[inline(always)]
pub(super) unsafe fn scores<T: Tiles>(tiles: &mut T, t: &Tile) {
    let tall = t.rows > TILE;
    for page in t.first..t.last {
        // SAFETY: see above.
        unsafe {
            if tall {
                scores_of::<T, true>(tiles, t, page);
            } else {
                scores_of::<T, false>(tiles, t, page);
            }
        }
    }
}

/// `TALL`: more than 16 rows.
#[inline(always)]
unsafe fn scores_of<T: Tiles, const TALL: bool>(tiles: &mut T, t: &Tile, page: usize) {
    let stride = t.query_bytes();
    // SAFETY: see `scores`; a page has two groups of keys, each of key_dims / 32 operand tiles.
    unsafe {
        let (a, b) = (t.pages[page], t.pages[page].add(t.page.group_bytes()));
        tiles.zero::<0>();
        tiles.zero::<1>();
        if TALL {
            tiles.zero::<2>();
            tiles.zero::<3>();
        }
        for step in 0..t.page.key_dims / 32 {
            tiles.load::<4>(t.q.add(step * 64), stride);
            tiles.load::<6>(a.add(step * BYTES), 64);
            tiles.dot_bf16::<0, 4, 6>();
            tiles.load::<7>(b.add(step * BYTES), 64);
            tiles.dot_bf16::<1, 4, 7>();
            if TALL {
                tiles.load::<5>(t.q.add(TILE * stride + step * 64), stride);
                tiles.dot_bf16::<2, 5, 6>();
                tiles.dot_bf16::<3, 5, 7>();
            }
        }
        let to = t.scores.add(page * 2 * GROUP).cast::<u8>();
        tiles.store::<0>(to, SCORES * 4);
        tiles.store::<1>(to.add(64), SCORES * 4);
        if TALL {
            let to = to.add(TILE * SCORES * 4);
            tiles.store::<2>(to, SCORES * 4);
            tiles.store::<3>(to.add(64), SCORES * 4);
        }
    }
}

/// Sums of values weighted by probability into `out`.
///
/// # Safety
/// As [`scores`].
#[inline(always)]
pub(super) unsafe fn values<T: Tiles>(tiles: &mut T, t: &Tile) {
    let groups = t.page.value_dims / GROUP;
    for group in (0..groups).step_by(2) {
        // SAFETY: see above.
        unsafe {
            match (groups - group > 1, t.rows > TILE) {
                (true, true) => values_of::<T, true, true>(tiles, t, group),
                (true, false) => values_of::<T, true, false>(tiles, t, group),
                (false, true) => values_of::<T, false, true>(tiles, t, group),
                (false, false) => values_of::<T, false, false>(tiles, t, group),
            }
        }
    }
}

/// `WIDE`: two groups of 16 dimensions; `TALL`: more than 16 rows.
#[inline(always)]
unsafe fn values_of<T: Tiles, const WIDE: bool, const TALL: bool>(
    tiles: &mut T,
    t: &Tile,
    group: usize,
) {
    let stride = PROBS * 2;
    // SAFETY: see `values`.
    unsafe {
        tiles.zero::<0>();
        tiles.zero::<1>();
        tiles.zero::<2>();
        tiles.zero::<3>();
        for page in t.first..t.last {
            let v = t.pages[page].add(t.page.key_bytes() + group * BYTES);
            let p = t.probs.add(page * 2 * GROUP).cast::<u8>();
            tiles.load::<4>(p, stride);
            tiles.load::<6>(v, 64);
            tiles.dot_bf16::<0, 4, 6>();
            if WIDE {
                tiles.load::<7>(v.add(BYTES), 64);
                tiles.dot_bf16::<1, 4, 7>();
            }
            if TALL {
                tiles.load::<5>(p.add(TILE * stride), stride);
                tiles.dot_bf16::<2, 5, 6>();
                if WIDE {
                    tiles.dot_bf16::<3, 5, 7>();
                }
            }
        }
        let row = t.page.value_dims * 4;
        let to = t.out.add(group * GROUP).cast::<u8>();
        tiles.store::<0>(to, row);
        if WIDE {
            tiles.store::<1>(to.add(64), row);
        }
        if TALL {
            tiles.store::<2>(to.add(TILE * row), row);
            if WIDE {
                tiles.store::<3>(to.add(TILE * row + 64), row);
            }
        }
    }
}
