//! A learned residual: the stream beside attention goes through a narrow product of its own.
use super::Place;
use crate::{
    Result, Tensor,
    backend::{Backend, Join, Linear},
    quant::Role,
};

/// `x += norm(right (left x))`.
pub struct Laurel {
    left: Linear,
    right: Join,
}

impl Laurel {
    /// Loads the part of a layer; how narrow it is, its matrix says.
    pub fn load(place: &Place<'_>) -> Result<Self> {
        let (left, h) = ("laurel.linear_left", place.loader.config().hidden_size);
        let rank = place.loader.outputs(&place.whole(left))?;
        Ok(Self {
            left: place.linear(left, Role::Up, [rank, h])?,
            right: Join {
                linear: place.linear("laurel.linear_right", Role::Down, [h, rank])?,
                norm: Some(place.norm("laurel.post_laurel_norm", h)?),
                factor: 1.0,
            },
        })
    }

    /// Adds it.
    pub fn add(&self, backend: &mut dyn Backend, x: &mut Tensor) -> Result<()> {
        let narrow = backend.linear(x, &self.left)?;
        backend.join(&narrow, &self.right, x)
    }
}
