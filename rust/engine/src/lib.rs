//! Which tokens run now: scheduler, KV blocks, sampling and text around one engine thread.
//! Knows nothing of Python, HTTP, chat templates or tools.
pub mod config;
pub mod error;
pub mod event;
pub mod params;
pub mod text;

pub use config::EngineConfig;
pub use error::{Error, Result};
pub use event::{Event, Finish, FinishReason, RequestStats, TokenLogprob};
pub use params::GenerationParams;
