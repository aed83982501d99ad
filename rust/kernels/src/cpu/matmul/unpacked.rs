//! A panel unpacked for many rows: weights as bytes or words, scales as f32. One for each thread, kept from call to call.
use super::super::buffer::Buffer;
use super::super::pack::layout::{BLOCK, LANES};
use std::cell::RefCell;

/// Weights of a block.
const WEIGHTS: usize = BLOCK * LANES;
/// Vectors of scales a block: d, two minima, two sub-scales.
const SCALES: usize = 5;

/// Weights `[block][8][16][4]` u8 or `[block][16][16][2]` i16, and scales `[block][5][16]` f32.
#[derive(Default)]
pub(super) struct Unpacked {
    blocks: usize,
    weights: Buffer,
    scales: Buffer,
}

thread_local! {
    static PANEL: RefCell<Unpacked> = RefCell::new(Unpacked::default());
}

impl Unpacked {
    /// Calls `f` with this thread's panel, made large enough for `blocks` blocks of weights of type `W`.
    pub fn with<W, R>(blocks: usize, f: impl FnOnce(&mut Unpacked) -> R) -> R {
        PANEL.with_borrow_mut(|panel| {
            panel.blocks = blocks;
            panel.weights.reserve(blocks * WEIGHTS * size_of::<W>());
            panel.scales.reserve(blocks * SCALES * LANES * 4);
            f(panel)
        })
    }

    /// Blocks of 32 held.
    pub fn blocks(&self) -> usize {
        self.blocks
    }
    /// Weights of block `b`, on a cache line; of the type that the panel was made for.
    pub fn weights<W>(&mut self, b: usize) -> *mut W {
        let first = self.weights.as_mut_ptr().cast::<W>();
        first.wrapping_add(b * WEIGHTS)
    }
    /// Scales `i` of block `b`: 16 values on a cache line. 0: d; 1, 2: minima; 3, 4: sub-scales.
    pub fn scales(&mut self, b: usize, i: usize) -> *mut f32 {
        self.scales
            .as_mut_ptr()
            .cast::<f32>()
            .wrapping_add((b * SCALES + i) * LANES)
    }
}
