//! Sequences with random queries, keys and values, and the ways in which they may be fed to attention.
use super::super::super::kv::{KvCache, KvShape, KvType, Seq};
use super::super::super::rope::Rope;
#[cfg(target_arch = "x86_64")]
use super::super::super::tile_unit::Tiles;
use super::super::super::{Compute, Cpu};
#[cfg(target_arch = "x86_64")]
use super::super::tile::{PAGES, PROBS, ROWS, Rules, SCORES, Tile};
use super::super::{
    AttnParams, Batch, QkNorm, Temperature, Window, attention, q_attention, qkv_attention,
    write_qkv,
};

/// A small linear congruential generator.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as u32
    }
    pub fn below(&mut self, n: usize) -> usize {
        self.next() as usize % n
    }
    /// About normal, mean 0, deviation 1.
    pub fn normal(&mut self) -> f32 {
        (0..12)
            .map(|_| self.next() as f32 / (1u32 << 31) as f32)
            .sum::<f32>()
            - 6.0
    }
    pub fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.normal()).collect()
    }
}

/// How sequences are fed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Way {
    /// One after the other, each whole, on one thread; writes apart from attention.
    Whole,
    /// Random chunks in random batches on random numbers of threads.
    Mixed,
    /// The same by the entry that writes and attends in one.
    MixedFused,
    /// The same by the entry of layers whose keys another has written.
    MixedShared,
    /// All but the last 3 tokens, then one by one in a batch, fused, on as many threads.
    LastOneByOne(usize),
}

#[derive(Debug, Clone)]
pub struct Scenario {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub value_dim: usize,
    /// Values are the last columns of the keys.
    pub latent: bool,
    pub lengths: Vec<usize>,
    pub scale: f32,
    pub window: Option<Window>,
    pub softcap: Option<f32>,
    pub sinks: Vec<f32>,
    pub norm: bool,
    pub after_rope: bool,
    pub temperature: Option<Temperature>,
    pub rotary_dim: usize,
    pub interleaved: bool,
    pub block_size: usize,
    /// Token 20 has a NaN in its query, key or value (0, 1, 2).
    pub poison: Option<usize>,
}

/// Inputs of one call.
#[derive(Default)]
struct Inputs {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    /// Sequence, first token, rows.
    parts: Vec<(usize, usize, std::ops::Range<usize>)>,
}

impl Scenario {
    pub const EPS: f32 = 1e-5;

    pub fn new(heads: usize, kv_heads: usize, head_dim: usize, lengths: &[usize]) -> Self {
        Scenario {
            heads,
            kv_heads,
            head_dim,
            value_dim: head_dim,
            latent: false,
            lengths: lengths.to_vec(),
            scale: 1.0 / (head_dim as f32).sqrt(),
            window: None,
            softcap: None,
            sinks: vec![],
            norm: false,
            after_rope: false,
            temperature: None,
            rotary_dim: head_dim,
            interleaved: false,
            block_size: 32,
            poison: None,
        }
    }

    pub fn frequencies(&self) -> Vec<f32> {
        let half = self.rotary_dim / 2;
        (0..half)
            .map(|i| 1e4f32.powf(-(i as f32) / half as f32))
            .collect()
    }

    pub fn norm_weights(&self) -> [Vec<f32>; 2] {
        let mut rng = Rng(99);
        [0, 1].map(|_| {
            rng.values(self.head_dim)
                .iter()
                .map(|v| 1.0 + 0.1 * v)
                .collect()
        })
    }

    /// Widths of q, k and v of a head, as they are given.
    pub fn dims(&self) -> [usize; 3] {
        let value = if self.latent { 0 } else { self.value_dim };
        [self.head_dim, self.head_dim, value]
    }

    /// q, k, v of one sequence, `[tokens, heads * width]`.
    pub fn data(&self, sequence: usize) -> [Vec<f32>; 3] {
        let mut rng = Rng(1000 + sequence as u64);
        let [q, k, v] = self.dims();
        let widths = [self.heads * q, self.kv_heads * k, self.kv_heads * v];
        let mut data = widths.map(|width| rng.values(self.lengths[sequence] * width));
        if let Some(place) = self.poison {
            data[place][20 * widths[place] + 3] = f32::NAN;
        }
        data
    }

