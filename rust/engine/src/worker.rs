//! The one owner of model and cache: takes commands, computes steps, posts events, publishes figures.
//! Runs on the engine thread, or inside `Engine::step`. Knows nothing of how requests were made.
use std::any::Any;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::time::Instant;

use candle_vllm_kernels::cpu::Cpu;
use candle_vllm_model::{Kv, Model};
use crossbeam_channel::Receiver;
use parking_lot::Mutex;

use crate::blocks::BlockPool;
use crate::event::{Event, Finish, FinishReason, RequestStats, StopReason};
use crate::mailbox::{Inner, Outbox};
use crate::runner::Runner;
use crate::scheduler::{Limits, Planned, Scheduler};
use crate::sequence::Sequence;
use crate::stats::{Counters, Stats, StepCost, StepReport};

/// What the outside asks of a worker.
pub enum Command {
    /// Run this request.
    Add(Box<Sequence>),
    /// Cancel this request, if it is still there.
    Abort(u64),
    /// Cancel everything and stop.
    Close,
}

/// What a worker lets others see without asking it.
#[derive(Default)]
pub struct Published {
    /// The latest snapshot.
    pub stats: Stats,
    /// Requests submitted and not ended, whether the worker has seen them or not.
    pub live: usize,
    /// Whether the queue stands still for want of blocks.
    pub blocked: bool,
}

/// Model, cache and everything that runs on them.
pub struct Worker {
    model: Box<dyn Model>,
    kv: Kv,
    limits: Limits,
    scheduler: Scheduler,
    runner: Runner,
    outbox: Outbox,
    /// Mailboxes of all requests that have had no final event: whatever happens, each gets one.
    owed: HashMap<u64, Weak<Inner>>,
    plan: Vec<Planned>,
    counters: Counters,
    ended: usize,
    failure: Option<String>,
    published: Arc<Mutex<Published>>,
}

impl Worker {
    /// A worker at rest, whose sampling computes with `cpu`; publishes its first figures.
    pub fn new(
        model: Box<dyn Model>,
        kv: Kv,
        limits: Limits,
        eos: Arc<[u32]>,
        cpu: Cpu,
        published: Arc<Mutex<Published>>,
    ) -> Self {
        let vocab = model.spec().vocab_size;
        let scheduler = Scheduler::new(limits, BlockPool::new(kv.blocks(), kv.block_size()));
        let mut worker = Self {
            model,
            kv,
            limits,
            scheduler,
            runner: Runner::new(eos, vocab, cpu),
            outbox: Outbox::default(),
            owed: HashMap::new(),
            plan: Vec::new(),
            counters: Counters::default(),
            ended: 0,
            failure: None,
            published,
        };
        worker.publish();
        worker
    }

    /// The life of the engine thread: sleeps while there is nothing to do, ends with `Close`.
    pub fn run(mut self, commands: &Receiver<Command>) {
        if let Some(compute) = self.model.compute() {
            compute.pool.bind_caller();
        }
        loop {
            if !self.has_work() {
                match commands.recv() {
                    Ok(command) => {
                        if !self.command(command) {
                            return;
                        }
                    }
                    Err(_) => return self.close(),
                }
            }
            if !self.commands(commands) {
                return;
            }
            self.step();
        }
    }

    /// Whether a step has something to do.
    pub fn has_work(&self) -> bool {
        !self.scheduler.running().is_empty() || self.scheduler.waiting() > 0
    }

    /// Carries out all commands that wait; false after `Close`.
    pub fn commands(&mut self, commands: &Receiver<Command>) -> bool {
        let mut any = false;
        while let Ok(command) = commands.try_recv() {
            any = true;
            if !self.command(command) {
                return false;
            }
        }
        if any {
            self.publish();
        }
        true
    }

    fn command(&mut self, command: Command) -> bool {
        match command {
            Command::Add(sequence) => self.add(*sequence),
            Command::Abort(id) => self.abort(id),
            Command::Close => {
                self.close();
                return false;
            }
        }
        true
    }

