//! Products of quantised weights with AVX2: a panel's 16 output rows are two vectors of 8 lanes. Few rows unpack the
//! weights in registers; many rows share a panel unpacked once. Same bits as `scalar`. Here: what both widths of
//! activations share.
mod a15;
mod a8;
mod panel;

use super::super::input::{Rounded, Tile};
use super::super::pack::layout::{LANES, Layout};
use super::Work;
use super::formats::Format;
use super::sink::Sink;
use super::unpacked::Unpacked;
pub(super) use a8::A8;
pub(super) use a15::A15;
use std::arch::x86_64::*;

/// Sums of R rows and the two halves of a panel.
type Sums<const R: usize> = [[__m256; 2]; R];

/// How blocks of weights meet activations. All functions are for machines with AVX2, FMA and F16C, and AVX-VNNI if
/// `VNNI`, and are inlined into functions that enable them; panels hold the tile's blocks, rows row .. row + R exist.
pub(super) trait Arithmetic {
    /// What activations are rounded to.
    type Activation: Rounded;
    /// What weights are unpacked to.
    type Weight;
    /// Most rows for which weights are unpacked in registers.
    fn few_rows(layout: &Layout) -> usize;
    /// R rows against a packed panel.
    unsafe fn few<F: Format, const VNNI: bool, const R: usize>(
        panel: *const u8,
        tile: &Tile<Self::Activation>,
        row: usize,
    ) -> Sums<R>;
    /// R rows against an unpacked panel.
    unsafe fn many<F: Format, const VNNI: bool, const R: usize>(
        unpacked: &mut Unpacked,
        tile: &Tile<Self::Activation>,
        row: usize,
    ) -> Sums<R>;
    /// Unpacks a panel.
    unsafe fn unpack<F: Format>(panel: *const u8, to: &mut Unpacked);
}

/// # Safety
/// As [`super::run`], on a machine with AVX2, FMA and F16C, and AVX-VNNI if `vnni`.
pub(super) unsafe fn run<A: Arithmetic, F: Format>(vnni: bool, work: &Work<'_>, sink: &Sink<'_>) {
    // SAFETY: passed on.
    unsafe {
        if vnni {
            panels::<A, F, Vnni>(work, sink);
        } else {
            panels::<A, F, Base>(work, sink);
        }
    }
}

unsafe fn panels<A: Arithmetic, F: Format, V: Variant>(work: &Work<'_>, sink: &Sink<'_>) {
    let input = work.input;
    if input.rows() <= A::few_rows(&F::L) {
        let tile = input.tile(0, &F::L);
        for p in work.panels.clone() {
            let panel = work.matrix.panel(p).as_ptr();
            // SAFETY: the panel holds the tile's blocks; passed on.
            unsafe { few::<A, F, V>(panel, &tile, p, sink) };
        }
        return;
    }
    Unpacked::with::<A::Weight, _>(input.blocks(), |unpacked| {
        for (tiles, p) in work.meetings(size_of::<A::Activation>()) {
            let panel = work.matrix.panel(p).as_ptr();
            // SAFETY: the panel is of the format and holds the input's blocks; passed on.
            unsafe {
                V::unpack::<A, F>(panel, unpacked);
                for t in tiles {
                    many::<A, F, V>(unpacked, &input.tile(t, &F::L), p, sink);
                }
            }
        }
    });
}

/// All rows of a tile against a packed panel.
unsafe fn few<A: Arithmetic, F: Format, V: Variant>(
    panel: *const u8,
    tile: &Tile<A::Activation>,
    p: usize,
    sink: &Sink<'_>,
) {
    let mut row = 0;
    while row < tile.rows {
        let at = Place { row, p, sink };
        // SAFETY: rows row.. exist; passed on.
        row += unsafe {
            match tile.rows - row {
                6.. => V::few::<A, F, 6>(panel, tile, at),
                4.. => V::few::<A, F, 4>(panel, tile, at),
                2.. => V::few::<A, F, 2>(panel, tile, at),
                _ => V::few::<A, F, 1>(panel, tile, at),
            }
        };
    }
}

