//! One request while the engine works on it: its tokens, its blocks, its sampling state and its text.
//! Knows nothing of other sequences.
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::time::Instant;

use candle_vllm_model::Slots;

use crate::blocks::Chain;
use crate::constraint::{Finders, Next, Shared};
use crate::error::Result;
use crate::event::{Event, Finish, FinishReason, RequestStats, StopReason, TokenLogprob};
use crate::fault::{self, Faults, Place};
use crate::mailbox;
use crate::params::GenerationParams;
use crate::runner::Output;
use crate::sampler::{Masks, SamplingState};
use crate::speculation::{Price, Speculation};
use crate::text::TextStream;

/// Order of service: smaller first. Ids grow with arrival.
pub type Key = (i32, u64);

/// What a running sequence is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It catches up with the tokens it came with: its prompt, and its answer so far when it had lost its blocks. It
    /// holds the blocks for all of them.
    Prefill,
    /// It adds to itself: a step computes what the last one added, mostly one token. Its blocks grow with it.
    Decode,
}

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
    /// How many of `tokens` have their keys and values in `blocks`. What lies behind them there is nobody's.
    pub computed: usize,
    /// See [`Phase`].
    pub phase: Phase,
    /// It has lost its blocks to others, and said nothing new since: it is not to lose them again.
    pub spared: bool,
    /// Tokens that may follow, computed with the next step and kept as far as they are what is drawn.
    pub draft: Vec<u32>,
    /// Where drafts come from; `None` = there are none.
    pub speculation: Option<Box<Speculation>>,
    /// Physical blocks in order of position.
    pub blocks: Vec<u32>,
    /// Where its recurrent state lies, while it runs and the model keeps one.
    pub state: Option<Slots>,
    /// Tokens from the start that other prompts have too, as far as blocks are cached but no state: its state is kept
    /// there.
    pub shared: usize,
    /// The last place in its answer whose state is kept.
    pub snapshot: Option<u64>,
    /// Full blocks that are in the prefix cache, from the start.
    pub registered: usize,
    /// Where the next block joins the prefix cache; `None` = nothing of this sequence is cached from here on.
    pub chain: Option<Chain>,
    /// Kept apart from other salts in the prefix cache.
    pub salt: Option<Arc<str>>,
    /// How it is sampled and when it stops.
    pub params: GenerationParams,
    /// The model's end-of-sequence ids.
    pub eos: Arc<[u32]>,
    /// Longest it may become, prompt and answer.
    pub max_len: usize,
    /// Penalty counts and masks.
    pub sampling: SamplingState,
    /// What its answer must conform to.
    pub(crate) constraint: Option<Shared>,
    /// Why no mask could be had for the step under way.
    pub unmasked: Option<String>,
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
    pub(crate) faults: Faults,
}

/// Why a sequence ends, and what is told of it.
type End = (FinishReason, Option<StopReason>);

impl Sequence {
    /// Order of service.
    pub fn key(&self) -> Key {
        (self.priority, self.id)
    }

    /// Tokens generated.
    pub fn generated(&self) -> usize {
        self.tokens.len() - self.prompt_len
    }

    /// Tokens that are not in the KV cache yet; at least one while it runs.
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
        (self.shared, self.snapshot) = (0, None);
        self.phase = Phase::Prefill;
        self.draft.clear();
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

    /// Whether nobody listens any more.
    pub fn unheard(&self) -> bool {
        self.mailbox.strong_count() == 0
    }

    /// Takes what a step gave that computed `tokens` more, the draft among them. `complete`: all its tokens are computed.
    /// Returns what there is to tell, if anything; the last event has `finish` set. A panic ends this sequence alone.
    pub fn take(
        &mut self,
        tokens: usize,
        complete: bool,
        output: Output,
        now: Instant,
    ) -> Option<Event> {
        let mut event = Event::empty(self.id);
        let before = self.tokens.len();
        let take = || self.take_in(tokens, complete, output, &mut event, now);
        let end = match catch_unwind(AssertUnwindSafe(take)) {
            Ok(Ok(end)) => end,
            Ok(Err(e)) => Some(failed(e.to_string())),
            Err(panic) => Some(failed(format!(
                "this request failed: {}",
                fault::message(&*panic)
            ))),
        };
        if let Some(end) = end {
            event.tokens.truncate(self.tokens.len() - before);
            self.finish(&mut event, end, now);
            return Some(event);
        }
        complete.then_some(event)
    }

