//! Decoders whose residual stream is several (Gemma 3n): a layer predicts all of them, computes with one, corrects all by
//! what came of it, and adds its input by token to the others. The logits are those of the streams' mean.
use std::{f32::consts::FRAC_1_SQRT_2, ops::Range};

use candle_vllm_kernels::cpu::Compute;

use super::{
    Runtime,
    plan::{self, Plan},
};
use crate::{
    Error, Kv, Logits, Model, Pending, Result, Spec, Step, Tensor,
    backend::{Backend, KvShape, Linear, LogitRule, Norm, Pass},
    config::AltUp as Shape,
    family::Family,
    layers::{AltUp, FeedForward, Laurel, LayerInput, LayerInputs, Mixer, norm},
    loader::{self, Loader},
    quant::{Format, Role, Shard},
};

/// A stream's mean square counts as this at least where it is brought to another's.
const LEAST: f32 = 1e-5;

struct Layer {
    altup: AltUp,
    mixer: Mixer,
    laurel: Laurel,
    feed: FeedForward,
    input: LayerInput,
}

struct Streams {
    spec: Spec,
    kv: KvShape,
    backend: Box<dyn Backend>,
    embedding: Box<dyn Format>,
    embedding_factor: f32,
    inputs: LayerInputs,
    /// From the embedding to every other stream.
    spread: Vec<Linear>,
    layers: Vec<Layer>,
    /// From this layer on all read keys and values of earlier ones.
    readers: usize,
    /// From every other stream to the first.
    gather: Vec<Linear>,
    norm: Norm,
    /// `None`: the embedding is the head too.
    head: Option<Linear>,
    logits: LogitRule,
}

fn layer(plan: &Plan<'_>, shape: &Shape, number: usize) -> Result<Layer> {
    let place = plan.place(number);
    let none = || Error::Load(format!("layer {number} is configured without an input"));
    Ok(Layer {
        altup: AltUp::load(&place, shape)?,
        mixer: plan.mixer(number)?,
        laurel: Laurel::load(&place)?,
        feed: FeedForward::load(&place, false)?,
        input: LayerInput::load(&place)?.ok_or_else(none)?,
    })
}

/// Loads all weights, the layers on the threads that will compute.
pub fn load(
    loader: &Loader<'_>,
    backend: Box<dyn Backend>,
    runtime: &Runtime,
    family: &Family,
    shape: &Shape,
) -> Result<Box<dyn Model>> {
    let (c, names) = (loader.config(), &family.names);
    let (h, tied) = (c.hidden_size, c.tie_word_embeddings);
    let plan = Plan::new(loader, runtime, family);
    let role = if tied { Role::Head } else { Role::Embedding };
    let table = loader.source(names.embedding, role, Shard::Whole)?;
    let head = || loader.linear(names.head, Role::Head, Shard::Whole, [c.vocab_size, h]);
    let others = |stem: &str| {
        let each = (0..shape.streams - 1).map(|i| {
            let name = format!("{stem}.{i}");
            loader.linear(&name, Role::Up, Shard::Whole, [h, h])
        });
        each.collect::<Result<Vec<_>>>()
    };
    let none = || Error::Load(format!("{} is configured without inputs", c.architecture));
    let inputs = LayerInputs::load(loader, family)?.ok_or_else(none)?;
    let load = |number| layer(&plan, shape, number);
    let layers = loader::on_threads(backend.compute(), c.layers, load)?;
    let dtype = match layers.first() {
        Some(l) if !runtime.exact => l.feed.label().to_owned(),
        _ => "f32".to_owned(),
    };
    let mut streams = Streams {
        embedding: loader.matrix(table, [c.vocab_size, h])?,
        embedding_factor: c.scales.embedding as f32,
        inputs,
        spread: others("model.altup_projections")?,
        layers,
        readers: plan.readers(),
        gather: others("model.altup_unembed_projections")?,
        norm: norm(loader, names.norm, h, family.norm)?,
        head: (!tied).then(head).transpose()?,
        logits: LogitRule {
            factor: c.scales.logits as f32,
            cap: c.scales.logit_cap.map(|cap| cap as f32),
        },
        spec: Spec::default(),
        kv: plan.kv,
        backend,
    };
    streams.spec = plan::spec(loader, streams.backend.as_ref(), &streams.kv, &dtype);
    Ok(Box::new(streams))
}

