//! From one row of logits to one token, by that request's own parameters.
//! A pure function of the row and the request's state: nothing of other rows, of chunks or of time enters.
mod mask;
mod random;
mod select;

use std::collections::HashMap;
use std::ops::ControlFlow::{self, Break, Continue};

use candle_vllm_kernels::cpu::Cpu;
use candle_vllm_kernels::cpu::logits::{self, Few, GROUP, GROUPS, STRIPE, Softmax};
pub use mask::Masks;
use random::Numbers;
pub use random::fresh_seed;
use select::Entry;

use crate::error::{Error, Result};
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

/// What the next token is drawn from.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    /// One a token.
    pub logits: &'a [f32],
    /// Their maxima ([`logits::maxima`]), where they are known.
    pub maxima: Option<&'a [f32]>,
    /// Which tokens may come, as a row of [`Masks`]; `None` = all.
    pub mask: Option<&'a [u32]>,
}

impl<'a> Row<'a> {
    /// A free row of which nothing else is known.
    #[cfg(test)]
    pub fn of(logits: &'a [f32]) -> Self {
        Self {
            logits,
            maxima: None,
            mask: None,
        }
    }
}

/// Weight, relative to the best, from which on values are looked at one by one.
const FIRST_LOOK: f32 = 1.0 / 512.0;

/// Log-probabilities that are sorted at most; a whole vocabulary is not.
const SORTED: usize = 1024;

/// A share that sums of weights are wrong by at most.
const ROUNDING: f64 = 1e-5;

/// Working memory of sampling, as large as the vocabulary, used again for every row.
pub struct Sampler {
    cpu: Cpu,
    logits: Vec<f32>,
    maxima: Vec<f32>,
    sums: Vec<f64>,
    weights: Vec<f32>,
    few: Few,
    entries: Vec<Entry>,
}

impl Sampler {
    /// A sampler that computes with the instructions of `cpu`; the results are the same on all.
    pub fn new(cpu: Cpu) -> Self {
        Self {
            cpu,
            logits: Vec::new(),
            maxima: Vec::new(),
            sums: Vec::new(),
            weights: Vec::new(),
            few: Few::default(),
            entries: Vec::new(),
        }
    }

    /// Draws the next token from a row of logits. In this order: the row's mask, logit_bias, mask of end ids before
    /// `min_tokens`, penalties, temperature, top_k, top_p, min_p, and random numbers of (seed, tokens generated so far).
    ///
    /// # Errors
    /// When the row holds NaN or no finite largest value, as when no token may come.
    pub fn sample(
        &mut self,
        row: Row<'_>,
        params: &GenerationParams,
        state: &SamplingState,
    ) -> Result<u32> {
        let early = state.generated < params.min_tokens && !state.ends.is_empty();
        let as_is = params.logit_bias.is_empty() && !early && state.seen.is_none();
        if as_is && row.mask.is_none() {
            return self.draw((row.logits, row.maxima), params, state);
        }
        let mut logits = std::mem::take(&mut self.logits);
        match row.mask {
            Some(mask) => mask::apply(mask, row.logits, &mut logits),
            None => {
                logits.clear();
                logits.extend_from_slice(row.logits);
            }
        }
        adjust(&mut logits, params, state, early);
        let token = self.draw((&logits, None), params, state);
        self.logits = logits;
        token
    }

    fn draw(
        &mut self,
        (row, maxima): (&[f32], Option<&[f32]>),
        params: &GenerationParams,
        state: &SamplingState,
    ) -> Result<u32> {
        let (best, max) = self.peak(row, maxima)?;
        if params.temperature < GREEDY_BELOW {
            return Ok(best);
        }
        let mut by = Distribution {
            max,
            scale: 1.0 / params.temperature,
            min_p: params.min_p,
            random: Numbers::new(state.seed, state.generated as u64),
        };
        let p = f64::from(params.top_p);
        Ok(match params.top_k {
            Some(k) if k > 0 && k < row.len() => self.draw_best(row, k, p, &mut by),
            _ if p < 1.0 => self.draw_nucleus((best, row), p, &mut by),
            _ if params.min_p > 0.0 => self.draw_likely(row, &mut by),
            _ => self.draw_any((best, row), &mut by),
        })
    }

