//! Times paged attention: decode of one sequence, decode of a batch, and prefill, on the shapes of small models.
//! `cargo run --release -p candle-vllm-kernels --example attention [threads] [length] [smollm2|qwen3|qwen2|deepseek] [stream|pool|inner|decode|batch|prefill|heads] [f32|f16|bf16|int8|fp8]`
//!
//! `deepseek` keeps latents, whose layers also multiply by head before and after: `heads` times that, in bf16 matrices.
use candle_vllm_kernels::cpu::attention::{AttnParams, Batch, qkv_attention};
use candle_vllm_kernels::cpu::kv::{KvCache, KvShape, KvType, Seq};
use candle_vllm_kernels::cpu::rope::Rope;
use candle_vllm_kernels::cpu::{ByHead, Compute, Parts, available_threads, by_head};
use std::error::Error;
use std::time::{Duration, Instant};

struct Model {
    name: &'static str,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    /// Width of the values that are the keys' last columns, where a cache keeps latents.
    latent: Option<usize>,
}

impl Model {
    fn value_dim(&self) -> usize {
        self.latent.unwrap_or(self.head_dim)
    }
}

/// Columns of a head of DeepSeek-V2-Lite that do not rotate, and of its values.
const OWN: usize = 128;

const MODELS: [Model; 4] = [
    Model {
        name: "smollm2",
        layers: 30,
        heads: 9,
        kv_heads: 3,
        head_dim: 64,
        latent: None,
    },
    Model {
        name: "qwen3",
        layers: 28,
        heads: 16,
        kv_heads: 8,
        head_dim: 128,
        latent: None,
    },
    // Qwen2.5-0.5B
    Model {
        name: "qwen2",
        layers: 24,
        heads: 14,
        kv_heads: 2,
        head_dim: 64,
        latent: None,
    },
    // DeepSeek-V2-Lite, the first 4 of its 27 layers
    Model {
        name: "deepseek",
        layers: 4,
        heads: 16,
        kv_heads: 1,
        head_dim: 576,
        latent: Some(512),
    },
];

/// Repeats `f` for about half a second; the median, and the least.
fn measure(mut f: impl FnMut()) -> (Duration, Duration) {
    let begin = Instant::now();
    let mut times = Vec::new();
    while times.len() < 3 || begin.elapsed() < Duration::from_millis(200) {
        let start = Instant::now();
        f();
        times.push(start.elapsed());
    }
    times.sort();
    (times[times.len() / 2], times[0])
}

struct Bench<'a> {
    cx: &'a Compute,
    model: &'a Model,
    dtype: KvType,
    rope: Rope,
    wave: &'a [f32],
}

