//! Random workloads against a tiny cache: whatever the order of arrivals, chunks, preemptions, cancellations and cache
//! hits, every request gets what it would get alone, and no block is leaked or owned twice.
use candle_vllm_kernels::cpu::Cpu;
use std::collections::HashMap;
use std::sync::atomic::Ordering;

use super::fake::{BLOCK, Fake, VOCAB, logits};
use crate::event::{Event, FinishReason, TokenLogprob};
use crate::sampler::{Row, Sampler, SamplingState};
use crate::{Engine, EngineConfig, GenerationParams, Mailbox, Prompt, Request};

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

const EOS: u32 = 2;

/// What a request comes to.
#[derive(Debug, Clone, Default, PartialEq)]
struct Outcome {
    tokens: Vec<u32>,
    logprobs: Vec<TokenLogprob>,
    prompt_logprobs: Option<Vec<Option<TokenLogprob>>>,
    reason: Option<FinishReason>,
}

/// One request after the other, without scheduler, blocks or cache.
fn alone(prompt: &[u32], params: &GenerationParams, max_len: usize) -> Outcome {
    let mut sampler = Sampler::new(Cpu::detect().unwrap());
    let mut state = SamplingState::new(params, prompt, &[EOS], 0);
    let mut tokens = prompt.to_vec();
    let score = |k: i32| {
        let score = |i| {
            let row = logits(prompt[..i].iter().copied(), VOCAB);
            Some(
                Sampler::new(Cpu::detect().unwrap())
                    .logprobs(&row, prompt[i], k)
                    .unwrap(),
            )
        };
        std::iter::once(None)
            .chain((1..prompt.len()).map(score))
            .collect()
    };
    let mut out = Outcome {
        prompt_logprobs: params.prompt_logprobs.map(score),
        ..Default::default()
    };
    loop {
        if out.tokens.len() == params.max_tokens || tokens.len() == max_len {
            out.reason = Some(FinishReason::Length);
            return out;
        }
        let row = logits(tokens.iter().copied(), VOCAB);
        let token = sampler.sample(Row::of(&row), params, &state).unwrap();
        if let Some(k) = params.logprobs {
            out.logprobs.push(sampler.logprobs(&row, token, k).unwrap());
        }
        state.accept(token);
        tokens.push(token);
        out.tokens.push(token);
        if params.stop_token_ids.contains(&token) || (!params.ignore_eos && token == EOS) {
            out.reason = Some(FinishReason::Stop);
            return out;
        }
    }
}

fn random_params(random: &mut Random) -> GenerationParams {
    let penalised = random.chance(20);
    let max_tokens = random.below(30);
    GenerationParams {
        max_tokens,
        temperature: if random.chance(40) {
            0.0
        } else {
            0.2 + random.below(20) as f32 / 10.0
        },
        top_k: random.chance(30).then(|| 1 + random.below(VOCAB)),
        top_p: if random.chance(30) { 0.5 } else { 1.0 },
        min_p: if random.chance(20) { 0.1 } else { 0.0 },
        repetition_penalty: if penalised { 1.5 } else { 1.0 },
        frequency_penalty: if penalised { 0.5 } else { 0.0 },
        presence_penalty: if penalised { -0.5 } else { 0.0 },
        stop_token_ids: if random.chance(20) {
            vec![random.below(40) as u32]
        } else {
            vec![]
        },
        ignore_eos: random.chance(50),
        min_tokens: if random.chance(20) {
            random.below(max_tokens + 1)
        } else {
            0
        },
        logprobs: random.chance(30).then(|| random.below(5) as i32 - 1),
        prompt_logprobs: random.chance(20).then(|| random.below(4) as i32 - 1),
        // Few tokens to choose from make texts that repeat themselves.
        logit_bias: match random.below(10) {
            0..2 => vec![(random.below(40) as u32, 2.0)],
            2..5 => (0..3).map(|_| (random.below(40) as u32, 7.0)).collect(),
            _ => vec![],
        },
        seed: Some(random.next()),
        ..Default::default()
    }
}

/// Prompts share prefixes of a few preambles, so that the cache has something to do.
fn random_prompt(random: &mut Random, longest: usize) -> Vec<u32> {
    let preamble = random.below(3) as u32;
    let shared = random.below(longest);
    let own = 1 + random.below(longest - shared);
    let mut prompt: Vec<u32> = (0..shared as u32)
        .map(|i| (i * 7 + preamble * 11) % 40)
        .collect();
    prompt.extend((0..own).map(|_| random.below(40) as u32));
    prompt
}

fn collect(outcomes: &mut HashMap<u64, Outcome>, events: Vec<Event>) {
    for event in events {
        let out = outcomes.entry(event.request).or_default();
        assert_eq!(out.reason, None, "an event after the last one");
        if event.prompt_logprobs.is_some() {
            assert!(out.prompt_logprobs.is_none() && out.tokens.is_empty());
            out.prompt_logprobs = event.prompt_logprobs;
        }
        out.tokens.extend(event.tokens);
        out.logprobs.extend(event.logprobs);
        if let Some(finish) = event.finish {
            out.reason = Some(finish.reason);
            assert_eq!(finish.stats.generated_tokens, out.tokens.len());
            assert!(finish.stats.total_time >= finish.stats.queue_time);
        }
    }
}

