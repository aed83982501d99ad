//! One small matrix a head, wherever its backend keeps them.
use candle_vllm_kernels::cpu::ByHead;

use crate::{Error, Result};

/// A matrix `[n, k]` for each head.
pub struct PerHead {
    shape: [usize; 3],
    kept: Kept,
}

enum Kept {
    /// `[heads, n, k]`
    Host(Vec<f32>),
    Cpu(ByHead),
}

impl PerHead {
    /// Values `[heads, n, k]` that stay as they are.
    pub fn host(shape: [usize; 3], values: Vec<f32>) -> Self {
        let kept = Kept::Host(values);
        Self { shape, kept }
    }

    /// As the CPU's kernels take them.
    pub fn packed(matrices: ByHead) -> Self {
        let (shape, kept) = (matrices.shape(), Kept::Cpu(matrices));
        Self { shape, kept }
    }

    /// Heads, n and k.
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// Bytes kept in memory.
    pub fn bytes(&self) -> usize {
        match &self.kept {
            Kept::Host(values) => values.len() * size_of::<f32>(),
            Kept::Cpu(matrices) => matrices.bytes(),
        }
    }

    /// The values, where they stayed on the host.
    ///
    /// # Errors
    /// `Run` when another backend keeps them.
    pub fn values(&self) -> Result<&[f32]> {
        match &self.kept {
            Kept::Host(values) => Ok(values),
            Kept::Cpu(_) => Err(other()),
        }
    }

    /// What the CPU's kernels take.
    ///
    /// # Errors
    /// `Run` when they were not packed for them.
    pub fn matrices(&self) -> Result<&ByHead> {
        match &self.kept {
            Kept::Cpu(matrices) => Ok(matrices),
            Kept::Host(_) => Err(other()),
        }
    }
}

fn other() -> Error {
    Error::Run("matrices of another backend".into())
}
