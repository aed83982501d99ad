//! The passes, generic over 16 lanes. What does not fill a vector is padded with what adds nothing.
//! Every `unsafe` here has the contract of [`Lanes`](super::super::lanes::Lanes).
use super::super::buffer::prefetch;
use super::super::exp::exp2_lanes;
use super::lanes::Scan;
use super::{Few, Finish, GROUP, GROUPS, STRIPE, Softmax};
use crate::cpu::activation::tanh;

const N: usize = 16;

/// Vector `index` of `values`, `pad` behind their end.
#[inline(always)]
unsafe fn vector<L: Scan>(values: &[f32], index: usize, pad: f32) -> L {
    let at = index * N;
    // SAFETY: 16 values inside the slice, or a copy of those that are left.
    unsafe {
        if at + N <= values.len() {
            return L::load(values.as_ptr().add(at));
        }
        let mut padded = [pad; N];
        if at < values.len() {
            padded[..values.len() - at].copy_from_slice(&values[at..]);
        }
        L::load(padded.as_ptr())
    }
}

/// Lanes of vector `index` that lie inside `len` values.
#[inline(always)]
fn inside(len: usize, index: usize) -> u16 {
    let left = len.saturating_sub(index * N).min(N);
    ((1u32 << left) - 1) as u16
}

/// Vectors of a group.
const FOUR: usize = GROUP / N;

/// [`Finish`]: plain Rust, which becomes vectors of the caller's instruction set and has the same bits on all.
#[allow(clippy::extra_unused_type_parameters)] // called as the other passes are
#[inline(always)]
pub(super) unsafe fn finish<L>(values: &mut [f32], by: Finish) {
    match by.softcap {
        None => {
            for v in values {
                *v *= by.scale;
            }
        }
        Some(cap) => {
            let factor = by.scale / cap;
            for v in values {
                *v = cap * tanh(*v * factor);
            }
        }
    }
}

/// Largest values of every group; NaN in the first place of a stripe that holds NaN.
#[inline(always)]
pub(super) unsafe fn maxima<L: Scan>(row: &[f32], maxima: &mut [f32]) {
    // SAFETY: see the module; `maxima` has 16 a stripe.
    unsafe {
        for (values, maxima) in row.chunks(STRIPE).zip(maxima.chunks_exact_mut(GROUPS)) {
            let mut max = [L::splat(f32::NEG_INFINITY); GROUPS];
            let mut sum = [L::splat(0.0); FOUR];
            for (group, max) in max
                .iter_mut()
                .enumerate()
                .take(values.len().div_ceil(GROUP))
            {
                for (i, sum) in sum.iter_mut().enumerate() {
                    let x = vector::<L>(values, group * FOUR + i, f32::NEG_INFINITY);
                    // In this order a NaN is passed over.
                    *max = x.max(*max);
                    *sum = sum.add(x);
                }
            }
            L::largest_of_each(&max).store(maxima.as_mut_ptr());
            let sum = sum[0].add(sum[1]).add(sum[2].add(sum[3]));
            // NaN is not at least itself. Sums of values that are all numbers may overflow into what is none.
            if sum.at_least(sum) != u16::MAX && values.iter().any(|x| x.is_nan()) {
                maxima[0] = f32::NAN;
            }
        }
    }
}

/// The largest of the values that are numbers, minus infinity where none is; the place of the first that is; whether
/// one is NaN.
#[inline(always)]
pub(super) unsafe fn largest<L: Scan>(maxima: &[f32]) -> (f32, usize, bool) {
    let vectors = maxima.len().div_ceil(N);
    // SAFETY: see the module.
    unsafe {
        let mut max = L::splat(f32::NEG_INFINITY);
        let mut numbers = u16::MAX;
        for i in 0..vectors {
            let x = vector::<L>(maxima, i, f32::NEG_INFINITY);
            // In this order a NaN is passed over; it is not at least itself.
            max = x.max(max);
            numbers &= x.at_least(x);
        }
        let value = max.largest();
        let holds = |i: &usize| {
            let x = vector::<L>(maxima, *i, f32::NEG_INFINITY);
            x.at_least(L::splat(value)) != 0
        };
        let first = (0..vectors).find(holds).unwrap_or(0) * N;
        let end = maxima.len().min(first + N);
        let at = maxima[first..end].iter().position(|&x| x == value);
        (value, first + at.unwrap_or(0), numbers != u16::MAX)
    }
}

