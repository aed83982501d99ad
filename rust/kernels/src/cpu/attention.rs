//! Causal attention over the paged cache, with the rotary embedding and the cache writes that come before it.
//! Knows sequences as rows, positions and blocks; no model, no scheduling.
//!
//! A query's bits depend on its own sequence's tokens only. Keys are cut into *segments* of 256, fixed by position. In a
//! segment a query takes all its scores, their maximum, the probabilities and their weighted sum of values; segments are
//! merged in order of position. Masked keys take no part in the maximum and weigh exactly 0. The sums run in the same
//! order for one query as for a tile of them, whichever thread computes a segment.
mod batch;
pub(super) mod element;
mod index;
mod kernel;
mod pages;
mod picks;
mod plan;
mod scales;
mod scratch;
mod softmax;
mod tile;
mod unit;
mod wide;
mod write;

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod bytes;
#[cfg(target_arch = "x86_64")]
mod dot;
#[cfg(target_arch = "x86_64")]
mod quick;
#[cfg(target_arch = "x86_64")]
mod turn;

use super::Compute;
use super::kv::{KvCache, MAX_HEAD_DIM, Seq};
use super::rope::Rope;
pub use batch::Batch;
pub use index::{IndexParams, index};
use kernel::Kernel;
pub use picks::Picks;
use unit::{Queries, Region};
use write::{New, Prepare};

/// Shape and rules of attention.
#[derive(Debug, Clone, Copy)]
pub struct AttnParams<'a> {
    /// Query heads, a multiple of `kv_heads`; head `h` reads key/value head `h / (heads / kv_heads)`.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Width of a head's query and key.
    pub head_dim: usize,
    /// Width of a head's value.
    pub value_dim: usize,
    /// Factor on the products of queries and keys; above 0.
    pub scale: f32,
    /// How far back a query sees; `None` = as far as there are keys.
    pub window: Option<Window>,
    /// Scores become `cap * tanh(score / cap)`.
    pub softcap: Option<f32>,
    /// One logit a head that takes part in the softmax and has no value.
    pub sinks: Option<&'a [f32]>,
    /// Queries far on are made larger.
    pub temperature: Option<Temperature>,
    /// Which keys of a latent cache rows attend to that see more than so many.
    pub picks: Option<&'a Picks>,
}

/// How far back queries see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// A query at position p sees the keys at positions above `p - n`, itself included.
    Sliding(usize),
    /// Positions stand in chunks of `n`; a query sees its own chunk.
    Chunk(usize),
}

impl Window {
    /// The first position that a query at `position` sees.
    pub fn first(self, position: usize) -> usize {
        match self {
            Window::Sliding(n) => (position + 1).saturating_sub(n),
            Window::Chunk(n) => position / n * n,
        }
    }

    fn size(self) -> usize {
        let (Window::Sliding(n) | Window::Chunk(n)) = self;
        n
    }
}

/// A query at position p is multiplied by `1 + beta ln(1 + floor((p + ahead) / original))`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Temperature {
    /// How fast it grows.
    pub beta: f32,
    /// Positions without effect.
    pub original: usize,
    /// Positions that each counts as further on: 1 for Llama 4.
    pub ahead: usize,
}

impl Temperature {
    /// The factor at `position`.
    pub fn at(&self, position: usize) -> f32 {
        1.0 + self.beta * (1.0 + ((position + self.ahead) / self.original) as f32).ln()
    }
}

/// RMS norm of each head.
#[derive(Debug, Clone, Copy)]
pub struct QkNorm<'a> {
    /// Weights of queries, `[head_dim]`.
    pub q: &'a [f32],
    /// Weights of keys, `[head_dim]`.
    pub k: &'a [f32],
    /// Added to the mean of squares.
    pub eps: f32,
    /// After the rotation rather than before it.
    pub after_rope: bool,
}

impl AttnParams<'_> {
    fn check(&self, cache: &KvCache) {
        let shape = cache.shape();
        let own = (self.kv_heads, self.head_dim, self.value_dim);
        let its = (shape.kv_heads, shape.key_dim, shape.value_dim);
        assert!(own == its, "not this cache's heads");
        assert!(
            self.heads > 0 && self.heads.is_multiple_of(self.kv_heads),
            "heads in groups"
        );
        assert!(
            self.head_dim <= MAX_HEAD_DIM && self.scale > 0.0,
            "head_dim or scale out of range"
        );
        assert!(
            self.sinks.is_none_or(|s| s.len() == self.heads),
            "one sink a head"
        );
        assert!(
            self.window.is_none_or(|w| w.size() > 0),
            "a window of at least 1"
        );
        assert!(
            self.temperature.is_none_or(|t| t.original > 0),
            "a temperature from some position on"
        );
        let whole = shape.latent && self.window.is_none();
        assert!(
            self.picks.is_none_or(|p| whole && p.most() > 0),
            "picks are of latent caches without windows"
        );
    }

    /// Query heads of a key/value head.
    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }
}

