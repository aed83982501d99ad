//! Reads packed panels with NEON, in quarters of 4 output rows: weights to signed bytes, scales to f32.
//! Pointers must point to a group of the format. That is the contract behind every `unsafe` here.
use super::super::super::buffer;
use super::super::super::lanes::Neon;
use super::super::super::pack::layout::Scheme;
use super::super::formats::{Format, blocks};
use super::super::unpacked::Unpacked;
use super::dot::Instruction;
use std::arch::aarch64::*;
use std::marker::PhantomData;

/// Bytes that weights are asked for ahead of their use.
const AHEAD: usize = 4096;

/// A block of 32 weights of 16 output rows; `q` is the quarter of 4 of them.
pub(in super::super) trait Block {
    /// Weights, k = 4z .. 4z+3 of each lane: plus offset, but without it where it is 128. Not where they lie in pairs.
    unsafe fn word(&self, z: usize, q: usize) -> int8x16_t;
    /// Words z and z + 1, side by side for each of the first two lanes and of the last two.
    #[inline(always)]
    unsafe fn pair(&self, z: usize, q: usize) -> [int8x16_t; 2] {
        // SAFETY: passed on.
        unsafe {
            let a = vreinterpretq_s32_s8(self.word(z, q));
            let b = vreinterpretq_s32_s8(self.word(z + 1, q));
            [
                vreinterpretq_s8_s32(vzip1q_s32(a, b)),
                vreinterpretq_s8_s32(vzip2q_s32(a, b)),
            ]
        }
    }
    /// The scale.
    unsafe fn d(&self, q: usize) -> float32x4_t;
    /// The minimum of sub-block `part`, its sign changed.
    unsafe fn m(&self, q: usize, part: usize) -> float32x4_t;
    /// The sub-scales of both sub-blocks.
    unsafe fn sub(&self, q: usize) -> [int32x4_t; 2];
}

/// A block of an unpacked panel: words in pairs where the instruction `I` takes them so; sub-scales as integers.
pub(super) struct Ready<I> {
    weights: *const i8,
    scales: *const f32,
    instruction: PhantomData<I>,
}

impl<I> Ready<I> {
    #[inline(always)]
    pub fn new(unpacked: &mut Unpacked, b: usize) -> Self {
        Ready {
            weights: unpacked.weights(b),
            scales: unpacked.scales(b, 0),
            instruction: PhantomData,
        }
    }

    #[inline(always)]
    unsafe fn scale(&self, i: usize, q: usize) -> *const f32 {
        self.scales.wrapping_add(16 * i + 4 * q)
    }
}

// SAFETY (all blocks): see the module.
#[allow(clippy::undocumented_unsafe_blocks)]
impl<I: Instruction> Block for Ready<I> {
    #[inline(always)]
    unsafe fn word(&self, z: usize, q: usize) -> int8x16_t {
        unsafe { vld1q_s8(self.weights.add(64 * z + 16 * q)) }
    }
    #[inline(always)]
    unsafe fn pair(&self, z: usize, q: usize) -> [int8x16_t; 2] {
        unsafe {
            let at = self.weights.add(64 * z + 32 * q);
            [vld1q_s8(at), vld1q_s8(at.add(16))]
        }
    }
    #[inline(always)]
    unsafe fn d(&self, q: usize) -> float32x4_t {
        unsafe { vld1q_f32(self.scale(0, q)) }
    }
    #[inline(always)]
    unsafe fn m(&self, q: usize, part: usize) -> float32x4_t {
        unsafe { vld1q_f32(self.scale(1 + part, q)) }
    }
    #[inline(always)]
    unsafe fn sub(&self, q: usize) -> [int32x4_t; 2] {
        unsafe {
            [
                vld1q_s32(self.scale(3, q).cast()),
                vld1q_s32(self.scale(4, q).cast()),
            ]
        }
    }
}

/// Block `b` of a packed group.
pub(super) struct Packed<F> {
    group: *const u8,
    b: usize,
    format: PhantomData<F>,
}

// SAFETY (all blocks): see the module.
#[allow(clippy::undocumented_unsafe_blocks)]
impl<F: Format> Packed<F> {
    #[inline(always)]
    pub fn new(group: *const u8, b: usize) -> Self {
        Packed {
            group,
            b,
            format: PhantomData,
        }
    }

    /// 4 halves as f32.
    #[inline(always)]
    unsafe fn halves(&self, at: usize, q: usize) -> float32x4_t {
        unsafe { Neon::widen(vld1_u16(self.group.add(at + 8 * q).cast())) }
    }

    /// Sub-scales of quarter `q`: bytes of the first or second kind, as words.
    #[inline(always)]
    unsafe fn bytes(&self, q: usize, kind: usize) -> uint32x4_t {
        unsafe {
            let at = self.group.add(64 + 32 * self.b + 16 * kind + 4 * q);
            let word = vreinterpret_u8_u32(vdup_n_u32(at.cast::<u32>().read_unaligned()));
            vmovl_u16(vget_low_u16(vmovl_u8(word)))
        }
    }

    /// The bits of `mask` in each byte of 16 bytes at `at`, after a shift to the right by `n`, left where negative.
    #[inline(always)]
    unsafe fn bits(&self, at: usize, n: i32, mask: u8) -> uint8x16_t {
        unsafe {
            let v = vld1q_u8(self.group.add(at));
            vandq_u8(vshlq_u8(v, vdupq_n_s8(-n as i8)), vdupq_n_u8(mask))
        }
    }
}

