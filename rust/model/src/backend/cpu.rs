//! The CPU backend: packed matrices and paged attention by our own kernels, on buffers reused from step to step.
//! Knows shapes and buffers; how a thing is computed is the kernels' business.
mod packer;

use std::{ops::Range, sync::Arc};

use candle_vllm_kernels::cpu::{
    self as kernels, Activation, Compute, Input, Job, Matrix,
    attention::{AttnParams, Batch},
    kv::{KvCache, KvType, Seq},
};

use super::{Backend, KvDtype, KvShape, Packer, Pass};
use crate::{
    Error, Kv, Logits, Result, Slice, Step, Tensor,
    backend::{portable, tensor::Recycler},
    layers::{Attention, Linear, Mlp, Norm, Rope},
    quant::Format,
};

use packer::CpuPacker;
pub use packer::{Activations, Arithmetic, Dtype};

/// Kernels on a pool of threads.
pub struct Cpu {
    compute: Compute,
    arithmetic: Arithmetic,
    input: Input,
    spare: Recycler,
    /// Rotation tables: of most models one, of others one for each kind of layer.
    ropes: Vec<(Arc<Rope>, kernels::rope::Rope)>,
}

fn device_error(e: impl std::fmt::Display) -> Error {
    Error::Device(e.to_string())
}

impl Cpu {
    /// A backend with `threads` compute threads (`None` = the cores this process may use).
    pub fn new(arithmetic: Arithmetic, threads: Option<usize>) -> Result<Self> {
        Self::on_cores(arithmetic, threads, &[])
    }

    /// As [`Cpu::new`] with the threads bound to `cores`, where there are any: one a core unless `threads` says else.
    pub fn on_cores(
        arithmetic: Arithmetic,
        threads: Option<usize>,
        cores: &[usize],
    ) -> Result<Self> {
        let cpu = kernels::Cpu::detect().map_err(device_error)?;
        Self::with(cpu, arithmetic, threads, cores)
    }

    /// A backend on a given instruction set; else as [`Cpu::on_cores`].
    pub fn with(
        cpu: kernels::Cpu,
        arithmetic: Arithmetic,
        threads: Option<usize>,
        cores: &[usize],
    ) -> Result<Self> {
        kernels::check_cores(cores).map_err(device_error)?;
        let threads = threads.unwrap_or_else(|| {
            let most = kernels::available_threads();
            if cores.is_empty() {
                most
            } else {
                most.min(cores.len())
            }
        });
        let compute = Compute::on_cores(cpu, threads, cores).map_err(device_error)?;
        Ok(Self {
            compute,
            arithmetic,
            input: Input::new(),
            spare: Recycler::default(),
            ropes: Vec::new(),
        })
    }

    fn matmul(&mut self, x: &Tensor, norm: Option<&Norm>, jobs: &mut [Job<'_>]) {
        let [rows, k] = x.shape();
        let matrices: Vec<&Matrix> = jobs.iter().map(|j| j.matrix).collect();
        let norm = norm.map(|n| kernels::Norm {
            weight: &n.weight,
            eps: n.eps,
        });
        self.input
            .fill(&self.compute, x.data(), rows, k, norm, &matrices);
        kernels::matmul(&self.compute, &self.input, jobs);
    }
}

fn layout(shape: &KvShape, blocks: usize, block_size: usize) -> kernels::kv::KvShape {
    kernels::kv::KvShape {
        layers: shape.layers,
        blocks,
        block_size,
        kv_heads: shape.kv_heads,
        head_dim: shape.head_dim,
        dtype: match shape.dtype {
            KvDtype::F32 => KvType::F32,
            KvDtype::Bf16 => KvType::Bf16,
        },
    }
}

/// The table of a layer's rotation, made when it is first asked for.
fn rope_of<'a>(
    ropes: &'a mut Vec<(Arc<Rope>, kernels::rope::Rope)>,
    of: &Arc<Rope>,
) -> &'a kernels::rope::Rope {
    let known = ropes.iter().position(|(known, _)| Arc::ptr_eq(known, of));
    let at = known.unwrap_or_else(|| {
        ropes.push((of.clone(), rope(of)));
        ropes.len() - 1
    });
    &ropes[at].1
}

fn rope(rope: &Rope) -> kernels::rope::Rope {
    match rope.dynamic {
        None => kernels::rope::Rope::new(rope.inv_freq.clone(), rope.attention_factor, false),
        Some(dynamic) => {
            let at = Box::new(move |position| dynamic.inv_freq(position));
            kernels::rope::Rope::by_position(dynamic.dim / 2, at, rope.attention_factor, false)
        }
    }
}

