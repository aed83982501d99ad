//! Backends: how the coarse operations of a decoder are computed.
pub mod tensor;