    fn add(&mut self, sequence: Sequence) {
        self.owed.insert(sequence.id, sequence.mailbox.clone());
        match &self.failure {
            None => self.scheduler.add(sequence),
            Some(message) => {
                let message = message.clone();
                self.settle(sequence, FinishReason::Error, Some(message), Instant::now());
            }
        }
    }

    fn abort(&mut self, id: u64) {
        if let Some(sequence) = self.scheduler.remove(id) {
            self.settle(sequence, FinishReason::Cancelled, None, Instant::now());
        }
    }

    /// Cancels everything.
    pub fn close(&mut self) {
        let now = Instant::now();
        for sequence in self.scheduler.drain() {
            self.settle(sequence, FinishReason::Cancelled, None, now);
        }
        self.publish();
    }

    /// Ends a sequence that is in no list any more.
    fn settle(
        &mut self,
        mut sequence: Sequence,
        reason: FinishReason,
        message: Option<String>,
        now: Instant,
    ) {
        let mut event = sequence.event();
        sequence.finish(&mut event, reason, message.map(StopReason::Text), now);
        self.emit(event, &sequence.mailbox);
    }

    /// Keeps an event for its mailbox and counts an end.
    fn emit(&mut self, event: Event, mailbox: &Weak<Inner>) {
        self.counters.generated_tokens += event.tokens.len() as u64;
        if let Some(finish) = &event.finish {
            self.owed.remove(&event.request);
            self.ended += 1;
            self.counters.finished += 1;
            match finish.reason {
                FinishReason::Cancelled => self.counters.aborts += 1,
                FinishReason::Error => self.counters.errors += 1,
                _ => {}
            }
        }
        if let Some(inner) = mailbox.upgrade() {
            self.outbox.push(&inner, event);
        }
    }

    /// Computes one step, if there is anything to compute; a panic in it fails all requests and the engine for good.
    pub fn step(&mut self) -> StepReport {
        let report = match catch_unwind(AssertUnwindSafe(|| self.try_step())) {
            Ok(report) => report,
            Err(panic) => {
                self.fail(format!(
                    "the engine failed and must be opened anew: {}",
                    panic_message(&*panic)
                ));
                StepReport::default()
            }
        };
        let begin = Instant::now();
        self.publish();
        let mut report = StepReport {
            running: self.scheduler.running().len(),
            waiting: self.scheduler.waiting(),
            ..report
        };
        report.cost.publish = micros(begin, Instant::now());
        report
    }

    fn try_step(&mut self) -> StepReport {
        let begin = Instant::now();
        self.plan.clear();
        self.plan.extend_from_slice(self.scheduler.plan());
        if self.plan.is_empty() {
            if self.has_work() {
                self.fail(
                    "the engine failed and must be opened anew: no waiting request can ever run"
                        .into(),
                );
            }
            return StepReport::default();
        }
        for p in &self.plan {
            self.scheduler.running_mut()[p.index]
                .started
                .get_or_insert(begin);
        }
        let ended = self.counters.finished;
        self.counters.steps += 1;
        let planned = Instant::now();
        self.runner.prepare(&self.plan, self.scheduler.running());
        let prepared = Instant::now();
        let logits = self.runner.forward(&mut *self.model, &mut self.kv);
        let computed = Instant::now();
        let mut sampled = computed;
        match logits {
            Ok(logits) => {
                self.runner
                    .sample(&self.plan, &logits, self.scheduler.running(), &*self.model);
                sampled = Instant::now();
                self.commit(&logits, sampled);
            }
            Err(e) => self.fail_step(&e.to_string()),
        }
        StepReport {
            tokens: self.plan.iter().map(|p| p.tokens).sum(),
            sequences: self.plan.len(),
            finished: (self.counters.finished - ended) as usize,
            running: 0,
            waiting: 0,
            cost: StepCost {
                schedule: micros(begin, planned),
                prepare: micros(planned, prepared),
                model: micros(prepared, computed),
                sample: micros(computed, sampled),
                book: micros(sampled, Instant::now()),
                publish: 0.0,
            },
        }
    }

