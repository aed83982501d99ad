//! What a step costs beside the model, by part, in microseconds: a model that only hands out prepared logits.
//! `cargo run --release -p candle-vllm-engine --example step [threads] [vocabulary] [sequences] [sampling]`
use std::error::Error;
use std::sync::Mutex;

use candle_vllm_engine::{
    Engine, EngineConfig, GenerationParams, Mailbox, Prompt, Request, StepCost, Tokenizer,
};
use candle_vllm_kernels::cpu::logits::{maxima as maxima_of, maxima_len};
use candle_vllm_kernels::cpu::{Compute, available_threads};
use candle_vllm_model::backend::tensor::Recycler;
use candle_vllm_model::weights::TokenizerSource;
use candle_vllm_model::{Kv, Logits, Model, Pending, Result, Spec, Step};

/// Tokens of each prompt.
const PROMPT: usize = 512;
/// Steps that are measured.
const STEPS: usize = 300;

/// Writes prepared logits and finds their maxima, as a head does, and computes nothing.
struct Prepared {
    spec: Spec,
    compute: Compute,
    logits: Vec<f32>,
    spare: Recycler,
    steps: usize,
}

impl Prepared {
    fn new(threads: usize, vocab: usize) -> std::result::Result<Self, Box<dyn Error>> {
        let spec = Spec {
            architecture: "Prepared".into(),
            layers: 1,
            hidden_size: 1,
            vocab_size: vocab,
            max_position: 8192,
            kv_block_bytes: 64,
            state_bytes: 0,
            block_size: 32,
            row_bytes: 4,
            dtype: "f32".into(),
            kv_dtype: "f32".into(),
            parameters: 0,
            weight_bytes: 0,
            device: "cpu".into(),
            threads,
        };
        Ok(Self {
            spec,
            compute: Compute::new(threads)?,
            logits: text_like(vocab),
            spare: Recycler::default(),
            steps: 0,
        })
    }
}

/// Logits of which the n-th largest is about 1.8 ln(n) below the best, in random places: 25 tokens
/// make up 0.95 of the mass, as a model of language has it where text is not quite certain.
fn text_like(vocab: usize) -> Vec<f32> {
    let mut state = 1u64;
    let mut random = move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32
    };
    let mut order: Vec<usize> = (0..vocab).collect();
    for i in (1..vocab).rev() {
        order.swap(i, (random() * i as f32) as usize);
    }
    let mut logits = vec![0.0; vocab];
    for (rank, id) in order.into_iter().enumerate() {
        logits[id] = 18.0 - 1.8 * (rank as f32 + 1.0).ln() + random() * 0.5;
    }
    logits
}

impl Model for Prepared {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn new_kv(&self, blocks: usize, _states: usize) -> Result<Kv> {
        Ok(Kv::new(blocks, 32, Box::new(())))
    }

    fn launch<'a>(&'a mut self, step: &'a Step, _: &'a mut Kv) -> Result<Pending<'a>> {
        Ok(Pending::new(|| self.run(step)))
    }

    fn compute(&self) -> Option<&Compute> {
        Some(&self.compute)
    }
}

impl Prepared {
    fn run(&mut self, step: &Step) -> Result<Logits> {
        let (rows, vocab) = (step.logits_rows(), self.spec.vocab_size);
        self.steps += 1;
        let mut out = self.spare.tensor(rows, vocab);
        let length = maxima_len(vocab);
        let mut maxima = self.spare.tensor(rows, length);
        let each = out.data_mut()?.chunks_mut(vocab);
        let each = each.zip(maxima.data_mut()?.chunks_mut(length));
        let rows: Vec<Mutex<(&mut [f32], &mut [f32])>> = each.map(Mutex::new).collect();
        let (logits, turn, cpu) = (&self.logits, self.steps, self.compute.cpu);
        self.compute.pool.for_each(rows.len(), &|row| {
            if let Ok(mut row_of) = rows[row].lock() {
                let (to, most) = &mut *row_of;
                // Every row and step has its own place for the best.
                let at = (row * 7919 + turn * 104_729) % vocab;
                to[..vocab - at].copy_from_slice(&logits[at..]);
                to[vocab - at..].copy_from_slice(&logits[..at]);
                maxima_of(cpu, to, most);
            }
        });
        drop(rows);
        Ok(Logits::with_maxima(out, maxima))
    }
}

