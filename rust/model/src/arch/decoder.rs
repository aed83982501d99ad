//! Every decoder whose residual stream is one: each layer adds attention and a feed-forward part to it, one after the
//! other or side by side. What a family has of it and how, its row says.
use std::ops::Range;

use super::{
    frame::{Body, Frame},
    plan::Plan,
};
use crate::{
    Kv, Logits, Model, Result, Step, Tensor,
    backend::Backend,
    layers::{FeedForward, LayerInput, LayerInputs, Mixer},
    loader,
    quant::{Format, Role, Shard},
};

struct Layer {
    mixer: Box<dyn Mixer>,
    feed: FeedForward,
    /// What it is given of a token beside x.
    input: Option<LayerInput>,
    /// Of all that it gives.
    scale: Option<f32>,
}

struct Decoder {
    /// Of families that embed positions.
    positions: Option<Box<dyn Format>>,
    /// Of families whose layers are given something of each token.
    inputs: Option<LayerInputs>,
    layers: Vec<Layer>,
    /// From this layer on all read keys and values of earlier ones.
    readers: usize,
    /// Whether both parts of a layer read the same x.
    parallel: bool,
}

/// Loads all weights: tables are large and shared out by rows, layers are many and shared out whole among the threads
/// that will compute.
pub fn load(plan: &Plan<'_>, backend: Box<dyn Backend>) -> Result<Box<dyn Model>> {
    let (loader, family) = (plan.loader, plan.family);
    let c = loader.config();
    let parallel = c.parallel_residual.unwrap_or(family.parallel);
    let frame = Frame::load(plan, backend)?;
    let positions = || {
        let table = loader.source(family.names.positions, Role::Positions, Shard::Whole)?;
        loader.matrix(table, [c.max_position, c.hidden_size])
    };
    let positions = (!family.names.positions.is_empty()).then(positions);
    let load = |number| Layer::load(plan, number, parallel);
    let decoder = Decoder {
        positions: positions.transpose()?,
        inputs: LayerInputs::load(loader, family)?,
        layers: loader::on_threads(frame.backend.compute(), c.layers, load)?,
        readers: plan.readers(),
        parallel,
    };
    Ok(frame.around(plan, decoder))
}

impl Layer {
    fn load(plan: &Plan<'_>, number: usize, parallel: bool) -> Result<Self> {
        let place = plan.place(number);
        let scale = place.name(plan.family.names.layer_scale);
        let scale = scale.map(|name| place.loader.floats(&name, &Shard::Whole));
        Ok(Self {
            mixer: plan.mixer(number)?,
            feed: FeedForward::load(&place, parallel)?,
            input: LayerInput::load(&place)?,
            scale: scale.transpose()?.and_then(|s| s.first().copied()),
        })
    }

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

impl Decoder {
    fn embed(&self, frame: &mut Frame, step: &Step) -> Result<Tensor> {
        let mut x = frame.embed(&step.tokens)?;
        if let Some(table) = &self.positions {
            let places = step.slices.iter().flat_map(|s| {
                let first = s.position as u32;
                first..first + s.tokens.len() as u32
            });
            let places = frame
                .backend
                .embed(table.as_ref(), &places.collect::<Vec<_>>(), 1.0)?;
            frame.backend.add(&mut x, &places, 1.0)?;
        }
        Ok(x)
    }
}

impl Body for Decoder {
    fn feed(&self) -> Option<&FeedForward> {
        self.layers.first().map(|layer| &layer.feed)
    }

    fn run(&self, frame: &mut Frame, step: &Step, kv: &mut Kv) -> Result<Logits> {
        let mut x = self.embed(frame, step)?;
        let backend = frame.backend.as_mut();
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
                return Ok(frame.none());
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
                    return Ok(frame.none());
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
        frame.head(&x)
    }
}
