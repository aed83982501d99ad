//! Backends: how the coarse operations of a decoder are computed.
//! The default of every operation, in candle ops (`portable.rs`), is its specification and its oracle.
pub mod cpu;
pub mod heap;
mod portable;
pub mod tensor;

use std::ops::Range;

use candle_core::Device;
use candle_vllm_kernels::cpu::{Activation, Compute, attention::Batch};

pub use cpu::Cpu;
pub use portable::Portable;

use crate::{
    Kv, Logits, Result, Step, Tensor,
    layers::{Attention, Linear, Mlp, Norm},
    quant::{Format, Role},
    weights::Stored,
};

/// How keys and values are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvDtype {
    /// 4 bytes: the exact mode.
    F32,
    /// 2 bytes.
    Bf16,
}

/// What a KV cache holds for each token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvShape {
    /// Decoder layers.
    pub layers: usize,
    /// Key/value heads of a layer.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Element type.
    pub dtype: KvDtype,
}

/// Turns stored matrices into the backend's own formats; used from several threads at once while loading.
pub trait Packer: Send + Sync {
    /// Packs the two-dimensional tensor `name` for its `role`.
    fn matrix(&self, name: &str, role: Role, stored: &Stored<'_>) -> Result<Box<dyn Format>>;
}

/// A step on its way through the layers, and what a backend makes of it once for all of them.
pub struct Pass<'a> {
    /// The step.
    pub step: &'a Step,
    /// Its sequences as the CPU's attention takes them.
    batch: Option<Batch<'a>>,
}

/// Coarse operations on opaque tensors. Rows are tokens; all widths come from the weights.
pub trait Backend: Send {
    /// Device and instruction set, e.g. `cpu (amx)`.
    fn name(&self) -> String;

    /// Compute threads.
    fn threads(&self) -> usize {
        1
    }

    /// The host threads it computes on, if it does.
    fn compute(&self) -> Option<&Compute> {
        None
    }

    /// The candle device that the default operations run on.
    fn device(&self) -> &Device {
        &Device::Cpu
    }

    /// How matrices are packed for this backend.
    fn packer(&self) -> Box<dyn Packer> {
        Box::new(portable::DensePacker)
    }

    /// Tokens a KV block.
    fn block_size(&self) -> usize {
        32
    }

    /// Bytes of one KV block, all layers.
    fn kv_block_bytes(&self, shape: &KvShape) -> usize {
        portable::block_bytes(shape, self.block_size())
    }

    /// An empty cache of `blocks` blocks.
    fn new_kv(&self, shape: &KvShape, blocks: usize) -> Result<Kv> {
        Ok(portable::new_kv(shape, blocks, self.block_size()))
    }

    /// Begins a pass over a step, with the cache that its sequences live in.
    fn begin<'a>(&mut self, step: &'a Step, _kv: &mut Kv) -> Result<Pass<'a>> {
        Ok(Pass { step, batch: None })
    }

    /// Rows `ids` of `table`.
    fn embed(&mut self, table: &dyn Format, ids: &[u32]) -> Result<Tensor> {
        portable::embed(table, ids)
    }

    /// RMSNorm of each row.
    fn rms_norm(&mut self, x: &Tensor, norm: &Norm) -> Result<Tensor> {
        portable::rms_norm(self.device(), x, norm)
    }

    /// `x W^T + b`.
    fn linear(&mut self, x: &Tensor, w: &Linear) -> Result<Tensor> {
        portable::linear(self.device(), x, w)
    }

    /// `x += y`.
    fn add(&mut self, x: &mut Tensor, y: &Tensor) -> Result<()> {
        *x = portable::add(self.device(), x, y)?;
        Ok(())
    }

    /// `act(gate) * up`.
    fn activate(&mut self, gate: &Tensor, up: &Tensor, activation: Activation) -> Result<Tensor> {
        portable::activate(self.device(), gate, up, activation)
    }

    /// The given rows of `x`, one range after the other.
    fn select(&mut self, x: &Tensor, rows: &[Range<usize>]) -> Result<Tensor> {
        portable::select(self.device(), x, rows)
    }

    /// Rotates q and k, writes k and v of the pass into the cache and attends: `[rows, heads * head_dim]`.
    fn attention(
        &mut self,
        layer: &Attention,
        qkv: [Tensor; 3],
        pass: &mut Pass<'_>,
        kv: &mut Kv,
    ) -> Result<Tensor> {
        portable::attention(self.device(), layer, qkv, pass.step, kv)
    }

    /// The linears of the normalised rows. Default: composed.
    fn norm_linears(&mut self, x: &Tensor, norm: &Norm, w: [&Linear; 3]) -> Result<[Tensor; 3]> {
        let x = self.rms_norm(x, norm)?;
        Ok([
            self.linear(&x, w[0])?,
            self.linear(&x, w[1])?,
            self.linear(&x, w[2])?,
        ])
    }

    /// `residual += x W^T + b`. Default: composed.
    fn linear_add(&mut self, x: &Tensor, w: &Linear, residual: &mut Tensor) -> Result<()> {
        let y = self.linear(x, w)?;
        self.add(residual, &y)
    }

    /// `act(gate(norm x)) * up(norm x)`. Default: composed.
    fn gate_up(&mut self, x: &Tensor, mlp: &Mlp) -> Result<Tensor> {
        let x = self.rms_norm(x, &mlp.norm)?;
        let (gate, up) = (self.linear(&x, &mlp.gate)?, self.linear(&x, &mlp.up)?);
        self.activate(&gate, &up, mlp.activation)
    }

    /// Logits of the normalised rows. Default: composed.
    fn head(&mut self, x: &Tensor, norm: &Norm, head: &dyn Format) -> Result<Logits> {
        let x = self.rms_norm(x, norm)?;
        Ok(head.matmul(&x, self.device())?.into_host()?.into())
    }
}