#[inline(always)]
pub(super) unsafe fn count<L: Scan>(values: &[f32], threshold: f32) -> usize {
    (0..values.len().div_ceil(N))
        .map(|i| {
            // SAFETY: see the module.
            let mask = unsafe {
                let x = vector::<L>(values, i, f32::NEG_INFINITY);
                x.at_least(L::splat(threshold)) & inside(values.len(), i)
            };
            mask.count_ones() as usize
        })
        .sum()
}

#[inline(always)]
unsafe fn weight<L: Scan>(x: L, by: Softmax) -> L {
    // SAFETY: see the module.
    unsafe {
        let y = x.add(L::splat(-by.max)).mul(L::splat(by.factor));
        exp2_lanes::<L, false>(y).or_zero_below(L::splat(by.floor))
    }
}

#[inline(always)]
pub(super) unsafe fn masses<L: Scan>(
    row: &[f32],
    by: Softmax,
    least: f32,
    sums: &mut Vec<f64>,
) -> f64 {
    let mut total = 0.0;
    for values in row.chunks(STRIPE) {
        // SAFETY: see the module.
        unsafe {
            let least = L::splat(least);
            let mut all = [L::splat(0.0); 2];
            let mut some = [L::splat(0.0); 2];
            for two in 0..values.len().div_ceil(2 * N) {
                for i in 0..2 {
                    let x = vector::<L>(values, two * 2 + i, f32::NEG_INFINITY);
                    let w = weight(x, by);
                    all[i] = all[i].add(w);
                    some[i] = some[i].add(w.or_zero_below(least));
                }
            }
            total += f64::from(all[0].add(all[1]).sum());
            sums.push(f64::from(some[0].add(some[1]).sum()));
        }
    }
    total
}

#[inline(always)]
pub(super) unsafe fn weigh<L: Scan>(values: &[f32], by: Softmax, weights: &mut Vec<f32>) -> f64 {
    weights.clear();
    weights.reserve(values.len() + N);
    let mut total = 0.0;
    for stripe in values.chunks(STRIPE) {
        // SAFETY: room for whole vectors was made; all up to the new length are written.
        unsafe {
            let to = weights.as_mut_ptr().add(weights.len());
            let mut sum = [L::splat(0.0); 2];
            for i in 0..stripe.len().div_ceil(N) {
                let w = weight(vector::<L>(stripe, i, f32::NEG_INFINITY), by);
                w.store(to.add(i * N));
                sum[i % 2] = sum[i % 2].add(w);
            }
            weights.set_len(weights.len() + stripe.len());
            total += f64::from(sum[0].add(sum[1]).sum());
        }
    }
    total
}

#[inline(always)]
pub(super) unsafe fn collect<L: Scan>(row: &[f32], maxima: &[f32], threshold: f32, out: &mut Few) {
    // SAFETY: see the module; `maxima` has 16 a stripe; `take` has room.
    unsafe {
        let limit = L::splat(threshold);
        let mut to = Filling::new(out);
        // All are asked for before the first is used: they lie far apart, and the row is in no near cache.
        for stripe in 0..row.len().div_ceil(STRIPE) {
            let mut groups = L::load(maxima.as_ptr().add(stripe * GROUPS)).at_least(limit);
            while groups != 0 {
                let first = stripe * STRIPE + groups.trailing_zeros() as usize * GROUP;
                groups &= groups - 1;
                (0..FOUR)
                    .for_each(|i| prefetch::<1>(row.as_ptr().wrapping_add(first + i * N).cast()));
            }
        }
        for (stripe, values) in row.chunks(STRIPE).enumerate() {
            let mut groups = L::load(maxima.as_ptr().add(stripe * GROUPS)).at_least(limit);
            if groups != 0 {
                to.room(STRIPE);
            }
            while groups != 0 {
                let first = groups.trailing_zeros() as usize * FOUR;
                groups &= groups - 1;
                for index in first..first + FOUR {
                    let x = vector::<L>(values, index, f32::NEG_INFINITY);
                    let mask = x.at_least(limit) & inside(values.len(), index);
                    if mask != 0 {
                        let first = (stripe * STRIPE + index * N) as u32;
                        x.pack(mask, first, to.values(), to.ids());
                        to.len += mask.count_ones() as usize;
                    }
                }
            }
        }
        to.finish();
    }
}

