//! A random workload on a real (tiny) model by many clients at once: arrivals, lengths, priorities, cancellations, clients
//! that vanish, answers that are held to a form, speculation, tight and ample memory, chunks of any size. Whatever happens, every answer is the one that
//! its request gets alone, all blocks come back, and memory does not grow. `CANDLE_VLLM_SOAK=1800` runs it for so many
//! seconds; by default it takes a few.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use candle_vllm_engine::{
    Engine, EngineConfig, FinishReason, Form, GenerationParams, Mailbox, Prompt, Request,
    StructuredOutput,
};

/// Distinct requests.
const REQUESTS: usize = 48;
/// Clients at once.
const CLIENTS: usize = 6;
/// Seconds that an engine lives before another one, set up otherwise, takes its place.
const ROUND: u64 = 20;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) % n as u64) as usize
    }
}

fn open(config: EngineConfig) -> Engine {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/gguf/llama.gguf");
    let config = EngineConfig {
        model_path: path,
        max_sequence_length: Some(256),
        ..config
    };
    Engine::open(config, None).unwrap()
}

/// Forms of one word, of many, and of what has forced parts.
fn form(random: &mut Random) -> Option<StructuredOutput> {
    let schema = r#"{"type":"object","properties":{"name":{"type":"string","maxLength":12},"ok":{"type":"boolean"}},
        "required":["name","ok"],"additionalProperties":false}"#;
    let form = match random.below(9) {
        0 => Form::Regex("[a-z ]{1,60}".into()),
        1 => Form::JsonSchema(schema.into()),
        2 => Form::Choice(vec!["the sea".into(), "the seat".into(), "a ship".into()]),
        _ => return None,
    };
    Some(StructuredOutput::of(form))
}

/// The `i`-th request: prompts share beginnings, and some answers repeat themselves.
fn request(i: usize) -> Request {
    let mut random = Random(i as u64);
    let shared = random.below(80);
    let own = 1 + random.below(100);
    let mut prompt: Vec<u32> = (0..shared)
        .map(|t| ((t * 31 + i % 3) % 290 + 4) as u32)
        .collect();
    prompt.extend((0..own).map(|t| (random.below(if t % 9 == 0 { 290 } else { 7 }) + 4) as u32));
    let params = GenerationParams {
        max_tokens: 1 + random.below(160),
        temperature: [0.0, 0.7, 1.2][random.below(3)],
        top_p: [1.0, 0.8][random.below(2)],
        repetition_penalty: [1.0, 1.0, 1.3][random.below(3)],
        logit_bias: match random.below(2) {
            0 => (0..3).map(|t| (20 + t, 12.0)).collect(),
            _ => Vec::new(),
        },
        stop_sequences: match random.below(4) {
            0 => vec!["e ".into(), "th".into()],
            _ => Vec::new(),
        },
        logprobs: [None, Some(2)][random.below(2)],
        prompt_logprobs: [None, None, Some(1)][random.below(3)],
        ignore_eos: random.below(2) == 0,
        seed: Some(i as u64),
        structured_output: form(&mut random),
        ..Default::default()
    };
    Request::new(Prompt::Tokens(prompt), params)
}

/// All that a request says.
#[derive(Debug, Clone, Default, PartialEq)]
struct Answer {
    tokens: Vec<u32>,
    text: String,
    bits: Vec<u32>,
    reason: Option<FinishReason>,
}

/// Reads one request to its end.
fn read(mailbox: &Mailbox) -> Answer {
    let mut answer = Answer::default();
    let patience = Instant::now() + Duration::from_secs(300);
    while answer.reason.is_none() {
        assert!(Instant::now() < patience, "an answer hangs: {answer:?}");
        for event in mailbox.poll(Some(Duration::from_secs(1))) {
            assert!(answer.reason.is_none(), "an event after the last one");
            answer.tokens.extend(&event.tokens);
            answer.text.push_str(&event.text);
            let scored = event.prompt_logprobs.iter().flatten().flatten();
            for score in scored.chain(&event.logprobs) {
                answer.bits.push(score.logprob.to_bits());
                answer
                    .bits
                    .extend(score.top.iter().flat_map(|t| [t.0, t.1.to_bits()]));
            }
            answer.reason = event.finish.map(|f| f.reason);
        }
    }
    answer
}

/// Resident bytes of this process, where the system tells.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm
        .split_whitespace()
        .nth(1)
        .and_then(|p| p.parse::<usize>().ok());
    pages.unwrap_or(0) * 4096
}

/// What one client did.
#[derive(Default)]
struct Tally {
    compared: AtomicUsize,
    cancelled: AtomicUsize,
    vanished: AtomicUsize,
}

