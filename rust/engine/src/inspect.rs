//! What a model is, whether it would load and whether it would fit, without loading it.
use std::path::Path;

use candle_vllm_model::{Inspection, config::Sampling, weights::Checkpoint};

use crate::memory::{self, Need};
use crate::open::options;
use crate::{EngineConfig, Result, text::Tokenizer};

/// A model that was looked at.
pub struct Report {
    /// As the checkpoint names it.
    pub architecture: String,
    /// Longest sequence the model was made for, in tokens.
    pub max_position: usize,
    /// Bytes of the weight files.
    pub file_bytes: u64,
    /// What loading would make of it, or why it would not load.
    pub model: Result<Inspection>,
    /// What it would take; absent where it would not load.
    pub need: Option<Need>,
    /// Its tokenizer, or why it has none that can be used.
    pub tokenizer: Result<Tokenizer>,
    /// End-of-sequence ids that the configuration names.
    pub eos_token_ids: Vec<u32>,
    /// How the checkpoint's maker recommends to sample.
    pub sampling: Sampling,
}

/// Looks at the model at `config.model_path` as [`crate::Engine::open`] would open it with these settings.
///
/// # Errors
/// `Config` and `Device` for settings; `ModelLoad` where the files are no model, or broken.
pub fn inspect(config: &EngineConfig) -> Result<Report> {
    let options = options(config)?;
    let checkpoint = Checkpoint::open(Path::new(&config.model_path))?;
    memory::check_length(config, checkpoint.config.max_position)?;
    let model = candle_vllm_model::inspect(&checkpoint, &options);
    let need = model.as_ref().ok().map(|m| memory::need(config, &m.spec));
    Ok(Report {
        need,
        model: model.map_err(Into::into),
        tokenizer: Tokenizer::load(&checkpoint.tokenizer),
        architecture: checkpoint.config.architecture,
        max_position: checkpoint.config.max_position,
        file_bytes: checkpoint.file_bytes,
        eos_token_ids: checkpoint.config.eos_token_ids,
        sampling: checkpoint.config.sampling,
    })
}
