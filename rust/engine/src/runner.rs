//! One step: flattens the plan into the model's input, runs it, and turns rows of logits into tokens and events.
//! Knows nothing of how the plan came about or who reads the events.
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use candle_vllm_kernels::cpu::Cpu;
use candle_vllm_model::{Kv, Logits, Model, Step};
use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::event::{Event, FinishReason, StopReason};
use crate::sampler::Sampler;
use crate::scheduler::{Planned, Scheduler};
use crate::sequence::Sequence;

/// Logits of a step from which on several threads pay for being woken.
const SHARED_LOGITS: usize = 1 << 16;

/// Memory of a step, used again and again.
pub struct Runner {
    step: Step,
    /// One a thread. A lock is held by one thread only: it is what lets threads have memory of their own.
    samplers: Vec<Mutex<Sampler>>,
    /// What was drawn, by place in the plan; `None` = this sequence is not to be sampled yet.
    drawn: Vec<Mutex<Option<Result<u32>>>>,
    cpu: Cpu,
    eos: Arc<[u32]>,
    vocab: usize,
}

impl Runner {
    /// `eos` are the ids that end an answer; `cpu` is what sampling computes with.
    pub fn new(eos: Arc<[u32]>, vocab: usize, cpu: Cpu) -> Self {
        Self {
            step: Step::default(),
            samplers: vec![Mutex::new(Sampler::new(cpu))],
            drawn: Vec::new(),
            cpu,
            eos,
            vocab,
        }
    }

    /// Flattens the planned tokens into the model's input.
    pub fn prepare(&mut self, plan: &[Planned], running: &[Sequence]) {
        self.step.clear();
        for p in plan {
            let s = &running[p.index];
            self.step.push(
                &s.tokens[s.computed..s.computed + p.tokens],
                s.computed,
                &s.blocks,
                p.logits,
            );
        }
    }

    /// Computes what was prepared; logits come in the order of the plan.
    ///
    /// # Errors
    /// Those of the model, and logits of another shape than was asked for.
    pub fn forward(&mut self, model: &mut dyn Model, kv: &mut Kv) -> Result<Logits> {
        let logits = model.forward(&self.step, kv)?;
        let expected = [self.step.logits_rows(), self.vocab];
        if logits.shape() != expected {
            return Err(Error::Generation(format!(
                "the model returned logits of shape {:?} where {expected:?} was asked for",
                logits.shape()
            )));
        }
        Ok(logits)
    }

