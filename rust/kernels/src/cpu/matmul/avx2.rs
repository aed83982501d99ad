//! The quantised product with AVX2: a panel's 16 output rows are two vectors of 8 lanes, four weights a lane meet four
//! activations, by `vpdpbusd` where the machine has AVX-VNNI. Few rows unpack the weights in registers; many rows share
//! a panel unpacked once. Same bits as `scalar`.
#![allow(clippy::needless_range_loop)] // several arrays run side by side
mod dot;
mod panel;

use super::super::input::Tile;
use super::super::pack::layout::{BLOCK, LANES, Scheme};
use super::Work;
use super::formats::Format;
use super::sink::Sink;
use super::unpacked::Unpacked;
use dot::{MAGIC, dots};
use panel::{Block, FAR, Packed, Ready, prefetch};
use std::arch::x86_64::*;

/// Most rows for which weights are unpacked in registers.
const FEW: usize = 4;

/// # Safety
/// As [`super::run`], on a machine with AVX2, FMA and F16C, and AVX-VNNI if `vnni`.
pub(super) unsafe fn run<F: Format>(vnni: bool, work: &Work<'_>, sink: &Sink<'_>) {
    // SAFETY: passed on.
    unsafe {
        if vnni {
            panels::<F, Vnni>(work, sink);
        } else {
            panels::<F, Plain>(work, sink);
        }
    }
}

unsafe fn panels<F: Format, V: Variant>(work: &Work<'_>, sink: &Sink<'_>) {
    let input = work.input;
    if input.rows() <= FEW {
        let tile = input.tile(0, &F::L);
        for p in work.panels.clone() {
            let panel = work.matrix.panel(p).as_ptr();
            // SAFETY: the panel holds the tile's blocks; passed on.
            unsafe { rows_of::<F, V, true>(panel, &mut Unpacked::default(), &tile, p, sink) };
        }
        return;
    }
    Unpacked::with(input.blocks(), |unpacked| {
        for p in work.panels.clone() {
            let panel = work.matrix.panel(p).as_ptr();
            // SAFETY: the panel is of the format and holds the input's blocks; passed on.
            unsafe {
                V::unpack::<F>(panel, unpacked);
                for t in 0..input.tiles() {
                    rows_of::<F, V, false>(panel, unpacked, &input.tile(t, &F::L), p, sink);
                }
            }
        }
    });
}

/// All rows of a tile against a panel, packed (`FEW`) or unpacked.
#[inline(always)]
unsafe fn rows_of<F: Format, V: Variant, const FEW: bool>(
    panel: *const u8,
    unpacked: &mut Unpacked,
    tile: &Tile,
    p: usize,
    sink: &Sink<'_>,
) {
    let mut row = 0;
    while row < tile.rows {
        // SAFETY: rows row.. exist; passed on.
        row += unsafe {
            match (tile.rows - row, FEW) {
                (4.., true) => V::few::<F, 4>(panel, tile, row, p, sink),
                (2.., true) => V::few::<F, 2>(panel, tile, row, p, sink),
                (_, true) => V::few::<F, 1>(panel, tile, row, p, sink),
                (4.., false) => V::many::<F, 4>(unpacked, tile, row, p, sink),
                (2.., false) => V::many::<F, 2>(unpacked, tile, row, p, sink),
                (_, false) => V::many::<F, 1>(unpacked, tile, row, p, sink),
            }
        };
    }
}

/// The generic bodies compiled for one set of instructions. All functions need a machine that has it.
trait Variant {
    /// R rows against a packed panel; gives R.
    unsafe fn few<F: Format, const R: usize>(
        panel: *const u8,
        tile: &Tile,
        row: usize,
        p: usize,
        sink: &Sink<'_>,
    ) -> usize;
    /// R rows against an unpacked panel; gives R.
    unsafe fn many<F: Format, const R: usize>(
        unpacked: &mut Unpacked,
        tile: &Tile,
        row: usize,
        p: usize,
        sink: &Sink<'_>,
    ) -> usize;
    /// Unpacks a panel.
    unsafe fn unpack<F: Format>(panel: *const u8, to: &mut Unpacked);
}

macro_rules! variant {
    ($name:ident, $vnni:literal, $features:literal) => {
        struct $name;

        // SAFETY (all blocks): the instruction set is enabled here; passed on.
        #[allow(clippy::undocumented_unsafe_blocks)]
        impl Variant for $name {
            #[target_feature(enable = $features)]
            unsafe fn few<F: Format, const R: usize>(
                panel: *const u8,
                tile: &Tile,
                row: usize,
                p: usize,
                sink: &Sink<'_>,
            ) -> usize {
                unsafe { few::<F, $vnni, R>(panel, tile, row, p, sink) }
            }
            #[target_feature(enable = $features)]
            unsafe fn many<F: Format, const R: usize>(
                unpacked: &mut Unpacked,
                tile: &Tile,
                row: usize,
                p: usize,
                sink: &Sink<'_>,
            ) -> usize {
                unsafe { many::<F, $vnni, R>(unpacked, tile, row, p, sink) }
            }
            #[target_feature(enable = $features)]
            unsafe fn unpack<F: Format>(panel: *const u8, to: &mut Unpacked) {
                unsafe { panel::unpack::<F>(panel, to) }
            }
        }
    };
}
variant!(Plain, false, "avx2,fma,f16c");
variant!(Vnni, true, "avx2,fma,f16c,avxvnni");

/// Sums of R rows and the two halves of a panel.
type Sums<const R: usize> = [[__m256; 2]; R];

