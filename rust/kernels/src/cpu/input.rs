//! Activations in every form that the matrices they meet need: float32, blocks of bytes or words, bf16, fixed point; the norm
//! fused before.
//! Knows the packed storage kinds, no matrix product.
mod a16;
mod forms;
mod quantise;
mod several;

use super::buffer::Buffer;
use super::matmul::a16::TILE_ROWS;
use super::pack::layout::{BLOCK, Layout, Scheme};
use super::pack::{Matrix, Storage};
use super::{Compute, Isa, Norm};
use forms::{Forms, Source};
pub(crate) use several::{Filling, fill_each};

/// Rows of a tile: activations of 16 rows lie together, block by block.
pub(crate) const TILE: usize = 16;
/// Kinds of block sums, see [`Sums`].
const SUMS: usize = 8;
/// A word of activations in two bytes is `high << LOW_BITS` plus low.
#[cfg(target_arch = "aarch64")]
pub(crate) const LOW_BITS: i32 = 7;

/// Integers that activations are rounded to.
pub(crate) trait Rounded: Copy + Default + Into<i32> {
    /// The largest magnitude.
    const PEAK: f32;
    /// Where an input keeps them, and the kinds of sums it has beside.
    fn of(input: &Input) -> (&Blocks, u32);
}

/// Weights of work (rows x columns) under which `fill` stays on the calling thread.
const SERIAL: usize = 16 * 1024;

/// What a scheme needs to know of a block's activations beside the values: one or two words a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sums {
    /// Place in [`Input::sums`].
    pub index: usize,
    /// Words a block: one for 32, or one for each 16.
    pub parts: usize,
    /// 0: f32 scale * sum; else i32 -offset * sum.
    pub offset: i32,
}

impl Sums {
    pub const fn of(layout: &Layout) -> Sums {
        let index = match (layout.scheme, layout.offset) {
            (Scheme::Scale, 8) => 0,
            (Scheme::Scale, 16) => 1,
            (Scheme::Scale, _) => 2,
            (Scheme::ScaleMin | Scheme::SubMin, _) => 3,
            (Scheme::PairMin, _) => 4,
            (Scheme::Pair, 4) => 5,
            (Scheme::Pair, 32) => 6,
            (Scheme::Pair, _) => 7,
        };
        Sums {
            index,
            parts: layout.parts(),
            offset: layout.offset,
        }
    }
}

/// Blocks of 32 activations as integers with a scale each.
#[derive(Debug, Default)]
pub(crate) struct Blocks {
    /// i8 or i16 `[tile][block][row][32]`; a tile has 16 rows, the last one what is left. With NEON, where bytes are
    /// multiplied, the i16 of a block and row are 32 high bytes and 32 low ones, see [`LOW_BITS`].
    q: Buffer,
    /// f32 `[tile][block][row]`: scales.
    d: Buffer,
    /// `[tile][block][part][row]`
    sums: [Buffer; SUMS],
}

impl Blocks {
    /// Makes room for `cells` blocks of integers of `bytes` bytes, with the sums of `kinds`.
    fn reserve(&mut self, kinds: u32, cells: usize, bytes: usize) {
        if kinds == 0 {
            return;
        }
        self.q.reserve(cells * BLOCK * bytes);
        self.d.reserve(cells * 4);
        for (i, sums) in self.sums.iter_mut().enumerate() {
            if kinds & 1 << i != 0 {
                sums.reserve(cells * 8);
            }
        }
    }

    fn writer<T>(&mut self, kinds: u32) -> forms::BlocksWriter<T> {
        forms::BlocksWriter {
            kinds,
            q: self.q.as_mut_ptr().cast(),
            d: self.d.as_mut_ptr().cast(),
            sums: std::array::from_fn(|i| self.sums[i].as_mut_ptr().cast()),
        }
    }
}

