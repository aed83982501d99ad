//! What the operations of a backend take beside rows: weights and small descriptions, with nothing of a model in them.
use std::sync::Arc;

use candle_vllm_kernels::cpu::{
    Activation,
    attention::{Picks, Temperature, Window},
};

use super::KvPlace;
use crate::{
    Error, Result,
    quant::{Format, PerHead, Vector},
    rope::Rope,
};

/// `y = x W^T + b`, W of shape `[n, k]`.
pub struct Linear {
    /// The matrix.
    pub format: Box<dyn Format>,
    /// One value an output, if there is a bias.
    pub bias: Option<Vector>,
}

impl Linear {
    /// Outputs.
    pub fn n(&self) -> usize {
        self.format.shape()[0]
    }
}

/// `x / sqrt(mean(x^2) + eps) * weight + bias`, of x less its mean where `centred`: RMSNorm (arXiv 1910.07467) or
/// LayerNorm (arXiv 1607.06450).
pub struct Norm {
    /// One factor a column.
    pub weight: Vector,
    /// One summand a column.
    pub bias: Option<Vector>,
    /// Added to the mean square.
    pub eps: f32,
    /// LayerNorm.
    pub centred: bool,
}

/// Into the hidden rows of a feed-forward part.
pub struct Feed {
    /// `act(gate x) * up x` rather than `act(up x)`.
    pub gate: Option<Linear>,
    /// Beside the gate or into the activation.
    pub up: Linear,
    /// The activation.
    pub activation: Activation,
    /// Of a gate only what is above its row's mean by so many standard deviations is activated, less that.
    pub cut: Option<f32>,
}

/// How rows join the residual stream: `residual += factor * norm(x W^T + b)`.
pub struct Join {
    /// W and b.
    pub linear: Linear,
    /// Of the product.
    pub norm: Option<Norm>,
    /// Of all of it.
    pub factor: f32,
}

/// What attention does with queries, keys and values.
pub struct Attend {
    /// Where its keys and values lie.
    pub place: KvPlace,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head's query and key.
    pub head_dim: usize,
    /// Width of a head's value.
    pub value_dim: usize,
    /// Factor on the scores before softmax.
    pub scale: f32,
    /// How far back a query sees; `None` = as far as there are keys.
    pub window: Option<Window>,
    /// Scores become `cap * tanh(score / cap)`.
    pub softcap: Option<f32>,
    /// One logit a query head that takes part in the softmax and has no value.
    pub sinks: Option<Vector>,
    /// Queries far on are made larger.
    pub temperature: Option<Temperature>,
    /// Norms of queries and keys.
    pub qk_norm: Option<QkNorm>,
    /// Queries, keys and values are held within this of 0: behind norms of whole rows, before heads rotate.
    pub clip: Option<f32>,
    /// Rotation of queries and keys.
    pub rope: Arc<Rope>,
}

/// What latent attention (MLA, arXiv 2405.04434) does with queries and a latent. All heads share one key of a token, its
/// rotated columns and the latent; the latent is their value too.
pub struct Latent {
    /// Where the keys lie.
    pub place: KvPlace,
    /// Query heads.
    pub heads: usize,
    /// Columns of a query that meet the latent, by `absorb`; they come first.
    pub nope: usize,
    /// Columns of a query, and of the key, that rotate.
    pub rotated: usize,
    /// Width of the latent.
    pub rank: usize,
    /// Width of a head's value.
    pub value_dim: usize,
    /// Factor on the scores before softmax.
    pub scale: f32,
    /// Of the latent.
    pub norm: Norm,
    /// From a head's query to the latent, `[rank, nope]` a head: the keys' matrix, turned.
    pub absorb: PerHead,
    /// From the latent to a head's value, `[value_dim, rank]` a head.
    pub expand: PerHead,
    /// Rotation.
    pub rope: Arc<Rope>,
    /// Whether rows attend to what they have picked alone.
    pub sparse: bool,
}

impl Latent {
    /// What rows attend to, of what the pass's rows have `picked`; `None` = all that they see.
    ///
    /// # Errors
    /// `Run` when attention is sparse and nothing has been picked.
    pub(super) fn picks<'a>(&self, picked: Option<&'a Picks>) -> Result<Option<&'a Picks>> {
        let missing = || Error::Run("no layer has picked keys".into());
        let picks = self.sparse.then(|| picked.ok_or_else(missing));
        picks.transpose()
    }
}

/// A gated convolution along a sequence (LFM2, transformers `modeling_lfm2.py`): `C * conv(B * x)`, each column by itself,
/// over a token and as many before it as there are taps less one.
pub struct ShortConv {
    /// Where the states lie: of each column the last products `B * x`, the oldest token's first.
    pub place: KvPlace,
    /// Columns.
    pub width: usize,
    /// Tokens that an output is made of.
    pub taps: usize,
    /// `[taps, width]`, the oldest token's first.
    pub weight: Vector,
    /// One summand a column.
    pub bias: Option<Vector>,
}

/// By what rows pick the keys that they attend to (DeepSeek V3.2's lightning indexer): the score of a key is the sum over
/// the heads of `weight * max(0, q . k)`.
pub struct Index {
    /// Where the keys lie.
    pub place: KvPlace,
    /// Heads of a query; all share the key.
    pub heads: usize,
    /// Width of a head and of a key.
    pub dim: usize,
    /// Most keys that a row picks; one that sees no more takes all.
    pub most: usize,
    /// Rotation.
    pub rope: Arc<Rope>,
}

/// Norms of queries and keys.
pub struct QkNorm {
    /// Of queries.
    pub q: Norm,
    /// Of keys; none in a layer that reads another's.
    pub k: Option<Norm>,
    /// What is normalised.
    pub of: Normed,
}

/// What a norm of queries or keys takes at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Normed {
    /// A head, before it rotates.
    Head,
    /// A head, after it has rotated.
    RotatedHead,
    /// All heads, before they rotate.
    Row,
}

/// From rows to logits: `cap * tanh(s / cap)` with `s = factor * (norm(x) W^T + b)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LogitRule {
    /// Factor.
    pub factor: f32,
    /// No logit is larger.
    pub cap: Option<f32>,
}