    /// Draws the next token of every sequence that this step completes; `commit` books them. Rows are drawn on the
    /// model's threads, where it has any: what is drawn depends on the row alone.
    pub fn sample(
        &mut self,
        plan: &[Planned],
        logits: &Logits,
        running: &[Sequence],
        model: &dyn Model,
    ) {
        self.drawn.resize_with(plan.len(), Mutex::default);
        let ends = plan.iter().scan(0, |row, p| {
            *row += p.logits;
            Some(*row)
        });
        // The place in the plan and the row of each sequence whose tokens are all computed now.
        let wanted: Vec<(usize, usize)> = ends
            .enumerate()
            .filter(|&(i, end)| {
                let (p, s) = (&plan[i], &running[plan[i].index]);
                *self.drawn[i].get_mut() = None;
                p.logits > 0 && s.remaining() == p.tokens && s.params.max_tokens > 0 && end > 0
            })
            .map(|(i, end)| (i, end - 1))
            .collect();
        let draw = |sampler: &mut Sampler, &(i, row): &(usize, usize)| {
            let s = &running[plan[i].index];
            let values = (logits.row(row), logits.maxima(row));
            *self.drawn[i].lock() = Some(sampler.sample(values, &s.params, &s.sampling));
        };
        let pool = model.compute().map(|compute| &compute.pool);
        match pool.filter(|_| wanted.len() > 1 && wanted.len() * self.vocab >= SHARED_LOGITS) {
            Some(pool) => {
                let fresh = || Mutex::new(Sampler::new(self.cpu));
                self.samplers.resize_with(pool.threads(), fresh);
                let next = AtomicUsize::new(0);
                pool.run(&|worker| {
                    let mut sampler = self.samplers[worker].lock();
                    while let Some(one) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
                        draw(&mut sampler, one);
                    }
                });
            }
            None => {
                let mut sampler = self.samplers[0].lock();
                wanted.iter().for_each(|one| draw(&mut sampler, one));
            }
        }
    }

    /// Books one sequence's part of a step that was computed and sampled: its place in the plan, and its first row of
    /// `logits`. Returns what there is to tell, if anything; the last event has `finish` set.
    pub fn commit(
        &mut self,
        place: usize,
        planned: Planned,
        logits: &Logits,
        row: usize,
        scheduler: &mut Scheduler,
        now: Instant,
    ) -> Option<Event> {
        scheduler.advance(planned.index, planned.tokens);
        let s = &mut scheduler.running_mut()[planned.index];
        let mut event = s.event();
        let scored = self.score_prompt(s, planned.logits, logits, row);
        if scored.is_ok() && s.remaining() > 0 {
            return None;
        }
        let last = row + planned.logits;
        let drawn = self.drawn.get_mut(place).and_then(|d| d.get_mut().take());
        if let Err(e) = scored.and_then(|()| self.extend(s, &mut event, drawn, logits, last, now)) {
            s.finish(
                &mut event,
                FinishReason::Error,
                Some(StopReason::Text(e.to_string())),
                now,
            );
        }
        Some(event)
    }

    /// Log-probabilities of the prompt tokens that these rows predict.
    fn score_prompt(
        &mut self,
        s: &mut Sequence,
        rows: usize,
        logits: &Logits,
        row: usize,
    ) -> Result<()> {
        let (Some(done), Some(count)) = (&mut s.prompt_logprobs, s.params.prompt_logprobs) else {
            return Ok(());
        };
        for i in 0..rows {
            let predicted = s.computed - rows + i + 1;
            if predicted < s.prompt_len && predicted == done.len() {
                done.push(Some(self.samplers[0].get_mut().logprobs(
                    logits.row(row + i),
                    s.tokens[predicted],
                    count,
                )?));
            }
        }
        Ok(())
    }

    /// Appends what was `drawn` for a sequence whose tokens are all computed, from the row before `last`.
    fn extend(
        &mut self,
        s: &mut Sequence,
        event: &mut Event,
        drawn: Option<Result<u32>>,
        logits: &Logits,
        last: usize,
        now: Instant,
    ) -> Result<()> {
        if s.generated() == 0 {
            s.first_token = Some(now);
            event.prompt_logprobs = s.prompt_logprobs.take();
        }
        let Some(token) = drawn.transpose()? else {
            s.finish(event, FinishReason::Length, None, now);
            return Ok(());
        };
        if let Some(count) = s.params.logprobs {
            let sampler = self.samplers[0].get_mut();
            let row = logits.row(last.saturating_sub(1));
            event.logprobs.push(sampler.logprobs(row, token, count)?);
        }
        s.tokens.push(token);
        s.sampling.accept(token);
        event.tokens.push(token);
        let stop = s.params.stop_token_ids.contains(&token)
            || (!s.params.ignore_eos && self.eos.contains(&token));
        if stop {
            // The end's own text is not part of the answer; its id is.
            s.finish(
                event,
                FinishReason::Stop,
                Some(StopReason::Token(token)),
                now,
            );
            return Ok(());
        }
        if let Some(stream) = &mut s.stream {
            let piece = stream.push(token)?;
            event.text = piece.text;
            if let Some(hit) = piece.stopped {
                let text = s
                    .params
                    .stop_sequences
                    .get(hit)
                    .cloned()
                    .map(StopReason::Text);
                s.finish(event, FinishReason::StopSequence, text, now);
                return Ok(());
            }
        }
        if s.generated() >= s.params.max_tokens || s.tokens.len() >= s.max_len {
            s.finish(event, FinishReason::Length, None, now);
        }
        Ok(())
    }
}
