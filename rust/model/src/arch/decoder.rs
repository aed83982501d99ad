//! Every decoder whose layers all attend: x = embed; each layer adds attention and a feed-forward part to x, one after the other or side by
//! side; logits = head(norm x). What a family has of it and how, its row says.
use std::{ops::Range, sync::Arc};

use candle_vllm_kernels::cpu::Compute;

use super::Runtime;
use crate::{
    Error, Kv, Logits, Model, Pending, Result, Spec, Step, Tensor,
    backend::{Backend, KvGroup, KvPlace, KvShape, KvType, Linear, LogitRule, Norm},
    config::{Config, Sparse},
    family::Family,
    layers::{Attention, FeedForward, Latent, Mixer, Place, norm},
    loader::{self, Loader},
    quant::{Format, Role, Shard},
    rope::Rope,
};

struct Layer {
    mixer: Mixer,
    feed: FeedForward,
}

/// A piece, loaded.
enum Part {
    Embedding(Box<dyn Format>),
    Positions(Box<dyn Format>),
    Head(Linear),
    Layer(Box<Layer>),
}

struct Decoder {
    spec: Spec,
    kv: KvShape,
    backend: Box<dyn Backend>,
    embedding: Box<dyn Format>,
    embedding_factor: f32,
    /// Of families that embed positions.
    positions: Option<Box<dyn Format>>,
    layers: Vec<Layer>,
    /// Whether both parts of a layer read the same x.
    parallel: bool,
    norm: Norm,
    /// `None`: the embedding is the head too.
    head: Option<Linear>,
    logits: LogitRule,
}

/// The residual stream twice, what attention takes and gives, what the MLP holds, and the widest of them once more as
/// the input of a product.
fn row_bytes(c: &Config) -> usize {
    let mut queries = c.heads * c.head_dim;
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
    let values = 2 * c.hidden_size + 2 * queries + 2 * keys + 2 * c.intermediate_size + widest;
    (values + experts) * size_of::<f32>()
}

fn spec(loader: &Loader<'_>, backend: &dyn Backend, kv: &KvShape, dtype: &str) -> Spec {
    let c = loader.config();
    Spec {
        architecture: c.architecture.clone(),
        layers: c.layers,
        hidden_size: c.hidden_size,
        vocab_size: c.vocab_size,
        max_position: c.max_position,
        kv_block_bytes: backend.kv_block_bytes(kv),
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
    let of = |rotation| {
        let rope = Rope::of(c, rotation, interleaved, context);
        let same = known.iter().find(|k| ***k == rope).cloned();
        same.unwrap_or_else(|| {
            known.push(Arc::new(rope));
            known[known.len() - 1].clone()
        })
    };
    c.rotations.iter().map(of).collect()
}

/// What one thread loads at a time.
enum Piece {
    Embedding,
    Positions,
    Head,
    Layer(usize),
}

fn mixer(plan: &Plan<'_>, place: &Place<'_>) -> Result<Mixer> {
    let number = place.number;
    let (rope, at) = (&plan.ropes[number], plan.places[number]);
    let Some(shape) = &plan.loader.config().latent else {
        let attention = Attention::load(place, rope.clone(), at)?;
        return Ok(Mixer::Attention(Box::new(attention)));
    };
    let ropes = [rope, &plan.index_ropes[number]];
    let places = (at, plan.indexes[number]);
    Ok(Mixer::Latent(Box::new(Latent::load(
        place, shape, ropes, places,
    )?)))
}

/// What each layer keeps of a token, and then the index of each layer that has one.
fn kept(c: &Config, dtype: KvType) -> Vec<KvGroup> {
    let own = match &c.latent {
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
            kv_heads: c.kv_heads,
            key_dim: c.head_dim,
            value_dim: c.head_dim,
            latent: false,
            dtype,
        },
    };
    let mut all = vec![own; c.layers];
    if let Some(sparse) = &c.sparse {
        let own = sparse.own.iter().filter(|own| **own);
        all.extend(own.map(|_| KvGroup::index(sparse.index.width, dtype)));
    }
    all
}

/// Where the index of each layer lies, of layers that have one.
fn indexes(c: &Config, places: &[KvPlace]) -> Vec<Option<KvPlace>> {
    let mut behind = places[c.layers..].iter().copied();
    let has = |i: usize| c.sparse.as_ref().is_some_and(|sparse| sparse.own[i]);
    let place = |i| if has(i) { behind.next() } else { None };
    (0..c.layers).map(place).collect()
}

/// What layers are loaded with.
struct Plan<'a> {
    loader: &'a Loader<'a>,
    family: &'a Family,
    ropes: Vec<Arc<Rope>>,
    /// Of the indexes.
    index_ropes: Vec<Arc<Rope>>,
    places: Vec<KvPlace>,
    indexes: Vec<Option<KvPlace>>,
}

fn piece(plan: &Plan<'_>, piece: &Piece) -> Result<Part> {
    let (loader, family) = (plan.loader, plan.family);
    let (c, names) = (loader.config(), &family.names);
    let table = |name: &str, role, rows| {
        let source = loader.source(name, role, Shard::Whole)?;
        loader.matrix(source, [rows, c.hidden_size])
    };
    Ok(match piece {
        Piece::Embedding => {
            let both = c.tie_word_embeddings;
            let role = if both { Role::Head } else { Role::Embedding };
            Part::Embedding(table(names.embedding, role, c.vocab_size)?)
        }
        Piece::Positions => {
            Part::Positions(table(names.positions, Role::Positions, c.max_position)?)
        }
        Piece::Head => {
            let shape = [c.vocab_size, c.hidden_size];
            Part::Head(loader.linear(names.head, Role::Head, Shard::Whole, shape)?)
        }
        Piece::Layer(number) => {
            let number = *number;
            let place = Place {
                loader,
                family,
                number,
            };
            Part::Layer(Box::new(Layer {
                mixer: mixer(plan, &place)?,
                feed: FeedForward::load(&place, is_parallel(c, family))?,
            }))
        }
    })
}

