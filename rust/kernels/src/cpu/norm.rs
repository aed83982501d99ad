//! RMS and layer normalisation of rows: on the way into a product (`input`), in place, or on the way into a sum; and what
//! else is done to rows value by value.
//! The same bits on every instruction set. Knows no matrix.
#[cfg(target_arch = "aarch64")]
use super::lanes::Neon;
use super::lanes::{Lanes, Plain};
#[cfg(target_arch = "x86_64")]
use super::lanes::{Ymm, Zmm};
use super::threads::Rows;
use super::{Compute, Cpu, Isa};

/// Values of work under which it stays on the calling thread.
const SERIAL: usize = 16 * 1024;
/// Rows of a task.
const CHUNK: usize = 8;

/// `x / sqrt(mean(x^2) + eps) * weight + bias`, of x less its mean where `centred`.
#[derive(Debug, Clone, Copy)]
pub struct Norm<'a> {
    /// One factor a column.
    pub weight: &'a [f32],
    /// One summand a column.
    pub bias: Option<&'a [f32]>,
    /// Added to the mean of squares.
    pub eps: f32,
    /// LayerNorm rather than RMSNorm.
    pub centred: bool,
}

impl<'a> Norm<'a> {
    /// RMSNorm: neither centred nor shifted.
    pub fn rms(weight: &'a [f32], eps: f32) -> Self {
        Self {
            weight,
            bias: None,
            eps,
            centred: false,
        }
    }

    /// The part of the norm that columns `first..first + width` have.
    fn part(&self, first: usize, width: usize) -> Self {
        Self {
            weight: &self.weight[first..first + width],
            bias: self.bias.map(|b| &b[first..first + width]),
            ..*self
        }
    }

    fn check(&self, columns: usize) {
        let fits = |v: &[f32]| v.len() == columns;
        assert!(
            fits(self.weight) && self.bias.is_none_or(fits),
            "a norm's weight and bias have a value for each of {columns} columns"
        );
    }
}

/// What lies behind the last whole vector of `x`, as one that ends in `fill`.
#[inline(always)]
fn last(x: &[f32], fill: f32) -> [f32; 16] {
    let whole = x.len() / 16 * 16;
    let mut last = [fill; 16];
    last[..x.len() - whole].copy_from_slice(&x[whole..]);
    last
}

/// The mean of a row, summed in 16 lanes.
#[inline(always)]
unsafe fn mean<L: Lanes>(x: &[f32]) -> f32 {
    // SAFETY: whole vectors lie within the slice; the caller's instruction set.
    unsafe {
        let (one, mut sum) = (L::splat(1.0), L::load(last(x, 0.0).as_ptr()));
        for i in (0..x.len() / 16 * 16).step_by(16) {
            sum = L::load(x.as_ptr().add(i)).fma(one, sum);
        }
        sum.sum() / x.len() as f32
    }
}

/// Normalises `x` into `row`; squares are summed in 16 lanes.
///
/// # Safety
/// `row` has room for whole vectors of 16; the instruction set is the machine's.
#[inline(always)]
pub(super) unsafe fn normalise<L: Lanes>(x: &[f32], norm: &Norm<'_>, row: *mut f32) {
    // SAFETY: passed on.
    unsafe {
        if norm.centred {
            normalise_from::<L, true>(x, norm, mean::<L>(x), row);
        } else {
            normalise_from::<L, false>(x, norm, 0.0, row);
        }
    }
}

