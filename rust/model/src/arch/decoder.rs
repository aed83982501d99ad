//! Every decoder whose layers all attend: x = embed; each layer adds attention and a feed-forward part to x, one after the other or side by
//! side; logits = head(norm x). What a family has of it and how, its row says.
use std::ops::Range;

use candle_vllm_kernels::cpu::Compute;

use super::{
    Runtime,
    plan::{self, Plan},
};
use crate::{
    Error, Kv, Logits, Model, Pending, Result, Spec, Step, Tensor,
    backend::{Backend, KvShape, Linear, LogitRule, Norm},
    config::Config,
    family::Family,
    layers::{FeedForward, LayerInput, LayerInputs, Mixer, norm},
    loader::{self, Loader},
    quant::{Format, Role, Shard},
};

struct Layer {
    mixer: Mixer,
    feed: FeedForward,
    /// What it is given of a token beside x.
    input: Option<LayerInput>,
    /// Of all that it gives.
    scale: Option<f32>,
}

/// A piece, loaded.
enum Part {
    Embedding(Box<dyn Format>),
    Positions(Box<dyn Format>),
    Inputs(Option<LayerInputs>),
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
    /// Of families whose layers are given something of each token.
    inputs: Option<LayerInputs>,
    layers: Vec<Layer>,
    /// From this layer on all read keys and values of earlier ones.
    readers: usize,
    /// Whether both parts of a layer read the same x.
    parallel: bool,
    norm: Norm,
    /// `None`: the embedding is the head too.
    head: Option<Linear>,
    logits: LogitRule,
}

/// What one thread loads at a time.
enum Piece {
    Embedding,
    Positions,
    Inputs,
    Head,
    Layer(usize),
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
        Piece::Inputs => Part::Inputs(LayerInputs::load(loader, family)?),
        Piece::Head => {
            let shape = [c.vocab_size, c.hidden_size];
            Part::Head(loader.linear(names.head, Role::Head, Shard::Whole, shape)?)
        }
        Piece::Layer(number) => {
            let place = plan.place(*number);
            let scale = place.name(names.layer_scale);
            let scale = scale.map(|name| loader.floats(&name, &Shard::Whole));
            Part::Layer(Box::new(Layer {
                mixer: plan.mixer(*number)?,
                feed: FeedForward::load(&place, is_parallel(c, family))?,
                input: LayerInput::load(&place)?,
                scale: scale.transpose()?.and_then(|s| s.first().copied()),
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
    if c.layer_inputs.is_some() {
        tables.push(Piece::Inputs);
    }
    let (mut embedding, mut positions, mut head, mut inputs) = (None, None, None, None);
    let mut layers = Vec::with_capacity(c.layers);
    let plan = Plan::new(loader, runtime, family);
    let load = |i: usize| piece(&plan, &Piece::Layer(i));
    // A table is large and shared out by rows, layers are many and shared out whole.
    let tables = tables.iter().map(|table| piece(&plan, table));
    let tables = tables.collect::<Result<Vec<_>>>()?;
    let loaded = loader::on_threads(backend.compute(), c.layers, load)?;
    for part in tables.into_iter().chain(loaded) {
        match part {
            Part::Embedding(table) => embedding = Some(table),
            Part::Positions(table) => positions = Some(table),
            Part::Inputs(made) => inputs = made,
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
    let readers = plan.readers();
    let kv = plan.kv;
    Ok(Box::new(Decoder {
        spec: plan::spec(loader, backend.as_ref(), &kv, dtype),
        kv,
        backend,
        embedding,
        embedding_factor: c.scales.embedding as f32,
        positions,
        inputs,
        parallel: is_parallel(c, family),
        layers,
        readers,
        norm,
        head,
        logits: LogitRule {
            factor: c.scales.logits as f32,
            cap: c.scales.logit_cap.map(|cap| cap as f32),
        },
    }))
}

impl Layer {
    /// What comes after both parts.
    fn finish(
        &self,
        backend: &mut dyn Backend,
        inputs: Option<&Tensor>,
        x: &mut Tensor,
    ) -> Result<()> {
        if let Some((input, all)) = self.input.as_ref().zip(inputs) {
            let y = input.let_through(backend, x, all)?;
            input.add(backend, &y, x)?;
        }
        self.scale.map_or(Ok(()), |factor| backend.scale(x, factor))
    }
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
        let mut inputs = match &self.inputs {
            Some(inputs) => Some(inputs.make(backend, &step.tokens, &x)?),
            None => None,
        };
        let few = (!all && self.readers < self.layers.len()).then(|| step.wanted());
        let mut pass = backend.begin(step, kv)?;
        for (i, layer) in self.layers.iter().enumerate() {
            let reading = few.as_ref().filter(|_| i == self.readers);
            if reading.is_some() && step.logits_rows() == 0 {
                return Ok(Tensor::new(0, self.spec.vocab_size, Vec::new()).into());
            }
            if let Some(few) = reading {
                // The layers to come write nothing that other rows could read.
                x = backend.select(&x, &wanted)?;
                inputs = inputs
                    .map(|all| backend.select(&all, &wanted))
                    .transpose()?;
                pass = backend.begin(few, kv)?;
            }
            let Layer { mixer, feed, .. } = layer;
            let mut mixed = mixer.mix(backend, &x, &mut pass, kv)?;
            if i + 1 == self.layers.len() && !all && few.is_none() {
                if step.logits_rows() == 0 {
                    return Ok(Tensor::new(0, self.spec.vocab_size, Vec::new()).into());
                }
                // Nothing reads the other rows any more.
                (mixed, x) = (
                    backend.select(&mixed, &wanted)?,
                    backend.select(&x, &wanted)?,
                );
                inputs = inputs
                    .map(|all| backend.select(&all, &wanted))
                    .transpose()?;
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
            layer.finish(backend, inputs.as_ref(), &mut x)?;
        }
        let head = match &self.head {
            Some(head) => (head.format.as_ref(), head.bias.as_ref()),
            None => (self.embedding.as_ref(), None),
        };
        backend.head(&x, &self.norm, head, self.logits)
    }
}
