//! Writing a model as one GGUF file of another type. Matrices are the model's business; of a Hugging Face folder the
//! tokenizer is ours.
use std::path::PathBuf;

use candle_vllm_kernels::cpu::{Compute, available_threads};
use candle_vllm_model::{
    quantize::{self, Going, Kind, Named},
    weights::{Checkpoint, TokenizerSource, gguf_at},
};

use crate::{Error, Result, text::to_gguf::to_gguf};

/// What is to be written.
#[derive(Debug, Clone)]
pub struct Quantize {
    /// A GGUF file (of a split model, any of its files), or a folder.
    pub input: PathBuf,
    /// The file that is written. One that is there is replaced when the new one is complete.
    pub output: PathBuf,
    /// `q4_0`, `q4_k` ..., or `bf16`, `f16`, `f32`.
    pub kind: String,
    /// Threads that encode; `None` = the cores this process may use.
    pub threads: Option<usize>,
}

impl Quantize {
    /// Writes the file and returns its size in bytes. `going` is told (bytes written, bytes in all), and says whether to
    /// go on.
    ///
    /// # Errors
    /// `Config` for the type; `ModelLoad` for what is wrong with the input, before anything is written; `Output` where the
    /// file cannot be written. Nothing of a file that failed stays.
    pub fn run(&self, going: Going<'_>) -> Result<u64> {
        let kind = Kind::named(&self.kind)?;
        let threads = self.threads.unwrap_or_else(available_threads);
        let compute = Compute::new(threads).map_err(|e| Error::Device(e.to_string()))?;
        if let Some(file) = gguf_at(&self.input)? {
            let made = quantize::from_gguf(&file, &self.output, kind, &compute, going);
            return Ok(made?);
        }
        let checkpoint = Checkpoint::open(&self.input)?;
        let TokenizerSource::Folder(folder) = &checkpoint.tokenizer else {
            return Err(Error::ModelLoad("the model has no folder".into()));
        };
        quantize::check(&checkpoint.config.architecture)?;
        let tokenizer = to_gguf(folder, checkpoint.config.vocab_size)?;
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let named = Named {
            checkpoint: &checkpoint,
            name: &name,
            tokenizer,
        };
        let made = quantize::from_hf(named, &self.output, kind, &compute, going);
        Ok(made?)
    }
}