    fn take_in(
        &mut self,
        tokens: usize,
        complete: bool,
        output: Output,
        event: &mut Event,
        now: Instant,
    ) -> Result<Option<End>> {
        self.faults.of(Place::Take, self.id);
        self.computed += tokens - self.draft.len();
        if let Some(speculation) = self.speculation.as_mut().filter(|_| complete) {
            speculation.learn(self.draft.len(), output.tokens.len().saturating_sub(1));
        }
        self.draft.clear();
        if let Some(done) = &mut self.prompt_logprobs {
            done.extend(output.prompt_logprobs.into_iter().map(Some));
        }
        if let Some(message) = output.error {
            return Ok(Some(failed(message)));
        }
        if !complete {
            return Ok(None);
        }
        self.phase = Phase::Decode;
        if self.generated() == 0 {
            self.first_token = Some(now);
            event.prompt_logprobs = self.prompt_logprobs.take();
        }
        if output.tokens.is_empty() {
            return Ok(Some((FinishReason::Length, None)));
        }
        self.extend(output.tokens, output.logprobs, event)
    }

    /// Appends what was drawn to the answer, and what must follow it, up to the token that ends it, if one does.
    fn extend(
        &mut self,
        drawn: Vec<u32>,
        logprobs: Vec<TokenLogprob>,
        event: &mut Event,
    ) -> Result<Option<End>> {
        self.spared = false;
        (event.tokens, event.logprobs) = (drawn, logprobs);
        for i in 0..event.tokens.len() {
            // Each but the last was in the draft, and is computed.
            self.computed += usize::from(i > 0);
            if let Some(end) = self.append(event.tokens[i], &mut event.text)? {
                event.tokens.truncate(i + 1);
                event.logprobs.truncate(i + 1);
                return Ok(Some(end));
            }
        }
        // A token that nobody drew has no row of logits to take its log-probability from.
        let forced = match &self.constraint {
            Some(constraint) if self.params.logprobs.is_none() => constraint.lock().forced()?,
            _ => Vec::new(),
        };
        for token in forced {
            event.tokens.push(token);
            if let Some(end) = self.append(token, &mut event.text)? {
                return Ok(Some(end));
            }
        }
        Ok(None)
    }

    /// Appends one token, and tells whether the answer ends with it.
    fn append(&mut self, token: u32, text: &mut String) -> Result<Option<End>> {
        self.tokens.push(token);
        self.sampling.accept(token);
        let end = self.say(token, text)?;
        // An answer that is complete with its last token was not cut off.
        if !matches!(end, None | Some((FinishReason::Length, _))) {
            return Ok(end);
        }
        let complete = match &self.constraint {
            Some(constraint) => constraint.lock().accept(token)? == Next::Complete,
            None => false,
        };
        Ok(if complete {
            Some((FinishReason::Stop, None))
        } else {
            end
        })
    }

    /// Adds a token's text, and tells whether the answer ends with it.
    fn say(&mut self, token: u32, text: &mut String) -> Result<Option<End>> {
        let stop = self.params.stop_token_ids.contains(&token)
            || (!self.params.ignore_eos && self.eos.contains(&token));
        if stop {
            // The end's own text is not part of the answer; its id is.
            return Ok(Some((FinishReason::Stop, Some(StopReason::Token(token)))));
        }
        if let Some(stream) = &mut self.stream {
            let piece = stream.push(token)?;
            if text.is_empty() {
                *text = piece.text;
            } else {
                text.push_str(&piece.text);
            }
            if let Some(hit) = piece.stopped {
                return Ok(Some((FinishReason::StopSequence, self.stop_string(hit))));
            }
        }
        let full = self.generated() >= self.params.max_tokens || self.tokens.len() >= self.max_len;
        Ok(full.then_some((FinishReason::Length, None)))
    }

