//! What loading finds out before any weight is read: how layers rotate, what they keep and where, and what a model takes.
use std::sync::Arc;

use super::Runtime;
use crate::{
    Result, Spec, StateGroup,
    backend::{Backend, KvGroup, KvPlace, KvShape, KvType},
    config::{Config, Sparse},
    family::Family,
    layers::{Attention, FeedForward, Latent, Mixer, Place, ShortConv},
    loader::Loader,
    rope::Rope,
};

/// What layers are loaded with.
pub struct Plan<'a> {
    /// The checkpoint.
    pub loader: &'a Loader<'a>,
    /// The family.
    pub family: &'a Family,
    /// What a token's keys and values take.
    pub kv: KvShape,
    exact: bool,
    ropes: Vec<Arc<Rope>>,
    /// Of the indexes.
    index_ropes: Vec<Arc<Rope>>,
    places: Vec<KvPlace>,
    indexes: Vec<Option<KvPlace>>,
}

impl<'a> Plan<'a> {
    /// The plan of a checkpoint.
    pub fn new(loader: &'a Loader<'a>, runtime: &Runtime, family: &'a Family) -> Self {
        let c = loader.config();
        let (kv, places, indexes) = places(c, runtime.kv_dtype);
        let index = c.sparse.as_ref().map(|s| s.index.interleaved);
        let index = index.unwrap_or(family.interleaved);
        Self {
            loader,
            family,
            kv,
            exact: runtime.exact,
            ropes: ropes(c, family.interleaved, runtime.context),
            index_ropes: ropes(c, index, runtime.context),
            places,
            indexes,
        }
    }

    /// A layer's place in the checkpoint.
    pub fn place(&self, number: usize) -> Place<'_> {
        let &Self { loader, family, .. } = self;
        Place {
            loader,
            family,
            number,
        }
    }

    /// From which layer on all read keys and values of earlier ones.
    pub fn readers(&self) -> usize {
        let c = self.loader.config();
        let last = (0..c.layers).rfind(|&i| c.layer(i).reads.is_none());
        last.map_or(0, |i| i + 1)
    }

    /// Loads the part of a layer that looks at other tokens.
    pub fn mixer(&self, number: usize) -> Result<Box<dyn Mixer>> {
        let (place, at) = (self.place(number), self.places[number]);
        if let Some(conv) = self.loader.config().conv.as_ref().filter(|c| c.own[number]) {
            return Ok(Box::new(ShortConv::load(&place, conv.taps, at)?));
        }
        let rope = &self.ropes[number];
        let Some(shape) = &self.loader.config().latent else {
            return Ok(Box::new(Attention::load(&place, rope.clone(), at)?));
        };
        let ropes = [rope, &self.index_ropes[number]];
        let places = (at, self.indexes[number]);
        Ok(Box::new(Latent::load(&place, shape, ropes, places)?))
    }
}

/// What a layer keeps of a token.
fn kept(c: &Config, number: usize, dtype: KvType) -> KvGroup {
    let own = c.layer(number);
    match &c.latent {
        Some(l) => KvGroup {
            layers: 1,
            kv_heads: 1,
            key_dim: l.rotated + l.rank,
            value_dim: l.rank,
            latent: true,
            dtype,
        },
        None => KvGroup {
            layers: 1,
            kv_heads: own.kv_heads,
            key_dim: own.head_dim,
            value_dim: own.value_dim,
            latent: false,
            dtype,
        },
    }
}

