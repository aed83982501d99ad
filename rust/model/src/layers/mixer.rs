//! The part of a layer that looks at other tokens, of whichever kind: each is a file that implements this.
use crate::{
    Kv, Result, Tensor,
    backend::{Backend, Join, Norm, Pass},
};

/// How a layer mixes tokens.
pub trait Mixer: Send {
    /// Before its matrices.
    fn norm(&self) -> Option<&Norm>;

    /// Back to the residual stream.
    fn output(&self) -> &Join;

    /// What the rows get of the tokens before them, before `output`; writes what later tokens will need of them.
    fn mix(
        &self,
        backend: &mut dyn Backend,
        x: &Tensor,
        pass: &mut Pass<'_>,
        kv: &mut Kv,
    ) -> Result<Tensor>;
}
