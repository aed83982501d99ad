//! What a layer asks for when it loads itself: checked matrices and vectors by Hugging Face name.
//! Counts progress; knows no architecture and no container.
use std::sync::atomic::{AtomicU64, Ordering};

use candle_vllm_kernels::cpu::ggml;

use crate::{
    Error, Result,
    backend::Packer,
    config::Config,
    quant::{Format, Role},
    weights::{Checkpoint, Stored},
};

/// Called with (bytes loaded, bytes of the checkpoint); may come from several threads.
pub type Progress<'a> = &'a (dyn Fn(u64, u64) + Sync);

/// A checkpoint, and how its matrices are packed.
pub struct Loader<'a> {
    checkpoint: &'a Checkpoint,
    packer: &'a dyn Packer,
    progress: Progress<'a>,
    done: AtomicU64,
    parameters: AtomicU64,
    packed: AtomicU64,
}

impl<'a> Loader<'a> {
    /// Loads from `checkpoint` with the matrices packed by `packer`.
    pub fn new(checkpoint: &'a Checkpoint, packer: &'a dyn Packer, progress: Progress<'a>) -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            checkpoint,
            packer,
            progress,
            done: zero(),
            parameters: zero(),
            packed: zero(),
        }
    }

    /// The model's configuration.
    pub fn config(&self) -> &Config {
        &self.checkpoint.config
    }

    /// Whether the checkpoint has a tensor called `name`.
    pub fn contains(&self, name: &str) -> bool {
        self.checkpoint.weights.contains(name)
    }

    /// Weights loaded so far.
    pub fn parameters(&self) -> u64 {
        self.parameters.load(Ordering::Relaxed)
    }

    /// Bytes that the packed weights take so far.
    pub fn packed_bytes(&self) -> u64 {
        self.packed.load(Ordering::Relaxed)
    }

    fn count(&self, stored: &Stored<'_>, packed: usize) {
        let done = self
            .done
            .fetch_add(stored.data.len() as u64, Ordering::Relaxed)
            + stored.data.len() as u64;
        self.parameters.fetch_add(
            stored.shape.iter().map(|&d| d as u64).product(),
            Ordering::Relaxed,
        );
        self.packed.fetch_add(packed as u64, Ordering::Relaxed);
        (self.progress)(done, self.checkpoint.file_bytes);
    }

    /// The matrix `name` of shape `[n, k]`, which it must have, packed for its `role`.
    pub fn matrix(&self, name: &str, role: Role, [n, k]: [usize; 2]) -> Result<Box<dyn Format>> {
        let stored = self.checkpoint.weights.get(name)?;
        if stored.shape != [n, k] {
            let found = &stored.shape;
            return Err(Error::Load(format!(
                "tensor {name} has shape {found:?}, the configuration says [{n}, {k}]"
            )));
        }
        let format = self.packer.matrix(name, role, &stored)?;
        self.count(&stored, format.bytes());
        self.checkpoint.weights.release(name);
        Ok(format)
    }

    /// The vector `name` as float32.
    pub fn vector(&self, name: &str) -> Result<Vec<f32>> {
        let stored = self.checkpoint.weights.get(name)?;
        let [len] = stored.shape[..] else {
            return Err(Error::Load(format!(
                "tensor {name} has shape {:?}, a vector is expected",
                stored.shape
            )));
        };
        let mut out = vec![0.0; len];
        ggml::dequantize(stored.dtype, &stored.data, &mut out);
        self.count(&stored, len * size_of::<f32>());
        Ok(out)
    }
}
