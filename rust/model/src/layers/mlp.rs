//! The feed-forward part of a layer, with or without a gate.
use candle_vllm_kernels::cpu::{Activation, Xielu};

use super::Place;
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
        let tensor = place.whole(&format!("mlp.act_fn.{name}"));
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
        let (names, loader, c) = (&place.family.names, place.loader, place.loader.config());
        let (h, f) = (c.hidden_size, place.shape().intermediate_size);
        let own = !parallel || place.found(names.mlp_norm).is_some();
        let half = |name: &str, role, first: usize| {
            let rows = Shard::Rows(first..first + f);
            loader.linear(&place.whole(name), role, rows, [f, h])
        };
        let (gate, up): (Option<Linear>, Linear) = if !names.gate_up.is_empty() {
            let gate = half(names.gate_up, Role::Gate, 0)?;
            (Some(gate), half(names.gate_up, Role::Up, f)?)
        } else if names.gate.is_empty() {
            (None, place.linear(names.up, Role::Gate, [f, h])?)
        } else {
            let gate = place.linear(names.gate, Role::Gate, [f, h])?;
            (Some(gate), place.linear(names.up, Role::Up, [f, h])?)
        };
        Ok(Self {
            norm: place.stream_norm(if own { names.mlp_norm } else { "" })?,
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
                linear: place.linear(names.down, Role::Down, [h, f])?,
                norm: place.stream_norm(names.post_mlp)?,
                factor: c.scales.residual as f32,
            },
        })
    }
}
