//! A learned residual: the stream beside attention goes through a narrow product of its own.
use super::{Place, norm};
use crate::{
    Result, Tensor,
    backend::{Backend, Join, Linear},
    quant::{Role, Shard},
};

/// `x += norm(right (left x))`.
pub struct Laurel {
    left: Linear,
    right: Join,
}

impl Laurel {
    /// Loads the part of a layer; how narrow it is, its matrix says.
    pub fn load(place: &Place<'_>) -> Result<Self> {
        let (loader, h) = (place.loader, place.loader.config().hidden_size);
        let name = |part: &str| place.name(&format!("laurel.{part}")).unwrap_or_default();
        let rank = loader.outputs(&name("linear_left"))?;
        let part = |part: &str, role, shape| loader.linear(&name(part), role, Shard::Whole, shape);
        Ok(Self {
            left: part("linear_left", Role::Up, [rank, h])?,
            right: Join {
                linear: part("linear_right", Role::Down, [h, rank])?,
                norm: Some(norm(
                    loader,
                    &name("post_laurel_norm"),
                    h,
                    place.family.norm,
                )?),
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
