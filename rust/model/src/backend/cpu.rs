//! The CPU backend: packed matrices and paged attention by our own kernels, on buffers reused from step to step.
//! Knows shapes and buffers; how a thing is computed is the kernels' business.
mod attend;
mod experts;
mod latent;
mod packer;
mod streams;

use std::{ops::Range, sync::Arc};

use candle_vllm_kernels::cpu::{
    self as kernels, Activation, Bench, Compute, Input, Job, Matrix, Then,
    attention::Batch,
    kv::{KvCache, Seq},
    logits::Finish,
    routing::Routes,
};

use super::{
    Attend, Backend, Experts, Feed, Index, Join, KvShape, Latent, Linear, LogitRule, Norm, Packer,
    Pass, Router, ShortConv,
};
use crate::{
    Error, Kv, Logits, Result, Slice, Step, Tensor,
    backend::tensor::Recycler,
    quant::{Format, Vector},
    rope::Rope,
};

use packer::CpuPacker;
pub use packer::{Activations, Arithmetic, Dtype};

/// Kernels on a pool of threads.
pub struct Cpu {
    compute: Arc<Compute>,
    arithmetic: Arithmetic,
    input: Input,
    bench: Bench,
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
            compute: Arc::new(compute),
            arithmetic,
            input: Input::new(),
            bench: Bench::default(),
            spare: Recycler::default(),
            ropes: Vec::new(),
        })
    }

    fn fill(&mut self, x: &Tensor, norm: Option<&Norm>, matrices: &[&Matrix]) -> Result<()> {
        let ([rows, k], norm) = (x.shape(), norm.map(host_norm).transpose()?);
        let cx = &self.compute;
        self.input.fill(cx, x.data(), rows, k, norm, matrices);
        Ok(())
    }

    /// One product of rows that no norm comes before.
    fn product(&mut self, x: &Tensor, w: &Linear, then: Then, out: &mut Tensor) -> Result<()> {
        let matrix = packed(w.format.as_ref())?;
        self.fill(x, None, &[matrix])?;
        let job = Job {
            matrix,
            bias: host(w.bias.as_ref())?,
            out: out.data_mut()?,
            then,
        };
        kernels::matmul(&self.compute, &self.input, &mut [job]);
        Ok(())
    }
}

/// The matrix that this backend has packed.
fn packed(format: &dyn Format) -> Result<&Matrix> {
    let other = || Error::Run("a weight of another backend".into());
    format.packed().ok_or_else(other)
}

fn host(vector: Option<&Vector>) -> Result<Option<&[f32]>> {
    vector.map(Vector::values).transpose()
}

fn host_norm(norm: &Norm) -> Result<kernels::Norm<'_>> {
    Ok(kernels::Norm {
        weight: norm.weight.values()?,
        bias: host(norm.bias.as_ref())?,
        eps: norm.eps,
        centred: norm.centred,
    })
}

/// The shapes of the caches of all groups.
fn layouts(
    shape: &KvShape,
    blocks: usize,
    block_size: usize,
) -> impl Iterator<Item = kernels::kv::KvShape> {
    shape.groups.iter().map(move |group| kernels::kv::KvShape {
        layers: group.layers,
        blocks,
        block_size,
        kv_heads: group.kv_heads,
        key_dim: group.key_dim,
        value_dim: group.value_dim,
        latent: group.latent,
        dtype: group.dtype,
    })
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
        None => kernels::rope::Rope::new(
            rope.inv_freq.clone(),
            rope.attention_factor,
            rope.interleaved,
        ),
        Some(dynamic) => {
            let at = Box::new(move |position| dynamic.inv_freq(position));
            kernels::rope::Rope::by_position(
                dynamic.dim / 2,
                at,
                rope.attention_factor,
                rope.interleaved,
            )
        }
    }
}

/// The cache of a group of layers; of all of them the blocks are the same.
fn cache_of(kv: &mut Kv, group: usize) -> Result<&mut KvCache> {
    kv.storage_mut::<Vec<KvCache>>()
        .and_then(|caches| caches.get_mut(group))
        .ok_or_else(foreign)
}

