//! What a row of a step costs, in shares of what a step costs anyway, and whether a drafted token is worth it.

/// Rows that a step's fixed part (weights read, threads met) takes as long as, before anything was measured.
const FIXED: f64 = 6.0;
/// What of older steps is remembered after a newer one.
const MEMORY: f64 = 0.98;
/// Steps that the first guess of the fixed part counts for.
const PRIOR: f64 = 4.0;

/// The going price. A step takes `fixed + rows` units of time; the line is fitted to the steps that are observed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Price {
    weight: f64,
    rows: f64,
    time: f64,
    rows_rows: f64,
    rows_time: f64,
    /// Of the step that is being planned: tokens it yields, and rows.
    yields: f64,
    planned: f64,
    /// Whether every draft is worth it.
    #[cfg(test)]
    free: bool,
}

impl Price {
    #[cfg(test)]
    pub(crate) fn set_free(&mut self, free: bool) {
        self.free = free;
    }

    /// Takes note that a step of so many rows, all of decodes, took so long (in any unit).
    pub fn observe(&mut self, rows: usize, time: f32) {
        let (rows, mut time) = (rows as f64, f64::from(time));
        if self.weight > 2.0 {
            // A step that was kept from running says nothing of rows.
            let usual = self.time / self.weight * (self.fixed() + rows)
                / (self.fixed() + self.rows / self.weight);
            time = time.min(2.0 * usual);
        }
        for (sum, value) in [
            (&mut self.weight, 1.0),
            (&mut self.rows, rows),
            (&mut self.time, time),
            (&mut self.rows_rows, rows * rows),
            (&mut self.rows_time, rows * time),
        ] {
            *sum = *sum * MEMORY + value;
        }
    }

    /// Rows that the fixed part of a step takes as long as.
    fn fixed(&self) -> f64 {
        if self.weight == 0.0 {
            return FIXED;
        }
        let (rows, time) = (self.rows / self.weight, self.time / self.weight);
        let spread = self.rows_rows - rows * self.rows;
        let slope = self.rows_time - rows * self.time;
        // The guess counts as `PRIOR` steps that have a row more than the others.
        let slope = (slope + PRIOR * time / (FIXED + rows)) / (spread + PRIOR);
        match time / slope - rows {
            fixed if slope > 0.0 => fixed.clamp(0.0, 64.0),
            _ => 64.0,
        }
    }

    /// Begins to plan a step of `rows` rows, none of them drafted: each yields a token, or one less of a prompt.
    pub fn open(&mut self, rows: usize) {
        (self.planned, self.yields) = (rows as f64, rows as f64);
    }

    /// Adds a row that yields a token with this chance, if that makes more tokens in a time.
    pub fn buy(&mut self, chance: f32) -> bool {
        let chance = f64::from(chance);
        let worth = chance * (self.fixed() + self.planned) > self.yields;
        #[cfg(test)]
        let worth = worth || self.free;
        if worth {
            self.planned += 1.0;
            self.yields += chance;
        }
        worth
    }
}
