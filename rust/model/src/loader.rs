//! What a layer asks for when it loads itself: checked matrices and vectors by Hugging Face name.
//! Counts progress; knows no architecture and no container.
use std::collections::BTreeSet;
use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use candle_vllm_kernels::cpu::{Compute, ggml};

use crate::{
    Error, Result,
    backend::Packer,
    config::Config,
    quant::{Format, Role},
    weights::{Checkpoint, Stored},
};

/// Called with (bytes loaded, bytes of the checkpoint); may come from several threads.
pub type Progress<'a> = &'a (dyn Fn(u64, u64) + Sync);

/// Loads parts `0..count` on the threads that will compute, in turn where there are none. The parts in order, or the
/// first error.
pub fn on_threads<T: Send>(
    compute: Option<&Compute>,
    count: usize,
    load: impl Fn(usize) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let Some(compute) = compute else {
        return (0..count).map(load).collect();
    };
    let parts = Mutex::new(Vec::with_capacity(count));
    compute.pool.for_each(count, &|i| {
        let part = load(i);
        let mut parts = parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts.push((i, part));
    });
    let mut parts = parts.into_inner().unwrap_or_else(PoisonError::into_inner);
    parts.sort_by_key(|(i, _)| *i);
    parts.into_iter().map(|(_, part)| part).collect()
}

/// A checkpoint, and how its matrices are packed.
pub struct Loader<'a> {
    checkpoint: &'a Checkpoint,
    packer: &'a dyn Packer,
    progress: Progress<'a>,
    done: AtomicU64,
    parameters: AtomicU64,
    packed: AtomicU64,
    /// Names that were asked for.
    read: Mutex<BTreeSet<String>>,
}

/// Ends of the names of tensors that hold no weights: tables that any implementation makes for itself.
const TABLES: [&str; 3] = [
    ".rotary_emb.inv_freq",
    ".attn.masked_bias",
    ".attention.masked_bias",
];
/// Names that an error lists; of more it gives the number.
const LISTED: usize = 12;

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
            read: Mutex::default(),
        }
    }

    fn stored(&self, name: &str) -> Result<Stored<'_>> {
        let stored = self.checkpoint.weights.get(name)?;
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        read.insert(name.to_owned());
        Ok(stored)
    }

    /// Refuses a checkpoint with tensors that nobody asked for: the model would not be the one that was trained.
    ///
    /// # Errors
    /// `Load` that lists them.
    pub fn all_read(&self) -> Result<()> {
        let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let known = |name: &String| {
            let table = TABLES.iter().any(|end| name.ends_with(end));
            // Checkpoints repeat the embedding as the head that the configuration says it is.
            let tied = self.config().tie_word_embeddings && name == "lm_head.weight";
            table || tied || read.contains(name)
        };
        let mut unread = self.checkpoint.weights.names();
        unread.retain(|name| !known(name));
        if unread.is_empty() {
            return Ok(());
        }
        let more = match unread.len().saturating_sub(LISTED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        Err(Error::Load(format!(
            "{} tensors of the checkpoint have no place in {} as it is configured: {}{more}",
            unread.len(),
            self.config().architecture,
            unread[..unread.len().min(LISTED)].join(", ")
        )))
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
        let stored = self.stored(name)?;
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
        let stored = self.stored(name)?;
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
