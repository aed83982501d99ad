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
    // SAFETY: `see` lies inside the pages `first..last` of a segment, rows have their own scores and probabilities.
    unsafe {
        let scale = capped::<L>(t);
        if sees_all(t) {
            rows::<L, P, true>(t, scale);
        } else {
            rows::<L, P, false>(t, scale);
        }
    }
}

/// Applies a softcap to the scores; the factor that they still need for powers of two.
#[inline(always)]
pub(super) unsafe fn capped<L: Float>(t: &Tile) -> f32 {
    let Some(cap) = t.rules.softcap else {
        return t.rules.scale * LOG2_E;
    };
    for row in 0..t.rows {
        let groups = 2 * t.first..2 * t.last;
        // SAFETY: see `softmax`.
        unsafe { cap_scores::<L>(t.scores.add(row * SCORES), groups, t.rules.scale, cap) };
    }
    LOG2_E
}

/// Whether every row sees every key of the tile's pages, as it is away from the diagonal.
#[inline(always)]
pub(super) fn sees_all(t: &Tile) -> bool {
    let all = [t.first * PAGE, t.last * PAGE].map(|n| n as u16);
    t.see[..t.rows].iter().all(|see| *see == all)
}

/// `WHOLE`: every row sees every key of the pages.
#[inline(always)]
unsafe fn rows<L: Float, P: Put<L>, const WHOLE: bool>(t: &mut Tile, scale: f32) {
    // SAFETY: see `softmax`.
    unsafe {
        for row in 0..t.rows {
            t.max[row] = largest::<L, WHOLE>(t, row) * scale;
        }
        for row in 0..t.rows {
            t.sum[row] = probabilities::<L, P, WHOLE>(t, row, scale);
        }
    }
}

/// The pages of a tile as a row sees them, in order: none, in part, wholly, in part, none of their keys.
pub(super) struct Pages {
    pub before: Range<usize>,
    pub first: Range<usize>,
    pub whole: Range<usize>,
    pub last: Range<usize>,
    pub after: Range<usize>,
}

impl Pages {
    /// Of a row that sees all of them.
    #[inline(always)]
    pub fn all(t: &Tile) -> Pages {
        let (start, end) = (t.first..t.first, t.last..t.last);
        Pages {
            before: start.clone(),
            first: start,
            whole: t.first..t.last,
            last: end.clone(),
            after: end,
        }
    }

    #[inline(always)]
    pub fn of(t: &Tile, row: usize) -> Pages {
        let [mut from, mut to] = t.see[row].map(usize::from);
        if from >= to {
            (from, to) = (t.first * PAGE, t.first * PAGE);
        }
        let (start, end) = (from / PAGE, to.div_ceil(PAGE));
        let whole = from.div_ceil(PAGE).min(end);
        let whole_end = whole.max(to / PAGE).min(end);
        Pages {
            before: t.first..start,
            first: start..whole,
            whole: whole..whole_end,
            last: whole_end..end,
            after: end..t.last,
        }
    }
}

/// The largest score that a row sees.
#[inline(always)]
pub(super) unsafe fn largest<L: Float, const WHOLE: bool>(t: &Tile, row: usize) -> f32 {
    let pages = if WHOLE {
        Pages::all(t)
    } else {
        Pages::of(t, row)
    };
    // SAFETY: see `softmax`.
    unsafe {
        let mut most = [L::splat(f32::NEG_INFINITY); 2];
        for page in pages.whole {
            let s = scores_of::<L>(t, row, page);
            most = [s[0].max(most[0]), s[1].max(most[1])];
        }
        for page in pages.first.chain(pages.last) {
            let s = masked(
                t,
                row,
                page,
                scores_of::<L>(t, row, page),
                f32::NEG_INFINITY,
            );
            most = [s[0].max(most[0]), s[1].max(most[1])];
        }
        most[0].max(most[1]).largest()
    }
}

/// Writes the probabilities of a row; their sum.
#[inline(always)]
unsafe fn probabilities<L: Float, P: Put<L>, const WHOLE: bool>(
    t: &Tile,
    row: usize,
    scale: f32,
) -> f32 {
    let pages = if WHOLE {
        Pages::all(t)
    } else {
        Pages::of(t, row)
    };
    // SAFETY: see `softmax`. Rounded probabilities of a page overwrite scores of pages up to it, which are done with.
    unsafe {
        let (factor, shift) = (L::splat(scale), L::splat(-t.max[row]));
        let mut sum = [L::splat(0.0); 2];
        for page in pages.before {
            put::<L, P>(t, row, page, [L::splat(0.0); 2]);
        }
        for page in pages.first {
            page_of::<L, P, true>(t, row, page, [factor, shift], &mut sum);
        }
        for page in pages.whole {
            page_of::<L, P, false>(t, row, page, [factor, shift], &mut sum);
        }
        for page in pages.last {
            page_of::<L, P, true>(t, row, page, [factor, shift], &mut sum);
        }
        for page in pages.after {
            put::<L, P>(t, row, page, [L::splat(0.0); 2]);
        }
        sum[0].add(sum[1]).sum()
    }
}

/// Writes the probabilities of a page and adds them to `sum`. `MASK`: the row does not see all of its keys.
#[inline(always)]
unsafe fn page_of<L: Float, P: Put<L>, const MASK: bool>(
    t: &Tile,
    row: usize,
    page: usize,
    [factor, shift]: [L; 2],
    sum: &mut [L; 2],
) {
    // SAFETY: see `softmax`.
    unsafe {
        let s = scores_of::<L>(t, row, page);
        let mut p = [
            power::<L, P>(s[0], factor, shift),
            power::<L, P>(s[1], factor, shift),
        ];
        if MASK {
            p = masked(t, row, page, p, 0.0);
        }
        *sum = [sum[0].add(p[0]), sum[1].add(p[1])];
        put::<L, P>(t, row, page, p);
    }
}

#[inline(always)]
unsafe fn put<L: Float, P: Put<L>>(t: &Tile, row: usize, page: usize, p: [L; 2]) {
    // SAFETY: see `softmax`.
    unsafe {
        let scores = t.scores.add(row * SCORES + page * PAGE);
        P::put(p, scores, t.probs().add(row * PROBS + page * PAGE));
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
                    for d in (0..state.dims).step_by(GROUP) {
                        L::load(new.out.add(d)).store(state.out.add(d));
                    }
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
