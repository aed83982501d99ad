//! Decoders whose residual stream is several (Gemma 3n): a layer predicts all of them, computes with one, corrects all by
//! what came of it, and adds its input by token to the others. The logits are those of the streams' mean.
use std::{f32::consts::FRAC_1_SQRT_2, ops::Range};

use super::{
    frame::{Body, Frame},
    plan::Plan,
};
use crate::{
    Error, Kv, Logits, Model, Result, Step, Tensor,
    backend::{Backend, Linear, Pass},
    config::AltUp as Shape,
    layers::{AltUp, FeedForward, Laurel, LayerInput, LayerInputs, Mixer},
    loader,
    quant::{Role, Shard},
};

/// A stream's mean square counts as this at least where it is brought to another's.
const LEAST: f32 = 1e-5;

struct Layer {
    altup: AltUp,
    mixer: Box<dyn Mixer>,
    laurel: Laurel,
    feed: FeedForward,
    input: LayerInput,
}

struct Streams {
    inputs: LayerInputs,
    /// From the embedding to every other stream.
    spread: Vec<Linear>,
    layers: Vec<Layer>,
    /// From this layer on all read keys and values of earlier ones.
    readers: usize,
    /// From every other stream to the first.
    gather: Vec<Linear>,
}

/// Loads all weights, the layers on the threads that will compute.
pub fn load(plan: &Plan<'_>, backend: Box<dyn Backend>, shape: &Shape) -> Result<Box<dyn Model>> {
    let (loader, c) = (plan.loader, plan.loader.config());
    let frame = Frame::load(plan, backend)?;
    let others = |stem: &str| {
        let each = (0..shape.streams - 1).map(|i| {
            let name = format!("{stem}.{i}");
            loader.linear(&name, Role::Up, Shard::Whole, [c.hidden_size; 2])
        });
        each.collect::<Result<Vec<_>>>()
    };
    let none = || Error::Load(format!("{} is configured without inputs", c.architecture));
    let load = |number| Layer::load(plan, shape, number);
    let streams = Streams {
        inputs: LayerInputs::load(loader, plan.family)?.ok_or_else(none)?,
        spread: others("model.altup_projections")?,
        layers: loader::on_threads(frame.backend.compute(), c.layers, load)?,
        readers: plan.readers(),
        gather: others("model.altup_unembed_projections")?,
    };
    Ok(frame.around(plan, streams))
}

impl Layer {
    fn load(plan: &Plan<'_>, shape: &Shape, number: usize) -> Result<Self> {
        let place = plan.place(number);
        let none = || Error::Load(format!("layer {number} is configured without an input"));
        Ok(Self {
            altup: AltUp::load(&place, shape)?,
            mixer: plan.mixer(number)?,
            laurel: Laurel::load(&place)?,
            feed: FeedForward::load(&place, false)?,
            input: LayerInput::load(&place)?.ok_or_else(none)?,
        })
    }

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
    fn resized(
        &self,
        backend: &mut dyn Backend,
        spread: bool,
        streams: &[Tensor],
    ) -> Result<Vec<Tensor>> {
        let by = if spread { &self.spread } else { &self.gather };
        let mut made = Vec::with_capacity(by.len());
        for (i, linear) in by.iter().enumerate() {
            let from = if spread { 0 } else { i + 1 };
            let mut y = backend.linear(&streams[from], linear)?;
            backend.resize(&mut y, &streams[0], LEAST)?;
            made.push(y);
        }
        Ok(made)
    }
}

impl Body for Streams {
    fn feed(&self) -> Option<&FeedForward> {
        self.layers.first().map(|layer| &layer.feed)
    }

    fn run(&self, frame: &mut Frame, step: &Step, kv: &mut Kv) -> Result<Logits> {
        let ids = &step.tokens;
        let x = frame.embed(ids)?;
        let backend = frame.backend.as_mut();
        let mut inputs = self.inputs.make(backend, ids, &x)?;
        let mut streams = vec![x];
        let others = self.resized(backend, true, &streams)?;
        streams.extend(others);
        let wanted: Vec<Range<usize>> = step.slices.iter().map(|s| s.logits.clone()).collect();
        let few = (step.logits_rows() < ids.len()).then(|| step.wanted());
        let mut pass = backend.begin(step, kv)?;
        for i in 0..=self.layers.len() {
            if let Some(few) = few.as_ref().filter(|_| i == self.readers) {
                if few.tokens.is_empty() {
                    return Ok(frame.none());
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
        let others = self.resized(backend, false, &streams)?;
        let mut x = streams.swap_remove(0);
        for other in &others {
            backend.add(&mut x, other, 1.0)?;
        }
        backend.scale(&mut x, 1.0 / (others.len() + 1) as f32)?;
        frame.head(&x)
    }
}
