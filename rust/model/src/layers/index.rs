//! The index of sparse attention: queries of the narrow row that latent attention makes its own of, one key a token, and
//! how much each head counts.
use std::sync::Arc;

use super::{Place, norm};
use crate::{
    Error, Result, Tensor,
    backend::{self, Backend, KvPlace, Linear, Norm},
    config::IndexShape,
    family::NormRule,
    quant::Role,
    rope::Rope,
};

/// Added to the variance of keys, whatever the configuration says of norms.
const EPS: f32 = 1e-6;

/// A layer's index.
pub struct Index {
    /// From the narrow row.
    pub query: Linear,
    /// From the (normalised) residual stream.
    pub key: Linear,
    /// Likewise, one number a head.
    pub weights: Linear,
    norm: Norm,
    /// What is done with them.
    pub pick: backend::Index,
}

impl Index {
    /// Loads the index of a layer whose keys lie at `at`; its queries are made of rows `narrow` wide.
    pub fn load(
        place: &Place<'_>,
        shape: &IndexShape,
        narrow: usize,
        rope: Arc<Rope>,
        at: KvPlace,
    ) -> Result<Self> {
        let h = place.loader.config().hidden_size;
        let IndexShape { heads, width, .. } = *shape;
        let linear = |part: &str, role, shape| {
            place.linear(&format!("self_attn.indexer.{part}"), role, shape)
        };
        let key_norm = place.whole("self_attn.indexer.k_norm");
        Ok(Self {
            query: linear("wq_b", Role::Query, [heads * width, narrow])?,
            key: linear("wk", Role::Key, [width, h])?,
            // As with experts, a small change can mean other keys.
            weights: linear("weights_proj", Role::Router, [heads, h])?,
            norm: Norm {
                eps: EPS,
                ..norm(place.loader, &key_norm, width, NormRule::Layer)?
            },
            pick: backend::Index {
                place: at,
                heads,
                dim: width,
                most: shape.most,
                rope,
            },
        })
    }

    /// The key as the index keeps it, before it rotates.
    pub fn normalised(&self, backend: &mut dyn Backend, key: &Tensor) -> Result<Tensor> {
        let own = backend.normalised(key, Some(&self.norm))?;
        own.ok_or_else(|| Error::Run("a norm is missing".into()))
    }
}
