//! What a layer asks for when it loads itself: checked matrices and vectors by Hugging Face name.
//! Counts progress; knows no architecture and no container.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use candle_vllm_kernels::cpu::{
    Compute,
    ggml::{self, GgmlType},
};

use crate::{
    Error, Result,
    backend::{Linear, Packer},
    config::Config,
    family,
    quant::{
        Described, Format, Isq, PerHead, Quantization, Role, SCHEMES, Shard, Source, Vector,
        isq::Spot, rows,
    },
    weights::{Checkpoint, Part, Stored},
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
    /// Checked when the checkpoint was opened.
    quantization: Option<Quantization>,
    /// How matrices are quantised that arrive wider.
    isq: Option<Isq>,
    /// Names that were asked for.
    read: Mutex<BTreeSet<String>>,
}

/// Ends of the names of tensors that hold no weights: tables that any implementation makes for itself.
const TABLES: [&str; 5] = [
    // Of keys and values in a cache of 8 bits.
    ".k_scale",
    ".v_scale",
    ".rotary_emb.inv_freq",
    ".attn.masked_bias",
    ".attention.masked_bias",
];
/// Whether a tensor is one of [`TABLES`].
pub(crate) fn is_table(name: &str) -> bool {
    TABLES.iter().any(|end| name.ends_with(end))
}

