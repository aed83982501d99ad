//! Which tokens may come: a bit for each, for the rows of a step that are not free.
//! Knows nothing of what the constraint is.

/// The masks of one step. A row's mask is `ceil(vocabulary / 32)` words; bit `id % 32` of word `id / 32` is set where
/// token `id` may come.
#[derive(Debug, Default)]
pub struct Masks {
    words: usize,
    /// Of each row of logits, which of `bits`' rows is its mask; `None` = every token may come.
    rows: Vec<Option<u32>>,
    bits: Vec<u32>,
}

impl Masks {
    /// `rows` free rows of logits over a vocabulary of `vocab` tokens.
    pub fn reset(&mut self, rows: usize, vocab: usize) {
        self.words = vocab.div_ceil(32);
        self.rows.clear();
        self.rows.resize(rows, None);
        self.bits.clear();
    }

    /// The mask of a row of logits that was free, to be filled: no token may come yet.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn restrict(&mut self, row: usize) -> &mut [u32] {
        let start = self.bits.len();
        self.rows[row] = Some((start / self.words.max(1)) as u32);
        self.bits.resize(start + self.words, 0);
        &mut self.bits[start..]
    }

    /// Lets every token come at the row that was restricted last.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn free(&mut self, row: usize) {
        self.rows[row] = None;
        self.bits
            .truncate(self.bits.len().saturating_sub(self.words));
    }

    /// The mask of a row; `None` = free.
    pub fn row(&self, row: usize) -> Option<&[u32]> {
        let at = (*self.rows.get(row)?)? as usize * self.words;
        Some(&self.bits[at..at + self.words])
    }
}

/// Puts `logits` into `out`, those of tokens that may not come as minus infinity: also those beyond the mask's end.
pub(super) fn apply(mask: &[u32], logits: &[f32], out: &mut Vec<f32>) {
    out.clear();
    out.resize(logits.len(), f32::NEG_INFINITY);
    let parts = out.chunks_mut(32).zip(logits.chunks(32));
    for ((to, from), &word) in parts.zip(mask) {
        match word {
            0 => {}
            u32::MAX => to.copy_from_slice(from),
            _ => {
                for (bit, (to, &from)) in to.iter_mut().zip(from).enumerate() {
                    *to = if word >> bit & 1 == 1 { from } else { *to };
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::{Row, Sampler, SamplingState};
    use super::*;
    use crate::GenerationParams;
    use candle_vllm_kernels::cpu::Cpu;

    #[test]
    fn rows_keep_their_own_masks() {
        let mut masks = Masks::default();
        masks.reset(3, 70);
        masks.restrict(2)[0] = 1;
        masks.restrict(0).copy_from_slice(&[u32::MAX, 0, 2]);
        assert_eq!(masks.row(0), Some(&[u32::MAX, 0, 2][..]));
        assert_eq!((masks.row(1), masks.row(3)), (None, None));
        assert_eq!(masks.row(2), Some(&[1, 0, 0][..]));
        masks.reset(3, 70);
        assert_eq!(masks.row(0), None);
    }

    #[test]
    fn only_tokens_with_a_bit_stay() {
        let logits: Vec<f32> = (0..100).map(|i| i as f32).collect();
        for allowed in [vec![0, 31, 32, 63, 64, 95], (0..96).collect(), vec![]] {
            let mut mask = [0u32; 3];
            allowed
                .iter()
                .for_each(|id| mask[id / 32] |= 1 << (id % 32));
            let mut out = Vec::new();
            apply(&mask, &logits, &mut out);
            for (id, &x) in out.iter().enumerate() {
                let want = if allowed.contains(&id) {
                    id as f32
                } else {
                    f32::NEG_INFINITY
                };
                assert_eq!(x, want, "token {id}");
            }
        }
    }

    #[test]
    fn a_draw_stays_inside_the_mask_and_is_that_of_a_bias_that_forbids_the_others() {
        let logits: Vec<f32> = (0..500).map(|i| ((i * 37) % 91) as f32 / 20.0).collect();
        let mut sampler = Sampler::new(Cpu::detect().unwrap());
        for seed in 0..200u64 {
            let allowed = |id: u32| (id * 7 + seed as u32) % 5 < 2;
            let mut masks = Masks::default();
            masks.reset(1, 500);
            let mask = masks.restrict(0);
            (0..500u32)
                .filter(|&id| allowed(id))
                .for_each(|id| mask[id as usize / 32] |= 1 << (id % 32));
            let params = GenerationParams {
                temperature: [0.0, 1.0][seed as usize % 2],
                top_p: [1.0, 0.9][seed as usize / 2 % 2],
                seed: Some(seed),
                ..Default::default()
            };
            let state = SamplingState::new(&params, &[], &[], 0);
            let masked = Row {
                mask: masks.row(0),
                ..Row::of(&logits)
            };
            let token = sampler.sample(masked, &params, &state).unwrap();
            assert!(allowed(token), "seed {seed}: {token}");
            let mut forbidden = logits.clone();
            let other = |(id, x): (usize, &mut f32)| {
                if !allowed(id as u32) {
                    *x = f32::NEG_INFINITY
                }
            };
            forbidden.iter_mut().enumerate().for_each(other);
            assert_eq!(
                sampler
                    .sample(Row::of(&forbidden), &params, &state)
                    .unwrap(),
                token
            );
        }
    }

    #[test]
    fn a_mask_that_allows_nothing_is_an_error() {
        let mut masks = Masks::default();
        masks.reset(1, 9);
        masks.restrict(0);
        let row = Row {
            mask: masks.row(0),
            ..Row::of(&[1.0; 9])
        };
        let mut sampler = Sampler::new(Cpu::detect().unwrap());
        let params = GenerationParams::default();
        let state = SamplingState::new(&params, &[], &[], 0);
        assert!(sampler.sample(row, &params, &state).is_err());
    }
}
