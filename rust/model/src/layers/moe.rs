//! A mixture of experts in place of the feed-forward part: a router, the experts, and one that all rows may go to.
use candle_vllm_kernels::cpu::{
    Activation,
    routing::{Groups, Routing},
};

use super::{Place, mlp::activation};
use crate::{
    Error, Result, Tensor,
    backend::{Backend, Expert, Experts, Feed, Norm, Router, Shared},
    family,
    quant::{Role, Shard},
};

/// From the (normalised) residual stream through the experts that a row chooses.
pub struct Moe {
    /// Before router and experts.
    pub norm: Option<Norm>,
    /// Before the router, where it has one of its own.
    router_norm: Option<Norm>,
    router: Router,
    /// The experts, the shared one last.
    pub experts: Experts,
    /// Of what they give.
    post_norm: Option<Norm>,
    /// Of all of it.
    factor: f32,
}

/// The norm of a router that reads the stream by factors of its own: without a weight, and divided by the root of the
/// width, both of which go to the factors.
fn router_norm(place: &Place<'_>, names: &family::Beside) -> Result<Norm> {
    let (loader, c) = (place.loader, place.loader.config());
    let name = place.whole(names.scale);
    let mut weight = loader.floats(&name, &Shard::Whole)?;
    let root = (c.hidden_size as f32).sqrt();
    weight.iter_mut().for_each(|w| *w /= root);
    Ok(Norm {
        weight: loader.made(&name, weight, c.hidden_size)?,
        bias: None,
        eps: c.norm_eps as f32,
        centred: false,
    })
}

/// Loads the expert whose parts have these names.
fn expert(place: &Place<'_>, [gate, up, down]: [&str; 3], width: usize) -> Result<Expert> {
    let h = place.loader.config().hidden_size;
    Ok(Expert {
        feed: Feed {
            gate: Some(place.linear(gate, Role::Gate, [width, h])?),
            up: place.linear(up, Role::Up, [width, h])?,
            activation: match place.loader.config().moe.and_then(|moe| moe.clamped) {
                Some(clamped) => Activation::Clamped(clamped),
                None => activation(place)?,
            },
            cut: None,
        },
        down: place.linear(down, Role::Down, [h, width])?,
    })
}

impl Moe {
    /// Whether a layer has experts: those with a router have.
    pub fn stands_at(place: &Place<'_>) -> bool {
        let router = place.family.moe.map(|moe| place.found(moe.router));
        router.flatten().is_some()
    }

    /// Loads the part of a layer.
    pub fn load(place: &Place<'_>, own: &family::Moe) -> Result<Self> {
        let (family, loader, c) = (place.family, place.loader, place.loader.config());
        let none = || Error::Load(format!("{} is configured without experts", c.architecture));
        let (moe, h) = (c.moe.ok_or_else(none)?, c.hidden_size);
        let names = &family.names;
        let score = |name: &str, n| place.linear(name, Role::Router, [n, h]);
        let mut all = Vec::with_capacity(moe.experts + 1);
        for number in 0..moe.experts {
            let name = |part: &str| format!("{}.{number}.{part}", own.experts);
            let parts = [name(own.gate), name(own.up), name(own.down)];
            all.push(expert(
                place,
                parts.each_ref().map(String::as_str),
                moe.width,
            )?);
        }
        let mut shared = None;
        if let Some(width) = moe.shared {
            let name = |part: &str| format!("{}.{part}", own.shared);
            let parts = ["gate_proj", "up_proj", "down_proj"].map(name);
            all.push(expert(place, parts.each_ref().map(String::as_str), width)?);
            let gate = (!own.shared_gate.is_empty()).then(|| score(own.shared_gate, 1));
            shared = Some(Shared {
                gate: gate.transpose()?,
            });
        }
        let scale = own.beside.and_then(|b| place.name(b.expert_scale));
        let scale = scale.map(|n| loader.vector(&n, moe.experts, 0.0));
        let correction = place.name(own.correction);
        let correction = correction.map(|n| loader.vector(&n, moe.experts, 0.0));
        Ok(Self {
            norm: place.stream_norm(own.beside.map_or(names.mlp_norm, |b| b.norm))?,
            router_norm: own.beside.map(|b| router_norm(place, &b)).transpose()?,
            router: Router {
                linear: score(own.router, moe.experts)?,
                correction: correction.transpose()?,
                scale: scale.transpose()?,
                rule: Routing {
                    used: moe.used,
                    scores: moe.scores,
                    groups: moe.groups.map(|[count, used]| Groups {
                        count,
                        used,
                        by_two: own.by_two,
                    }),
                    normalise: moe.normalise,
                    factor: moe.factor as f32,
                },
                shared,
            },
            experts: Experts {
                all,
                weigh: own.weigh,
            },
            post_norm: match own.beside {
                Some(_) => None,
                None => place.stream_norm(names.post_mlp)?,
            },
            factor: c.scales.residual as f32,
        })
    }

    /// What the experts of each row make of it; `norm` comes before.
    pub fn run(
        &self,
        backend: &mut dyn Backend,
        x: &Tensor,
        norm: Option<&Norm>,
    ) -> Result<Tensor> {
        let scored = backend.normalised(x, self.router_norm.as_ref())?;
        let own = backend.normalised(x, norm)?;
        let x = own.as_ref().unwrap_or(x);
        let routes = backend.route(scored.as_ref().unwrap_or(x), &self.router)?;
        backend.experts(x, &routes, &self.experts)
    }

    /// Adds it to the residual stream.
    pub fn join(&self, backend: &mut dyn Backend, y: &Tensor, residual: &mut Tensor) -> Result<()> {
        backend.merge(y, self.post_norm.as_ref(), self.factor, residual)
    }
}
