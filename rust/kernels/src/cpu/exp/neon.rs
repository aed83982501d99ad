//! Order, division, exponents, masks and bf16 of 16 lanes with NEON. The contract is that of [`Float`].
use super::super::lanes::Neon;
use super::Float;
use std::arch::aarch64::*;

/// 4 values rounded to bf16 in the high half of each 32-bit lane; anything in the low half.
#[inline(always)]
fn rounded(v: float32x4_t) -> uint32x4_t {
    // SAFETY: registers only.
    unsafe {
        let bits = vreinterpretq_u32_f32(v);
        let odd = vandq_u32(vshrq_n_u32::<16>(bits), vdupq_n_u32(1));
        let up = vaddq_u32(vaddq_u32(bits, odd), vdupq_n_u32(0x7fff));
        let quiet = vorrq_u32(bits, vdupq_n_u32(0x0040_0000));
        vbslq_u32(vceqq_f32(v, v), up, quiet)
    }
}

/// 2^k for k in -126..=127.
#[inline(always)]
fn power(k: int32x4_t) -> float32x4_t {
    // SAFETY: registers only.
    unsafe { vreinterpretq_f32_s32(vshlq_n_s32::<23>(vaddq_s32(k, vdupq_n_s32(127)))) }
}

// SAFETY (all blocks): registers only, or pointers that are valid, as the trait demands.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Float for Neon {
    #[inline(always)]
    unsafe fn max(self, b: Self) -> Self {
        let mut v = self;
        for (v, b) in v.0.iter_mut().zip(b.0) {
            *v = unsafe { vbslq_f32(vcgtq_f32(*v, b), *v, b) };
        }
        v
    }
    #[inline(always)]
    unsafe fn min(self, b: Self) -> Self {
        let mut v = self;
        for (v, b) in v.0.iter_mut().zip(b.0) {
            *v = unsafe { vbslq_f32(vcltq_f32(*v, b), *v, b) };
        }
        v
    }
    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        let mut v = self;
        for (v, b) in v.0.iter_mut().zip(b.0) {
            *v = unsafe { vaddq_f32(*v, b) };
        }
        v
    }
    #[inline(always)]
    unsafe fn div(self, b: Self) -> Self {
        let mut v = self;
        for (v, b) in v.0.iter_mut().zip(b.0) {
            *v = unsafe { vdivq_f32(*v, b) };
        }
        v
    }
    #[inline(always)]
    unsafe fn negate(self) -> Self {
        Neon(self.0.map(|v| unsafe { vnegq_f32(v) }))
    }
    #[inline(always)]
    unsafe fn times_power(self, n: Self) -> Self {
        let mut v = self;
        for (v, n) in v.0.iter_mut().zip(n.0) {
            unsafe {
                let n = vcvtq_s32_f32(n);
                let half = vshrq_n_s32::<1>(n);
                *v = vmulq_f32(vmulq_f32(*v, power(half)), power(vsubq_s32(n, half)));
            }
        }
        v
    }
    #[inline(always)]
    unsafe fn add_exponent(self, t: Self) -> Self {
        let mut v = self;
        for (v, t) in v.0.iter_mut().zip(t.0) {
            unsafe {
                let k = vshlq_n_s32::<23>(vreinterpretq_s32_f32(t));
                *v = vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(*v), k));
            }
        }
        v
    }
    #[inline(always)]
    unsafe fn keep(self, from: usize, to: usize, other: f32) -> Self {
        const PLACES: [i32; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
        let mut v = self;
        for (i, v) in v.0.iter_mut().enumerate() {
            unsafe {
                let place = vld1q_s32(PLACES.as_ptr().add(4 * i));
                let low = vcgeq_s32(place, vdupq_n_s32(from as i32));
                let high = vcltq_s32(place, vdupq_n_s32(to as i32));
                *v = vbslq_f32(vandq_u32(low, high), *v, vdupq_n_f32(other));
            }
        }
        v
    }
    #[inline(always)]
    unsafe fn round_bf16(self) -> Self {
        let mut v = self;
        for v in &mut v.0 {
            unsafe {
                let high = vandq_u32(rounded(*v), vdupq_n_u32(0xffff_0000));
                *v = vreinterpretq_f32_u32(high);
            }
        }
        v
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut u16) {
        for (i, v) in self.0.into_iter().enumerate() {
            unsafe { vst1_u16(to.add(4 * i), vshrn_n_u32::<16>(rounded(v))) };
        }
    }
}