impl Bench<'_> {
    fn params(&self) -> AttnParams<'static> {
        AttnParams {
            heads: self.model.heads,
            kv_heads: self.model.kv_heads,
            head_dim: self.model.head_dim,
            value_dim: self.model.value_dim(),
            scale: (self.model.head_dim as f32).powf(-0.5),
            window: None,
            softcap: None,
            sinks: None,
            temperature: None,
            picks: None,
        }
    }

    /// Operations of all layers for `pairs` pairs of a query and a key.
    fn flop(&self, pairs: usize) -> f64 {
        let dims = self.model.head_dim + self.model.value_dim();
        (2 * pairs * self.model.heads * dims * self.model.layers) as f64
    }

    fn cache(&self, tokens: usize) -> Result<KvCache, Box<dyn Error>> {
        Ok(KvCache::new(KvShape {
            layers: self.model.layers,
            blocks: tokens.div_ceil(32),
            block_size: 32,
            kv_heads: self.model.kv_heads,
            key_dim: self.model.head_dim,
            value_dim: self.model.value_dim(),
            latent: self.model.latent.is_some(),
            dtype: self.dtype,
        })?)
    }

    /// All layers of `rows` new tokens for each of `seqs` sequences, `past` tokens being in the cache.
    fn step(&self, cache: &mut KvCache, tables: &[Vec<u32>], past: usize, rows: usize) {
        let n = rows * tables.len();
        let (heads, kv, dim) = (self.model.heads, self.model.kv_heads, self.model.head_dim);
        let q = &self.wave[..n * heads * dim];
        let values = self.model.latent.map_or(n * kv * dim, |_| 0);
        let (k, v) = (&self.wave[..n * kv * dim], &self.wave[1..=values]);
        let mut out = vec![0.0; n * heads * self.model.value_dim()];
        let seqs: Vec<Seq<'_>> = tables
            .iter()
            .enumerate()
            .map(|(i, blocks)| Seq {
                rows: i * rows..(i + 1) * rows,
                position: past,
                blocks,
            })
            .collect();
        let (params, mut batch) = (self.params(), Batch::new(seqs, cache));
        for layer in 0..self.model.layers {
            let (cx, rope) = (self.cx, &self.rope);
            qkv_attention(
                cx, rope, q, k, v, None, &params, &mut batch, cache, layer, &mut out,
            );
        }
        std::hint::black_box(&out);
    }

    fn decode(&self, sequences: usize, past: usize) -> Result<(), Box<dyn Error>> {
        let blocks = (past + 1).div_ceil(32);
        let mut cache = self.cache(sequences * blocks * 32)?;
        let tables: Vec<Vec<u32>> = (0..sequences)
            .map(|s| (s * blocks..(s + 1) * blocks).map(|b| b as u32).collect())
            .collect();
        let fit = self.wave.len() / (self.model.heads * self.model.head_dim);
        let chunk = (fit.min(4096) / sequences).min(512);
        for first in (0..past).step_by(chunk) {
            self.step(&mut cache, &tables, first, chunk.min(past - first));
        }
        let (time, best) = measure(|| self.step(&mut cache, &tables, past, 1));
        let value = self.model.latent.map_or(self.model.head_dim, |_| 0);
        let kv = self.model.kv_heads * (self.model.head_dim + value) * self.dtype.bytes();
        let bytes = sequences * past * kv * self.model.layers;
        println!(
            "{:8} {:?} decode {sequences:3} x {past:5}: {:8.1} us a layer, {:8.3} ms a step, {:6.1} GB/s, {:6.1} GFLOP/s",
            self.model.name,
            self.dtype,
            time.as_secs_f64() * 1e6 / self.model.layers as f64,
            time.as_secs_f64() * 1e3,
            bytes as f64 / time.as_secs_f64() / 1e9,
            self.flop(sequences * past) / time.as_secs_f64() / 1e9
        );
        println!("    at best {:8.3} ms", best.as_secs_f64() * 1e3);
        Ok(())
    }

    /// One head group of one layer: 512 rows after 1,536 tokens, in nanoseconds for 32 rows and 256 keys.
    fn inner(&self) -> Result<(), Box<dyn Error>> {
        let group = self.model.heads / self.model.kv_heads;
        let model = &Model {
            layers: 1,
            heads: group,
            kv_heads: 1,
            ..*self.model
        };
        let rope = Rope::new(vec![0.1; model.head_dim / 2], 1.0, false);
        let one = Bench {
            cx: self.cx,
            model,
            dtype: self.dtype,
            rope,
            wave: self.wave,
        };
        let mut cache = one.cache(2048)?;
        let tables = [(0..64).collect::<Vec<_>>()];
        for first in (0..1536).step_by(512) {
            one.step(&mut cache, &tables, first, 512);
        }
        let (_, best) = measure(|| one.step(&mut cache, &tables, 1536, 512));
        // Two blocks of 256 rows, which see 7 and 8 segments.
        let tiles = (256 * group / 32 * (7 + 8)) as f64;
        println!(
            "{:8} {:?} inner: {:.0} ns",
            model.name,
            self.dtype,
            best.as_secs_f64() * 1e9 / tiles
        );
        Ok(())
    }

    /// The modes asked for, at all lengths or at one.
    fn all(
        &self,
        asked: &dyn Fn(&'static str) -> bool,
        only: Option<usize>,
    ) -> Result<(), Box<dyn Error>> {
        let long = if self.dtype == KvType::F32 {
            2048
        } else {
            8192
        };
        let wanted = |n: usize| n <= long && only.is_none_or(|o| o == n);
        if asked("inner") {
            self.inner()?;
        }
        if asked("decode") {
            for past in [64, 256, 512, 1024, 2048, 4096, 8192] {
                if wanted(past) {
                    self.decode(1, past)?;
                }
            }
        }
        if asked("batch") {
            // Most steps begin no page.
            for (sequences, past) in [(16, 110), (64, 110), (16, 1030)] {
                self.decode(sequences, past)?;
            }
        }
        if asked("prefill") {
            for tokens in [512, 2048, 8192] {
                if wanted(tokens) {
                    self.prefill(tokens, tokens.min(2048))?;
                    self.prefill(tokens, 512)?;
                }
            }
        }
        Ok(())
    }

    fn prefill(&self, tokens: usize, chunk: usize) -> Result<(), Box<dyn Error>> {
        let mut cache = self.cache(tokens)?;
        let tables = [(0..tokens.div_ceil(32) as u32).collect::<Vec<_>>()];
        let (time, best) = measure(|| {
            for first in (0..tokens).step_by(chunk) {
                self.step(&mut cache, &tables, first, chunk.min(tokens - first));
            }
        });
        println!(
            "{:8} {:?} prefill {tokens:5} in {chunk:4}: {:8.1} us a layer, {:8.2} ms, {:7.0} tok/s, {:6.1} GFLOP/s",
            self.model.name,
            self.dtype,
            time.as_secs_f64() * 1e6 / self.model.layers as f64,
            time.as_secs_f64() * 1e3,
            tokens as f64 / time.as_secs_f64(),
            self.flop(tokens * tokens / 2) / time.as_secs_f64() / 1e9
        );
        println!("    at best {:8.3} ms", best.as_secs_f64() * 1e3);
        Ok(())
    }
}

