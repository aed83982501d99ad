//! Latent attention by its definition: each token's keys and values are made of its latent, then attended as any others.
use candle_core::{Device, Tensor as Candle};

use super::super::{KvPlace, Latent};
use super::{Cache, angles, attended_by, cache_of, mask, normalise, read, rotate, write};
use crate::{
    Kv, Result, Tensor,
    backend::{Attend, Pass},
    quant::PerHead,
};
use candle_vllm_kernels::cpu::attention::Picks;

/// All that the sequences of a pass share.
struct Call<'a> {
    device: &'a Device,
    latent: &'a Latent,
    /// What of a latent a head's keys are made by, `[heads, nope, rank]`.
    keys: Candle,
    /// The same of its values, `[heads, value_dim, rank]`.
    values: Candle,
    attend: Attend,
    /// What rows attend to, if not to all that they see.
    picks: Option<&'a Picks>,
}

/// See [`Backend::attend_latent`](super::super::Backend::attend_latent).
pub fn attend(
    device: &Device,
    latent: &Latent,
    [q, c]: [Tensor; 2],
    pass: &Pass<'_>,
    kv: &mut Kv,
) -> Result<Tensor> {
    let step = pass.step;
    let matrices = |w: &PerHead| -> Result<Candle> {
        let [heads, n, k] = w.shape();
        Ok(Candle::from_slice(w.values()?, (heads, n, k), device)?)
    };
    let call = Call {
        device,
        latent,
        keys: matrices(&latent.absorb)?.transpose(1, 2)?.contiguous()?,
        values: matrices(&latent.expand)?,
        attend: plain(latent),
        picks: latent.picks(pass.picks.as_ref())?,
    };
    let (q, c) = (q.to_candle(device)?, c.to_candle(device)?);
    let own = Tensor::from_candle(c.narrow(1, 0, latent.rank)?.contiguous()?)?;
    let own = normalise(device, &own, latent.rank, &latent.norm)?.to_candle(device)?;
    let size = kv.block_size();
    let mut out = Vec::new();
    for slice in &step.slices {
        let (start, count) = (slice.tokens.start, slice.tokens.len());
        let [q, c, own] = [&q, &c, &own].map(|x| x.narrow(0, start, count));
        let table = &step.blocks[slice.blocks.clone()];
        let cache = cache_of(kv)?;
        let first = (slice.position, start);
        out.push(call.sequence([q?, c?, own?], first, cache, (size, table))?);
    }
    Tensor::from_candle(Candle::cat(&out, 0)?)
}

/// What is attended: heads of their own keys and values.
fn plain(latent: &Latent) -> Attend {
    Attend {
        place: KvPlace { group: 0, layer: 0 },
        heads: latent.heads,
        kv_heads: latent.heads,
        head_dim: latent.nope + latent.rotated,
        value_dim: latent.value_dim,
        scale: latent.scale,
        window: None,
        softcap: None,
        sinks: None,
        temperature: None,
        qk_norm: None,
        clip: None,
        rope: latent.rope.clone(),
    }
}

impl Call<'_> {
    fn sequence(
        &self,
        [q, c, own]: [Candle; 3],
        (position, first): (usize, usize),
        cache: &mut Cache,
        own_pages: (usize, &[u32]),
    ) -> Result<Candle> {
        let Latent {
            heads,
            nope,
            rotated,
            rank,
            place,
            ..
        } = *self.latent;
        let count = q.dim(0)?;
        let turn = angles(&self.latent.rope, position..position + count, self.device)?;
        let turned = |x: &Candle| rotate(x, &turn, self.latent.rope.interleaved);
        let q = q.reshape((count, heads, nope + rotated))?;
        let moving = turned(&q.narrow(2, nope, rotated)?.contiguous()?)?;
        let q = Candle::cat(&[q.narrow(2, 0, nope)?, moving], 2)?;
        // Kept as every backend keeps it: the rotated columns, then the latent.
        let moving = c.narrow(1, rank, rotated)?.contiguous()?.unsqueeze(1)?;
        let key = Candle::cat(&[turned(&moving)?.squeeze(1)?, own], 1)?;
        let (width, len) = (rotated + rank, position + count);
        let group = &mut cache.groups[place.group];
        let (dtype, pages) = (group.dtype, &mut group.keys[place.layer]);
        let rows = key.flatten_all()?.to_vec1::<f32>()?;
        write((&mut *pages, dtype), own_pages, position, &rows, [1, width]);
        let past = read(pages, own_pages, len, width);
        let past = Candle::from_vec(past, (len, width), self.device)?;
        let own = past.narrow(1, rotated, rank)?.contiguous()?;
        let own = own.unsqueeze(0)?.expand((heads, len, rank))?.contiguous()?;
        let made = |w: &Candle| own.matmul(&w.transpose(1, 2)?.contiguous()?);
        let moving = past.narrow(1, 0, rotated)?.unsqueeze(0)?;
        let moving = moving.expand((heads, len, rotated))?.contiguous()?;
        let keys = Candle::cat(&[made(&self.keys)?, moving], 2)?;
        let mask = self.mask(position, first, count)?;
        attended_by(&self.attend, &q, [keys, made(&self.values)?], &mask)
    }

    /// 0 where a query attends, -inf elsewhere; queries are the step's rows from `first` on.
    fn mask(&self, position: usize, first: usize, queries: usize) -> Result<Candle> {
        let all = mask(&self.attend, position, queries, self.device)?;
        let Some(picks) = self.picks else {
            return Ok(all);
        };
        let keys = position + queries;
        let mut values = vec![0.0; queries * keys];
        for (i, row) in values.chunks_exact_mut(keys).enumerate() {
            if position + i >= picks.most() {
                row.fill(f32::NEG_INFINITY);
                for at in picks.of(first + i) {
                    row[*at as usize] = 0.0;
                }
            }
        }
        let picked = Candle::from_vec(values, (1, queries, keys), self.device)?;
        Ok((all + picked)?)
    }
}
