#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod fake;
mod lifecycle;
mod panics;
mod requests;
mod rules;
mod scheduling;
mod structured;
mod workload;
