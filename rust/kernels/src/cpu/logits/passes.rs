//! The passes, generic over 16 lanes. What does not fill a vector is padded with what adds nothing.
//! Every `unsafe` here has the contract of [`Lanes`](super::super::lanes::Lanes).
use super::super::buffer::prefetch;
use super::super::exp::exp2_lanes;
use super::lanes::Scan;
use super::{Few, GROUP, GROUPS, PIVOTS, STRIPE, Softmax};

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

#[inline(always)]
unsafe fn weight<L: Scan>(x: L, by: Softmax) -> L {
    // SAFETY: see the module.
    unsafe {
        let y = x.add(L::splat(-by.max)).mul(L::splat(by.factor));
        exp2_lanes::<L, false>(y).or_zero_below(L::splat(by.floor))
    }
}

#[inline(always)]
pub(super) unsafe fn masses<L: Scan>(row: &[f32], by: Softmax, sums: &mut Vec<f64>) {
    sums.clear();
    for values in row.chunks(STRIPE) {
        // SAFETY: see the module.
        unsafe {
            let mut sum = [L::splat(0.0); 4];
            for four in 0..values.len().div_ceil(4 * N) {
                for (i, sum) in sum.iter_mut().enumerate() {
                    let x = vector::<L>(values, four * 4 + i, f32::NEG_INFINITY);
                    *sum = sum.add(weight(x, by));
                }
            }
            sums.push(f64::from(sum[0].add(sum[1]).add(sum[2].add(sum[3])).sum()));
        }
    }
}

#[inline(always)]
pub(super) unsafe fn weigh<L: Scan>(values: &[f32], by: Softmax, weights: &mut Vec<f32>) {
    weights.clear();
    let vectors = values.len().div_ceil(N);
    weights.reserve(vectors * N);
    // SAFETY: room for whole vectors was made; all of them are written.
    unsafe {
        for i in 0..vectors {
            let w = weight(vector::<L>(values, i, f32::NEG_INFINITY), by);
            w.store(weights.as_mut_ptr().add(i * N));
        }
        weights.set_len(values.len());
    }
}

#[inline(always)]
pub(super) unsafe fn sums<L: Scan>(weights: &[f32], floor: f32, sums: &mut Vec<f64>) {
    sums.clear();
    for values in weights.chunks(STRIPE) {
        // SAFETY: see the module.
        unsafe {
            let mut sum = [L::splat(0.0); 4];
            for four in 0..values.len().div_ceil(4 * N) {
                for (i, sum) in sum.iter_mut().enumerate() {
                    let w = vector::<L>(values, four * 4 + i, 0.0);
                    *sum = sum.add(w.or_zero_below(L::splat(floor)));
                }
            }
            sums.push(f64::from(sum[0].add(sum[1]).add(sum[2].add(sum[3])).sum()));
        }
    }
}

