//! The index of sparse attention by its definition: all scores, and of each row the best by sorting.
use candle_core::{Device, Tensor as Candle};
use candle_vllm_kernels::cpu::attention::Picks;

use super::super::Index;
use super::{angles, cache_of, read, rotate, write};
use crate::{Kv, Result, Step, Tensor};

/// See [`Backend::pick`](super::super::Backend::pick).
pub fn pick(
    device: &Device,
    index: &Index,
    [q, k, weights]: [Tensor; 3],
    step: &Step,
    kv: &mut Kv,
) -> Result<Picks> {
    let Index {
        heads,
        dim,
        most,
        place,
        ..
    } = *index;
    let mut picks = Picks::lists(most, q.shape()[0]);
    let [q, k, weights] = [&q, &k, &weights].map(|x| x.to_candle(device));
    let (q, k, weights) = (q?, k?, weights?);
    let size = kv.block_size();
    let cache = cache_of(kv)?;
    for slice in &step.slices {
        let (start, count) = (slice.tokens.start, slice.tokens.len());
        let (position, len) = (slice.position, slice.position + count);
        let own = (size, &step.blocks[slice.blocks.clone()]);
        let turn = angles(&index.rope, position..len, device)?;
        let turned = |x: &Candle, heads: usize| -> Result<Candle> {
            let x = x.narrow(0, start, count)?.reshape((count, heads, dim))?;
            rotate(&x, &turn, index.rope.interleaved)
        };
        let rows = turned(&k, 1)?.flatten_all()?.to_vec1::<f32>()?;
        let group = &mut cache.groups[place.group];
        let (dtype, pages) = (group.dtype, &mut group.keys[place.layer]);
        write((&mut *pages, dtype), own, position, &rows, [1, dim]);
        let past = Candle::from_vec(read(pages, own, len, dim), (len, dim), device)?;
        let q = turned(&q, heads)?.reshape((count * heads, dim))?;
        let scores = q.matmul(&past.t()?.contiguous()?)?.relu()?;
        let weights = weights
            .narrow(0, start, count)?
            .reshape((count, heads, 1))?;
        let scores = scores.reshape((count, heads, len))?;
        let scores = scores.broadcast_mul(&weights)?.sum(1)?.to_vec2::<f32>()?;
        for (i, scores) in scores.iter().enumerate() {
            if position + i >= most {
                let to = &mut picks.lists_mut()[(start + i) * most..][..most];
                best(&scores[..position + i + 1], to);
            }
        }
    }
    Ok(picks)
}

/// The positions of the largest scores, ascending; of equal ones the lower positions.
fn best(scores: &[f32], to: &mut [u32]) {
    let mut order: Vec<u32> = (0..scores.len() as u32).collect();
    // Both zeros are the same; sorting is stable.
    let of = |p: &u32| scores[*p as usize] + 0.0;
    order.sort_by(|a, b| of(b).total_cmp(&of(a)));
    to.copy_from_slice(&order[..to.len()]);
    to.sort_unstable();
}
