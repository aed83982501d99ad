//! Forms against the tiny golden vocabulary and, where it is at hand, SmolLM2's.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod forms;
mod gbnf;
mod keywords;
mod marks;
mod parts;
mod schemas;
mod suite;
mod support;
mod vocabulary;
