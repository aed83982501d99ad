//! Rows that attend to keys that they have picked, and the index by which they pick.
use super::super::*;
use super::scenario::Rng;
use crate::cpu::Cpu;
use crate::cpu::kv::{KvShape, KvType};
use crate::cpu::testing::cpus;

const HEADS: usize = 3;
const KEY: usize = 40;
const VALUE: usize = 24;
const TOKENS: usize = 700;
/// Two segments and a part of a page.
const MOST: usize = 300;

fn params(picks: Option<&Picks>) -> AttnParams<'_> {
    AttnParams {
        heads: HEADS,
        kv_heads: 1,
        head_dim: KEY,
        value_dim: VALUE,
        scale: 0.2,
        window: None,
        softcap: None,
        sinks: None,
        temperature: None,
        picks,
    }
}

fn cache(dtype: KvType, [key_dim, value_dim]: [usize; 2]) -> (KvCache, Vec<u32>) {
    let shape = KvShape {
        layers: 2,
        blocks: TOKENS.div_ceil(64) + 1,
        block_size: 64,
        kv_heads: 1,
        key_dim,
        value_dim,
        latent: true,
        dtype,
    };
    let blocks = (1..shape.blocks as u32).rev().collect();
    (KvCache::new(shape).unwrap(), blocks)
}

fn seq(rows: std::ops::Range<usize>, position: usize, blocks: &[u32]) -> Seq<'_> {
    Seq {
        rows,
        position,
        blocks,
    }
}

/// Rows of a query that has been rotated, over keys that have been written.
struct Written {
    cache: KvCache,
    blocks: Vec<u32>,
    q: Vec<f32>,
    k: Vec<f32>,
}

fn written(cx: &Compute, dtype: KvType) -> Written {
    let (mut cache, blocks) = cache(dtype, [KEY, VALUE]);
    let mut rng = Rng(3);
    let mut values = |n: usize| -> Vec<f32> { (0..n).map(|_| rng.normal()).collect() };
    let (mut q, mut k) = (values(TOKENS * HEADS * KEY), values(TOKENS * KEY));
    let rope = Rope::new(vec![], 1.0, false);
    let seqs = [seq(0..TOKENS, 0, &blocks)];
    let (q_of, k_of) = (&mut q, &mut k);
    write_qkv(
        cx,
        &rope,
        q_of,
        k_of,
        &[],
        None,
        &params(None),
        &seqs,
        &mut cache,
        1,
    );
    Written {
        cache,
        blocks,
        q,
        k,
    }
}

impl Written {
    /// The rows from `position` on, each by its picks.
    fn attend(&self, cx: &Compute, position: usize, n: usize, picks: Option<&Picks>) -> Vec<f32> {
        let q = &self.q[position * HEADS * KEY..][..n * HEADS * KEY];
        let mut out = vec![f32::NAN; n * HEADS * VALUE];
        let seqs = [seq(0..n, position, &self.blocks)];
        attention(cx, &params(picks), q, &seqs, &self.cache, 1, &mut out);
        out
    }
}

