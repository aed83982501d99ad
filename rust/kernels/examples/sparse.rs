//! Times a layer of sparse attention on DeepSeek V3.2's shape beside the same layer when each row attends to all keys.
//! `cargo run --release -p candle-vllm-kernels --example sparse [threads] [keys] [rows]`
use candle_vllm_kernels::cpu::attention::{
    AttnParams, Batch, IndexParams, Picks, index, qkv_attention, write_qkv,
};
use candle_vllm_kernels::cpu::kv::{KvCache, KvShape, KvType, Seq};
use candle_vllm_kernels::cpu::rope::Rope;
use candle_vllm_kernels::cpu::{Compute, available_threads};
use std::error::Error;
use std::time::Instant;

const HEADS: usize = 128;
/// Rotating columns and the latent.
const KEY: usize = 576;
const RANK: usize = 512;
const INDEX: IndexParams = IndexParams {
    heads: 64,
    dim: 128,
    most: 2048,
};
/// Rows that are written at a time before anything is timed.
const CHUNK: usize = 512;

fn cache(tokens: usize, key_dim: usize, value_dim: usize) -> Result<KvCache, Box<dyn Error>> {
    Ok(KvCache::new(KvShape {
        layers: 1,
        blocks: tokens.div_ceil(32),
        block_size: 32,
        kv_heads: 1,
        key_dim,
        value_dim,
        latent: true,
        dtype: KvType::Bf16,
    })?)
}

fn params(picks: Option<&Picks>) -> AttnParams<'_> {
    AttnParams {
        heads: HEADS,
        kv_heads: 1,
        head_dim: KEY,
        value_dim: RANK,
        scale: 0.07,
        window: None,
        softcap: None,
        sinks: None,
        temperature: None,
        picks,
    }
}

/// Numbers between -1 and 1 in no order.
fn noise(count: usize) -> Vec<f32> {
    let mut state = 1u32;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(next).collect()
}

/// The least time of several, in milliseconds.
fn least(mut f: impl FnMut()) -> f64 {
    let time = |_| {
        let start = Instant::now();
        f();
        start.elapsed().as_secs_f64() * 1e3
    };
    (0..5).map(time).fold(f64::MAX, f64::min)
}

/// `n` rows behind `past` others.
fn seq(blocks: &[u32], past: usize, n: usize) -> Seq<'_> {
    Seq {
        rows: 0..n,
        position: past,
        blocks,
    }
}

/// A layer of one sequence, and rows for it.
struct Layer {
    cx: Compute,
    rope: Rope,
    blocks: Vec<u32>,
    latents: KvCache,
    narrow: KvCache,
    wave: Vec<f32>,
}

impl Layer {
    /// Writes the index's keys of `n` rows behind `past` others; what the rows pick.
    fn pick(&mut self, past: usize, n: usize, most: usize) -> Picks {
        let params = IndexParams { most, ..INDEX };
        let rows = |width: usize| self.wave[..n * width].to_vec();
        let (mut q, mut k) = (rows(INDEX.heads * INDEX.dim), rows(INDEX.dim));
        let given = (&mut q[..], &mut k[..], &self.wave[..n * INDEX.heads]);
        let seq = seq(&self.blocks, past, n);
        let batch = Batch::new(vec![seq], &self.narrow);
        let (cx, rope, cache) = (&self.cx, &self.rope, &mut self.narrow);
        index(cx, rope, params, given, &batch, cache, 0)
    }

    /// Writes the keys of `n` rows.
    fn fill(&mut self, past: usize, n: usize) {
        self.pick(past, n, usize::MAX);
        let one = AttnParams {
            heads: 1,
            ..params(None)
        };
        let [mut q, mut k] = [0, 1].map(|_| self.wave[..n * KEY].to_vec());
        let seqs = [seq(&self.blocks, past, n)];
        let (cx, rope, cache) = (&self.cx, &self.rope, &mut self.latents);
        write_qkv(cx, rope, &mut q, &mut k, &[], None, &one, &seqs, cache, 0);
    }

    /// Attention of `n` rows, `out` being its result.
    fn attend(&mut self, past: usize, n: usize, picks: Option<&Picks>, out: &mut [f32]) {
        let (q, k) = (&self.wave[..n * HEADS * KEY], &self.wave[..n * KEY]);
        let seq = seq(&self.blocks, past, n);
        let (params, mut batch) = (params(picks), Batch::new(vec![seq], &self.latents));
        let (cx, rope, cache) = (&self.cx, &self.rope, &mut self.latents);
        qkv_attention(
            cx,
            rope,
            q,
            k,
            &[],
            None,
            &params,
            &mut batch,
            cache,
            0,
            out,
        );
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let mut number =
        |default| Ok::<_, Box<dyn Error>>(args.next().map_or(Ok(default), |a| a.parse())?);
    let (threads, keys, rows) = (number(available_threads())?, number(16384)?, number(1)?);
    let widest = (rows * HEADS * KEY).max(CHUNK.max(rows) * INDEX.heads * INDEX.dim);
    let mut layer = Layer {
        cx: Compute::new(threads)?,
        rope: Rope::new((0..32).map(|i| 0.7f32.powi(i)).collect(), 1.0, false),
        blocks: (0..(keys + rows).div_ceil(32) as u32).rev().collect(),
        latents: cache(keys + rows, KEY, RANK)?,
        narrow: cache(keys + rows, INDEX.dim, INDEX.dim)?,
        wave: noise(widest),
    };
    for first in (0..keys).step_by(CHUNK) {
        layer.fill(first, CHUNK.min(keys - first));
    }
    let indexing = least(|| drop(layer.pick(keys, rows, INDEX.most)));
    let picks = layer.pick(keys, rows, INDEX.most);
    let mut out = vec![0.0; rows * HEADS * RANK];
    let picked = least(|| layer.attend(keys, rows, Some(&picks), &mut out));
    let all = least(|| layer.attend(keys, rows, None, &mut out));
    println!(
        "{} {threads} threads, {keys} keys, {rows} rows: index {indexing:.2} ms, picked {picked:.2} ms, all {all:.2} ms",
        layer.cx.cpu.name()
    );
    Ok(())
}