impl Model for Streams {
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

impl Layer {
    /// The streams behind the layer.
    fn run(
        &self,
        backend: &mut dyn Backend,
        streams: &[Tensor],
        inputs: &Tensor,
        pass: &mut Pass<'_>,
        kv: &mut Kv,
    ) -> Result<Vec<Tensor>> {
        let predictions = self.altup.predict(backend, streams)?;
        let active = &predictions[self.altup.active];
        let mixed = self.mixer.mix(backend, active, pass, kv)?;
        let none = || Error::Run("attention without a norm".into());
        let norm = self.mixer.norm().ok_or_else(none)?;
        let mut x = backend.normalise(active, active.shape()[1], norm)?;
        self.laurel.add(backend, &mut x)?;
        backend.add(&mut x, active, 1.0)?;
        backend.join(&mixed, self.mixer.output(), &mut x)?;
        backend.scale(&mut x, FRAC_1_SQRT_2)?;
        let hidden = self.feed.run(backend, &x, self.feed.norm())?;
        self.feed.join(backend, &hidden, &mut x)?;
        let mut corrected = self.altup.correct(backend, &predictions, &x)?;
        let gating = &corrected[self.altup.active];
        let scale = self.altup.scale.as_ref();
        let own = scale.map(|s| backend.weigh(gating, s)).transpose()?;
        let gating = own.as_ref().unwrap_or(gating);
        let y = self.input.let_through(backend, gating, inputs)?;
        // To all but the first, whichever the layer computed with.
        self.input.add_to_all(backend, &y, &mut corrected[1..])?;
        Ok(corrected)
    }
}

impl Streams {
    /// Products of the first stream, or of each other, brought to the size of the first.
    fn resized(&mut self, spread: bool, streams: &[Tensor]) -> Result<Vec<Tensor>> {
        let by = if spread { &self.spread } else { &self.gather };
        let mut made = Vec::with_capacity(by.len());
        for (i, linear) in by.iter().enumerate() {
            let from = if spread { 0 } else { i + 1 };
            let mut y = self.backend.linear(&streams[from], linear)?;
            self.backend.resize(&mut y, &streams[0], LEAST)?;
            made.push(y);
        }
        Ok(made)
    }

    fn run(&mut self, step: &Step, kv: &mut Kv) -> Result<Logits> {
        let ids = &step.tokens;
        let x = self
            .backend
            .embed(self.embedding.as_ref(), ids, self.embedding_factor)?;
        let mut inputs = self.inputs.make(self.backend.as_mut(), ids, &x)?;
        let mut streams = vec![x];
        let others = self.resized(true, &streams)?;
        streams.extend(others);
        let wanted: Vec<Range<usize>> = step.slices.iter().map(|s| s.logits.clone()).collect();
        let few = (step.logits_rows() < ids.len()).then(|| step.wanted());
        let backend = self.backend.as_mut();
        let mut pass = backend.begin(step, kv)?;
        for i in 0..=self.layers.len() {
            if let Some(few) = few.as_ref().filter(|_| i == self.readers) {
                if few.tokens.is_empty() {
                    return Ok(Tensor::new(0, self.spec.vocab_size, Vec::new()).into());
                }
                // What is to come writes nothing that other rows could read.
                let selected = streams.iter().map(|x| backend.select(x, &wanted));
                streams = selected.collect::<Result<_>>()?;
                inputs = backend.select(&inputs, &wanted)?;
                pass = backend.begin(few, kv)?;
            }
            if let Some(layer) = self.layers.get(i) {
                streams = layer.run(backend, &streams, &inputs, &mut pass, kv)?;
            }
        }
        let others = self.resized(false, &streams)?;
        let backend = self.backend.as_mut();
        let mut x = streams.swap_remove(0);
        for other in &others {
            backend.add(&mut x, other, 1.0)?;
        }
        backend.scale(&mut x, 1.0 / (others.len() + 1) as f32)?;
        let head = match &self.head {
            Some(head) => (head.format.as_ref(), head.bias.as_ref()),
            None => (self.embedding.as_ref(), None),
        };
        backend.head(&x, &self.norm, head, self.logits)
    }
}
