//! The quantised product of many rows on the tile unit: panels are unpacked once to signed bytes, a tile product gives
//! the integer dots of a block for 16 rows, and vectors add them as `scalar` defines it. Same bits as `scalar`.
#![allow(clippy::needless_range_loop)] // several arrays run side by side
use super::super::input::Tile;
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
    let last = input.tiles() - 1;
    let rest = input.tile_rows(last);
    // SAFETY: panels and tiles exist; passed on.
    unsafe {
        let tiles = T::new(rest, if split::<F>() { 16 } else { 32 });
        for p in work.panels.clone() {
            unpack(work.matrix.panel(p).as_ptr(), unpacked);
            for t in 0..last {
                let tile = input.tile(t, &F::L);
                rows::<F, T, L, 16>(&tiles, false, unpacked, &tile, p, sink);
            }
            let tile = input.tile(last, &F::L);
            match rest {
                13.. => rows::<F, T, L, 16>(&tiles, true, unpacked, &tile, p, sink),
                9.. => rows::<F, T, L, 12>(&tiles, true, unpacked, &tile, p, sink),
                5.. => rows::<F, T, L, 8>(&tiles, true, unpacked, &tile, p, sink),
                _ => rows::<F, T, L, 4>(&tiles, true, unpacked, &tile, p, sink),
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
struct Products([Dots; 2]);

/// One tile of up to H rows against an unpacked panel. Rows between the tile's and H hold anything and are left out.
#[inline(always)]
unsafe fn rows<F: Format, T: Tiles, L: Lanes, const H: usize>(
    tiles: &T,
    rest: bool,
    unpacked: &mut Unpacked,
    tile: &Tile,
    p: usize,
    sink: &Sink<'_>,
) {
    // Two blocks' products, in turn.
    let products = unpacked.products().cast::<Products>();
    // SAFETY: blocks lie within tile and panel; the input's buffers reach 16 rows beyond their last.
    unsafe {
        let mut acc = [L::splat(0.0); H];
        multiply::<F, T>(tiles, rest, unpacked, tile, 0, products);
        for b in 0..tile.blocks {
            // The tile unit works on the next block while vectors add this one.
            if b + 1 < tile.blocks {
                let to = products.add((b + 1) % 2);
                multiply::<F, T>(tiles, rest, unpacked, tile, b + 1, to);
            }
            add::<F, L, H>(
                &mut acc,
                products.add(b % 2),
                unpacked.scales(b, 0),
                tile,
                b,
            );
        }
        let mut out = [[0f32; LANES]; H];
        for r in 0..H {
            acc[r].store(out[r].as_mut_ptr());
        }
        sink.store(p, tile.row, &out[..tile.rows.min(H)]);
    }
}

/// The integer products of block `b`.
#[inline(always)]
unsafe fn multiply<F: Format, T: Tiles>(
    tiles: &T,
    rest: bool,
    unpacked: &mut Unpacked,
    tile: &Tile,
    b: usize,
    to: *mut Products,
) {
    // SAFETY: block b lies within tile and panel.
    unsafe {
        let a = tile.q.add(b * tile.rows * BLOCK);
        let w = unpacked.weights(b);
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
