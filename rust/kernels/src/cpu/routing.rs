//! Which experts a row goes to, and how much each counts: top-k of a router's logits by a family's rule, row by row.
//! Sums run in the order of experts, so that a row's choice depends on its own logits alone.
use std::ops::Range;

use super::Compute;

/// What experts are chosen by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scores {
    /// Softmax over all experts.
    Softmax,
    /// Sigmoid of each.
    Sigmoid,
    /// The logits; softmax over those chosen.
    ChosenSoftmax,
    /// The logits; sigmoid of each chosen.
    ChosenSigmoid,
    /// SparseMixer (arXiv 2409.12136) as in inference: the best, then the best of the others, each weighted by softmax
    /// over those no further below it than twice this much of their size.
    SparseMixer(f32),
}

/// Experts stand in groups of equal size, and only those of the best groups can be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Groups {
    /// How many there are.
    pub count: usize,
    /// From how many experts are chosen.
    pub used: usize,
    /// Whether a group counts as much as its two best experts together (DeepSeek V3); else as its best (V2).
    pub by_two: bool,
}

/// From logits to experts and their weights.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Routing {
    /// Experts a row.
    pub used: usize,
    /// What they are chosen by.
    pub scores: Scores,
    /// Where only some groups are taken.
    pub groups: Option<Groups>,
    /// Whether the weights of a row are divided by their sum.
    pub normalise: bool,
    /// What they are multiplied with at last.
    pub factor: f32,
}

/// The least that weights are divided by.
pub const LEAST_SUM: f32 = 1e-20;

/// Rows on the calling thread where there are fewer logits.
const SERIAL: usize = 4 * 1024;

/// One expert of a row.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Choice {
    /// Its number.
    pub expert: u32,
    /// How much it counts.
    pub weight: f32,
}

/// The experts of rows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Routes {
    /// Experts a row.
    pub used: usize,
    /// `[rows, used]`
    pub chosen: Vec<Choice>,
}

/// Rows by expert.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ByExpert {
    /// Experts with rows, in their order, and where these stand in `rows` and `weights`.
    pub touched: Vec<(usize, Range<usize>)>,
    /// Rows, ascending within an expert.
    pub rows: Vec<u32>,
    /// Their weights.
    pub weights: Vec<f32>,
}

impl Routes {
    /// Turns them round.
    ///
    /// # Panics
    /// When a choice is none of `experts`.
    pub fn by_expert(&self, experts: usize) -> ByExpert {
        let mut ends = vec![0usize; experts];
        for choice in &self.chosen {
            ends[choice.expert as usize] += 1;
        }
        let (mut touched, mut start) = (Vec::new(), 0);
        for (expert, end) in ends.iter_mut().enumerate() {
            if *end > 0 {
                touched.push((expert, start..start + *end));
            }
            (start, *end) = (start + *end, start);
        }
        let mut by = ByExpert {
            touched,
            rows: vec![0; self.chosen.len()],
            weights: vec![0.0; self.chosen.len()],
        };
        for (i, choice) in self.chosen.iter().enumerate() {
            let at = &mut ends[choice.expert as usize];
            by.rows[*at] = (i / self.used) as u32;
            by.weights[*at] = choice.weight;
            *at += 1;
        }
        by
    }
}

/// The experts of each row of `logits`, `[rows, experts]`, into `to`, `[rows, width]`: the first `used` of each row, the
/// best one first. `correction` is added to the scores for the choice alone.
///
/// # Panics
/// When sizes do not fit, or a rule asks for more experts or groups than there are.
pub fn route(
    cx: &Compute,
    rule: &Routing,
    logits: &[f32],
    experts: usize,
    correction: Option<&[f32]>,
    to: &mut [Choice],
    width: usize,
) {
    let rows = logits.len() / experts.max(1);
    assert!(logits.len() == rows * experts && to.len() == rows * width);
    assert!(rule.used <= width && rule.used <= experts);
    assert!(correction.is_none_or(|c| c.len() == experts));
    assert!(
        rule.groups.is_none_or(|g| {
            g.count > 0 && experts.is_multiple_of(g.count) && g.used <= g.count
        })
    );
    let to = Rows(to.as_mut_ptr());
    let one = |r: usize| {
        // SAFETY: a row is written by one task.
        let to = unsafe { std::slice::from_raw_parts_mut(to.get().add(r * width), rule.used) };
        row(rule, &logits[r * experts..][..experts], correction, to);
    };
    if logits.len() < SERIAL {
        (0..rows).for_each(one);
    } else {
        cx.pool.for_each(rows, &one);
    }
}

