//! Errors of the engine; the Python door translates each variant to one exception class.
pub use candle_vllm_model::Refused;

/// What can go wrong. Messages name the value that was wrong and what to do.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The model could not be loaded.
    #[error("{0}")]
    ModelLoad(String),
    /// Text could not be turned into tokens or back.
    #[error("{0}")]
    Tokenization(String),
    /// A request failed while it ran, or was refused for its content.
    #[error("{0}")]
    Generation(String),
    /// The device is not there or cannot do this.
    #[error("{0}")]
    Device(String),
    /// A setting or parameter is out of range.
    #[error(transparent)]
    Config(#[from] Refused),
    /// A file could not be written.
    #[error("{0}")]
    Output(String),
    /// The waiting queue is full.
    #[error("{0}")]
    QueueFull(String),
}

/// Result with [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl From<candle_vllm_model::Error> for Error {
    fn from(error: candle_vllm_model::Error) -> Self {
        use candle_vllm_model::Error as Model;
        let text = error.to_string();
        match error {
            Model::Load(_) | Model::Io { .. } => Self::ModelLoad(text),
            Model::Write { .. } => Self::Output(text),
            Model::Device(_) => Self::Device(text),
            Model::Config(refused) => Self::Config(refused),
            _ => Self::Generation(text),
        }
    }
}
