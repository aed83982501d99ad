//! Weight formats: how one stored matrix is kept and multiplied. Knows no architecture.
//! A new way to keep weights is one file here and one line in `SCHEMES`; what it becomes, one in its backend's packer.
mod awq;
mod bitsandbytes;
mod compressed;
mod dense;
mod described;
mod gptq;
mod grouped;
pub mod isq;
mod measured;
mod mxfp4;
mod packed;
mod parts;
mod per_head;
mod role;
mod scaled;
mod settings;
mod source;
mod vector;

pub use dense::Dense;
pub use described::{Coded, Described};
pub use isq::Isq;
pub use measured::Measured;
pub use packed::Packed;
pub use per_head::PerHead;
pub use role::Role;
pub use settings::Quantization;
pub(crate) use source::rows;
pub use source::{Open, Parts, SCHEMES, Scheme, Shard, Source};
pub use vector::Vector;

use candle_vllm_kernels::cpu::Matrix;

use crate::{Result, Tensor};

/// One matrix of shape `[n, k]` (outputs, inputs) in its format. [`crate::backend::Linear`] holds it.
pub trait Format: Send + Sync {
    /// `[n, k]`.
    fn shape(&self) -> [usize; 2];

    /// Name of the format, e.g. `q4_1`.
    fn label(&self) -> &str;

    /// Bytes kept in memory.
    fn bytes(&self) -> usize;

    /// All values as float32, row-major `[n, k]`.
    fn dequantize(&self) -> Result<Vec<f32>>;

    /// Rows `ids` as float32 `[ids.len(), k]`: an embedding lookup.
    fn rows(&self, ids: &[u32], out: &mut [f32]) -> Result<()>;

    /// `x W^T` for x of shape `[rows, k]`: the plain way, in candle, from dequantised values.
    fn matmul(&self, x: &Tensor, device: &candle_core::Device) -> Result<Tensor> {
        let [n, k] = self.shape();
        let w = candle_core::Tensor::from_vec(self.dequantize()?, (n, k), device)?;
        Tensor::from_candle(x.to_candle(device)?.matmul(&w.t()?)?)
    }

    /// The packed matrix, where the CPU kernels can take this format: several then share one parallel region.
    fn packed(&self) -> Option<&Matrix> {
        None
    }
}