/// Normalises (`qk_norm`) and rotates queries and keys in place and writes keys and values into the cache.
/// `q`: `[rows, heads * head_dim]`, `k`: `[rows, kv_heads * head_dim]`, `v`: `[rows, kv_heads * value_dim]`, empty where
/// the cache is latent.
///
/// # Panics
/// When shapes, positions or blocks do not fit each other or the cache.
#[allow(clippy::too_many_arguments)]
pub fn write_qkv(
    cx: &Compute,
    rope: &Rope,
    q: &mut [f32],
    k: &mut [f32],
    v: &[f32],
    qk_norm: Option<QkNorm<'_>>,
    params: &AttnParams<'_>,
    seqs: &[Seq<'_>],
    cache: &mut KvCache,
    layer: usize,
) {
    let batch = Batch::new(seqs.to_vec(), cache);
    let prepare = Prepare::new(rope, qk_norm, params, &batch);
    let kernel = Kernel::of(cx.cpu, cache.page().dtype);
    write::rotate(cx, &prepare, (kernel, q, params.heads), &batch, true);
    write::rotate(cx, &prepare, (kernel, k, params.kv_heads), &batch, false);
    New::checked(cx.cpu, None, (k, v), params, &batch, cache, layer).write_all(cx, seqs);
}

/// Attention of rotated queries over a cache that holds the keys and values of all their tokens.
/// `q`: `[rows, heads * head_dim]`, `out`: `[rows, heads * value_dim]`.
///
/// # Panics
/// As [`write_qkv`].
pub fn attention(
    cx: &Compute,
    params: &AttnParams<'_>,
    q: &[f32],
    seqs: &[Seq<'_>],
    cache: &KvCache,
    layer: usize,
    out: &mut [f32],
) {
    run(
        cx,
        params,
        Queries { q, prepare: None },
        Target::Old(cache),
        &mut Batch::new(seqs.to_vec(), cache),
        layer,
        out,
    );
}

/// [`write_qkv`] and [`attention`] in one: fewer parallel regions, and `q`, `k` and `v` stay as they are.
///
/// # Panics
/// As [`write_qkv`].
#[allow(clippy::too_many_arguments)]
pub fn qkv_attention(
    cx: &Compute,
    rope: &Rope,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    qk_norm: Option<QkNorm<'_>>,
    params: &AttnParams<'_>,
    batch: &mut Batch<'_>,
    cache: &mut KvCache,
    layer: usize,
    out: &mut [f32],
) {
    let prepare = Prepare::new(rope, qk_norm, params, batch);
    let queries = Queries {
        q,
        prepare: Some(&prepare),
    };
    let new = New::checked(cx.cpu, Some(&prepare), (k, v), params, batch, cache, layer);
    // A sequence of few rows is written by the task that reads it; long ones are written before.
    let target = if batch.is_fused(params) {
        Target::New(&new)
    } else {
        new.write_all(cx, batch.seqs());
        Target::Old(new.cache())
    };
    run(cx, params, queries, target, batch, layer, out);
}

/// As [`qkv_attention`] over a layer whose keys and values of these tokens are written already: only queries are
/// normalised and rotated.
///
/// # Panics
/// As [`write_qkv`].
#[allow(clippy::too_many_arguments)]
pub fn q_attention(
    cx: &Compute,
    rope: &Rope,
    q: &[f32],
    qk_norm: Option<QkNorm<'_>>,
    params: &AttnParams<'_>,
    batch: &mut Batch<'_>,
    cache: &KvCache,
    layer: usize,
    out: &mut [f32],
) {
    let prepare = Prepare::new(rope, qk_norm, params, batch);
    let queries = Queries {
        q,
        prepare: Some(&prepare),
    };
    run(cx, params, queries, Target::Old(cache), batch, layer, out);
}

/// The cache: complete, or without the tokens of this step.
#[derive(Clone, Copy)]
enum Target<'a> {
    Old(&'a KvCache),
    New(&'a New<'a>),
}

fn run(
    cx: &Compute,
    params: &AttnParams<'_>,
    queries: Queries<'_>,
    target: Target<'_>,
    batch: &mut Batch<'_>,
    layer: usize,
    out: &mut [f32],
) {
    let (cache, new) = match target {
        Target::Old(cache) => (cache, None),
        Target::New(new) => (new.cache(), Some(new)),
    };
    let (width, own) = (
        params.heads * params.head_dim,
        params.heads * params.value_dim,
    );
    params.check(cache);
    batch.check_rows(queries.q.len(), width);
    let rows = queries.q.len() / width;
    assert_eq!(
        rows * own,
        out.len(),
        "q and out: [rows, {width} and {own}]"
    );
    batch.check_cache(cache, layer);
    let (seqs, plan, partials) = batch.plan(params, cx.pool.threads(), new.is_some());
    let kernel = Kernel::of(cx.cpu, cache.page().dtype);
    let region = Region::new(
        params, queries, new, seqs, cache, layer, kernel, plan, partials, out,
    );
    // SAFETY: `for_each` runs each task once; `Kernel::of` gives what the machine has.
    cx.pool
        .for_each(plan.tasks.len(), &|task| unsafe { region.run(task) });
}

#[cfg(test)]
mod tests;
