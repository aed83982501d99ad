//! What an index picks of a prompt and for the token after it.
use super::super::attention::{Batch, IndexParams, Picks, index};
use super::super::kv::{KvCache, KvShape, KvType, Seq};
use super::super::rope::Rope;
use super::super::{Compute, Cpu};
use super::{Noise, SelfCheck};

/// Tokens of the prompt: more than a page.
const PROMPT: usize = 40;
/// Heads that are summed by eight, by four and alone; a width that is a multiple of no vector.
const PARAMS: IndexParams = IndexParams {
    heads: 13,
    dim: 24,
    most: 12,
};

/// What rows pick from every type of cache that an index may have.
pub(super) type All = Vec<Option<[Picks; 2]>>;

fn all(check: &mut SelfCheck, cpu: Cpu) -> All {
    let types = KvType::ALL.into_iter().filter(|ty| !ty.is_scaled());
    types
        .map(|ty| check.on(cpu, |cx| picked(cx, ty, 1.0)))
        .collect()
}

/// Whether rows pick the same keys on `cpu` as on the scalar level.
pub(super) fn pass(check: &mut SelfCheck, cpu: Cpu) -> bool {
    let known = check.picked.take();
    let want = known.unwrap_or_else(|| all(check, Cpu::SCALAR));
    let got = all(check, cpu);
    let passes = got.iter().all(Option::is_some) && got == want;
    check.picked = Some(want);
    passes
}

/// What the prompt's rows pick, and the token after it; `last` multiplies what the last head counts for.
fn picked(cx: &Compute, dtype: KvType, last: f32) -> Option<[Picks; 2]> {
    let IndexParams { heads, dim, .. } = PARAMS;
    let shape = KvShape {
        layers: 1,
        blocks: (PROMPT + 1).div_ceil(32),
        block_size: 32,
        kv_heads: 1,
        key_dim: dim,
        value_dim: dim,
        latent: true,
        dtype,
    };
    let mut cache = KvCache::new(shape).ok()?;
    // In no order, as the blocks of a sequence are.
    let blocks: Vec<u32> = (0..shape.blocks as u32).rev().collect();
    let rope = Rope::new(vec![1.0, 0.1, 0.01, 0.001], 1.0, false);
    let mut random = Noise(9);
    let mut values = |n: usize| -> Vec<f32> { (0..n).map(|_| random.unit()).collect() };
    let picks = [(0, PROMPT), (PROMPT, 1)].map(|(position, rows)| {
        let [mut q, mut k] = [heads * dim, dim].map(|width| values(rows * width));
        let mut weights = values(rows * heads);
        let own = weights.iter_mut().skip(heads - 1).step_by(heads);
        own.for_each(|weight| *weight *= last);
        let seq = Seq {
            rows: 0..rows,
            position,
            blocks: &blocks,
        };
        let batch = Batch::new(vec![seq], &cache);
        let qkw = (&mut q[..], &mut k[..], &weights[..]);
        index(cx, &rope, PARAMS, qkw, &batch, &mut cache, 0)
    });
    Some(picks)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_head_that_does_not_count_is_noticed() {
        let mut check = SelfCheck::new().unwrap();
        let mut of = |last| {
            check
                .on(Cpu::SCALAR, |cx| picked(cx, KvType::F32, last))
                .unwrap()
        };
        let (right, wrong) = (of(1.0), of(0.0));
        assert!(right == of(1.0) && right[0] != wrong[0]);
        // Rows that see no more than they may pick have no lists; the one after the prompt has.
        let list = right[1].of(0);
        assert!(list.len() == PARAMS.most && list.is_sorted() && list[11] <= PROMPT as u32);
    }
}
