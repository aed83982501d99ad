//! A matrix with an optional bias, in whatever format it is stored.
use crate::{
    Error, Result,
    loader::Loader,
    quant::{Format, Role},
};

/// `y = x W^T + b`, W of shape `[n, k]`.
pub struct Linear {
    /// The matrix.
    pub format: Box<dyn Format>,
    /// One value an output, if the layer has a bias.
    pub bias: Option<Vec<f32>>,
}

impl Linear {
    /// Loads `name.weight` of shape `[n, k]`, and `name.bias` where the checkpoint has one.
    pub fn load(loader: &Loader<'_>, name: &str, role: Role, [n, k]: [usize; 2]) -> Result<Self> {
        let format = loader.matrix(&format!("{name}.weight"), role, [n, k])?;
        let key = format!("{name}.bias");
        let bias = if loader.contains(&key) {
            Some(loader.vector(&key)?)
        } else {
            None
        };
        match &bias {
            Some(b) if b.len() != n => Err(Error::Load(format!(
                "tensor {key} has {} elements, its matrix has {n} rows",
                b.len()
            ))),
            _ => Ok(Self { format, bias }),
        }
    }

    /// Outputs.
    pub fn n(&self) -> usize {
        self.format.shape()[0]
    }
}
