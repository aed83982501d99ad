//! Rotary position embedding of one head, and the table of cosines and sines behind it.
//! Takes inverse frequencies as they are: how a model stretches them is the model's business.
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

/// Positions that the table grows by.
const CHUNK: usize = 256;

/// Inverse frequencies of the sequence position, in radians a token.
pub type ByPosition = Box<dyn Fn(usize) -> Vec<f32> + Send + Sync>;

enum Frequencies {
    Fixed(Vec<f32>),
    ByPosition(ByPosition),
}

/// Rotary embedding: the angle of pair `i` at position `p` is `p as f32 * inv_freq[i]` in f32; its cosine and sine are
/// rounded to f32 and multiplied by the attention factor, as transformers does.
pub struct Rope {
    half: usize,
    frequencies: Frequencies,
    attention_factor: f32,
    interleaved: bool,
    /// Chunks of positions, each `[CHUNK][cos: half, sin: half]`; grown on demand.
    chunks: RwLock<Vec<Box<[f32]>>>,
}

impl std::fmt::Debug for Rope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rope")
            .field("rotary_dim", &self.rotary_dim())
            .field("interleaved", &self.interleaved)
            .finish_non_exhaustive()
    }
}

impl Rope {
    /// `inv_freq`: one a pair of dimensions. `interleaved`: pairs are (0, 1), (2, 3) ...; otherwise dimension `i` of the
    /// first half pairs with `i` of the second, as Hugging Face checkpoints have it.
    pub fn new(inv_freq: Vec<f32>, attention_factor: f32, interleaved: bool) -> Rope {
        let (half, frequencies) = (inv_freq.len(), Frequencies::Fixed(inv_freq));
        Rope {
            half,
            frequencies,
            attention_factor,
            interleaved,
            chunks: RwLock::default(),
        }
    }

    /// As [`Rope::new`] with frequencies that depend on the position: `f(p)` gives `half` of them, the same each time.
    /// Missing ones count as 0 (no rotation).
    pub fn by_position(
        half: usize,
        f: ByPosition,
        attention_factor: f32,
        interleaved: bool,
    ) -> Rope {
        let frequencies = Frequencies::ByPosition(f);
        Rope {
            half,
            frequencies,
            attention_factor,
            interleaved,
            chunks: RwLock::default(),
        }
    }

    /// Dimensions of a head that rotate; the rest passes through.
    pub fn rotary_dim(&self) -> usize {
        2 * self.half
    }

    /// The table, with rows for at least `0..positions`.
    pub(crate) fn table(&self, positions: usize) -> Table<'_> {
        let wanted = positions.div_ceil(CHUNK);
        let read = || self.chunks.read().unwrap_or_else(PoisonError::into_inner);
        let mut chunks = read();
        if chunks.len() < wanted {
            drop(chunks);
            let mut grown = self.chunks.write().unwrap_or_else(PoisonError::into_inner);
            for chunk in grown.len()..wanted {
                grown.push(self.chunk(chunk * CHUNK));
            }
            drop(grown);
            chunks = read();
        }
        Table {
            chunks,
            half: self.half,
            interleaved: self.interleaved,
        }
    }

    fn chunk(&self, first: usize) -> Box<[f32]> {
        let mut rows = vec![0.0; CHUNK * 2 * self.half];
        for (i, row) in rows.chunks_exact_mut((2 * self.half).max(1)).enumerate() {
            let position = first + i;
            let (cos, sin) = row.split_at_mut(self.half);
            let own;
            let frequencies = match &self.frequencies {
                Frequencies::Fixed(f) => f,
                Frequencies::ByPosition(f) => {
                    own = f(position);
                    &own
                }
            };
            for ((c, s), f) in cos.iter_mut().zip(sin).zip(frequencies) {
                // The angle is rounded to f32, as the reference has it; its functions are rounded once.
                let (sin, cos) = f64::from(position as f32 * f).sin_cos();
                *c = cos as f32 * self.attention_factor;
                *s = sin as f32 * self.attention_factor;
            }
        }
        rows.into()
    }
}

