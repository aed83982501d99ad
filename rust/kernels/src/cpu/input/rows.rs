//! One row of activations: RMS norm, then float32, int8 blocks and bf16, with the same bits on every instruction set.
//! Knows no matrix.
use super::super::lanes::{Lanes, Plain};
#[cfg(target_arch = "x86_64")]
use super::super::lanes::{Ymm, Zmm};
use super::super::{Cpu, Isa};
use super::{BLOCK, Norm, SUMS, TILE};
use std::cell::RefCell;

/// Forms of activations: what to write.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Forms {
    pub f32: bool,
    pub bf16: bool,
    /// Bit i: sums of kind i (and so the int8 values).
    pub sums: u32,
}

impl Forms {
    /// Whether all of `other` is here.
    pub fn has(self, other: Forms) -> bool {
        (self.f32 || !other.f32)
            && (self.bf16 || !other.bf16)
            && self.sums & other.sums == other.sums
    }
}

/// Where rows come from.
pub(super) struct Source<'a> {
    pub x: &'a [f32],
    pub k: usize,
    pub norm: Option<Norm<'a>>,
}

/// Where the forms go; shapes as in [`super::Input`].
pub(super) struct Writer {
    pub rows: usize,
    pub blocks: usize,
    pub forms: Forms,
    pub x: *mut f32,
    pub q: *mut i8,
    pub d: *mut f32,
    pub sums: [*mut u32; SUMS],
    pub bf16: *mut u16,
}

// SAFETY: threads write different rows, which are different addresses.
unsafe impl Sync for Writer {}

