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
mod short_conv;

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
pub use short_conv::ShortConv;

use crate::{
    Result,
    backend::{Linear, Norm},
    config::LayerShape,
    family::Family,
    loader::Loader,
    quant::{Role, Shard},
};

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

    /// The Hugging Face name of a part of this layer.
    pub fn whole(&self, part: &str) -> String {
        format!("{}.{}.{part}", self.family.names.layers, self.number)
    }

    /// As [`Place::whole`]; `None` when the family has no such part.
    pub fn name(&self, part: &str) -> Option<String> {
        (!part.is_empty()).then(|| self.whole(part))
    }

    /// As [`Place::name`], of a part that the checkpoint has.
    pub fn found(&self, part: &str) -> Option<String> {
        let name = self.name(part)?;
        self.loader.has(&name).then_some(name)
    }

    /// Loads the matrix of a part, whole, with its bias if it has one.
    ///
    /// # Errors
    /// As [`Loader::linear`].
    pub fn linear(&self, part: &str, role: Role, shape: [usize; 2]) -> Result<Linear> {
        let name = self.whole(part);
        self.loader.linear(&name, role, Shard::Whole, shape)
    }

    /// Loads a norm over `width` columns, of the family's kind.
    ///
    /// # Errors
    /// As [`norm()`].
    pub fn norm(&self, part: &str, width: usize) -> Result<Norm> {
        norm(self.loader, &self.whole(part), width, self.family.norm)
    }

    /// Loads a norm of the residual stream; `None` when the family has no such part.
    ///
    /// # Errors
    /// As [`norm()`].
    pub fn stream_norm(&self, part: &str) -> Result<Option<Norm>> {
        let width = self.loader.config().hidden_size;
        let has = !part.is_empty();
        has.then(|| self.norm(part, width)).transpose()
    }
}