    /// Which tokens of which sequences each call takes.
    fn schedule(&self, way: Way, rng: &mut Rng) -> Vec<Vec<(usize, usize, usize)>> {
        let mut done = vec![0; self.lengths.len()];
        let mut calls = Vec::new();
        match way {
            Way::Whole => {
                for (s, &n) in self.lengths.iter().enumerate() {
                    calls.push(vec![(s, 0, n)]);
                }
            }
            Way::Mixed | Way::MixedFused | Way::MixedShared => {
                while done != self.lengths {
                    let mut call = Vec::new();
                    for (s, done) in done.iter_mut().enumerate() {
                        let left = self.lengths[s] - *done;
                        if left > 0 && rng.below(3) > 0 {
                            let most = [1, 1, 9, 100, 600][rng.below(5)];
                            let n = left.min(1 + rng.below(most));
                            call.push((s, *done, n));
                            *done += n;
                        }
                    }
                    calls.push(call);
                }
            }
            Way::LastOneByOne(_) => {
                let first = |(s, &n): (usize, &usize)| (s, 0, n - 3);
                calls.push(self.lengths.iter().enumerate().map(first).collect());
                for i in (1..=3).rev() {
                    let one = |(s, &n): (usize, &usize)| (s, n - i, 1);
                    calls.push(self.lengths.iter().enumerate().map(one).collect());
                }
            }
        }
        calls
    }

    /// A cache whose every block an earlier owner has filled with NaN.
    fn soiled(&self, cx: &Compute, dtype: KvType, blocks: usize) -> KvCache {
        let (kv_heads, head_dim, block_size) = (self.kv_heads, self.head_dim, self.block_size);
        let shape = KvShape {
            layers: 2,
            blocks,
            block_size,
            kv_heads,
            key_dim: head_dim,
            value_dim: self.value_dim,
            latent: self.latent,
            dtype,
        };
        let mut cache = KvCache::new(shape).unwrap();
        let table: Vec<u32> = (0..blocks as u32).collect();
        let rows = blocks * block_size;
        let mut nan = vec![f32::NAN; rows * kv_heads * head_dim];
        let values = vec![f32::NAN; rows * kv_heads * self.dims()[2]];
        let mut q = vec![0.0; rows * self.heads * head_dim];
        let rope = Rope::new(vec![], 1.0, false);
        let seq = Seq {
            rows: 0..rows,
            position: 0,
            blocks: &table,
        };
        for layer in 0..2 {
            let (q, k) = (&mut q, &mut nan);
            let seqs = std::slice::from_ref(&seq);
            write_qkv(
                cx,
                &rope,
                q,
                k,
                &values,
                None,
                &self.params(),
                seqs,
                &mut cache,
                layer,
            );
        }
        cache
    }

