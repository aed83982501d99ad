//! The parts that decoders are made of: they load the weights that a family names and call the backend; they compute
//! nothing, and the backend knows nothing of them.
mod altup;
mod attention;
mod beside;
mod feed_forward;
mod index;
mod latent;
mod laurel;
mod layer_input;
mod mixer;
mod mlp;
mod moe;
mod norm;

pub use altup::AltUp;
pub use attention::Attention;
pub use beside::Beside;
pub use feed_forward::FeedForward;
pub use index::Index;
pub use latent::Latent;
pub use laurel::Laurel;
pub use layer_input::{LayerInput, LayerInputs};
pub use mixer::Mixer;
pub use mlp::Mlp;
pub use moe::Moe;
pub use norm::norm;

use crate::{config::LayerShape, family::Family, loader::Loader};

/// What a layer's parts are loaded by.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// The checkpoint.
    pub loader: &'a Loader<'a>,
    /// The family.
    pub family: &'a Family,
    /// This layer's number, counted from 0.
    pub number: usize,
}

impl Place<'_> {
    /// This layer's shape.
    pub fn shape(&self) -> LayerShape {
        self.loader.config().layer(self.number)
    }

    /// The Hugging Face name of a part of this layer; `None` when the family has no such part.
    pub fn name(&self, part: &str) -> Option<String> {
        let Self { family, number, .. } = self;
        (!part.is_empty()).then(|| format!("{}.{number}.{part}", family.names.layers))
    }

    /// As [`Place::name`], of a part that the checkpoint has.
    pub fn found(&self, part: &str) -> Option<String> {
        let name = self.name(part)?;
        self.loader.has(&name).then_some(name)
    }
}
