//! A dense feed-forward part and experts that read the same stream, side by side.
use super::{Mlp, Moe, Place};
use crate::{
    Result, Tensor,
    backend::{Backend, Linear, Norm},
    family,
};

/// `norm(norm(dense x) + norm(experts x))`, each part through a norm of its own.
pub struct Beside {
    /// The dense part; its way back is `down` and what follows here.
    pub dense: Mlp,
    /// Of what the dense part gives.
    dense_norm: Norm,
    moe: Moe,
    /// Of what the experts give.
    moe_norm: Norm,
}

impl Beside {
    /// Loads the part of a layer.
    pub fn load(place: &Place<'_>, own: &family::Moe, names: &family::Beside) -> Result<Self> {
        let h = place.loader.config().hidden_size;
        Ok(Self {
            dense: Mlp::load(place, false)?,
            dense_norm: place.norm(names.dense_norm, h)?,
            moe: Moe::load(place, own)?,
            moe_norm: place.norm(names.post_norm, h)?,
        })
    }

    /// What both parts of each row give together; `norm` comes before the dense one.
    pub fn run(
        &self,
        backend: &mut dyn Backend,
        x: &Tensor,
        norm: Option<&Norm>,
    ) -> Result<Tensor> {
        let hidden = backend.feed(x, norm, &self.dense.feed)?;
        let down: &Linear = &self.dense.down.linear;
        let dense = backend.linear(&hidden, down)?;
        let mut sum = backend.normalise(&dense, down.n(), &self.dense_norm)?;
        let chosen = self.moe.run(backend, x, self.moe.norm.as_ref())?;
        backend.merge(&chosen, Some(&self.moe_norm), 1.0, &mut sum)?;
        Ok(sum)
    }

    /// Adds it to the residual stream.
    pub fn join(&self, backend: &mut dyn Backend, y: &Tensor, residual: &mut Tensor) -> Result<()> {
        let join = &self.dense.down;
        backend.merge(y, join.norm.as_ref(), join.factor, residual)
    }
}