#[inline(always)]
pub(super) unsafe fn collect<L: Scan>(row: &[f32], maxima: &[f32], threshold: f32, out: &mut Few) {
    // SAFETY: see the module; `maxima` has 16 a stripe; `take` has room.
    unsafe {
        let limit = L::splat(threshold);
        let mut to = Sink::new(out);
        // All are asked for before the first is used: they lie far apart, and the row is in no near cache.
        for stripe in 0..row.len().div_ceil(STRIPE) {
            let mut groups = L::load(maxima.as_ptr().add(stripe * GROUPS)).at_least(limit);
            while groups != 0 {
                let first = stripe * STRIPE + groups.trailing_zeros() as usize * GROUP;
                groups &= groups - 1;
                (0..FOUR).for_each(|i| prefetch(row.as_ptr().wrapping_add(first + i * N).cast()));
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

#[inline(always)]
pub(super) unsafe fn between<L: Scan>(few: &Few, least: f32, below: f32, out: &mut Few) {
    let len = few.values.len();
    // SAFETY: see the module; ids are as many as values.
    unsafe {
        let (least, below) = (L::splat(least), L::splat(below));
        let mut to = Sink::new(out);
        to.room(len);
        for i in 0..len.div_ceil(N) {
            let x = vector::<L>(&few.values, i, f32::NEG_INFINITY);
            let mask = x.at_least(least) & !x.at_least(below) & inside(len, i);
            if mask == 0 {
                continue;
            }
            if (i + 1) * N <= len {
                x.pack_with(mask, few.ids.as_ptr().add(i * N), to.values(), to.ids());
            } else {
                let mut ids = [0u32; N];
                ids[..len - i * N].copy_from_slice(&few.ids[i * N..]);
                x.pack_with(mask, ids.as_ptr(), to.values(), to.ids());
            }
            to.len += mask.count_ones() as usize;
        }
        to.finish();
    }
}

#[inline(always)]
pub(super) unsafe fn above<L: Scan>(weights: &[f32], pivots: &[f32; PIVOTS]) -> [f64; PIVOTS] {
    let mut total = [[0f64; N]; PIVOTS];
    for values in weights.chunks(STRIPE) {
        // SAFETY: see the module.
        unsafe {
            let mut sum = [L::splat(0.0); PIVOTS];
            for i in 0..values.len().div_ceil(N) {
                let w = vector::<L>(values, i, 0.0);
                for (sum, &pivot) in sum.iter_mut().zip(pivots) {
                    *sum = sum.add(w.or_zero_below(L::splat(pivot)));
                }
            }
            // Lanes stay apart until the end: a sum across them would cost as much as the stripe.
            for (total, sum) in total.iter_mut().zip(sum) {
                let mut lanes = [0f32; N];
                sum.store(lanes.as_mut_ptr());
                for (total, lane) in total.iter_mut().zip(lanes) {
                    *total += f64::from(lane);
                }
            }
        }
    }
    total.map(|lanes| lanes.iter().sum())
}

/// The end of a [`Few`] that is being filled 16 at a time.
struct Sink<'a> {
    few: &'a mut Few,
    len: usize,
}

impl<'a> Sink<'a> {
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
            use super::{Few, PIVOTS, Softmax};

            #[target_feature(enable = $features)]
            pub unsafe fn maxima(row: &[f32], maxima: &mut [f32]) {
                // SAFETY: this function has the instruction set.
                unsafe { super::maxima::<$lanes>(row, maxima) }
            }
            #[target_feature(enable = $features)]
            pub unsafe fn masses(row: &[f32], by: Softmax, sums: &mut Vec<f64>) {
                // SAFETY: this function has the instruction set.
                unsafe { super::masses::<$lanes>(row, by, sums) }
            }
            #[target_feature(enable = $features)]
            pub unsafe fn weigh(values: &[f32], by: Softmax, weights: &mut Vec<f32>) {
                // SAFETY: this function has the instruction set.
                unsafe { super::weigh::<$lanes>(values, by, weights) }
            }
            #[target_feature(enable = $features)]
            pub unsafe fn sums(weights: &[f32], floor: f32, sums: &mut Vec<f64>) {
                // SAFETY: this function has the instruction set.
                unsafe { super::sums::<$lanes>(weights, floor, sums) }
            }
            #[target_feature(enable = $features)]
            pub unsafe fn collect(row: &[f32], maxima: &[f32], threshold: f32, out: &mut Few) {
                // SAFETY: this function has the instruction set.
                unsafe { super::collect::<$lanes>(row, maxima, threshold, out) }
            }
            #[target_feature(enable = $features)]
            pub unsafe fn between(few: &Few, least: f32, below: f32, out: &mut Few) {
                // SAFETY: this function has the instruction set.
                unsafe { super::between::<$lanes>(few, least, below, out) }
            }
            #[target_feature(enable = $features)]
            pub unsafe fn above(weights: &[f32], pivots: &[f32; PIVOTS]) -> [f64; PIVOTS] {
                // SAFETY: this function has the instruction set.
                unsafe { super::above::<$lanes>(weights, pivots) }
            }
        }
    };
}
#[cfg(target_arch = "x86_64")]
instances!(avx2, Ymm, "avx2,fma,f16c");
#[cfg(target_arch = "x86_64")]
instances!(
    avx512,
    Zmm,
    "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c"
);
