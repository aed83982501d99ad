//! Backends: how the coarse operations of a decoder are computed.
//! The default of every operation, in candle ops (`portable.rs`), is its specification and its oracle.
pub mod cpu;
mod experts;
pub mod heap;
mod operands;
mod portable;
pub mod tensor;

use std::ops::Range;

use candle_core::Device;
use candle_vllm_kernels::cpu::{
    Activation, Compute,
    attention::{Batch, Picks},
    routing::Routes,
};

pub use candle_vllm_kernels::cpu::kv::KvType;
pub use cpu::Cpu;
pub use experts::{Expert, Experts, Router, Shared};
pub use operands::{
    Attend, Feed, Index, Join, Latent, Linear, LogitRule, Norm, Normed, QkNorm, ShortConv,
};
pub use portable::Portable;

use crate::{
    Kv, Logits, Result, StateGroup, Step, Tensor,
    quant::{Described, Format, Measured, PerHead, Role, Vector},
};

/// Layers whose keys and values are alike, and what they keep of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvGroup {
    /// Layers.
    pub layers: usize,
    /// Key/value heads of a layer.
    pub kv_heads: usize,
    /// Width of a head's key.
    pub key_dim: usize,
    /// Width of a head's value.
    pub value_dim: usize,
    /// Whether values are the last columns of the keys, not kept twice.
    pub latent: bool,
    /// Element type.
    pub dtype: KvType,
}

impl KvGroup {
    /// A layer's keys of an index, `width` wide, in a cache of `dtype`: without values, and never of a type with scales,
    /// whose rounding would change what is picked.
    pub fn index(width: usize, dtype: KvType) -> Self {
        Self {
            layers: 1,
            kv_heads: 1,
            key_dim: width,
            value_dim: width,
            latent: true,
            dtype: match dtype {
                KvType::Int8 | KvType::Fp8 => KvType::Bf16,
                plain => plain,
            },
        }
    }
}

/// What a KV cache holds for each token: groups of layers, one after the other in each block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvShape {
    /// The groups.
    pub groups: Vec<KvGroup>,
    /// Element type of keys and values.
    pub dtype: KvType,
    /// Layers that keep a state of each sequence in their place.
    pub states: Vec<StateGroup>,
}

/// Where a layer's keys and values lie, or its states: groups of either kind are counted on their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvPlace {
    /// The group.
    pub group: usize,
    /// Which of the group's layers, counted from 0.
    pub layer: usize,
}

impl KvShape {
    /// The groups that layers make which keep `each` (`layers` of it is not looked at), and the place of each of them.
    pub fn grouped(each: &[KvGroup], dtype: KvType) -> (KvShape, Vec<KvPlace>) {
        let mut groups: Vec<KvGroup> = Vec::new();
        let mut places = Vec::with_capacity(each.len());
        for own in each {
            let like = |g: &KvGroup| KvGroup { layers: 0, ..*g } == KvGroup { layers: 0, ..*own };
            let group = groups.iter().position(like).unwrap_or_else(|| {
                groups.push(KvGroup { layers: 0, ..*own });
                groups.len() - 1
            });
            let layer = groups[group].layers;
            groups[group].layers += 1;
            places.push(KvPlace { group, layer });
        }
        let states = Vec::new();
        let shape = KvShape {
            groups,
            dtype,
            states,
        };
        (shape, places)
    }

    /// Bytes of one sequence's states.
    pub fn state_bytes(&self) -> usize {
        self.states.iter().map(|group| group.bytes()).sum()
    }
}

