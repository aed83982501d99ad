//! Which keys a row attends to, where it sees more than it may attend to.
use std::cell::Cell;

/// Of each row of a step the positions of the keys that it attends to, ascending. A row that sees no more than
/// [`Picks::most`] keys attends to all of them and has no list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Picks {
    most: usize,
    /// `[rows, most]`; empty where no row of the step has a list.
    positions: Vec<u32>,
}

thread_local! {
    /// Ranks of a row's keys.
    static RANKS: Cell<Vec<u64>> = const { Cell::new(Vec::new()) };
}

impl Picks {
    /// Of a step in which every row sees at most `most` keys.
    pub fn all(most: usize) -> Picks {
        Picks {
            most,
            positions: Vec::new(),
        }
    }

    /// Of `rows` rows with a list of `most` positions each, none of which is filled.
    pub fn lists(most: usize, rows: usize) -> Picks {
        Picks {
            most,
            positions: vec![0; most * rows],
        }
    }

    /// Most keys that a row attends to.
    pub fn most(&self) -> usize {
        self.most
    }

    /// The list of row `row`, which sees more keys.
    ///
    /// # Panics
    /// When no row has a list, or there is no such row.
    pub fn of(&self, row: usize) -> &[u32] {
        &self.positions[row * self.most..][..self.most]
    }

    /// All lists, `[rows, most]`.
    pub fn lists_mut(&mut self) -> &mut [u32] {
        &mut self.positions
    }
}

/// Writes the positions of the `to.len()` largest scores to `to`, ascending; of equal ones the lower positions. Takes time
/// in proportion to the scores, of which there are more.
pub(super) fn choose(scores: &[f32], to: &mut [u32]) {
    let mut ranks = RANKS.take();
    ranks.clear();
    ranks.extend(scores.iter().enumerate().map(rank));
    let (_, last, _) = ranks.select_nth_unstable(to.len() - 1);
    let last = *last;
    let best = scores.iter().enumerate().map(rank).filter(|r| *r <= last);
    for (to, rank) in to.iter_mut().zip(best) {
        *to = rank as u32;
    }
    RANKS.set(ranks);
}

/// A number that is the lower, the larger the score and then the lower the position, which its last 32 bits are.
fn rank((position, score): (usize, &f32)) -> u64 {
    // Both zeros become the same one.
    let bits = (score + 0.0).to_bits();
    // Bits as integers rise with the numbers; of negative ones they fall.
    let up = if bits >> 31 == 1 {
        !bits
    } else {
        bits | 1 << 31
    };
    u64::from(!up) << 32 | position as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_are_chosen_and_of_equals_the_first() {
        let chosen = |scores: &[f32], most: usize| {
            let mut to = vec![0; most];
            choose(scores, &mut to);
            to
        };
        assert_eq!(chosen(&[0.5, 3.0, -1.0, 2.0, 3.0], 3), [1, 3, 4]);
        assert_eq!(chosen(&[1.0, 0.0, -0.0, 0.0, -2.0], 3), [0, 1, 2]);
        assert_eq!(chosen(&[-0.0, 0.0, -0.0, 0.0], 2), [0, 1]);
        assert_eq!(chosen(&[-3.0, -1.0, -2.0, f32::NEG_INFINITY], 2), [1, 2]);
        assert_eq!(chosen(&[f32::MIN_POSITIVE, 1e-40, 0.0, 5.0], 3), [0, 1, 3]);
    }

    #[test]
    fn any_scores_are_chosen_as_by_sorting() {
        let mut state = 7u32;
        let mut random = move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 16
        };
        for count in [2usize, 33, 1000] {
            // Few different ones, so that many are equal.
            let scores: Vec<f32> = (0..count).map(|_| (random() % 40) as f32 - 20.0).collect();
            for most in [1, count / 3 + 1, count - 1] {
                let mut order: Vec<u32> = (0..count as u32).collect();
                order.sort_by(|a, b| scores[*b as usize].total_cmp(&scores[*a as usize]));
                let mut want = order[..most].to_vec();
                want.sort_unstable();
                let mut to = vec![0; most];
                choose(&scores, &mut to);
                assert_eq!(to, want);
            }
        }
    }
}