    /// The best token and its logit; `self.maxima` are then those of the row.
    fn peak(&mut self, row: &[f32], maxima: Option<&[f32]>) -> Result<(u32, f32)> {
        let peak = match maxima {
            Some(maxima) => {
                self.maxima.clear();
                self.maxima.extend_from_slice(maxima);
                logits::peak_by(self.cpu, row, maxima)
            }
            None => logits::peak(self.cpu, row, &mut self.maxima),
        };
        if peak.nan {
            return Err(Error::Generation(
                "the model computed logits that are not numbers (NaN)".into(),
            ));
        }
        if !peak.value.is_finite() {
            return Err(Error::Generation(format!(
                "no token can be sampled: the largest logit is {}",
                peak.value
            )));
        }
        Ok((peak.index as u32, peak.value))
    }

    /// From the whole row.
    fn draw_any(&mut self, (best, row): (u32, &[f32]), by: &mut Distribution) -> u32 {
        let boxes = self.boxes(row, by);
        self.throw((best, row), &boxes, by)
    }

    /// Takes the values above a threshold into `few`, as weights, and puts the others into boxes, one a group: as wide as
    /// its values are many and as high as the weight of the largest (`weights`; `sums`: of each stripe's).
    fn boxes(&mut self, row: &[f32], by: &Distribution) -> Boxes {
        let threshold = by.logit(FIRST_LOOK);
        logits::collect(self.cpu, row, &self.maxima, threshold, &mut self.few);
        let taken = self.weigh_few(by);
        logits::weigh(
            self.cpu,
            &self.maxima,
            by.softmax(by.min_p),
            &mut self.weights,
        );
        let (mut wide, mut known) = (0.0, taken);
        self.sums.clear();
        let stripes = self.weights.chunks_mut(GROUPS);
        self.sums.extend(
            stripes
                .zip(self.maxima.chunks(GROUPS))
                .map(|(weights, maxima)| {
                    let (mut sum, mut below) = (0.0, 0.0);
                    for (w, &max) in weights.iter_mut().zip(maxima) {
                        // Where the largest was taken, the others may be as high as the threshold.
                        below += if max < threshold { *w } else { 0.0 };
                        *w = w.min(FIRST_LOOK);
                        sum += *w;
                    }
                    known += f64::from(below);
                    wide += f64::from(sum);
                    f64::from(sum)
                }),
        );
        Boxes {
            threshold,
            taken,
            total: taken + wide * GROUP as f64,
            known,
        }
    }

    /// Darts are thrown at what was taken and at the boxes until one hits below the weight of the value whose place it
    /// meets (rejection sampling, von Neumann 1951), so that most values are never looked at.
    fn throw(&self, (best, row): (u32, &[f32]), boxes: &Boxes, by: &mut Distribution) -> u32 {
        // A box has a value that fills its place, or one above the threshold, so that one throw of 65 hits at the worst:
        // not to end within so many has a chance below e^-60.
        for _ in 0..GROUP * GROUP {
            let at = by.random.draw() * boxes.total;
            if at < boxes.taken {
                return self.few.ids[pick(&self.few.values, at)];
            }
            let (stripe, left) = reach(&self.sums, (at - boxes.taken) / GROUP as f64);
            let first = stripe * GROUPS;
            let (inside, left) = into(&self.weights[first..first + GROUPS], left);
            let high = f64::from(self.weights[first + inside]);
            let place = left / high * GROUP as f64;
            let id = (first + inside) * GROUP + place as usize % GROUP;
            if let Some(&x) = row.get(id)
                && x < boxes.threshold
                && by.is_above(place.fract() * high, x)
            {
                return id as u32;
            }
        }
        best
    }

    /// From the likeliest of the `k` best that make up `p` of their mass.
    fn draw_best(&mut self, row: &[f32], k: usize, p: f64, by: &mut Distribution) -> u32 {
        let (cpu, few) = (self.cpu, &mut self.few);
        select::top_k(cpu, row, &self.maxima, k, &mut self.entries, few);
        self.draw_few(p, None, by)
    }

