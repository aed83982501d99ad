//! The self-attention part of a layer.
use std::sync::Arc;

use candle_vllm_kernels::cpu::attention::{Temperature, Window};

use super::{Place, norm};
use crate::{
    Error, Kv, Result, Tensor,
    backend::{Attend, Backend, Join, KvPlace, Linear, Norm, Normed, Pass, QkNorm},
    config::Rotation,
    family::{self, NormRule, ScaleRule},
    quant::{Role, Shard, Vector},
    rope::Rope,
};

/// Attention over queries, keys and values of the (normalised) residual stream, and the way back to it.
pub struct Attention {
    /// Before the matrices.
    pub norm: Option<Norm>,
    /// Queries, keys, values.
    pub qkv: [Linear; 3],
    /// What is done with them.
    pub attend: Attend,
    /// Back to the residual stream.
    pub output: Join,
}

/// Three matrices, or one that holds the rows of all three.
fn qkv(place: &Place<'_>) -> Result<[Linear; 3]> {
    let (names, loader, c) = (&place.family.names, place.loader, place.loader.config());
    let (h, queries, keys) = (c.hidden_size, c.heads * c.head_dim, c.kv_heads * c.head_dim);
    if let Some(name) = place.found(names.qkv) {
        let part = |role, first: usize, n: usize| {
            loader.linear(&name, role, Shard::Rows(first..first + n), [n, h])
        };
        return Ok([
            part(Role::Query, 0, queries)?,
            part(Role::Key, queries, keys)?,
            part(Role::Value, queries + keys, keys)?,
        ]);
    }
    let part = |name: &str, role, n| {
        let name = place.name(name).unwrap_or_default();
        loader.linear(&name, role, Shard::Whole, [n, h])
    };
    Ok([
        part(names.q, Role::Query, queries)?,
        part(names.k, Role::Key, keys)?,
        part(names.v, Role::Value, keys)?,
    ])
}

fn qk_norm(place: &Place<'_>) -> Result<Option<QkNorm>> {
    let (family, loader, c) = (place.family, place.loader, place.loader.config());
    if family.qk_norm == family::QkNorm::Unweighted {
        return Ok(unweighted(place));
    }
    let names = &family.names;
    let (Some(q), Some(k)) = (place.name(names.q_norm), place.name(names.k_norm)) else {
        return Ok(None);
    };
    let rows = [c.heads * c.head_dim, c.kv_heads * c.head_dim];
    let (of, rule, [q_width, k_width]) = match family.qk_norm {
        family::QkNorm::HeadIfAny if place.found(names.q_norm).is_none() => return Ok(None),
        family::QkNorm::Head | family::QkNorm::HeadIfAny => {
            (Normed::Head, family.norm, [c.head_dim; 2])
        }
        family::QkNorm::RotatedHead => (Normed::RotatedHead, family.norm, [c.head_dim; 2]),
        family::QkNorm::Row => (Normed::Row, family.norm, rows),
        family::QkNorm::EachHead if place.found(names.q_norm).is_some() => {
            (Normed::Head, NormRule::Layer, rows)
        }
        family::QkNorm::EachHead => return one_by_one(place, &q, &k),
        family::QkNorm::None | family::QkNorm::Unweighted => return Ok(None),
    };
    Ok(Some(QkNorm {
        q: norm(loader, &q, q_width, rule)?,
        k: norm(loader, &k, k_width, rule)?,
        of,
    }))
}

/// Llama 4's norms, of layers that rotate.
fn unweighted(place: &Place<'_>) -> Option<QkNorm> {
    let c = place.loader.config();
    let off = c
        .raw
        .get("use_qk_norm")
        .and_then(serde_json::Value::as_bool)
        == Some(false);
    let rotates = c.rotations.get(place.number) != Some(&Rotation::None);
    let one = || Norm {
        weight: Vector::host(vec![1.0; c.head_dim]),
        bias: None,
        eps: c.norm_eps as f32,
        centred: false,
    };
    (rotates && !off).then(|| QkNorm {
        q: one(),
        k: one(),
        of: Normed::RotatedHead,
    })
}

/// Norms of heads that stand as one tensor a head (StableLM); none where there are no such tensors.
fn one_by_one(place: &Place<'_>, q: &str, k: &str) -> Result<Option<QkNorm>> {
    let (loader, c) = (place.loader, place.loader.config());
    let name = |stem: &str, head: usize| format!("{stem}.norms.{head}.weight");
    if !loader.contains(&name(q, 0)) {
        return Ok(None);
    }
    let load = |stem: &str, heads: usize| {
        let names: Vec<String> = (0..heads).map(|head| name(stem, head)).collect();
        Ok::<_, Error>(Norm {
            weight: loader.joined(&names, heads * c.head_dim)?,
            bias: None,
            eps: c.norm_eps as f32,
            centred: true,
        })
    };
    Ok(Some(QkNorm {
        q: load(q, c.heads)?,
        k: load(k, c.kv_heads)?,
        of: Normed::Head,
    }))
}

impl Attention {
    /// Loads the part of a layer whose keys and values lie at `at`.
    pub fn load(place: &Place<'_>, rope: Arc<Rope>, at: KvPlace) -> Result<Self> {
        let (family, loader, c) = (place.family, place.loader, place.loader.config());
        let (names, h, d) = (&family.names, c.hidden_size, c.head_dim);
        let norm = |part: &str| {
            let name = place.name(part);
            name.map(|n| norm(loader, &n, h, family.norm)).transpose()
        };
        let sinks = place.name(names.sinks);
        let temperature = |(beta, original): (f64, usize)| Temperature {
            beta: beta as f32,
            original,
            ahead: usize::from(family.scales == ScaleRule::NopeTemperature),
        };
        let window = if c.chunked {
            Window::Chunk
        } else {
            Window::Sliding
        };
        let rotates = c.rotations.get(place.number) != Some(&Rotation::None);
        let output = place.name(names.output).unwrap_or_default();
        let scale = c.scales.attention.unwrap_or((d as f64).powf(-0.5));
        Ok(Self {
            norm: norm(names.input_norm)?,
            qkv: qkv(place)?,
            output: Join {
                linear: loader.linear(&output, Role::Output, Shard::Whole, [h, c.heads * d])?,
                norm: norm(names.post_attention)?,
                factor: c.scales.residual as f32,
            },
            attend: Attend {
                place: at,
                heads: c.heads,
                kv_heads: c.kv_heads,
                head_dim: d,
                value_dim: d,
                scale: scale as f32,
                window: c.windows.get(place.number).copied().flatten().map(window),
                softcap: c.scales.attention_cap.map(|cap| cap as f32),
                sinks: sinks.map(|n| loader.vector(&n, c.heads, 0.0)).transpose()?,
                temperature: c
                    .scales
                    .temperature
                    .filter(|_| !rotates || family.scales != ScaleRule::NopeTemperature)
                    .map(temperature),
                qk_norm: qk_norm(place)?,
                rope,
            },
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
        let qkv = backend.project(x, self.norm.as_ref(), &[q, k, v])?;
        let Ok(qkv) = <[Tensor; 3]>::try_from(qkv) else {
            return Err(Error::Run("a product is missing".into()));
        };
        backend.attend(&self.attend, qkv, pass, kv)
    }
}