#[inline(always)]
unsafe fn few<F: Format, const VNNI: bool, const R: usize>(
    panel: *const u8,
    tile: &Tile,
    row: usize,
    p: usize,
    sink: &Sink<'_>,
) -> usize {
    // SAFETY: the panel holds the tile's blocks; rows row..row + R exist.
    unsafe {
        sink.prefetch(p, tile.row + row, R);
        let mut acc = [[_mm256_setzero_ps(); 2]; R];
        let mut group = panel;
        let mut block = 0;
        while block < tile.blocks {
            for b in 0..F::L.blocks.min(tile.blocks - block) {
                prefetch::<F, FAR>(group, b);
                let weights = Packed::<F>::new(group, b);
                step::<F, _, VNNI, R>(&mut acc, &weights, tile, block + b, row);
            }
            block += F::L.blocks;
            group = group.add(F::L.bytes());
        }
        emit(&acc, tile.row + row, p, sink);
    }
    R
}

#[inline(always)]
unsafe fn many<F: Format, const VNNI: bool, const R: usize>(
    unpacked: &mut Unpacked,
    tile: &Tile,
    row: usize,
    p: usize,
    sink: &Sink<'_>,
) -> usize {
    // SAFETY: the panel holds the tile's blocks; rows row..row + R exist.
    unsafe {
        sink.prefetch(p, tile.row + row, R);
        let mut acc = [[_mm256_setzero_ps(); 2]; R];
        for b in 0..tile.blocks {
            let weights = Ready::new(unpacked, b);
            step::<F, _, VNNI, R>(&mut acc, &weights, tile, b, row);
        }
        emit(&acc, tile.row + row, p, sink);
    }
    R
}

/// One block of R rows: the dot products and the one to three multiply-adds, as `scalar` defines them.
#[inline(always)]
unsafe fn step<F: Format, B: Block, const VNNI: bool, const R: usize>(
    acc: &mut Sums<R>,
    weights: &B,
    tile: &Tile,
    b: usize,
    row: usize,
) {
    // SAFETY: block and rows lie within the tile.
    unsafe {
        let at = b * tile.rows + row;
        let a = tile.q.add(at * BLOCK).cast::<i32>();
        let parts = if matches!(F::L.scheme, Scheme::Pair | Scheme::PairMin) {
            2
        } else {
            1
        };
        let sums = tile.sums.add(b * parts * tile.rows + row);
        let mut dot = [[_mm256_setzero_ps(); 2]; R];
        if parts == 1 {
            dot = float(&dots::<F, B, VNNI, R, 0, 8>(
                weights,
                a,
                &first::<F, R>(sums),
            ));
        } else {
            let halves = [
                dots::<F, B, VNNI, R, 0, 4>(weights, a, &first::<F, R>(sums)),
                dots::<F, B, VNNI, R, 4, 8>(weights, a, &first::<F, R>(sums.add(tile.rows))),
            ];
            let halves = [float(&halves[0]), float(&halves[1])];
            // Integers below 2^24, so float32 adds them exactly.
            for h in 0..2 {
                let sub = weights.sub(h);
                for r in 0..R {
                    let half = _mm256_mul_ps(halves[0][r][h], sub[0]);
                    dot[r][h] = _mm256_fmadd_ps(halves[1][r][h], sub[1], half);
                }
            }
        }
        for h in 0..2 {
            let d = weights.d(h);
            for r in 0..R {
                let scale = _mm256_mul_ps(d, _mm256_broadcast_ss(&*tile.d.add(at + r)));
                acc[r][h] = _mm256_fmadd_ps(dot[r][h], scale, acc[r][h]);
            }
            for part in 0..parts {
                if F::L.minima() {
                    let m = weights.m(h, part);
                    for r in 0..R {
                        let sum = sums.add(part * tile.rows + r).cast::<f32>();
                        acc[r][h] = _mm256_fmadd_ps(m, _mm256_broadcast_ss(&*sum), acc[r][h]);
                    }
                }
            }
        }
    }
}

/// What the integer sums of R rows begin with.
#[inline(always)]
unsafe fn first<F: Format, const R: usize>(sums: *const u32) -> [__m256i; R] {
    // SAFETY: R words from `sums` on.
    unsafe {
        let mut first = [_mm256_set1_epi32(MAGIC); R];
        if !F::L.minima() {
            for r in 0..R {
                first[r] = _mm256_add_epi32(first[r], _mm256_set1_epi32(*sums.add(r) as i32));
            }
        }
        first
    }
}

/// The integers that were added to [`MAGIC`].
#[inline(always)]
unsafe fn float<const R: usize>(dots: &[[__m256i; 2]; R]) -> [[__m256; 2]; R] {
    // SAFETY: registers only.
    unsafe {
        let magic = _mm256_castsi256_ps(_mm256_set1_epi32(MAGIC));
        let mut to = [[magic; 2]; R];
        for r in 0..R {
            for h in 0..2 {
                to[r][h] = _mm256_sub_ps(_mm256_castsi256_ps(dots[r][h]), magic);
            }
        }
        to
    }
}

/// Hands finished rows to the sink.
#[inline(always)]
unsafe fn emit<const R: usize>(acc: &Sums<R>, row: usize, p: usize, sink: &Sink<'_>) {
    let mut out = [[0f32; LANES]; R];
    // SAFETY: passed on.
    unsafe {
        for r in 0..R {
            _mm256_storeu_ps(out[r].as_mut_ptr(), acc[r][0]);
            _mm256_storeu_ps(out[r].as_mut_ptr().add(8), acc[r][1]);
        }
        sink.store(p, row, &out);
    }
}
