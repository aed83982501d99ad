//! What passes over logits need of 16 lanes beyond [`Float`]: comparison into a mask, and packing by one.
//! The contract of every `unsafe` is that of [`Lanes`](super::super::lanes::Lanes).
#![allow(clippy::missing_safety_doc)]
use super::super::exp::Float;
use super::super::lanes::Plain;

/// 16 lanes that can be compared and packed.
pub(super) trait Scan: Float {
    /// Bit i: lane i is at least that of `b`.
    unsafe fn at_least(self, b: Self) -> u16;
    /// Lanes that are at least those of `b`, 0 in place of the others.
    unsafe fn or_zero_below(self, b: Self) -> Self;
    /// Lane i: the largest lane of `v[i]`, none of which is NaN.
    #[inline(always)]
    unsafe fn largest_of_each(v: &[Self; 16]) -> Self {
        // SAFETY: 16 values.
        unsafe { Self::load(v.map(|v| v.largest()).as_ptr()) }
    }
    /// The lanes of `mask` one after the other at `to`, and `first` plus their numbers at `ids`. Both have room for 16,
    /// all of which may be written.
    #[inline(always)]
    unsafe fn pack(self, mask: u16, first: u32, to: *mut f32, ids: *mut u32) {
        let mut v = [0f32; 16];
        // SAFETY: 16 values; both places hold 16.
        unsafe {
            self.store(v.as_mut_ptr());
            let (mut left, mut n) = (mask, 0);
            while left != 0 {
                let lane = left.trailing_zeros();
                *to.add(n) = v[lane as usize];
                *ids.add(n) = first + lane;
                left &= left - 1;
                n += 1;
            }
        }
    }
}

// SAFETY (all blocks): the caller's pointers are valid, as the trait demands.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Scan for Plain {
    #[inline(always)]
    unsafe fn at_least(self, b: Self) -> u16 {
        let mut mask = 0;
        for i in 0..16 {
            mask |= u16::from(self.0[i] >= b.0[i]) << i;
        }
        mask
    }
    #[inline(always)]
    unsafe fn or_zero_below(self, b: Self) -> Self {
        self.zip(b, |a, b| if a >= b { a } else { 0.0 })
    }
}

#[cfg(target_arch = "x86_64")]
// SAFETY (all blocks): inlined into a function with the instruction set; pointers are valid, as the trait demands.
#[allow(clippy::undocumented_unsafe_blocks)]
mod x86 {
    use super::super::super::lanes::{Ymm, Zmm};
    use super::Scan;
    use std::arch::x86_64::*;

    /// For each mask of 8 lanes, the numbers of its lanes, one after the other.
    static LANES_OF: [[u8; 8]; 256] = {
        let mut table = [[0; 8]; 256];
        let mut mask = 0;
        while mask < 256 {
            let (mut lane, mut n) = (0, 0);
            while lane < 8 {
                if mask >> lane & 1 != 0 {
                    table[mask][n] = lane as u8;
                    n += 1;
                }
                lane += 1;
            }
            mask += 1;
        }
        table
    };

    /// The lanes of `mask`, and their numbers out of `ids`, to the front.
    #[inline(always)]
    unsafe fn pack_eight(v: __m256, ids: __m256i, mask: usize, to: *mut f32, ids_to: *mut u32) {
        unsafe {
            let lanes = LANES_OF[mask & 0xff].as_ptr();
            let order = _mm256_cvtepu8_epi32(_mm_loadl_epi64(lanes.cast()));
            _mm256_storeu_ps(to, _mm256_permutevar8x32_ps(v, order));
            let ids = _mm256_permutevar8x32_epi32(ids, order);
            _mm256_storeu_si256(ids_to.cast(), ids);
        }
    }

    #[inline(always)]
    unsafe fn pack_sixteen(v: Ymm, ids: [__m256i; 2], mask: u16, to: *mut f32, ids_to: *mut u32) {
        unsafe {
            let [low, high] = [usize::from(mask & 0xff), usize::from(mask >> 8)];
            pack_eight(v.0, ids[0], low, to, ids_to);
            let n = low.count_ones() as usize;
            pack_eight(v.1, ids[1], high, to.add(n), ids_to.add(n));
        }
    }

