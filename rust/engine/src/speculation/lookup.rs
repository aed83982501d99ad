//! Where a text has been before: an index of its runs of two and of three tokens, and the longest match among the latest
//! places.
use std::collections::HashMap;

/// Places that are compared, the latest first.
const PLACES: usize = 8;
/// Tokens that are compared at each.
const FAR: usize = 32;
/// No place.
const NONE: u32 = u32::MAX;

/// A place where the text was as it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// What followed begins here.
    pub next: usize,
    /// Tokens before it that are those before the end, at most [`FAR`].
    pub length: usize,
}

/// The index. Each token costs the same, however long the text is.
#[derive(Default)]
pub struct Lookup {
    three: Runs<3>,
    /// Asked where no three tokens match: behind a new word in a form that repeats itself.
    two: Runs<2>,
}

impl Lookup {
    /// Takes in what was appended to the text since the last call.
    pub fn extend(&mut self, tokens: &[u32]) {
        self.three.extend(tokens);
        self.two.extend(tokens);
    }

    /// Of the latest places that the end of the text has been at, the one with most in common, of equals the latest.
    pub fn find(&self, tokens: &[u32]) -> Option<Found> {
        self.three.find(tokens).or_else(|| self.two.find(tokens))
    }
}

/// Where each run of `N` tokens ends.
#[derive(Default)]
struct Runs<const N: usize> {
    /// The end of each run's latest place.
    latest: HashMap<[u32; N], u32>,
    /// Of the run that ends before position `i + N`, the end of the place before that.
    earlier: Vec<u32>,
}

impl<const N: usize> Runs<N> {
    fn extend(&mut self, tokens: &[u32]) {
        let first = self.earlier.len();
        for (i, run) in tokens.windows(N).enumerate().skip(first) {
            if let Ok(run) = <[u32; N]>::try_from(run) {
                let before = self.latest.insert(run, (i + N) as u32);
                self.earlier.push(before.unwrap_or(NONE));
            }
        }
    }

    fn find(&self, tokens: &[u32]) -> Option<Found> {
        let mut at = *self.earlier.get(tokens.len().checked_sub(N)?)?;
        let mut best = None::<Found>;
        for _ in 0..PLACES {
            if at == NONE {
                break;
            }
            let next = at as usize;
            let length = in_common(&tokens[..next], tokens);
            if best.is_none_or(|b| length > b.length) {
                best = Some(Found { next, length });
            }
            at = self.earlier[next - N];
        }
        best
    }
}

/// How many last tokens are the same.
fn in_common(a: &[u32], b: &[u32]) -> usize {
    let pairs = a.iter().rev().zip(b.iter().rev()).take(FAR);
    pairs.take_while(|(x, y)| x == y).count()
}
