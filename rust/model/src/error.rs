//! Everything that can go wrong below the engine, as one enum, and the refusal of one setting.
use std::fmt::Display;
use std::path::PathBuf;

/// A setting or parameter with a value that cannot be honoured.
///
/// Its text begins with the field's name, so that whoever asked can be told in words of their own.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} must be {expected}; got {value}")]
pub struct Refused {
    /// Field of Python's `EngineConfig` or `GenerationParams`, or an argument of the call (`prompt`).
    pub field: &'static str,
    /// What it was, as text.
    pub value: String,
    /// What it may be: completes "must be ...".
    pub expected: String,
}

impl Refused {
    /// The refusal of `value` for `field`, which must be `expected`.
    pub fn new(field: &'static str, value: impl Display, expected: impl Into<String>) -> Self {
        Self {
            field,
            value: value.to_string(),
            expected: expected.into(),
        }
    }
}

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
    /// A file could not be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's own error.
        source: std::io::Error,
    },
    /// The device is not there or cannot do what was asked.
    #[error("{0}")]
    Device(String),
    /// A setting has a value that the model or device cannot honour.
    #[error(transparent)]
    Config(#[from] Refused),
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
