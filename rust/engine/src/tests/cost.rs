//! What a step costs beside the model: scheduler, input, greedy sampling, text-free events, publication.
//! `cargo test --release -p candle-vllm-engine --lib step_cost -- --ignored --nocapture`
use std::time::Instant;

use candle_vllm_model::{Kv, Model, Result, Spec, Step, Tensor};

use crate::sampler::{Sampler, SamplingState};
use crate::stats::ModelInfo;
use crate::{Engine, EngineConfig, GenerationParams, Mailbox, Prompt, Request};

/// A model that costs nothing: the same few logits for every row.
struct Free(Spec);

impl Model for Free {
    fn spec(&self) -> &Spec {
        &self.0
    }

    fn new_kv(&self, blocks: usize) -> Result<Kv> {
        Ok(Kv::new(blocks, 16, Box::new(())))
    }

    fn forward(&mut self, step: &Step, _: &mut Kv) -> Result<Tensor> {
        let rows = step.logits_rows();
        Ok(Tensor::new(rows, 16, vec![0.0; rows * 16]))
    }
}

#[test]
#[ignore = "a measurement, for release builds"]
fn step_cost() {
    for (sequences, prompt, limit) in [(1, 512, 50.0), (64, 512, 200.0), (64, 4096, 200.0)] {
        let spec = Spec {
            vocab_size: 16,
            max_position: 8192,
            block_size: 16,
            kv_block_bytes: 16,
            ..ModelInfo::default().spec
        };
        let config = EngineConfig {
            background: false,
            max_batch_size: sequences,
            prefill_chunk_size: 1 << 20,
            ..Default::default()
        };
        let engine = Engine::from_model(config, Box::new(Free(spec)), None, vec![]).unwrap();
        let mailbox = Mailbox::new().unwrap();
        for i in 0..sequences as u32 {
            let tokens = (0..prompt).map(|t| (t * 7 + i * t / 4) % 16).collect();
            let params = GenerationParams {
                max_tokens: 2000,
                temperature: 0.0,
                ..Default::default()
            };
            engine
                .submit(Request::new(Prompt::Tokens(tokens), params), &mailbox)
                .unwrap();
        }
        while engine.stats().running < sequences {
            engine.step().unwrap();
        }
        // The first steps compute the prompts.
        (0..4).for_each(|_| assert!(engine.step().unwrap().has_work()));
        mailbox.try_poll();
        let mut micros: Vec<f64> = (0..1000)
            .map(|_| {
                let begin = Instant::now();
                engine.step().unwrap();
                let cost = begin.elapsed().as_secs_f64() * 1e6;
                assert_eq!(mailbox.try_poll().len(), sequences);
                cost
            })
            .collect();
        micros.sort_by(f64::total_cmp);
        let (median, late) = (micros[500], micros[990]);
        println!(
            "{sequences} sequences of {prompt}: median {median:.1} us, 99th percentile {late:.1} us"
        );
        assert!(median < limit, "{median} us a step");
    }
}

/// `cargo test --release -p candle-vllm-engine --lib sampling_cost -- --ignored --nocapture`
#[test]
#[ignore = "a measurement, for release builds"]
fn sampling_cost() {
    let row = super::fake::logits([1, 2, 3].into_iter(), 49_152);
    let some = || GenerationParams {
        seed: Some(1),
        ..Default::default()
    };
    let cases = [
        (
            "greedy",
            GenerationParams {
                temperature: 0.0,
                ..some()
            },
        ),
        ("temperature", some()),
        (
            "min_p",
            GenerationParams {
                min_p: 0.1,
                ..some()
            },
        ),
        (
            "top_k 50",
            GenerationParams {
                top_k: Some(50),
                ..some()
            },
        ),
        (
            "top_p 0.95, flat row",
            GenerationParams {
                top_p: 0.95,
                ..some()
            },
        ),
        (
            "top_p 0.95, peaked row",
            GenerationParams {
                top_p: 0.95,
                temperature: 0.3,
                ..some()
            },
        ),
        (
            "top_k and top_p",
            GenerationParams {
                top_k: Some(50),
                top_p: 0.95,
                ..some()
            },
        ),
        (
            "penalties",
            GenerationParams {
                temperature: 0.0,
                frequency_penalty: 0.5,
                ..some()
            },
        ),
    ];
    let mut sampler = Sampler::default();
    let mut measure = |name: &str, work: &mut dyn FnMut(&mut Sampler)| {
        work(&mut sampler);
        let mut micros: Vec<f64> = (0..200)
            .map(|_| {
                let begin = Instant::now();
                work(&mut sampler);
                begin.elapsed().as_secs_f64() * 1e6
            })
            .collect();
        micros.sort_by(f64::total_cmp);
        println!("{name}: median {:.0} us a row", micros[100]);
    };
    for (name, params) in cases {
        let mut state = SamplingState::new(&params, &[1, 2, 3], &[], 0);
        measure(name, &mut |sampler| {
            let token = sampler.sample(&row, &params, &state).unwrap();
            state.accept(token);
        });
    }
    for k in [0, 5, 20] {
        measure(&format!("logprobs {k}"), &mut |sampler| {
            drop(sampler.logprobs(&row, 7, k).unwrap())
        });
    }
}
