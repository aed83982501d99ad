//! Kernels whose products are of bf16, by `vdpbf16ps` and by tiles.
// SAFETY (all blocks): the caller answers for the instruction set and the pointers.
#![allow(clippy::undocumented_unsafe_blocks)]
use super::super::super::lanes::Zmm;
use super::super::super::tile_unit::{Amx, Tiles};
use super::super::softmax::Put;
use super::super::{amx, bytes, dot, quick, scales, turn};
use super::*;
use std::arch::x86_64::*;

/// bf16 by the machine's own conversion, to the probabilities.
struct Converted;

impl Put<Zmm> for Converted {
    const ROUNDED: bool = true;
    #[inline(always)]
    unsafe fn put(p: [Zmm; 2], _: *mut f32, probs: *mut u16) {
        unsafe {
            let both = _mm512_cvtne2ps_pbh(p[1].0, p[0].0);
            let both = std::mem::transmute::<__m512bh, __m512i>(both);
            _mm512_storeu_si512(probs.cast(), both);
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn narrow(from: *const f32, to: *mut u16, n: usize) {
    for i in (0..n).step_by(16) {
        unsafe {
            let v = _mm512_cvtneps_pbh(_mm512_loadu_ps(from.add(i)));
            let v = std::mem::transmute::<__m256bh, __m256i>(v);
            _mm256_storeu_si256(to.add(i).cast(), v);
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn turn(page: &Page, keys: *const u8, to: *mut u8) {
    unsafe { turn::values_of_keys(page, keys, to) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn dot_segment(t: &mut Tile) {
    unsafe {
        dot::scores(t);
        softmax::softmax::<Zmm, Converted>(t);
        dot::values(t);
    }
}

pub static DOT: Kernel = Kernel {
    segment: dot_segment,
    narrow,
    turn,
    ..avx512::OF_F32
};

/// From scores to probabilities. `SCALED`: keys and values have scales.
#[inline(always)]
unsafe fn probabilities<const SCALED: bool>(t: &mut Tile) {
    unsafe {
        if SCALED {
            scales::keys::<Zmm>(t);
        }
        quick::softmax(t);
        if SCALED {
            scales::rounded_values::<Zmm>(t);
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vbmi")]
unsafe fn quick_segment<const SCALED: bool>(t: &mut Tile) {
    unsafe {
        dot::scores(t);
        probabilities::<SCALED>(t);
        dot::values(t);
    }
}
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vbmi")]
unsafe fn few_segment<const IS_FP8: bool>(t: &mut Tile) {
    unsafe {
        bytes::scores::<IS_FP8>(t);
        probabilities::<true>(t);
        bytes::values::<IS_FP8>(t);
    }
}
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vbmi")]
unsafe fn widen<const IS_FP8: bool>(from: *const u8, n: usize, next: *const u8, to: *mut u8) {
    unsafe { bytes::widen::<IS_FP8>(from, n, next, to) }
}
pub static QUICK: Kernel = Kernel {
    segment: quick_segment::<false>,
    narrow,
    turn,
    ..avx512::OF_F32
};
const fn quick_bytes<const IS_FP8: bool>() -> Kernel {
    Kernel {
        segment: quick_segment::<true>,
        widen: Some(Widen {
            codes: widen::<IS_FP8>,
            few: Some((bytes::FEW, few_segment::<IS_FP8>)),
        }),
        narrow,
        turn,
        ..avx512::OF_F32
    }
}
pub static QUICK_INT8: Kernel = quick_bytes::<false>();
pub static QUICK_FP8: Kernel = quick_bytes::<true>();

unsafe fn begin() {
    std::mem::forget(unsafe { Amx::begin() });
}

unsafe fn end() {
    drop(unsafe { Amx::resume() });
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vbmi")]
unsafe fn tile_segment<const SCALED: bool>(t: &mut Tile) {
    unsafe {
        let mut tiles = std::mem::ManuallyDrop::new(Amx::resume());
        amx::scores(&mut *tiles, t);
        probabilities::<SCALED>(t);
        amx::values(&mut *tiles, t);
    }
}
pub static TILES: Kernel = Kernel {
    segment: tile_segment::<false>,
    begin,
    end,
    narrow,
    turn,
    ..avx512::OF_F32
};
/// Tiles add in another order than `vdpbf16ps`: few rows take them too.
const fn tile_bytes<const IS_FP8: bool>() -> Kernel {
    Kernel {
        segment: tile_segment::<true>,
        widen: Some(Widen {
            codes: widen::<IS_FP8>,
            few: None,
        }),
        begin,
        end,
        narrow,
        turn,
        ..avx512::OF_F32
    }
}
pub static TILES_INT8: Kernel = tile_bytes::<false>();
pub static TILES_FP8: Kernel = tile_bytes::<true>();

/// The functions where products are of bf16.
pub fn of(cpu: Cpu, dtype: KvType) -> Option<&'static Kernel> {
    Some(match (cpu.isa(), dtype) {
        (Isa::Avx512, _) if !cpu.bf16() => return None,
        (Isa::Avx512, KvType::Bf16) if !cpu.vbmi() => &DOT,
        (Isa::Avx512, _) if !cpu.vbmi() => return None,
        (Isa::Avx512, KvType::Bf16) => &QUICK,
        (Isa::Avx512, KvType::Int8) => &QUICK_INT8,
        (Isa::Avx512, KvType::Fp8) => &QUICK_FP8,
        (Isa::Amx, KvType::Bf16) => &TILES,
        (Isa::Amx, KvType::Int8) => &TILES_INT8,
        (Isa::Amx, KvType::Fp8) => &TILES_FP8,
        _ => return None,
    })
}
