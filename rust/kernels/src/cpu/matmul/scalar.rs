//! The oracle of the quantised product with 8-bit and with 15-bit activations, and the definition of its arithmetic. For
//! each output, blocks of 32 in K order:
//!   dot = sum of sub[half] * (q - offset) * a       (integers, exact: below 2^31)
//!   acc = fma(dot, d * scale, acc)                  (scale: of the activations; d: of the weights, with its sub-scale)
//!   acc = fma(m, scale * sum(a), acc)               (types with minima; by halves of 16 where they have two)
#![allow(clippy::needless_range_loop)] // several arrays run side by side
use super::super::input::Rounded;
use super::super::pack::layout::{BLOCK, LANES, Layout, Scales};
use super::Work;
use super::sink::Sink;

/// # Safety
/// As [`super::run`].
pub(super) unsafe fn run<T: Rounded>(layout: &Layout, work: &Work<'_>, sink: &Sink<'_>) {
    let input = work.input;
    let mut weights = vec![[0i8; BLOCK]; input.blocks()];
    let mut scales = Vec::with_capacity(input.blocks());
    let mut column = vec![0f32; input.rows()];
    let mut out = vec![[0f32; LANES]; input.rows()];
    for p in work.panels.clone() {
        let panel = work.matrix.panel(p);
        for lane in 0..LANES {
            scales.clear();
            for (b, w) in weights.iter_mut().enumerate() {
                let group = &panel[b / layout.blocks * layout.bytes()..][..layout.bytes()];
                let words = layout.words(group, b % layout.blocks, lane);
                for (i, w) in w.iter_mut().enumerate() {
                    let q = words[i / 4].to_le_bytes()[i % 4];
                    *w = (i32::from(q) - layout.offset) as i8; // -128..=127 for every type
                }
                scales.push(layout.scales(group, b % layout.blocks, lane));
            }
            for (r, v) in column.iter_mut().enumerate() {
                // SAFETY: the input holds the form.
                *v = unsafe { one::<T>(layout, work, r, &weights, &scales) };
            }
            for (r, v) in column.iter().enumerate() {
                out[r][lane] = *v;
            }
        }
        // SAFETY: passed on.
        unsafe { sink.store(p, 0, &out) };
    }
}

/// One output: row `r` of the input against the weights of one lane.
unsafe fn one<T: Rounded>(
    layout: &Layout,
    work: &Work<'_>,
    r: usize,
    weights: &[[i8; BLOCK]],
    scales: &[Scales],
) -> f32 {
    let tile = work.input.tile::<T>(r / 16, layout);
    let row = r % 16;
    let mut acc = 0f32;
    for (b, (w, s)) in weights.iter().zip(scales).enumerate() {
        let at = b * tile.rows + row;
        // SAFETY: block and row lie within the tile.
        let (a, scale) = unsafe {
            (
                &*tile.q.add(at * BLOCK).cast::<[T; BLOCK]>(),
                *tile.d.add(at),
            )
        };
        let mut half = [0i32; 2];
        for (i, (&w, &a)) in w.iter().zip(a).enumerate() {
            half[i / 16] += i32::from(w) * a.into();
        }
        let dot = s.sub[0] * half[0] + s.sub[1] * half[1];
        acc = (dot as f32).mul_add(s.d * scale, acc);
        for part in 0..layout.minima_len() {
            // SAFETY: these schemes' sums are f32 words, one for each part of a block.
            let sum = unsafe { *tile.sums.add((b * layout.parts() + part) * tile.rows + row) };
            acc = s.m[part].mul_add(f32::from_bits(sum), acc);
        }
    }
    acc
}
