//! The feed-forward part of a layer, dense or of experts.
use super::{Beside, Mlp, Moe, Place};
use crate::{
    Result, Tensor,
    backend::{Backend, Norm},
};

/// Either kind.
pub enum FeedForward {
    /// One for all rows.
    Dense(Mlp),
    /// Each row goes to some of many.
    Experts(Moe),
    /// Both.
    Beside(Box<Beside>),
}

impl FeedForward {
    /// Loads the part of a layer: of experts where the checkpoint has a router there. `parallel`: it reads what
    /// attention reads.
    pub fn load(place: &Place<'_>, parallel: bool) -> Result<Self> {
        let beside = place
            .family
            .moe
            .and_then(|moe| Some((moe, moe.beside.as_ref()?)));
        if let Some((moe, names)) = beside.filter(|_| place.loader.config().moe.is_some()) {
            return Ok(Self::Beside(Box::new(Beside::load(place, moe, names)?)));
        }
        Ok(match place.family.moe {
            Some(moe) if Moe::stands_at(place) => Self::Experts(Moe::load(place, moe)?),
            _ => Self::Dense(Mlp::load(place, parallel)?),
        })
    }

    /// The norm before it.
    pub fn norm(&self) -> Option<&Norm> {
        match self {
            Self::Dense(mlp) => mlp.norm.as_ref(),
            Self::Experts(moe) => moe.norm.as_ref(),
            Self::Beside(both) => both.dense.norm.as_ref(),
        }
    }

    /// What `join` takes, of rows that `norm` normalises.
    pub fn run(
        &self,
        backend: &mut dyn Backend,
        x: &Tensor,
        norm: Option<&Norm>,
    ) -> Result<Tensor> {
        match self {
            Self::Dense(mlp) => backend.feed(x, norm, &mlp.feed),
            Self::Experts(moe) => moe.run(backend, x, norm),
            Self::Beside(both) => both.run(backend, x, norm),
        }
    }

    /// Adds it to the residual stream.
    pub fn join(&self, backend: &mut dyn Backend, y: &Tensor, residual: &mut Tensor) -> Result<()> {
        match self {
            Self::Dense(mlp) => backend.join(y, &mlp.down, residual),
            Self::Experts(moe) => moe.join(backend, y, residual),
            Self::Beside(both) => both.join(backend, y, residual),
        }
    }

    /// The format of its weights.
    pub fn label(&self) -> &str {
        let feed = match self {
            Self::Dense(mlp) => Some(&mlp.feed),
            Self::Beside(both) => Some(&both.dense.feed),
            Self::Experts(moe) => moe.experts.all.first().map(|e| &e.feed),
        };
        feed.map_or("f32", |f| f.gate.as_ref().unwrap_or(&f.up).format.label())
    }
}
