//! Drafts without a second model: what followed, in the prompt or the answer, when the text last ended as it ends now.
//! A draft costs rows of a step and never changes a token: what is drawn at a row does not depend on how it came to be
//! computed. Knows nothing of models or blocks.
mod lookup;
mod price;

use lookup::Lookup;
pub use price::Price;

/// Longest draft.
const LONGEST: usize = 16;

/// What one sequence has seen of its text and of its luck with drafts.
pub struct Speculation {
    lookup: Lookup,
    /// By length of the match: drafts after long ones come true more often.
    odds: [Odds; 4],
    /// Which of them the draft under way counts for.
    under_way: usize,
}

impl Speculation {
    /// Nothing seen yet.
    pub fn new() -> Self {
        Self {
            lookup: Lookup::default(),
            odds: [Odds::default(); 4],
            under_way: 0,
        }
    }

    /// Puts into `draft`, which is empty, what may follow `tokens`, at most `most` of them, and only as many as are worth their rows at
    /// the going `price`.
    pub fn draft(&mut self, tokens: &[u32], most: usize, price: &mut Price, draft: &mut Vec<u32>) {
        self.lookup.extend(tokens);
        let Some(found) = self.lookup.find(tokens) else {
            return;
        };
        self.under_way = class(found.length);
        let chance = self.odds[self.under_way].chance();
        for at in found.next..found.next + price.buy(chance, most.min(LONGEST)) {
            // Where the text ends, it goes on as drafted: what repeats itself quickly is drafted further than once.
            let behind = at.checked_sub(tokens.len());
            draft.push(behind.map_or_else(|| tokens[at], |i| draft[i]));
        }
    }

    /// Takes note of how many of a draft's tokens came true, and that time has passed.
    pub fn learn(&mut self, drafted: usize, kept: usize) {
        self.odds.iter_mut().for_each(Odds::fade);
        if drafted > 0 {
            self.odds[self.under_way].count(drafted, kept);
        }
    }
}

fn class(length: usize) -> usize {
    match length {
        0..=2 => 0,
        3..=5 => 1,
        6..=12 => 2,
        _ => 3,
    }
}

/// How often a drafted token came true where the one before had.
#[derive(Clone, Copy, Default)]
struct Odds {
    tries: f32,
    hits: f32,
}

impl Odds {
    /// What of older drafts is remembered after each token of a newer one.
    const MEMORY: f32 = 0.96;
    /// The same after each step: what failed is tried again some time.
    const PATIENCE: f32 = 0.995;

    /// A chance that begins at one half.
    fn chance(&self) -> f32 {
        (self.hits + 0.5) / (self.tries + 1.0)
    }

    fn count(&mut self, drafted: usize, kept: usize) {
        for i in 0..(kept + 1).min(drafted) {
            self.tries = self.tries * Self::MEMORY + 1.0;
            self.hits = self.hits * Self::MEMORY + if i < kept { 1.0 } else { 0.0 };
        }
    }

    fn fade(&mut self) {
        self.tries *= Self::PATIENCE;
        self.hits *= Self::PATIENCE;
    }
}

#[cfg(test)]
mod tests;
