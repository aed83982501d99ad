//! The quantised product with AVX-512 VNNI: a lane is an output row. Few rows unpack the weights in registers; many rows
//! share a panel unpacked once. Same bits as `scalar`. Here: what both widths of activations share.
mod a15;
mod a8;
pub(super) mod panel;

use super::super::input::{Rounded, Tile};
use super::super::pack::layout::LANES;
use super::Work;
use super::formats::Format;
use super::sink::Sink;
use super::unpacked::Unpacked;
pub(super) use a8::A8;
pub(super) use a15::A15;
use std::arch::x86_64::*;

/// How blocks of weights meet activations. All functions are for machines with AVX-512 F, BW, VL, DQ and VNNI and are
/// inlined into functions that enable them; panels hold the tile's blocks, rows row .. row + R exist.
pub(super) trait Arithmetic {
    /// What activations are rounded to.
    type Activation: Rounded;
    /// What weights are unpacked to.
    type Weight;
    /// Most rows for which weights are unpacked in registers.
    const FEW: usize;
    /// R rows against a packed panel.
    unsafe fn few<F: Format, const R: usize>(
        panel: *const u8,
        tile: &Tile<Self::Activation>,
        row: usize,
    ) -> [__m512; R];
    /// R rows against an unpacked panel.
    unsafe fn many<F: Format, const R: usize>(
        unpacked: &mut Unpacked,
        tile: &Tile<Self::Activation>,
        row: usize,
    ) -> [__m512; R];
    /// Unpacks a panel.
    unsafe fn unpack<F: Format>(panel: *const u8, to: &mut Unpacked);
}

/// # Safety
/// As [`super::run`], on a machine with AVX-512 F, BW, VL, DQ and VNNI.
pub(super) unsafe fn run<A: Arithmetic, F: Format>(work: &Work<'_>, sink: &Sink<'_>) {
    // SAFETY: passed on.
    unsafe {
        if work.input.rows() <= A::FEW {
            few_panels::<A, F>(work, sink);
        } else {
            Unpacked::with::<A::Weight, _>(work.input.blocks(), |unpacked| {
                many_panels::<A, F>(unpacked, work, sink);
            });
        }
    }
}

unsafe fn few_panels<A: Arithmetic, F: Format>(work: &Work<'_>, sink: &Sink<'_>) {
    let tile = work.input.tile(0, &F::L);
    for p in work.panels.clone() {
        let panel = work.matrix.panel(p).as_ptr();
        let mut row = 0;
        while row < tile.rows {
            // SAFETY: the panel and rows row.. exist; passed on.
            row += unsafe {
                match tile.rows - row {
                    8.. => few::<A, F, 8>(panel, &tile, row, p, sink),
                    4.. => few::<A, F, 4>(panel, &tile, row, p, sink),
                    2.. => few::<A, F, 2>(panel, &tile, row, p, sink),
                    _ => few::<A, F, 1>(panel, &tile, row, p, sink),
                }
            };
        }
    }
}

unsafe fn many_panels<A: Arithmetic, F: Format>(
    unpacked: &mut Unpacked,
    work: &Work<'_>,
    sink: &Sink<'_>,
) {
    for (tiles, p) in work.meetings(size_of::<A::Activation>()) {
        // SAFETY: the panel is of the format and holds the input's blocks.
        unsafe { unpack::<A, F>(work.matrix.panel(p).as_ptr(), unpacked) };
        for t in tiles {
            let tile = work.input.tile(t, &F::L);
            let mut row = 0;
            while row < tile.rows {
                // SAFETY: rows row.. exist; passed on.
                row += unsafe {
                    match tile.rows - row {
                        8.. => many::<A, F, 8>(unpacked, &tile, row, p, sink),
                        4.. => many::<A, F, 4>(unpacked, &tile, row, p, sink),
                        2.. => many::<A, F, 2>(unpacked, &tile, row, p, sink),
                        _ => many::<A, F, 1>(unpacked, &tile, row, p, sink),
                    }
                };
            }
        }
    }
}

/// R rows against a packed panel; gives R.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn few<A: Arithmetic, F: Format, const R: usize>(
    panel: *const u8,
    tile: &Tile<A::Activation>,
    row: usize,
    p: usize,
    sink: &Sink<'_>,
) -> usize {
    // SAFETY: the panel holds the tile's blocks; rows row..row + R exist.
    unsafe {
        sink.prefetch(p, tile.row + row, R);
        emit(&A::few::<F, R>(panel, tile, row), tile.row + row, p, sink)
    }
}

/// R rows against an unpacked panel; gives R.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn many<A: Arithmetic, F: Format, const R: usize>(
    unpacked: &mut Unpacked,
    tile: &Tile<A::Activation>,
    row: usize,
    p: usize,
    sink: &Sink<'_>,
) -> usize {
    // SAFETY: the panel holds the tile's blocks; rows row..row + R exist.
    unsafe {
        sink.prefetch(p, tile.row + row, R);
        emit(
            &A::many::<F, R>(unpacked, tile, row),
            tile.row + row,
            p,
            sink,
        )
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn unpack<A: Arithmetic, F: Format>(panel: *const u8, to: &mut Unpacked) {
    // SAFETY: passed on.
    unsafe { A::unpack::<F>(panel, to) }
}

/// Hands finished rows to the sink; gives R.
#[inline(always)]
unsafe fn emit<const R: usize>(acc: &[__m512; R], row: usize, p: usize, sink: &Sink<'_>) -> usize {
    let mut out = [[0f32; LANES]; R];
    // SAFETY: passed on.
    unsafe {
        for (out, acc) in out.iter_mut().zip(acc) {
            _mm512_storeu_ps(out.as_mut_ptr(), *acc);
        }
        sink.store(p, row, &out);
    }
    R
}