/// As [`normalise`]; `CENTRED`: the mean is `middle`.
#[inline(always)]
unsafe fn normalise_from<L: Lanes, const CENTRED: bool>(
    x: &[f32],
    norm: &Norm<'_>,
    middle: f32,
    row: *mut f32,
) {
    let whole = x.len() / 16 * 16;
    // SAFETY: whole vectors lie within the slices, `row` is padded to whole vectors; the caller's instruction set.
    unsafe {
        let (one, shift) = (L::splat(1.0), L::splat(-middle));
        let tail = last(x, middle);
        let mut squares = L::splat(0.0);
        for i in (0..=whole).step_by(16) {
            let at = if i < whole {
                x.as_ptr().add(i)
            } else {
                tail.as_ptr()
            };
            let mut v = L::load(at);
            if CENTRED {
                v = v.fma(one, shift);
            }
            squares = v.fma(v, squares);
        }
        let scale = L::splat(1.0 / (squares.sum() / x.len() as f32 + norm.eps).sqrt());
        for i in (0..whole).step_by(16) {
            let v = L::load(x.as_ptr().add(i));
            let v = if CENTRED { v.fma(one, shift) } else { v };
            let w = L::load(norm.weight.as_ptr().add(i));
            let bias = norm.bias.map_or(std::ptr::null(), |b| b[i..].as_ptr());
            weighed(v.mul(scale), w, bias).store(row.add(i));
        }
        if whole < x.len() {
            let v = L::load(tail.as_ptr());
            let v = if CENTRED { v.fma(one, shift) } else { v };
            let (weight, bias) = (last(norm.weight, 0.0), norm.bias.map(|b| last(b, 0.0)));
            let bias = bias.as_ref().map_or(std::ptr::null(), |b| b.as_ptr());
            weighed(v.mul(scale), L::load(weight.as_ptr()), bias).store(row.add(whole));
        }
    }
}

/// `v * weight + bias`; a null bias is none.
#[inline(always)]
unsafe fn weighed<L: Lanes>(v: L, weight: L, bias: *const f32) -> L {
    // SAFETY: a bias is one vector; the caller's instruction set.
    unsafe {
        if bias.is_null() {
            v.mul(weight)
        } else {
            v.fma(weight, L::load(bias))
        }
    }
}