/// Totals over runs, to prove that the workloads meet what they are meant to meet.
#[derive(Default)]
struct Seen {
    preemptions: u64,
    hits: u64,
    aborts: u64,
    partial_aborts: usize,
    drafted: u64,
    kept: u64,
}

fn run(seed: u64, recurrent: bool, seen: &mut Seen) {
    let mut random = Random(seed);
    let max_len = 40 + random.below(30);
    let blocks = max_len.div_ceil(BLOCK) + random.below(25);
    let max_batch_size = 1 + random.below(9);
    // From one slot in all to two a sequence.
    let state = [16, 64, 256][random.below(3)];
    let (model, controls) = match recurrent {
        true => Fake::recurrent(200, state),
        false => Fake::small(200),
    };
    let state_bytes = if recurrent { 2 * state as u64 } else { 0 };
    let config = EngineConfig {
        background: false,
        max_batch_size,
        max_sequence_length: Some(max_len),
        kv_cache_memory: Some((blocks * BLOCK * 4) as u64 + state_bytes),
        prefill_chunk_size: [1, 3, 7, 16, 512][random.below(5)],
        enable_chunked_prefill: random.chance(75),
        enable_prefix_cache: random.chance(80),
        speculation: ["off", "ngram"][random.below(2)].into(),
        free_drafts: random.chance(80),
        ..Default::default()
    };
    let engine = Engine::from_model(config.clone(), model, None, vec![EOS]).unwrap();
    let blocks = if recurrent {
        engine.stats().kv_blocks_total
    } else {
        blocks
    };
    assert_eq!(engine.stats().kv_blocks_total, blocks);
    let mailbox = Mailbox::new();
    let (mut requests, mut outcomes, mut aborted) = (Vec::new(), HashMap::new(), Vec::new());
    let total = 10 + random.below(40);
    let mut steps = 0;
    loop {
        while requests.len() < total && random.chance(40) {
            let prompt = random_prompt(&mut random, max_len - 1);
            let params = random_params(&mut random);
            let mut request = Request::new(Prompt::Tokens(prompt.clone()), params.clone());
            request.priority = random.below(2) as i32;
            request.cache_salt = random.chance(20).then(|| "salt".into());
            let id = engine.submit(request, &mailbox).unwrap();
            requests.push((id, prompt, params));
        }
        if !requests.is_empty() && random.chance(10) {
            let id = requests[random.below(requests.len())].0;
            engine.abort(id);
            engine.check_blocks().unwrap();
            aborted.push(id);
        }
        let report = engine.step().unwrap();
        engine
            .check_blocks()
            .unwrap_or_else(|e| panic!("seed {seed}, step {steps}: {e}"));
        let chunked = config.enable_chunked_prefill;
        assert!(!chunked || report.tokens <= config.prefill_chunk_size.max(config.max_batch_size));
        assert!(report.running <= config.max_batch_size);
        assert_eq!(report.tokens > 0, report.sequences > 0);
        collect(&mut outcomes, mailbox.try_poll());
        steps += 1;
        assert!(steps < 100_000, "seed {seed}: no end");
        if requests.len() == total && !report.has_work() {
            break;
        }
    }
    let stats = engine.stats();
    assert_eq!((stats.running, stats.waiting), (0, 0));
    assert_eq!(stats.kv_blocks_free, blocks, "seed {seed}: blocks leaked");
    assert_eq!(stats.counters.finished, total as u64);
    seen.preemptions += stats.counters.preemptions;
    seen.hits += stats.counters.prefix_hit_tokens;
    seen.aborts += stats.counters.aborts;
    seen.drafted += stats.counters.drafted_tokens;
    seen.kept += stats.counters.kept_tokens;
    assert!(controls.steps.load(Ordering::SeqCst) > 0);
    for (id, prompt, params) in &requests {
        let got = &outcomes[id];
        let want = alone(prompt, params, max_len);
        if got.reason == Some(FinishReason::Cancelled) {
            assert!(aborted.contains(id));
            assert!(
                want.tokens.starts_with(&got.tokens),
                "seed {seed}, request {id}, cancelled"
            );
            seen.partial_aborts += usize::from(!got.tokens.is_empty());
        } else {
            assert_eq!(*got, want, "seed {seed}, request {id}: {params:?}");
        }
    }
}

#[test]
fn outcomes_do_not_depend_on_scheduling() {
    let mut seen = Seen::default();
    for seed in 0..400 {
        run(seed, false, &mut seen);
    }
    assert!(seen.preemptions > 200, "{}", seen.preemptions);
    assert!(seen.hits > 5_000, "{}", seen.hits);
    let (drafted, kept) = (seen.drafted, seen.kept);
    assert!(kept > 200 && drafted - kept > 200, "{drafted} {kept}");
    assert!(
        seen.aborts > 300 && seen.partial_aborts > 50,
        "{} {}",
        seen.aborts,
        seen.partial_aborts
    );
}

#[test]
fn nor_do_those_of_a_model_with_a_state() {
    let mut seen = Seen::default();
    for seed in 1000..1400 {
        run(seed, true, &mut seen);
    }
    assert!(seen.preemptions > 100, "{}", seen.preemptions);
    assert!(seen.hits > 1_500, "{}", seen.hits);
    assert_eq!(seen.drafted, 0, "a state cannot be taken back");
    assert!(seen.aborts > 300 && seen.partial_aborts > 50);
}
