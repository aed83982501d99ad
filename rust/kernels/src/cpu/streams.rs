//! What is done with rows beside products by a few numbers a row: sums of several streams, rows brought to the size of
//! others, gates that only outliers pass. Plain operations: the same bits on every instruction set.
use super::threads::Rows;
use super::{Activation, Compute};

/// Values of work under which it stays on the calling thread.
const SERIAL: usize = 16 * 1024;
/// Rows of a task.
const CHUNK: usize = 8;

/// Does `f` for each row, `work` values each.
pub(super) fn each(cx: &Compute, rows: usize, work: usize, f: &(dyn Fn(usize) + Sync)) {
    let chunk = |i: usize| (i * CHUNK..((i + 1) * CHUNK).min(rows)).for_each(f);
    if rows * work < SERIAL {
        (0..rows.div_ceil(CHUNK)).for_each(chunk);
    } else {
        cx.pool.for_each(rows.div_ceil(CHUNK), &chunk);
    }
}

/// The sum of `f` over a row, in 16 lanes.
fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0f32; 16];
    for chunk in x.chunks(16) {
        for (lane, v) in lanes.iter_mut().zip(chunk) {
            *lane += f(*v);
        }
    }
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
    }
    lanes[0]
}

/// The square root of a row's mean square, at least that of `least`.
fn size(x: &[f32], least: f32) -> f32 {
    (sum(x, |v| v * v) / x.len() as f32).max(least).sqrt()
}

/// Row by row `outs[i] = sum over j of weights[i * n + j] * streams[j]`; outs and the n streams are `[rows, width]`,
/// weights `[rows, outs * n]`.
///
/// # Panics
/// When the sizes do not fit each other.
pub fn combine_rows(
    cx: &Compute,
    streams: &[&[f32]],
    weights: &[f32],
    width: usize,
    outs: &mut [&mut [f32]],
) {
    let columns = outs.len() * streams.len();
    let values = outs.first().map_or(0, |o| o.len());
    assert!(width > 0 && values.is_multiple_of(width) && !streams.is_empty());
    assert!(streams.iter().all(|s| s.len() == values) && outs.iter().all(|o| o.len() == values));
    let rows = values / width;
    assert_eq!(weights.len(), rows * columns, "a weight for each pair");
    let outs: Vec<Rows<'_, f32>> = outs.iter_mut().map(|o| Rows::new(o, width)).collect();
    each(cx, rows, width * columns, &|r| {
        let own = weights[r * columns..][..columns].chunks_exact(streams.len());
        for (out, weights) in outs.iter().zip(own) {
            // SAFETY: each row is done once.
            let out = unsafe { out.row(r) };
            out.fill(0.0);
            for (x, weight) in streams.iter().zip(weights) {
                let x = &x[r * width..][..width];
                out.iter_mut().zip(x).for_each(|(o, x)| *o += weight * x);
            }
        }
    });
}

/// Scales each row of `x` so that its mean square is that of the row of `like`; one below `least` counts as that. Both
/// are `[rows, width]`.
///
/// # Panics
/// When the sizes do not fit each other.
pub fn resize_rows(cx: &Compute, x: &mut [f32], like: &[f32], width: usize, least: f32) {
    assert!(width > 0 && x.len() == like.len() && x.len().is_multiple_of(width));
    let rows = x.len() / width;
    let x = Rows::new(x, width);
    each(cx, rows, 2 * width, &|r| {
        // SAFETY: each row is done once.
        let row = unsafe { x.row(r) };
        let factor = size(&like[r * width..][..width], 0.0) / size(row, least);
        row.iter_mut().for_each(|v| *v *= factor);
    });
}

/// `gate = act(max(gate - cut, 0)) * up`, the cut being each row's mean and `deviations` of its standard deviations; both
/// are `[rows, width]`.
///
/// # Panics
/// When the sizes do not fit each other.
pub fn gate_outliers(
    cx: &Compute,
    gate: &mut [f32],
    up: &[f32],
    width: usize,
    deviations: f32,
    activation: Activation,
) {
    assert!(width > 0 && gate.len() == up.len() && gate.len().is_multiple_of(width));
    let rows = gate.len() / width;
    let gate = Rows::new(gate, width);
    each(cx, rows, 8 * width, &|r| {
        // SAFETY: each row is done once.
        let row = unsafe { gate.row(r) };
        let n = width as f32;
        let mean = sum(row, |v| v) / n;
        let variance = sum(row, |v| (v - mean) * (v - mean)) / n;
        let cut = mean + deviations * variance.sqrt();
        for (gate, up) in row.chunks_mut(16).zip(up[r * width..].chunks(16)) {
            let mut lanes = [[0f32; 16]];
            for (lane, v) in lanes[0].iter_mut().zip(&*gate) {
                *lane = (v - cut).max(0.0);
            }
            activation.apply(cx.cpu.isa(), &mut lanes);
            for ((gate, lane), up) in gate.iter_mut().zip(&lanes[0]).zip(up) {
                *gate = lane * up;
            }
        }
    });
}

#[cfg(test)]
mod tests;
