//! Products of a Bf16 cache by tiles: 16 rows of queries or probabilities by 16 keys or dimensions at once. A row's bits
//! do not depend on the other rows, so one query is computed as sixteen are.
//! Every `unsafe` here takes valid tiles, and tile registers that exist.
use super::super::buffer::prefetch;
use super::super::kv::GROUP;
use super::super::tile_unit::{ROWS as UNIT, Tiles};
use super::tile::{PROBS, SCORES, Tile};

/// Bytes of an operand tile in the cache: 16 rows of 64 bytes.
const BYTES: usize = 1024;

/// Dimensions that one product takes.
const STEP: usize = 32;

/// Products of queries and keys into `scores`.
///
/// # Safety
/// See the module; queries, scores and output have room for 32 rows.
#[inline(always)]
pub(super) unsafe fn scores<T: Tiles>(tiles: &mut T, t: &Tile) {
    for page in t.first..t.last {
        // SAFETY: the caller's.
        unsafe {
            if t.rows > UNIT {
                page_scores::<T, true>(tiles, t, page);
            } else {
                page_scores::<T, false>(tiles, t, page);
            }
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
        // SAFETY: the caller's.
        unsafe {
            match (groups - group > 1, t.rows > UNIT) {
                (true, true) => group_values::<T, true, true>(tiles, t, group),
                (true, false) => group_values::<T, true, false>(tiles, t, group),
                (false, true) => group_values::<T, false, true>(tiles, t, group),
                (false, false) => group_values::<T, false, false>(tiles, t, group),
            }
        }
    }
}

/// An operand tile of keys or values; asks for the one that lies `ahead` bytes on. `TALL`: more rows read the same again.
#[inline(always)]
unsafe fn operand<T: Tiles, const R: usize, const TALL: bool>(
    tiles: &mut T,
    at: *const u8,
    ahead: isize,
) {
    if !TALL {
        let next = at.wrapping_offset(ahead);
        (0..BYTES)
            .step_by(64)
            .for_each(|line| prefetch::<2>(next.wrapping_add(line)));
    }
    // SAFETY: the module's.
    unsafe { tiles.load::<R>(at, 64) };
}

/// Scores of one page. `TALL`: of more than 16 rows.
#[inline(always)]
unsafe fn page_scores<T: Tiles, const TALL: bool>(tiles: &mut T, t: &Tile, page: usize) {
    let stride = t.query_bytes();
    // SAFETY: the module's; a page has two groups of keys, each of key_dims / 32 operand tiles.
    unsafe {
        let (a, b) = (t.keys[page], t.keys[page].add(t.page.group_bytes()));
        let ahead = t.ahead(page, false, 1);
        tiles.zero::<0>();
        tiles.zero::<1>();
        if TALL {
            tiles.zero::<2>();
            tiles.zero::<3>();
        }
        for step in 0..t.page.key_dims / STEP {
            tiles.load::<4>(t.q.add(step * 64), stride);
            operand::<T, 6, TALL>(tiles, a.add(step * BYTES), ahead);
            tiles.dot_bf16::<0, 4, 6>();
            operand::<T, 7, TALL>(tiles, b.add(step * BYTES), ahead);
            tiles.dot_bf16::<1, 4, 7>();
            if TALL {
                tiles.load::<5>(t.q.add(UNIT * stride + step * 64), stride);
                tiles.dot_bf16::<2, 5, 6>();
                tiles.dot_bf16::<3, 5, 7>();
            }
        }
        let to = t.scores.add(page * 2 * GROUP).cast::<u8>();
        tiles.store::<0>(to, SCORES * 4);
        tiles.store::<1>(to.add(64), SCORES * 4);
        if TALL {
            let to = to.add(UNIT * SCORES * 4);
            tiles.store::<2>(to, SCORES * 4);
            tiles.store::<3>(to.add(64), SCORES * 4);
        }
    }
}

/// Sums of values for the 16 dimensions of `group`, and of the next if `WIDE`. `TALL`: of more than 16 rows.
#[inline(always)]
unsafe fn group_values<T: Tiles, const WIDE: bool, const TALL: bool>(
    tiles: &mut T,
    t: &Tile,
    group: usize,
) {
    let (stride, row) = (PROBS * 2, t.page.value_dims * 4);
    // SAFETY: the module's.
    unsafe {
        tiles.zero::<0>();
        tiles.zero::<1>();
        tiles.zero::<2>();
        tiles.zero::<3>();
        for page in t.first..t.last {
            let v = t.values[page].add(group * BYTES);
            let p = t.probs().add(page * 2 * GROUP).cast::<u8>();
            tiles.load::<4>(p, stride);
            let ahead = t.ahead(page, true, 1);
            operand::<T, 6, TALL>(tiles, v, ahead);
            tiles.dot_bf16::<0, 4, 6>();
            if WIDE {
                operand::<T, 7, TALL>(tiles, v.add(BYTES), ahead);
                tiles.dot_bf16::<1, 4, 7>();
            }
            if TALL {
                tiles.load::<5>(p.add(UNIT * stride), stride);
                tiles.dot_bf16::<2, 5, 6>();
                if WIDE {
                    tiles.dot_bf16::<3, 5, 7>();
                }
            }
        }
        let to = t.out.add(group * GROUP).cast::<u8>();
        tiles.store::<0>(to, row);
        if WIDE {
            tiles.store::<1>(to.add(64), row);
        }
        if TALL {
            tiles.store::<2>(to.add(UNIT * row), row);
            if WIDE {
                tiles.store::<3>(to.add(UNIT * row + 64), row);
            }
        }
    }
}