// SAFETY (all blocks): see the module.
#[allow(clippy::undocumented_unsafe_blocks)]
impl<F: Format> Block for Packed<F> {
    #[inline(always)]
    unsafe fn word(&self, z: usize, q: usize) -> int8x16_t {
        unsafe {
            let low = F::L.low_at(self.b) + 16 * q;
            let high = F::L.high_at(self.b) + 16 * q;
            let w = match F::L.low {
                8 => veorq_u8(self.bits(low + 64 * z, 0, 255), vdupq_n_u8(128)),
                4 => self.bits(low + 64 * (z / 2), (z % 2 * 4) as i32, 15),
                _ => self.bits(low + 64 * (z / 4), (z % 4 * 2) as i32, 3),
            };
            if let Some(table) = F::L.table {
                let w = vqtbl1q_u8(vld1q_u8(table.as_ptr()), w);
                let sign = if F::L.offset == 128 { 128 } else { 0 };
                return vreinterpretq_s8_u8(veorq_u8(w, vdupq_n_u8(sign)));
            }
            let up = F::L.low as i32;
            vreinterpretq_s8_u8(match F::L.high {
                0 => w,
                1 => vorrq_u8(w, self.bits(high, z as i32 - up, 1 << (up & 7))),
                _ => {
                    let at = high + 64 * (z / 4);
                    let two = self.bits(at, (z % 4 * 2) as i32 - up, 3 << (up & 7));
                    vorrq_u8(w, two)
                }
            })
        }
    }
    #[inline(always)]
    unsafe fn d(&self, q: usize) -> float32x4_t {
        unsafe {
            match F::L.scheme {
                Scheme::Scale | Scheme::ScaleMin => self.halves(32 * self.b, q),
                Scheme::Pair | Scheme::PairMin => self.halves(0, q),
                Scheme::SubMin => vmulq_f32(self.halves(0, q), vcvtq_f32_u32(self.bytes(q, 0))),
            }
        }
    }
    #[inline(always)]
    unsafe fn m(&self, q: usize, part: usize) -> float32x4_t {
        unsafe {
            let bytes = match F::L.scheme {
                Scheme::SubMin => self.bytes(q, 1),
                Scheme::PairMin => vshrq_n_u32::<4>(self.bytes(q, part)),
                _ => return self.halves(64 + 32 * self.b, q),
            };
            vnegq_f32(vmulq_f32(self.halves(32, q), vcvtq_f32_u32(bytes)))
        }
    }
    #[inline(always)]
    unsafe fn sub(&self, q: usize) -> [int32x4_t; 2] {
        let mut sub = [unsafe { vdupq_n_s32(0) }; 2];
        for (kind, sub) in sub.iter_mut().enumerate() {
            unsafe {
                let bytes = self.bytes(q, kind);
                *sub = if matches!(F::L.scheme, Scheme::PairMin) {
                    vreinterpretq_s32_u32(vandq_u32(bytes, vdupq_n_u32(15)))
                } else {
                    // Bytes with a sign.
                    vshrq_n_s32::<24>(vshlq_n_s32::<24>(vreinterpretq_s32_u32(bytes)))
                };
            }
        }
        sub
    }
}

/// Asks for block `b`'s share of the group that lies `AHEAD` bytes on.
#[inline(always)]
pub(super) fn prefetch<F: Format>(group: *const u8, b: usize) {
    let lines = F::L.bytes() / 64;
    for line in b * lines / F::L.blocks..(b + 1) * lines / F::L.blocks {
        buffer::prefetch::<1>(group.wrapping_add(AHEAD + 64 * line));
    }
}

/// Unpacks a panel as [`Ready`] reads it. The panel holds as many blocks as `to`.
#[inline(always)]
pub(super) unsafe fn unpack<F: Format, I: Instruction>(panel: *const u8, to: &mut Unpacked) {
    // SAFETY: passed on.
    unsafe {
        for (group, b, at) in blocks::<F>(panel, to.blocks()) {
            prefetch::<F>(group, b);
            unpack_block::<F, I>(&Packed::<F>::new(group, b), to, at);
        }
    }
}

#[inline(always)]
unsafe fn unpack_block<F: Format, I: Instruction>(from: &Packed<F>, to: &mut Unpacked, b: usize) {
    // SAFETY: passed on.
    unsafe {
        let weights = to.weights::<i8>(b);
        for z in 0..8 {
            for q in 0..4 {
                if !I::PAIRS {
                    vst1q_s8(weights.add(64 * z + 16 * q), from.word(z, q));
                } else if z % 2 == 0 {
                    let pair = from.pair(z, q);
                    vst1q_s8(weights.add(64 * z + 32 * q), pair[0]);
                    vst1q_s8(weights.add(64 * z + 32 * q + 16), pair[1]);
                }
            }
        }
        let scales = to.scales(b, 0);
        for q in 0..4 {
            let at = |i: usize| scales.wrapping_add(16 * i + 4 * q);
            vst1q_f32(at(0), from.d(q));
            if F::L.minima() {
                vst1q_f32(at(1), from.m(q, 0));
            }
            if matches!(F::L.scheme, Scheme::PairMin) {
                vst1q_f32(at(2), from.m(q, 1));
            }
            if matches!(F::L.scheme, Scheme::Pair | Scheme::PairMin) {
                let sub = from.sub(q);
                vst1q_s32(at(3).cast(), sub[0]);
                vst1q_s32(at(4).cast(), sub[1]);
            }
        }
    }
}
