//! The softmax of a tile's scores in base 2, and the merging of segments: generic over the instruction set.
//! Every `unsafe` here has the contract of [`Lanes`](super::super::lanes::Lanes) and takes valid tiles.
use super::super::exp::{Float, LOG2_E, exp2_lanes, tanh_lanes};
use super::super::kv::{GROUP, PAGE};
use super::tile::{PROBS, SCORES, Tile};
use std::ops::Range;

/// Where probabilities go, and how exact they need to be.
pub(super) trait Put<L> {
    /// Whether they are rounded to bf16.
    const ROUNDED: bool;
    /// Writes 32 keys' probabilities of a row.
    unsafe fn put(p: [L; 2], scores: *mut f32, probs: *mut u16);
}

/// f32, over the scores.
pub(super) struct Exact;

impl<L: Float> Put<L> for Exact {
    const ROUNDED: bool = false;
    #[inline(always)]
    unsafe fn put(p: [L; 2], scores: *mut f32, _: *mut u16) {
        // SAFETY: see the module.
        unsafe {
            p[0].store(scores);
            p[1].store(scores.add(GROUP));
        }
    }
}

/// Scores to probabilities, relative to the largest visible score of each row; fills `max` and `sum`.
/// Masked keys of `first..last` become 0.
///
/// # Safety
/// See the module.
#[inline(always)]
pub(super) unsafe fn softmax<L: Float, P: Put<L>>(t: &mut Tile) {
    let mut scale = t.rules.scale * LOG2_E;
    // SAFETY: `see` lies inside the pages `first..last` of a segment, rows have their own scores and probabilities.
    unsafe {
        if let Some(cap) = t.rules.softcap {
            for row in 0..t.rows {
                let groups = 2 * t.first..2 * t.last;
                cap_scores::<L>(t.scores.add(row * SCORES), groups, t.rules.scale, cap);
            }
            scale = LOG2_E;
        }
        for row in 0..t.rows {
            t.max[row] = largest::<L>(t, row) * scale;
        }
        for row in 0..t.rows {
            t.sum[row] = probabilities::<L, P>(t, row, scale);
        }
    }
}

/// Pages in which `row` sees a key, and those of them in which it sees all.
#[inline(always)]
fn pages(t: &Tile, row: usize) -> (Range<usize>, Range<usize>) {
    let [from, to] = t.see[row].map(usize::from);
    if from >= to {
        return (t.first..t.first, t.first..t.first);
    }
    let some = from / PAGE..to.div_ceil(PAGE);
    let first = from.div_ceil(PAGE);
    (some, first..first.max(to / PAGE))
}

/// The largest score that a row sees.
#[inline(always)]
unsafe fn largest<L: Float>(t: &Tile, row: usize) -> f32 {
    let (some, all) = pages(t, row);
    // SAFETY: see `softmax`.
    unsafe {
        let mut most = [L::splat(f32::NEG_INFINITY); 2];
        for page in (some.start..some.end.min(all.start)).chain(all.end.max(some.start)..some.end) {
            let s = masked(
                t,
                row,
                page,
                scores_of::<L>(t, row, page),
                f32::NEG_INFINITY,
            );
            most = [s[0].max(most[0]), s[1].max(most[1])];
        }
        for page in all {
            let s = scores_of::<L>(t, row, page);
            most = [s[0].max(most[0]), s[1].max(most[1])];
        }
        most[0].max(most[1]).largest()
    }
}

/// Writes the probabilities of a row; their sum.
#[inline(always)]
unsafe fn probabilities<L: Float, P: Put<L>>(t: &Tile, row: usize, scale: f32) -> f32 {
    let (some, all) = pages(t, row);
    // SAFETY: see `softmax`.
    unsafe {
        let (factor, shift) = (L::splat(scale), L::splat(-t.max[row]));
        let (scores, probs) = (t.scores.add(row * SCORES), t.probs.add(row * PROBS));
        let mut sum = [L::splat(0.0); 2];
        for page in t.first..t.last {
            let mut p = [L::splat(0.0); 2];
            if some.contains(&page) {
                let s = scores_of::<L>(t, row, page);
                p = [
                    power::<L, P>(s[0], factor, shift),
                    power::<L, P>(s[1], factor, shift),
                ];
                if !all.contains(&page) {
                    p = masked(t, row, page, p, 0.0);
                }
                sum = [sum[0].add(p[0]), sum[1].add(p[1])];
            }
            P::put(p, scores.add(page * PAGE), probs.add(page * PAGE));
        }
        sum[0].add(sum[1]).sum()
    }
}

#[inline(always)]
unsafe fn power<L: Float, P: Put<L>>(s: L, factor: L, shift: L) -> L {
    // SAFETY: see the module.
    unsafe {
        let y = s.fma(factor, shift);
        if P::ROUNDED {
            exp2_lanes::<L, true>(y)
        } else {
            exp2_lanes::<L, false>(y)
        }
    }
}

#[inline(always)]
unsafe fn scores_of<L: Float>(t: &Tile, row: usize, page: usize) -> [L; 2] {
    // SAFETY: see `softmax`.
    unsafe {
        let at = t.scores.add(row * SCORES + page * PAGE);
        [L::load(at), L::load(at.add(GROUP))]
    }
}