/// The end of a [`Few`] that is being filled 16 at a time.
struct Filling<'a> {
    few: &'a mut Few,
    len: usize,
}

impl<'a> Filling<'a> {
    #[inline(always)]
    fn new(few: &'a mut Few) -> Self {
        few.ids.clear();
        few.values.clear();
        Self { few, len: 0 }
    }
    /// Room for `more` entries and a whole vector behind them.
    #[inline(always)]
    unsafe fn room(&mut self, more: usize) {
        // SAFETY: `len` entries are written and there is room for them.
        unsafe {
            self.few.ids.set_len(self.len);
            self.few.values.set_len(self.len);
        }
        self.few.ids.reserve(more + N);
        self.few.values.reserve(more + N);
    }
    #[inline(always)]
    unsafe fn values(&mut self) -> *mut f32 {
        // SAFETY: `len` lies inside the room.
        unsafe { self.few.values.as_mut_ptr().add(self.len) }
    }
    #[inline(always)]
    unsafe fn ids(&mut self) -> *mut u32 {
        // SAFETY: `len` lies inside the room.
        unsafe { self.few.ids.as_mut_ptr().add(self.len) }
    }
    #[inline(always)]
    unsafe fn finish(self) {
        // SAFETY: `len` entries are written and there is room for them.
        unsafe {
            self.few.ids.set_len(self.len);
            self.few.values.set_len(self.len);
        }
    }
}

/// The passes as functions of one instruction set.
#[cfg(target_arch = "x86_64")]
macro_rules! instances {
    ($name:ident, $lanes:ident, $features:literal) => {
        pub(super) mod $name {
            use super::super::super::lanes::$lanes;
            use super::{Few, Finish, Softmax};

            #[target_feature(enable = $features)]
            pub unsafe fn finish(values: &mut [f32], by: Finish) {
                // SAFETY: this function has the instruction set.
                unsafe { super::finish::<$lanes>(values, by) }
            }
            #[target_feature(enable = $features)]
            pub unsafe fn maxima(row: &[f32], maxima: &mut [f32]) {
                // SAFETY: this function has the instruction set.
                unsafe { super::maxima::<$lanes>(row, maxima) }
            }
            #[target_feature(enable = $features)]
            pub unsafe fn largest(maxima: &[f32]) -> (f32, usize, bool) {
                // SAFETY: this function has the instruction set.
                unsafe { super::largest::<$lanes>(maxima) }
            }
            #[target_feature(enable = $features)]
            pub unsafe fn count(values: &[f32], threshold: f32) -> usize {
                // SAFETY: this function has the instruction set.
                unsafe { super::count::<$lanes>(values, threshold) }
            }
            #[target_feature(enable = $features)]
            pub unsafe fn masses(row: &[f32], by: Softmax, least: f32, sums: &mut Vec<f64>) -> f64 {
                // SAFETY: this function has the instruction set.
                unsafe { super::masses::<$lanes>(row, by, least, sums) }
            }
            #[target_feature(enable = $features)]
            pub unsafe fn weigh(values: &[f32], by: Softmax, weights: &mut Vec<f32>) -> f64 {
                // SAFETY: this function has the instruction set.
                unsafe { super::weigh::<$lanes>(values, by, weights) }
            }
            #[target_feature(enable = $features)]
            pub unsafe fn collect(row: &[f32], maxima: &[f32], threshold: f32, out: &mut Few) {
                // SAFETY: this function has the instruction set.
                unsafe { super::collect::<$lanes>(row, maxima, threshold, out) }
            }
        }
    };
}
#[cfg(target_arch = "x86_64")]
instances!(avx2, Ymm, "avx2,fma,f16c,popcnt");
#[cfg(target_arch = "x86_64")]
instances!(
    avx512,
    Zmm,
    "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c,popcnt"
);
