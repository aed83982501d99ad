//! The self-attention part of a layer.
use std::sync::Arc;

use crate::{
    Kv, Result, Tensor,
    backend::{Backend, Pass},
    layers::{Linear, Norm, Rope},
    loader::Loader,
    quant::Role,
};

/// `x + o(attention(rope(q), rope(k), v))` with q, k, v from the normalised x.
pub struct Attention {
    /// Before the matrices.
    pub norm: Norm,
    /// Queries, keys, values.
    pub qkv: [Linear; 3],
    /// Back to the residual stream.
    pub output: Linear,
    /// Per-head norms of queries and keys, where the architecture has them.
    pub qk_norm: Option<[Norm; 2]>,
    /// Shape and scale.
    pub heads: Heads,
    /// Rotary frequencies, shared by all layers.
    pub rope: Arc<Rope>,
}

/// Shape and scale of one layer's attention.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Heads {
    /// This layer's number, counted from 0.
    pub layer: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Dimensions of a head that rotate.
    pub rotary_dim: usize,
    /// Factor on the scores before softmax.
    pub scale: f32,
    /// A query sees this many keys, its own included; `None` = all before it.
    pub window: Option<usize>,
}

impl Attention {
    /// Loads layer `layer` under `prefix`.
    pub fn load(
        loader: &Loader<'_>,
        prefix: &str,
        layer: usize,
        qk_norm: bool,
        rope: Arc<Rope>,
    ) -> Result<Self> {
        let c = loader.config();
        let (h, d) = (c.hidden_size, c.head_dim);
        let part = |name: &str, role, shape| {
            Linear::load(
                loader,
                &format!("{prefix}.self_attn.{name}_proj"),
                role,
                shape,
            )
        };
        let head_norm =
            |name: &str| Norm::load(loader, &format!("{prefix}.self_attn.{name}_norm"), d);
        Ok(Self {
            norm: Norm::load(loader, &format!("{prefix}.input_layernorm"), h)?,
            qkv: [
                part("q", Role::Query, [c.heads * d, h])?,
                part("k", Role::Key, [c.kv_heads * d, h])?,
                part("v", Role::Value, [c.kv_heads * d, h])?,
            ],
            output: part("o", Role::Output, [h, c.heads * d])?,
            qk_norm: if qk_norm {
                Some([head_norm("q")?, head_norm("k")?])
            } else {
                None
            },
            heads: Heads {
                layer,
                heads: c.heads,
                kv_heads: c.kv_heads,
                head_dim: d,
                rotary_dim: c.rotary_dim,
                scale: 1.0 / (d as f32).sqrt(),
                window: c.windows.get(layer).copied().flatten(),
            },
            rope,
        })
    }

    /// Writes the pass's keys and values and returns what attention gives before `output`: `[rows, heads * head_dim]`.
    pub fn mix(
        &self,
        backend: &mut dyn Backend,
        x: &Tensor,
        pass: &mut Pass<'_>,
        kv: &mut Kv,
    ) -> Result<Tensor> {
        let [q, k, v] = &self.qkv;
        let qkv = backend.norm_linears(x, &self.norm, [q, k, v])?;
        backend.attention(self, qkv, pass, kv)
    }
}
