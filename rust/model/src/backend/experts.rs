//! Experts: what the operations on them take, and these operations in candle ops.
use candle_core::{D, Device, Tensor as Candle};
use candle_vllm_kernels::cpu::{
    Weigh,
    routing::{Choice, Groups, LEAST_SUM, Routes, Routing, Scores},
};

use super::{Feed, Linear};
use crate::{Result, Tensor, quant::Vector};

/// A feed-forward part that only some rows go to.
pub struct Expert {
    /// Into its hidden rows.
    pub feed: Feed,
    /// Back.
    pub down: Linear,
}

/// All experts of a layer, the shared one last; they have one activation.
pub struct Experts {
    /// Each.
    pub all: Vec<Expert>,
    /// What a row's weight multiplies.
    pub weigh: Weigh,
}

/// How rows choose their experts.
pub struct Router {
    /// Into one score an expert.
    pub linear: Linear,
    /// Added to the scores for the choice alone.
    pub correction: Option<Vector>,
    /// One factor on each expert's weight.
    pub scale: Option<Vector>,
    /// From scores to experts and weights.
    pub rule: Routing,
    /// The expert that all rows go to, if there is one.
    pub shared: Option<Shared>,
}

/// How much a shared expert counts.
pub struct Shared {
    /// The sigmoid of this one output; 1 without it.
    pub gate: Option<Linear>,
}

impl Router {
    /// Experts a row, the shared one among them.
    pub fn width(&self) -> usize {
        self.rule.used + usize::from(self.shared.is_some())
    }

    /// The choices with each expert's factor on its weights.
    pub(super) fn scaled(&self, mut routes: Routes) -> Result<Routes> {
        if let Some(scale) = &self.scale {
            let scale = scale.values()?;
            for choice in &mut routes.chosen {
                // The shared expert, which comes last, has none.
                choice.weight *= scale.get(choice.expert as usize).unwrap_or(&1.0);
            }
        }
        Ok(routes)
    }
}

fn sigmoid(x: &Candle) -> Result<Candle> {
    Ok((x.neg()?.exp()? + 1.0)?.recip()?)
}

fn softmax(x: &Candle) -> Result<Candle> {
    let e = x.broadcast_sub(&x.max_keepdim(D::Minus1)?)?.exp()?;
    Ok(e.broadcast_div(&e.sum_keepdim(D::Minus1)?)?)
}

/// The places of the largest `n` values of each row.
fn best(x: &Candle, n: usize) -> Result<Candle> {
    let order = x.contiguous()?.arg_sort_last_dim(false)?;
    Ok(order.narrow(D::Minus1, 0, n)?.contiguous()?)
}

/// 1 where a row's index is among `chosen`.
fn marked(chosen: &Candle, like: &Candle) -> Result<Candle> {
    let ones = chosen.ones_like()?.to_dtype(like.dtype())?;
    Ok(like.zeros_like()?.scatter(chosen, &ones, D::Minus1)?)
}

/// Experts of other groups out of reach.
fn within(groups: Groups, choice: &Candle) -> Result<Candle> {
    let (rows, experts) = choice.dims2()?;
    let size = experts / groups.count;
    let grouped = choice.reshape((rows, groups.count, size))?;
    let counted = if groups.by_two { size.min(2) } else { 1 };
    let top = grouped.gather(&best(&grouped, counted)?, D::Minus1)?;
    let value = top.sum(D::Minus1)?;
    let kept = marked(&best(&value, groups.used)?, &value)?;
    let kept = kept
        .unsqueeze(2)?
        .broadcast_as((rows, groups.count, size))?;
    let kept = kept.reshape((rows, experts))?;
    let out = choice
        .ones_like()?
        .affine(f64::from(f32::NEG_INFINITY), 0.0)?;
    Ok(kept.gt(0.5)?.where_cond(choice, &out)?)
}

/// The best, then the best of the others; each weighed among those near it.
fn sparse_mixer(logits: &Candle, jitter: f32, used: usize) -> Result<[Candle; 2]> {
    let (mut left, mut experts, mut weights) = (logits.clone(), Vec::new(), Vec::new());
    let out = logits
        .ones_like()?
        .affine(f64::from(f32::NEG_INFINITY), 0.0)?;
    for _ in 0..used {
        let first = best(&left, 1)?;
        let most = left.gather(&first, D::Minus1)?;
        let size = logits.abs()?.broadcast_maximum(&most)?;
        let off = logits.broadcast_sub(&most)?.neg()?.div(&size)?;
        let near = off.gt(f64::from(2.0 * jitter))?.where_cond(&out, &left)?;
        weights.push(softmax(&near)?.gather(&first, D::Minus1)?);
        left = marked(&first, &left)?.gt(0.5)?.where_cond(&out, &left)?;
        experts.push(first);
    }
    Ok([Candle::cat(&experts, 1)?, Candle::cat(&weights, 1)?])
}

