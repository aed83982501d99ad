//! What follows the launch of a step: from rows of logits and their masks to what each sequence gets of it.
//! Rows are drawn on the model's threads. Knows nothing of how the plan came about or who reads the outcome.
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_vllm_kernels::cpu::{Compute, Cpu};
use candle_vllm_model::Logits;
use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::event::TokenLogprob;
use crate::fault::{self, Faults, Place};
use crate::sampler::{Masks, Row, Sampler};
use crate::scheduler::Planned;
use crate::sequence::Sequence;

/// Logits of a step from which on several threads pay for being woken.
const SHARED_LOGITS: usize = 1 << 16;

/// What one sequence gets of a step.
#[derive(Debug, Default)]
pub struct Output {
    /// The next log-probabilities of the prompt's tokens, in order.
    pub prompt_logprobs: Vec<TokenLogprob>,
    /// What was drawn, in order: the part of the draft that was right, and one token more.
    pub tokens: Vec<u32>,
    /// One entry a token of `tokens`, when asked for.
    pub logprobs: Vec<TokenLogprob>,
    /// Why there is no more; ends the sequence.
    pub error: Option<String>,
}

/// One row's work.
#[derive(Clone, Copy)]
enum Task {
    /// The log-probability of the prompt's token at `position`, by the logits at `row`.
    Score {
        place: usize,
        row: usize,
        position: usize,
    },
    /// The next tokens of a sequence all of whose tokens are computed.
    Draw { place: usize },
}

/// What a task came to.
enum Done {
    Scored(Result<TokenLogprob>),
    Drawn(Output),
}

/// Memory of sampling, used again and again.
pub struct Runner {
    /// One a thread. A lock is held by one thread only: it is what lets threads have memory of their own.
    samplers: Vec<Mutex<Sampler>>,
    tasks: Vec<Task>,
    done: Vec<Mutex<Option<Done>>>,
    cpu: Cpu,
    vocab: usize,
    faults: Faults,
}

/// A step whose logits are there: what its tasks read.
struct Computed<'a> {
    plan: &'a [Planned],
    running: &'a [Sequence],
    logits: &'a Logits,
    masks: &'a Masks,
    faults: &'a Faults,
}

impl Runner {
    /// A runner for a vocabulary of `vocab` tokens; `cpu` is what sampling computes with.
    pub fn new(vocab: usize, cpu: Cpu, faults: Faults) -> Self {
        Self {
            samplers: vec![Mutex::new(Sampler::new(cpu))],
            tasks: Vec::new(),
            done: Vec::new(),
            cpu,
            vocab,
            faults,
        }
    }

    /// Tokens of the vocabulary.
    pub fn vocab(&self) -> usize {
        self.vocab
    }

    /// Refuses logits of another shape than `rows` rows of the vocabulary.
    ///
    /// # Errors
    /// Names both shapes.
    pub fn check(&self, logits: &Logits, rows: usize) -> Result<()> {
        let expected = [rows, self.vocab];
        if logits.shape() == expected {
            return Ok(());
        }
        Err(Error::Generation(format!(
            "the model returned logits of shape {:?} where {expected:?} was asked for",
            logits.shape()
        )))
    }

    /// Draws and scores what `plan` asks for; `outputs` come in its order. What is drawn depends on the sequence and its
    /// rows alone, not on threads: `compute` are the model's, where it has any.
    pub fn finish(
        &mut self,
        (plan, running): (&[Planned], &[Sequence]),
        (logits, masks): (&Logits, &Masks),
        compute: Option<&Compute>,
        outputs: &mut Vec<Output>,
    ) {
        self.gather(plan, running);
        let faults = &self.faults.clone();
        let step = Computed {
            plan,
            running,
            logits,
            masks,
            faults,
        };
        let (tasks, done) = (&self.tasks, &self.done);
        let run = |sampler: &mut Sampler, i: usize| {
            *done[i].lock() = Some(step.run(sampler, tasks[i]));
        };
        let shared = tasks.len() > 1 && tasks.len() * self.vocab >= SHARED_LOGITS;
        match compute.map(|compute| &compute.pool).filter(|_| shared) {
            Some(pool) => {
                let fresh = || Mutex::new(Sampler::new(self.cpu));
                self.samplers.resize_with(pool.threads(), fresh);
                let samplers = &self.samplers;
                let next = AtomicUsize::new(0);
                pool.run(&|worker| {
                    let mut sampler = samplers[worker].lock();
                    loop {
                        let i = next.fetch_add(1, Ordering::Relaxed);
                        if i >= tasks.len() {
                            break;
                        }
                        run(&mut sampler, i);
                    }
                });
            }
            None => {
                let mut sampler = self.samplers[0].lock();
                (0..tasks.len()).for_each(|i| run(&mut sampler, i));
            }
        }
        self.sort_out(plan.len(), outputs);
    }

