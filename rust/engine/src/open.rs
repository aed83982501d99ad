//! Opening an engine: device, checkpoint, weights and tokenizer, in that order and as parallel as they go.
//! Knows no scheduling.
use candle_vllm_model::{LoadOptions, device::Device, weights::Checkpoint};

use crate::{Engine, EngineConfig, Error, Progress, Result, memory, text::Tokenizer};

/// How the settings ask a model to be loaded, once they are in order.
pub fn options(config: &EngineConfig) -> Result<LoadOptions> {
    config.validate()?;
    let options = LoadOptions {
        device: Device::find(&config.device)?,
        dtype: config.dtype.clone(),
        activations: config.activations.clone(),
        kv_dtype: config.kv_cache_dtype.clone(),
        isq: config.isq.clone(),
        context: config.max_sequence_length,
        threads: config.threads,
        cpu_affinity: config.cpu_affinity.clone().unwrap_or_default(),
    };
    options.check()?;
    Ok(options)
}

impl Engine {
    /// Loads the model at `config.model_path` and starts an engine on it. `progress` is told of the phase `weights`, in
    /// bytes, from several threads.
    ///
    /// # Errors
    /// `Config` and `Device` before any weight is read; `ModelLoad` for what is missing, broken or not supported in the
    /// checkpoint; else as [`Engine::from_model`].
    pub fn open(config: EngineConfig, progress: Option<Progress>) -> Result<Self> {
        let options = options(&config)?;
        let checkpoint = Checkpoint::open(&config.model_path)?;
        memory::check_length(&config, checkpoint.config.max_position)?;
        let tell = |done, total| {
            if let Some(progress) = &progress {
                progress("weights", done, total);
            }
        };
        let (tokenizer, model) = std::thread::scope(|scope| {
            let tokenizer = scope.spawn(|| Tokenizer::load(&checkpoint.tokenizer));
            let model = candle_vllm_model::load(&checkpoint, &options, &tell);
            (tokenizer.join(), model)
        });
        let model = model?;
        let tokenizer =
            tokenizer.map_err(|_| Error::ModelLoad("the tokenizer's loader panicked".into()))??;
        // The file holds more than weights: the phase ends here, not with the last tensor.
        tell(checkpoint.file_bytes, checkpoint.file_bytes);
        let eos = checkpoint.config.eos_token_ids.clone();
        let sampling = checkpoint.config.sampling;
        // The cache is sized from what is left when the source pages are given back.
        drop(checkpoint);
        Ok(Self::from_model(config, model, Some(tokenizer), eos)?.recommending(sampling))
    }
}
