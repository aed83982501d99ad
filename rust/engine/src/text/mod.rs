//! Text of a model: its tokenizer, from a folder or from GGUF metadata, and text that streams.
//! Knows nothing of requests, scheduling or how templates are rendered.
mod bpe;
mod bytes;
mod class;
mod detok;
mod folder;
mod gguf;
mod json;
mod merge;
mod pre;
mod stop;
pub mod stream;
mod template;
pub mod to_gguf;
pub mod tokenizer;
mod tokens;
mod vocabulary;
mod words;

pub use stream::{Piece, TextStream};
pub use tokenizer::Tokenizer;
