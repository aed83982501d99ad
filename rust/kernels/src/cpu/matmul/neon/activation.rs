//! Bytes and words of activations with NEON: a row of words is two of bytes, its high ones and its low ones, which meet
//! the same weights.
//! The contract of every `unsafe` is that of [`Instruction`].
#![allow(clippy::needless_range_loop)] // several arrays run side by side
use super::super::super::input::{LOW_BITS, Rounded};
use super::super::super::pack::layout::BLOCK;
use super::super::formats::Format;
use super::dot::{Dots, Instruction};
use super::panel::Block;
use std::arch::aarch64::*;

/// Activations that meet weights of bytes.
pub(in super::super) trait Activation: Rounded {
    /// Whether a row is two of bytes.
    const WORDS: bool;
    /// The way to multiply a single row by packed weights.
    type One<I: Instruction>: Instruction;
}

impl Activation for i8 {
    const WORDS: bool = false;
    // One row has nothing to share the matrix instruction with.
    type One<I: Instruction> = I::One;
}

impl Activation for i16 {
    const WORDS: bool = true;
    type One<I: Instruction> = I;
}

/// As [`Instruction::dots`], of R rows of activations.
#[inline(always)]
pub(super) unsafe fn dots<
    F: Format,
    A: Activation,
    B: Block,
    I: Instruction,
    const R: usize,
    const FROM: usize,
    const TO: usize,
>(
    weights: &B,
    a: *const i8,
    first: &[i32; R],
) -> Dots<R> {
    // SAFETY: passed on; registers only.
    unsafe {
        if !A::WORDS {
            return I::dots::<F, B, R, FROM, TO>(weights, a, first);
        }
        let mut dots = [[vdupq_n_s32(0); 4]; R];
        // Sums of four rows of bytes fit the registers.
        for r in (0..R).step_by(2) {
            let a = a.add(2 * r * BLOCK);
            if r + 1 < R {
                let parts = I::dots::<F, B, 4, FROM, TO>(weights, a, &[0; 4]);
                dots[r] = join([parts[0], parts[1]], first[r]);
                dots[r + 1] = join([parts[2], parts[3]], first[r + 1]);
            } else {
                let parts = I::dots::<F, B, 2, FROM, TO>(weights, a, &[0; 2]);
                dots[r] = join(parts, first[r]);
            }
        }
        dots
    }
}

/// `first` plus the sums of high bytes, times their place value, and of low bytes.
#[inline(always)]
unsafe fn join([high, low]: Dots<2>, first: i32) -> [int32x4_t; 4] {
    let mut dot = low;
    for q in 0..4 {
        // SAFETY: registers only.
        unsafe {
            let low = vaddq_s32(low[q], vdupq_n_s32(first));
            dot[q] = vaddq_s32(vshlq_n_s32::<LOW_BITS>(high[q]), low);
        }
    }
    dot
}