/// What is done with rows.
enum Task<'a> {
    /// Each group of so many columns is normalised in place.
    Groups(usize, Norm<'a>),
    /// `rows += factor * norm(y)`
    Add(&'a [f32], Option<Norm<'a>>, f32),
    /// `rows *= factor`
    Scale(f32),
    /// Values are held within this of 0.
    Clamp(f32),
    /// `rows *= y`, a row.
    Weigh(&'a [f32]),
    /// `rows *= y`, of whose rows of so many columns those from the first on.
    Multiply(&'a [f32], usize, usize),
}

/// Does a task for one row. `spare` holds a row, padded to whole vectors.
#[inline(always)]
unsafe fn one<L: Lanes>(task: &Task<'_>, r: usize, row: &mut [f32], spare: &mut [f32]) {
    let width = row.len();
    // SAFETY: `spare` is padded; the instruction set is the caller's.
    unsafe {
        match task {
            Task::Groups(group, norm) => {
                for (i, part) in row.chunks_exact_mut(*group).enumerate() {
                    let norm = norm.part(i * group % norm.weight.len(), *group);
                    normalise::<L>(part, &norm, spare.as_mut_ptr());
                    part.copy_from_slice(&spare[..*group]);
                }
            }
            Task::Add(y, norm, factor) => {
                let y = &y[r * width..][..width];
                let y = match norm {
                    Some(norm) => {
                        normalise::<L>(y, norm, spare.as_mut_ptr());
                        &spare[..width]
                    }
                    None => y,
                };
                for (x, y) in row.iter_mut().zip(y) {
                    *x += factor * y;
                }
            }
            Task::Scale(factor) => row.iter_mut().for_each(|x| *x *= factor),
            Task::Clamp(limit) => {
                row.iter_mut().for_each(|x| *x = x.clamp(-limit, *limit));
            }
            Task::Weigh(y) => row.iter_mut().zip(*y).for_each(|(x, y)| *x *= y),
            Task::Multiply(y, columns, first) => {
                let y = &y[r * columns + first..][..width];
                row.iter_mut().zip(y).for_each(|(x, y)| *x *= y);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn ymm(task: &Task<'_>, r: usize, row: &mut [f32], spare: &mut [f32]) {
    // SAFETY: the caller's promise; the instruction set is enabled here.
    unsafe { one::<Ymm>(task, r, row, spare) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn zmm(task: &Task<'_>, r: usize, row: &mut [f32], spare: &mut [f32]) {
    // SAFETY: the caller's promise; the instruction set is enabled here.
    unsafe { one::<Zmm>(task, r, row, spare) }
}

unsafe fn on(cpu: Cpu, task: &Task<'_>, r: usize, row: &mut [f32], spare: &mut [f32]) {
    // SAFETY: `cpu` is the machine's.
    unsafe {
        match cpu.isa() {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Amx => zmm(task, r, row, spare),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => ymm(task, r, row, spare),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => one::<Neon>(task, r, row, spare),
            _ => one::<Plain>(task, r, row, spare),
        }
    }
}

fn run(cx: &Compute, x: &mut [f32], width: usize, task: &Task<'_>) {
    let (values, rows) = (x.len(), x.len() / width);
    let x = Rows::new(x, width);
    let chunk = |i: usize| {
        let mut spare = vec![0.0; width.next_multiple_of(16)];
        for r in i * CHUNK..((i + 1) * CHUNK).min(rows) {
            // SAFETY: a chunk has its own rows; a `Cpu` runs what it says.
            unsafe { on(cx.cpu, task, r, x.row(r), &mut spare) };
        }
    };
    if values < SERIAL {
        (0..rows.div_ceil(CHUNK)).for_each(chunk);
    } else {
        cx.pool.for_each(rows.div_ceil(CHUNK), &chunk);
    }
}

/// Normalises each group of `group` columns of `x` (`[rows, width]`) in place. The norm has weights for one group, which
/// all share, or for the whole row.
///
/// # Panics
/// When the sizes do not fit each other.
pub fn normalise_groups(cx: &Compute, x: &mut [f32], width: usize, group: usize, norm: Norm<'_>) {
    assert!(group > 0 && width.is_multiple_of(group) && x.len().is_multiple_of(width));
    norm.check(if norm.weight.len() == group {
        group
    } else {
        width
    });
    run(cx, x, width, &Task::Groups(group, norm));
}

/// `x += factor * norm(y)`, both `[rows, width]`.
///
/// # Panics
/// When the sizes do not fit each other.
pub fn add_rows(
    cx: &Compute,
    x: &mut [f32],
    y: &[f32],
    width: usize,
    norm: Option<Norm<'_>>,
    factor: f32,
) {
    assert!(x.len() == y.len() && width > 0 && x.len().is_multiple_of(width));
    if let Some(norm) = norm {
        norm.check(width);
    }
    run(cx, x, width, &Task::Add(y, norm, factor));
}

/// `x *= factor`, `[rows, width]`.
///
/// # Panics
/// When the sizes do not fit each other.
pub fn scale_rows(cx: &Compute, x: &mut [f32], width: usize, factor: f32) {
    assert!(width > 0 && x.len().is_multiple_of(width));
    run(cx, x, width, &Task::Scale(factor));
}

/// `x` held within `limit` of 0, `[rows, width]`.
///
/// # Panics
/// When the sizes do not fit each other, or the limit is below 0.
pub fn clamp_rows(cx: &Compute, x: &mut [f32], width: usize, limit: f32) {
    assert!(width > 0 && x.len().is_multiple_of(width) && limit >= 0.0);
    run(cx, x, width, &Task::Clamp(limit));
}

/// Each row of `x` times `y`.
///
/// # Panics
/// When the sizes do not fit each other.
pub fn weigh_rows(cx: &Compute, x: &mut [f32], y: &[f32]) {
    assert!(!y.is_empty() && x.len().is_multiple_of(y.len()));
    run(cx, x, y.len(), &Task::Weigh(y));
}

/// `x *= y`, x being `[rows, width]` and y as many columns of `[rows, columns]` from `first` on.
///
/// # Panics
/// When the sizes do not fit each other.
pub fn multiply_rows(
    cx: &Compute,
    x: &mut [f32],
    width: usize,
    (y, columns): (&[f32], usize),
    first: usize,
) {
    assert!(width > 0 && x.len().is_multiple_of(width) && first + width <= columns);
    assert_eq!(
        x.len() / width * columns,
        y.len(),
        "a row of y for each of x"
    );
    run(cx, x, width, &Task::Multiply(y, columns, first));
}

#[cfg(test)]
mod tests;