/// Turns stored matrices into the backend's own formats; used from several threads at once while loading.
pub trait Packer: Send + Sync {
    /// Packs the matrix `name` for its `role`.
    fn matrix(&self, name: &str, role: Role, weight: &Described<'_>) -> Result<Box<dyn Format>>;

    /// Takes one matrix `[n, k]` a head, `shape` being heads, n and k. Default: they stay on the host.
    fn per_head(&self, shape: [usize; 3], values: Vec<f32>) -> Result<PerHead> {
        Ok(PerHead::host(shape, values))
    }

    /// What [`Packer::matrix`] would make of the matrix, without making it or reading its values.
    fn measure(&self, name: &str, role: Role, weight: &Described<'_>) -> Result<Measured>;

    /// Takes the values of a norm, a bias or sinks. Default: they stay on the host.
    fn vector(&self, values: Vec<f32>) -> Result<Vector> {
        Ok(Vector::host(values))
    }
}

/// A step on its way through the layers, and what a backend makes of it once for all of them.
pub struct Pass<'a> {
    /// The step.
    pub step: &'a Step,
    /// Its sequences as the CPU's attention takes them.
    batch: Option<Batch<'a>>,
    /// What the rows picked by the last index.
    picks: Option<Picks>,
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

    /// An empty cache of `blocks` blocks, without slots for states.
    fn new_kv(&self, shape: &KvShape, blocks: usize) -> Result<Kv> {
        Ok(portable::new_kv(shape, blocks, self.block_size()))
    }

    /// Begins a pass over a step, with the cache that its sequences live in.
    fn begin<'a>(&mut self, step: &'a Step, _kv: &mut Kv) -> Result<Pass<'a>> {
        Ok(Pass {
            step,
            batch: None,
            picks: None,
        })
    }

    /// `factor` times the rows `ids` of `table`.
    fn embed(&mut self, table: &dyn Format, ids: &[u32], factor: f32) -> Result<Tensor> {
        portable::embed(table, ids, factor)
    }

    /// Each group of `group` columns, normalised.
    fn normalise(&mut self, x: &Tensor, group: usize, norm: &Norm) -> Result<Tensor> {
        portable::normalise(self.device(), x, group, norm)
    }

    /// `x W^T + b`.
    fn linear(&mut self, x: &Tensor, w: &Linear) -> Result<Tensor> {
        portable::linear(self.device(), x, w)
    }

    /// `x += factor * y`.
    fn add(&mut self, x: &mut Tensor, y: &Tensor, factor: f32) -> Result<()> {
        *x = portable::add(self.device(), x, y, factor)?;
        Ok(())
    }

    /// `x *= factor`.
    fn scale(&mut self, x: &mut Tensor, factor: f32) -> Result<()> {
        *x = portable::scale(self.device(), x, factor)?;
        Ok(())
    }

    /// Each row of `x` times the vector.
    fn weigh(&mut self, x: &Tensor, columns: &Vector) -> Result<Tensor> {
        portable::streams::weigh(self.device(), x, columns)
    }

    /// Row by row as many sums of the streams as `weights` has columns for: those of the first sum come first.
    fn combine(&mut self, streams: &[&Tensor], weights: &Tensor) -> Result<Vec<Tensor>> {
        portable::streams::combine(self.device(), streams, weights)
    }

    /// Scales each row of `x` so that its mean square is that of the row of `like`; one below `least` counts as that.
    fn resize(&mut self, x: &mut Tensor, like: &Tensor, least: f32) -> Result<()> {
        *x = portable::streams::resize(self.device(), x, like, least)?;
        Ok(())
    }

    /// `act(x W^T + b)` times as many columns of another tensor of these rows, from the given one on.
    fn gated(
        &mut self,
        x: &Tensor,
        gate: &Linear,
        activation: Activation,
        by: (&Tensor, usize),
    ) -> Result<Tensor> {
        let y = self.linear(x, gate)?;
        portable::gated(self.device(), &y, activation, by)
    }

    /// The given rows of `x`, one range after the other.
    fn select(&mut self, x: &Tensor, rows: &[Range<usize>]) -> Result<Tensor> {
        portable::select(self.device(), x, rows)
    }

    /// Normalises and rotates q and k, writes k and v of the pass into the cache and attends: `[rows, heads * value_dim]`.
    fn attend(
        &mut self,
        attend: &Attend,
        qkv: [Tensor; 3],
        pass: &mut Pass<'_>,
        kv: &mut Kv,
    ) -> Result<Tensor> {
        let [q, k, v] = qkv;
        portable::attend(self.device(), attend, (q, Some([k, v])), pass.step, kv)
    }

    /// As [`Backend::attend`] over keys and values that another layer has written for the rows of this pass.
    fn attend_shared(
        &mut self,
        attend: &Attend,
        q: Tensor,
        pass: &mut Pass<'_>,
        kv: &mut Kv,
    ) -> Result<Tensor> {
        portable::attend(self.device(), attend, (q, None), pass.step, kv)
    }

    /// Rotates queries and keys of an index, writes the keys into the cache and picks the keys that each row attends to
    /// from here on in the pass. Queries `[rows, heads * dim]`, normalised keys `[rows, dim]`, weights `[rows, heads]`.
    fn pick(
        &mut self,
        index: &Index,
        qkw: [Tensor; 3],
        pass: &mut Pass<'_>,
        kv: &mut Kv,
    ) -> Result<()> {
        let picks = portable::index::pick(self.device(), index, qkw, pass.step, kv)?;
        pass.picks = Some(picks);
        Ok(())
    }

    /// As [`Backend::attend`] with queries `[rows, heads * (nope + rotated)]`, each head's rotating columns last, and
    /// latents with the rotating columns of the keys behind them, `[rows, rank + rotated]`.
    fn attend_latent(
        &mut self,
        latent: &Latent,
        qc: [Tensor; 2],
        pass: &mut Pass<'_>,
        kv: &mut Kv,
    ) -> Result<Tensor> {
        portable::latent::attend(self.device(), latent, qc, pass, kv)
    }

    /// Gated short convolution of rows `[B | C | x]` along their sequences, `[rows, width]`.
    fn short_conv(
        &mut self,
        conv: &ShortConv,
        x: &Tensor,
        pass: &mut Pass<'_>,
        kv: &mut Kv,
    ) -> Result<Tensor> {
        portable::short_conv::run(self.device(), conv, x, pass.step, kv)
    }

    /// The linears of the rows, which are normalised first where there is a norm. Default: composed.
    fn project(&mut self, x: &Tensor, norm: Option<&Norm>, w: &[&Linear]) -> Result<Vec<Tensor>> {
        let own = self.normalised(x, norm)?;
        let x = own.as_ref().unwrap_or(x);
        w.iter().map(|w| self.linear(x, w)).collect()
    }

    /// The rows, normalised over their whole width; `None` without a norm.
    fn normalised(&mut self, x: &Tensor, norm: Option<&Norm>) -> Result<Option<Tensor>> {
        norm.map(|norm| self.normalise(x, x.shape()[1], norm))
            .transpose()
    }

    /// The hidden rows of a feed-forward part. Default: composed.
    fn feed(&mut self, x: &Tensor, norm: Option<&Norm>, feed: &Feed) -> Result<Tensor> {
        let own = self.normalised(x, norm)?;
        let x = own.as_ref().unwrap_or(x);
        let up = self.linear(x, &feed.up)?;
        let gate = feed
            .gate
            .as_ref()
            .map(|gate| self.linear(x, gate))
            .transpose()?;
        let gate = match feed.cut {
            Some(cut) => gate.map(|gate| portable::streams::cut(self.device(), &gate, cut)),
            None => gate.map(Ok),
        };
        let gate = gate.transpose()?;
        portable::activate(self.device(), gate, up, feed.activation)
    }

    /// `residual += factor * norm(x W^T + b)`. Default: composed.
    fn join(&mut self, x: &Tensor, join: &Join, residual: &mut Tensor) -> Result<()> {
        let y = self.linear(x, &join.linear)?;
        let own = self.normalised(&y, join.norm.as_ref())?;
        self.add(residual, own.as_ref().unwrap_or(&y), join.factor)
    }

    /// Which experts each row goes to, the shared one last; x is already normalised.
    fn route(&mut self, x: &Tensor, router: &Router) -> Result<Routes> {
        let logits = self.linear(x, &router.linear)?;
        let gate = router.shared.as_ref().and_then(|s| s.gate.as_ref());
        let gate = gate.map(|gate| self.linear(x, gate)).transpose()?;
        experts::route(self.device(), router, &logits, gate)
    }

    /// Of each row the sum of what its experts make of it, each times its weight. Default: expert by expert.
    fn experts(&mut self, x: &Tensor, routes: &Routes, experts: &Experts) -> Result<Tensor> {
        let device = self.device().clone();
        let mut sum = experts::Sum::new(&device, x, experts)?;
        let by = routes.by_expert(experts.all.len());
        for (expert, range) in &by.touched {
            let Expert { feed, down } = &experts.all[*expert];
            let (rows, weights) = (&by.rows[range.clone()], &by.weights[range.clone()]);
            let given = sum.rows(rows, weights)?;
            let hidden = self.feed(&given, None, feed)?;
            let made = self.linear(&hidden, down)?;
            sum.add(&made, rows, weights)?;
        }
        sum.finish()
    }

    /// `residual += factor * norm(y)`. Default: composed.
    fn merge(
        &mut self,
        y: &Tensor,
        norm: Option<&Norm>,
        factor: f32,
        residual: &mut Tensor,
    ) -> Result<()> {
        let own = self.normalised(y, norm)?;
        self.add(residual, own.as_ref().unwrap_or(y), factor)
    }

    /// Logits of the rows.
    fn head(
        &mut self,
        x: &Tensor,
        norm: &Norm,
        (head, bias): (&dyn Format, Option<&Vector>),
        rule: LogitRule,
    ) -> Result<Logits> {
        let x = self.normalise(x, x.shape()[1], norm)?;
        portable::head(self.device(), &x, (head, bias), rule)
    }
}
