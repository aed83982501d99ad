//! Rows of activations: the norm, then float32, blocks of integers and bf16, with the same bits on every instruction set.
//! Knows no matrix.
#[cfg(target_arch = "aarch64")]
use super::super::lanes::Neon;
use super::super::lanes::{Lanes, Plain};
#[cfg(target_arch = "x86_64")]
use super::super::lanes::{Ymm, Zmm};
use super::super::norm::normalise;
use super::super::{Cpu, Isa, Norm};
use super::a16::{Split, a16};
use super::quantise::{CHUNK, Chunk, Integers, Quantise};
use super::{BLOCK, SUMS, TILE};
use std::cell::RefCell;

/// Forms of activations: what to write.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Forms {
    pub f32: bool,
    pub bf16: bool,
    pub a16: bool,
    pub a16_sums: bool,
    /// Bit i: sums of kind i (and so the 8-bit integers).
    pub a8: u32,
    /// The same with 15-bit integers.
    pub a15: u32,
}

impl Forms {
    /// Whether all of `other` is here.
    pub fn has(self, other: Forms) -> bool {
        (self.f32 || !other.f32)
            && (self.bf16 || !other.bf16)
            && (self.a16 || !other.a16)
            && self.a8 & other.a8 == other.a8
            && self.a15 & other.a15 == other.a15
    }
}

/// Where rows come from.
pub(super) struct Source<'a> {
    pub x: &'a [f32],
    pub k: usize,
    /// Which rows of `x`, in this order; all without it.
    pub rows: Option<&'a [u32]>,
    pub norm: Option<Norm<'a>>,
}

impl Source<'_> {
    fn row(&self, r: usize) -> &[f32] {
        let r = self.rows.map_or(r, |rows| rows[r] as usize);
        &self.x[r * self.k..][..self.k]
    }
}

/// Where blocks of integers go; shapes as in [`super::Blocks`].
pub(super) struct BlocksWriter<T> {
    /// Bit i: sums of kind i; 0: nothing is written.
    pub kinds: u32,
    pub q: *mut T,
    pub d: *mut f32,
    pub sums: [*mut u32; SUMS],
}

/// Where the forms go; shapes as in [`super::Input`].
pub(super) struct Writer {
    pub rows: usize,
    pub blocks: usize,
    pub forms: Forms,
    pub x: *mut f32,
    pub a8: BlocksWriter<i8>,
    pub a15: BlocksWriter<i16>,
    pub bf16: *mut u16,
    pub a16: *mut i8,
    pub a16_sums: *mut i32,
    pub a16_scales: *mut f32,
}

// SAFETY: threads write different tiles, which are different addresses.
unsafe impl Sync for Writer {}