    /// Lane i: the largest lane of `v[i]`.
    #[inline(always)]
    unsafe fn largest_of_eight(v: [__m256; 8]) -> __m256 {
        unsafe {
            // Lanes 0 and 1, 2 and 3 of a pair's halves: the first vector's, the second's, again.
            let mut pairs = [_mm256_setzero_ps(); 4];
            for (i, pair) in pairs.iter_mut().enumerate() {
                let (a, b) = (v[2 * i], v[2 * i + 1]);
                *pair = _mm256_max_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
            }
            // One lane for each of four vectors, in either half.
            let mut fours = [_mm256_setzero_ps(); 2];
            for (i, four) in fours.iter_mut().enumerate() {
                let (a, b) = (pairs[2 * i], pairs[2 * i + 1]);
                *four = _mm256_max_ps(
                    _mm256_shuffle_ps::<0b01_00_01_00>(a, b),
                    _mm256_shuffle_ps::<0b11_10_11_10>(a, b),
                );
            }
            let [a, b] = fours;
            _mm256_max_ps(
                _mm256_permute2f128_ps::<0x20>(a, b),
                _mm256_permute2f128_ps::<0x31>(a, b),
            )
        }
    }

    impl Scan for Ymm {
        #[inline(always)]
        unsafe fn largest_of_each(v: &[Self; 16]) -> Self {
            unsafe {
                let mut half = [[_mm256_setzero_ps(); 8]; 2];
                for (i, v) in v.iter().enumerate() {
                    half[i / 8][i % 8] = _mm256_max_ps(v.0, v.1);
                }
                Ymm(largest_of_eight(half[0]), largest_of_eight(half[1]))
            }
        }
        #[inline(always)]
        unsafe fn at_least(self, b: Self) -> u16 {
            unsafe {
                let low = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GE_OQ>(self.0, b.0));
                let high = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GE_OQ>(self.1, b.1));
                (low | high << 8) as u16
            }
        }
        #[inline(always)]
        unsafe fn or_zero_below(self, b: Self) -> Self {
            unsafe {
                Ymm(
                    _mm256_and_ps(self.0, _mm256_cmp_ps::<_CMP_GE_OQ>(self.0, b.0)),
                    _mm256_and_ps(self.1, _mm256_cmp_ps::<_CMP_GE_OQ>(self.1, b.1)),
                )
            }
        }
        #[inline(always)]
        unsafe fn pack(self, mask: u16, first: u32, to: *mut f32, ids: *mut u32) {
            unsafe {
                let first = _mm256_set1_epi32(first as i32);
                let low = _mm256_add_epi32(first, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
                let high = _mm256_add_epi32(low, _mm256_set1_epi32(8));
                pack_sixteen(self, [low, high], mask, to, ids);
            }
        }
    }

    impl Scan for Zmm {
        #[inline(always)]
        unsafe fn largest_of_each(v: &[Self; 16]) -> Self {
            unsafe {
                let mut half = [[_mm256_setzero_ps(); 8]; 2];
                for (i, v) in v.iter().enumerate() {
                    let high = _mm512_extractf32x8_ps::<1>(v.0);
                    half[i / 8][i % 8] = _mm256_max_ps(_mm512_castps512_ps256(v.0), high);
                }
                let low = _mm512_castps256_ps512(largest_of_eight(half[0]));
                Zmm(_mm512_insertf32x8::<1>(low, largest_of_eight(half[1])))
            }
        }
        #[inline(always)]
        unsafe fn at_least(self, b: Self) -> u16 {
            unsafe { _mm512_cmp_ps_mask::<_CMP_GE_OQ>(self.0, b.0) }
        }
        #[inline(always)]
        unsafe fn or_zero_below(self, b: Self) -> Self {
            unsafe {
                let mask = _mm512_cmp_ps_mask::<_CMP_GE_OQ>(self.0, b.0);
                Zmm(_mm512_maskz_mov_ps(mask, self.0))
            }
        }
        // Packed in a register and stored whole: a packing store is slow on some processors.
        #[inline(always)]
        unsafe fn pack(self, mask: u16, first: u32, to: *mut f32, ids: *mut u32) {
            unsafe {
                let numbers =
                    _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
                let numbers = _mm512_add_epi32(numbers, _mm512_set1_epi32(first as i32));
                _mm512_storeu_ps(to, _mm512_maskz_compress_ps(mask, self.0));
                _mm512_storeu_si512(ids.cast(), _mm512_maskz_compress_epi32(mask, numbers));
            }
        }
    }
}
