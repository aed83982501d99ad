//! Architectures: structures that models have in common. What a family of them is, is data (`family`).
mod altup;
mod decoder;
mod frame;
mod plan;

use candle_vllm_kernels::cpu::ggml::GgmlType;

use crate::{Model, Result, backend::Backend, family, loader::Loader};

/// What the checkpoint does not say.
#[derive(Debug, Clone, Copy)]
pub struct Runtime {
    /// How keys and values are kept.
    pub kv_dtype: crate::backend::KvType,
    /// Whether activations and sums are float32 whatever the weights are.
    pub exact: bool,
    /// The longest sequence that will be run; `None` = as long as the model was made for.
    pub context: Option<usize>,
    /// What matrices are quantised to that the checkpoint keeps wider.
    pub isq: Option<GgmlType>,
}

/// Loads the model that the checkpoint's `architectures` names.
///
/// # Errors
/// `Load` for an architecture that is not known, with those that are; and for whatever is wrong with its weights.
pub fn load(
    loader: &Loader<'_>,
    backend: Box<dyn Backend>,
    runtime: &Runtime,
) -> Result<Box<dyn Model>> {
    let name = &loader.config().architecture;
    let family = family::find(name).ok_or_else(|| family::unknown(name))?;
    let plan = plan::Plan::new(loader, runtime, family);
    match &loader.config().altup {
        Some(shape) => altup::load(&plan, backend, shape),
        None => decoder::load(&plan, backend),
    }
}