/// `v` where keys of `page` are visible, `other` where not.
#[inline(always)]
unsafe fn masked<L: Float>(t: &Tile, row: usize, page: usize, v: [L; 2], other: f32) -> [L; 2] {
    let [from, to] = t.see[row].map(usize::from);
    let inside = |p: usize, group: usize| p.saturating_sub(page * PAGE + group * GROUP).min(GROUP);
    // SAFETY: see the module.
    unsafe {
        [
            v[0].keep(inside(from, 0), inside(to, 0), other),
            v[1].keep(inside(from, 1), inside(to, 1), other),
        ]
    }
}

/// Scores become `cap * tanh(score * scale / cap)`.
#[inline(always)]
unsafe fn cap_scores<L: Float>(scores: *mut f32, groups: Range<usize>, scale: f32, cap: f32) {
    for group in groups {
        // SAFETY: see the module.
        unsafe {
            let at = scores.add(group * GROUP);
            let x = L::load(at).mul(L::splat(scale)).mul(L::splat(1.0 / cap));
            tanh_lanes(x).mul(L::splat(cap)).store(at);
        }
    }
}

/// The softmax of rows over the segments merged so far.
#[derive(Debug, Clone, Copy)]
pub(super) struct State {
    /// Largest scores times log2(e), minus infinity before the first segment.
    pub max: *mut f32,
    /// Sums of probabilities relative to it.
    pub sum: *mut f32,
    /// Values weighted by probability, `[rows][dims]`.
    pub out: *mut f32,
    /// Padded width of a value, a multiple of 16.
    pub dims: usize,
}

impl State {
    /// The same from row `row` on.
    ///
    /// # Safety
    /// There are as many rows.
    pub unsafe fn from(self, row: usize) -> State {
        // SAFETY: the caller's.
        unsafe {
            let (max, sum) = (self.max.add(row), self.sum.add(row));
            State {
                max,
                sum,
                out: self.out.add(row * self.dims),
                dims: self.dims,
            }
        }
    }
}

/// Adds the results of a segment to `rows` rows of `state`.
///
/// # Safety
/// See the module; both hold as many rows, maxima and sums up to the next multiple of 16, and do not overlap.
#[inline(always)]
pub(super) unsafe fn merge<L: Float>(state: State, new: State, rows: usize) {
    for first in (0..rows).step_by(GROUP) {
        let (mut keep, mut add) = ([0f32; GROUP], [0f32; GROUP]);
        // SAFETY: see above.
        unsafe {
            let (state, new) = (state.from(first), new.from(first));
            let (was, is) = (L::load(state.max), L::load(new.max));
            let most = is.max(was);
            let old = exp2_lanes::<L, false>(was.add(most.negate()));
            let now = exp2_lanes::<L, false>(is.add(most.negate()));
            old.store(keep.as_mut_ptr());
            now.store(add.as_mut_ptr());
            let sum = L::load(new.sum).fma(now, L::load(state.sum).mul(old));
            let mut merged = [[0f32; GROUP]; 2];
            most.store(merged[0].as_mut_ptr());
            sum.store(merged[1].as_mut_ptr());
            for row in 0..GROUP.min(rows - first) {
                let (state, new) = (state.from(row), new.from(row));
                if *new.sum == 0.0 && *new.max == f32::NEG_INFINITY {
                    // Sees no key of this segment; what the output holds is not looked at.
                    continue;
                }
                if *state.sum == 0.0 && *state.max == f32::NEG_INFINITY {
                    (*state.max, *state.sum) = (*new.max, *new.sum);
                    state.out.copy_from_nonoverlapping(new.out, new.dims);
                    continue;
                }
                (*state.max, *state.sum) = (merged[0][row], merged[1][row]);
                let (old, now) = (L::splat(keep[row]), L::splat(add[row]));
                for d in (0..state.dims).step_by(GROUP) {
                    let was = L::load(state.out.add(d)).mul(old);
                    L::load(new.out.add(d))
                        .fma(now, was)
                        .store(state.out.add(d));
                }
            }
        }
    }
}

/// Divides the first row of `state` by its sum of probabilities, the sink's among them, and writes `head_dim` values.
///
/// # Safety
/// See the module; `out` holds `head_dim`, no more than `state.dims`.
#[inline(always)]
pub(super) unsafe fn finish<L: Float>(
    state: State,
    sink: Option<f32>,
    head_dim: usize,
    out: *mut f32,
) {
    // SAFETY: see above.
    unsafe {
        let (mut factor, mut sum) = (L::splat(1.0), L::splat(*state.sum));
        if let Some(sink) = sink {
            let sink = sink * LOG2_E;
            let most = if sink > *state.max { sink } else { *state.max };
            factor = exp2_lanes::<L, false>(L::splat(*state.max - most));
            sum = sum.fma(factor, exp2_lanes::<L, false>(L::splat(sink - most)));
        }
        let factor = factor.div(sum);
        let whole = head_dim / GROUP * GROUP;
        for d in (0..whole).step_by(GROUP) {
            L::load(state.out.add(d)).mul(factor).store(out.add(d));
        }
        if whole < head_dim {
            let mut v = [0f32; GROUP];
            L::load(state.out.add(whole))
                .mul(factor)
                .store(v.as_mut_ptr());
            out.add(whole)
                .copy_from_nonoverlapping(v.as_ptr(), head_dim - whole);
        }
    }
}