/// Rows that threads write apart.
struct Rows(*mut Choice);
// SAFETY: each task writes its own row.
unsafe impl Sync for Rows {}
impl Rows {
    fn get(&self) -> *mut Choice {
        self.0
    }
}

fn row(rule: &Routing, logits: &[f32], correction: Option<&[f32]>, to: &mut [Choice]) {
    if let Scores::SparseMixer(jitter) = rule.scores {
        return sparse_mixer(logits, jitter, to);
    }
    let mut scores = logits.to_vec();
    match rule.scores {
        Scores::Softmax => softmax(&mut scores),
        Scores::Sigmoid => scores.iter_mut().for_each(|s| *s = sigmoid(*s)),
        _ => {}
    }
    let mut choice = scores.clone();
    if let Some(correction) = correction {
        choice.iter_mut().zip(correction).for_each(|(c, b)| *c += b);
    }
    if let Some(groups) = rule.groups {
        leave_out(groups, &mut choice);
    }
    best(&choice, to);
    to.iter_mut()
        .for_each(|c| c.weight = scores[c.expert as usize]);
    let mut weights: Vec<f32> = to.iter().map(|c| c.weight).collect();
    match rule.scores {
        Scores::ChosenSoftmax => softmax(&mut weights),
        Scores::ChosenSigmoid => weights.iter_mut().for_each(|w| *w = sigmoid(*w)),
        _ => {}
    }
    let sum = if rule.normalise {
        weights.iter().sum::<f32>().max(LEAST_SUM)
    } else {
        1.0
    };
    for (choice, weight) in to.iter_mut().zip(weights) {
        choice.weight = weight / sum * rule.factor;
    }
}

/// The experts with the largest values, the largest first; of equal ones the first.
fn best(values: &[f32], to: &mut [Choice]) {
    let mut held = 0;
    for (expert, &value) in values.iter().enumerate() {
        if held == to.len() && !to.last().is_some_and(|last| value > last.weight) {
            continue;
        }
        held = (held + 1).min(to.len());
        let mut at = held - 1;
        while at > 0 && value > to[at - 1].weight {
            to[at] = to[at - 1];
            at -= 1;
        }
        to[at] = Choice {
            expert: expert as u32,
            weight: value,
        };
    }
}

/// Puts experts of groups that are not among the best out of reach.
fn leave_out(groups: Groups, choice: &mut [f32]) {
    let size = choice.len() / groups.count;
    let value = |group: &[f32]| {
        let mut two = [Choice::default(); 2];
        let two = &mut two[..group.len().min(if groups.by_two { 2 } else { 1 })];
        best(group, two);
        two.iter().map(|c| c.weight).sum()
    };
    let values: Vec<f32> = choice.chunks(size).map(value).collect();
    let mut kept = vec![Choice::default(); groups.used];
    best(&values, &mut kept);
    for (group, values) in choice.chunks_mut(size).enumerate() {
        if kept.iter().all(|k| k.expert as usize != group) {
            values.fill(f32::NEG_INFINITY);
        }
    }
}

fn sparse_mixer(logits: &[f32], jitter: f32, to: &mut [Choice]) {
    let mut left = logits.to_vec();
    for choice in to {
        let mut first = [Choice::default()];
        best(&left, &mut first);
        let [
            Choice {
                expert,
                weight: most,
            },
        ] = first;
        let near = |(l, v): (&f32, &f32)| {
            let far = (most - l) / l.abs().max(most) > 2.0 * jitter;
            if far { 0.0 } else { (v - most).exp() }
        };
        let sum: f32 = logits.iter().zip(&left).map(near).sum();
        *choice = Choice {
            expert,
            weight: 1.0 / sum,
        };
        left[expert as usize] = f32::NEG_INFINITY;
    }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

fn softmax(values: &mut [f32]) {
    let most = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    values.iter_mut().for_each(|v| *v = (*v - most).exp());
    let sum: f32 = values.iter().sum();
    values.iter_mut().for_each(|v| *v /= sum);
}

#[cfg(test)]
mod tests;