/// All rows of a tile against an unpacked panel.
unsafe fn many<A: Arithmetic, F: Format, V: Variant>(
    unpacked: &mut Unpacked,
    tile: &Tile<A::Activation>,
    p: usize,
    sink: &Sink<'_>,
) {
    let mut row = 0;
    while row < tile.rows {
        let at = Place { row, p, sink };
        // SAFETY: rows row.. exist; passed on.
        row += unsafe {
            match tile.rows - row {
                6.. => V::many::<A, F, 6>(unpacked, tile, at),
                4.. => V::many::<A, F, 4>(unpacked, tile, at),
                2.. => V::many::<A, F, 2>(unpacked, tile, at),
                _ => V::many::<A, F, 1>(unpacked, tile, at),
            }
        };
    }
}

/// The first row of a tile and the panel that are multiplied, and where the results go.
#[derive(Clone, Copy)]
struct Place<'a> {
    row: usize,
    p: usize,
    sink: &'a Sink<'a>,
}

/// The generic bodies compiled for one set of instructions. All functions need a machine that has it and give R.
trait Variant {
    unsafe fn few<A: Arithmetic, F: Format, const R: usize>(
        panel: *const u8,
        tile: &Tile<A::Activation>,
        at: Place<'_>,
    ) -> usize;
    unsafe fn many<A: Arithmetic, F: Format, const R: usize>(
        unpacked: &mut Unpacked,
        tile: &Tile<A::Activation>,
        at: Place<'_>,
    ) -> usize;
    unsafe fn unpack<A: Arithmetic, F: Format>(panel: *const u8, to: &mut Unpacked);
}

macro_rules! variant {
    ($name:ident, $vnni:literal, $features:literal) => {
        struct $name;

        // SAFETY (all blocks): the instruction set is enabled here; passed on.
        #[allow(clippy::undocumented_unsafe_blocks)]
        impl Variant for $name {
            #[target_feature(enable = $features)]
            unsafe fn few<A: Arithmetic, F: Format, const R: usize>(
                panel: *const u8,
                tile: &Tile<A::Activation>,
                at: Place<'_>,
            ) -> usize {
                unsafe {
                    at.sink.prefetch(at.p, tile.row + at.row, R);
                    let sums = A::few::<F, $vnni, R>(panel, tile, at.row);
                    emit(&sums, tile.row + at.row, at.p, at.sink)
                }
            }
            #[target_feature(enable = $features)]
            unsafe fn many<A: Arithmetic, F: Format, const R: usize>(
                unpacked: &mut Unpacked,
                tile: &Tile<A::Activation>,
                at: Place<'_>,
            ) -> usize {
                unsafe {
                    at.sink.prefetch(at.p, tile.row + at.row, R);
                    let sums = A::many::<F, $vnni, R>(unpacked, tile, at.row);
                    emit(&sums, tile.row + at.row, at.p, at.sink)
                }
            }
            #[target_feature(enable = $features)]
            unsafe fn unpack<A: Arithmetic, F: Format>(panel: *const u8, to: &mut Unpacked) {
                unsafe { A::unpack::<F>(panel, to) }
            }
        }
    };
}
variant!(Base, false, "avx2,fma,f16c");
variant!(Vnni, true, "avx2,fma,f16c,avxvnni");

/// Hands finished rows to the sink; gives R.
#[inline(always)]
unsafe fn emit<const R: usize>(acc: &Sums<R>, row: usize, p: usize, sink: &Sink<'_>) -> usize {
    let mut out = [[0f32; LANES]; R];
    // SAFETY: passed on.
    unsafe {
        for (out, acc) in out.iter_mut().zip(acc) {
            _mm256_storeu_ps(out.as_mut_ptr(), acc[0]);
            _mm256_storeu_ps(out.as_mut_ptr().add(8), acc[1]);
        }
        sink.store(p, row, &out);
    }
    R
}
