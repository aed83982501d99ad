//! What rows of a step cost, as observed, and how many drafted ones make most tokens in a time.
//! Rows are far from equal: what reads the weights is paid once, and kernels change their way at some numbers of rows.

/// Rows that a step's fixed part (weights read, threads met) takes as long as, where nothing was observed.
const FIXED: f64 = 3.0;
/// Numbers of rows that are told apart: up to each of these, and more than the last.
const EDGES: [usize; 11] = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64];
/// What of older steps is remembered after a newer one like them, and after any other.
const MEMORY: (f64, f64) = (0.97, 0.998);
/// Steps that a guess from steps of other numbers of rows counts for.
const GUESS: f64 = 2.0;

/// The going price, in any unit of time.
#[derive(Debug, Clone, Copy, Default)]
pub struct Price {
    /// By number of rows.
    paces: [Pace; EDGES.len() + 1],
    /// Of the step that is being planned: tokens it yields, and rows.
    yields: f64,
    planned: usize,
    /// Whether every draft is worth it.
    #[cfg(test)]
    free: bool,
}

/// Time of a step over `FIXED + rows`: the same for all numbers of rows if the guess were right.
#[derive(Debug, Clone, Copy, Default)]
struct Pace {
    weight: f64,
    sum: f64,
}

fn place(rows: usize) -> usize {
    EDGES.partition_point(|&edge| edge < rows)
}

impl Price {
    #[cfg(test)]
    pub(crate) fn set_free(&mut self, free: bool) {
        self.free = free;
    }

    /// Takes note that a step of so many rows, all of decodes, took so long.
    pub fn observe(&mut self, rows: usize, time: f32) {
        let (at, mut pace) = (place(rows), f64::from(time) / (FIXED + rows as f64));
        if self.paces[at].weight > 4.0 {
            // A step that was kept from running says nothing of rows.
            let usual = self.pace(at);
            pace = pace.clamp(0.5 * usual, 2.0 * usual);
        }
        for (i, known) in self.paces.iter_mut().enumerate() {
            let memory = if i == at { MEMORY.0 } else { MEMORY.1 };
            known.weight *= memory;
            known.sum *= memory;
        }
        self.paces[at].weight += 1.0;
        self.paces[at].sum += pace;
    }

    /// As observed, and guessed from the nearest numbers of rows where little was.
    fn pace(&self, at: usize) -> f64 {
        let known = |i: usize| self.paces.get(i).filter(|p| p.weight > 0.5);
        let near = (1..self.paces.len()).find_map(|far| {
            let below = at.checked_sub(far).and_then(known);
            below.or_else(|| known(at + far))
        });
        let own = &self.paces[at];
        let guess = match near {
            Some(near) => near.sum / near.weight,
            None if own.weight > 0.0 => own.sum / own.weight,
            None => 1.0,
        };
        (own.sum + GUESS * guess) / (own.weight + GUESS)
    }

    fn time(&self, rows: usize) -> f64 {
        self.pace(place(rows)) * (FIXED + rows as f64)
    }

    /// Begins to plan a step of `rows` rows, none of them drafted: each yields a token, or one less of a prompt.
    pub fn open(&mut self, rows: usize) {
        (self.planned, self.yields) = (rows, rows as f64);
    }

    /// Adds as many rows, up to `most`, as make most tokens in a time, and tells how many. Each yields its token with
    /// this chance if the one before did.
    pub fn buy(&mut self, chance: f32, most: usize) -> usize {
        let (mut yields, mut kept) = (self.yields, 1.0);
        let mut best = (0, yields, yields / self.time(self.planned));
        for rows in 1..=most {
            kept *= f64::from(chance);
            yields += kept;
            let rate = yields / self.time(self.planned + rows);
            if rate > best.2 || self.is_free() {
                best = (rows, yields, rate);
            }
        }
        self.planned += best.0;
        self.yields = best.1;
        best.0
    }

    #[cfg(test)]
    fn is_free(&self) -> bool {
        self.free
    }

    #[cfg(not(test))]
    fn is_free(&self) -> bool {
        false
    }
}