/// Activations `[rows, k]` in the forms that matrices need. Buffers are kept from call to call.
#[derive(Debug, Default)]
pub struct Input {
    rows: usize,
    k: usize,
    /// Blocks of 32 a row, the last padded with zeros.
    blocks: usize,
    forms: Forms,
    /// f32 `[rows][blocks * 32]`
    x: Buffer,
    /// 8-bit integers.
    a8: Blocks,
    /// 15-bit integers.
    a15: Blocks,
    /// bf16 `[tile][block][row][32]`
    bf16: Buffer,
    /// Fixed point `[tile][chunk of 64][high, low][row][64]` bytes, padded with zeros.
    a16: Buffer,
    /// i32 `[tile][block][half of 16][row]`: sums of the fixed-point values.
    a16_sums: Buffer,
    /// f32 `[row]`: scales of the fixed-point values.
    a16_scales: Buffer,
}

/// Fixed-point activations of up to 16 rows: integers of 16 bits, cut into two signed bytes, high * 256 + low.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
pub(crate) struct A16Tile {
    bytes: *const i8,
    /// `[block][half][rows]`; filled only where vectors multiply.
    pub sums: *const i32,
    /// `[rows]`
    pub scales: *const f32,
    /// Rows here.
    pub rows: usize,
    /// The first one's place in the input.
    pub row: usize,
    /// Blocks of 32.
    pub blocks: usize,
}

impl A16Tile {
    /// High (0) or low (1) bytes of block `b` of a row.
    #[inline(always)]
    pub fn part(&self, row: usize, b: usize, part: usize) -> *const i8 {
        let line = (b / 2 * 2 + part) * self.rows + row;
        self.bytes.wrapping_add(line * 64 + b % 2 * BLOCK)
    }
}

/// Integer activations of up to 16 rows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tile<T = i8> {
    /// `[block][rows][32]`
    pub q: *const T,
    /// `[block][rows]`
    pub d: *const f32,
    /// `[block][part][rows]`
    pub sums: *const u32,
    /// Rows here.
    pub rows: usize,
    /// The first one's place in the input.
    pub row: usize,
    /// Blocks of 32.
    pub blocks: usize,
}

/// A block of 15-bit activations, from one of its tile's rows on: two along K are one word of 32 bits.
#[cfg(target_arch = "x86_64")]
pub(crate) struct Pairs {
    /// `[rows][PAIRS]`
    q: *const i32,
    /// `[rows]`
    pub d: *const f32,
    /// `[part][tile's rows]`
    sums: *const u32,
    rows: usize,
}

#[cfg(target_arch = "x86_64")]
impl Pairs {
    /// Those of a row.
    pub const COUNT: usize = BLOCK / 2;

    /// Block `b` of `tile` from `row` on, for weights of `layout`.
    #[inline(always)]
    pub fn new(layout: &Layout, tile: &Tile<i16>, b: usize, row: usize) -> Self {
        let at = b * tile.rows + row;
        let sums = b * layout.parts() * tile.rows + row;
        Pairs {
            q: tile.q.wrapping_add(at * BLOCK).cast(),
            d: tile.d.wrapping_add(at),
            sums: tile.sums.wrapping_add(sums),
            rows: tile.rows,
        }
    }

    /// Pair `i` of row `r`.
    #[inline(always)]
    pub fn pair(&self, r: usize, i: usize) -> *const i32 {
        self.q.wrapping_add(r * Self::COUNT + i)
    }

    /// The sum of a part of row `r`.
    #[inline(always)]
    pub fn sum(&self, part: usize, r: usize) -> *const u32 {
        self.sums.wrapping_add(part * self.rows + r)
    }
}

impl Input {
    /// Holds nothing yet.
    pub fn new() -> Input {
        Input::default()
    }