fn cache_of(kv: &mut Kv) -> Result<&mut KvCache> {
    kv.storage_mut::<KvCache>()
        .ok_or_else(|| Error::Run("this KV cache was made by another backend".into()))
}

impl Backend for Cpu {
    fn name(&self) -> String {
        format!("cpu ({})", self.compute.cpu.name())
    }

    fn threads(&self) -> usize {
        self.compute.pool.threads()
    }

    fn compute(&self) -> Option<&Compute> {
        Some(&self.compute)
    }

    fn packer(&self) -> Box<dyn Packer> {
        Box::new(CpuPacker {
            cpu: self.compute.cpu,
            arithmetic: self.arithmetic,
        })
    }

    fn kv_block_bytes(&self, shape: &KvShape) -> usize {
        layout(shape, 1, self.block_size()).block_bytes()
    }

    fn new_kv(&self, shape: &KvShape, blocks: usize) -> Result<Kv> {
        let cache = KvCache::new(layout(shape, blocks, self.block_size())).map_err(device_error)?;
        Ok(Kv::new(blocks, self.block_size(), Box::new(cache)))
    }

    fn begin<'a>(&mut self, step: &'a Step, kv: &mut Kv) -> Result<Pass<'a>> {
        let seq = |s: &Slice| Seq {
            rows: s.tokens.clone(),
            position: s.position,
            blocks: &step.blocks[s.blocks.clone()],
        };
        let seqs = step.slices.iter().map(seq).collect();
        let batch = Some(Batch::new(seqs, cache_of(kv)?));
        Ok(Pass { step, batch })
    }

    fn embed(&mut self, table: &dyn Format, ids: &[u32]) -> Result<Tensor> {
        let mut out = self.spare.tensor(ids.len(), table.shape()[1]);
        table.rows(ids, out.data_mut()?)?;
        Ok(out)
    }

    fn rms_norm(&mut self, x: &Tensor, norm: &Norm) -> Result<Tensor> {
        portable::rms_norm(self.device(), x, norm)?.into_host()
    }

    fn add(&mut self, x: &mut Tensor, y: &Tensor) -> Result<()> {
        *x = portable::add(self.device(), x, y)?.into_host()?;
        Ok(())
    }

    fn activate(&mut self, gate: &Tensor, up: &Tensor, activation: Activation) -> Result<Tensor> {
        portable::activate(self.device(), gate, up, activation)?.into_host()
    }

    fn attention(
        &mut self,
        layer: &Attention,
        [q, k, v]: [Tensor; 3],
        pass: &mut Pass<'_>,
        kv: &mut Kv,
    ) -> Result<Tensor> {
        let cache = cache_of(kv)?;
        let Some(batch) = &mut pass.batch else {
            return Err(Error::Run("another backend began this pass".into()));
        };
        let rope = rope_of(&mut self.ropes, &layer.rope);
        let h = &layer.heads;
        let params = AttnParams {
            heads: h.heads,
            kv_heads: h.kv_heads,
            head_dim: h.head_dim,
            scale: h.scale,
            window: h.window,
            softcap: None,
            sinks: None,
        };
        let norms = layer.qk_norm.as_ref();
        let norms = norms.map(|[q, k]| (&q.weight[..], &k.weight[..], q.eps));
        let (cx, [q, k, v]) = (&self.compute, [&q, &k, &v].map(Tensor::data));
        let mut out = self
            .spare
            .tensor(pass.step.tokens.len(), h.heads * h.head_dim);
        let to = out.data_mut()?;
        kernels::attention::qkv_attention(
            cx, rope, q, k, v, norms, &params, batch, cache, h.layer, to,
        );
        Ok(out)
    }

    fn linear(&mut self, x: &Tensor, w: &Linear) -> Result<Tensor> {
        let Some(matrix) = w.format.packed() else {
            return portable::linear(self.device(), x, w)?.into_host();
        };
        let mut out = self.spare.tensor(x.shape()[0], matrix.n());
        self.matmul(
            x,
            None,
            &mut [Job {
                matrix,
                bias: w.bias.as_deref(),
                out: out.data_mut()?,
                add: false,
            }],
        );
        Ok(out)
    }

    fn select(&mut self, x: &Tensor, rows: &[Range<usize>]) -> Result<Tensor> {
        let width = x.shape()[1];
        let mut out = self.spare.tensor(rows.iter().map(Range::len).sum(), width);
        let mut rest = out.data_mut()?;
        for r in rows {
            let (now, later) = rest.split_at_mut(r.len() * width);
            now.copy_from_slice(&x.data()[r.start * width..r.end * width]);
            rest = later;
        }
        Ok(out)
    }

    fn norm_linears(&mut self, x: &Tensor, norm: &Norm, w: [&Linear; 3]) -> Result<[Tensor; 3]> {
        let [Some(a), Some(b), Some(c)] = w.map(|w| w.format.packed()) else {
            let x = self.rms_norm(x, norm)?;
            return Ok([
                self.linear(&x, w[0])?,
                self.linear(&x, w[1])?,
                self.linear(&x, w[2])?,
            ]);
        };
        let matrices = [a, b, c];
        let mut out = matrices.map(|m| self.spare.tensor(x.shape()[0], m.n()));
        let [p, q, r] = &mut out;
        let job = |i: usize, out| Job {
            matrix: matrices[i],
            bias: w[i].bias.as_deref(),
            out,
            add: false,
        };
        let mut jobs = [
            job(0, p.data_mut()?),
            job(1, q.data_mut()?),
            job(2, r.data_mut()?),
        ];
        self.matmul(x, Some(norm), &mut jobs);
        Ok(out)
    }

    fn linear_add(&mut self, x: &Tensor, w: &Linear, residual: &mut Tensor) -> Result<()> {
        let Some(matrix) = w.format.packed() else {
            let y = portable::linear(self.device(), x, w)?;
            return self.add(residual, &y);
        };
        self.matmul(
            x,
            None,
            &mut [Job {
                matrix,
                bias: w.bias.as_deref(),
                out: residual.data_mut()?,
                add: true,
            }],
        );
        Ok(())
    }

    fn gate_up(&mut self, x: &Tensor, mlp: &Mlp) -> Result<Tensor> {
        let (Some(gate), Some(up)) = (mlp.gate.format.packed(), mlp.up.format.packed()) else {
            let x = self.rms_norm(x, &mlp.norm)?;
            let (gate, up) = (self.linear(&x, &mlp.gate)?, self.linear(&x, &mlp.up)?);
            return self.activate(&gate, &up, mlp.activation);
        };
        let ([rows, k], bias) = (
            x.shape(),
            (mlp.gate.bias.as_deref(), mlp.up.bias.as_deref()),
        );
        let mut out = self.spare.tensor(rows, gate.n());
        let norm = kernels::Norm {
            weight: &mlp.norm.weight,
            eps: mlp.norm.eps,
        };
        self.input
            .fill(&self.compute, x.data(), rows, k, Some(norm), &[gate, up]);
        kernels::gate_up(
            &self.compute,
            &self.input,
            gate,
            up,
            bias,
            mlp.activation,
            out.data_mut()?,
        );
        Ok(out)
    }

    fn head(&mut self, x: &Tensor, norm: &Norm, head: &dyn Format) -> Result<Logits> {
        let Some(matrix) = head.packed() else {
            let x = self.rms_norm(x, norm)?;
            return Ok(head.matmul(&x, self.device())?.into_host()?.into());
        };
        let ([rows, k], n) = (x.shape(), matrix.n());
        let mut out = self.spare.tensor(rows, n);
        let mut maxima = self.spare.tensor(rows, kernels::logits::maxima_len(n));
        let norm = kernels::Norm {
            weight: &norm.weight,
            eps: norm.eps,
        };
        let (cx, input) = (&self.compute, &mut self.input);
        input.fill(cx, x.data(), rows, k, Some(norm), &[matrix]);
        kernels::head(cx, input, matrix, out.data_mut()?, maxima.data_mut()?);
        Ok(Logits::with_maxima(out, maxima))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_that_rotate_differently_have_tables_of_their_own() {
        let of = |pairs: usize| {
            Arc::new(Rope {
                inv_freq: vec![0.5; pairs],
                attention_factor: 1.0,
                dynamic: None,
            })
        };
        let (narrow, wide, mut ropes) = (of(4), of(8), Vec::new());
        for (rope, dims) in [(&narrow, 8), (&wide, 16), (&narrow, 8), (&wide, 16)] {
            assert_eq!(rope_of(&mut ropes, rope).rotary_dim(), dims);
        }
        assert_eq!(ropes.len(), 2);
    }
}
