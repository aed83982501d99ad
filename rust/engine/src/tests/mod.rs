#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod fake;
mod lifecycle;
mod requests;
mod workload;