fn lists(rows: usize, of: impl Fn(usize) -> Vec<u32>) -> Picks {
    let mut picks = Picks::lists(MOST, rows);
    for (row, list) in picks.lists_mut().chunks_exact_mut(MOST).enumerate() {
        list.copy_from_slice(&of(row));
    }
    picks
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn picks_of_all_that_is_seen_give_the_bits_of_dense_attention() {
    for cpu in cpus() {
        for dtype in KvType::ALL {
            let cx = Compute::with_cpu(cpu, 2).unwrap();
            let mut w = written(&cx, dtype);
            // A row that sees one key more, which it does not pick, and the same row where that key is not seen.
            let (own, before) = (MOST * HEADS * KEY, (MOST - 1) * HEADS * KEY);
            let query = w.q[own..][..HEADS * KEY].to_vec();
            let picks = lists(1, |_| (0..MOST as u32).collect());
            let picked = w.attend(&cx, MOST, 1, Some(&picks));
            w.q[before..][..HEADS * KEY].copy_from_slice(&query);
            let dense = w.attend(&cx, MOST - 1, 1, None);
            assert_eq!(bits(&picked), bits(&dense), "{} {dtype:?}", cpu.name());
            // No row sees more than it may pick.
            let few = w.attend(&cx, 0, MOST, Some(&Picks::all(MOST)));
            assert_eq!(bits(&few), bits(&w.attend(&cx, 0, MOST, None)));
        }
    }
}

/// Some ascending positions below `keys`.
fn some(keys: usize, salt: usize) -> Vec<u32> {
    let mut rng = Rng(17 + salt as u64);
    let mut all: Vec<u32> = (0..keys as u32).collect();
    for i in 0..MOST {
        all.swap(i, i + rng.below(keys - i));
    }
    let mut list = all[..MOST].to_vec();
    list.sort_unstable();
    list
}

#[test]
fn picked_keys_are_attended_to_and_no_others() {
    let (first, n) = (MOST - 20, TOKENS - MOST + 20);
    for cpu in cpus() {
        for (dtype, most) in [
            (KvType::F32, 3e-6),
            (KvType::Bf16, 3e-2),
            (KvType::Int8, 5e-2),
        ] {
            let cx = Compute::with_cpu(cpu, 3).unwrap();
            let w = written(&cx, dtype);
            let picks = lists(n, |row| some((first + row + 1).max(MOST), row));
            let got = w.attend(&cx, first, n, Some(&picks));
            for row in (0..n).step_by(37).chain([n - 1]) {
                let position = first + row;
                let list = match position < MOST {
                    true => (0..=position as u32).collect(),
                    false => picks.of(row).to_vec(),
                };
                let want = w.formula(dtype, position, &list);
                for (g, x) in got[row * HEADS * VALUE..].iter().zip(&want) {
                    let error = (f64::from(*g) - x).abs();
                    assert!(error < most, "{} {dtype:?} {row}: {g} {x}", cpu.name());
                }
            }
            // A row alone, and on one thread, gets the same bits.
            let one = Compute::with_cpu(cpu, 1).unwrap();
            for row in [25, n - 1] {
                let own = lists(1, |_| picks.of(row).to_vec());
                let alone = w.attend(&one, first + row, 1, Some(&own));
                let among = &got[row * HEADS * VALUE..][..HEADS * VALUE];
                assert_eq!(bits(&alone), bits(among));
            }
        }
    }
}

impl Written {
    fn formula(&self, dtype: KvType, position: usize, list: &[u32]) -> Vec<f64> {
        let key = |p: u32| {
            let mut key = self.k[p as usize * KEY..][..KEY].to_vec();
            dtype.round(&mut key);
            key
        };
        let keys: Vec<Vec<f32>> = list.iter().map(|p| key(*p)).collect();
        let mut out = Vec::new();
        for head in 0..HEADS {
            let q = &self.q[(position * HEADS + head) * KEY..][..KEY];
            let dot = |k: &Vec<f32>| -> f64 {
                let products = q.iter().zip(k).map(|(a, b)| f64::from(*a) * f64::from(*b));
                products.sum::<f64>() * 0.2
            };
            let scores: Vec<f64> = keys.iter().map(dot).collect();
            let most = scores.iter().copied().fold(f64::MIN, f64::max);
            let weights: Vec<f64> = scores.iter().map(|s| (s - most).exp()).collect();
            let sum: f64 = weights.iter().sum();
            out.extend((KEY - VALUE..KEY).map(|d| {
                let parts = weights.iter().zip(&keys);
                parts.map(|(w, k)| w / sum * f64::from(k[d])).sum::<f64>()
            }));
        }
        out
    }
}

/// Heads, and the width of a head.
const INDEX: (usize, usize) = (13, 24);

struct Rows {
    q: Vec<f32>,
    k: Vec<f32>,
    weights: Vec<f32>,
}

fn rows() -> Rows {
    let (heads, dim) = INDEX;
    let mut rng = Rng(29);
    let mut values = |n: usize| -> Vec<f32> { (0..n).map(|_| rng.normal()).collect() };
    Rows {
        q: values(TOKENS * heads * dim),
        k: values(TOKENS * dim),
        weights: values(TOKENS * heads),
    }
}

/// The picks of every row, computed in steps of these sizes.
fn picked(cx: &Compute, dtype: KvType, steps: &[usize]) -> Vec<Vec<u32>> {
    let ((heads, dim), rows) = (INDEX, rows());
    let (mut cache, blocks) = cache(dtype, [dim, dim]);
    let rope = Rope::new(vec![1.0, 0.3, 0.01], 1.0, false);
    let params = IndexParams {
        heads,
        dim,
        most: MOST,
    };
    let (mut first, mut all) = (0, Vec::new());
    for n in steps.iter().copied().cycle() {
        let n = n.min(TOKENS - first);
        if n == 0 {
            return all;
        }
        let part = |x: &[f32], width: usize| x[first * width..(first + n) * width].to_vec();
        let (mut q, mut k) = (part(&rows.q, heads * dim), part(&rows.k, dim));
        let weights = part(&rows.weights, heads);
        let batch = Batch::new(vec![seq(0..n, first, &blocks)], &cache);
        let given = (&mut q[..], &mut k[..], &weights[..]);
        let picks = index(cx, &rope, params, given, &batch, &mut cache, 1);
        all.extend((0..n).map(|row| match first + row < MOST {
            true => Vec::new(),
            false => picks.of(row).to_vec(),
        }));
        first += n;
    }
    all
}

#[test]
fn each_row_picks_the_keys_of_the_largest_scores() {
    let ((heads, dim), mut rows) = (INDEX, rows());
    let rope = Rope::new(vec![1.0, 0.3, 0.01], 1.0, false);
    let table = rope.table(TOKENS);
    for (row, k) in rows.k.chunks_exact_mut(dim).enumerate() {
        table.at(row).apply(k);
    }
    for (i, q) in rows.q.chunks_exact_mut(dim).enumerate() {
        table.at(i / heads).apply(q);
    }
    let got = picked(
        &Compute::with_cpu(Cpu::SCALAR, 2).unwrap(),
        KvType::F32,
        &[TOKENS],
    );
    for row in (MOST..TOKENS).step_by(13) {
        let score = |key: usize| -> f64 {
            let k = &rows.k[key * dim..][..dim];
            let of = |head: usize| {
                let q = &rows.q[(row * heads + head) * dim..][..dim];
                let products = q.iter().zip(k).map(|(a, b)| f64::from(*a) * f64::from(*b));
                products.sum::<f64>().max(0.0) * f64::from(rows.weights[row * heads + head])
            };
            (0..heads).map(of).sum()
        };
        let scores: Vec<f64> = (0..=row).map(score).collect();
        let least = got[row].iter().map(|p| scores[*p as usize]);
        let least = least.fold(f64::MAX, f64::min);
        let others = (0..=row).filter(|p| !got[row].contains(&(*p as u32)));
        let most = others.map(|p| scores[p]).fold(f64::MIN, f64::max);
        assert!(got[row].is_sorted() && got[row].len() == MOST);
        assert!(least > most - 1e-4, "row {row}: {least} {most}");
    }
}

#[test]
fn picks_do_not_depend_on_steps_threads_or_instruction_set() {
    for dtype in [KvType::F32, KvType::F16, KvType::Bf16] {
        let scalar = Compute::with_cpu(Cpu::SCALAR, 1).unwrap();
        let want = picked(&scalar, dtype, &[TOKENS]);
        for cpu in cpus() {
            let cx = Compute::with_cpu(cpu, 3).unwrap();
            for steps in [&[TOKENS][..], &[1, 33, 7], &[500, 1]] {
                assert!(
                    picked(&cx, dtype, steps) == want,
                    "{} {dtype:?}",
                    cpu.name()
                );
            }
        }
    }
}
