//! What a token becomes: architectures, layers, weights and quantisation, over a backend that computes.
//! Knows nothing of requests, scheduling, sampling, text or Python.
pub mod backend;
pub mod config;
pub mod error;
pub mod kv;
pub mod step;
pub mod weights;

pub use backend::tensor::Tensor;
pub use error::{Error, Result};
pub use kv::Kv;
pub use step::{Slice, Step};

/// What the engine must know of a model to run it.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    /// Name of the architecture as the checkpoint gives it, e.g. `LlamaForCausalLM`.
    pub architecture: String,
    /// Decoder layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Columns of the logits.
    pub vocab_size: usize,
    /// Longest sequence the model was made for, in tokens.
    pub max_position: usize,
    /// Bytes of keys and values of one block, all layers.
    pub kv_block_bytes: usize,
    /// Tokens a KV block.
    pub block_size: usize,
    /// How the weights are computed with: `f32`, `bf16`, `q4_1` ...
    pub dtype: String,
    /// How keys and values are kept: `f32`, `bf16`.
    pub kv_dtype: String,
    /// Number of weights.
    pub parameters: u64,
    /// Bytes the packed weights take.
    pub weight_bytes: u64,
    /// Device and instruction set, e.g. `cpu (amx)`.
    pub device: String,
    /// Compute threads.
    pub threads: usize,
}

/// A loaded model. Object-safe; a fake one in a test is ten lines.
pub trait Model: Send {
    /// What the engine must know of it.
    fn spec(&self) -> &Spec;

    /// An empty cache of `blocks` blocks.
    fn new_kv(&self, blocks: usize) -> Result<Kv>;

    /// Computes one step: writes the new tokens' keys and values into `kv` and returns float32 logits on the host,
    /// shape `[step.logits_rows(), vocab_size]`, in row order.
    ///
    /// A row's bits depend on its own sequence's tokens alone: not on the other rows, the chunking or the threads.
    fn forward(&mut self, step: &Step, kv: &mut Kv) -> Result<Tensor>;
}
