//! The variants of attention's inner functions, one set for each instruction set and cache type.
#[cfg(target_arch = "x86_64")]
mod x86;

use super::super::exp::Float;
use super::super::kv::{KvType, Page};
use super::super::lanes::Plain;
use super::super::{Cpu, Isa};
use super::element::{Bf16, Element, F16, F32, Fp8, Int8};
use super::softmax::{self, State};
use super::tile::Tile;
use super::wide;
use super::write::Prepare;

/// Computes a tile.
type Segment = unsafe fn(&mut Tile);

/// Inner functions of one instruction set and cache type.
///
/// All are unsafe: the machine must have the instruction set, pointers must be valid as the generic twins say.
pub(super) struct Kernel {
    /// Scores, softmax and sums of values of a tile, of the cache's pages or of what `widen` made of them.
    pub segment: Segment,
    /// Set where `segment` takes Bf16 pages and the cache has others.
    pub widen: Option<Widen>,
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
    /// See [`Page::values_of_keys`].
    pub turn: unsafe fn(&Page, *const u8, *mut u8),
}

/// How codes become bf16.
pub(super) struct Widen {
    /// Writes as many codes (a multiple of 64) as bf16, and asks for those that are read next.
    pub codes: unsafe fn(*const u8, usize, *const u8, *mut u8),
    /// Instead of `codes` and `segment` where a unit has at most so many rows.
    pub few: Option<(usize, Segment)>,
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
            unsafe fn segment<E: Element>(t: &mut Tile) {
                unsafe { wide::segment::<$lanes, E>(t) }
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
            pub const OF_F32: Kernel = Kernel {
                segment: segment::<F32>,
                widen: None,
                begin: nothing,
                end: nothing,
                merge,
                finish,
                head,
                narrow,
                turn: Page::values_of_keys,
            };
            /// In the order of [`KvType`].
            pub static KERNELS: [Kernel; 5] = [
                OF_F32,
                Kernel { segment: segment::<F16>, ..OF_F32 },
                Kernel { segment: segment::<Bf16>, ..OF_F32 },
                Kernel { segment: segment::<Int8>, ..OF_F32 },
                Kernel { segment: segment::<Fp8>, ..OF_F32 },
            ];
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

impl Kernel {
    /// The functions for a cache of `dtype` on `cpu`.
    pub fn of(cpu: Cpu, dtype: KvType) -> &'static Kernel {
        #[cfg(target_arch = "x86_64")]
        if let Some(kernel) = x86::of(cpu, dtype) {
            return kernel;
        }
        let kernels = match cpu.isa() {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => &avx2::KERNELS,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Amx => &avx512::KERNELS,
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => &neon::KERNELS,
            _ => &plain::KERNELS,
        };
        &kernels[dtype as usize]
    }
}
