//! The parts that decoders are made of. They hold weights and numbers and call the backend; they compute nothing.
pub mod attention;
pub mod linear;
pub mod mlp;
pub mod norm;
pub mod rope;

pub use attention::Attention;
pub use linear::Linear;
pub use mlp::Mlp;
pub use norm::Norm;
pub use rope::Rope;
