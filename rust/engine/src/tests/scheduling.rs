//! Who runs when: short prompts beside long ones, memory that does not hold everybody, queues that nobody listens to.
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::fake::{BLOCK, Controls, Fake};
use crate::{Engine, EngineConfig, GenerationParams, Mailbox, Prompt, Request};

fn engine(config: EngineConfig) -> (Engine, Arc<Controls>) {
    let (model, controls) = Fake::small(8192);
    let config = EngineConfig {
        background: false,
        ..config
    };
    (
        Engine::from_model(config, model, None, vec![]).unwrap(),
        controls,
    )
}

fn blocks(count: usize) -> Option<u64> {
    Some((count * BLOCK * 4) as u64)
}

fn request(length: usize, max_tokens: usize) -> Request {
    let params = GenerationParams {
        max_tokens,
        ignore_eos: true,
        seed: Some(1),
        ..Default::default()
    };
    // No two lengths share a prefix.
    let prompt = (0..length).map(|i| ((i + length) % 40) as u32).collect();
    Request::new(Prompt::Tokens(prompt), params)
}

/// The step, counted from now, after which each request has its first token.
fn first_tokens(engine: &Engine, mailbox: &Mailbox, steps: usize) -> HashMap<u64, usize> {
    let mut first = HashMap::new();
    for step in 1..=steps {
        engine.step().unwrap();
        for event in mailbox.try_poll().iter().filter(|e| !e.tokens.is_empty()) {
            first.entry(event.request).or_insert(step);
        }
    }
    first
}

#[test]
fn short_prompts_do_not_wait_for_long_ones_and_the_long_ones_go_on() {
    for long in 1..=3 {
        let (engine, controls) = engine(EngineConfig {
            prefill_chunk_size: 64,
            ..Default::default()
        });
        let mailbox = Mailbox::new();
        for i in 0..long {
            engine.submit(request(4000 + i, 1), &mailbox).unwrap();
        }
        for _ in 0..3 {
            engine.step().unwrap();
        }
        assert_eq!(controls.tokens.load(Ordering::SeqCst), 3 * 64);
        let shorts: Vec<u64> = (0..8)
            .map(|i| engine.submit(request(16 + i, 1), &mailbox).unwrap())
            .collect();
        let before = controls.tokens.load(Ordering::SeqCst);
        // 156 tokens in all, 32 a step at least: the last short one speaks after five steps.
        let first = first_tokens(&engine, &mailbox, 5);
        assert!(
            shorts.iter().all(|id| first.contains_key(id)),
            "{long} long: {first:?}"
        );
        assert_eq!(
            controls.tokens.load(Ordering::SeqCst) - before,
            5 * 64,
            "every step is full"
        );
        // The shortest speaks first, in the very next step.
        assert_eq!(first[&shorts[0]], 1);
    }
}

#[test]
fn a_long_prompt_is_not_starved_by_a_stream_of_short_ones() {
    let (engine, _) = engine(EngineConfig {
        prefill_chunk_size: 64,
        ..Default::default()
    });
    let mailbox = Mailbox::new();
    let long = engine.submit(request(1000, 1), &mailbox).unwrap();
    for step in 1.. {
        for i in 0..4 {
            engine.submit(request(20 + i, 1), &mailbox).unwrap();
        }
        engine.step().unwrap();
        if mailbox.try_poll().iter().any(|e| e.request == long) {
            // Half of each step: 32 steps.
            assert!(step <= 33, "{step} steps");
            break;
        }
        assert!(step < 200, "the long prompt starves");
    }
}

#[test]
fn two_long_prompts_are_computed_at_a_time_and_better_priorities_go_first() {
    let (engine, _) = engine(EngineConfig {
        prefill_chunk_size: 64,
        ..Default::default()
    });
    let mailbox = Mailbox::new();
    let submit = |length: usize, priority: i32| {
        let mut request = request(length, 1);
        request.priority = priority;
        engine.submit(request, &mailbox).unwrap()
    };
    for i in 0..4 {
        submit(1000 + i, 0);
    }
    engine.step().unwrap();
    assert_eq!((engine.stats().running, engine.stats().waiting), (2, 2));
    // Of better priority, it is first in order and gets its half, though others are shorter.
    let urgent = submit(70, -1);
    let short = submit(10, 0);
    let first = first_tokens(&engine, &mailbox, 4);
    assert_eq!((first[&urgent], first[&short]), (2, 2), "{first:?}");
}

/// Six answers of different lengths run; a prompt of many chunks comes last, and the memory does not hold them all.
#[test]
fn a_prompt_that_lost_its_blocks_is_not_begun_again_and_again() {
    let (engine, controls) = engine(EngineConfig {
        prefill_chunk_size: 2,
        max_batch_size: 7,
        max_sequence_length: Some(128),
        enable_prefix_cache: false,
        kv_cache_memory: blocks(64),
        ..Default::default()
    });
    let mailbox = Mailbox::new();
    for i in 0..6 {
        engine
            .submit(request(1 + i, 40 + 14 * i), &mailbox)
            .unwrap();
    }
    let (prompt, answer) = (110, 4);
    engine.submit(request(prompt, answer), &mailbox).unwrap();
    let mut steps = 0;
    while engine.step().unwrap().has_work() {
        engine.check_blocks().unwrap();
        steps += 1;
        assert!(steps < 5000, "no end");
    }
    let once: usize = (0..6).map(|i| 1 + i + 40 + 14 * i - 1).sum::<usize>() + prompt + answer - 1;
    let computed = controls.tokens.load(Ordering::SeqCst);
    let preempted = engine.stats().counters.preemptions;
    assert!(
        preempted <= 1 && computed <= once + prompt,
        "{preempted} preemptions, {computed} of {once} tokens"
    );
}