/// A readable table of cosines and sines.
pub(crate) struct Table<'a> {
    chunks: RwLockReadGuard<'a, Vec<Box<[f32]>>>,
    half: usize,
    interleaved: bool,
}

impl Table<'_> {
    /// The rotation at a position that [`Rope::table`] was asked for.
    #[inline]
    pub fn at(&self, position: usize) -> Rotation<'_> {
        let start = position % CHUNK * 2 * self.half;
        let row = &self.chunks[position / CHUNK][start..start + 2 * self.half];
        let (cos, sin) = row.split_at(self.half);
        Rotation {
            cos,
            sin,
            interleaved: self.interleaved,
        }
    }
}

/// Cosines and sines of one position.
#[derive(Clone, Copy)]
pub(crate) struct Rotation<'a> {
    cos: &'a [f32],
    sin: &'a [f32],
    interleaved: bool,
}

impl Rotation<'_> {
    /// Rotates the first dimensions of a head. Products are rounded before they are added: plain Rust, so that every
    /// instruction set gives the same bits.
    #[inline(always)]
    pub fn apply(&self, x: &mut [f32]) {
        let half = self.cos.len();
        let turn = |a: f32, b: f32, c: f32, s: f32| (a * c - b * s, b * c + a * s);
        if self.interleaved {
            for ((x, &c), &s) in x.chunks_exact_mut(2).zip(self.cos).zip(self.sin) {
                (x[0], x[1]) = turn(x[0], x[1], c, s);
            }
        } else {
            let (a, b) = x[..2 * half].split_at_mut(half);
            for (((a, b), &c), &s) in a.iter_mut().zip(b).zip(self.cos).zip(self.sin) {
                (*a, *b) = turn(*a, *b, c, s);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frequencies(half: usize) -> Vec<f32> {
        (0..half)
            .map(|i| 10_000f32.powf(-(i as f32) / half as f32))
            .collect()
    }

    #[test]
    fn rotation_is_the_formula() {
        let half = 16;
        for interleaved in [false, true] {
            let rope = Rope::new(frequencies(half), 1.5, interleaved);
            assert_eq!(rope.rotary_dim(), 32);
            let table = rope.table(1000);
            for position in [0, 1, 255, 256, 999] {
                let x: Vec<f32> = (0..40).map(|i| (i as f32 * 0.7).sin()).collect();
                let mut y = x.clone();
                table.at(position).apply(&mut y);
                assert_eq!(y[32..], x[32..]);
                for (i, f) in frequencies(half).iter().enumerate() {
                    let (a, b) = if interleaved {
                        (2 * i, 2 * i + 1)
                    } else {
                        (i, i + half)
                    };
                    let (s, c) = (position as f64 * f64::from(*f)).sin_cos();
                    let (xa, xb) = (f64::from(x[a]) * 1.5, f64::from(x[b]) * 1.5);
                    assert!((f64::from(y[a]) - (xa * c - xb * s)).abs() < 1e-4);
                    assert!((f64::from(y[b]) - (xb * c + xa * s)).abs() < 1e-4);
                }
            }
        }
    }

    #[test]
    fn frequencies_may_follow_the_position() {
        let dynamic = |p: usize| {
            if p < 300 {
                frequencies(8)
            } else {
                vec![0.5; 8]
            }
        };
        let rope = Rope::by_position(8, Box::new(dynamic), 1.0, false);
        let (fixed, late) = (
            Rope::new(frequencies(8), 1.0, false),
            Rope::new(vec![0.5; 8], 1.0, false),
        );
        for (position, other) in [(299, &fixed), (300, &late)] {
            let (mut x, mut y) = ([1.0; 16], [1.0; 16]);
            rope.table(301).at(position).apply(&mut x);
            other.table(301).at(position).apply(&mut y);
            assert_eq!(x, y);
        }
    }

    #[test]
    fn no_rotary_dimensions_change_nothing() {
        let rope = Rope::new(Vec::new(), 1.0, false);
        let mut x = [1.0, 2.0];
        rope.table(10).at(9).apply(&mut x);
        assert_eq!(x, [1.0, 2.0]);
    }
}
