//! The quantised product with NEON: a panel's 16 output rows are four vectors of 4 lanes, four weights a lane meet four
//! activations, by `smmla`, `sdot` or widening multiplications, as the machine has them; a row of 15-bit activations is
//! two of bytes. Few rows unpack the weights in registers; many rows share a panel unpacked once. Same bits as `scalar`.
#![allow(clippy::needless_range_loop)] // several arrays run side by side
mod activation;
mod dot;
mod panel;

use super::super::Cpu;
use super::super::input::Tile;
use super::super::lanes::{Lanes, Neon};
use super::super::pack::layout::{BLOCK, LANES};
use super::Work;
use super::formats::{Format, blocks};
use super::sink::Sink;
use super::unpacked::Unpacked;
use activation::{Activation, dots};
use dot::{Base, Dot, Instruction, Matrix};
use panel::{Block, Packed, Ready};
use std::arch::aarch64::*;

/// Most rows for which weights are unpacked in registers.
const FEW: usize = 4;

/// # Safety
/// As [`super::run`]; the machine has the optional instructions that `cpu` names.
pub(super) unsafe fn run<F: Format, A: Activation>(cpu: Cpu, work: &Work<'_>, sink: &Sink<'_>) {
    // SAFETY: passed on.
    unsafe {
        match (cpu.dotprod(), cpu.i8mm()) {
            (true, true) => panels::<F, A, Matrix>(work, sink),
            (true, false) => panels::<F, A, Dot>(work, sink),
            _ => panels::<F, A, Base>(work, sink),
        }
    }
}

unsafe fn panels<F: Format, A: Activation, I: Enabled>(work: &Work<'_>, sink: &Sink<'_>) {
    // SAFETY: passed on.
    unsafe {
        if work.input.rows() <= FEW {
            I::few_panels::<F, A>(work, sink);
        } else {
            let blocks = work.input.blocks();
            Unpacked::with::<u8, _>(blocks, |unpacked| {
                I::many_panels::<F, A>(unpacked, work, sink)
            });
        }
    }
}

/// The generic bodies compiled for the instructions they use, which the machine must have.
trait Enabled: Instruction {
    unsafe fn few_panels<F: Format, A: Activation>(work: &Work<'_>, sink: &Sink<'_>);
    unsafe fn many_panels<F: Format, A: Activation>(
        unpacked: &mut Unpacked,
        work: &Work<'_>,
        sink: &Sink<'_>,
    );
}

macro_rules! enabled {
    ($name:ident, $features:literal) => {
        // SAFETY (all blocks): the instructions are enabled here; passed on.
        #[allow(clippy::undocumented_unsafe_blocks)]
        impl Enabled for $name {
            #[target_feature(enable = $features)]
            unsafe fn few_panels<F: Format, A: Activation>(work: &Work<'_>, sink: &Sink<'_>) {
                unsafe { few_panels::<F, A, $name>(work, sink) }
            }
            #[target_feature(enable = $features)]
            unsafe fn many_panels<F: Format, A: Activation>(
                unpacked: &mut Unpacked,
                work: &Work<'_>,
                sink: &Sink<'_>,
            ) {
                unsafe { many_panels::<F, A, $name>(unpacked, work, sink) }
            }
        }
    };
}
enabled!(Base, "neon");
enabled!(Dot, "neon,dotprod");
enabled!(Matrix, "neon,dotprod,i8mm");

#[inline(always)]
unsafe fn few_panels<F: Format, A: Activation, I: Instruction>(work: &Work<'_>, sink: &Sink<'_>) {
    let tile = work.input.tile::<A>(0, &F::L);
    for p in work.panels.clone() {
        let panel = work.matrix.panel(p).as_ptr();
        let mut row = 0;
        while row < tile.rows {
            // SAFETY: the panel holds the tile's blocks; rows row.. exist.
            row += unsafe {
                match tile.rows - row {
                    4.. => few::<F, A, I, 4>(panel, &tile, row, p, sink),
                    2.. => few::<F, A, I, 2>(panel, &tile, row, p, sink),
                    _ => few::<F, A, A::One<I>, 1>(panel, &tile, row, p, sink),
                }
            };
        }
    }
}

#[inline(always)]
unsafe fn many_panels<F: Format, A: Activation, I: Instruction>(
    unpacked: &mut Unpacked,
    work: &Work<'_>,
    sink: &Sink<'_>,
) {
    for (tiles, p) in work.meetings(size_of::<A>()) {
        // SAFETY: the panel is of the format and holds the input's blocks.
        unsafe { panel::unpack::<F, I>(work.matrix.panel(p).as_ptr(), unpacked) };
        for t in tiles {
            let tile = work.input.tile::<A>(t, &F::L);
            let mut row = 0;
            while row < tile.rows {
                // SAFETY: rows row.. exist; passed on.
                row += unsafe {
                    match tile.rows - row {
                        4.. => many::<F, A, I, 4>(unpacked, &tile, row, p, sink),
                        2.. => many::<F, A, I, 2>(unpacked, &tile, row, p, sink),
                        _ => many::<F, A, I, 1>(unpacked, &tile, row, p, sink),
                    }
                };
            }
        }
    }
}

