//! The whole core as its users see it: open, submit, poll a mailbox, abort, stats, close.
//! Callers never wait for a step: they hand commands to the worker and read what it published.
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use candle_vllm_kernels::cpu::Cpu;
use candle_vllm_model::{Model, config::Sampling};
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use parking_lot::Mutex;

use crate::config::EngineConfig;
use crate::constraint::{Forms, Shared};
use crate::error::{Error, Refused, Result};
use crate::fault::Faults;
use crate::ledger::{Entries, Ledger};
use crate::mailbox::Mailbox;
use crate::memory;
use crate::params::GenerationParams;
use crate::request::{self, Request};
use crate::sampler::{SamplingState, fresh_seed};
use crate::scheduler::Limits;
use crate::sequence::{Phase, Sequence};
use crate::speculation::{Price, Speculation};
use crate::stats::{CachedPrefix, ModelInfo, Stats, StepReport};
use crate::text::{TextStream, Tokenizer};
use crate::worker::{Command, Probe, Worker};

/// Last tokens of the prompt that decide whether the answer's text continues one.
const PROMPT_TAIL: usize = 8;

/// Told of loading: phase, units done, units in all.
pub type Progress = Box<dyn Fn(&str, u64, u64) + Send + Sync>;

/// Where the worker lives.
enum Home {
    /// On a thread of its own.
    Thread(Mutex<Option<JoinHandle<()>>>),
    /// Here, moved by `step`.
    Inline(Box<Inline>),
}

/// A worker without a thread, and what it is told.
struct Inline {
    worker: Mutex<Option<Worker>>,
    inbox: Receiver<Command>,
}

/// A model that runs, with everything that runs on it. Any thread may call any method.
pub struct Engine {
    info: ModelInfo,
    tokenizer: Option<Tokenizer>,
    forms: Option<Forms>,
    max_queue: Option<usize>,
    eos: Arc<[u32]>,
    ledger: Ledger,
    to_worker: Sender<Command>,
    home: Home,
    next_id: AtomicU64,
    speculates: bool,
    faults: Faults,
}

impl Engine {
    /// An engine over a model that was loaded before. `eos` are the ids that end an answer.
    ///
    /// # Errors
    /// `Config` when a setting is out of range or the KV cache does not hold one block; `Generation` when the cache or
    /// the thread cannot be made.
    pub fn from_model(
        config: EngineConfig,
        model: Box<dyn Model>,
        tokenizer: Option<Tokenizer>,
        eos: Vec<u32>,
    ) -> Result<Self> {
        config.validate()?;
        let info = model_info(&config, &*model, tokenizer.as_ref(), eos)?;
        let kv = model.new_kv(info.kv_blocks, info.kv_states)?;
        let limits = Limits {
            max_batch_size: info.max_batch_size,
            step_tokens: info.step_tokens,
            logits_rows: memory::logits_rows(&info.spec),
            chunked_prefill: config.enable_chunked_prefill,
            whole_tokens: info.max_prompt_tokens,
            prefix_cache: config.enable_prefix_cache,
            speculation: price(&config, &info),
            states: info.kv_states,
        };
        let (ledger, faults) = (Ledger::default(), config.faults());
        let cpu = Cpu::detect().map_err(|e| Error::Device(e.to_string()))?;
        let worker = Worker::new(model, kv, limits, cpu, ledger.clone(), faults.clone());
        let (to_worker, inbox) = unbounded();
        let home = if config.background {
            let thread = std::thread::Builder::new()
                .name("candle-vllm-engine".into())
                .spawn(move || worker.run(&inbox))
                .map_err(|e| Error::Generation(format!("cannot start the engine thread: {e}")))?;
            Home::Thread(Mutex::new(Some(thread)))
        } else {
            let worker = Mutex::new(Some(worker));
            Home::Inline(Box::new(Inline { worker, inbox }))
        };
        let max_queue = config.max_queue;
        let eos: Arc<[u32]> = info.eos_token_ids.clone().into();
        let forms = |tokenizer| Forms::new(tokenizer, info.spec.vocab_size, eos.clone());
        Ok(Self {
            forms: tokenizer.clone().map(forms),
            eos,
            info,
            tokenizer,
            max_queue,
            ledger,
            to_worker,
            home,
            next_id: AtomicU64::new(1),
            speculates: limits.speculation.is_some(),
            faults,
        })
    }

