//! Text of a model: its tokenizer, from a folder or from GGUF metadata, and text that streams.
//! Knows nothing of requests, scheduling or how templates are rendered.
mod bytes;
mod detok;
mod folder;
mod gguf;
mod pre;
mod spm;
mod stop;
pub mod stream;
mod template;
pub mod tokenizer;

pub use stream::{Piece, TextStream};
pub use tokenizer::Tokenizer;
