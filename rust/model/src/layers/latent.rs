//! Attention by a latent that all heads share (MLA): DeepSeek V2 and V3, GLM-4.7-Flash.
use std::sync::Arc;

use super::{Place, norm};
use crate::{
    Error, Kv, Result, Tensor,
    backend::{self, Backend, Join, KvPlace, Linear, Norm, Pass},
    config::LatentShape,
    quant::{PerHead, Role, Shard},
    rope::Rope,
};

/// Into the queries.
enum Query {
    Whole(Linear),
    /// By a narrow, normalised row.
    Narrow(Linear, Norm, Linear),
}

/// Latent attention over the (normalised) residual stream, and the way back to it.
pub struct Latent {
    norm: Option<Norm>,
    query: Query,
    /// Into the latent and the rotating columns of the key.
    down: Linear,
    attend: backend::Latent,
    /// Back to the residual stream.
    pub output: Join,
}

/// The matrices from the latent to keys and values, by head: `[rank, nope]`, the keys' turned, and `[value, rank]`.
fn per_head(place: &Place<'_>, shape: &LatentShape) -> Result<[PerHead; 2]> {
    let (loader, heads) = (place.loader, place.loader.config().heads);
    let LatentShape {
        rank, nope, value, ..
    } = *shape;
    let name = |part: &str| place.name(part).unwrap_or_default();
    let (k, v) = (heads * nope * rank, heads * value * rank);
    // llama.cpp's converter parts them, and turns the keys'.
    let apart = name("self_attn.k_b_proj");
    let [keys, values] = if loader.contains(&format!("{apart}.weight")) {
        [
            loader.values(&apart, k)?,
            loader.values(&name("self_attn.v_b_proj"), v)?,
        ]
    } else {
        parted(&loader.values(&name("self_attn.kv_b_proj"), k + v)?, shape)
    };
    Ok([
        loader.per_head([heads, rank, nope], keys)?,
        loader.per_head([heads, value, rank], values)?,
    ])
}

/// Of rows head by head, the keys' before the values': the keys' turned, and the values'.
fn parted(both: &[f32], shape: &LatentShape) -> [Vec<f32>; 2] {
    let LatentShape {
        rank, nope, value, ..
    } = *shape;
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    for head in both.chunks_exact((nope + value) * rank) {
        let (k, v) = head.split_at(nope * rank);
        keys.extend((0..rank).flat_map(|r| (0..nope).map(move |n| k[n * rank + r])));
        values.extend_from_slice(v);
    }
    [keys, values]
}

impl Latent {
    /// Loads the part of a layer whose keys lie at `at`.
    pub fn load(
        place: &Place<'_>,
        shape: &LatentShape,
        rope: Arc<Rope>,
        at: KvPlace,
    ) -> Result<Self> {
        let (family, loader, c) = (place.family, place.loader, place.loader.config());
        let (h, heads) = (c.hidden_size, c.heads);
        let LatentShape {
            query,
            rank,
            nope,
            rotated,
            value,
            ..
        } = *shape;
        let name = |part: &str| place.name(part).unwrap_or_default();
        let linear =
            |part: &str, role, shape| loader.linear(&name(part), role, Shard::Whole, shape);
        let norm_of = |part: &str, width| norm(loader, &name(part), width, family.norm);
        let queries = heads * (nope + rotated);
        let query = match query {
            None => Query::Whole(linear("self_attn.q_proj", Role::Query, [queries, h])?),
            Some(narrow) => Query::Narrow(
                linear("self_attn.q_a_proj", Role::Query, [narrow, h])?,
                norm_of("self_attn.q_a_layernorm", narrow)?,
                linear("self_attn.q_b_proj", Role::Query, [queries, narrow])?,
            ),
        };
        let [absorb, expand] = per_head(place, shape)?;
        Ok(Self {
            norm: Some(norm_of(family.names.input_norm, h)?),
            query,
            down: linear(
                "self_attn.kv_a_proj_with_mqa",
                Role::Value,
                [rank + rotated, h],
            )?,
            attend: backend::Latent {
                place: at,
                heads,
                nope,
                rotated,
                rank,
                value_dim: value,
                scale: shape.scale as f32,
                norm: norm_of("self_attn.kv_a_layernorm", rank)?,
                absorb,
                expand,
                rope,
            },
            output: Join {
                linear: linear(family.names.output, Role::Output, [h, heads * value])?,
                norm: None,
                factor: c.scales.residual as f32,
            },
        })
    }

    /// Before the matrices.
    pub fn norm(&self) -> Option<&Norm> {
        self.norm.as_ref()
    }

    /// Writes the pass's keys and returns what attention gives before `output`: `[rows, heads * value]`.
    pub fn mix(
        &self,
        backend: &mut dyn Backend,
        x: &Tensor,
        pass: &mut Pass<'_>,
        kv: &mut Kv,
    ) -> Result<Tensor> {
        let first = match &self.query {
            Query::Whole(q) | Query::Narrow(q, ..) => q,
        };
        let both = backend.project(x, self.norm.as_ref(), &[first, &self.down])?;
        let Ok([mut q, c]) = <[Tensor; 2]>::try_from(both) else {
            return Err(Error::Run("a product is missing".into()));
        };
        if let Query::Narrow(_, norm, last) = &self.query {
            q = backend.project(&q, Some(norm), &[last])?.remove(0);
        }
        backend.attend_latent(&self.attend, [q, c], pass, kv)
    }
}