    /// The same engine with the advice on sampling that came with its checkpoint.
    pub(crate) fn recommending(mut self, sampling: Sampling) -> Self {
        self.info.sampling = sampling;
        self
    }

    /// The model's tokenizer.
    ///
    /// # Errors
    /// `Tokenization` when the model has none.
    pub fn tokenizer(&self) -> Result<&Tokenizer> {
        self.tokenizer
            .as_ref()
            .ok_or_else(|| Error::Tokenization("this model has no tokenizer".into()))
    }

    /// The model and the limits it runs under.
    pub fn model_info(&self) -> ModelInfo {
        self.info.clone()
    }

    /// Hands a request in; its events arrive in `mailbox`. Encodes text on the calling thread. Returns the request's
    /// id, never used again by this engine.
    ///
    /// # Errors
    /// `Config` for parameters that this model cannot honour, `Tokenization`, `QueueFull`, and `Generation` when the
    /// engine is closed or has failed.
    pub fn submit(&self, request: Request, mailbox: &Mailbox) -> Result<u64> {
        self.admits()?;
        self.enter(self.sequence(request, mailbox)?, mailbox)
    }

    /// [`Engine::submit`] under a rule.
    #[cfg(test)]
    pub(crate) fn submit_under(
        &self,
        constraint: Box<dyn crate::constraint::Constraint>,
        request: Request,
        mailbox: &Mailbox,
    ) -> Result<u64> {
        let mut sequence = self.sequence(request, mailbox)?;
        sequence.constraint = Some(Arc::new(Mutex::new(constraint)));
        self.enter(sequence, mailbox)
    }

    /// What the worker makes of a request.
    fn sequence(&self, request: Request, mailbox: &Mailbox) -> Result<Box<Sequence>> {
        let submitted = Instant::now();
        request.params.validate()?;
        let prompt = request::encode(request.prompt, self.tokenizer.as_ref())?;
        request::check(&prompt, &request.params, &self.info)?;
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let params = request.params;
        let stream = self.stream(&prompt, &params, request.skip_special_tokens)?;
        let constraint = self.constraint(&params)?;
        Ok(Box::new(Sequence {
            id,
            priority: request.priority,
            prompt_len: prompt.len(),
            computed: 0,
            phase: Phase::Prefill,
            spared: false,
            speculation: self.speculates.then(|| Box::new(Speculation::new())),
            draft: Vec::new(),
            blocks: Vec::new(),
            registered: 0,
            state: None,
            shared: 0,
            snapshot: None,
            chain: None,
            salt: request.cache_salt.map(Into::into),
            eos: self.eos.clone(),
            max_len: self.info.max_sequence_length,
            sampling: SamplingState::new(
                &params,
                &prompt,
                &self.info.eos_token_ids,
                fresh_seed(id),
            ),
            constraint,
            unmasked: None,
            stream,
            prompt_logprobs: params.prompt_logprobs.map(|_| vec![None]),
            mailbox: Arc::downgrade(mailbox.inner()),
            cached_tokens: 0,
            submitted,
            started: None,
            first_token: None,
            faults: self.faults.clone(),
            tokens: prompt,
            params,
        }))
    }

    /// Compiles the form that `params` ask of an answer, so that a request with the same finds it compiled.
    ///
    /// # Errors
    /// `Config` for a form that cannot be enforced.
    pub fn check_form(&self, params: &GenerationParams) -> Result<()> {
        self.constraint(params).map(drop)
    }