/// Whether a checkpoint has a weight under `prefix`, in whatever form.
pub(crate) fn has(checkpoint: &Checkpoint, prefix: &str) -> bool {
    let mut first = SCHEMES.iter().flat_map(|scheme| scheme.needs.first());
    first.any(|part| checkpoint.weights.contains(&format!("{prefix}.{part}")))
}

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
            quantization: Quantization::of(&checkpoint.config.raw).unwrap_or_default(),
            isq: None,
            read: Mutex::default(),
        }
    }

    /// Quantises matrices that arrive wider than `ty`; `None`: no matrix.
    pub fn quantising(mut self, ty: Option<ggml::GgmlType>) -> Self {
        self.isq = ty.map(Isq::to);
        self
    }

    fn part(&self, name: &str) -> Result<Part<'_>> {
        let part = self.checkpoint.weights.part(name)?;
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        read.insert(name.to_owned());
        Ok(part)
    }

    /// Refuses a checkpoint with tensors that nobody asked for: the model would not be the one that was trained.
    ///
    /// # Errors
    /// `Load` that lists them.
    pub fn all_read(&self) -> Result<()> {
        let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let known = |name: &String| {
            let table = is_table(name);
            // Checkpoints repeat the embedding as the head that the configuration says it is.
            let head = family::find(&self.config().architecture).map_or("", |f| f.names.head);
            let head = name.strip_suffix(".weight").is_some_and(|n| n == head);
            let tied = self.config().tie_word_embeddings && head;
            table || tied || self.is_shared(name) || read.contains(name)
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

    /// Whether a tensor is a layer's that takes another's in its place, keys and values or an index: some files keep unused
    /// ones of its own.
    fn is_shared(&self, name: &str) -> bool {
        let config = self.config();
        let layers = family::find(&config.architecture).map_or("", |f| f.names.layers);
        let found = || {
            let inside = name.strip_prefix(layers)?.strip_prefix('.')?;
            let (number, part) = inside.split_once(".self_attn.")?;
            let number = number.parse().ok()?;
            let keyless = config.layer(number).reads.is_some();
            let own = config.sparse.as_ref().and_then(|s| s.own.get(number));
            let keys = part.starts_with("k_") || part.starts_with("v_");
            Some(keyless && keys || own == Some(&false) && part.starts_with("indexer."))
        };
        found().unwrap_or(false)
    }

    /// The model's configuration.
    pub fn config(&self) -> &Config {
        &self.checkpoint.config
    }

    /// Whether the checkpoint has a tensor called `name`.
    pub fn contains(&self, name: &str) -> bool {
        self.checkpoint.weights.contains(name)
    }

    /// Whether the checkpoint has a weight under `prefix`, in whatever form.
    pub fn has(&self, prefix: &str) -> bool {
        has(self.checkpoint, prefix)
    }

    /// The dense tensor or vector `name` as its file has it.
    pub fn stored(&self, name: &str) -> Result<Stored<'_>> {
        let bad = |what| Error::Load(format!("tensor {name} {what}"));
        self.part(name)?.stored().map_err(bad)
    }

    /// Weights loaded so far.
    pub fn parameters(&self) -> u64 {
        self.parameters.load(Ordering::Relaxed)
    }

    /// Bytes that the packed weights take so far.
    pub fn packed_bytes(&self) -> u64 {
        self.packed.load(Ordering::Relaxed)
    }

    fn count(&self, bytes: usize, elements: usize, packed: usize) {
        let bytes = bytes as u64;
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.parameters
            .fetch_add(elements as u64, Ordering::Relaxed);
        self.packed.fetch_add(packed as u64, Ordering::Relaxed);
        (self.progress)(done, self.checkpoint.file_bytes);
    }

    /// The weight under `prefix`, not yet read: its parts in the checkpoint, for `role`, the rows of `shard`.
    ///
    /// # Errors
    /// `Load` when the checkpoint has no part of it.
    pub fn source(&self, prefix: &str, role: Role, shard: Shard) -> Result<Source<'_>> {
        let mut parts = BTreeMap::new();
        for part in SCHEMES.iter().flat_map(|s| s.needs.iter().chain(s.may)) {
            let name = format!("{prefix}.{part}");
            if !parts.contains_key(part) && self.contains(&name) {
                parts.insert(*part, self.part(&name)?);
            }
        }
        if parts.is_empty() {
            // Says which file lacks it.
            self.part(&format!("{prefix}.weight"))?;
        }
        Ok(Source {
            prefix: prefix.to_owned(),
            role,
            shard,
            parts,
            quantization: self.quantization.as_ref(),
        })
    }

    /// The number of the layer that `prefix` stands in, and how many there are.
    fn layer_of(&self, prefix: &str) -> Option<[usize; 2]> {
        let layers = family::find(&self.config().architecture)?.names.layers;
        let rest = prefix.strip_prefix(layers)?.strip_prefix('.')?;
        let number = rest.split('.').next()?.parse().ok()?;
        Some([number, self.config().layers])
    }

    /// The matrix of shape `[n, k]`, which the source must have, packed.
    pub fn matrix(&self, source: Source<'_>, [n, k]: [usize; 2]) -> Result<Box<dyn Format>> {
        let (prefix, role) = (source.prefix.clone(), source.role);
        let names: Vec<String> = source
            .parts
            .keys()
            .map(|p| format!("{prefix}.{p}"))
            .collect();
        let release = |part: &[u8]| self.checkpoint.weights.release_bytes(part);
        let mut described = source.open()?;
        let name = format!("{prefix}.weight");
        let found = described.shape();
        if found != [n, k] {
            return Err(Error::Load(format!(
                "tensor {name} has shape {found:?}, the configuration says [{n}, {k}]"
            )));
        }
        if let Some(isq) = &self.isq {
            let layer = self.layer_of(&prefix);
            described = isq.apply(Spot { role, layer }, described, &release);
        }
        let format = self.packer.matrix(&name, role, &described)?;
        self.count(described.file_bytes(), n * k, format.bytes());
        names
            .iter()
            .for_each(|name| self.checkpoint.weights.release(name));
        Ok(format)
    }

    /// The matrix of a source with the bias beside it, where the checkpoint has one.
    pub fn linear(
        &self,
        prefix: &str,
        role: Role,
        shard: Shard,
        [n, k]: [usize; 2],
    ) -> Result<Linear> {
        let source = self.source(prefix, role, shard.clone())?;
        let format = self.matrix(source, [n, k])?;
        let name = format!("{prefix}.bias");
        let bias = if self.contains(&name) {
            let values = self.floats(&name, &shard)?;
            if values.len() != n {
                return Err(Error::Load(format!(
                    "tensor {name} has {} elements, its matrix has {n} rows",
                    values.len()
                )));
            }
            Some(self.packer.vector(values)?)
        } else {
            None
        };
        Ok(Linear { format, bias })
    }

    /// The `count` values of the tensor under `prefix`, whatever its shape: what [`Loader::per_head`] is made of.
    pub fn values(&self, prefix: &str, count: usize) -> Result<Vec<f32>> {
        let described = self.source(prefix, Role::Value, Shard::Whole)?.open()?;
        let found = described.shape();
        if found.iter().product::<usize>() != count {
            return Err(Error::Load(format!(
                "tensor {prefix}.weight has shape {found:?}, the configuration says {count} values"
            )));
        }
        self.count(described.file_bytes(), count, 0);
        Ok(described.values())
    }

    /// One matrix `[n, k]` a head of `values`, packed; `shape`: heads, n, k.
    pub fn per_head(&self, shape: [usize; 3], values: Vec<f32>) -> Result<PerHead> {
        let matrices = self.packer.per_head(shape, values)?;
        let bytes = matrices.bytes() as u64;
        self.packed.fetch_add(bytes, Ordering::Relaxed);
        Ok(matrices)
    }

    /// The vector `name` of `len` values, each raised by `offset`. A matrix with as many values counts as one.
    pub fn vector(&self, name: &str, len: usize, offset: f32) -> Result<Vector> {
        let mut values = self.floats(name, &Shard::Whole)?;
        values.iter_mut().for_each(|v| *v += offset);
        self.made(name, values, len)
    }

    /// A vector of values that were made of the tensor `name`: `len` of them.
    pub fn made(&self, name: &str, values: Vec<f32>, len: usize) -> Result<Vector> {
        if values.len() != len {
            let found = values.len();
            return Err(Error::Load(format!(
                "tensor {name} has {found} elements, the configuration says {len}"
            )));
        }
        self.packer.vector(values)
    }

    /// A matrix `[n, k]` of values that were made of the tensor `name`, packed for `role`.
    pub fn made_matrix(
        &self,
        name: &str,
        role: Role,
        [n, k]: [usize; 2],
        values: &[f32],
    ) -> Result<Box<dyn Format>> {
        let stored = Stored {
            dtype: GgmlType::F32,
            shape: vec![n, k],
            data: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        };
        self.packer.matrix(name, role, &Described::Stored(stored))
    }

    /// Outputs of the matrix under `prefix`, as the checkpoint has it.
    pub fn outputs(&self, prefix: &str) -> Result<usize> {
        let described = self.source(prefix, Role::Up, Shard::Whole)?.open()?;
        Ok(described.shape().first().copied().unwrap_or(0))
    }

    /// The vectors `names`, one after the other: `len` values.
    pub fn joined(&self, names: &[String], len: usize) -> Result<Vector> {
        let mut values = Vec::with_capacity(len);
        for name in names {
            values.extend(self.floats(name, &Shard::Whole)?);
        }
        if values.len() != len {
            let (found, first) = (values.len(), names.first().map_or("", String::as_str));
            return Err(Error::Load(format!(
                "tensors {first} ... have {found} elements, the configuration says {len}"
            )));
        }
        self.packer.vector(values)
    }

    /// The few numbers `name` as float32.
    pub fn floats(&self, name: &str, shard: &Shard) -> Result<Vec<f32>> {
        let bad = |what| Error::Load(format!("tensor {name} {what}"));
        let stored = self.part(name)?.stored().map_err(bad)?;
        if stored.shape.len() > 2 {
            return Err(Error::Load(format!(
                "tensor {name} has shape {:?}, a vector is expected",
                stored.shape
            )));
        }
        let stored = rows(stored, shard).map_err(bad)?;
        let mut out = vec![0.0; stored.shape.iter().product()];
        ggml::dequantize(stored.dtype, &stored.data, &mut out);
        self.count(stored.data.len(), out.len(), size_of_val(&out[..]));
        Ok(out)
    }
}
