//! Several inputs filled in one parallel region: experts each take rows of their own.
use super::forms::{self, Forms, Source};
use super::{Compute, Input, Matrix, SERIAL};

/// An input and what it is to hold.
pub(crate) struct Filling<'a> {
    pub input: &'a mut Input,
    /// `[any, k]`
    pub x: &'a [f32],
    pub k: usize,
    /// The rows of `x` that it takes, in this order.
    pub rows: &'a [u32],
    /// What it will meet.
    pub matrices: &'a [&'a Matrix],
}

/// Fills them all; else as [`Input::fill`] without a norm.
///
/// # Panics
/// When a matrix does not have `k` columns, or `x` lacks a row.
pub(crate) fn fill_each(cx: &Compute, fillings: &mut [Filling<'_>]) {
    let mut work = Vec::with_capacity(fillings.len());
    let (mut tiles, mut values) = (0, 0);
    for f in fillings {
        assert!(
            f.matrices.iter().all(|m| m.k() == f.k),
            "fill_each: a matrix has other columns than x"
        );
        f.input.forms = Forms::of(cx, f.matrices);
        let writer = f.input.prepare(cx, f.rows.len(), f.k);
        let source = Source {
            x: f.x,
            k: f.k,
            rows: Some(f.rows),
            norm: None,
        };
        work.push((tiles, writer, source));
        tiles += f.input.tiles();
        values += f.rows.len() * f.k;
    }
    let fill = |task: usize| {
        let (first, writer, source) = &work[work.partition_point(|w| w.0 <= task) - 1];
        // SAFETY: `prepare` made every buffer large enough, and each tile is written by one task.
        unsafe { forms::fill(cx.cpu, source, writer, task - first) };
    };
    if values < SERIAL {
        (0..tiles).for_each(fill);
    } else {
        cx.pool.for_each(tiles, &fill);
    }
}