fn foreign() -> Error {
    Error::Run("this KV cache was made by another backend".into())
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
            compute: self.compute.clone(),
            arithmetic: self.arithmetic,
        })
    }

    fn kv_block_bytes(&self, shape: &KvShape) -> usize {
        let caches = layouts(shape, 1, self.block_size());
        caches.map(|cache| cache.block_bytes()).sum()
    }

    fn new_kv(&self, shape: &KvShape, blocks: usize) -> Result<Kv> {
        let caches = layouts(shape, blocks, self.block_size()).map(KvCache::new);
        let caches: Vec<KvCache> = caches
            .collect::<std::result::Result<_, _>>()
            .map_err(device_error)?;
        Ok(Kv::new(blocks, self.block_size(), Box::new(caches)))
    }

    fn begin<'a>(&mut self, step: &'a Step, kv: &mut Kv) -> Result<Pass<'a>> {
        let seq = |s: &Slice| Seq {
            rows: s.tokens.clone(),
            position: s.position,
            blocks: &step.blocks[s.blocks.clone()],
        };
        let caches = kv.storage_mut::<Vec<KvCache>>().ok_or_else(foreign)?;
        let seqs = step.slices.iter().map(seq).collect();
        let batch = caches.first().map(|cache| Batch::new(seqs, cache));
        Ok(Pass {
            step,
            batch,
            picks: None,
        })
    }

    fn embed(&mut self, table: &dyn Format, ids: &[u32], factor: f32) -> Result<Tensor> {
        let mut out = self.spare.tensor(ids.len(), table.shape()[1]);
        let values = out.data_mut()?;
        table.rows(ids, values)?;
        if factor != 1.0 {
            values.iter_mut().for_each(|v| *v *= factor);
        }
        Ok(out)
    }

    fn normalise(&mut self, x: &Tensor, group: usize, norm: &Norm) -> Result<Tensor> {
        let [rows, width] = x.shape();
        let mut out = self.spare.tensor(rows, width);
        let to = out.data_mut()?;
        to.copy_from_slice(x.data());
        kernels::normalise_groups(&self.compute, to, width, group, host_norm(norm)?);
        Ok(out)
    }

    fn add(&mut self, x: &mut Tensor, y: &Tensor, factor: f32) -> Result<()> {
        let width = x.shape()[1];
        kernels::add_rows(&self.compute, x.data_mut()?, y.data(), width, None, factor);
        Ok(())
    }

    fn scale(&mut self, x: &mut Tensor, factor: f32) -> Result<()> {
        let width = x.shape()[1];
        kernels::scale_rows(&self.compute, x.data_mut()?, width, factor);
        Ok(())
    }

    fn weigh(&mut self, x: &Tensor, columns: &Vector) -> Result<Tensor> {
        self.weighed(x, columns)
    }

    fn combine(&mut self, streams: &[&Tensor], weights: &Tensor) -> Result<Vec<Tensor>> {
        self.combined(streams, weights)
    }

    fn resize(&mut self, x: &mut Tensor, like: &Tensor, least: f32) -> Result<()> {
        let width = x.shape()[1];
        kernels::resize_rows(&self.compute, x.data_mut()?, like.data(), width, least);
        Ok(())
    }

    fn gated(
        &mut self,
        x: &Tensor,
        gate: &Linear,
        activation: Activation,
        (by, first): (&Tensor, usize),
    ) -> Result<Tensor> {
        let width = gate.n();
        let mut out = self.spare.tensor(x.shape()[0], width);
        self.product(x, gate, Then::Activate(activation), &mut out)?;
        let by = (by.data(), by.shape()[1]);
        kernels::multiply_rows(&self.compute, out.data_mut()?, width, by, first);
        Ok(out)
    }

    fn attend(
        &mut self,
        attend: &Attend,
        [q, k, v]: [Tensor; 3],
        pass: &mut Pass<'_>,
        kv: &mut Kv,
    ) -> Result<Tensor> {
        self.attended(attend, (q, Some([k, v])), pass, kv)
    }

    fn attend_shared(
        &mut self,
        attend: &Attend,
        q: Tensor,
        pass: &mut Pass<'_>,
        kv: &mut Kv,
    ) -> Result<Tensor> {
        self.attended(attend, (q, None), pass, kv)
    }

    fn pick(
        &mut self,
        index: &Index,
        qkw: [Tensor; 3],
        pass: &mut Pass<'_>,
        kv: &mut Kv,
    ) -> Result<()> {
        self.picked(index, qkw, pass, cache_of(kv, index.place.group)?)
    }

    fn attend_latent(
        &mut self,
        latent: &Latent,
        qc: [Tensor; 2],
        pass: &mut Pass<'_>,
        kv: &mut Kv,
    ) -> Result<Tensor> {
        self.latent(latent, qc, pass, cache_of(kv, latent.place.group)?)
    }

    fn short_conv(
        &mut self,
        conv: &ShortConv,
        x: &Tensor,
        pass: &mut Pass<'_>,
        kv: &mut Kv,
    ) -> Result<Tensor> {
        let slices = &pass.step.slices;
        let slots = slices.iter().map(|s| s.state);
        let place = (conv.place.group, conv.place.layer);
        let states = kv.states().enter(place, slots)?.into_iter().zip(slices);
        let seq = |(state, slice): (_, &Slice)| kernels::ConvSeq {
            rows: slice.tokens.clone(),
            state,
        };
        let mut seqs: Vec<_> = states.map(seq).collect();
        let taps = kernels::Conv {
            weight: conv.weight.values()?,
            bias: host(conv.bias.as_ref())?,
            width: conv.width,
        };
        let mut out = self.spare.tensor(x.shape()[0], conv.width);
        kernels::short_conv(&self.compute, x.data(), taps, &mut seqs, out.data_mut()?);
        Ok(out)
    }

    fn linear(&mut self, x: &Tensor, w: &Linear) -> Result<Tensor> {
        let mut out = self.spare.tensor(x.shape()[0], w.n());
        self.product(x, w, Then::Set, &mut out)?;
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

    fn project(&mut self, x: &Tensor, norm: Option<&Norm>, w: &[&Linear]) -> Result<Vec<Tensor>> {
        let matrices = w.iter().map(|w| packed(w.format.as_ref()));
        let matrices: Vec<&Matrix> = matrices.collect::<Result<_>>()?;
        let rows = x.shape()[0];
        let outs = matrices.iter().map(|m| self.spare.tensor(rows, m.n()));
        let mut outs: Vec<Tensor> = outs.collect();
        self.fill(x, norm, &matrices)?;
        let jobs = outs
            .iter_mut()
            .zip(w)
            .zip(&matrices)
            .map(|((out, w), matrix)| {
                Ok(Job {
                    matrix,
                    bias: host(w.bias.as_ref())?,
                    out: out.data_mut()?,
                    then: Then::Set,
                })
            });
        let mut jobs: Vec<Job<'_>> = jobs.collect::<Result<_>>()?;
        kernels::matmul(&self.compute, &self.input, &mut jobs);
        drop(jobs);
        Ok(outs)
    }

    fn join(&mut self, x: &Tensor, join: &Join, residual: &mut Tensor) -> Result<()> {
        if join.norm.is_none() && join.factor == 1.0 {
            return self.product(x, &join.linear, Then::Add, residual);
        }
        let y = self.linear(x, &join.linear)?;
        let norm = join.norm.as_ref().map(host_norm).transpose()?;
        let (cx, width) = (&self.compute, y.shape()[1]);
        kernels::add_rows(cx, residual.data_mut()?, y.data(), width, norm, join.factor);
        Ok(())
    }

    fn feed(&mut self, x: &Tensor, norm: Option<&Norm>, feed: &Feed) -> Result<Tensor> {
        if let (Some(gate), Some(cut)) = (&feed.gate, feed.cut) {
            return self.feed_outliers(x, norm, (gate, &feed.up), (cut, feed.activation));
        }
        let (up, act) = (packed(feed.up.format.as_ref())?, feed.activation);
        let bias = host(feed.up.bias.as_ref())?;
        let mut out = self.spare.tensor(x.shape()[0], up.n());
        let to = out.data_mut()?;
        let Some(gate) = &feed.gate else {
            self.fill(x, norm, &[up])?;
            let job = Job {
                matrix: up,
                bias,
                out: to,
                then: Then::Activate(act),
            };
            kernels::matmul(&self.compute, &self.input, &mut [job]);
            return Ok(out);
        };
        let (matrix, bias) = (
            packed(gate.format.as_ref())?,
            (host(gate.bias.as_ref())?, bias),
        );
        self.fill(x, norm, &[matrix, up])?;
        kernels::gate_up(&self.compute, &self.input, matrix, up, bias, act, to);
        Ok(out)
    }

    fn route(&mut self, x: &Tensor, router: &Router) -> Result<Routes> {
        self.chosen(x, router)
    }

    fn experts(&mut self, x: &Tensor, routes: &Routes, experts: &Experts) -> Result<Tensor> {
        self.together(x, routes, experts)
    }

    fn merge(
        &mut self,
        y: &Tensor,
        norm: Option<&Norm>,
        factor: f32,
        residual: &mut Tensor,
    ) -> Result<()> {
        let (width, norm) = (y.shape()[1], norm.map(host_norm).transpose()?);
        let to = residual.data_mut()?;
        kernels::add_rows(&self.compute, to, y.data(), width, norm, factor);
        Ok(())
    }

    fn head(
        &mut self,
        x: &Tensor,
        norm: &Norm,
        (head, bias): (&dyn Format, Option<&Vector>),
        rule: LogitRule,
    ) -> Result<Logits> {
        let (matrix, rows) = (packed(head)?, x.shape()[0]);
        let mut out = self.spare.tensor(rows, matrix.n());
        let length = kernels::logits::maxima_len(matrix.n());
        let mut maxima = self.spare.tensor(rows, length);
        self.fill(x, Some(norm), &[matrix])?;
        let finish = Finish {
            scale: rule.factor,
            softcap: rule.cap,
        };
        let (bias, to, most) = (host(bias)?, out.data_mut()?, maxima.data_mut()?);
        kernels::head(&self.compute, &self.input, matrix, bias, finish, to, most);
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
                interleaved: false,
            })
        };
        let (narrow, wide, mut ropes) = (of(4), of(8), Vec::new());
        for (rope, dims) in [(&narrow, 8), (&wide, 16), (&narrow, 8), (&wide, 16)] {
            assert_eq!(rope_of(&mut ropes, rope).rotary_dim(), dims);
        }
        assert_eq!(ropes.len(), 2);
    }
}