/// What a layer of latents multiplies by head: queries before they meet the latents, and what they get.
fn by_heads(cx: &Compute, model: &Model, rank: usize, wave: &[f32]) {
    let heads = model.heads;
    let weight = |head: usize, n: usize, k: usize| wave[(head * 7 + n * 3 + k) % wave.len()];
    for (name, n, k) in [("absorb", rank, OWN), ("expand", OWN, rank)] {
        let w = ByHead::new([heads, n, k], false, weight);
        let parts = |step: usize| Parts {
            width: heads * step,
            first: 0,
            step,
        };
        for rows in [1, 4, 16, 512, 2048] {
            let mut out = vec![0.0; rows * heads * n];
            let x = &wave[..rows * heads * k];
            let (time, best) = measure(|| by_head(cx, &w, (x, parts(k)), (&mut out, parts(n))));
            println!(
                "{:8} {name} {rows:4} rows: {:8.1} us, at best {:8.1}, {:6.1} GFLOP/s, {:5.1} GB/s of weights",
                model.name,
                time.as_secs_f64() * 1e6,
                best.as_secs_f64() * 1e6,
                (2 * rows * heads * n * k) as f64 / time.as_secs_f64() / 1e9,
                w.bytes() as f64 / time.as_secs_f64() / 1e9
            );
        }
    }
}

/// An empty region, hot and after a pause.
fn pool(cx: &Compute) {
    let n = 20_000;
    let (hot, _) = measure(|| (0..n).for_each(|_| cx.pool.run(&|_| {})));
    println!(
        "empty region: {:.2} us",
        hot.as_secs_f64() * 1e6 / f64::from(n)
    );
    for gap in [5, 20, 100, 500] {
        let mut total = Duration::ZERO;
        for _ in 0..200 {
            let pause = Instant::now();
            while pause.elapsed() < Duration::from_micros(gap) {
                std::hint::spin_loop();
            }
            let start = Instant::now();
            cx.pool.run(&|_| {});
            total += start.elapsed();
        }
        println!(
            "after {gap} us: {:.2} us",
            total.as_secs_f64() * 1e6 / 200.0
        );
    }
}

/// Reads memory of several sizes as fast as the threads can: what decode is held against.
fn stream(cx: &Compute) {
    for mega in [1, 24, 98, 190, 900] {
        let data = vec![1u64; mega << 17];
        let threads = cx.pool.threads();
        let (time, best) = measure(|| {
            cx.pool.run(&|worker| {
                let part = data.len() / threads;
                let part = &data[worker * part..(worker + 1) * part];
                let mut sums = [0u64; 32];
                for chunk in part.chunks_exact(32) {
                    for (s, v) in sums.iter_mut().zip(chunk) {
                        *s = s.wrapping_add(*v);
                    }
                }
                std::hint::black_box(sums);
            });
        });
        let rate = |t: Duration| (data.len() * 8) as f64 / t.as_secs_f64() / 1e9;
        println!(
            "read {mega:4} MB: {:.1} GB/s, at best {:.1}",
            rate(time),
            rate(best)
        );
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    let threads = words.first().and_then(|w| w.parse().ok());
    let only: Option<usize> = words.iter().filter_map(|w| w.parse().ok()).nth(1);
    words.retain(|w| w.parse::<usize>().is_err());
    let cx = Compute::new(threads.unwrap_or_else(available_threads))?;
    println!("{} with {} threads", cx.cpu.name(), cx.pool.threads());
    let asked = |word: &str, all: &[&str]| {
        let named = |w: &&str| words.iter().any(|x| x == w);
        named(&word) || !all.iter().any(named)
    };
    let modes = [
        "stream", "inner", "pool", "decode", "batch", "prefill", "heads",
    ];
    if asked("stream", &modes) {
        stream(&cx);
    }
    if asked("pool", &modes) {
        pool(&cx);
    }
    // Enough for the queries of 4,096 rows, of 2,048 where they meet latents.
    let wave: Vec<f32> = (0..2048 * 16 * 576)
        .map(|i| (i as f32 * 0.37).sin())
        .collect();
    for model in &MODELS {
        let by_head = asked("heads", &modes) && asked(model.name, &MODELS.map(|m| m.name));
        if let Some(rank) = model.latent.filter(|_| by_head) {
            by_heads(&cx, model, rank, &wave);
        }
        for dtype in KvType::ALL {
            let types = KvType::ALL.map(KvType::name);
            if asked(model.name, &MODELS.map(|m| m.name)) && asked(dtype.name(), &types) {
                let half = (model.head_dim - model.latent.unwrap_or(0)) / 2;
                let frequency = |i: usize| 1e4f32.powf(-(i as f32) / half as f32);
                let rope = Rope::new((0..half).map(frequency).collect(), 1.0, false);
                let bench = Bench {
                    cx: &cx,
                    model,
                    dtype,
                    rope,
                    wave: &wave,
                };
                bench.all(&|mode| asked(mode, &modes), only)?;
            }
        }
    }
    Ok(())
}
