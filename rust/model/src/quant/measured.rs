//! A matrix of which only shape, type and size are known: a model of such tells whether it would load, and into how much
//! memory.
use super::Format;
use crate::{Error, Result};

/// What a packed matrix would be.
pub struct Measured {
    shape: [usize; 2],
    label: &'static str,
    bytes: usize,
}

impl Measured {
    /// A matrix `[n, k]` that would be kept as `label` in so many bytes.
    pub fn new(shape: [usize; 2], label: &'static str, bytes: usize) -> Self {
        Self {
            shape,
            label,
            bytes,
        }
    }
}

impl Format for Measured {
    fn shape(&self) -> [usize; 2] {
        self.shape
    }
    fn label(&self) -> &str {
        self.label
    }
    fn bytes(&self) -> usize {
        self.bytes
    }
    fn dequantize(&self) -> Result<Vec<f32>> {
        Err(Error::Load(
            "a matrix that was only measured has no values".into(),
        ))
    }
    fn rows(&self, _ids: &[u32], _out: &mut [f32]) -> Result<()> {
        self.dequantize().map(drop)
    }
}
