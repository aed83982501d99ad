//! Gated short convolution along sequences (LFM2): `C * conv(B * x)`, each column by itself. Sums go from the oldest token
//! to the newest, each product rounded by itself, so that a row's bits depend on its own tokens alone.
use std::ops::Range;

use super::{Compute, streams::each, threads::Rows};

/// The rows of one sequence, and the products of the tokens before them.
pub struct ConvSeq<'a> {
    /// Its rows; all sequences together have all rows, in order.
    pub rows: Range<usize>,
    /// `[taps - 1, width]`, the oldest first; becomes that of the last tokens.
    pub state: &'a mut [f32],
}

/// The convolution.
#[derive(Debug, Clone, Copy)]
pub struct Conv<'a> {
    /// `[taps, width]`, the oldest token's first.
    pub weight: &'a [f32],
    /// One summand a column.
    pub bias: Option<&'a [f32]>,
    /// Columns.
    pub width: usize,
}

/// `sum += weight * b * x`, column by column.
fn tap(sum: &mut [f32], weight: &[f32], [b, x]: [&[f32]; 2]) {
    for (((sum, w), b), x) in sum.iter_mut().zip(weight).zip(b).zip(x) {
        *sum += w * (b * x);
    }
}

/// Of rows `[B | C | x]` each `width` wide.
///
/// # Panics
/// When the sizes do not fit each other.
pub fn short_conv(
    cx: &Compute,
    x: &[f32],
    conv: Conv<'_>,
    seqs: &mut [ConvSeq<'_>],
    out: &mut [f32],
) {
    let Conv {
        weight,
        bias,
        width,
    } = conv;
    let taps = weight.len() / width;
    let (rows, before) = (out.len() / width, taps - 1);
    assert!(taps > 0 && weight.len() == taps * width && x.len() == rows * 3 * width);
    assert!(bias.is_none_or(|b| b.len() == width) && out.len() == rows * width);
    assert!(
        seqs.iter()
            .all(|s| s.state.len() == before * width && s.rows.end <= rows)
    );
    let part = |r: usize, i: usize| &x[(r * 3 + i) * width..][..width];
    let (to, own) = (Rows::new(out, width), &*seqs);
    each(cx, rows, 2 * taps * width, &|r| {
        let seq = &own[own.partition_point(|s| s.rows.end <= r)];
        // SAFETY: each row is done once.
        let sum = unsafe { to.row(r) };
        match bias {
            Some(bias) => sum.copy_from_slice(bias),
            None => sum.fill(0.0),
        }
        for (t, weight) in weight.chunks_exact(width).enumerate() {
            let (back, past) = (before - t, r - seq.rows.start);
            if back <= past {
                tap(sum, weight, [part(r - back, 0), part(r - back, 2)]);
            } else {
                let kept = &seq.state[(before - (back - past)) * width..][..width];
                sum.iter_mut()
                    .zip(weight)
                    .zip(kept)
                    .for_each(|((s, w), v)| *s += w * v);
            }
        }
        sum.iter_mut().zip(part(r, 1)).for_each(|(s, c)| *s *= c);
    });
    for ConvSeq { rows, state } in seqs {
        let new = rows.len().min(before);
        state.copy_within(new * width.., 0);
        let last = state[(before - new) * width..].chunks_exact_mut(width);
        for (to, r) in last.zip(rows.end - new..) {
            let products = part(r, 0).iter().zip(part(r, 2)).map(|(b, x)| b * x);
            to.iter_mut().zip(products).for_each(|(to, v)| *to = v);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const WIDTH: usize = 37;

    fn values(n: usize, seed: f32) -> Vec<f32> {
        (0..n)
            .map(|i| ((i as f32 + seed) * 12.9898).sin())
            .collect()
    }

    /// Straight from the definition: of a sequence's rows, all at once.
    fn reference(x: &[f32], conv: &Conv<'_>) -> Vec<f32> {
        let (rows, taps) = (x.len() / (3 * WIDTH), conv.weight.len() / WIDTH);
        let at = |r: usize, i: usize, c: usize| x[(r * 3 + i) * WIDTH + c];
        let value = |r: usize, c: usize| {
            let first = conv.bias.map_or(0.0, |b| b[c]);
            let sum = (0..taps)
                .filter(|t| r + t + 1 >= taps)
                .fold(first, |sum, t| {
                    let from = r + t + 1 - taps;
                    sum + conv.weight[t * WIDTH + c] * (at(from, 0, c) * at(from, 2, c))
                });
            sum * at(r, 1, c)
        };
        (0..rows * WIDTH)
            .map(|i| value(i / WIDTH, i % WIDTH))
            .collect()
    }

    #[test]
    fn any_pieces_beside_any_others_give_the_bits_of_the_whole() {
        let cx = Compute::new(3).unwrap();
        for taps in [1, 2, 3, 5] {
            let (weight, bias) = (values(taps * WIDTH, 0.5), values(WIDTH, 9.0));
            let conv = Conv {
                weight: &weight,
                bias: (taps > 2).then_some(&bias),
                width: WIDTH,
            };
            let texts = [values(33 * 3 * WIDTH, 1.0), values(20 * 3 * WIDTH, 2.0)];
            for pieces in [&[33][..], &[1, 1, 1, 30], &[2, 31], &[16, 1, 15, 1]] {
                let mut states = [vec![0.0; (taps - 1) * WIDTH], vec![0.0; (taps - 1) * WIDTH]];
                let (mut got, mut at) = ([Vec::new(), Vec::new()], [0, 0]);
                for &piece in pieces {
                    let counts = [piece, piece.min(20 - at[1])];
                    let mut x = Vec::new();
                    let mut own = Vec::new();
                    for s in 0..2 {
                        let first = x.len() / (3 * WIDTH);
                        x.extend_from_slice(
                            &texts[s][at[s] * 3 * WIDTH..][..counts[s] * 3 * WIDTH],
                        );
                        own.push(first..first + counts[s]);
                        at[s] += counts[s];
                    }
                    let mut out = vec![7.0; x.len() / 3];
                    let seqs = own.iter().cloned().zip(&mut states);
                    let mut seqs: Vec<_> = seqs
                        .filter(|(rows, _)| !rows.is_empty())
                        .map(|(rows, state)| ConvSeq { rows, state })
                        .collect();
                    short_conv(&cx, &x, conv, &mut seqs, &mut out);
                    for s in 0..2 {
                        got[s].extend_from_slice(&out[own[s].start * WIDTH..own[s].end * WIDTH]);
                    }
                }
                for s in 0..2 {
                    let want = reference(&texts[s][..at[s] * 3 * WIDTH], &conv);
                    assert_eq!(got[s], want, "{taps} taps, {pieces:?}, text {s}");
                }
            }
        }
    }
}
