//! How it is computed fast: compute kernels over plain slices.
//! Knows no candle, no Python and no model names.
pub mod cpu;
