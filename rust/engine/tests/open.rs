//! Real checkpoints from file to events: what an engine computes does not depend on batch, chunks, cache, preemption or
//! threads, bit for bit.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use candle_vllm_engine::{
    Engine, EngineConfig, Error, FinishReason, GenerationParams, Mailbox, Prompt, Request,
    TokenLogprob,
};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/goldens")
        .join(name)
}

fn config(name: &str) -> EngineConfig {
    EngineConfig {
        model_path: golden(name),
        background: false,
        max_batch_size: 32,
        ..Default::default()
    }
}

/// Lengths from 1 to 150; some share their beginning.
fn prompts(vocab: usize) -> Vec<Vec<u32>> {
    let prompt = |i: usize| {
        (0..1 + i * 37 % 150)
            .map(|t| ((t * 31 + i % 4 * 7 + t * t % 11) % vocab) as u32)
            .collect()
    };
    (0..32).map(prompt).collect()
}

fn params(i: usize) -> GenerationParams {
    GenerationParams {
        max_tokens: 40,
        temperature: if i.is_multiple_of(2) { 0.0 } else { 0.9 },
        seed: Some(i as u64),
        ignore_eos: true,
        logprobs: Some(3),
        prompt_logprobs: i.is_multiple_of(5).then_some(0),
        ..Default::default()
    }
}

/// What is compared bit for bit (f32 as bits).
#[derive(Debug, PartialEq, Default, Clone)]
struct Outcome {
    tokens: Vec<u32>,
    bits: Vec<u32>,
}

impl Outcome {
    fn add(&mut self, score: &TokenLogprob) {
        self.bits.push(score.logprob.to_bits());
        self.bits.extend(score.top.iter().map(|t| t.1.to_bits()));
    }
}

/// Runs the requests together, `repeat` times over, and returns the last outcomes.
fn run(engine: &Engine, which: &[usize], prompts: &[Vec<u32>], repeat: usize) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for _ in 0..repeat {
        let mailbox = Mailbox::new();
        let submit = |&i: &usize| {
            engine
                .submit(
                    Request::new(Prompt::Tokens(prompts[i].clone()), params(i)),
                    &mailbox,
                )
                .unwrap()
        };
        let ids: Vec<u64> = which.iter().map(submit).collect();
        outcomes = vec![Outcome::default(); ids.len()];
        while engine.step().unwrap().has_work() {}
        for event in mailbox.try_poll() {
            let outcome = &mut outcomes[ids.iter().position(|&id| id == event.request).unwrap()];
            event
                .prompt_logprobs
                .iter()
                .flatten()
                .flatten()
                .for_each(|s| outcome.add(s));
            event.logprobs.iter().for_each(|s| outcome.add(s));
            outcome.tokens.extend(event.tokens);
            if let Some(finish) = event.finish {
                assert_eq!(
                    finish.reason,
                    FinishReason::Length,
                    "{:?}",
                    finish.stop_reason
                );
            }
        }
    }
    outcomes
}

