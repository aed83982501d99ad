//! Dense weights: f32, f16 or bf16 widened in registers, float32 activations; acc = fma(w, x, acc), k by k.
//! One generic body for all instruction sets.
#![allow(clippy::needless_range_loop)] // several arrays run side by side
use super::super::buffer::prefetch;
#[cfg(target_arch = "aarch64")]
use super::super::lanes::Neon;
use super::super::lanes::{Lanes, Plain};
#[cfg(target_arch = "x86_64")]
use super::super::lanes::{Ymm, Zmm};
use super::super::pack::layout::LANES;
use super::super::{Cpu, Isa};
use super::Work;
use super::sink::Sink;

/// How two columns (k, k + 1) of 16 output rows are stored.
pub(super) trait Elements {
    /// Bytes of two columns.
    const BYTES: usize;
    /// Columns k and k + 1.
    unsafe fn two<L: Lanes>(at: *const u8) -> (L, L);
    /// Column k alone, where k is the last.
    unsafe fn one<L: Lanes>(at: *const u8) -> L;
}

/// f32 `[k][16]`
pub(super) struct F32;
/// f16 `[k][16]`
pub(super) struct F16;
/// bf16 `[k / 2][16][2]`
pub(super) struct Bf16;

// SAFETY (all blocks): `at` points to as many bytes as are read, as the caller promised.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Elements for F32 {
    const BYTES: usize = 128;
    #[inline(always)]
    unsafe fn two<L: Lanes>(at: *const u8) -> (L, L) {
        unsafe { (L::load(at.cast()), L::load(at.add(64).cast())) }
    }
    #[inline(always)]
    unsafe fn one<L: Lanes>(at: *const u8) -> L {
        unsafe { L::load(at.cast()) }
    }
}

#[allow(clippy::undocumented_unsafe_blocks)]
impl Elements for F16 {
    const BYTES: usize = 64;
    #[inline(always)]
    unsafe fn two<L: Lanes>(at: *const u8) -> (L, L) {
        unsafe { (L::load_f16(at.cast()), L::load_f16(at.add(32).cast())) }
    }
    #[inline(always)]
    unsafe fn one<L: Lanes>(at: *const u8) -> L {
        unsafe { L::load_f16(at.cast()) }
    }
}

#[allow(clippy::undocumented_unsafe_blocks)]
impl Elements for Bf16 {
    const BYTES: usize = 64;
    #[inline(always)]
    unsafe fn two<L: Lanes>(at: *const u8) -> (L, L) {
        unsafe { L::load_bf16_pairs(at.cast()) }
    }
    #[inline(always)]
    unsafe fn one<L: Lanes>(at: *const u8) -> L {
        // The second of the last pair is padding.
        unsafe { L::load_bf16_pairs(at.cast()).0 }
    }
}

/// # Safety
/// As [`super::run`].
pub(super) unsafe fn run<E: Elements>(cpu: Cpu, work: &Work<'_>, sink: &Sink<'_>) {
    // SAFETY: passed on.
    unsafe {
        match cpu.isa() {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Amx => zmm::<E>(work, sink),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => ymm::<E>(work, sink),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => body::<E, Neon, 4>(work, sink),
            _ => body::<E, Plain, 4>(work, sink),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn zmm<E: Elements>(work: &Work<'_>, sink: &Sink<'_>) {
    // SAFETY: passed on; the instruction set is enabled here.
    unsafe { body::<E, Zmm, 12>(work, sink) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn ymm<E: Elements>(work: &Work<'_>, sink: &Sink<'_>) {
    // SAFETY: passed on; the instruction set is enabled here.
    unsafe { body::<E, Ymm, 4>(work, sink) }
}

/// Rows are taken `MOST` at a time (1, 2 or 4 where fewer are left); few rows take several panels at once, so that
/// enough sums run side by side to hide the latency of the multiply-add.
#[inline(always)]
unsafe fn body<E: Elements, L: Lanes, const MOST: usize>(work: &Work<'_>, sink: &Sink<'_>) {
    let rows = work.input.rows();
    let mut p = work.panels.start;
    while p < work.panels.end {
        let left = work.panels.end - p;
        let at_once = if rows <= 4 && left >= 4 {
            4
        } else if rows <= 8 && left >= 2 {
            2
        } else {
            1
        };
        let mut r = 0;
        while r < rows {
            // SAFETY: passed on; rows r.. and panels p.. exist.
            r += unsafe {
                match (rows - r, at_once) {
                    (4.., 4) if MOST > 4 => tile::<E, L, 4, 4>(work, sink, p, r),
                    (2.., 4) if MOST > 4 => tile::<E, L, 2, 4>(work, sink, p, r),
                    (_, 4) => tile::<E, L, 1, 4>(work, sink, p, r),
                    (4.., 2) if MOST > 4 => tile::<E, L, 4, 2>(work, sink, p, r),
                    (2.., 2) => tile::<E, L, 2, 2>(work, sink, p, r),
                    (_, 2) => tile::<E, L, 1, 2>(work, sink, p, r),
                    (n, _) if n >= MOST => tile::<E, L, MOST, 1>(work, sink, p, r),
                    (4.., _) => tile::<E, L, 4, 1>(work, sink, p, r),
                    (2.., _) => tile::<E, L, 2, 1>(work, sink, p, r),
                    _ => tile::<E, L, 1, 1>(work, sink, p, r),
                }
            };
        }
        p += at_once;
    }
}

/// R rows by P panels; gives R.
#[inline(always)]
unsafe fn tile<E: Elements, L: Lanes, const R: usize, const P: usize>(
    work: &Work<'_>,
    sink: &Sink<'_>,
    p: usize,
    row: usize,
) -> usize {
    let (k, stride) = (work.matrix.k(), work.input.stride());
    let mut w = [std::ptr::null::<u8>(); P];
    for i in 0..P {
        w[i] = work.matrix.panel(p + i).as_ptr();
    }
    // SAFETY: k columns of weights and activations exist; the input holds the float32 form.
    unsafe {
        let mut x = [std::ptr::null::<f32>(); R];
        for r in 0..R {
            x[r] = work.input.x().add((row + r) * stride);
        }
        let mut acc = [[L::splat(0.0); P]; R];
        for j in 0..k / 2 {
            let mut columns = [(L::splat(0.0), L::splat(0.0)); P];
            for i in 0..P {
                let at = w[i].add(j * E::BYTES);
                prefetch::<1>(at.wrapping_add(4096));
                columns[i] = E::two::<L>(at);
            }
            for r in 0..R {
                let (a, b) = (L::splat(*x[r].add(2 * j)), L::splat(*x[r].add(2 * j + 1)));
                for i in 0..P {
                    acc[r][i] = columns[i].0.fma(a, acc[r][i]);
                    acc[r][i] = columns[i].1.fma(b, acc[r][i]);
                }
            }
        }
        if k % 2 == 1 {
            for i in 0..P {
                let column = E::one::<L>(w[i].add(k / 2 * E::BYTES));
                for r in 0..R {
                    acc[r][i] = column.fma(L::splat(*x[r].add(k - 1)), acc[r][i]);
                }
            }
        }
        let mut out = [[0f32; LANES]; R];
        for i in 0..P {
            for r in 0..R {
                acc[r][i].store(out[r].as_mut_ptr());
            }
            sink.store(p + i, row, &out);
        }
    }
    R
}
