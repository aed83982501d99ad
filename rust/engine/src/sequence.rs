//! One request while the engine works on it: its tokens, its blocks, its sampling state and its text.
//! Knows nothing of other sequences.
use std::sync::{Arc, Weak};
use std::time::Instant;

use crate::blocks::Chain;
use crate::event::{Event, Finish, FinishReason, RequestStats, StopReason, TokenLogprob};
use crate::mailbox;
use crate::params::GenerationParams;
use crate::sampler::SamplingState;
use crate::text::TextStream;

/// Order of service: smaller first. Ids grow with arrival.
pub type Key = (i32, u64);

/// A request on its way.
pub struct Sequence {
    /// The request's id.
    pub id: u64,
    /// See [`Key`].
    pub priority: i32,
    /// Prompt and answer.
    pub tokens: Vec<u32>,
    /// How many of `tokens` are the prompt.
    pub prompt_len: usize,
    /// How many of `tokens` have their keys and values in `blocks`.
    pub computed: usize,
    /// Physical blocks in order of position.
    pub blocks: Vec<u32>,
    /// Full blocks that are in the prefix cache, from the start.
    pub registered: usize,
    /// Where the next block joins the prefix cache; `None` = nothing of this sequence is cached from here on.
    pub chain: Option<Chain>,
    /// Kept apart from other salts in the prefix cache.
    pub salt: Option<Arc<str>>,
    /// How it is sampled and when it stops.
    pub params: GenerationParams,
    /// Longest it may become, prompt and answer.
    pub max_len: usize,
    /// Penalty counts and masks.
    pub sampling: SamplingState,
    /// Its text; `None` when the model has no tokenizer.
    pub stream: Option<TextStream>,
    /// Log-probabilities of the prompt so far, when asked for.
    pub prompt_logprobs: Option<Vec<Option<TokenLogprob>>>,
    /// Where its events go.
    pub(crate) mailbox: Weak<mailbox::Inner>,
    /// Prompt tokens that came from the prefix cache when it was first admitted.
    pub cached_tokens: usize,
    /// When it was submitted.
    pub submitted: Instant,
    /// When the first step with a token of it began.
    pub started: Option<Instant>,
    /// When its first token was generated.
    pub first_token: Option<Instant>,
}

impl Sequence {
    /// Order of service.
    pub fn key(&self) -> Key {
        (self.priority, self.id)
    }

    /// Tokens generated.
    pub fn generated(&self) -> usize {
        self.tokens.len() - self.prompt_len
    }

    /// Tokens that are not in the KV cache yet. One for a sequence that decodes.
    pub fn remaining(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Tokens that it has in the KV cache at its end: all but the last one, which nothing follows.
    pub fn longest(&self) -> usize {
        let whole = self.prompt_len.saturating_add(self.params.max_tokens);
        whole
            .min(self.max_len)
            .saturating_sub(1)
            .max(self.tokens.len())
    }

    /// Forgets what was computed, after its blocks were given back.
    pub fn reset(&mut self) {
        (self.computed, self.registered, self.chain) = (0, 0, None);
    }

    /// Tokens from the start whose logits nobody needs: these may come from the prefix cache.
    pub fn reusable(&self) -> usize {
        let last = self.tokens.len() - 1;
        match &self.prompt_logprobs {
            // Entry i is made from the logits at token i - 1.
            Some(done) if done.len() < self.prompt_len => last.min(done.len() - 1),
            _ => last,
        }
    }

    /// An event with nothing in it.
    pub fn event(&self) -> Event {
        Event {
            request: self.id,
            tokens: Vec::new(),
            text: String::new(),
            logprobs: Vec::new(),
            prompt_logprobs: None,
            finish: None,
        }
    }

    /// Makes `event` the last one: text that was held back comes out, and the figures are added.
    pub fn finish(
        &mut self,
        event: &mut Event,
        reason: FinishReason,
        stop_reason: Option<StopReason>,
        now: Instant,
    ) {
        let (mut reason, mut stop_reason) = (reason, stop_reason);
        if let Some(stream) = &mut self.stream
            && stream.stopped().is_none()
        {
            match stream.finish() {
                Ok(text) => event.text.push_str(&text),
                Err(e) => {
                    (reason, stop_reason) =
                        (FinishReason::Error, Some(StopReason::Text(e.to_string())))
                }
            }
            // The end of the text may have completed a stop string that was waiting for an earlier one.
            if let Some(hit) = stream.stopped()
                && matches!(reason, FinishReason::Stop | FinishReason::Length)
            {
                reason = FinishReason::StopSequence;
                stop_reason = self
                    .params
                    .stop_sequences
                    .get(hit)
                    .cloned()
                    .map(StopReason::Text);
            }
        }
        event.finish = Some(Finish {
            reason,
            stop_reason,
            stats: self.stats(now),
        });
    }

    fn stats(&self, now: Instant) -> RequestStats {
        let seconds = |a: Instant, b: Instant| b.saturating_duration_since(a).as_secs_f64();
        let started = self.started.unwrap_or(now);
        RequestStats {
            prompt_tokens: self.prompt_len,
            cached_tokens: self.cached_tokens,
            generated_tokens: self.generated(),
            queue_time: seconds(self.submitted, started),
            prefill_time: seconds(started, self.first_token.unwrap_or(now)),
            total_time: seconds(self.submitted, now),
        }
    }
}
