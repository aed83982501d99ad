//! The softmax of a tile's scores in base 2, and the merging of segments: generic over the instruction set.
//! Every `unsafe` here has the contract of [`Lanes`](super::super::lanes::Lanes) and takes valid tiles.
use super::super::exp::{Float, LOG2_E, exp2_lanes, tanh_lanes};
use super::super::kv::{GROUP, PAGE};
use super::tile::{PROBS, SCORES, Tile};
use std::ops::Range;

/// Scores to probabilities, relative to the largest visible score of each row; fills `max` and `sum`. `BF16`: the
/// probabilities are rounded and written to `probs`, otherwise over the scores. Masked keys of `first..last` become 0.
///
/// # Safety
/// See the module.
#[inline(always)]
pub(super) unsafe fn softmax<L: Float, const BF16: bool>(t: &mut Tile) {
    let all = t.first * PAGE / GROUP..t.last * PAGE / GROUP;
    for row in 0..t.rows {
        let [from, to] = t.see[row].map(usize::from);
        let groups = if from < to {
            from / GROUP..to.div_ceil(GROUP)
        } else {
            all.start..all.start
        };
        // SAFETY: a row of a segment's scores and probabilities.
        unsafe {
            let scores = t.scores.add(row * SCORES);
            let probs = t.probs.add(row * PROBS);
            for group in (all.start..groups.start).chain(groups.end..all.end) {
                put::<L, BF16>(L::splat(0.0), scores, probs, group);
            }
            if groups.is_empty() {
                (t.max[row], t.sum[row]) = (f32::NEG_INFINITY, 0.0);
                continue;
            }
            let mut scale = t.rules.scale * LOG2_E;
            if let Some(cap) = t.rules.softcap {
                cap_scores::<L>(scores, groups.clone(), t.rules.scale, cap);
                scale = LOG2_E;
            }
            let mut largest = L::splat(f32::NEG_INFINITY);
            for group in groups.clone() {
                let s = L::load(scores.add(group * GROUP));
                largest = masked(s, group, from, to, f32::NEG_INFINITY).max(largest);
            }
            let max = largest.largest() * scale;
            let (factor, shift) = (L::splat(scale), L::splat(-max));
            let mut sum = L::splat(0.0);
            for group in groups {
                let s = L::load(scores.add(group * GROUP));
                let p = exp2_lanes::<L, BF16>(s.fma(factor, shift));
                let p = masked(p, group, from, to, 0.0);
                sum = sum.add(p);
                put::<L, BF16>(p, scores, probs, group);
            }
            (t.max[row], t.sum[row]) = (max, sum.sum());
        }
    }
}

/// `v` where keys are visible, `other` where not.
#[inline(always)]
unsafe fn masked<L: Float>(v: L, group: usize, from: usize, to: usize, other: f32) -> L {
    let first = group * GROUP;
    if from <= first && first + GROUP <= to {
        return v;
    }
    // SAFETY: see the module.
    unsafe { v.keep(from.saturating_sub(first), to - first, other) }
}

#[inline(always)]
unsafe fn put<L: Float, const BF16: bool>(p: L, scores: *mut f32, probs: *mut u16, group: usize) {
    // SAFETY: see the module.
    unsafe {
        if BF16 {
            p.store_bf16(probs.add(group * GROUP));
        } else {
            p.store(scores.add(group * GROUP));
        }
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

/// The softmax of a row over the segments merged so far: the largest score (times log2 e), the sum of probabilities
/// relative to it, and the weighted sum of values `[dims]`, a multiple of 16.
pub(super) struct State {
    pub max: f32,
    pub sum: f32,
    pub out: *mut f32,
}

/// Adds a segment's result to `state`.
///
/// # Safety
/// See the module; both outputs hold `dims` values.
#[inline(always)]
pub(super) unsafe fn merge<L: Float>(
    state: &mut State,
    max: f32,
    sum: f32,
    out: *const f32,
    dims: usize,
) {
    // A row that sees no key of the segment; what its output holds is not looked at.
    if max == f32::NEG_INFINITY && sum == 0.0 {
        return;
    }
    let most = if max > state.max { max } else { state.max };
    // SAFETY: see above.
    unsafe {
        let old = exp2_lanes::<L, false>(L::splat(state.max - most));
        let new = exp2_lanes::<L, false>(L::splat(max - most));
        let mut sums = [0f32; GROUP];
        L::splat(sum)
            .fma(new, L::splat(state.sum).mul(old))
            .store(sums.as_mut_ptr());
        (state.max, state.sum) = (most, sums[0]);
        for d in (0..dims).step_by(GROUP) {
            let was = L::load(state.out.add(d)).mul(old);
            L::load(out.add(d)).fma(new, was).store(state.out.add(d));
        }
    }
}

/// Divides by the sum of probabilities, the sink's among them, and writes the first `head_dim` values to `out`.
///
/// # Safety
/// See the module; `state.out` holds `head_dim` values, rounded up to 16; `out` holds `head_dim`.
#[inline(always)]
pub(super) unsafe fn finish<L: Float>(
    state: &State,
    sink: Option<f32>,
    head_dim: usize,
    out: *mut f32,
) {
    // SAFETY: see above.
    unsafe {
        let (mut factor, mut sum) = (L::splat(1.0), L::splat(state.sum));
        if let Some(sink) = sink {
            let sink = sink * LOG2_E;
            let most = if sink > state.max { sink } else { state.max };
            factor = exp2_lanes::<L, false>(L::splat(state.max - most));
            sum = sum.fma(factor, exp2_lanes::<L, false>(L::splat(sink - most)));
        }
        let factor = factor.div(sum);
        for d in (0..head_dim).step_by(GROUP) {
            let mut v = [0f32; GROUP];
            L::load(state.out.add(d)).mul(factor).store(v.as_mut_ptr());
            out.add(d)
                .copy_from_nonoverlapping(v.as_ptr(), GROUP.min(head_dim - d));
        }
    }
}