/// A byte-level vocabulary of `size` words.
fn tokenizer(size: usize) -> std::result::Result<Tokenizer, Box<dyn Error>> {
    let words = (0..size).map(|id| format!("\"\u{120}w{id}\":{id}"));
    let vocab = words.collect::<Vec<_>>().join(",");
    let byte_level =
        r#"{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true}"#;
    let json = format!(
        r#"{{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
"pre_tokenizer":{byte_level},"post_processor":null,"decoder":{byte_level},
"model":{{"type":"BPE","dropout":null,"unk_token":null,"fuse_unk":false,"vocab":{{{vocab}}},"merges":[]}}}}"#
    );
    let folder = std::env::temp_dir().join(format!("candle-vllm-step-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("tokenizer.json"), json)?;
    let tokenizer = Tokenizer::load(&TokenizerSource::Folder(folder.clone()));
    std::fs::remove_dir_all(folder)?;
    Ok(tokenizer?)
}

fn params(change: impl FnOnce(&mut GenerationParams)) -> GenerationParams {
    let mut params = GenerationParams {
        max_tokens: 4000,
        stop_sequences: vec!["</s>".into(), "\n\nUser:".into()],
        seed: Some(1),
        ..Default::default()
    };
    change(&mut params);
    params
}

/// The median of each part over the steps of `sequences` that decode.
fn measure(
    threads: usize,
    vocab: usize,
    sequences: usize,
    tokenizer: &Tokenizer,
    params: &GenerationParams,
) -> std::result::Result<StepCost, Box<dyn Error>> {
    let config = EngineConfig {
        background: false,
        max_batch_size: sequences,
        prefill_chunk_size: 1 << 16,
        kv_cache_memory: Some(sequences as u64 * 256 * 64),
        ..Default::default()
    };
    let model = Box::new(Prepared::new(threads, vocab)?);
    let engine = Engine::from_model(config, model, Some(tokenizer.clone()), vec![])?;
    let mailbox = Mailbox::new();
    for i in 0..sequences {
        let tokens = (0..PROMPT)
            .map(|t| ((t * 7 + i * t / 4) % vocab) as u32)
            .collect();
        engine.submit(
            Request::new(Prompt::Tokens(tokens), params.clone()),
            &mailbox,
        )?;
    }
    while engine.stats().running < sequences {
        engine.step()?;
    }
    let mut costs = Vec::new();
    for step in 0..STEPS + 20 {
        let report = engine.step()?;
        if mailbox.try_poll().len() < sequences {
            return Err("a sequence said nothing in a step".into());
        }
        if step >= 20 {
            costs.push(report.cost);
        }
    }
    let median = |part: &dyn Fn(&StepCost) -> f32| {
        let mut all: Vec<f32> = costs.iter().map(part).collect();
        all.sort_by(f32::total_cmp);
        all[all.len() / 2]
    };
    Ok(StepCost {
        schedule: median(&|c| c.schedule),
        model: median(&|c| c.overhead()),
        sample: median(&|c| c.sample),
        book: median(&|c| c.book),
        publish: median(&|c| c.publish),
    })
}

fn main() -> std::result::Result<(), Box<dyn Error>> {
    let number = |i: usize| {
        std::env::args()
            .nth(i)
            .and_then(|a| a.parse::<usize>().ok())
    };
    let threads = number(1).unwrap_or_else(available_threads);
    let sampling = std::env::args().nth(4);
    let cases = [
        ("greedy", params(|p| p.temperature = 0.0)),
        ("temperature 1", params(|_| ())),
        ("top_p 0.95", params(|p| p.top_p = 0.95)),
        (
            "flat, top_p 0.95",
            params(|p| (p.temperature, p.top_p) = (1.8, 0.95)),
        ),
        ("top_k 50", params(|p| p.top_k = Some(50))),
        (
            "top_k 50, top_p 0.95",
            params(|p| (p.top_k, p.top_p) = (Some(50), 0.95)),
        ),
        ("min_p 0.05", params(|p| p.min_p = 0.05)),
    ];
    println!(
        "{threads} threads, {}; medians in microseconds",
        Compute::new(threads)?.cpu.name()
    );
    println!(
        "{:>7} {:>4} {:<22}{:>9}{:>8}{:>8}{:>8}{:>8}",
        "vocab", "seqs", "sampling", "schedule", "sample", "book", "publish", "all"
    );
    for vocab in [49_152, 151_936]
        .into_iter()
        .filter(|&v| number(2).is_none_or(|n| n == v))
    {
        let tokenizer = tokenizer(vocab)?;
        for sequences in [1, 16, 64]
            .into_iter()
            .filter(|&s| number(3).is_none_or(|n| n == s))
        {
            let asked = cases
                .iter()
                .filter(|(name, _)| sampling.as_deref().is_none_or(|s| name.contains(s)));
            for (name, params) in asked {
                let c = measure(threads, vocab, sequences, &tokenizer, params)?;
                println!(
                    "{vocab:>7} {sequences:>4} {name:<22}{:>9.1}{:>8.1}{:>8.1}{:>8.1}{:>8.1}",
                    c.schedule, c.sample, c.book, c.publish, c.model
                );
            }
        }
    }
    Ok(())
}
