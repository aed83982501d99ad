//! bf16 weights against bf16 activations, sums in f32. On the tile unit blocks of 32 are added in K order, each as
//! [`Tiles::dot_bf16`] says; with AVX512_BF16 pairs are added in K order by `vdpbf16ps`. The two round differently, so a
//! machine uses one of them for every number of rows.
#![allow(clippy::needless_range_loop)] // several arrays run side by side
use super::super::buffer::prefetch;
use super::super::lanes::Lanes;
use super::super::pack::layout::LANES;
use super::super::tile_unit::{ROWS, Tiles};
use super::Work;
use super::sink::{Sink, Source};
use std::mem::MaybeUninit;

/// Bytes of a block of 32 columns: of 16 output rows, or of 16 rows of activations.
const BLOCK_BYTES: usize = 1024;
/// Bytes that weights are asked for ahead of their use.
const AHEAD: usize = 4096;

/// Two panels by two tiles of 16 rows at a time, so that each loaded tile serves two products.
///
/// # Safety
/// As [`super::run`], where the machine has what `T` needs; the input holds the bf16 form.
#[inline(always)]
pub(super) unsafe fn tiles<T: Tiles, L: Lanes>(work: &Work<'_>, sink: &Sink<'_>) {
    let count = work.input.tiles();
    // SAFETY: panels p.. and row tiles t.. exist.
    unsafe {
        let mut tiles = T::begin();
        let mut t = 0;
        while t < count {
            // Weights come from memory for the first rows and from the cache for the rest, and activations stay near.
            let fetch = t == 0;
            let mut p = work.panels.start;
            while p < work.panels.end {
                let wide = work.panels.end - p >= 2;
                match (count - t >= 2, wide) {
                    (true, true) => product::<T, L, 2, 2>(&mut tiles, work, sink, p, t, fetch),
                    (true, false) => product::<T, L, 2, 1>(&mut tiles, work, sink, p, t, fetch),
                    (false, true) => product::<T, L, 1, 2>(&mut tiles, work, sink, p, t, fetch),
                    (false, false) => product::<T, L, 1, 1>(&mut tiles, work, sink, p, t, fetch),
                }
                p += 2;
            }
            t += 2;
        }
    }
}

/// R tiles of rows by P panels. Tile registers: 0 to 3 sums, 4 and 5 activations, 6 and 7 weights.
#[inline(always)]
unsafe fn product<T: Tiles, L: Lanes, const R: usize, const P: usize>(
    tiles: &mut T,
    work: &Work<'_>,
    sink: &Sink<'_>,
    p: usize,
    t: usize,
    fetch: bool,
) {
    let input = work.input;
    let a = [
        input.bf16_tile(t).cast::<u8>(),
        input.bf16_tile(t + R - 1).cast::<u8>(),
    ];
    let b = [
        work.matrix.panel(p).as_ptr(),
        work.matrix.panel(p + P - 1).as_ptr(),
    ];
    // A tile of fewer rows is read on into the next block: those sums are never used.
    let height = [input.tile_rows(t), input.tile_rows(t + R - 1)];
    // SAFETY: the panels and the tiles hold the input's blocks; the input's buffers reach 16 rows beyond their last.
    unsafe {
        for i in 0..R {
            for j in 0..P {
                sink.prefetch(p + j, (t + i) * ROWS, height[i]);
            }
        }
        tiles.zero::<0>();
        tiles.zero::<1>();
        tiles.zero::<2>();
        tiles.zero::<3>();
        for block in 0..input.blocks() {
            let at = block * BLOCK_BYTES;
            if fetch {
                for i in 0..P {
                    ask(b[i].wrapping_add(at + AHEAD));
                }
            }
            tiles.load::<4>(a[0].add(block * height[0] * 64), 64);
            tiles.load::<6>(b[0].add(at), 64);
            tiles.dot_bf16::<0, 4, 6>();
            if P == 2 {
                tiles.load::<7>(b[1].add(at), 64);
                tiles.dot_bf16::<1, 4, 7>();
            }
            if R == 2 {
                tiles.load::<5>(a[1].add(block * height[1] * 64), 64);
                tiles.dot_bf16::<2, 5, 6>();
                if P == 2 {
                    tiles.dot_bf16::<3, 5, 7>();
                }
            }
        }
        for i in 0..R {
            for j in 0..P {
                hand_over::<T, L>(tiles, 2 * i + j, sink, p + j, (t + i) * ROWS, height[i]);
            }
        }
    }
}

/// Hands the sums of tile register `from` to the sink: `height` rows of panel `p` from `row` on.
#[inline(always)]
unsafe fn hand_over<T: Tiles, L: Lanes>(
    tiles: &T,
    from: usize,
    sink: &Sink<'_>,
    p: usize,
    row: usize,
    height: usize,
) {
    let mut sums = MaybeUninit::<Sums>::uninit();
    let to = sums.as_mut_ptr().cast::<u8>();
    // SAFETY: a store writes a whole tile; rows and panel are the caller's.
    unsafe {
        match from {
            0 => tiles.store::<0>(to, 64),
            1 => tiles.store::<1>(to, 64),
            2 => tiles.store::<2>(to, 64),
            _ => tiles.store::<3>(to, 64),
        }
        let sums = (sums.assume_init_ref(), row);
        sink.take::<L>(p, row..row + height, &sums);
    }
}

