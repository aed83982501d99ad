//! Attention by a latent that all heads share (MLA): DeepSeek, GLM-4.7-Flash; sparse where an index picks keys.
use std::sync::Arc;

use super::{Index, Mixer, Place};
use crate::{
    Error, Kv, Result, Tensor,
    backend::{self, Backend, Join, KvPlace, Linear, Norm, Pass},
    config::LatentShape,
    quant::{PerHead, Role},
    rope::Rope,
};

/// Into the queries.
enum Query {
    Whole(Linear),
    /// By a narrow, normalised row.
    Narrow(Linear, Norm, Linear),
}

/// Added to the mean square of the narrow row and of the latent, whatever the configuration says of norms.
const EPS: f32 = 1e-6;

/// Which keys rows attend to.
enum Seen {
    All,
    /// What the index picks.
    Own(Box<Index>),
    /// What the last layer with an index has picked.
    Shared,
}

/// A norm inside latent attention.
fn inner(place: &Place<'_>, part: &str, width: usize) -> Result<Norm> {
    Ok(Norm {
        eps: EPS,
        ..place.norm(part, width)?
    })
}

impl Query {
    fn load(place: &Place<'_>, shape: &LatentShape) -> Result<Self> {
        let c = place.loader.config();
        let (h, queries) = (c.hidden_size, c.heads * (shape.nope + shape.rotated));
        let linear = |part: &str, shape| place.linear(part, Role::Query, shape);
        Ok(match shape.query {
            None => Query::Whole(linear("self_attn.q_proj", [queries, h])?),
            Some(narrow) => Query::Narrow(
                linear("self_attn.q_a_proj", [narrow, h])?,
                inner(place, "self_attn.q_a_layernorm", narrow)?,
                linear("self_attn.q_b_proj", [queries, narrow])?,
            ),
        })
    }

    /// What the residual stream meets.
    fn first(&self) -> &Linear {
        let (Query::Whole(first) | Query::Narrow(first, ..)) = self;
        first
    }
}

/// Latent attention over the (normalised) residual stream, and the way back to it.
pub struct Latent {
    norm: Option<Norm>,
    query: Query,
    /// Into the latent and the rotating columns of the key.
    down: Linear,
    seen: Seen,
    attend: backend::Latent,
    output: Join,
}

/// The matrices from the latent to keys and values, by head: `[rank, nope]`, the keys' turned, and `[value, rank]`.
fn per_head(place: &Place<'_>, shape: &LatentShape) -> Result<[PerHead; 2]> {
    let (loader, heads) = (place.loader, place.loader.config().heads);
    let LatentShape {
        rank, nope, value, ..
    } = *shape;
    let name = |part: &str| place.whole(part);
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
    /// Loads the part of a layer whose keys lie at the first of `at`, and those of its index, if there is one, at the
    /// second; each with its rotation.
    pub fn load(
        place: &Place<'_>,
        shape: &LatentShape,
        [rope, index_rope]: [&Arc<Rope>; 2],
        (at, index): (KvPlace, Option<KvPlace>),
    ) -> Result<Self> {
        let (names, c) = (&place.family.names, place.loader.config());
        let (h, heads) = (c.hidden_size, c.heads);
        let LatentShape {
            rank,
            nope,
            rotated,
            value,
            ..
        } = *shape;
        let [absorb, expand] = per_head(place, shape)?;
        let seen = seen(place, shape, index_rope, index)?;
        Ok(Self {
            norm: Some(place.norm(names.input_norm, h)?),
            query: Query::load(place, shape)?,
            down: place.linear(
                "self_attn.kv_a_proj_with_mqa",
                Role::Value,
                [rank + rotated, h],
            )?,
            seen,
            attend: backend::Latent {
                place: at,
                heads,
                nope,
                rotated,
                rank,
                value_dim: value,
                scale: shape.scale as f32,
                norm: inner(place, "self_attn.kv_a_layernorm", rank)?,
                absorb,
                expand,
                rope: rope.clone(),
                sparse: c.sparse.is_some(),
            },
            output: Join {
                linear: place.linear(names.output, Role::Output, [h, heads * value])?,
                norm: None,
                factor: c.scales.residual as f32,
            },
        })
    }
}

impl Mixer for Latent {
    fn norm(&self) -> Option<&Norm> {
        self.norm.as_ref()
    }

    fn output(&self) -> &Join {
        &self.output
    }

    fn mix(
        &self,
        backend: &mut dyn Backend,
        x: &Tensor,
        pass: &mut Pass<'_>,
        kv: &mut Kv,
    ) -> Result<Tensor> {
        let (narrow, norm) = (self.query.first(), self.norm.as_ref());
        let mut matrices = vec![narrow, &self.down];
        if let Seen::Own(index) = &self.seen {
            matrices.extend([&index.key, &index.weights]);
        }
        let mut made = backend.project(x, norm, &matrices)?.into_iter();
        let (mut q, c) = (next(&mut made)?, next(&mut made)?);
        if let Query::Narrow(_, norm, last) = &self.query {
            let mut matrices = vec![last];
            if let Seen::Own(index) = &self.seen {
                matrices.push(&index.query);
            }
            let mut queries = backend.project(&q, Some(norm), &matrices)?.into_iter();
            q = next(&mut queries)?;
            if let Seen::Own(index) = &self.seen {
                let key = index.normalised(backend, &next(&mut made)?)?;
                let all = [next(&mut queries)?, key, next(&mut made)?];
                backend.pick(&index.pick, all, pass, kv)?;
            }
        }
        backend.attend_latent(&self.attend, [q, c], pass, kv)
    }
}

fn next(made: &mut impl Iterator<Item = Tensor>) -> Result<Tensor> {
    let missing = || Error::Run("a product is missing".into());
    made.next().ok_or_else(missing)
}

/// Which keys the rows of a layer attend to, whose index, if it has one, keeps its keys at `at`.
fn seen(
    place: &Place<'_>,
    shape: &LatentShape,
    rope: &Arc<Rope>,
    at: Option<KvPlace>,
) -> Result<Seen> {
    let c = place.loader.config();
    let (Some(sparse), Some(narrow)) = (&c.sparse, shape.query) else {
        return match c.sparse {
            None => Ok(Seen::All),
            Some(_) => Err(Error::Load(format!(
                "{} without q_lora_rank is not supported: its index reads that row",
                c.architecture
            ))),
        };
    };
    Ok(match at {
        None => Seen::Shared,
        Some(at) => {
            let index = Index::load(place, &sparse.index, narrow, rope.clone(), at)?;
            Seen::Own(Box::new(index))
        }
    })
}