thread_local! {
    /// The normalised row, padded to whole blocks.
    static ROW: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Writes all forms of row `r`.
///
/// # Safety
/// The writer's buffers hold `rows` rows; no other thread writes row `r`; the machine runs `cpu`.
pub(super) unsafe fn fill(cpu: Cpu, source: &Source<'_>, to: &Writer, r: usize) {
    ROW.with_borrow_mut(|row| {
        row.resize(to.blocks * BLOCK, 0.0);
        // SAFETY: as promised by the caller; the float32 form and `row` are whole blocks long.
        unsafe {
            let at = if to.forms.f32 {
                to.x.add(r * row.len())
            } else {
                row.as_mut_ptr()
            };
            match cpu.isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 | Isa::Amx => zmm(source, to, r, at),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => ymm(source, to, r, at),
                _ => body::<Plain>(source, to, r, at),
            }
        }
    });
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn ymm(source: &Source<'_>, to: &Writer, r: usize, row: *mut f32) {
    // SAFETY: the caller's promise; the instruction set is enabled here.
    unsafe { body::<Ymm>(source, to, r, row) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn zmm(source: &Source<'_>, to: &Writer, r: usize, row: *mut f32) {
    // SAFETY: the caller's promise; the instruction set is enabled here.
    unsafe { body::<Zmm>(source, to, r, row) }
}

/// `row` has room for whole blocks and receives the (normalised) float32 row.
#[inline(always)]
unsafe fn body<L: Lanes>(source: &Source<'_>, to: &Writer, r: usize, row: *mut f32) {
    let k = source.k;
    let x = &source.x[r * k..][..k];
    // SAFETY: `row` and the writer's buffers hold what the caller promised; `x` and the weight have k values.
    unsafe {
        match &source.norm {
            Some(norm) => normalise::<L>(x, norm, row),
            None => std::ptr::copy_nonoverlapping(x.as_ptr(), row, k),
        }
        for i in k..to.blocks * BLOCK {
            row.add(i).write(0.0);
        }
        let (tile, in_tile) = (r / TILE, r % TILE);
        let height = (to.rows - tile * TILE).min(TILE);
        for b in 0..to.blocks {
            let from = row.add(b * BLOCK);
            let base = tile * TILE * to.blocks;
            let cell = base + b * height + in_tile;
            if to.forms.sums != 0 {
                let block = quantise::<L>(from, to.q.add(cell * BLOCK));
                to.d.add(cell).write(block.scale);
                let pair = 2 * (base + b * height) + in_tile;
                block.write_sums(to, cell, [pair, pair + height]);
            }
            if to.forms.bf16 {
                for i in 0..BLOCK {
                    to.bf16.add(cell * BLOCK + i).write(to_bf16(*from.add(i)));
                }
            }
        }
    }
}

/// `x / sqrt(mean(x^2) + eps) * weight`; squares are summed in 16 lanes.
#[inline(always)]
unsafe fn normalise<L: Lanes>(x: &[f32], norm: &Norm<'_>, row: *mut f32) {
    let whole = x.len() / 16 * 16;
    let mut tail = [[0f32; 16]; 2];
    tail[0][..x.len() - whole].copy_from_slice(&x[whole..]);
    tail[1][..x.len() - whole].copy_from_slice(&norm.weight[whole..]);
    // SAFETY: whole vectors lie within the slices; the tails are vectors; `row` is padded to whole vectors.
    unsafe {
        let mut squares = L::splat(0.0);
        for i in (0..whole).step_by(16) {
            let v = L::load(x.as_ptr().add(i));
            squares = v.fma(v, squares);
        }
        let last = L::load(tail[0].as_ptr());
        squares = last.fma(last, squares);
        let mean = squares.sum() / x.len() as f32;
        let scale = L::splat(1.0 / (mean + norm.eps).sqrt());
        for i in (0..whole).step_by(16) {
            let v = L::load(x.as_ptr().add(i)).mul(scale);
            v.mul(L::load(norm.weight.as_ptr().add(i)))
                .store(row.add(i));
        }
        if whole < x.len() {
            last.mul(scale)
                .mul(L::load(tail[1].as_ptr()))
                .store(row.add(whole));
        }
    }
}

/// Scale and integer sums (of each 16) of a quantised block of 32.
struct Block {
    scale: f32,
    sums: [i32; 2],
}

/// q = round(x * (127 / max)), scale = max / 127. A block whose largest magnitude is below 2^-100 counts as zero; one
/// with an infinity or NaN gets the scale NaN, so that it shows in every output.
#[inline(always)]
unsafe fn quantise<L: Lanes>(x: *const f32, q: *mut i8) -> Block {
    const TINY: f32 = f32::from_bits(27 << 23);
    // SAFETY: 32 values and 32 bytes, as the caller promised.
    unsafe {
        let (a, b) = (L::load(x), L::load(x.add(16)));
        let largest = f32::from_bits(a.largest_bits(b));
        if (TINY..f32::INFINITY).contains(&largest) {
            let inverse = L::splat(127.0 / largest);
            let sums = [
                a.mul(inverse).round_to_i8(q),
                b.mul(inverse).round_to_i8(q.add(16)),
            ];
            return Block {
                scale: largest / 127.0,
                sums,
            };
        }
        std::ptr::write_bytes(q, 0, BLOCK);
        let scale = if largest < TINY { 0.0 } else { f32::NAN };
        Block {
            scale,
            sums: [0; 2],
        }
    }
}

impl Block {
    /// Writes the sums of every kind asked for, at `cell` or, by halves, at `pair`; see [`super::Sums::of`].
    #[inline(always)]
    unsafe fn write_sums(&self, to: &Writer, cell: usize, pair: [usize; 2]) {
        let whole = self.sums[0] + self.sums[1];
        // SAFETY: the buffers of the kinds asked for hold two words a cell.
        unsafe {
            for (i, offset) in [8, 16, 128].into_iter().enumerate() {
                if to.forms.sums & 1 << i != 0 {
                    to.sums[i].add(cell).write((-offset * whole) as u32);
                }
            }
            if to.forms.sums & 1 << 3 != 0 {
                to.sums[3]
                    .add(cell)
                    .write((self.scale * whole as f32).to_bits());
            }
            for (&at, &sum) in pair.iter().zip(&self.sums) {
                if to.forms.sums & 1 << 4 != 0 {
                    to.sums[4]
                        .add(at)
                        .write((self.scale * sum as f32).to_bits());
                }
                if to.forms.sums & 1 << 5 != 0 {
                    to.sums[5].add(at).write((-4 * sum) as u32);
                }
                if to.forms.sums & 1 << 6 != 0 {
                    to.sums[6].add(at).write((-32 * sum) as u32);
                }
            }
        }
    }
}

/// Round to nearest, ties to even; a NaN stays one.
#[inline(always)]
fn to_bf16(v: f32) -> u16 {
    let bits = v.to_bits();
    if v.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16
}