    /// Books what was computed and sampled; retires what ended and what nobody listens to.
    fn commit(&mut self, logits: &candle_vllm_model::Logits, now: Instant) {
        let mut gone = Vec::new();
        let mut row = 0;
        for i in 0..self.plan.len() {
            let p = self.plan[i];
            let event = self
                .runner
                .commit(i, p, logits, row, &mut self.scheduler, now);
            row += p.logits;
            let mailbox = self.scheduler.running()[p.index].mailbox.clone();
            if let Some(event) = event {
                if event.finish.is_some() {
                    gone.push((p.index, false));
                }
                self.emit(event, &mailbox);
            }
            if mailbox.strong_count() == 0 && gone.last().is_none_or(|g| g.0 != p.index) {
                gone.push((p.index, true));
            }
        }
        // From the back, so that indices stay true.
        gone.sort_unstable_by(|a, b| b.cmp(a));
        for (index, unheard) in gone {
            let sequence = self.scheduler.retire(index);
            if unheard {
                self.settle(sequence, FinishReason::Cancelled, None, now);
            }
        }
    }

    /// Fails the sequences of the planned step and goes on with the others.
    fn fail_step(&mut self, message: &str) {
        tracing::error!(error = message, "a step failed");
        let now = Instant::now();
        let mut indices: Vec<usize> = self.plan.iter().map(|p| p.index).collect();
        indices.sort_unstable_by(|a, b| b.cmp(a));
        for index in indices {
            let sequence = self.scheduler.retire(index);
            self.settle(sequence, FinishReason::Error, Some(message.to_owned()), now);
        }
    }

    /// Fails everything, now and later. The lists may be broken, so only `owed` is trusted.
    fn fail(&mut self, message: String) {
        tracing::error!(error = message, "the engine failed");
        for (request, mailbox) in std::mem::take(&mut self.owed) {
            let stop_reason = Some(StopReason::Text(message.clone()));
            let finish = Finish {
                reason: FinishReason::Error,
                stop_reason,
                stats: RequestStats::default(),
            };
            let event = Event {
                request,
                tokens: Vec::new(),
                text: String::new(),
                logprobs: Vec::new(),
                prompt_logprobs: None,
                finish: Some(finish),
            };
            self.emit(event, &mailbox);
        }
        let pool = BlockPool::new(self.kv.blocks(), self.kv.block_size());
        self.scheduler = Scheduler::new(self.limits, pool);
        self.plan.clear();
        self.failure = Some(message);
    }

    /// See `BlockPool::check`.
    #[cfg(test)]
    pub(crate) fn check_blocks(&self) -> Result<(), String> {
        self.scheduler
            .pool()
            .check(self.scheduler.running().iter().map(|s| &s.blocks[..]))
    }

    /// Posts the events and shows the new figures; the figures first, so that who reads an end finds its blocks free.
    fn publish(&mut self) {
        let (pool, tally) = (self.scheduler.pool(), self.scheduler.tally());
        self.counters.prompt_tokens = tally.prompt_tokens;
        self.counters.prefix_hit_tokens = tally.prefix_hit_tokens;
        self.counters.preemptions = tally.preemptions;
        {
            let mut published = self.published.lock();
            let stats = &mut published.stats;
            stats.running = self.scheduler.running().len();
            stats.kv_blocks_total = pool.total();
            stats.kv_blocks_free = pool.available();
            stats.kv_blocks_cached = pool.cached();
            stats.counters = self.counters;
            stats.healthy = self.failure.is_none();
            if stats.failure != self.failure {
                stats.failure.clone_from(&self.failure);
            }
            published.blocked = self.scheduler.is_blocked();
            published.live = published
                .live
                .saturating_sub(std::mem::take(&mut self.ended));
        }
        self.outbox.flush();
    }
}

fn micros(from: Instant, to: Instant) -> f32 {
    to.duration_since(from).as_secs_f32() * 1e6
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "panic of unknown kind".into())
}
