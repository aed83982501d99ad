//! From one row of logits to one token, by that request's own parameters.
//! A pure function of the row and the request's state: nothing of other rows, of chunks or of time enters.
mod math;
mod random;
mod select;

use std::collections::HashMap;

pub use random::fresh_seed;
use select::Entry;

use crate::error::Result;
use crate::event::TokenLogprob;
use crate::params::GenerationParams;

/// Below this temperature sampling is greedy: dividing by less would overflow.
const GREEDY_BELOW: f32 = 1e-5;

/// What sampling remembers of one request.
#[derive(Debug, Clone, Default)]
pub struct SamplingState {
    seed: u64,
    /// Every token seen, with its count in the answer; `None` without penalties.
    seen: Option<HashMap<u32, u32>>,
    /// Ids that may not come before `min_tokens`.
    ends: Vec<u32>,
    /// Tokens generated.
    generated: usize,
}

impl SamplingState {
    /// The state before the first token. `seed` counts where the parameters name none.
    pub fn new(params: &GenerationParams, prompt: &[u32], eos: &[u32], seed: u64) -> Self {
        let penalised = params.repetition_penalty != 1.0
            || params.frequency_penalty != 0.0
            || params.presence_penalty != 0.0;
        let mut ends = Vec::new();
        if params.min_tokens > 0 {
            ends.extend_from_slice(&params.stop_token_ids);
            if !params.ignore_eos {
                ends.extend_from_slice(eos);
            }
        }
        Self {
            seed: params.seed.unwrap_or(seed),
            seen: penalised.then(|| prompt.iter().map(|&t| (t, 0)).collect()),
            ends,
            generated: 0,
        }
    }

    /// Counts a token of the answer.
    pub fn accept(&mut self, token: u32) {
        self.generated += 1;
        if let Some(seen) = &mut self.seen {
            *seen.entry(token).or_default() += 1;
        }
    }
}

/// Working memory of sampling, as large as the vocabulary, used again for every row.
#[derive(Default)]
pub struct Sampler {
    logits: Vec<f32>,
    weights: Vec<f32>,
    sums: Vec<f64>,
    maxima: Vec<f32>,
    bins: Vec<f64>,
    entries: Vec<Entry>,
    order: Vec<Entry>,
}

impl Sampler {
    /// Draws the next token. In this order: logit_bias, mask of end ids before `min_tokens`, penalties, temperature,
    /// top_k, top_p, min_p, and one random number of (seed, tokens generated so far).
    ///
    /// # Errors
    /// When the row holds NaN or no finite largest value.
    pub fn sample(
        &mut self,
        row: &[f32],
        params: &GenerationParams,
        state: &SamplingState,
    ) -> Result<u32> {
        let masked = state.generated < params.min_tokens && !state.ends.is_empty();
        if params.logit_bias.is_empty() && !masked && state.seen.is_none() {
            return self.draw(row, params, state);
        }
        let mut logits = std::mem::take(&mut self.logits);
        logits.clear();
        logits.extend_from_slice(row);
        adjust(&mut logits, params, state, masked);
        let token = self.draw(&logits, params, state);
        self.logits = logits;
        token
    }

    fn draw(
        &mut self,
        logits: &[f32],
        params: &GenerationParams,
        state: &SamplingState,
    ) -> Result<u32> {
        let (best, max) = math::peak(logits)?;
        if params.temperature < GREEDY_BELOW {
            return Ok(best as u32);
        }
        let scale = 1.0 / params.temperature;
        let random = random::uniform(state.seed, state.generated as u64);
        let top_k = params.top_k.filter(|&k| k > 0 && k < logits.len());
        let top_p = (params.top_p < 1.0).then_some(f64::from(params.top_p));
        if let Some(k) = top_k {
            select::top_k(logits, k, &mut self.maxima, &mut self.entries);
            self.entries.sort_unstable_by_key(|e| e.1);
            let weigh = |e: &mut Entry| e.0 = math::weight(e.0, max, scale);
            self.entries.iter_mut().for_each(weigh);
            let target = top_p.map(|p| p * mass(&self.entries));
            return Ok(self.draw_entries(target, params.min_p, random));
        }
        let (weights, sums) = (&mut self.weights, &mut self.sums);
        let floor = if top_p.is_some() { 0.0 } else { params.min_p };
        let mut total = math::weigh(logits, max, scale, floor, weights, sums);
        if let Some(p) = top_p {
            let last =
                select::nucleus_of_row(weights, p * total, &mut self.bins, &mut self.entries);
            total = math::cut(weights, sums, last, params.min_p);
        }
        Ok(math::pick(weights, sums, random * total) as u32)
    }

    /// Draws from `entries` (weight and id, by id): only the nucleus of mass `target`, only weights from `min_p` on.
    fn draw_entries(&mut self, target: Option<f64>, min_p: f32, random: f64) -> u32 {
        if let Some(target) = target {
            self.order.clear();
            self.order.extend_from_slice(&self.entries);
            let last = select::nucleus(&mut self.order, target);
            self.entries.retain(|e| select::better(e, &last).is_le());
        }
        self.entries.retain(|e| e.0 > 0.0 && e.0 >= min_p);
        let mut left = random * mass(&self.entries);
        let mut token = 0;
        for &(weight, id) in &self.entries {
            token = id;
            left -= f64::from(weight);
            if left < 0.0 {
                break;
            }
        }
        token
    }

    /// Log-softmax of the raw `row` at `token`, and at the `count` likeliest tokens (-1: all), best first.
    ///
    /// # Errors
    /// As [`Sampler::sample`].
    pub fn logprobs(&mut self, row: &[f32], token: u32, count: i32) -> Result<TokenLogprob> {
        let (_, max) = math::peak(row)?;
        let norm = math::log_sum_exp(row, max);
        let value = |x: f32| (f64::from(x) - norm) as f32;
        let count = usize::try_from(count).unwrap_or(row.len());
        select::top_k(row, count, &mut self.maxima, &mut self.entries);
        self.entries.sort_unstable_by(select::better);
        Ok(TokenLogprob {
            token_id: token,
            logprob: row
                .get(token as usize)
                .map_or(f32::NEG_INFINITY, |&x| value(x)),
            top: self.entries.iter().map(|&(x, id)| (id, value(x))).collect(),
        })
    }
}

fn mass(entries: &[Entry]) -> f64 {
    entries.iter().map(|e| f64::from(e.0)).sum()
}

/// Bias, mask and penalties, in this order (repetition over prompt and answer: divides positive logits, multiplies
/// negative ones, as Keskar et al. 2019; frequency and presence over the answer, as OpenAI defines them).
fn adjust(logits: &mut [f32], params: &GenerationParams, state: &SamplingState, masked: bool) {
    for &(id, bias) in &params.logit_bias {
        if let Some(x) = logits.get_mut(id as usize) {
            *x += bias;
        }
    }
    if masked {
        for &id in &state.ends {
            if let Some(x) = logits.get_mut(id as usize) {
                *x = f32::NEG_INFINITY;
            }
        }
    }
    for (&id, &count) in state.seen.iter().flatten() {
        if let Some(x) = logits.get_mut(id as usize) {
            *x = if *x > 0.0 {
                *x / params.repetition_penalty
            } else {
                *x * params.repetition_penalty
            };
            if count > 0 {
                *x -= count as f32 * params.frequency_penalty + params.presence_penalty;
            }
        }
    }
}

#[cfg(test)]
mod tests;