fn invariant(name: &str, dtype: &str) {
    let config = EngineConfig {
        dtype: dtype.into(),
        threads: Some(1),
        ..config(name)
    };
    let alone = Engine::open(config.clone(), None).unwrap();
    let prompts = prompts(alone.model_info().spec.vocab_size);
    let all: Vec<usize> = (0..prompts.len()).collect();
    let check = |what: &str, engine: &Engine, repeat: usize, expected: &[Outcome]| {
        let got = run(engine, &all, &prompts, repeat);
        for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
            assert_eq!(got, expected, "{name} {dtype}: {what}, request {i}");
        }
    };
    let uncached = EngineConfig {
        enable_prefix_cache: false,
        ..config.clone()
    };
    let expected: Vec<Outcome> = {
        let engine = Engine::open(uncached.clone(), None).unwrap();
        all.iter()
            .map(|&i| run(&engine, &[i], &prompts, 1).remove(0))
            .collect()
    };
    check(
        "together",
        &Engine::open(uncached.clone(), None).unwrap(),
        1,
        &expected,
    );
    for chunk in [16, 100] {
        let chunked = EngineConfig {
            prefill_chunk_size: chunk,
            ..uncached.clone()
        };
        check(
            "in chunks",
            &Engine::open(chunked, None).unwrap(),
            1,
            &expected,
        );
    }
    let threads = EngineConfig {
        threads: Some(2),
        ..config.clone()
    };
    check(
        "with two threads",
        &Engine::open(threads, None).unwrap(),
        1,
        &expected,
    );
    check("from the cache", &alone, 2, &expected);
    assert!(alone.stats().counters.prefix_hit_tokens > 0);
    let block = alone.model_info().spec.kv_block_bytes as u64;
    let tight = EngineConfig {
        kv_cache_memory: Some(block * 30),
        ..config
    };
    let tight = Engine::open(tight, None).unwrap();
    check("preempted", &tight, 1, &expected);
    assert!(tight.stats().counters.preemptions > 0);
    assert_eq!(tight.stats().kv_blocks_free, 30);
}

#[test]
fn llama_in_f32_is_the_same_however_it_is_scheduled() {
    invariant("gguf/llama.gguf", "f32");
}

#[test]
fn llama_in_the_default_mode_is_the_same_however_it_is_scheduled() {
    invariant("gguf/llama.gguf", "auto");
}

#[test]
fn qwen2_in_the_default_mode_is_the_same_however_it_is_scheduled() {
    invariant("gguf/qwen2.gguf", "auto");
}

#[test]
fn a_model_speaks_from_text_to_text() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let hear = seen.clone();
    let progress = move |phase: &str, done: u64, total: u64| {
        hear.lock().unwrap().push((phase.to_owned(), done, total))
    };
    let config = EngineConfig {
        background: true,
        ..config("gguf/llama.gguf")
    };
    let engine = Engine::open(config, Some(Box::new(progress))).unwrap();
    let mailbox = Mailbox::new();
    let params = GenerationParams {
        max_tokens: 8,
        temperature: 0.0,
        ignore_eos: true,
        ..Default::default()
    };
    engine
        .submit(Request::new(Prompt::Text("Hello".into()), params), &mailbox)
        .unwrap();
    let (mut tokens, mut text) = (Vec::new(), String::new());
    loop {
        for event in mailbox.poll(None) {
            tokens.extend(event.tokens);
            text.push_str(&event.text);
            if event.finish.is_some() {
                assert_eq!(
                    text,
                    engine.tokenizer().unwrap().decode(&tokens, true).unwrap()
                );
                assert_eq!(tokens.len(), 8);
                let seen = seen.lock().unwrap();
                assert!(
                    seen.iter()
                        .any(|s| s.0 == "weights" && s.1 == s.2 && s.2 > 0),
                    "{seen:?}"
                );
                return;
            }
        }
    }
}

#[test]
fn what_cannot_be_opened_is_refused_with_the_right_error() {
    let open = |config: EngineConfig| Engine::open(config, None).err().unwrap();
    let llama = || config("gguf/llama.gguf");
    assert!(matches!(
        open(config("gguf/absent.gguf")),
        Error::ModelLoad(_)
    ));
    assert!(matches!(
        open(EngineConfig {
            device: "cuda:7".into(),
            ..llama()
        }),
        Error::Device(_)
    ));
    assert!(matches!(
        open(EngineConfig {
            dtype: "int3".into(),
            ..llama()
        }),
        Error::Config(_)
    ));
    assert!(matches!(
        open(EngineConfig {
            max_sequence_length: Some(1 << 40),
            ..llama()
        }),
        Error::Config(_)
    ));
    assert!(matches!(
        open(EngineConfig {
            kv_cache_memory: Some(10),
            ..llama()
        }),
        Error::Config(_)
    ));
}
