//! Which tokens run now: scheduler, KV blocks, sampling and text around one engine thread.
//! Knows nothing of Python, HTTP, chat templates or tools.
mod blocks;
pub mod config;
mod constraint;
pub mod engine;
pub mod error;
pub mod event;
mod fault;
pub mod inspect;
mod ledger;
pub mod mailbox;
mod memory;
mod open;
pub mod params;
pub mod quantize;
pub mod request;
mod runner;
mod sampler;
mod scheduler;
mod sequence;
mod speculation;
mod states;
pub mod stats;
pub mod text;
mod worker;

#[cfg(test)]
mod tests;

pub use config::EngineConfig;
pub use constraint::{Form, StructuredOutput, Trigger, Whitespace};
pub use engine::{Engine, Progress};
pub use error::{Error, Refused, Result};
pub use event::{Event, Finish, FinishReason, RequestStats, StopReason, TokenLogprob};
pub use inspect::{Report, inspect};
pub use mailbox::Mailbox;
pub use memory::Need;
pub use params::GenerationParams;
pub use quantize::Quantize;
pub use request::{Prompt, Request};
pub use stats::{CachedPrefix, Counters, ModelInfo, Stats, StepCost, StepReport};
pub use text::Tokenizer;
