//! Attention of a prompt and of the token after it, with every rule that a kernel knows.
use super::super::attention::{AttnParams, Batch, QkNorm, Window, qkv_attention};
use super::super::kv::{KvCache, KvShape, KvType, Seq};
use super::super::rope::Rope;
use super::super::{Compute, Cpu};
use super::{Noise, SelfCheck, agree};

/// Tokens of the prompt: with two query heads a key head too many to be written and read by one task, and pages beyond a
/// segment.
const PROMPT: usize = 270;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
/// A multiple of no vector.
const WIDTH: usize = 40;
/// Widths of values, and whether they are the last columns of the keys.
const VALUES: [(usize, bool); 2] = [(WIDTH, false), (24, true)];

/// What every kind of cache gives.
pub(super) type All = Vec<Option<Vec<f32>>>;

/// Types of caches, with the widths of their values.
fn kinds() -> impl Iterator<Item = (KvType, (usize, bool))> {
    let of = |dtype| VALUES.into_iter().map(move |values| (dtype, values));
    KvType::ALL.into_iter().flat_map(of)
}

fn all(check: &mut SelfCheck, cpu: Cpu) -> All {
    kinds()
        .map(|(dtype, values)| check.on(cpu, |cx| attend(cx, dtype, values)))
        .collect()
}

/// Whether attention on `cpu` is that of the scalar level: the same bits, or close where the level multiplies bf16.
pub(super) fn pass(check: &mut SelfCheck, cpu: Cpu) -> bool {
    let known = check.attended.take();
    let want = known.unwrap_or_else(|| all(check, Cpu::SCALAR));
    let got = all(check, cpu);
    let passes = kinds()
        .zip(got.iter().zip(&want))
        .all(|((dtype, _), both)| {
            let same = dtype.query_bytes() == size_of::<f32>() || !cpu.bf16();
            matches!(both, (Some(got), Some(want)) if agree(got, want, same))
        });
    check.attended = Some(want);
    passes
}

/// What the prompt's last rows and the token after it get.
fn attend(cx: &Compute, dtype: KvType, (value_dim, latent): (usize, bool)) -> Option<Vec<f32>> {
    let shape = KvShape {
        layers: 1,
        blocks: (PROMPT + 1).div_ceil(32),
        block_size: 32,
        kv_heads: KV_HEADS,
        key_dim: WIDTH,
        value_dim,
        latent,
        dtype,
    };
    let mut cache = KvCache::new(shape).ok()?;
    // In no order, as the blocks of a sequence are.
    let blocks: Vec<u32> = (0..shape.blocks as u32).rev().collect();
    let rope = Rope::new(vec![1.0, 0.1, 0.01, 0.001], 1.0, false);
    let mut random = Noise(5);
    let mut values = |n: usize| -> Vec<f32> { (0..n).map(|_| random.unit()).collect() };
    let (norm, sinks) = (values(WIDTH), values(HEADS));
    let params = AttnParams {
        heads: HEADS,
        kv_heads: KV_HEADS,
        head_dim: WIDTH,
        value_dim,
        scale: 0.2,
        window: Some(Window::Sliding(PROMPT - 7)),
        softcap: Some(20.0),
        sinks: Some(&sinks),
        temperature: None,
        picks: None,
    };
    let mut all = Vec::new();
    for (position, rows) in [(0, PROMPT), (PROMPT, 1)] {
        let own = if latent { 0 } else { value_dim };
        let widths = [HEADS * WIDTH, KV_HEADS * WIDTH, KV_HEADS * own];
        let [q, k, v] = widths.map(|width| values(rows * width));
        let mut out = vec![0f32; rows * HEADS * value_dim];
        let seq = Seq {
            rows: 0..rows,
            position,
            blocks: &blocks,
        };
        let norms = Some(QkNorm {
            q: &norm,
            k: &norm,
            eps: 1e-5,
            after_rope: false,
        });
        let mut batch = Batch::new(vec![seq], &cache);
        qkv_attention(
            cx, &rope, &q, &k, &v, norms, &params, &mut batch, &mut cache, 0, &mut out,
        );
        let last = rows.min(40) * HEADS * value_dim;
        all.extend_from_slice(&out[out.len() - last..]);
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_cache_types_differ_and_are_close() {
        let mut check = SelfCheck::new().unwrap();
        let of = |check: &mut SelfCheck, ty| {
            check
                .on(Cpu::SCALAR, |cx| attend(cx, ty, VALUES[0]))
                .unwrap()
        };
        let (exact, narrow) = (of(&mut check, KvType::F32), of(&mut check, KvType::Bf16));
        assert!(!agree(&narrow, &exact, true) && agree(&narrow, &exact, false));
    }
}
