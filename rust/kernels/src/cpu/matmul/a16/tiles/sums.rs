//! Sums of byte products on their way from the tile unit to the sink.
use super::super::super::super::input::A16Tile;
use super::super::super::super::lanes::Lanes;
#[cfg(target_arch = "x86_64")]
use super::super::super::super::lanes::Zmm;
use super::super::super::super::pack::layout::LANES;
use super::super::super::super::tile_unit::{ROWS, Tiles};
use super::super::super::Work;
use super::super::super::sink::{Sink, Source};
use std::mem::MaybeUninit;

/// Integers of a tile.
const VALUES: usize = ROWS * LANES;

/// Vectors that can put sums of byte products together.
pub(in super::super) trait Join: Lanes {
    /// 2^16 a + 2^8 b + d, rounded as the oracle does it. Each has 16 integers, 256 apart from `from` on, in this order.
    ///
    /// # Safety
    /// As of [`Lanes`].
    unsafe fn join(from: *const i32) -> Self;

    /// [`Waiting::put`] for this instruction set.
    ///
    /// # Safety
    /// As of [`Waiting::put`], without its condition on inlining.
    unsafe fn put(waiting: &Waiting<'_>, from: usize, to: usize);
}

/// The sums of one or two tiles of activations by one panel. They wait in memory, to be joined beside products that do
/// not need them.
pub(in super::super) struct Waiting<'a> {
    sums: MaybeUninit<Sums>,
    work: &'a Work<'a>,
    sink: &'a Sink<'a>,
    panel: usize,
    /// First row of the input.
    row: usize,
    rows: usize,
    /// Rows that were handed over.
    done: usize,
}

/// `[tile][high x high, middle, low x low][16][16]`
#[repr(C, align(64))]
struct Sums([[[i32; VALUES]; 3]; 2]);

impl<'a> Waiting<'a> {
    pub fn new(work: &'a Work<'a>, sink: &'a Sink<'a>) -> Self {
        Waiting {
            sums: MaybeUninit::uninit(),
            work,
            sink,
            panel: 0,
            row: 0,
            rows: 0,
            done: 0,
        }
    }

    /// Takes the sums of a tile from registers 0 to 2; whatever waited is forgotten.
    #[inline(always)]
    pub unsafe fn take<T: Tiles>(&mut self, tiles: &T, panel: usize, tile: &A16Tile) {
        (self.panel, self.row, self.rows, self.done) = (panel, tile.row, tile.rows, 0);
        let to = self.sums.as_mut_ptr().cast::<i32>();
        // SAFETY: `sums` has room for six tiles.
        unsafe {
            tiles.store::<0>(to.cast(), 64);
            tiles.store::<1>(to.add(VALUES).cast(), 64);
            tiles.store::<2>(to.add(2 * VALUES).cast(), 64);
        }
    }

    /// Takes also those of the following tile, from registers 3 to 5.
    #[inline(always)]
    pub unsafe fn take_second<T: Tiles>(&mut self, tiles: &T, tile: &A16Tile) {
        self.rows += tile.rows;
        let to = self.sums.as_mut_ptr().cast::<i32>();
        // SAFETY: as of `take`.
        unsafe {
            tiles.store::<3>(to.add(3 * VALUES).cast(), 64);
            tiles.store::<4>(to.add(4 * VALUES).cast(), 64);
            tiles.store::<5>(to.add(5 * VALUES).cast(), 64);
        }
    }

    /// Joins up to `rows` rows that wait and hands them to the sink.
    ///
    /// # Safety
    /// As [`Sink::store`], and the machine has what `L` needs.
    #[inline(always)]
    pub unsafe fn hand_over<L: Join>(&mut self, rows: usize) {
        let to = (self.done + rows).min(self.rows);
        if self.done < to {
            // SAFETY: passed on; sums of so many rows were taken.
            unsafe { L::put(self, self.done, to) };
            self.done = to;
        }
    }

    /// The same with all that wait.
    ///
    /// # Safety
    /// As [`Waiting::hand_over`].
    #[inline(always)]
    pub unsafe fn finish<L: Join>(&mut self) {
        // SAFETY: passed on.
        unsafe { self.hand_over::<L>(self.rows) };
    }

    /// Joins rows `from..to` of those taken and hands them to the sink.
    ///
    /// # Safety
    /// As [`Sink::store`] and of [`Lanes`]; sums of these rows were taken.
    #[inline(always)]
    pub unsafe fn put<L: Join>(&self, from: usize, to: usize) {
        let (d, _) = self.work.matrix.panel_scales(self.panel);
        // SAFETY: the panel has a scale for each output, the input one for each row.
        unsafe {
            let joined = Joined {
                sums: self.sums.as_ptr().cast(),
                first: self.row,
                scales: self.work.input.a16_tile(self.row / ROWS).scales,
                d: L::load(d.as_ptr()),
            };
            let rows = self.row + from..self.row + to;
            self.sink.take(self.panel, rows, &joined);
        }
    }
}

/// Sums put together and scaled.
struct Joined<L> {
    sums: *const i32,
    /// The first row.
    first: usize,
    scales: *const f32,
    /// Scales of the outputs.
    d: L,
}

impl<L: Join> Source<L> for Joined<L> {
    #[inline(always)]
    unsafe fn row(&self, r: usize) -> L {
        let i = r - self.first;
        // SAFETY: sums and scales of the row are there.
        unsafe {
            let sums = self.sums.add(i / ROWS * 3 * VALUES + i % ROWS * LANES);
            L::join(sums).mul(L::splat(*self.scales.add(i))).mul(self.d)
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl Join for Zmm {
    #[inline(always)]
    unsafe fn join(from: *const i32) -> Self {
        use std::arch::x86_64::*;
        // SAFETY: inlined into a function with AVX-512; the integers are there.
        unsafe {
            let at = |i: usize| from.wrapping_add(VALUES * i).cast::<__m512i>();
            let (a, middle, d) = (at(0).read(), at(1).read(), at(2).read());
            // Carries go up: d and then the middle keep 8 bits each.
            let middle = _mm512_add_epi32(middle, _mm512_srai_epi32::<8>(d));
            let high = _mm512_add_epi32(a, _mm512_srai_epi32::<8>(middle));
            let byte = _mm512_set1_epi32(255);
            let low = _mm512_ternarylogic_epi32::<0xf8>(
                _mm512_slli_epi32::<8>(_mm512_and_si512(middle, byte)),
                d,
                byte,
            );
            let unit = _mm512_set1_ps(65536.0);
            Zmm(_mm512_fmadd_ps(
                _mm512_cvtepi32_ps(high),
                unit,
                _mm512_cvtepi32_ps(low),
            ))
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    unsafe fn put(waiting: &Waiting<'_>, from: usize, to: usize) {
        // SAFETY: passed on; the instruction set is enabled here.
        unsafe { waiting.put::<Zmm>(from, to) }
    }
}