fn client(engine: &Engine, seed: u64, stop: &AtomicBool, alone: &[Answer], tally: &Tally) {
    let mut random = Random(seed);
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(random.below(30) as u64));
        let mailboxes: Vec<(usize, u64, Mailbox)> = (0..1 + random.below(6))
            .map(|_| {
                let i = random.below(alone.len());
                let mut request = request(i);
                request.priority = random.below(3) as i32 - 1;
                request.cache_salt = (random.below(5) == 0).then(|| "salt".into());
                let mailbox = Mailbox::new();
                (i, engine.submit(request, &mailbox).unwrap(), mailbox)
            })
            .collect();
        for (i, id, mailbox) in mailboxes {
            match random.below(8) {
                0 => {
                    engine.abort(id);
                    let answer = read(&mailbox);
                    if answer.reason == Some(FinishReason::Cancelled) {
                        assert!(alone[i].tokens.starts_with(&answer.tokens), "request {i}");
                        tally.cancelled.fetch_add(1, Ordering::Relaxed);
                    } else {
                        assert_eq!(answer, alone[i], "request {i}");
                    }
                }
                1 => {
                    std::thread::sleep(Duration::from_millis(random.below(20) as u64));
                    tally.vanished.fetch_add(1, Ordering::Relaxed);
                }
                _ => {
                    assert_eq!(read(&mailbox), alone[i], "request {i}");
                    tally.compared.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }
}

/// One engine's life: all is returned in the end.
fn round(random: &mut Random, seconds: f64, alone: &[Answer], tally: &Tally) -> [u64; 3] {
    let probe = open(EngineConfig::default())
        .model_info()
        .spec
        .kv_block_bytes as u64;
    let engine = open(EngineConfig {
        max_batch_size: 1 + random.below(10),
        prefill_chunk_size: [1, 5, 32, 512][random.below(4)],
        enable_chunked_prefill: random.below(4) > 0,
        enable_prefix_cache: random.below(4) > 0,
        kv_cache_memory: Some(probe * [9, 16, 100][random.below(3)]),
        speculation: ["ngram", "off"][random.below(3) / 2].into(),
        threads: Some(1 + random.below(2)),
        ..Default::default()
    });
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            let (engine, stop, seed) = (&engine, &stop, random.below(usize::MAX) as u64);
            scope.spawn(move || client(engine, seed, stop, alone, tally));
        }
        std::thread::sleep(Duration::from_secs_f64(seconds));
        stop.store(true, Ordering::Relaxed);
    });
    let patience = Instant::now() + Duration::from_secs(60);
    while engine.stats().running + engine.stats().waiting > 0 {
        assert!(Instant::now() < patience, "{:?}", engine.stats());
        std::thread::sleep(Duration::from_millis(5));
    }
    let stats = engine.stats();
    assert!(stats.healthy, "{:?}", stats.failure);
    assert_eq!(stats.kv_blocks_free, stats.kv_blocks_total, "blocks leaked");
    assert_eq!(stats.counters.errors, 0);
    let c = stats.counters;
    [c.preemptions, c.drafted_tokens, c.kept_tokens]
}

#[test]
fn answers_do_not_depend_on_what_else_happens_and_nothing_leaks() {
    let seconds = std::env::var("CANDLE_VLLM_SOAK").ok();
    let seconds: f64 = seconds.and_then(|s| s.parse().ok()).unwrap_or(4.0);
    let alone: Vec<Answer> = {
        let engine = open(EngineConfig {
            enable_prefix_cache: false,
            threads: Some(1),
            ..Default::default()
        });
        let answer = |i| {
            let mailbox = Mailbox::new();
            engine.submit(request(i), &mailbox).unwrap();
            read(&mailbox)
        };
        (0..REQUESTS).map(answer).collect()
    };
    let (tally, mut random) = (Tally::default(), Random(seconds.to_bits()));
    let (begin, mut rounds, mut settled) = (Instant::now(), 0usize, 0);
    let mut seen = [0; 3];
    while begin.elapsed().as_secs_f64() < seconds {
        let one = round(
            &mut random,
            (seconds / 2.0).min(ROUND as f64),
            &alone,
            &tally,
        );
        seen.iter_mut().zip(one).for_each(|(all, one)| *all += one);
        rounds += 1;
        if rounds == 3 {
            settled = resident();
        }
        let [preempted, drafted, kept] = seen;
        println!(
            "{:.0} s: {} answers compared, {} cancelled, {} vanished, {preempted} preemptions, {kept} of {drafted} drafted \
             tokens kept, {} MB",
            begin.elapsed().as_secs_f64(),
            tally.compared.load(Ordering::Relaxed),
            tally.cancelled.load(Ordering::Relaxed),
            tally.vanished.load(Ordering::Relaxed),
            resident() >> 20
        );
    }
    assert!(tally.compared.load(Ordering::Relaxed) > 10);
    assert!(
        rounds <= 3 || resident() < settled + (48 << 20),
        "memory grows"
    );
}
