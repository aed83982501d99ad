//! Loads norms.
use crate::{Result, backend::Norm, family::NormRule, loader::Loader};

/// The norm `name` over `width` columns, with a bias where the checkpoint has one.
///
/// # Errors
/// `Load` when it is missing or of another width.
pub fn norm(loader: &Loader<'_>, name: &str, width: usize, rule: NormRule) -> Result<Norm> {
    let bias = format!("{name}.bias");
    let bias = loader.contains(&bias).then_some(bias);
    Ok(Norm {
        weight: loader.vector(&format!("{name}.weight"), width, rule.offset())?,
        bias: bias.map(|b| loader.vector(&b, width, 0.0)).transpose()?,
        eps: loader.config().norm_eps as f32,
        centred: rule.centred(),
    })
}