thread_local! {
    /// The normalised rows of a tile, padded to whole blocks.
    static NORMALISED: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Float32 rows, padded with zeros to whole blocks, `stride` values apart.
pub(super) struct Padded {
    pub at: *const f32,
    pub stride: usize,
}

/// Writes all forms of the rows of tile `t`.
///
/// # Safety
/// The writer's buffers hold `rows` rows; no other thread writes this tile; the machine runs `cpu`.
pub(super) unsafe fn fill(cpu: Cpu, source: &Source<'_>, to: &Writer, t: usize) {
    NORMALISED.with_borrow_mut(|buffer| {
        // SAFETY: as promised by the caller.
        unsafe {
            match cpu.isa() {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 | Isa::Amx => zmm(source, to, t, buffer),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => ymm(source, to, t, buffer),
                #[cfg(target_arch = "aarch64")]
                Isa::Neon => body::<Neon>(source, to, t, buffer),
                _ => body::<Plain>(source, to, t, buffer),
            }
        }
    });
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn ymm(source: &Source<'_>, to: &Writer, t: usize, buffer: &mut Vec<f32>) {
    // SAFETY: the caller's promise; the instruction set is enabled here.
    unsafe { body::<Ymm>(source, to, t, buffer) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn zmm(source: &Source<'_>, to: &Writer, t: usize, buffer: &mut Vec<f32>) {
    // SAFETY: the caller's promise; the instruction set is enabled here.
    unsafe { body::<Zmm>(source, to, t, buffer) }
}

#[inline(always)]
unsafe fn body<L: Quantise + Split>(
    source: &Source<'_>,
    to: &Writer,
    t: usize,
    buffer: &mut Vec<f32>,
) {
    let height = (to.rows - t * TILE).min(TILE);
    // SAFETY: passed on.
    unsafe {
        let rows = float_rows::<L>(source, to, t, height, buffer);
        let base = t * TILE * to.blocks;
        quantise::<L, i8>(&rows, &to.a8, base, (to.blocks, height));
        quantise::<L, i16>(&rows, &to.a15, base, (to.blocks, height));
        if to.forms.a16 {
            a16::<L>(&rows, to, t, height);
        }
        if to.forms.bf16 {
            let base = to.bf16.add(t * TILE * to.blocks * BLOCK);
            for b in 0..to.blocks {
                for r in 0..height {
                    let from = rows.at.add(r * rows.stride + b * BLOCK);
                    let at = base.add((b * height + r) * BLOCK);
                    for i in 0..BLOCK {
                        at.add(i).write(to_bf16(*from.add(i)));
                    }
                }
            }
        }
    }
}

/// The tile's rows, normalised and padded where that is asked for: in place, in the float32 form or in `buffer`.
#[inline(always)]
unsafe fn float_rows<L: Lanes>(
    source: &Source<'_>,
    to: &Writer,
    t: usize,
    height: usize,
    buffer: &mut Vec<f32>,
) -> Padded {
    let (k, padded) = (source.k, to.blocks * BLOCK);
    let together = source.rows.is_none() || height == 1;
    if source.norm.is_none() && !to.forms.f32 && k == padded && together {
        return Padded {
            at: source.row(t * TILE).as_ptr(),
            stride: k,
        };
    }
    // SAFETY: the float32 form and `buffer` have room for the tile's padded rows; `x` has the tile's rows.
    unsafe {
        let at = if to.forms.f32 {
            to.x.add(t * TILE * padded)
        } else {
            buffer.resize(height * padded, 0.0);
            buffer.as_mut_ptr()
        };
        for r in 0..height {
            let x = source.row(t * TILE + r);
            let row = at.add(r * padded);
            match &source.norm {
                Some(norm) => normalise::<L>(x, norm, row),
                None => std::ptr::copy_nonoverlapping(x.as_ptr(), row, k),
            }
            for i in k..padded {
                row.add(i).write(0.0);
            }
        }
        Padded { at, stride: padded }
    }
}

/// Integers, scales and sums of a tile that begins at block `base`: blocks of all its rows, then the next blocks, 16 at a
/// time.
#[inline(always)]
unsafe fn quantise<L: Quantise, T: Integers>(
    rows: &Padded,
    to: &BlocksWriter<T>,
    base: usize,
    (blocks, height): (usize, usize),
) {
    if to.kinds == 0 {
        return;
    }
    let cells = blocks * height;
    let mut chunk = Chunk::default();
    let mut cell = 0;
    while cell < cells {
        let n = CHUNK.min(cells - cell);
        let mut from = [rows.at; CHUNK];
        let (mut b, mut r) = (cell / height, cell % height);
        // SAFETY: cells stand for blocks of the tile's rows; the buffers hold a place for each.
        unsafe {
            for at in from.iter_mut().take(n) {
                *at = rows.at.add(r * rows.stride + b * BLOCK);
                r += 1;
                (b, r) = if r == height { (b + 1, 0) } else { (b, r) };
            }
            T::quantise::<L>(&from, &mut chunk);
            let at = base + cell;
            T::put::<L>(&chunk.q[..n], to.q.add(at * BLOCK));
            std::ptr::copy_nonoverlapping(chunk.d.as_ptr(), to.d.add(at), n);
            write_sums(&chunk, to, base, cell, n, height);
        }
        cell += n;
    }
}

/// Writes the sums of every kind asked for; see [`super::Sums::of`].
#[inline(always)]
unsafe fn write_sums<T>(
    chunk: &Chunk<T>,
    to: &BlocksWriter<T>,
    base: usize,
    cell: usize,
    n: usize,
    height: usize,
) {
    // SAFETY: the buffers of the kinds asked for hold one or two words a cell.
    unsafe {
        for (kind, offset) in [8, 16, 128].into_iter().enumerate() {
            if to.kinds & 1 << kind != 0 {
                let at = to.sums[kind].add(base + cell);
                for i in 0..n {
                    let sum = chunk.sums[0][i] + chunk.sums[1][i];
                    at.add(i).write((-offset * sum) as u32);
                }
            }
        }
        if to.kinds & 1 << 3 != 0 {
            let at = to.sums[3].add(base + cell);
            for i in 0..n {
                let sum = chunk.sums[0][i] + chunk.sums[1][i];
                at.add(i).write((chunk.d[i] * sum as f32).to_bits());
            }
        }
        if to.kinds & 0b1111_0000 == 0 {
            return;
        }
        for i in 0..n {
            for half in 0..2 {
                let (b, r) = ((cell + i) / height, (cell + i) % height);
                let at = 2 * (base + b * height) + half * height + r;
                let sum = chunk.sums[half][i];
                if to.kinds & 1 << 4 != 0 {
                    to.sums[4]
                        .add(at)
                        .write((chunk.d[i] * sum as f32).to_bits());
                }
                if to.kinds & 1 << 5 != 0 {
                    to.sums[5].add(at).write((-4 * sum) as u32);
                }
                if to.kinds & 1 << 6 != 0 {
                    to.sums[6].add(at).write((-32 * sum) as u32);
                }
                if to.kinds & 1 << 7 != 0 {
                    to.sums[7].add(at).write((-128 * sum) as u32);
                }
            }
        }
    }
}

/// Round to nearest, ties to even; a NaN stays one.
#[inline(always)]
fn to_bf16(v: f32) -> u16 {
    let bits = v.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    let quiet = bits >> 16 | 0x40;
    (if v.is_nan() { quiet } else { rounded }) as u16
}