/// The sums of a tile.
#[repr(C, align(64))]
struct Sums([[f32; LANES]; ROWS]);

/// With the first row.
impl<L: Lanes> Source<L> for (&Sums, usize) {
    #[inline(always)]
    unsafe fn row(&self, r: usize) -> L {
        // SAFETY: the tile has the row.
        unsafe { L::load(self.0.0[r - self.1].as_ptr()) }
    }
}

/// Asks for a block of weights, which need not exist.
#[inline(always)]
fn ask(at: *const u8) {
    (0..BLOCK_BYTES / 64).for_each(|line| prefetch::<1>(at.wrapping_add(64 * line)));
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{amx, avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::super::super::lanes::Zmm;
    use super::super::super::tile_unit::Amx;
    use super::{AHEAD, BLOCK_BYTES, LANES, Sink, Work, prefetch};
    use std::arch::x86_64::*;

    /// # Safety
    /// As [`super::tiles`], on a machine with AMX-BF16 and AVX-512.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    pub unsafe fn amx(work: &Work<'_>, sink: &Sink<'_>) {
        // SAFETY: passed on.
        unsafe { super::tiles::<Amx, Zmm>(work, sink) }
    }

    /// # Safety
    /// As [`super::tiles`], on a machine with AVX512_BF16.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
    pub unsafe fn avx512(work: &Work<'_>, sink: &Sink<'_>) {
        let rows = work.input.rows();
        let mut p = work.panels.start;
        while p < work.panels.end {
            let left = work.panels.end - p;
            let at_once = match rows {
                ..=4 if left >= 4 => 4,
                ..=8 if left >= 2 => 2,
                _ => 1,
            };
            let mut r = 0;
            while r < rows {
                let left = (rows - r).min(16 - r % 16);
                // SAFETY: rows r.. and panels p.. exist; rows stay within a tile.
                r += unsafe {
                    match (left, at_once) {
                        (4.., 4) => few::<4, 4>(work, sink, p, r),
                        (2.., 4) => few::<2, 4>(work, sink, p, r),
                        (_, 4) => few::<1, 4>(work, sink, p, r),
                        (4.., 2) => few::<4, 2>(work, sink, p, r),
                        (2.., 2) => few::<2, 2>(work, sink, p, r),
                        (_, 2) => few::<1, 2>(work, sink, p, r),
                        (16.., _) => few::<16, 1>(work, sink, p, r),
                        (8.., _) => few::<8, 1>(work, sink, p, r),
                        (4.., _) => few::<4, 1>(work, sink, p, r),
                        (2.., _) => few::<2, 1>(work, sink, p, r),
                        _ => few::<1, 1>(work, sink, p, r),
                    }
                };
            }
            p += at_once;
        }
    }

    /// R rows by P panels; gives R.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
    unsafe fn few<const R: usize, const P: usize>(
        work: &Work<'_>,
        sink: &Sink<'_>,
        p: usize,
        row: usize,
    ) -> usize {
        let height = work.input.tile_rows(row / 16);
        let mut w = [std::ptr::null::<u8>(); P];
        for i in 0..P {
            w[i] = work.matrix.panel(p + i).as_ptr();
        }
        // SAFETY: the panels and the tile hold the input's blocks; rows row..row + R lie in one tile.
        unsafe {
            for i in 0..P {
                sink.prefetch(p + i, row, R);
            }
            let a = work
                .input
                .bf16_tile(row / 16)
                .add(row % 16 * 32)
                .cast::<i32>();
            let mut acc = [[_mm512_setzero_ps(); P]; R];
            for block in 0..work.input.blocks() {
                for pair in 0..16 {
                    let mut columns = [_mm512_setzero_si512(); P];
                    for i in 0..P {
                        let at = w[i].add(block * BLOCK_BYTES + pair * 64);
                        prefetch::<1>(at.wrapping_add(AHEAD));
                        columns[i] = _mm512_load_si512(at.cast());
                    }
                    for r in 0..R {
                        let x = *a.add((block * height + r) * 16 + pair);
                        let x = bf16(_mm512_set1_epi32(x));
                        for i in 0..P {
                            acc[r][i] = _mm512_dpbf16_ps(acc[r][i], bf16(columns[i]), x);
                        }
                    }
                }
            }
            for i in 0..P {
                let mut out = [[0f32; LANES]; R];
                for r in 0..R {
                    _mm512_storeu_ps(out[r].as_mut_ptr(), acc[r][i]);
                }
                sink.store(p + i, row, &out);
            }
        }
        R
    }

    #[inline(always)]
    unsafe fn bf16(v: __m512i) -> __m512bh {
        // SAFETY: both are 64 bytes of any bits.
        unsafe { std::mem::transmute(v) }
    }
}

#[cfg(test)]
mod tests;