    /// From those that are as likely as `min_p` asks for.
    fn draw_likely(&mut self, row: &[f32], by: &mut Distribution) -> u32 {
        // A little further down than that, for rounding; the floor is applied to the weights themselves.
        let threshold = by.logit(by.min_p * 0.99);
        logits::collect(self.cpu, row, &self.maxima, threshold, &mut self.few);
        self.draw_few(1.0, None, by)
    }

    /// From the likeliest of `few` that make up the share `p` of their mass, or of a given one.
    fn draw_few(&mut self, p: f64, mass: Option<f64>, by: &mut Distribution) -> u32 {
        let values = std::mem::take(&mut self.few.values);
        let mut drawn = None;
        let at = loop {
            match self.keep_or_draw(&values, drawn, (p, mass), by) {
                Break(at) => break at,
                Continue((at, _)) => drawn = Some(at),
            }
        };
        self.few.values = values;
        self.few.ids[at]
    }

    /// From the likeliest that make up the mass `p`: one from the whole row, if it is one of them, else another. Mostly
    /// that shows without the mass of the row, which is at least what is known of it.
    fn draw_nucleus(&mut self, (best, row): (u32, &[f32]), p: f64, by: &mut Distribution) -> u32 {
        let boxes = self.boxes(row, by);
        let drawn = self.throw((best, row), &boxes, by);
        if let Ok(at) = self.few.ids.binary_search(&drawn) {
            let own = self.few.values[at];
            let better = self.few.values.iter().filter(|&&w| w >= own);
            let before = better.map(|&w| f64::from(w)).sum::<f64>() - f64::from(own);
            if before < p * boxes.known * (1.0 - ROUNDING) && own >= by.min_p {
                return drawn;
            }
        }
        let mut drawn = drawn as usize;
        loop {
            match self.keep_or_draw(row, Some(drawn), (p, None), by) {
                Break(at) => return at as u32,
                Continue((_, mass)) if boxes.taken * (1.0 - ROUNDING) > p * mass => {
                    logits::collect(self.cpu, row, &self.maxima, boxes.threshold, &mut self.few);
                    return self.draw_few(p, Some(mass), by);
                }
                Continue((at, _)) => drawn = at,
            }
        }
    }

    /// The place of what was `drawn` from `values`, logits, if it is one of the likeliest that make up the share `p` of
    /// their mass, or of a given one. Else one drawn from those that are likelier, which these are among; and their mass.
    fn keep_or_draw(
        &mut self,
        values: &[f32],
        drawn: Option<usize>,
        (p, mass): (f64, Option<f64>),
        by: &mut Distribution,
    ) -> ControlFlow<usize, (usize, f64)> {
        // Of equals the first is likelier, so other weights count before the one drawn and behind it.
        let own = drawn.map_or(0.0, |at| self.weight(values[at], by));
        let (end, start) = drawn.map_or((0, 0), |at| (at, at + 1));
        let least = |w: f32| w.max(by.min_p).max(Softmax::LEAST);
        let parts = [
            (0..end, least(own)),
            (start..values.len(), least(own.next_up())),
        ];
        self.sums.clear();
        let (softmax, mut all) = (by.softmax(0.0), f64::from(own));
        for (part, least) in parts.clone() {
            all += logits::masses(self.cpu, &values[part], softmax, least, &mut self.sums);
        }
        let mass = mass.unwrap_or(all);
        let likelier: f64 = self.sums.iter().sum();
        if let Some(at) = drawn
            && own >= by.min_p
            && (likelier < p * mass || likelier == 0.0)
        {
            return Break(at);
        }
        let (stripe, left) = reach(&self.sums, by.random.draw() * likelier);
        let (part, stripe) = match stripe.checked_sub(end.div_ceil(STRIPE)) {
            Some(stripe) => (&parts[1], stripe),
            None => (&parts[0], stripe),
        };
        let first = part.0.start + stripe * STRIPE;
        let inside = &values[first..part.0.end.min(first + STRIPE)];
        let softmax = by.softmax(part.1);
        logits::weigh(self.cpu, inside, softmax, &mut self.weights);
        Continue((first + pick(&self.weights, left), mass))
    }