    /// The rule of one answer, if it has one. Compiles its grammar on the calling thread's time.
    fn constraint(&self, params: &GenerationParams) -> Result<Option<Shared>> {
        match (&params.structured_output, &self.forms) {
            (None, _) => Ok(None),
            (Some(asked), Some(forms)) => Ok(Some(Arc::new(Mutex::new(forms.constraint(asked)?)))),
            (Some(_), None) => {
                let expected =
                    "left out: this model has no tokenizer to hold an answer to a form with";
                Err(Refused::new("structured_output", "some", expected).into())
            }
        }
    }

    /// Hands a sequence over.
    fn enter(&self, sequence: Box<Sequence>, mailbox: &Mailbox) -> Result<u64> {
        let id = sequence.id;
        // Under the lock under which `close` closes: whatever is sent is seen.
        let mut entries = self.ledger.lock();
        self.admissible(&entries)?;
        self.to_worker
            .send(Command::Add(sequence))
            .map_err(|_| closed())?;
        entries.enter(id, mailbox.inner());
        Ok(id)
    }

    /// Whether another request would be taken now, for callers who have work to do before they submit it.
    ///
    /// # Errors
    /// Those of [`Engine::submit`] that do not depend on the request.
    pub fn admits(&self) -> Result<()> {
        self.admissible(&self.ledger.lock())
    }

    fn admissible(&self, entries: &Entries) -> Result<()> {
        let stats = &entries.stats;
        if stats.closed {
            return Err(closed());
        }
        if let Some(failure) = &stats.failure {
            return Err(Error::Generation(failure.clone()));
        }
        if let Some(most) = self.max_queue {
            let waiting = entries.live.saturating_sub(stats.running);
            // Places that the next step will fill do not count as waiting.
            let places = if entries.blocked {
                0
            } else {
                self.info.max_batch_size.saturating_sub(stats.running)
            };
            if waiting >= most.saturating_add(places) {
                return Err(Error::QueueFull(format!(
                    "{} requests run and {waiting} wait; at most {most} may wait (max_queue): try again later",
                    stats.running
                )));
            }
        }
        Ok(())
    }

    fn stream(
        &self,
        prompt: &[u32],
        params: &GenerationParams,
        skip: bool,
    ) -> Result<Option<TextStream>> {
        match &self.tokenizer {
            Some(tokenizer) => {
                let tail = &prompt[prompt.len().saturating_sub(PROMPT_TAIL)..];
                Ok(Some(TextStream::new(
                    tokenizer.clone(),
                    tail,
                    params.stop_sequences.clone(),
                    skip,
                )))
            }
            None if params.stop_sequences.is_empty() => Ok(None),
            None => Err(Refused::new(
                "stop_sequences",
                params.stop_sequences.len(),
                "left out: this model has no tokenizer to look for texts with",
            )
            .into()),
        }
    }

    /// Cancels a request, queued or running, and frees its KV blocks; its last event says `Cancelled`. Nothing happens
    /// when it has ended or never was. Returns before it is done when a step is being computed.
    pub fn abort(&self, id: u64) {
        if self.to_worker.send(Command::Abort(id)).is_err() {
            return;
        }
        if let Home::Inline(here) = &self.home
            && let Some(mut worker) = here.worker.try_lock()
            && let Some(worker) = worker.as_mut()
        {
            worker.obey(&here.inbox, false);
        }
    }

    /// What of a prompt the prefix cache holds now, for requests with this salt. Waits for the step that is being computed.
    ///
    /// # Errors
    /// `Generation` when the engine is closed or has failed.
    pub fn cached_prefix(&self, tokens: Vec<u32>, salt: Option<String>) -> Result<CachedPrefix> {
        let (reply, told) = bounded(1);
        let asked = Box::new(Probe {
            tokens,
            salt,
            reply,
        });
        self.to_worker
            .send(Command::Probe(asked))
            .map_err(|_| closed())?;
        if let Home::Inline(here) = &self.home {
            let mut worker = here.worker.lock();
            worker.as_mut().ok_or_else(closed)?.obey(&here.inbox, false);
        }
        told.recv().map_err(|_| {
            let failure = self.ledger.lock().stats.failure.clone();
            failure.map_or_else(closed, Error::Generation)
        })
    }

