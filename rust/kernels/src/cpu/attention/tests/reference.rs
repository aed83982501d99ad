//! Attention as the formula has it: softmax over all visible keys at once, in f64.
use super::super::super::kv::KvType;
use super::super::Window;
use super::scenario::Scenario;

/// What a cache keeps of heads `width` wide.
fn kept(dtype: KvType, values: &[f64], width: usize) -> Vec<f64> {
    let mut kept: Vec<f32> = values.iter().map(|&v| v as f32).collect();
    kept.chunks_exact_mut(width)
        .for_each(|head| dtype.round(head));
    kept.into_iter().map(f64::from).collect()
}

impl Scenario {
    /// Outputs of every sequence, `[tokens, heads * value_dim]`.
    /// The cache's rounding of keys and values is no error; that of queries and probabilities is.
    pub fn reference(&self, dtype: KvType) -> Vec<Vec<f64>> {
        (0..self.lengths.len())
            .map(|s| self.reference_of(s, dtype))
            .collect()
    }

    fn normalised(&self, head: &mut [f64], weight: &[f32]) {
        let mean = head.iter().map(|v| v * v).sum::<f64>() / self.head_dim as f64;
        let factor = 1.0 / (mean + f64::from(Self::EPS)).sqrt();
        head.iter_mut()
            .zip(weight)
            .for_each(|(v, w)| *v *= factor * f64::from(*w));
    }

    fn prepared(&self, data: &[f32], heads: usize, weight: &[f32], query: bool) -> Vec<f64> {
        let dim = self.head_dim;
        let mut all: Vec<f64> = data.iter().map(|&v| f64::from(v)).collect();
        for (i, head) in all.chunks_exact_mut(dim).enumerate() {
            if self.norm && !self.after_rope {
                self.normalised(head, weight);
            }
            let position = i / heads;
            for (j, f) in self.frequencies().iter().enumerate() {
                let half = self.rotary_dim / 2;
                let (a, b) = if self.interleaved {
                    (2 * j, 2 * j + 1)
                } else {
                    (j, j + half)
                };
                let (sin, cos) = f64::from(position as f32 * f).sin_cos();
                (head[a], head[b]) = (head[a] * cos - head[b] * sin, head[b] * cos + head[a] * sin);
            }
            if self.norm && self.after_rope {
                self.normalised(head, weight);
            }
            if let Some(t) = self.temperature.filter(|_| query) {
                let grown = (1.0 + ((position + t.ahead) / t.original) as f64).ln();
                let factor = 1.0 + f64::from(t.beta) * grown;
                head.iter_mut().for_each(|v| *v *= factor);
            }
        }
        all
    }

    fn reference_of(&self, sequence: usize, dtype: KvType) -> Vec<f64> {
        let (dim, group) = (self.head_dim, self.heads / self.kv_heads);
        let [q, k, v] = self.data(sequence);
        let [wq, wk] = self.norm_weights();
        let (q, k) = (
            self.prepared(&q, self.heads, &wq, true),
            self.prepared(&k, self.kv_heads, &wk, false),
        );
        let k = kept(dtype, &k, dim);
        let width = self.value_dim;
        let v: Vec<f64> = if self.latent {
            let value = |key: &[f64]| key[dim - width..].to_vec();
            k.chunks_exact(dim).flat_map(value).collect()
        } else {
            let v: Vec<f64> = v.iter().map(|&v| f64::from(v)).collect();
            kept(dtype, &v, width)
        };
        let mut out = vec![0.0; q.len() / dim * width];
        for (i, (q, out)) in q
            .chunks_exact(dim)
            .zip(out.chunks_exact_mut(width))
            .enumerate()
        {
            let (position, head) = (i / self.heads, i % self.heads);
            let first = match self.window {
                None => 0,
                Some(Window::Sliding(n)) => (position + 1).saturating_sub(n),
                Some(Window::Chunk(n)) => position - position % n,
            };
            let at = |p: usize, width: usize| (p * self.kv_heads + head / group) * width;
            let scores: Vec<f64> = (first..=position)
                .map(|p| {
                    let dot: f64 = q.iter().zip(&k[at(p, dim)..]).map(|(a, b)| a * b).sum();
                    let score = dot * f64::from(self.scale);
                    self.softcap
                        .map_or(score, |c| f64::from(c) * (score / f64::from(c)).tanh())
                })
                .collect();
            let sink = self.sinks.get(head).map(|&s| f64::from(s));
            let max = scores
                .iter()
                .copied()
                .chain(sink)
                .fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = scores
                .iter()
                .copied()
                .chain(sink)
                .map(|s| (s - max).exp())
                .sum();
            for (p, s) in (first..=position).zip(scores) {
                let weight = (s - max).exp() / sum;
                for (o, v) in out.iter_mut().zip(&v[at(p, width)..]) {
                    *o += weight * v;
                }
            }
        }
        out
    }
}
