//! The one owner of model and cache: takes commands, computes steps, posts events, publishes figures.
//! Runs on the engine thread, or inside `Engine::step`. Knows nothing of how requests were made.
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Weak;
use std::time::Instant;

use candle_vllm_kernels::cpu::{Cpu, available_threads};
use candle_vllm_model::{Kv, Logits, Model, Step};
use crossbeam_channel::{Receiver, Sender};

use crate::blocks::BlockPool;
use crate::constraint::Finders;
use crate::error::Result;
use crate::event::{Event, FinishReason};
use crate::fault::{self, Faults, Place};
use crate::ledger::{LastWord, Ledger};
use crate::mailbox::{Inner, Outbox};
use crate::runner::{Output, Runner};
use crate::sampler::Masks;
use crate::scheduler::{Limits, Scheduler};
use crate::sequence::Sequence;
use crate::stats::{CachedPrefix, Counters, StepCost, StepReport};

/// What the outside asks of a worker.
pub enum Command {
    /// Run this request.
    Add(Box<Sequence>),
    /// Cancel this request, if it is still there.
    Abort(u64),
    /// Tell what of a prompt is cached.
    Probe(Box<Probe>),
    /// Cancel everything and stop.
    Close,
}

/// A question about a prompt.
pub struct Probe {
    /// The prompt.
    pub tokens: Vec<u32>,
    /// See `Request::cache_salt`.
    pub salt: Option<String>,
    /// Who asks.
    pub reply: Sender<CachedPrefix>,
}

/// What a worker made of its commands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It goes on.
    Step,
    /// It was closed, or it failed.
    Stop,
}

/// Model, cache and everything that runs on them.
pub struct Worker {
    model: Box<dyn Model>,
    kv: Kv,
    step: Step,
    masks: Masks,
    finders: Finders,
    scheduler: Scheduler,
    runner: Runner,
    outputs: Vec<Output>,
    news: News,
    ledger: Ledger,
    faults: Faults,
    failed: bool,
}

/// What is to be told and counted of a step or command, until it is published.
#[derive(Default)]
struct News {
    outbox: Outbox,
    counters: Counters,
    /// Requests whose last event is in the outbox.
    ended: Vec<u64>,
}