/// What a cache holds, where each layer finds its states or its keys and values, its own or those of the layer that it
/// reads, and where the index of each layer lies, of layers that have one.
fn places(c: &Config, dtype: KvType) -> (KvShape, Vec<KvPlace>, Vec<Option<KvPlace>>) {
    let keeps: Vec<usize> = (0..c.layers).filter(|&i| c.keeps(i)).collect();
    let mut each: Vec<KvGroup> = keeps.iter().map(|&i| kept(c, i, dtype)).collect();
    let indexed = |i: usize| c.sparse.as_ref().filter(|sparse| sparse.own[i]);
    let indexes = (0..c.layers).filter_map(indexed);
    each.extend(indexes.map(|sparse| KvGroup::index(sparse.index.width, dtype)));
    let (mut kv, all) = KvShape::grouped(&each, dtype);
    let mut states = 0..;
    let mut found = |i: usize| {
        if c.convolves(i) {
            let layer = states.next().unwrap_or(0);
            return KvPlace { group: 0, layer };
        }
        let keeper = c.layer(i).reads.unwrap_or(i);
        all[keeps.partition_point(|&k| k < keeper)]
    };
    let mut behind = all[keeps.len()..].iter().copied();
    let index = |i: usize| indexed(i).and_then(|_| behind.next());
    let indexes = (0..c.layers).map(index).collect();
    let places = (0..c.layers).map(&mut found).collect();
    if let Some(conv) = &c.conv {
        kv.states.push(StateGroup {
            layers: conv.own.iter().filter(|own| **own).count(),
            width: (conv.taps - 1) * c.hidden_size,
        });
    }
    (kv, places, indexes)
}

/// The residual stream twice, the inputs of all layers as they are made, what attention takes and gives, what the MLP
/// holds, and the widest of them once more as the input of a product.
fn row_bytes(c: &Config) -> usize {
    let mut queries = c.heads * c.head_dim;
    if c.conv.is_some() {
        // Two gates and what is convolved, and what becomes of it.
        queries = queries.max(2 * c.hidden_size);
    }
    let mut keys = c.kv_heads * c.head_dim;
    if let Some(l) = &c.latent {
        // Queries of the latent and what they get of it, beside those that they are made of.
        queries += c.heads * (l.rotated + l.rank);
        keys = 2 * (l.rotated + l.rank);
    }
    if let Some(Sparse { index, .. }) = &c.sparse {
        queries += index.heads * index.width;
        keys += 2 * index.width + index.heads + index.most;
    }
    let widest = c.hidden_size.max(c.intermediate_size).max(queries);
    // Of each expert its hidden row, and both inputs of its products.
    let experts = c.moe.map_or(0, |moe| {
        moe.used * (2 * moe.width + c.hidden_size) + 2 * moe.shared.unwrap_or(0) + c.hidden_size
    });
    let inputs = c.layer_inputs.map_or(0, |i| (2 * c.layers + 1) * i.width);
    // Predictions, corrections and what they are made of.
    let streams = c
        .altup
        .as_ref()
        .map_or(0, |a| 3 * a.streams * c.hidden_size);
    let inputs = inputs + streams;
    let values =
        2 * c.hidden_size + inputs + 2 * queries + 2 * keys + 2 * c.intermediate_size + widest;
    (values + experts) * size_of::<f32>()
}

/// What the engine must know of a loaded model, whose first feed-forward part is `feed`.
pub fn spec(plan: &Plan<'_>, backend: &dyn Backend, feed: Option<&FeedForward>) -> Spec {
    let Plan { loader, kv, .. } = plan;
    let c = loader.config();
    let dtype = feed
        .filter(|_| !plan.exact)
        .map_or("f32", FeedForward::label);
    Spec {
        architecture: c.architecture.clone(),
        layers: c.layers,
        hidden_size: c.hidden_size,
        vocab_size: c.vocab_size,
        max_position: c.max_position,
        kv_block_bytes: backend.kv_block_bytes(kv),
        state_bytes: kv.state_bytes(),
        block_size: backend.block_size(),
        row_bytes: row_bytes(c),
        dtype: dtype.into(),
        kv_dtype: kv.dtype.name().into(),
        parameters: loader.parameters(),
        weight_bytes: loader.packed_bytes(),
        device: backend.name(),
        threads: backend.threads(),
    }
}

/// The rotation of each layer; layers that rotate alike share one.
fn ropes(c: &Config, interleaved: bool, context: Option<usize>) -> Vec<Arc<Rope>> {
    let mut known: Vec<Arc<Rope>> = Vec::new();
    let of = |number| {
        let rope = Rope::of(c, number, interleaved, context);
        let same = known.iter().find(|k| ***k == rope).cloned();
        same.unwrap_or_else(|| {
            known.push(Arc::new(rope));
            known[known.len() - 1].clone()
        })
    };
    (0..c.layers).map(of).collect()
}
