//! What decoders have in common whatever lies between: tokens become rows, rows become logits, and the engine asks for
//! the same things.
use candle_vllm_kernels::cpu::Compute;

use super::plan::{self, Plan};
use crate::{
    Kv, Logits, Model, Pending, Result, Spec, States, Step, Tensor,
    backend::{Backend, KvShape, Linear, LogitRule, Norm},
    layers::{FeedForward, norm},
    quant::{Format, Role, Shard},
};

/// The ends of a decoder.
pub struct Frame {
    /// Where it computes.
    pub backend: Box<dyn Backend>,
    spec: Spec,
    kv: KvShape,
    embedding: Box<dyn Format>,
    /// Factor on its rows.
    factor: f32,
    norm: Norm,
    /// `None`: the embedding is the head too.
    head: Option<Linear>,
    logits: LogitRule,
}

/// What lies between.
pub trait Body: Send {
    /// The feed-forward part of the first layer: by its weights the model's type is told.
    fn feed(&self) -> Option<&FeedForward>;

    /// The logits of a step, `[step.logits_rows(), vocab_size]`.
    fn run(&self, frame: &mut Frame, step: &Step, kv: &mut Kv) -> Result<Logits>;
}

impl Frame {
    /// Loads the embedding, the last norm and the head.
    pub fn load(plan: &Plan<'_>, backend: Box<dyn Backend>) -> Result<Self> {
        let (loader, names) = (plan.loader, &plan.family.names);
        let c = loader.config();
        let (shape, tied) = ([c.vocab_size, c.hidden_size], c.tie_word_embeddings);
        let role = if tied { Role::Head } else { Role::Embedding };
        let table = loader.source(names.embedding, role, Shard::Whole)?;
        let head = || loader.linear(names.head, Role::Head, Shard::Whole, shape);
        Ok(Self {
            embedding: loader.matrix(table, shape)?,
            factor: c.scales.embedding as f32,
            norm: norm(loader, names.norm, c.hidden_size, plan.family.norm)?,
            head: (!tied).then(head).transpose()?,
            logits: LogitRule {
                factor: c.scales.logits as f32,
                cap: c.scales.logit_cap.map(|cap| cap as f32),
            },
            spec: Spec::default(),
            kv: plan.kv.clone(),
            backend,
        })
    }

    /// The model, once all is loaded.
    pub fn around(mut self, plan: &Plan<'_>, body: impl Body + 'static) -> Box<dyn Model> {
        self.spec = plan::spec(plan, self.backend.as_ref(), body.feed());
        Box::new(Framed { frame: self, body })
    }

    /// The rows of tokens, `[tokens, hidden_size]`.
    pub fn embed(&mut self, tokens: &[u32]) -> Result<Tensor> {
        let table = self.embedding.as_ref();
        self.backend.embed(table, tokens, self.factor)
    }

    /// The logits of rows.
    pub fn head(&mut self, x: &Tensor) -> Result<Logits> {
        let head = match &self.head {
            Some(head) => (head.format.as_ref(), head.bias.as_ref()),
            None => (self.embedding.as_ref(), None),
        };
        self.backend.head(x, &self.norm, head, self.logits)
    }

    /// The logits of no row.
    pub fn none(&self) -> Logits {
        Tensor::new(0, self.spec.vocab_size, Vec::new()).into()
    }
}

struct Framed<B> {
    frame: Frame,
    body: B,
}

impl<B: Body> Model for Framed<B> {
    fn spec(&self) -> &Spec {
        &self.frame.spec
    }

    fn compute(&self) -> Option<&Compute> {
        self.frame.backend.compute()
    }

    fn new_kv(&self, blocks: usize, states: usize) -> Result<Kv> {
        let Frame { backend, kv, .. } = &self.frame;
        let states = States::new(&kv.states, states);
        Ok(backend.new_kv(kv, blocks)?.with_states(states))
    }

    fn launch<'a>(&'a mut self, step: &'a Step, kv: &'a mut Kv) -> Result<Pending<'a>> {
        let Self { frame, body } = self;
        Ok(Pending::new(move || body.run(frame, step, kv)))
    }
}