impl News {
    /// Keeps an event for its mailbox and counts an end.
    fn add(&mut self, event: Event, mailbox: &Weak<Inner>) {
        self.counters.generated_tokens += event.tokens.len() as u64;
        if let Some(finish) = &event.finish {
            self.ended.push(event.request);
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
}

impl Worker {
    /// A worker at rest, whose sampling computes with `cpu`; publishes its first figures.
    pub fn new(
        model: Box<dyn Model>,
        kv: Kv,
        limits: Limits,
        cpu: Cpu,
        ledger: Ledger,
        faults: Faults,
    ) -> Self {
        let vocab = model.spec().vocab_size;
        let pool = BlockPool::new(kv.blocks(), kv.block_size());
        let busy = model.compute().map_or(1, |compute| compute.pool.threads());
        let finders = Finders::new(available_threads().saturating_sub(busy));
        let mut worker = Self {
            model,
            kv,
            step: Step::default(),
            masks: Masks::default(),
            finders,
            scheduler: Scheduler::new(limits, pool),
            runner: Runner::new(vocab, cpu, faults.clone()),
            outputs: Vec::new(),
            news: News::default(),
            ledger,
            faults,
            failed: false,
        };
        worker.publish();
        worker
    }

    /// The life of the engine thread: sleeps while there is nothing to do, ends with `Close` or a failure.
    pub fn run(self, commands: &Receiver<Command>) {
        let _last = LastWord(self.ledger.clone());
        let mut worker = self;
        worker.guard(|w| {
            if let Some(compute) = w.model.compute() {
                compute.pool.bind_caller();
            }
        });
        while worker.obey(commands, true) == Next::Step {
            worker.step();
        }
    }

    /// Runs `work`; a panic in it fails all requests and the engine for good.
    fn guard<T>(&mut self, work: impl FnOnce(&mut Self) -> T) -> Option<T> {
        if self.failed {
            return None;
        }
        match catch_unwind(AssertUnwindSafe(|| work(self))) {
            Ok(value) => Some(value),
            Err(panic) => {
                self.fail(&fault::message(&*panic));
                None
            }
        }
    }

    /// Ends everything with an error, now and later. The lists may be broken: only the ledger is trusted, and they stay
    /// as they are until the worker is dropped.
    fn fail(&mut self, reason: &str) {
        self.failed = true;
        self.ledger.fail(&format!(
            "the engine failed and must be opened anew: {reason}"
        ));
    }

    /// Whether a step has something to do.
    fn has_work(&self) -> bool {
        !self.scheduler.running().is_empty() || self.scheduler.waiting() > 0
    }

    /// Carries out all commands that wait. With `patient`, it waits for one while there is nothing else to do.
    pub fn obey(&mut self, commands: &Receiver<Command>, patient: bool) -> Next {
        self.guard(|w| w.carry_out(commands, patient))
            .unwrap_or(Next::Stop)
    }

    fn carry_out(&mut self, commands: &Receiver<Command>, patient: bool) -> Next {
        let mut any = false;
        loop {
            let command = if patient && !any && !self.has_work() {
                commands.recv().unwrap_or(Command::Close)
            } else {
                match commands.try_recv() {
                    Ok(command) => command,
                    Err(_) => break,
                }
            };
            any = true;
            self.faults.at(Place::Command);
            match command {
                Command::Add(sequence) => self.scheduler.add(*sequence),
                Command::Abort(id) => self.abort(id),
                Command::Probe(asked) => {
                    let salt = asked.salt.as_deref();
                    let found = self.scheduler.cached_prefix(&asked.tokens, salt);
                    // Whoever asked may have gone.
                    let _ = asked.reply.send(found);
                }
                Command::Close => {
                    self.cancel_all();
                    return Next::Stop;
                }
            }
        }
        if any {
            self.publish();
        }
        Next::Step
    }

    fn abort(&mut self, id: u64) {
        if let Some(mut sequence) = self.scheduler.remove(id) {
            self.faults.at(Place::Abort);
            let event = sequence.end(FinishReason::Cancelled, None, Instant::now());
            self.news.add(event, &sequence.mailbox);
        }
    }

    /// Cancels everything.
    pub fn close(&mut self) {
        self.guard(Self::cancel_all);
    }

    fn cancel_all(&mut self) {
        let now = Instant::now();
        for mut sequence in self.scheduler.drain() {
            let event = sequence.end(FinishReason::Cancelled, None, now);
            self.news.add(event, &sequence.mailbox);
        }
        self.publish();
    }

    /// Computes one step, if there is anything to compute.
    pub fn step(&mut self) -> StepReport {
        self.guard(Self::try_step).unwrap_or_default()
    }

    fn try_step(&mut self) -> StepReport {
        let ended = self.news.counters.finished;
        let mut clock = Clock::start();
        self.faults.at(Place::Schedule);
        let (news, now) = (&mut self.news, clock.last);
        self.scheduler.sweep(|mut unheard| {
            let event = unheard.end(FinishReason::Cancelled, None, now);
            news.add(event, &unheard.mailbox);
        });
        let planned = self.scheduler.schedule(&mut self.step, clock.last).len();
        if planned == 0 && self.has_work() {
            self.fail("no waiting request can ever run");
            return StepReport::default();
        }
        if planned == 0 {
            self.publish();
            return StepReport::default();
        }
        let mut cost = StepCost {
            schedule: clock.lap(),
            ..StepCost::default()
        };
        self.news.counters.steps += 1;
        let logits = self.compute();
        cost.model = clock.lap();
        self.scheduler.observe(cost.model);
        match logits {
            Ok(logits) => {
                let plan = (self.scheduler.planned(), self.scheduler.running());
                let (rows, compute) = ((&logits, &self.masks), self.model.compute());
                self.runner.finish(plan, rows, compute, &mut self.outputs);
                cost.sample = clock.lap();
                self.postprocess(clock.last);
            }
            Err(e) => self.fail_step(&e.to_string()),
        }
        cost.book = clock.lap();
        self.publish();
        cost.publish = clock.lap();
        StepReport {
            tokens: self.step.tokens.len(),
            sequences: planned,
            finished: (self.news.counters.finished - ended) as usize,
            running: self.scheduler.running().len(),
            waiting: self.scheduler.waiting(),
            cost,
        }
    }

    /// Runs the model over the step, and meanwhile finds out which tokens may come.
    fn compute(&mut self) -> Result<Logits> {
        let rows = self.step.logits_rows();
        self.scheduler.start_masks(&self.finders);
        let pending = self.model.launch(&self.step, &mut self.kv)?;
        self.masks.reset(rows, self.runner.vocab());
        let logits = pending.finish()?;
        if let Some(compute) = self.model.compute().filter(|_| !self.finders.any()) {
            self.scheduler.find_masks(compute);
        }
        self.scheduler.fill_masks(&mut self.masks);
        self.runner.check(&logits, rows)?;
        Ok(logits)
    }

    fn postprocess(&mut self, now: Instant) {
        let (news, outputs) = (&mut self.news, self.outputs.drain(..));
        let tell = |event, mailbox: &Weak<Inner>| news.add(event, mailbox);
        self.scheduler.postprocess(outputs, now, tell);
        self.faults.at(Place::Postprocess);
    }

    /// Fails the sequences of the planned step and goes on with the others.
    fn fail_step(&mut self, message: &str) {
        tracing::error!(error = message, "a step failed");
        let news = &mut self.news;
        let tell = |event, mailbox: &Weak<Inner>| news.add(event, mailbox);
        self.scheduler.fail_planned(message, Instant::now(), tell);
    }

    /// See `BlockPool::check`.
    #[cfg(test)]
    pub(crate) fn check_blocks(&self) -> std::result::Result<(), String> {
        let running = self.scheduler.running();
        let pool = self.scheduler.pool();
        pool.check(running.iter().map(|s| &s.blocks[..]))?;
        self.scheduler.check_states()
    }

    /// Shows the new figures and posts the events, in this order: whoever reads of an end finds its blocks free.
    fn publish(&mut self) {
        self.faults.at(Place::Publish);
        let (pool, tally) = (self.scheduler.pool(), self.scheduler.tally());
        let news = &mut self.news;
        news.counters.prompt_tokens = tally.prompt_tokens;
        news.counters.prefix_hit_tokens = tally.prefix_hit_tokens;
        news.counters.preemptions = tally.preemptions;
        news.counters.drafted_tokens = tally.drafted_tokens;
        news.counters.kept_tokens = tally.kept_tokens;
        {
            let mut entries = self.ledger.lock();
            let stats = &mut entries.stats;
            stats.running = self.scheduler.running().len();
            stats.kv_blocks_total = pool.total();
            stats.kv_blocks_free = pool.available();
            stats.kv_blocks_cached = pool.cached();
            stats.counters = news.counters;
            stats.healthy = true;
            entries.blocked = self.scheduler.is_blocked();
            entries.live = entries.live.saturating_sub(news.ended.len());
        }
        news.outbox.flush(&self.faults);
        self.ledger.settle(&mut news.ended);
    }
}

/// Times one part after the other.
struct Clock {
    last: Instant,
}

impl Clock {
    fn start() -> Self {
        Self {
            last: Instant::now(),
        }
    }

    /// Microseconds since the last lap.
    fn lap(&mut self) -> f32 {
        let now = Instant::now();
        let lap = now.duration_since(self.last).as_secs_f32() * 1e6;
        self.last = now;
        lap
    }
}
