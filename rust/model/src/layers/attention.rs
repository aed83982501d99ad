//! The self-attention part of a layer.
use std::sync::Arc;

use candle_vllm_kernels::cpu::attention::{Temperature, Window};

use super::{Mixer, Place, norm};
use crate::{
    Error, Kv, Result, Tensor,
    backend::{Attend, Backend, Join, KvPlace, Linear, Norm, Normed, Pass, QkNorm},
    config::Rotation,
    family::{self, NormRule, ScaleRule, Sizes},
    quant::{Role, Shard, Vector},
    rope::Rope,
};

/// Attention over queries, keys and values of the (normalised) residual stream, and the way back to it.
pub struct Attention {
    /// Before the matrices.
    norm: Option<Norm>,
    /// Into queries.
    q: Linear,
    /// Into keys and values.
    kv: KeysAndValues,
    /// Of each head's value.
    v_norm: Option<Norm>,
    /// What is done with them.
    attend: Attend,
    /// Back to the residual stream.
    output: Join,
}

/// What keys and values are made of.
enum KeysAndValues {
    /// Those of a layer before are read.
    Another,
    /// A matrix each.
    Each([Linear; 2]),
    /// One matrix for both.
    One(Linear),
}

/// The matrices: three, or one that holds the rows of all three; without those that the layer's shape leaves out.
fn matrices(place: &Place<'_>) -> Result<(Linear, KeysAndValues)> {
    let (names, loader, c) = (&place.family.names, place.loader, place.loader.config());
    let own = place.shape();
    let (h, queries) = (c.hidden_size, c.heads * own.head_dim);
    let [keys, values] = [own.head_dim, own.value_dim].map(|width| own.kv_heads * width);
    if let Some(name) = place.found(names.qkv) {
        let part = |role, first: usize, n: usize| {
            loader.linear(&name, role, Shard::Rows(first..first + n), [n, h])
        };
        let k = part(Role::Key, queries, keys)?;
        let v = part(Role::Value, queries + keys, values)?;
        return Ok((part(Role::Query, 0, queries)?, KeysAndValues::Each([k, v])));
    }
    let part = |name: &str, role, n| place.linear(name, role, [n, h]);
    let q = part(names.q, Role::Query, queries)?;
    let kv = if own.reads.is_some() {
        KeysAndValues::Another
    } else if own.keyed {
        // Values want the most precision of all.
        KeysAndValues::One(part(names.k, Role::Value, keys)?)
    } else {
        let k = part(names.k, Role::Key, keys)?;
        KeysAndValues::Each([k, part(names.v, Role::Value, values)?])
    };
    Ok((q, kv))
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
    let own = place.shape();
    let rows = [c.heads * own.head_dim, own.kv_heads * own.head_dim];
    let (of, rule, [q_width, k_width]) = match family.qk_norm {
        family::QkNorm::HeadIfAny if place.found(names.q_norm).is_none() => return Ok(None),
        family::QkNorm::Head | family::QkNorm::HeadIfAny => {
            (Normed::Head, family.norm, [own.head_dim; 2])
        }
        family::QkNorm::RotatedHead => (Normed::RotatedHead, family.norm, [own.head_dim; 2]),
        family::QkNorm::Row => (Normed::Row, family.norm, rows),
        family::QkNorm::EachHead if place.found(names.q_norm).is_some() => {
            (Normed::Head, NormRule::Layer, rows)
        }
        family::QkNorm::EachHead => return one_by_one(place, &q, &k),
        family::QkNorm::None | family::QkNorm::Unweighted => return Ok(None),
    };
    let k = || norm(loader, &k, k_width, rule);
    Ok(Some(QkNorm {
        q: norm(loader, &q, q_width, rule)?,
        k: own.reads.is_none().then(k).transpose()?,
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
    (rotates && !off).then(|| QkNorm {
        q: one(place),
        k: Some(one(place)),
        of: Normed::RotatedHead,
    })
}

/// The norm of a head without weights.
fn one(place: &Place<'_>) -> Norm {
    Norm {
        weight: Vector::host(vec![1.0; place.shape().head_dim]),
        bias: None,
        eps: place.loader.config().norm_eps as f32,
        centred: false,
    }
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
        k: Some(load(k, c.kv_heads)?),
        of: Normed::Head,
    }))
}

impl Attention {
    /// Loads the part of a layer whose keys and values lie at `at`.
    pub fn load(place: &Place<'_>, rope: Arc<Rope>, at: KvPlace) -> Result<Self> {
        let (family, loader, c) = (place.family, place.loader, place.loader.config());
        let (names, h, own) = (&family.names, c.hidden_size, place.shape());
        let (heads, d) = (c.heads, own.head_dim);
        // Of layers that differ, some have them.
        let some = |name: &String| family.sizes != Sizes::Windowed || loader.contains(name);
        let sinks = place.name(names.sinks).filter(some);
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
        let scale = c.scales.attention.unwrap_or((d as f64).powf(-0.5));
        let (q, kv) = matrices(place)?;
        Ok(Self {
            norm: place.stream_norm(names.input_norm)?,
            q,
            kv,
            v_norm: family.v_norm.then(|| one(place)),
            output: Join {
                linear: place.linear(names.output, Role::Output, [h, heads * own.value_dim])?,
                norm: place.stream_norm(names.post_attention)?,
                // What values are multiplied by may as well multiply what becomes of them.
                factor: (c.scales.residual * c.scales.values) as f32,
            },
            attend: Attend {
                place: at,
                heads,
                kv_heads: own.kv_heads,
                head_dim: d,
                value_dim: own.value_dim,
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
                clip: c.scales.clip.map(|clip| clip as f32),
                rope,
            },
        })
    }
}

impl Mixer for Attention {
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
        let matrices: Vec<&Linear> = match &self.kv {
            KeysAndValues::Another => vec![&self.q],
            KeysAndValues::Each([k, v]) => vec![&self.q, k, v],
            KeysAndValues::One(k) => vec![&self.q, k],
        };
        let products = backend.project(x, self.norm.as_ref(), &matrices)?;
        let mut products = products.into_iter();
        let (Some(q), k, v) = (products.next(), products.next(), products.next()) else {
            return Err(Error::Run("a product is missing".into()));
        };
        let Some(k) = k else {
            return backend.attend_shared(&self.attend, q, pass, kv);
        };
        let v = match (&self.v_norm, v) {
            (Some(norm), v) => {
                backend.normalise(v.as_ref().unwrap_or(&k), self.attend.value_dim, norm)?
            }
            (None, Some(v)) => v,
            (None, None) => return Err(Error::Run("a layer without values".into())),
        };
        backend.attend(&self.attend, [q, k, v], pass, kv)
    }
}