    /// The tasks of a plan, in its order.
    fn gather(&mut self, plan: &[Planned], running: &[Sequence]) {
        self.tasks.clear();
        for (place, p) in plan.iter().enumerate() {
            let s = &running[p.index];
            if let Some(scored) = &s.prompt_logprobs {
                let first = s.computed + p.tokens - p.logits + 1;
                let positions = first.max(scored.len())..(first + p.logits).min(s.prompt_len);
                self.tasks.extend(positions.map(|position| Task::Score {
                    place,
                    row: p.row + position - first,
                    position,
                }));
            }
            if p.completes(s) && s.params.max_tokens > 0 {
                self.tasks.push(Task::Draw { place });
            }
        }
        self.done.resize_with(self.tasks.len(), Mutex::default);
    }

    /// What the tasks came to, by place in the plan.
    fn sort_out(&mut self, places: usize, outputs: &mut Vec<Output>) {
        outputs.clear();
        outputs.resize_with(places, Output::default);
        for (task, done) in self.tasks.iter().zip(&mut self.done) {
            let (Task::Score { place, .. } | Task::Draw { place }) = *task;
            let out = &mut outputs[place];
            match done.get_mut().take() {
                Some(Done::Scored(Ok(score))) => out.prompt_logprobs.push(score),
                Some(Done::Scored(Err(e))) => out.error = Some(e.to_string()),
                Some(Done::Drawn(drawn)) => {
                    let error = out.error.take().or(drawn.error);
                    let prompt_logprobs = std::mem::take(&mut out.prompt_logprobs);
                    *out = Output {
                        prompt_logprobs,
                        error,
                        ..drawn
                    };
                }
                None => out.error = Some("a row was left out".into()),
            }
        }
    }
}

impl Computed<'_> {
    /// A panic is this sequence's own.
    fn run(&self, sampler: &mut Sampler, task: Task) -> Done {
        match task {
            Task::Score {
                place,
                row,
                position,
            } => {
                let s = &self.running[self.plan[place].index];
                let count = s.params.prompt_logprobs.unwrap_or(0);
                let score = || sampler.logprobs(self.logits.row(row), s.tokens[position], count);
                let scored = catch_unwind(AssertUnwindSafe(score));
                Done::Scored(scored.unwrap_or_else(|panic| Err(panicked(&*panic))))
            }
            Task::Draw { place } => {
                let mut out = Output::default();
                let draw = || self.draw(sampler, self.plan[place], &mut out);
                let drawn = catch_unwind(AssertUnwindSafe(draw));
                if let Err(e) = drawn.unwrap_or_else(|panic| Err(panicked(&*panic))) {
                    out.error = Some(e.to_string());
                }
                Done::Drawn(out)
            }
        }
    }

    /// Draws from the row of the last token, and from each further one as long as the draft says what was drawn: then its
    /// row is that of the true text.
    fn draw(&self, sampler: &mut Sampler, p: Planned, out: &mut Output) -> Result<()> {
        let s = &self.running[p.index];
        self.faults.of(Place::Draw, s.id);
        if let Some(reason) = &s.unmasked {
            let text = format!("what may come next could not be found out: {reason}");
            return Err(Error::Generation(text));
        }
        let mut ahead = None;
        out.tokens = Vec::with_capacity(s.draft.len() + 1);
        for i in 0..=s.draft.len() {
            let row = p.row + p.logits - 1 - s.draft.len() + i;
            let values = Row {
                logits: self.logits.row(row),
                maxima: self.logits.maxima(row),
                mask: self.masks.row(row),
            };
            let state = ahead.as_ref().unwrap_or(&s.sampling);
            let token = match sampler.sample(values, &s.params, state) {
                Ok(token) => token,
                // It is met again, and told, when the tokens before it are no draft any more.
                Err(_) if i > 0 => break,
                Err(e) => return Err(e),
            };
            if let Some(count) = s.params.logprobs {
                out.logprobs
                    .push(sampler.logprobs(values.logits, token, count)?);
            }
            out.tokens.push(token);
            if s.draft.get(i) != Some(&token) {
                break;
            }
            ahead
                .get_or_insert_with(|| s.sampling.clone())
                .accept(token);
        }
        Ok(())
    }
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> Error {
    Error::Generation(format!("this request failed: {}", fault::message(panic)))
}