    /// Rows held.
    pub fn rows(&self) -> usize {
        self.rows
    }
    /// Columns held.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Takes `x` (`[rows, k]`, row-major), normalised first where `norm` is given, in the forms that `matrices` need.
    /// A row's bits do not depend on the other rows, the instruction set or the threads.
    ///
    /// # Panics
    /// When `x`, the norm's weight or a matrix does not have `k` columns.
    pub fn fill(
        &mut self,
        cx: &Compute,
        x: &[f32],
        rows: usize,
        k: usize,
        norm: Option<Norm<'_>>,
        matrices: &[&Matrix],
    ) {
        assert_eq!(x.len(), rows * k, "fill: x is not [rows, k]");
        assert!(
            norm.is_none_or(|n| n.weight.len() == k && n.bias.is_none_or(|b| b.len() == k)),
            "fill: the norm's weight is not [k]"
        );
        assert!(
            matrices.iter().all(|m| m.k() == k),
            "fill: a matrix has other columns than x"
        );
        self.forms = Forms::of(cx, matrices);
        let source = Source {
            x,
            k,
            rows: None,
            norm,
        };
        self.fill_forms(cx, source, rows);
    }

    /// As [`Input::fill`] with the bf16 form alone.
    #[cfg(test)]
    pub(crate) fn fill_bf16(&mut self, cx: &Compute, x: &[f32], rows: usize, k: usize) {
        self.forms = Forms {
            bf16: true,
            ..Forms::default()
        };
        let source = Source {
            x,
            k,
            rows: None,
            norm: None,
        };
        self.fill_forms(cx, source, rows);
    }

    fn fill_forms(&mut self, cx: &Compute, source: Source<'_>, rows: usize) {
        let k = source.k;
        let writer = self.prepare(cx, rows, k);
        let (tiles, cpu) = (self.tiles(), cx.cpu);
        // SAFETY: every buffer was made large enough above, and each tile is written by one task.
        let fill = |t: usize| unsafe { forms::fill(cpu, &source, &writer, t) };
        if rows * k < SERIAL {
            (0..tiles).for_each(fill);
        } else {
            cx.pool.for_each(tiles, &fill);
        }
    }

    /// Makes room for `rows` rows of `k` columns in the forms that are asked for; the writer fills it.
    fn prepare(&mut self, cx: &Compute, rows: usize, k: usize) -> forms::Writer {
        (self.rows, self.k, self.blocks) = (rows, k, k.div_ceil(BLOCK));
        // The tile kernels may read the place of up to 15 rows beyond the last.
        let cells = (rows + TILE) * self.blocks;
        if self.forms.f32 {
            self.x.reserve(cells * BLOCK * 4);
        }
        self.a8.reserve(self.forms.a8, cells, 1);
        self.a15.reserve(self.forms.a15, cells, 2);
        if self.forms.bf16 {
            self.bf16.reserve(cells * BLOCK * 2);
        }
        if self.forms.a16 {
            self.a16.reserve((rows + TILE) * self.chunks() * 128);
            self.a16_sums.reserve(cells * 8);
            self.a16_scales.reserve((rows + TILE) * 4);
            // The tile unit has no use for the sums.
            self.forms.a16_sums = cx.cpu.isa() != Isa::Amx || rows < TILE_ROWS;
        }
        self.writer()
    }

    fn writer(&mut self) -> forms::Writer {
        forms::Writer {
            rows: self.rows,
            blocks: self.blocks,
            forms: self.forms,
            x: self.x.as_mut_ptr().cast(),
            a8: self.a8.writer(self.forms.a8),
            a15: self.a15.writer(self.forms.a15),
            bf16: self.bf16.as_mut_ptr().cast(),
            a16: self.a16.as_mut_ptr().cast(),
            a16_sums: self.a16_sums.as_mut_ptr().cast(),
            a16_scales: self.a16_scales.as_mut_ptr().cast(),
        }
    }

    /// Fixed-point form of tile `t`.
    pub(crate) fn a16_tile(&self, t: usize) -> A16Tile {
        debug_assert!(self.forms.a16);
        let row = t * TILE;
        A16Tile {
            bytes: self
                .a16
                .as_ptr()
                .cast::<i8>()
                .wrapping_add(row * self.chunks() * 128),
            sums: self
                .a16_sums
                .as_ptr()
                .cast::<i32>()
                .wrapping_add(row * self.blocks * 2),
            scales: self.a16_scales.as_ptr().cast::<f32>().wrapping_add(row),
            rows: self.tile_rows(t),
            row,
            blocks: self.blocks,
        }
    }

