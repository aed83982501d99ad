//! The feed-forward part of a layer, with or without a gate.
use candle_vllm_kernels::cpu::{Activation, Xielu};

use super::{Place, norm};
use crate::{
    Error, Result,
    backend::{Feed, Join, Linear, Norm},
    quant::{Role, Shard},
};

/// From the (normalised) residual stream to hidden rows and back.
pub struct Mlp {
    /// Before the matrices; `None`: none, or attention's where both read the same stream.
    pub norm: Option<Norm>,
    /// Into the hidden rows.
    pub feed: Feed,
    /// Back to the residual stream.
    pub down: Join,
}

/// The numbers of a layer's xIELU: tensors of its own, or in GGUF metadata.
fn xielu(place: &Place<'_>) -> Result<Xielu> {
    let number = |name: &str, default: Option<f32>| {
        let tensor = place
            .name(&format!("mlp.act_fn.{name}"))
            .unwrap_or_default();
        if place.loader.contains(&tensor) {
            let values = place.loader.floats(&tensor, &Shard::Whole)?;
            return Ok(values.first().copied().or(default));
        }
        let list = place.loader.config().raw.get(format!("xielu.{name}"));
        let own = list.and_then(|l| l.get(place.number)?.as_f64());
        Ok::<_, Error>(own.map(|v| v as f32).or(default))
    };
    let need = |name: &str| {
        let missing = || Error::Load(format!("layer {}: there is no {name}", place.number));
        number(name, None)?.ok_or_else(missing)
    };
    let softplus = |x: f32| f64::from(x).exp().ln_1p() as f32;
    let beta = number("beta", Some(0.5))?.unwrap_or_default();
    Ok(Xielu {
        positive: softplus(need("alpha_p")?),
        negative: beta + softplus(need("alpha_n")?),
        beta,
        eps: number("eps", Some(-1e-6))?.unwrap_or_default(),
    })
}

pub(super) fn activation(place: &Place<'_>) -> Result<Activation> {
    Ok(match place.loader.config().activation.as_str() {
        "silu" | "swish" => Activation::Silu,
        "gelu" => Activation::Gelu,
        "gelu_pytorch_tanh" | "gelu_new" | "gelu_fast" => Activation::GeluTanh,
        "relu" => Activation::Relu,
        "relu2" => Activation::Relu2,
        "xielu" => Activation::Xielu(xielu(place)?),
        other => {
            return Err(Error::Load(format!(
                "hidden_act {other:?} is not supported; silu, gelu, relu, relu2 and xielu are"
            )));
        }
    })
}

impl Mlp {
    /// Loads the part of a layer. `parallel`: it reads what attention reads.
    pub fn load(place: &Place<'_>, parallel: bool) -> Result<Self> {
        let (family, loader, c) = (place.family, place.loader, place.loader.config());
        let (names, h, f) = (
            &family.names,
            c.hidden_size,
            place.shape().intermediate_size,
        );
        let own = if parallel {
            place.found(names.mlp_norm)
        } else {
            place.name(names.mlp_norm)
        };
        let norm =
            |name: Option<String>| name.map(|n| norm(loader, &n, h, family.norm)).transpose();
        let part = |name: &str, role, shard, shape| {
            let name = place.name(name).unwrap_or_default();
            loader.linear(&name, role, shard, shape)
        };
        let half =
            |name, role, first: usize| part(name, role, Shard::Rows(first..first + f), [f, h]);
        let (gate, up): (Option<Linear>, Linear) = if !names.gate_up.is_empty() {
            let gate = half(names.gate_up, Role::Gate, 0)?;
            (Some(gate), half(names.gate_up, Role::Up, f)?)
        } else if names.gate.is_empty() {
            (None, part(names.up, Role::Gate, Shard::Whole, [f, h])?)
        } else {
            let gate = part(names.gate, Role::Gate, Shard::Whole, [f, h])?;
            (Some(gate), part(names.up, Role::Up, Shard::Whole, [f, h])?)
        };
        Ok(Self {
            norm: norm(own)?,
            feed: Feed {
                gate,
                up,
                activation: activation(place)?,
                cut: c
                    .altup
                    .as_ref()
                    .and_then(|a| a.cuts.get(place.number).copied()?),
            },
            down: Join {
                linear: part(names.down, Role::Down, Shard::Whole, [h, f])?,
                norm: norm(place.name(names.post_mlp))?,
                factor: c.scales.residual as f32,
            },
        })
    }
}