    /// Computes one step on the calling thread; only for engines with `background` off.
    ///
    /// # Errors
    /// `Config` when the engine steps by itself, `Generation` when it is closed or has failed.
    pub fn step(&self) -> Result<StepReport> {
        let Home::Inline(here) = &self.home else {
            return Err(
                Refused::new("background", true, "false: this engine steps by itself").into(),
            );
        };
        let mut worker = here.worker.lock();
        let worker = worker.as_mut().ok_or_else(closed)?;
        worker.obey(&here.inbox, false);
        let report = worker.step();
        match &self.ledger.lock().stats.failure {
            Some(failure) => Err(Error::Generation(failure.clone())),
            None => Ok(report),
        }
    }

    /// A snapshot after the latest step or command.
    pub fn stats(&self) -> Stats {
        let entries = self.ledger.lock();
        let mut stats = entries.stats.clone();
        stats.waiting = entries.live.saturating_sub(stats.running);
        stats
    }

    /// Cancels everything, ends the thread and gives the memory of model and cache back before it returns. Waits for
    /// the step that is being computed. Further calls of `submit` and `step` are errors; further closes do nothing.
    pub fn close(&self) {
        self.ledger.lock().stats.closed = true;
        match &self.home {
            Home::Thread(thread) => {
                // Fails only when the thread has ended.
                let _ = self.to_worker.send(Command::Close);
                if let Some(thread) = thread.lock().take() {
                    // Of a panic the ledger has told everybody.
                    let _ = thread.join();
                }
            }
            Home::Inline(here) => {
                if let Some(mut worker) = here.worker.lock().take() {
                    worker.obey(&here.inbox, false);
                    worker.close();
                }
            }
        }
    }

    /// Proves the books of the KV blocks; see `BlockPool::check`.
    #[cfg(test)]
    pub(crate) fn check_blocks(&self) -> std::result::Result<(), String> {
        match &self.home {
            Home::Inline(here) => here
                .worker
                .lock()
                .as_ref()
                .map_or(Ok(()), Worker::check_blocks),
            Home::Thread(_) => Err("only engines with background off can be checked".into()),
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.close();
    }
}

fn closed() -> Error {
    Error::Generation("the engine is closed".into())
}

/// What drafts cost at first, where there are any: those that are not kept could not be taken back out of a state.
fn price(config: &EngineConfig, info: &ModelInfo) -> Option<Price> {
    let price = config.price();
    if price.is_some() && info.kv_states > 0 {
        tracing::warn!("speculation is off: this model keeps a state, which cannot be cut back");
        return None;
    }
    price
}

fn model_info(
    config: &EngineConfig,
    model: &dyn Model,
    tokenizer: Option<&Tokenizer>,
    mut eos: Vec<u32>,
) -> Result<ModelInfo> {
    let spec = model.spec().clone();
    let sizes = memory::size(config, &spec)?;
    if let Some(tokenizer) = tokenizer {
        eos.extend_from_slice(tokenizer.eos_ids());
    }
    eos.retain(|&id| (id as usize) < spec.vocab_size);
    eos.sort_unstable();
    eos.dedup();
    Ok(ModelInfo {
        max_sequence_length: sizes.longest,
        max_batch_size: config.max_batch_size,
        step_tokens: memory::step_tokens(config),
        max_prompt_tokens: sizes.prompt,
        kv_blocks: sizes.blocks,
        kv_states: sizes.states,
        kv_bytes: (sizes.blocks as u64 * spec.kv_block_bytes as u64)
            .saturating_add(sizes.states as u64 * spec.state_bytes as u64),
        eos_token_ids: eos,
        bos_token_id: tokenizer.and_then(Tokenizer::bos_id),
        chat_template: tokenizer
            .and_then(Tokenizer::chat_template)
            .map(str::to_owned),
        sampling: Sampling::default(),
        spec,
    })
}