    fn params(&self) -> AttnParams<'_> {
        AttnParams {
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            value_dim: self.value_dim,
            scale: self.scale,
            window: self.window,
            softcap: self.softcap,
            sinks: (!self.sinks.is_empty()).then_some(&self.sinks),
            temperature: self.temperature,
            picks: None,
        }
    }

    fn batch(&self, call: &[(usize, usize, usize)], data: &[[Vec<f32>; 3]]) -> Inputs {
        let [q, k, v] = self.dims();
        let (q_width, width, v_width) = (self.heads * q, self.kv_heads * k, self.kv_heads * v);
        let mut batch = Inputs::default();
        for &(s, first, n) in call {
            let start = batch.q.len() / q_width;
            batch
                .q
                .extend(&data[s][0][first * q_width..(first + n) * q_width]);
            batch
                .k
                .extend(&data[s][1][first * width..(first + n) * width]);
            batch
                .v
                .extend(&data[s][2][first * v_width..(first + n) * v_width]);
            batch.parts.push((s, first, start..start + n));
        }
        batch
    }

    /// Outputs of every sequence, `[tokens, heads * value_dim]`.
    pub fn play(&self, cpu: Cpu, dtype: KvType, way: Way, rng: &mut Rng) -> Vec<Vec<f32>> {
        let threads = match way {
            Way::Whole => 1,
            Way::LastOneByOne(threads) => threads,
            _ => 1 + rng.below(4),
        };
        let cx = Compute::with_cpu(cpu, threads).unwrap();
        let rope = Rope::new(self.frequencies(), 1.0, self.interleaved);
        let weights = self.norm_weights();
        let norm = self.norm.then(|| QkNorm {
            q: &weights[0],
            k: &weights[1],
            eps: Self::EPS,
            after_rope: self.after_rope,
        });
        let needed: Vec<usize> = self
            .lengths
            .iter()
            .map(|n| n.div_ceil(self.block_size))
            .collect();
        let blocks = needed.iter().sum::<usize>() + 2;
        // Blocks in random order.
        let mut free: Vec<u32> = (0..blocks as u32).collect();
        for i in (1..blocks).rev() {
            free.swap(i, rng.below(i + 1));
        }
        let tables: Vec<Vec<u32>> = needed
            .iter()
            .map(|&n| free.split_off(free.len() - n))
            .collect();
        let mut cache = self.soiled(&cx, dtype, blocks);
        let data: Vec<_> = (0..self.lengths.len()).map(|s| self.data(s)).collect();
        let width = self.heads * self.value_dim;
        let mut all: Vec<Vec<f32>> = self.lengths.iter().map(|n| vec![0.0; n * width]).collect();
        let layer = rng.below(2);
        for call in self.schedule(way, rng) {
            let mut b = self.batch(&call, &data);
            let seqs: Vec<Seq<'_>> = b
                .parts
                .iter()
                .map(|(s, first, rows)| Seq {
                    rows: rows.clone(),
                    position: *first,
                    blocks: &tables[*s],
                })
                .collect();
            let rows = b.q.len() / (self.heads * self.head_dim);
            let mut out = vec![f32::NAN; rows * width];
            let (params, cache) = (self.params(), &mut cache);
            if matches!(way, Way::Whole | Way::Mixed) {
                write_qkv(
                    &cx, &rope, &mut b.q, &mut b.k, &b.v, norm, &params, &seqs, cache, layer,
                );
                attention(&cx, &params, &b.q, &seqs, cache, layer, &mut out);
            } else if way == Way::MixedShared {
                let mut spent = b.q.clone();
                write_qkv(
                    &cx, &rope, &mut spent, &mut b.k, &b.v, norm, &params, &seqs, cache, layer,
                );
                let mut batch = Batch::new(seqs, cache);
                q_attention(
                    &cx, &rope, &b.q, norm, &params, &mut batch, cache, layer, &mut out,
                );
            } else {
                let (q, k, v) = (&b.q, &b.k, &b.v);
                qkv_attention(
                    &cx,
                    &rope,
                    q,
                    k,
                    v,
                    norm,
                    &params,
                    &mut Batch::new(seqs, cache),
                    cache,
                    layer,
                    &mut out,
                );
            }
            for (s, first, rows) in b.parts {
                let from = &out[rows.start * width..rows.end * width];
                all[s][first * width..][..from.len()].copy_from_slice(from);
            }
        }
        all
    }
}

/// Scores and weighted values of a random tile by tiles `T`, as bits.
#[cfg(target_arch = "x86_64")]
pub fn tile_products<T: Tiles>(rows: usize, dims: usize) -> Vec<u32> {
    let mut rng = Rng(11);
    let shape = KvShape {
        layers: 1,
        blocks: 1,
        block_size: 32,
        kv_heads: 1,
        key_dim: dims,
        value_dim: dims,
        latent: false,
        dtype: KvType::Bf16,
    };
    let page = shape.page();
    let mut bf16 = |n: usize| -> Vec<u16> {
        (0..n)
            .map(|_| half::bf16::from_f32(rng.normal()).to_bits())
            .collect()
    };
    let q = bf16(ROWS * page.key_dims);
    let memory: Vec<Vec<u16>> = (0..PAGES).map(|_| bf16(page.bytes() / 2)).collect();
    let probs = bf16(ROWS * PROBS);
    let (mut scores, mut out) = (
        vec![0f32; ROWS * SCORES],
        vec![0f32; ROWS * page.value_dims],
    );
    let tile = Tile {
        rows,
        first_rows: true,
        page,
        rules: Rules {
            scale: 1.0,
            softcap: None,
        },
        q: q.as_ptr().cast(),
        keys: std::array::from_fn(|i| memory[i].as_ptr().cast()),
        values: std::array::from_fn(|i| {
            memory[i]
                .as_ptr()
                .cast::<u8>()
                .wrapping_add(page.key_bytes())
        }),
        scales: [[std::ptr::null(); 2]; PAGES],
        next: memory[0].as_ptr().cast(),
        first: 1,
        last: PAGES - 1,
        see: [[0; 2]; ROWS],
        scores: scores.as_mut_ptr(),
        out: out.as_mut_ptr(),
        max: [0.0; ROWS],
        sum: [0.0; ROWS],
    };
    // SAFETY: all pointers have room for 32 rows; the caller has the tiles.
    unsafe {
        let mut tiles = T::begin();
        super::super::amx::scores(&mut tiles, &tile);
        let products = scores.clone();
        for (i, p) in probs.into_iter().enumerate() {
            tile.probs().add(i).write(p);
        }
        super::super::amx::values(&mut tiles, &tile);
        products.iter().chain(&out).map(|v| v.to_bits()).collect()
    }
}
