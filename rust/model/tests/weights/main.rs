//! Checkpoints through the door: what is read, what is refused, and that both formats say the same.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod broken;
mod config_gguf;
mod config_hf;
mod config_sampling;
mod families;
#[path = "../golden/mod.rs"]
mod golden;
mod moe;
mod roundtrip;
mod same;
mod sets;
mod sparse;
mod support;
mod whole;
mod written;
