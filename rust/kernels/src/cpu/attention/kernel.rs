//! The variants of attention's inner functions, one set for each instruction set and cache type.
use super::super::exp::Float;
use super::super::kv::KvType;
use super::super::lanes::Plain;
use super::super::{Cpu, Isa};
use super::softmax::{self, State};
use super::tile::Tile;
use super::wide;
use super::write::Prepare;

/// Inner functions of one instruction set and cache type.
///
/// All are unsafe: the machine must have the instruction set, pointers must be valid as the generic twins say.
pub(super) struct Kernel {
    /// Scores, softmax and sums of values of a tile.
    pub segment: unsafe fn(&mut Tile),
    /// Called on a thread before its first `segment`, and after its last.
    pub begin: unsafe fn(),
    pub end: unsafe fn(),
    /// See [`softmax::merge`].
    pub merge: unsafe fn(State, State, usize),
    /// See [`softmax::finish`].
    pub finish: unsafe fn(State, Option<f32>, usize, *mut f32),
    /// See [`Prepare::head`].
    pub head: unsafe fn(&Prepare<'_>, &mut [f32], usize, bool),
    /// Rounds as many f32 (a multiple of 16) to bf16.
    pub narrow: unsafe fn(*const f32, *mut u16, usize),
}

#[inline(always)]
unsafe fn narrow<L: Float>(from: *const f32, to: *mut u16, n: usize) {
    for i in (0..n).step_by(16) {
        // SAFETY: both hold `n` values, a multiple of 16.
        unsafe { L::load(from.add(i)).store_bf16(to.add(i)) };
    }
}

unsafe fn nothing() {}

/// Functions that enable an instruction set and inline the generic bodies.
macro_rules! variants {
    ($name:ident, $lanes:ty $(, $features:literal)?) => {
        // SAFETY (all blocks): the caller answers for the instruction set and the pointers.
        #[allow(clippy::undocumented_unsafe_blocks)]
        mod $name {
            use super::*;
            $(#[target_feature(enable = $features)])?
            unsafe fn segment<const BF16: bool>(t: &mut Tile) {
                unsafe { wide::segment::<$lanes, BF16>(t) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn merge(state: State, new: State, rows: usize) {
                unsafe { softmax::merge::<$lanes>(state, new, rows) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn finish(state: State, sink: Option<f32>, head_dim: usize, out: *mut f32) {
                unsafe { softmax::finish::<$lanes>(state, sink, head_dim, out) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn head(prepare: &Prepare<'_>, x: &mut [f32], position: usize, query: bool) {
                prepare.head(x, position, query);
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn narrow(from: *const f32, to: *mut u16, n: usize) {
                unsafe { super::narrow::<$lanes>(from, to, n) }
            }
            pub static F32: Kernel = Kernel {
                segment: segment::<false>,
                begin: nothing,
                end: nothing,
                merge,
                finish,
                head,
                narrow,
            };
            pub static BF16: Kernel = Kernel { segment: segment::<true>, ..F32 };
        }
    };
}

variants!(plain, Plain);
#[cfg(target_arch = "aarch64")]
variants!(neon, super::super::super::lanes::Neon);
#[cfg(target_arch = "x86_64")]
variants!(avx2, super::super::super::lanes::Ymm, "avx2,fma,f16c");
#[cfg(target_arch = "x86_64")]
variants!(
    avx512,
    super::super::super::lanes::Zmm,
    "avx512f,avx512bw,avx512vl,avx512dq"
);

#[cfg(target_arch = "x86_64")]
// SAFETY (all blocks): the caller answers for the instruction set and the pointers.
#[allow(clippy::undocumented_unsafe_blocks)]
mod x86 {
    use super::super::super::lanes::Zmm;
    use super::super::super::tile_unit::{Amx, Tiles};
    use super::super::softmax::Put;
    use super::super::{amx, dot, quick};
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
        ..avx512::BF16
    };

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vbmi")]
    unsafe fn quick_segment(t: &mut Tile) {
        unsafe {
            dot::scores(t);
            quick::softmax(t);
            dot::values(t);
        }
    }
    pub static QUICK: Kernel = Kernel {
        segment: quick_segment,
        narrow,
        ..avx512::BF16
    };

    unsafe fn begin() {
        std::mem::forget(unsafe { Amx::begin() });
    }

    unsafe fn end() {
        drop(unsafe { Amx::resume() });
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vbmi")]
    unsafe fn tile_segment(t: &mut Tile) {
        unsafe {
            let mut tiles = std::mem::ManuallyDrop::new(Amx::resume());
            amx::scores(&mut *tiles, t);
            quick::softmax(t);
            amx::values(&mut *tiles, t);
        }
    }
    pub static TILES: Kernel = Kernel {
        segment: tile_segment,
        begin,
        end,
        narrow,
        ..avx512::BF16
    };
}

impl Kernel {
    /// The functions for a cache of `dtype` on `cpu`.
    pub fn of(cpu: Cpu, dtype: KvType) -> &'static Kernel {
        match (cpu.isa(), dtype) {
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx2, KvType::F32) => &avx2::F32,
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx2, KvType::Bf16) => &avx2::BF16,
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512 | Isa::Amx, KvType::F32) => &avx512::F32,
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512, KvType::Bf16) if !cpu.bf16() => &avx512::BF16,
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512, KvType::Bf16) if cpu.vbmi() => &x86::QUICK,
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512, KvType::Bf16) => &x86::DOT,
            #[cfg(target_arch = "x86_64")]
            (Isa::Amx, KvType::Bf16) => &x86::TILES,
            #[cfg(target_arch = "aarch64")]
            (Isa::Neon, KvType::F32) => &neon::F32,
            #[cfg(target_arch = "aarch64")]
            (Isa::Neon, KvType::Bf16) => &neon::BF16,
            (_, KvType::F32) => &plain::F32,
            (_, KvType::Bf16) => &plain::BF16,
        }
    }
}
