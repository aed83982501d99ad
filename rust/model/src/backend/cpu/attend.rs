//! Attention on the CPU: norms that the kernel does not know come before it, all else is one call.
use candle_vllm_kernels::cpu::{
    self as kernels,
    attention::{self, AttnParams},
};

use super::{Cpu, cache_of, host, host_norm, rope_of};
use crate::{
    Error, Kv, Result, Tensor,
    backend::{Attend, Norm, Normed, Pass, QkNorm},
};

/// The norm that attention itself applies: of each head, by one weight for all.
fn fused_norm<'a>(attend: &Attend, rule: &'a QkNorm) -> Result<Option<attention::QkNorm<'a>>> {
    let one = |n: &Norm| !n.centred && n.bias.is_none() && n.weight.len() == attend.head_dim;
    // Where keys are another layer's no key is normalised.
    let k = rule.k.as_ref().unwrap_or(&rule.q);
    if rule.of == Normed::Row || !one(&rule.q) || !one(k) || rule.q.eps != k.eps {
        return Ok(None);
    }
    Ok(Some(attention::QkNorm {
        q: rule.q.weight.values()?,
        k: k.weight.values()?,
        eps: rule.q.eps,
        after_rope: rule.of == Normed::RotatedHead,
    }))
}

impl Cpu {
    /// Attention of queries over keys and values, the new ones among them unless another layer has written them.
    pub(super) fn attended(
        &mut self,
        attend: &Attend,
        (mut q, mut new): (Tensor, Option<[Tensor; 2]>),
        pass: &mut Pass<'_>,
        kv: &mut Kv,
    ) -> Result<Tensor> {
        let mut norms = None;
        if let Some(rule) = &attend.qk_norm {
            norms = fused_norm(attend, rule)?;
            if norms.is_none() {
                let k = new.as_mut().map(|[k, _]| k);
                self.apart(attend, rule, &mut q, k)?;
            }
        }
        if let Some(clip) = attend.clip {
            for x in [&mut q].into_iter().chain(new.iter_mut().flatten()) {
                let width = x.shape()[1];
                kernels::clamp_rows(&self.compute, x.data_mut()?, width, clip);
            }
        }
        let Some(batch) = &mut pass.batch else {
            return Err(Error::Run("another backend began this pass".into()));
        };
        let rope = rope_of(&mut self.ropes, &attend.rope);
        let params = AttnParams {
            heads: attend.heads,
            kv_heads: attend.kv_heads,
            head_dim: attend.head_dim,
            value_dim: attend.value_dim,
            scale: attend.scale,
            window: attend.window,
            softcap: attend.softcap,
            sinks: host(attend.sinks.as_ref())?,
            temperature: attend.temperature,
            picks: None,
        };
        let (cx, q) = (&self.compute, q.data());
        let rows = pass.step.tokens.len();
        let mut out = self.spare.tensor(rows, attend.heads * attend.value_dim);
        let (to, layer) = (out.data_mut()?, attend.place.layer);
        let cache = cache_of(kv, attend.place.group)?;
        match &new {
            Some([k, v]) => {
                let (k, v) = (k.data(), v.data());
                attention::qkv_attention(
                    cx, rope, q, k, v, norms, &params, batch, cache, layer, to,
                );
            }
            None => attention::q_attention(cx, rope, q, norms, &params, batch, cache, layer, to),
        }
        Ok(out)
    }

    /// Normalises queries and keys where attention does not do it itself: it knows one weight for all heads and no mean.
    fn apart(
        &mut self,
        attend: &Attend,
        rule: &QkNorm,
        q: &mut Tensor,
        k: Option<&mut Tensor>,
    ) -> Result<()> {
        let keys = k.zip(rule.k.as_ref());
        for (x, norm) in [(q, &rule.q)].into_iter().chain(keys) {
            let width = x.shape()[1];
            let group = match rule.of {
                Normed::Row => width,
                Normed::Head | Normed::RotatedHead => attend.head_dim,
            };
            let norm = host_norm(norm)?;
            kernels::normalise_groups(&self.compute, x.data_mut()?, width, group, norm);
        }
        Ok(())
    }
}
