//! Answers under a rule: masks are kept to, forced tokens are taken in one chunk, and a rule that breaks ends its own
//! answer and never lets it run free.
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::fake::{BLOCK, Controls, Fake};
use crate::constraint::{Constraint, Next};
use crate::error::{Error, Result};
use crate::event::{Event, FinishReason};
use crate::{Engine, EngineConfig, GenerationParams, Mailbox, Prompt, Request};

/// Tokens of each multiple of `period` are 7, 8, 9; elsewhere even ones may come. Complete after `length` tokens.
struct Verse {
    period: usize,
    length: usize,
    forces: bool,
    taken: Vec<u32>,
    started: Option<Vec<u32>>,
    breaks: Option<usize>,
}

const REFRAIN: [u32; 3] = [7, 8, 9];

impl Verse {
    fn new(period: usize, length: usize, forces: bool) -> Self {
        Self {
            period,
            length,
            forces,
            taken: Vec::new(),
            started: None,
            breaks: None,
        }
    }

    fn allowed(&self, at: usize) -> Vec<u32> {
        match at % self.period {
            i @ 0..3 => vec![REFRAIN[i]],
            _ => (10..40).filter(|t| t % 2 == 0).collect(),
        }
    }
}

impl Constraint for Verse {
    fn admit(&mut self, draft: &[u32]) -> Result<usize> {
        let fits = |(i, t): &(usize, &u32)| self.allowed(self.taken.len() + i).contains(t);
        Ok(draft.iter().enumerate().take_while(fits).count())
    }

    fn start(&mut self, draft: &[u32]) {
        assert!(self.started.is_none(), "started twice");
        self.started = Some(draft.to_vec());
    }

    fn mask(&mut self, drafted: usize, mask: &mut [u32]) -> Result<bool> {
        let draft = self.started.as_ref().expect("not started");
        let all = draft.len() == drafted;
        if self.breaks == Some(self.taken.len()) {
            return Err(Error::Generation("the verse broke".into()));
        }
        for id in self.allowed(self.taken.len() + drafted) {
            mask[id as usize / 32] |= 1 << (id % 32);
        }
        if all {
            self.started = None;
        }
        Ok(true)
    }

    fn accept(&mut self, token: u32) -> Result<Next> {
        assert!(
            self.allowed(self.taken.len()).contains(&token),
            "{token} at {}",
            self.taken.len()
        );
        self.taken.push(token);
        Ok(if self.taken.len() == self.length {
            Next::Complete
        } else {
            Next::Open
        })
    }

    fn forced(&mut self) -> Result<Vec<u32>> {
        let at = self.taken.len();
        let here = if self.forces && at % self.period < 3 {
            &REFRAIN[at % self.period..]
        } else {
            &[]
        };
        Ok(here.iter().copied().take(self.length - at).collect())
    }
}

fn engine(blocks: usize) -> (Engine, Arc<Controls>) {
    let (model, controls) = Fake::small(256);
    let config = EngineConfig {
        background: false,
        prefill_chunk_size: 16,
        kv_cache_memory: Some((blocks * BLOCK * 4) as u64),
        ..Default::default()
    };
    (
        Engine::from_model(config, model, None, vec![]).unwrap(),
        controls,
    )
}

fn request(i: u32) -> Request {
    let params = GenerationParams {
        max_tokens: 100,
        ignore_eos: true,
        temperature: if i.is_multiple_of(2) { 0.0 } else { 1.0 },
        seed: Some(u64::from(i)),
        ..Default::default()
    };
    Request::new(
        Prompt::Tokens((0..1 + i * 5 % 19).map(|t| t + i).collect()),
        params,
    )
}

fn answers(engine: &Engine, mailbox: &Mailbox) -> HashMap<u64, (Vec<u32>, Option<FinishReason>)> {
    while engine.step().unwrap().has_work() {
        engine.check_blocks().unwrap();
    }
    let mut all = HashMap::<u64, (Vec<u32>, Option<FinishReason>)>::new();
    for event in mailbox.try_poll() {
        let one = all.entry(event.request).or_default();
        one.0.extend(event.tokens);
        one.1 = event.finish.map(|f| f.reason);
    }
    all
}

#[test]
fn ruled_and_free_answers_share_steps_and_preemptions_and_each_keeps_its_own_rule() {
    let alone = |i: u32, forces: bool| {
        let (engine, _) = engine(200);
        let mailbox = Mailbox::new();
        let rule = Box::new(Verse::new(5 + i as usize % 3, 60, forces));
        let id = engine.submit_under(rule, request(i), &mailbox).unwrap();
        answers(&engine, &mailbox).remove(&id).unwrap()
    };
    let (engine, _) = engine(60);
    let mailbox = Mailbox::new();
    let ids: Vec<u64> = (0..8)
        .map(|i| match i % 4 {
            3 => engine.submit(request(i), &mailbox).unwrap(),
            kind => {
                let rule = Box::new(Verse::new(5 + i as usize % 3, 60, kind == 1));
                engine.submit_under(rule, request(i), &mailbox).unwrap()
            }
        })
        .collect();
    let together = answers(&engine, &mailbox);
    assert!(engine.stats().counters.preemptions > 0);
    for (i, id) in (0..8).zip(ids) {
        if i % 4 == 3 {
            assert_eq!(together[&id].1, Some(FinishReason::Length));
            continue;
        }
        // The rule was asserted token by token; forcing changes no token.
        assert_eq!(together[&id], alone(i, false), "request {i}");
        assert_eq!(together[&id], alone(i, true), "request {i}");
        assert_eq!(
            (together[&id].0.len(), together[&id].1),
            (60, Some(FinishReason::Stop))
        );
    }
}

#[test]
fn forced_tokens_cost_one_step_together() {
    let steps = |forces: bool, logprobs: Option<i32>| {
        let (engine, controls) = engine(100);
        let mailbox = Mailbox::new();
        let mut request = request(2);
        request.params.logprobs = logprobs;
        engine
            .submit_under(Box::new(Verse::new(5, 50, forces)), request, &mailbox)
            .unwrap();
        while engine.step().unwrap().has_work() {}
        let events = mailbox.try_poll();
        let scores: usize = events.iter().map(|e| e.logprobs.len()).sum();
        assert_eq!(scores, if logprobs.is_some() { 50 } else { 0 });
        controls.steps.load(Ordering::SeqCst)
    };
    assert_eq!(steps(false, None), 50);
    // Of five tokens three are forced, the very first ones apart: they come with the first one drawn.
    assert_eq!(steps(true, None), 21);
    assert_eq!(
        steps(true, Some(1)),
        50,
        "every token has a row where log-probabilities are asked for"
    );
}

#[test]
fn a_rule_that_breaks_ends_its_own_answer_and_nothing_is_drawn_without_it() {
    let (engine, _) = engine(100);
    let (good, bad) = (Mailbox::new(), Mailbox::new());
    let mut rule = Verse::new(5, 50, false);
    rule.breaks = Some(12);
    engine
        .submit_under(Box::new(rule), request(1), &bad)
        .unwrap();
    engine.submit(request(2), &good).unwrap();
    while engine.step().unwrap().has_work() {}
    let ended = |mailbox: &Mailbox| {
        let events: Vec<Event> = mailbox.try_poll();
        let count: usize = events.iter().map(|e| e.tokens.len()).sum();
        (
            count,
            events.last().unwrap().finish.as_ref().unwrap().reason,
        )
    };
    assert_eq!(ended(&bad), (12, FinishReason::Error));
    assert_eq!(ended(&good), (100, FinishReason::Length));
}