/// Sums of R rows and the 16 outputs of a panel.
type Sums<const R: usize> = [Neon; R];

/// R rows against a packed panel; gives R.
#[inline(always)]
unsafe fn few<F: Format, A: Activation, I: Instruction, const R: usize>(
    panel: *const u8,
    tile: &Tile<A>,
    row: usize,
    p: usize,
    sink: &Sink<'_>,
) -> usize {
    // SAFETY: the panel holds the tile's blocks; rows row..row + R exist.
    unsafe {
        let mut acc = [Neon::splat(0.0); R];
        for (group, b, at) in blocks::<F>(panel, tile.blocks) {
            panel::prefetch::<F>(group, b);
            let weights = Packed::<F>::new(group, b);
            step::<F, A, _, I, R>(&mut acc, &weights, tile, at, row);
        }
        emit(&acc, tile.row + row, p, sink);
    }
    R
}

/// R rows against an unpacked panel; gives R.
#[inline(always)]
unsafe fn many<F: Format, A: Activation, I: Instruction, const R: usize>(
    unpacked: &mut Unpacked,
    tile: &Tile<A>,
    row: usize,
    p: usize,
    sink: &Sink<'_>,
) -> usize {
    // SAFETY: the panel holds the tile's blocks; rows row..row + R exist.
    unsafe {
        let mut acc = [Neon::splat(0.0); R];
        for b in 0..tile.blocks {
            let weights = Ready::<I>::new(unpacked, b);
            step::<F, A, _, I, R>(&mut acc, &weights, tile, b, row);
        }
        emit(&acc, tile.row + row, p, sink);
    }
    R
}

/// One block of R rows: the dot products and the one to three multiply-adds, as `scalar` defines them.
#[inline(always)]
unsafe fn step<F: Format, A: Activation, B: Block, I: Instruction, const R: usize>(
    acc: &mut Sums<R>,
    weights: &B,
    tile: &Tile<A>,
    b: usize,
    row: usize,
) {
    // SAFETY: block and rows lie within the tile.
    unsafe {
        let at = b * tile.rows + row;
        let a = tile.q.add(at * BLOCK).cast::<i8>();
        let parts = F::L.parts();
        let sums = tile.sums.add(b * parts * tile.rows + row);
        let dot = if F::L.pairs() {
            let halves = [
                dots::<F, A, B, I, R, 0, 4>(weights, a, &first::<F, R>(sums)),
                dots::<F, A, B, I, R, 4, 8>(weights, a, &first::<F, R>(sums.add(tile.rows))),
            ];
            let mut dot = halves[0];
            for q in 0..4 {
                let sub = weights.sub(q);
                for r in 0..R {
                    let half = vmulq_s32(halves[0][r][q], sub[0]);
                    dot[r][q] = vmlaq_s32(half, halves[1][r][q], sub[1]);
                }
            }
            dot
        } else {
            dots::<F, A, B, I, R, 0, 8>(weights, a, &first::<F, R>(sums))
        };
        for q in 0..4 {
            let d = weights.d(q);
            for r in 0..R {
                let scale = vmulq_n_f32(d, *tile.d.add(at + r));
                acc[r].0[q] = vfmaq_f32(acc[r].0[q], vcvtq_f32_s32(dot[r][q]), scale);
            }
            for part in 0..F::L.minima_len() {
                let m = weights.m(q, part);
                for r in 0..R {
                    let sum = *sums.add(part * tile.rows + r).cast::<f32>();
                    acc[r].0[q] = vfmaq_n_f32(acc[r].0[q], m, sum);
                }
            }
        }
    }
}

/// What the integer sums of R rows begin with; weights of 8 bits are signed already.
#[inline(always)]
unsafe fn first<F: Format, const R: usize>(sums: *const u32) -> [i32; R] {
    let mut first = [0; R];
    if !F::L.minima() && F::L.offset != 128 {
        for r in 0..R {
            // SAFETY: R words from `sums` on.
            first[r] = unsafe { *sums.add(r) } as i32;
        }
    }
    first
}

/// Hands finished rows to the sink.
#[inline(always)]
unsafe fn emit<const R: usize>(acc: &Sums<R>, row: usize, p: usize, sink: &Sink<'_>) {
    let mut out = [[0f32; LANES]; R];
    // SAFETY: passed on.
    unsafe {
        for r in 0..R {
            acc[r].store(out[r].as_mut_ptr());
        }
        sink.store(p, row, &out);
    }
}