    /// The weight of a logit, with the bits that it has in a row.
    fn weight(&mut self, x: f32, by: &Distribution) -> f32 {
        let softmax = by.softmax(0.0);
        logits::weigh(self.cpu, &[x], softmax, &mut self.weights);
        self.weights[0]
    }

    /// Turns the logits of `few` into weights; their sum.
    fn weigh_few(&mut self, by: &Distribution) -> f64 {
        let softmax = by.softmax(0.0);
        let total = logits::weigh(self.cpu, &self.few.values, softmax, &mut self.weights);
        std::mem::swap(&mut self.few.values, &mut self.weights);
        total
    }

    /// Log-softmax of the raw `row` at `token`, and at the `count` likeliest tokens (-1: all): best first, or in order of
    /// ids when they are more than [`SORTED`].
    ///
    /// # Errors
    /// As [`Sampler::sample`].
    pub fn logprobs(&mut self, row: &[f32], token: u32, count: i32) -> Result<TokenLogprob> {
        let (_, max) = self.peak(row, None)?;
        let softmax = Softmax::new(max, 1.0, 0.0);
        self.sums.clear();
        let total = logits::masses(self.cpu, row, softmax, 0.0, &mut self.sums);
        let norm = total.ln() + f64::from(max);
        let value = |x: f32| (f64::from(x) - norm) as f32;
        let count = usize::try_from(count).unwrap_or(row.len());
        let (few, entries) = (&mut self.few, &mut self.entries);
        select::top_k(self.cpu, row, &self.maxima, count, entries, few);
        let pairs = few.values.iter().copied().zip(few.ids.iter().copied());
        let mut top: Vec<Entry> = pairs.collect();
        if top.len() <= SORTED {
            top.sort_unstable_by(select::better);
        }
        Ok(TokenLogprob {
            token_id: token,
            logprob: row
                .get(token as usize)
                .map_or(f32::NEG_INFINITY, |&x| value(x)),
            top: top.into_iter().map(|(x, id)| (id, value(x))).collect(),
        })
    }
}

/// What is known of a row after a first look.
struct Boxes {
    /// Values from here on were taken.
    threshold: f32,
    /// The weight of those taken.
    taken: f64,
    /// The same and the sizes of the boxes.
    total: f64,
    /// What the row weighs at least.
    known: f64,
}

/// What a row is drawn by.
struct Distribution {
    max: f32,
    /// One over the temperature.
    scale: f32,
    min_p: f32,
    random: Numbers,
}

impl Distribution {
    /// Weights below `floor` become 0.
    fn softmax(&self, floor: f32) -> Softmax {
        Softmax::new(self.max, self.scale, floor)
    }

    /// Whether the weight of logit `x`, which is at most the largest, is above `height`.
    fn is_above(&self, height: f64, x: f32) -> bool {
        let y = f64::from((x - self.max) * self.scale);
        // e^y <= 1 / (1 - y) for y up to 0 settles most cases.
        height * (1.0 - y) < 1.0 && height < y.exp()
    }

    /// The logit of a weight.
    fn logit(&self, weight: f32) -> f32 {
        self.max + weight.ln() / self.scale
    }
}

/// The stripe in which the running sum of `sums` passes `target`, and what of `target` is left for it.
fn reach(sums: &[f64], mut target: f64) -> (usize, f64) {
    let mut last = 0;
    for (stripe, &sum) in sums.iter().enumerate().filter(|(_, sum)| **sum > 0.0) {
        last = stripe;
        if target < sum {
            return (stripe, target);
        }
        target -= sum;
    }
    // Rounding led past the end: the last that can be.
    (last, f64::INFINITY)
}

/// Where the running sum of `weights` passes `target`; never at a weight of 0.
fn pick(weights: &[f32], target: f64) -> usize {
    into(weights, target).0
}

/// The same, and how far `target` reaches into that weight.
fn into(weights: &[f32], mut target: f64) -> (usize, f64) {
    let mut last = (0, 0.0);
    for (i, &w) in weights.iter().enumerate().filter(|(_, w)| **w > 0.0) {
        last = (i, target.min(f64::from(w)));
        target -= f64::from(w);
        if target < 0.0 {
            break;
        }
    }
    last
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