    fn stop_string(&self, hit: usize) -> Option<StopReason> {
        let stops = &self.params.stop_sequences;
        stops.get(hit).cloned().map(StopReason::Text)
    }

    /// Drafts at most `most` tokens, as many as are worth their price. Under a constraint it is cut to what that admits:
    /// one that cannot tell costs the draft, and is heard when it masks.
    pub fn make_draft(&mut self, most: usize, price: &mut Price) {
        let Some(speculation) = &mut self.speculation else {
            return;
        };
        // One token more than the draft is drawn.
        let answer = self.params.max_tokens - (self.tokens.len() - self.prompt_len);
        let most = most.min(
            answer
                .min(self.max_len - self.tokens.len())
                .saturating_sub(1),
        );
        speculation.draft(&self.tokens, most, price, &mut self.draft);
        if let Some(constraint) = &self.constraint
            && !self.draft.is_empty()
        {
            let draft = &self.draft;
            let admit = catch_unwind(AssertUnwindSafe(|| constraint.lock().admit(draft)));
            self.draft
                .truncate(admit.map_or(0, |admitted| admitted.unwrap_or(0)));
        }
    }

    /// Begins the masks of the rows that the next step draws from.
    pub(crate) fn start_masks(&mut self, finders: &Finders) {
        if let Some(constraint) = &self.constraint {
            let draft = &self.draft;
            let start = catch_unwind(AssertUnwindSafe(|| constraint.lock().start(draft)));
            self.unmasked = start.err().map(|panic| fault::message(&*panic));
            finders.send(constraint);
        }
    }

    /// Waits for the masks, which are those of `1 + draft` rows from `row` on.
    pub fn fill_masks(&mut self, row: usize, masks: &mut Masks) {
        let Some(constraint) = self.constraint.as_ref().filter(|_| self.unmasked.is_none()) else {
            return;
        };
        let drafted = self.draft.len();
        let mut constraint = constraint.lock();
        let fill = catch_unwind(AssertUnwindSafe(|| {
            (0..=drafted).try_for_each(|i| {
                if !constraint.mask(i, masks.restrict(row + i))? {
                    masks.free(row + i);
                }
                Ok::<(), crate::Error>(())
            })
        }));
        self.unmasked = match fill {
            Ok(filled) => filled.err().map(|e| e.to_string()),
            Err(panic) => Some(fault::message(&*panic)),
        };
    }

    /// Its last event, outside of a step.
    pub fn end(&mut self, reason: FinishReason, message: Option<String>, now: Instant) -> Event {
        let mut event = Event::empty(self.id);
        self.finish(&mut event, (reason, message.map(StopReason::Text)), now);
        event
    }

    /// Makes `event` the last one: text that was held back comes out, and the figures are added. A panic of the text
    /// makes it an error.
    fn finish(&mut self, event: &mut Event, end: End, now: Instant) {
        let text = &mut event.text;
        let close = catch_unwind(AssertUnwindSafe(|| self.close_text(text, end)));
        let (reason, stop_reason) = close.unwrap_or_else(|panic| {
            failed(format!(
                "the text could not be ended: {}",
                fault::message(&*panic)
            ))
        });
        event.finish = Some(Finish {
            reason,
            stop_reason,
            stats: self.stats(now),
        });
    }

    fn close_text(&mut self, text: &mut String, end: End) -> End {
        self.faults.of(Place::Finish, self.id);
        let Some(stream) = self.stream.as_mut().filter(|s| s.stopped().is_none()) else {
            return end;
        };
        match stream.finish() {
            Ok(rest) => text.push_str(&rest),
            Err(e) => return failed(e.to_string()),
        }
        // The end of the text may have completed a stop string that was waiting for an earlier one.
        match stream.stopped() {
            Some(hit) if matches!(end.0, FinishReason::Stop | FinishReason::Length) => {
                (FinishReason::StopSequence, self.stop_string(hit))
            }
            _ => end,
        }
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

fn failed(message: String) -> End {
    (FinishReason::Error, Some(StopReason::Text(message)))
}
