//! Latent attention on the CPU, absorbed: queries are brought to the latent and meet the cached latents themselves, of
//! which one head serves all. The same arithmetic for one row and for many.
use candle_vllm_kernels::cpu::{
    self as kernels, Parts,
    attention::{self, AttnParams, IndexParams},
    kv::KvCache,
};

use super::{Cpu, Pass, host_norm, rope_of};
use crate::{
    Error, Result, Tensor,
    backend::{Index, Latent},
};

impl Cpu {
    /// See [`Backend::attend_latent`](crate::backend::Backend::attend_latent).
    pub(super) fn latent(
        &mut self,
        latent: &Latent,
        [q, c]: [Tensor; 2],
        pass: &mut Pass<'_>,
        cache: &mut KvCache,
    ) -> Result<Tensor> {
        let (q, k) = (self.absorbed(latent, &q)?, self.keys(latent, &c)?);
        let Some(batch) = &mut pass.batch else {
            return Err(Error::Run("another backend began this pass".into()));
        };
        let params = AttnParams {
            heads: latent.heads,
            kv_heads: 1,
            head_dim: latent.rotated + latent.rank,
            value_dim: latent.rank,
            scale: latent.scale,
            window: None,
            softcap: None,
            sinks: None,
            temperature: None,
            picks: latent.picks(pass.picks.as_ref())?,
        };
        let rope = rope_of(&mut self.ropes, &latent.rope);
        let rows = q.shape()[0];
        let mut mixed = self.spare.tensor(rows, latent.heads * latent.rank);
        let (cx, to, layer) = (&self.compute, mixed.data_mut()?, latent.place.layer);
        let (q, k, v) = (q.data(), k.data(), &[]);
        attention::qkv_attention(cx, rope, q, k, v, None, &params, batch, cache, layer, to);
        let mut out = self.spare.tensor(rows, latent.heads * latent.value_dim);
        let from = parts(latent.heads, 0, latent.rank);
        let to = (out.data_mut()?, parts(latent.heads, 0, latent.value_dim));
        kernels::by_head(cx, latent.expand.matrices()?, (mixed.data(), from), to);
        Ok(out)
    }

    /// See [`Backend::pick`](crate::backend::Backend::pick).
    pub(super) fn picked(
        &mut self,
        index: &Index,
        [mut q, mut k, weights]: [Tensor; 3],
        pass: &mut Pass<'_>,
        cache: &mut KvCache,
    ) -> Result<()> {
        let Some(batch) = &pass.batch else {
            return Err(Error::Run("another backend began this pass".into()));
        };
        let params = IndexParams {
            heads: index.heads,
            dim: index.dim,
            most: index.most,
        };
        let rope = rope_of(&mut self.ropes, &index.rope);
        let rows = (q.data_mut()?, k.data_mut()?, weights.data());
        let layer = index.place.layer;
        let picks = attention::index(&self.compute, rope, params, rows, batch, cache, layer);
        pass.picks = Some(picks);
        Ok(())
    }

    /// Each head's query as a query of the latent: its rotating columns, then the others by the head's matrix.
    fn absorbed(&mut self, latent: &Latent, q: &Tensor) -> Result<Tensor> {
        let Latent {
            heads,
            nope,
            rotated,
            rank,
            ..
        } = *latent;
        let rows = q.shape()[0];
        let mut out = self.spare.tensor(rows, heads * (rotated + rank));
        let to = out.data_mut()?;
        let own = q.data().chunks_exact(nope + rotated);
        for (to, from) in to.chunks_exact_mut(rotated + rank).zip(own) {
            to[..rotated].copy_from_slice(&from[nope..]);
        }
        let from = (q.data(), parts(heads, 0, nope + rotated));
        let to = (to, parts(heads, rotated, rotated + rank));
        kernels::by_head(&self.compute, latent.absorb.matrices()?, from, to);
        Ok(out)
    }

    /// The keys of the rows: their rotating columns, then the normalised latents.
    fn keys(&mut self, latent: &Latent, c: &Tensor) -> Result<Tensor> {
        let Latent { rotated, rank, .. } = *latent;
        let rows = c.shape()[0];
        let mut own = self.spare.tensor(rows, rank);
        let latents = own.data_mut()?;
        let each = c.data().chunks_exact(rank + rotated);
        for (to, from) in latents.chunks_exact_mut(rank).zip(each.clone()) {
            to.copy_from_slice(&from[..rank]);
        }
        let norm = host_norm(&latent.norm)?;
        kernels::normalise_groups(&self.compute, latents, rank, rank, norm);
        let mut out = self.spare.tensor(rows, rotated + rank);
        let to = out.data_mut()?.chunks_exact_mut(rotated + rank);
        for ((to, from), own) in to.zip(each).zip(own.data().chunks_exact(rank)) {
            to[..rotated].copy_from_slice(&from[rank..]);
            to[rotated..].copy_from_slice(own);
        }
        Ok(out)
    }
}

/// Parts of `step` values a head that fill a row, of which the first `first` are another's.
fn parts(heads: usize, first: usize, step: usize) -> Parts {
    let width = heads * step;
    Parts { width, first, step }
}
