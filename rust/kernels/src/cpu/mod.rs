//! CPU kernels: one file per operation, a scalar reference beside the vector variants.
pub mod ggml;
