//! Latent attention by its definition: each token's keys and values are made of its latent, then attended as any others.
use candle_core::{Device, Tensor as Candle};

use super::super::{KvPlace, Latent};
use super::{Cache, angles, attended, cache_of, normalise, read, rotate, write};
use crate::{Kv, Result, Step, Tensor, backend::Attend, quant::PerHead};

/// All that the sequences of a pass share.
struct Call<'a> {
    device: &'a Device,
    latent: &'a Latent,
    /// What of a latent a head's keys are made by, `[heads, nope, rank]`.
    keys: Candle,
    /// The same of its values, `[heads, value_dim, rank]`.
    values: Candle,
    attend: Attend,
}

/// See [`Backend::attend_latent`](super::super::Backend::attend_latent).
pub fn attend(
    device: &Device,
    latent: &Latent,
    [q, c]: [Tensor; 2],
    step: &Step,
    kv: &mut Kv,
) -> Result<Tensor> {
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
        out.push(call.sequence([q?, c?, own?], slice.position, cache, (size, table))?);
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
        rope: latent.rope.clone(),
    }
}

impl Call<'_> {
    fn sequence(
        &self,
        [q, c, own]: [Candle; 3],
        position: usize,
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
        let pages = &mut cache.groups[place.group].keys[place.layer];
        let rows = key.flatten_all()?.to_vec1::<f32>()?;
        write(
            (&mut *pages, cache.dtype),
            own_pages,
            position,
            &rows,
            [1, width],
        );
        let past = read(pages, own_pages, len, width);
        let past = Candle::from_vec(past, (len, width), self.device)?;
        let own = past.narrow(1, rotated, rank)?.contiguous()?;
        let own = own.unsqueeze(0)?.expand((heads, len, rank))?.contiguous()?;
        let made = |w: &Candle| own.matmul(&w.transpose(1, 2)?.contiguous()?);
        let moving = past.narrow(1, 0, rotated)?.unsqueeze(0)?;
        let moving = moving.expand((heads, len, rotated))?.contiguous()?;
        let keys = Candle::cat(&[made(&self.keys)?, moving], 2)?;
        attended(&self.attend, &q, [keys, made(&self.values)?], position)
    }
}
