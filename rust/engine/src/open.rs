//! Opening an engine: device, checkpoint, weights and tokenizer, in that order and as parallel as they go.
//! Knows no scheduling.
use candle_vllm_model::{LoadOptions, device::Device, weights::Checkpoint};

use crate::{Engine, EngineConfig, Error, Progress, Result, text::Tokenizer};

impl Engine {
    /// Loads the model at `config.model_path` and starts an engine on it. `progress` is told of the phase `weights`, in
    /// bytes, from several threads.
    ///
    /// # Errors
    /// `Config` and `Device` before anything is read; `ModelLoad` naming the file, key or tensor; `Tokenization` for a
    /// broken tokenizer.
    pub fn open(config: EngineConfig, progress: Option<Progress>) -> Result<Self> {
        config.validate()?;
        let options = LoadOptions {
            device: Device::find(&config.device)?,
            dtype: config.dtype.clone(),
            kv_dtype: config.kv_cache_dtype.clone(),
            threads: config.threads,
        };
        options.check()?;
        let checkpoint = Checkpoint::open(&config.model_path)?;
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
        let tokenizer = tokenizer
            .map_err(|_| Error::Tokenization("the tokenizer's loader panicked".into()))??;
        let mut eos = checkpoint.config.eos_token_ids.clone();
        eos.extend_from_slice(tokenizer.eos_ids());
        eos.sort_unstable();
        eos.dedup();
        Self::from_model(config, model?, Some(tokenizer), eos)
    }
}
