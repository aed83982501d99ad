//! One step: flattens the plan into the model's input, runs it, and turns rows of logits into tokens and events.
//! Knows nothing of how the plan came about or who reads the events.
use std::sync::Arc;
use std::time::Instant;

use candle_vllm_model::{Kv, Model, Step, Tensor};

use crate::error::{Error, Result};
use crate::event::{Event, FinishReason, StopReason};
use crate::sampler::Sampler;
use crate::scheduler::{Planned, Scheduler};
use crate::sequence::Sequence;

/// Memory of a step, used again and again.
pub struct Runner {
    step: Step,
    sampler: Sampler,
    eos: Arc<[u32]>,
    vocab: usize,
}

impl Runner {
    /// `eos` are the ids that end an answer.
    pub fn new(eos: Arc<[u32]>, vocab: usize) -> Self {
        Self {
            step: Step::default(),
            sampler: Sampler::default(),
            eos,
            vocab,
        }
    }

    /// Computes the planned tokens; logits come in the order of the plan.
    ///
    /// # Errors
    /// Those of the model, and logits of another shape than was asked for.
    pub fn forward(
        &mut self,
        plan: &[Planned],
        running: &[Sequence],
        model: &mut dyn Model,
        kv: &mut Kv,
    ) -> Result<Tensor> {
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

    /// Books one sequence's part of a step that was computed; `row` is its first row of `logits`. Returns what there
    /// is to tell, if anything; the last event has `finish` set.
    pub fn commit(
        &mut self,
        planned: Planned,
        logits: &Tensor,
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
        if let Err(e) = scored.and_then(|()| self.extend(s, &mut event, logits, last, now)) {
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
        logits: &Tensor,
        row: usize,
    ) -> Result<()> {
        let (Some(done), Some(count)) = (&mut s.prompt_logprobs, s.params.prompt_logprobs) else {
            return Ok(());
        };
        for i in 0..rows {
            let predicted = s.computed - rows + i + 1;
            if predicted < s.prompt_len && predicted == done.len() {
                done.push(Some(self.sampler.logprobs(
                    logits.row(row + i),
                    s.tokens[predicted],
                    count,
                )?));
            }
        }
        Ok(())
    }

    /// Samples the next token of a sequence whose tokens are all computed, from the row before `last`.
    fn extend(
        &mut self,
        s: &mut Sequence,
        event: &mut Event,
        logits: &Tensor,
        last: usize,
        now: Instant,
    ) -> Result<()> {
        if s.generated() == 0 {
            s.first_token = Some(now);
            event.prompt_logprobs = s.prompt_logprobs.take();
        }
        if s.params.max_tokens == 0 || last == 0 {
            s.finish(event, FinishReason::Length, None, now);
            return Ok(());
        }
        let row = logits.row(last - 1);
        let token = self.sampler.sample(row, &s.params, &s.sampling)?;
        if let Some(count) = s.params.logprobs {
            event
                .logprobs
                .push(self.sampler.logprobs(row, token, count)?);
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
