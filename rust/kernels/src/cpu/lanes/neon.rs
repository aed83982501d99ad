//! Sixteen lanes in four registers of NEON, which every aarch64 processor has.
use super::super::kv::codes::FP8_SHIFT;
use super::Lanes;
use std::arch::aarch64::*;
use std::arch::asm;

/// 16 lanes, four a register.
#[derive(Clone, Copy)]
pub(crate) struct Neon(pub [float32x4_t; 4]);

impl Neon {
    /// Four f16, widened. By `asm!`: the intrinsic takes a type that is not stable.
    #[inline(always)]
    pub fn widen(half: uint16x4_t) -> float32x4_t {
        let wide: float32x4_t;
        // SAFETY: a conversion of registers that every aarch64 processor has.
        unsafe {
            asm!("fcvtl {0:v}.4s, {1:v}.4h", out(vreg) wide, in(vreg) half,
                options(pure, nomem, nostack, preserves_flags));
        }
        wide
    }
}

/// Sign, exponent and fraction of an e4m3 where a float32 has them.
const E4M3: i32 = 0x87f0_0000_u32 as i32;

/// 16 bytes as integers with a sign.
#[inline(always)]
unsafe fn signed(from: *const u8) -> [int32x4_t; 4] {
    // SAFETY: the caller's pointer is valid for 16 bytes.
    unsafe {
        let v = vld1q_s8(from.cast());
        let (a, b) = (vmovl_s8(vget_low_s8(v)), vmovl_high_s8(v));
        [
            vmovl_s16(vget_low_s16(a)),
            vmovl_high_s16(a),
            vmovl_s16(vget_low_s16(b)),
            vmovl_high_s16(b),
        ]
    }
}

// SAFETY (all blocks): pointers are valid, as the trait demands.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Lanes for Neon {
    const REGISTERS: usize = 4;

    #[inline(always)]
    unsafe fn splat(v: f32) -> Self {
        Neon([unsafe { vdupq_n_f32(v) }; 4])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe {
            Neon([
                vld1q_f32(from),
                vld1q_f32(from.add(4)),
                vld1q_f32(from.add(8)),
                vld1q_f32(from.add(12)),
            ])
        }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Self {
        unsafe {
            Neon([
                Self::widen(vld1_u16(from)),
                Self::widen(vld1_u16(from.add(4))),
                Self::widen(vld1_u16(from.add(8))),
                Self::widen(vld1_u16(from.add(12))),
            ])
        }
    }
    #[inline(always)]
    unsafe fn load_bf16_pairs(from: *const u16) -> (Self, Self) {
        unsafe {
            let (mut a, mut b) = (Self::splat(0.0), Self::splat(0.0));
            for i in 0..4 {
                let pairs = vld1q_u32(from.add(8 * i).cast());
                a.0[i] = vreinterpretq_f32_u32(vshlq_n_u32::<16>(pairs));
                b.0[i] = vreinterpretq_f32_u32(vandq_u32(pairs, vdupq_n_u32(0xffff_0000)));
            }
            (a, b)
        }
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const u8) -> Self {
        unsafe {
            let [a, b, c, d] = signed(from);
            Neon([
                vcvtq_f32_s32(a),
                vcvtq_f32_s32(b),
                vcvtq_f32_s32(c),
                vcvtq_f32_s32(d),
            ])
        }
    }
    #[inline(always)]
    unsafe fn load_e4m3(from: *const u8) -> Self {
        unsafe {
            let mut wide = Self::splat(0.0);
            for (to, v) in wide.0.iter_mut().zip(signed(from)) {
                let bits = vandq_s32(vshlq_n_s32::<20>(v), vdupq_n_s32(E4M3));
                *to = vmulq_n_f32(vreinterpretq_f32_s32(bits), FP8_SHIFT);
            }
            wide
        }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        for (i, v) in self.0.into_iter().enumerate() {
            unsafe { vst1q_f32(to.add(4 * i), v) };
        }
    }
    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        let mut v = self;
        for (v, b) in v.0.iter_mut().zip(b.0) {
            *v = unsafe { vmulq_f32(*v, b) };
        }
        v
    }
    #[inline(always)]
    unsafe fn fma(self, b: Self, c: Self) -> Self {
        let mut v = c;
        for (i, v) in v.0.iter_mut().enumerate() {
            *v = unsafe { vfmaq_f32(*v, self.0[i], b.0[i]) };
        }
        v
    }
    #[inline(always)]
    unsafe fn largest_bits(self, b: Self) -> u32 {
        unsafe {
            let mut largest = vdupq_n_u32(0);
            for v in self.0.into_iter().chain(b.0) {
                largest = vmaxq_u32(largest, vreinterpretq_u32_f32(vabsq_f32(v)));
            }
            vmaxvq_u32(largest)
        }
    }
    #[inline(always)]
    unsafe fn round_to_i8(self, to: *mut i8) -> i32 {
        unsafe {
            let [a, b, c, d] = self.0;
            let (a, b) = (vcvtnq_s32_f32(a), vcvtnq_s32_f32(b));
            let (c, d) = (vcvtnq_s32_f32(c), vcvtnq_s32_f32(d));
            let low = vcombine_s16(vmovn_s32(a), vmovn_s32(b));
            let high = vcombine_s16(vmovn_s32(c), vmovn_s32(d));
            vst1q_s8(to, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
            vaddvq_s32(vaddq_s32(vaddq_s32(a, b), vaddq_s32(c, d)))
        }
    }
}