    /// Chunks of 64 columns, the last padded.
    pub(crate) fn chunks(&self) -> usize {
        self.blocks.div_ceil(2)
    }

    /// Whether the form that a matrix needs is held.
    pub(crate) fn serves(&self, cx: &Compute, matrix: &Matrix) -> bool {
        let mut need = Forms::default();
        need.add(cx.cpu, matrix.storage);
        matrix.k() == self.k && self.forms.has(need)
    }

    /// Tiles of 16 rows.
    pub(crate) fn tiles(&self) -> usize {
        self.rows.div_ceil(TILE)
    }

    /// Rows of tile `t`.
    pub(crate) fn tile_rows(&self, t: usize) -> usize {
        (self.rows - t * TILE).min(TILE)
    }

    /// Integer form of tile `t` for weights of `layout`.
    pub(crate) fn tile<T: Rounded>(&self, t: usize, layout: &Layout) -> Tile<T> {
        let sums = Sums::of(layout);
        let cell = t * TILE * self.blocks;
        let (from, kinds) = T::of(self);
        debug_assert!(kinds & 1 << sums.index != 0);
        Tile {
            q: from.q.as_ptr().cast::<T>().wrapping_add(cell * BLOCK),
            d: from.d.as_ptr().cast::<f32>().wrapping_add(cell),
            sums: from.sums[sums.index]
                .as_ptr()
                .cast::<u32>()
                .wrapping_add(cell * sums.parts),
            rows: self.tile_rows(t),
            row: t * TILE,
            blocks: self.blocks,
        }
    }

    /// Float32 form: row-major, rows of [`Input::stride`] values padded with zeros.
    pub(crate) fn x(&self) -> *const f32 {
        self.x.as_ptr().cast()
    }

    /// Values between the starts of two rows of [`Input::x`].
    pub(crate) fn stride(&self) -> usize {
        self.blocks * BLOCK
    }

    /// bf16 form of tile `t`: `[block][rows][32]`.
    #[cfg(any(target_arch = "x86_64", test))]
    pub(crate) fn bf16_tile(&self, t: usize) -> *const u16 {
        self.bf16
            .as_ptr()
            .cast::<u16>()
            .wrapping_add(t * TILE * self.blocks * BLOCK)
    }

    /// Blocks of 32 columns, the last padded.
    pub(crate) fn blocks(&self) -> usize {
        self.blocks
    }
}

impl Rounded for i8 {
    const PEAK: f32 = 127.0;
    fn of(input: &Input) -> (&Blocks, u32) {
        (&input.a8, input.forms.a8)
    }
}

impl Rounded for i16 {
    // With it the oracle's integers, at most 32 products of 4,096 and an activation, stay below 2^31.
    const PEAK: f32 = 16383.0;
    fn of(input: &Input) -> (&Blocks, u32) {
        (&input.a15, input.forms.a15)
    }
}

impl Forms {
    /// Those that the matrices need.
    fn of(cx: &Compute, matrices: &[&Matrix]) -> Forms {
        let mut forms = Forms::default();
        for matrix in matrices {
            forms.add(cx.cpu, matrix.storage);
        }
        forms
    }

    fn add(&mut self, cpu: super::Cpu, storage: Storage) {
        let kind = |ty| Layout::of(ty).map_or(0, |layout| 1 << Sums::of(&layout).index);
        match storage {
            Storage::A8(ty) => self.a8 |= kind(ty),
            Storage::A15(ty) => self.a15 |= kind(ty),
            Storage::A16(_) => self.a16 = true,
            Storage::Bf16 { dot: true } if super::matmul::bf16_dot(cpu) => self.bf16 = true,
            _ => self.f32 = true,
        }
    }
}

#[cfg(test)]
mod tests;