/// Experts and weights of each row, `[rows, used]` both.
fn chosen(router: &Router, logits: &Candle) -> Result<[Candle; 2]> {
    let rule = &router.rule;
    let scores = match rule.scores {
        Scores::SparseMixer(jitter) => return sparse_mixer(logits, jitter, rule.used),
        Scores::Softmax => softmax(logits)?,
        Scores::Sigmoid => sigmoid(logits)?,
        Scores::ChosenSoftmax | Scores::ChosenSigmoid => logits.clone(),
    };
    let mut choice = scores.clone();
    if let Some(correction) = &router.correction {
        let values = Candle::from_slice(correction.values()?, correction.len(), logits.device())?;
        choice = choice.broadcast_add(&values)?;
    }
    if let Some(groups) = rule.groups {
        choice = within(groups, &choice)?;
    }
    let experts = best(&choice, rule.used)?;
    let mut weights = scores.gather(&experts, D::Minus1)?;
    weights = match rule.scores {
        Scores::ChosenSoftmax => softmax(&weights)?,
        Scores::ChosenSigmoid => sigmoid(&weights)?,
        _ => weights,
    };
    if rule.normalise {
        let sum = weights.sum_keepdim(D::Minus1)?;
        weights = weights.broadcast_div(&sum.maximum(f64::from(LEAST_SUM))?)?;
    }
    Ok([experts, (weights * f64::from(rule.factor))?])
}

/// Routes by the router's logits and the shared expert's gate.
pub fn route(
    device: &Device,
    router: &Router,
    logits: &Tensor,
    gate: Option<Tensor>,
) -> Result<Routes> {
    let [rows, count] = logits.shape();
    let [experts, weights] = chosen(router, &logits.to_candle(device)?)?;
    let (experts, weights) = (experts.to_vec2::<u32>()?, weights.to_vec2::<f32>()?);
    let gate = gate.map(|g| sigmoid(&g.to_candle(device)?)).transpose()?;
    let gate = gate
        .map(|g| g.flatten_all()?.to_vec1::<f32>())
        .transpose()?;
    let mut all = Vec::with_capacity(rows * router.width());
    for (row, (experts, weights)) in experts.into_iter().zip(weights).enumerate() {
        let pairs = experts.into_iter().zip(weights);
        all.extend(pairs.map(|(expert, weight)| Choice { expert, weight }));
        all.extend(router.shared.iter().map(|_| Choice {
            expert: count as u32,
            weight: gate.as_ref().map_or(1.0, |g| g[row]),
        }));
    }
    router.scaled(Routes {
        used: router.width(),
        chosen: all,
    })
}

/// What experts give, added up.
pub struct Sum {
    x: Candle,
    sum: Candle,
    weigh: Weigh,
}

impl Sum {
    /// Nothing yet, for the rows x.
    pub fn new(device: &Device, x: &Tensor, experts: &Experts) -> Result<Self> {
        let x = x.to_candle(device)?;
        let width = experts.all.first().map_or(0, |e| e.down.n());
        let sum = Candle::zeros((x.dims2()?.0, width), x.dtype(), device)?;
        let weigh = experts.weigh;
        Ok(Self { x, sum, weigh })
    }

    fn weighed(&self, x: Candle, weights: &[f32], when: Weigh) -> Result<Candle> {
        if self.weigh != when {
            return Ok(x);
        }
        let weights = Candle::from_slice(weights, (weights.len(), 1), x.device())?;
        Ok(x.broadcast_mul(&weights)?)
    }

    /// What an expert gets.
    pub fn rows(&self, rows: &[u32], weights: &[f32]) -> Result<Tensor> {
        let rows = Candle::from_slice(rows, rows.len(), self.x.device())?;
        let x = self.x.index_select(&rows, 0)?;
        Tensor::from_candle(self.weighed(x, weights, Weigh::Input)?)
    }

    /// Adds what it gives.
    pub fn add(&mut self, made: &Tensor, rows: &[u32], weights: &[f32]) -> Result<()> {
        let made = made.to_candle(self.x.device())?;
        let made = self.weighed(made, weights, Weigh::Output)?;
        let rows = Candle::from_slice(rows, rows.len(), self.x.device())?;
        self.sum = self.sum.index_add(&rows, &made, 0)?;
        Ok(())
    }

    /// The sums.
    pub fn finish(self) -> Result<Tensor> {
        Tensor::from_candle(self.sum)
    }
}