fn is_parallel(c: &Config, family: &Family) -> bool {
    c.parallel_residual.unwrap_or(family.parallel)
}

/// Loads all weights, on the threads that will compute.
pub fn load(
    loader: &Loader<'_>,
    backend: Box<dyn Backend>,
    runtime: &Runtime,
    family: &Family,
) -> Result<Box<dyn Model>> {
    let (c, names) = (loader.config(), &family.names);
    let mut tables = vec![Piece::Embedding];
    if !names.positions.is_empty() {
        tables.push(Piece::Positions);
    }
    if !c.tie_word_embeddings {
        tables.push(Piece::Head);
    }
    let (mut embedding, mut positions, mut head) = (None, None, None);
    let mut layers = Vec::with_capacity(c.layers);
    let (kv, places) = KvShape::grouped(&kept(c, runtime.kv_dtype), runtime.kv_dtype);
    let index = c
        .sparse
        .as_ref()
        .map_or(family.interleaved, |s| s.index.interleaved);
    let plan = Plan {
        loader,
        family,
        ropes: ropes(c, family.interleaved, runtime.context),
        index_ropes: ropes(c, index, runtime.context),
        indexes: indexes(c, &places),
        places,
    };
    let load = |i: usize| piece(&plan, &Piece::Layer(i));
    // A table is large and shared out by rows, layers are many and shared out whole.
    let tables = tables.iter().map(|table| piece(&plan, table));
    let tables = tables.collect::<Result<Vec<_>>>()?;
    let loaded = loader::on_threads(backend.compute(), c.layers, load)?;
    for part in tables.into_iter().chain(loaded) {
        match part {
            Part::Embedding(table) => embedding = Some(table),
            Part::Positions(table) => positions = Some(table),
            Part::Head(linear) => head = Some(linear),
            Part::Layer(layer) => layers.push(*layer),
        }
    }
    let embedding = embedding.ok_or_else(|| Error::Load("the model has no embedding".into()))?;
    let norm = norm(loader, names.norm, c.hidden_size, family.norm)?;
    let dtype = match layers.first() {
        Some(l) if !runtime.exact => l.feed.label(),
        _ => "f32",
    };
    let spec = spec(loader, backend.as_ref(), &kv, dtype);
    Ok(Box::new(Decoder {
        spec,
        kv,
        backend,
        embedding,
        embedding_factor: c.scales.embedding as f32,
        positions,
        parallel: is_parallel(c, family),
        layers,
        norm,
        head,
        logits: LogitRule {
            factor: c.scales.logits as f32,
            cap: c.scales.logit_cap.map(|cap| cap as f32),
        },
    }))
}

impl Model for Decoder {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn compute(&self) -> Option<&Compute> {
        self.backend.compute()
    }

    fn new_kv(&self, blocks: usize) -> Result<Kv> {
        self.backend.new_kv(&self.kv, blocks)
    }

    fn launch<'a>(&'a mut self, step: &'a Step, kv: &'a mut Kv) -> Result<Pending<'a>> {
        Ok(Pending::new(move || self.run(step, kv)))
    }
}

impl Decoder {
    fn embed(&mut self, step: &Step) -> Result<Tensor> {
        let (backend, factor) = (self.backend.as_mut(), self.embedding_factor);
        let mut x = backend.embed(self.embedding.as_ref(), &step.tokens, factor)?;
        if let Some(table) = &self.positions {
            let places = step.slices.iter().flat_map(|s| {
                let first = s.position as u32;
                first..first + s.tokens.len() as u32
            });
            let places = backend.embed(table.as_ref(), &places.collect::<Vec<_>>(), 1.0)?;
            backend.add(&mut x, &places, 1.0)?;
        }
        Ok(x)
    }

    fn run(&mut self, step: &Step, kv: &mut Kv) -> Result<Logits> {
        let mut x = self.embed(step)?;
        let backend = self.backend.as_mut();
        let wanted: Vec<Range<usize>> = step.slices.iter().map(|s| s.logits.clone()).collect();
        let all = step.logits_rows() == step.tokens.len();
        let mut pass = backend.begin(step, kv)?;
        for (i, Layer { mixer, feed }) in self.layers.iter().enumerate() {
            let mut mixed = mixer.mix(backend, &x, &mut pass, kv)?;
            if i + 1 == self.layers.len() && !all {
                if step.logits_rows() == 0 {
                    return Ok(Tensor::new(0, self.spec.vocab_size, Vec::new()).into());
                }
                // Nothing reads the other rows any more.
                (mixed, x) = (
                    backend.select(&mixed, &wanted)?,
                    backend.select(&x, &wanted)?,
                );
            }
            if self.parallel {
                let norm = feed.norm().or(mixer.norm());
                let hidden = feed.run(backend, &x, norm)?;
                backend.join(&mixed, mixer.output(), &mut x)?;
                feed.join(backend, &hidden, &mut x)?;
            } else {
                backend.join(&mixed, mixer.output(), &mut x)?;
                let hidden = feed.run(backend, &x, feed.norm())?;
                feed.join(backend, &hidden, &mut x)?;
            }
        }
        let head = match &self.head {
            Some(head) => (head.format.as_ref(), head.bias.as_ref()),
            None => (self.embedding.as_ref(), None),
        };
        backend.head(&x, &self.norm, head, self.logits)
    }
}
