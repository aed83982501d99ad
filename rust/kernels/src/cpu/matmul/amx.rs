//! The quantised product of many rows on the tile unit: panels are unpacked once to signed bytes, a tile product gives
//! the integer dots of a block for 16 rows, and vectors add them as `scalar` defines it. Same bits as `scalar`.
#![allow(clippy::needless_range_loop)] // several arrays run side by side
use super::super::input::{TILE, Tile};
use super::super::lanes::Lanes;
use super::super::pack::layout::{BLOCK, LANES, Scheme};
use super::Work;
use super::formats::Format;
use super::sink::Sink;
use super::tiles::{Dots, Tiles};
use super::unpacked::Unpacked;

/// Unpacks a panel to signed weights and f32 scales.
pub(super) type Unpack = unsafe fn(*const u8, &mut Unpacked);

/// # Safety
/// As [`super::run`], on a machine with AMX-INT8 and AVX-512.
#[cfg(target_arch = "x86_64")]
pub(super) unsafe fn run<F: Format>(work: &Work<'_>, sink: &Sink<'_>) {
    // SAFETY: passed on.
    Unpacked::with(work.input.blocks(), |unpacked| unsafe {
        panels::<F>(unpacked, work, sink)
    });
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn panels<F: Format>(unpacked: &mut Unpacked, work: &Work<'_>, sink: &Sink<'_>) {
    use super::super::lanes::Zmm;
    let unpack = super::avx512::panel::unpack::<F, true>;
    // SAFETY: passed on; the instruction set is enabled here.
    unsafe {
        body::<F, super::tiles::Amx, Zmm>(unpack, unpacked, work, sink);
        super::tiles::release();
    }
}

/// # Safety
/// As [`super::run`], where the machine has what `T` and `L` need.
#[inline(always)]
unsafe fn body<F: Format, T: Tiles, L: Lanes>(
    unpack: Unpack,
    unpacked: &mut Unpacked,
    work: &Work<'_>,
    sink: &Sink<'_>,
) {
    let input = work.input;
    let (whole, rest) = (input.rows() / TILE, input.rows() % TILE);
    // SAFETY: panels and tiles exist; passed on.
    unsafe {
        let tiles = T::new(rest.max(1), if split::<F>() { 16 } else { 32 });
        for p in work.panels.clone() {
            unpack(work.matrix.panel(p).as_ptr(), unpacked);
            if whole > 0 {
                whole_tiles::<F, T, L>(&tiles, unpacked, &input.tile(0, &F::L), whole, p, sink);
            }
            if rest > 0 {
                let tile = input.tile(whole, &F::L);
                match rest {
                    13.. => last_tile::<F, T, L, 16>(&tiles, unpacked, &tile, p, sink),
                    9.. => last_tile::<F, T, L, 12>(&tiles, unpacked, &tile, p, sink),
                    5.. => last_tile::<F, T, L, 8>(&tiles, unpacked, &tile, p, sink),
                    _ => last_tile::<F, T, L, 4>(&tiles, unpacked, &tile, p, sink),
                }
            }
        }
    }
}

/// Whether the halves of a block are multiplied apart, for their sub-scales.
const fn split<F: Format>() -> bool {
    matches!(F::L.scheme, Scheme::Pair)
}

/// Products of a block: of all 32, or of each half.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub(super) struct Products([Dots; 2]);

/// Products held at once.
pub(super) const RING: usize = 4;

/// Blocks that the tile unit is ahead of the vectors, so that neither waits for the other; see [`RING`].
const AHEAD: usize = 3;

/// `count` tiles of 16 rows, of which `tile` is the first, against an unpacked panel. Their blocks follow one another
/// in memory, so all of them are one sequence.
#[inline(always)]
unsafe fn whole_tiles<F: Format, T: Tiles, L: Lanes>(
    tiles: &T,
    unpacked: &mut Unpacked,
    tile: &Tile,
    count: usize,
    p: usize,
    sink: &Sink<'_>,
) {
    let ring = unpacked.products().cast::<Products>();
    let (blocks, total) = (tile.blocks, tile.blocks * count);
    // SAFETY: blocks lie within tiles and panel.
    unsafe {
        let mut next = (0, 0); // in the sequence, in the panel
        while next.0 < AHEAD.min(total) {
            let to = ring.add(next.0 % RING);
            multiply::<F, T>(tiles, false, unpacked, tile, next, to);
            next = (
                next.0 + 1,
                if next.1 + 1 == blocks { 0 } else { next.1 + 1 },
            );
        }
        let mut at = 0;
        for t in 0..count {
            let row = tile.row + t * TILE;
            sink.expect(p, row, TILE);
            let mut acc = [L::splat(0.0); TILE];
            for b in 0..blocks {
                if next.0 < total {
                    let to = ring.add(next.0 % RING);
                    multiply::<F, T>(tiles, false, unpacked, tile, next, to);
                    next = (
                        next.0 + 1,
                        if next.1 + 1 == blocks { 0 } else { next.1 + 1 },
                    );
                }
                let scales = unpacked.scales(b, 0);
                add::<F, L, TILE>(&mut acc, ring.add(at % RING), scales, tile, at);
                at += 1;
            }
            emit(&acc, row, TILE, p, sink);
        }
    }
}

/// The last tile, of up to H rows. What lies between the tile's rows and H is anything and is left out.
#[inline(always)]
unsafe fn last_tile<F: Format, T: Tiles, L: Lanes, const H: usize>(
    tiles: &T,
    unpacked: &mut Unpacked,
    tile: &Tile,
    p: usize,
    sink: &Sink<'_>,
) {
    let ring = unpacked.products().cast::<Products>();
    // SAFETY: blocks lie within tile and panel; the input's buffers reach 16 rows beyond their last.
    unsafe {
        sink.expect(p, tile.row, tile.rows);
        let mut acc = [L::splat(0.0); H];
        for b in 0..AHEAD.min(tile.blocks) {
            multiply::<F, T>(tiles, true, unpacked, tile, (b, b), ring.add(b % RING));
        }
        for b in 0..tile.blocks {
            let next = b + AHEAD;
            if next < tile.blocks {
                multiply::<F, T>(
                    tiles,
                    true,
                    unpacked,
                    tile,
                    (next, next),
                    ring.add(next % RING),
                );
            }
            add::<F, L, H>(&mut acc, ring.add(b % RING), unpacked.scales(b, 0), tile, b);
        }
        emit(&acc, tile.row, tile.rows, p, sink);
    }
}

/// Hands the first `height` rows to the sink.
#[inline(always)]
unsafe fn emit<L: Lanes, const H: usize>(
    acc: &[L; H],
    row: usize,
    height: usize,
    p: usize,
    sink: &Sink<'_>,
) {
    let mut out = [[0f32; LANES]; H];
    // SAFETY: passed on.
    unsafe {
        for r in 0..H {
            acc[r].store(out[r].as_mut_ptr());
        }
        sink.store(p, row, &out[..height.min(H)]);
    }
}

/// The integer products of block `at.0` of the activations and block `at.1` of the panel.
#[inline(always)]
unsafe fn multiply<F: Format, T: Tiles>(
    tiles: &T,
    rest: bool,
    unpacked: &mut Unpacked,
    tile: &Tile,
    at: (usize, usize),
    to: *mut Products,
) {
    // SAFETY: block b lies within tile and panel.
    unsafe {
        let a = tile.q.add(at.0 * tile.rows * BLOCK);
        let w = unpacked.weights(at.1);
        tiles.dot(rest, a, w, &raw mut (*to).0[0]);
        if split::<F>() {
            tiles.dot(rest, a.add(16), w.add(256), &raw mut (*to).0[1]);
        }
    }
}

/// Adds block `b`.
#[inline(always)]
unsafe fn add<F: Format, L: Lanes, const H: usize>(
    acc: &mut [L; H],
    products: *const Products,
    scales: *const f32,
    tile: &Tile,
    b: usize,
) {
    // SAFETY: five vectors of scales; the tile's block b, and room beyond the last row.
    unsafe {
        let d = L::load(scales);
        let at = tile.d.add(b * tile.rows);
        let (m, m2) = (L::load(scales.add(LANES)), L::load(scales.add(2 * LANES)));
        let (s, s2) = (
            L::load(scales.add(3 * LANES)),
            L::load(scales.add(4 * LANES)),
        );
        let parts = if matches!(F::L.scheme, Scheme::PairMin | Scheme::Pair) {
            2
        } else {
            1
        };
        let sums = tile.sums.add(b * parts * tile.rows).cast::<f32>();
        for r in 0..H {
            let mut dot = L::load_i32((&raw const (*products).0[0][r]).cast());
            if split::<F>() {
                // Integers below 2^24, so float32 adds them exactly.
                let second = L::load_i32((&raw const (*products).0[1][r]).cast());
                dot = second.fma(s2, dot.mul(s));
            }
            acc[r] = dot.fma(d.mul(L::splat(*at.add(r))), acc[r]);
            match F::L.scheme {
                Scheme::Scale | Scheme::Pair => {}
                Scheme::ScaleMin | Scheme::SubMin => {
                    acc[r] = m.fma(L::splat(*sums.add(r)), acc[r]);
                }
                Scheme::PairMin => {
                    acc[r] = m.fma(L::splat(*sums.add(r)), acc[r]);
                    acc[r] = m2.fma(L::splat(*sums.add(tile.rows + r)), acc[r]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
