//! The part of a layer that looks at other tokens, of whichever kind.
use super::{Attention, Latent, ShortConv};
use crate::{
    Kv, Result, Tensor,
    backend::{Backend, Join, Norm, Pass},
};

/// How a layer mixes tokens.
pub enum Mixer {
    /// Heads with keys and values of their own.
    Attention(Box<Attention>),
    /// By a latent.
    Latent(Box<Latent>),
    /// By a convolution, which keeps a state.
    ShortConv(Box<ShortConv>),
}

impl Mixer {
    /// Before its matrices.
    pub fn norm(&self) -> Option<&Norm> {
        match self {
            Mixer::Attention(a) => a.norm.as_ref(),
            Mixer::Latent(l) => l.norm(),
            Mixer::ShortConv(c) => c.norm.as_ref(),
        }
    }

    /// Back to the residual stream.
    pub fn output(&self) -> &Join {
        match self {
            Mixer::Attention(a) => &a.output,
            Mixer::Latent(l) => &l.output,
            Mixer::ShortConv(c) => &c.output,
        }
    }

    /// What the rows get of the tokens before them, before `output`.
    pub fn mix(
        &self,
        backend: &mut dyn Backend,
        x: &Tensor,
        pass: &mut Pass<'_>,
        kv: &mut Kv,
    ) -> Result<Tensor> {
        match self {
            Mixer::Attention(a) => a.mix(backend, x, pass, kv),
            Mixer::Latent(l) => l.mix(backend, x, pass, kv),
            Mixer::ShortConv(c) => c.mix(backend, x, pass, kv),
        }
    }
}
