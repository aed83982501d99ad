//! Root-mean-square normalisation.
use crate::{Error, Result, loader::Loader};

/// RMSNorm: `x / sqrt(mean(x^2) + eps) * weight` (arXiv 1910.07467).
pub struct Norm {
    /// One factor a column.
    pub weight: Vec<f32>,
    /// Added to the mean square.
    pub eps: f32,
}

impl Norm {
    /// Loads `name.weight`, which must have `width` elements.
    pub fn load(loader: &Loader<'_>, name: &str, width: usize) -> Result<Self> {
        let weight = loader.vector(&format!("{name}.weight"))?;
        if weight.len() != width {
            let found = weight.len();
            return Err(Error::Load(format!(
                "tensor {name}.weight has {found} elements, the configuration says {width}"
            )));
        }
        Ok(Self {
            weight,
            eps: loader.config().norm_eps as f32,
        })
    }
}
