//! Everything that can go wrong below the engine, as one enum.
use std::path::PathBuf;

/// Errors of loading and running a model. Messages name the file, tensor or key and the value that was wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A checkpoint is missing, broken or of a kind that is not supported.
    #[error("{0}")]
    Load(String),
    /// A file could not be read.
    #[error("cannot read {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's own error.
        source: std::io::Error,
    },
    /// The device is not there or cannot do what was asked.
    #[error("{0}")]
    Device(String),
    /// A setting has a value that the model or device cannot honour.
    #[error("{0}")]
    Config(String),
    /// A step failed while it ran.
    #[error("{0}")]
    Run(String),
}

/// Result with [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl From<candle_core::Error> for Error {
    fn from(e: candle_core::Error) -> Self {
        Self::Run(e.to_string())
    }
}
