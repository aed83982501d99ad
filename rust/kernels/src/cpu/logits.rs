//! Passes over one row of logits, for sampling: the largest value, softmax weights and their sums, the few that pass a
//! threshold. Same bits on every instruction set: all sums run in an order fixed by position.
//! Knows nothing of temperatures, nuclei or random numbers; a caller spreads rows over threads.
mod lanes;
mod passes;

use super::Cpu;
#[cfg(target_arch = "x86_64")]
use super::Isa;
use super::exp::LOG2_E;
use super::lanes::Plain;

/// Values that one sum covers; 16 maxima stand for as many.
pub const STRIPE: usize = 1024;
/// Maxima of a stripe.
pub const GROUPS: usize = 16;
/// Neighbouring values that one maximum stands for.
pub const GROUP: usize = STRIPE / GROUPS;

/// What [`peak`] finds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Peak {
    /// The first place of the largest value; 0 for a row without values.
    pub index: usize,
    /// The largest value that is a number; minus infinity when there is none.
    pub value: f32,
    /// Whether the row holds NaN.
    pub nan: bool,
}

/// From logits to weights: `e^((x - max) * scale)`, 0 where that is below `floor`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Softmax {
    max: f32,
    factor: f32,
    floor: f32,
}

impl Softmax {
    /// `max` is the row's largest logit, `scale` one over the temperature; weights below `floor`, and below
    /// [`Softmax::LEAST`] in any case, are 0.
    pub fn new(max: f32, scale: f32, floor: f32) -> Self {
        Self {
            max,
            factor: scale * LOG2_E,
            floor: floor.max(Self::LEAST),
        }
    }

    /// The smallest weight above 0.
    pub const LEAST: f32 = 1e-37;
}

/// Values of a row and where they stood, in order of place.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Few {
    /// Places.
    pub ids: Vec<u32>,
    /// Values.
    pub values: Vec<f32>,
}

/// Runs a generic pass with the machine's lanes.
macro_rules! dispatch {
    ($cpu:expr, $pass:ident($($arg:expr),*)) => {{
        #[cfg(target_arch = "x86_64")]
        {
            if $cpu.isa() >= Isa::Avx512 {
                // SAFETY: the level was detected.
                return unsafe { passes::avx512::$pass($($arg),*) };
            }
            if $cpu.isa() == Isa::Avx2 {
                // SAFETY: the level was detected.
                return unsafe { passes::avx2::$pass($($arg),*) };
            }
        }
        let _ = $cpu;
        // SAFETY: plain Rust.
        unsafe { passes::$pass::<Plain>($($arg),*) }
    }};
}

/// What becomes of a product on its way to logits: `cap * tanh(x * scale / cap)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Finish {
    /// Factor.
    pub scale: f32,
    /// No logit is larger; `None` = as they are.
    pub softcap: Option<f32>,
}

impl Finish {
    /// As they are.
    pub const NONE: Finish = Finish {
        scale: 1.0,
        softcap: None,
    };

    /// Applies it to `values`.
    pub fn apply(self, cpu: Cpu, values: &mut [f32]) {
        if self != Self::NONE {
            dispatch!(cpu, finish(values, self))
        }
    }
}

/// Maxima of a row of `columns` values.
pub const fn maxima_len(columns: usize) -> usize {
    columns.div_ceil(STRIPE) * GROUPS
}

/// Fills `maxima` with the largest of each [`GROUP`] of `values`, which are those of a whole row or of some of its stripes;
/// the first of a stripe that holds NaN is NaN.
///
/// # Panics
/// When `maxima` does not have [`maxima_len`] values.
pub fn maxima(cpu: Cpu, values: &[f32], maxima: &mut [f32]) {
    assert_eq!(maxima.len(), maxima_len(values.len()));
    dispatch!(cpu, maxima(values, maxima))
}

/// The largest value of a row. Fills `found` with its [`maxima`].
pub fn peak(cpu: Cpu, row: &[f32], found: &mut Vec<f32>) -> Peak {
    found.clear();
    found.resize(maxima_len(row.len()), f32::NEG_INFINITY);
    maxima(cpu, row, found);
    peak_by(cpu, row, found)
}

/// The largest value of a row with these [`maxima`].
pub fn peak_by(cpu: Cpu, row: &[f32], maxima: &[f32]) -> Peak {
    fn largest(cpu: Cpu, maxima: &[f32]) -> (f32, usize, bool) {
        dispatch!(cpu, largest(maxima))
    }
    let (value, group, nan) = largest(cpu, maxima);
    let first = row.len().min(group * GROUP);
    let inside = &row[first..row.len().min(first + GROUP)];
    let at = inside.iter().position(|&x| x == value);
    Peak {
        index: at.map_or(0, |at| first + at),
        value,
        nan,
    }
}

/// How many of `values` are at least `threshold`.
pub fn count(cpu: Cpu, values: &[f32], threshold: f32) -> usize {
    dispatch!(cpu, count(values, threshold))
}

/// The sum of the weights of `values`, which must be no NaN and at most `max`. Appends to `sums`, for each stripe, the sum of
/// those that are at least `least`.
pub fn masses(cpu: Cpu, values: &[f32], by: Softmax, least: f32, sums: &mut Vec<f64>) -> f64 {
    dispatch!(cpu, masses(values, by, least, sums))
}

/// The weights of `values`, which are as in [`masses`], into `weights`; their sum.
pub fn weigh(cpu: Cpu, values: &[f32], by: Softmax, weights: &mut Vec<f32>) -> f64 {
    dispatch!(cpu, weigh(values, by, weights))
}

/// The values of a row that are at least `threshold`; `maxima` are those of [`peak`].
///
/// # Panics
/// When `maxima` belong to a row of another length.
pub fn collect(cpu: Cpu, row: &[f32], maxima: &[f32], threshold: f32, out: &mut Few) {
    assert_eq!(maxima.len(), row.len().div_ceil(STRIPE) * GROUPS);
    dispatch!(cpu, collect(row, maxima, threshold, out))
}

#[cfg(test)]
mod tests;
