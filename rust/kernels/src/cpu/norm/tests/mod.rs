#![allow(clippy::unwrap_used)]
use super::*;

fn values(n: usize, salt: f32) -> Vec<f32> {
    (0..n)
        .map(|i| (i as f32 * 0.37 + salt).sin() * 2.0 + 0.3)
        .collect()
}

/// The definition, in float64.
fn want(x: &[f32], norm: &Norm<'_>) -> Vec<f64> {
    let n = x.len() as f64;
    let x: Vec<f64> = x.iter().map(|&v| f64::from(v)).collect();
    let mean = if norm.centred {
        x.iter().sum::<f64>() / n
    } else {
        0.0
    };
    let square = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
    let scale = 1.0 / (square + f64::from(norm.eps)).sqrt();
    let bias = |i: usize| norm.bias.map_or(0.0, |b| f64::from(b[i]));
    let of = |(i, v): (usize, &f64)| (v - mean) * scale * f64::from(norm.weight[i]) + bias(i);
    x.iter().enumerate().map(of).collect()
}

fn near(got: &[f32], want: &[f64]) {
    assert_eq!(got.len(), want.len());
    for (g, w) in got.iter().zip(want) {
        assert!((f64::from(*g) - w).abs() < 1e-5, "{g}, not {w}");
    }
}

/// Calls `f` with every instruction set and 1 and 2 threads; all give the same bits, which are returned.
fn everywhere(f: impl Fn(&Compute) -> Vec<f32>) -> Vec<f32> {
    let mut all = Vec::new();
    for cpu in Cpu::available() {
        for threads in [1, 2] {
            all.push(f(&Compute::with_cpu(cpu, threads).unwrap()));
        }
    }
    let bits = |v: &Vec<f32>| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert!(all.windows(2).all(|w| bits(&w[0]) == bits(&w[1])));
    all.swap_remove(0)
}

#[test]
fn groups_are_normalised_by_shared_or_own_weights() {
    for (width, group) in [(60, 20), (128, 32), (100, 100), (2048, 16)] {
        for (centred, own) in [(false, false), (true, false), (false, true), (true, true)] {
            let columns = if own { width } else { group };
            let (weight, bias) = (values(columns, 0.1), values(columns, 0.7));
            let norm = Norm {
                weight: &weight,
                bias: centred.then_some(&bias[..]),
                eps: 1e-5,
                centred,
            };
            let x = values(19 * width, 3.0);
            let got = everywhere(|cx| {
                let mut x = x.clone();
                normalise_groups(cx, &mut x, width, group, norm);
                x
            });
            for (i, part) in x.chunks(group).enumerate() {
                let norm = norm.part(i * group % columns, group);
                near(&got[i * group..][..group], &want(part, &norm));
            }
        }
    }
}

#[test]
fn rows_are_added_with_norm_and_factor() {
    let width = 1030;
    let (weight, x, y) = (
        values(width, 0.1),
        values(17 * width, 1.0),
        values(17 * width, 2.0),
    );
    for norm in [None, Some(Norm::rms(&weight, 1e-6))] {
        let got = everywhere(|cx| {
            let mut x = x.clone();
            add_rows(cx, &mut x, &y, width, norm, 0.25);
            x
        });
        for r in 0..17 {
            let row = &y[r * width..][..width];
            let plain = row.iter().map(|&v| f64::from(v)).collect();
            let added = norm.map_or(plain, |n| want(row, &n));
            let sum = x[r * width..].iter().zip(added);
            let sum: Vec<f64> = sum.map(|(x, y)| f64::from(*x) + 0.25 * y).collect();
            near(&got[r * width..][..width], &sum);
        }
    }
}

#[test]
fn rows_are_held_within_a_limit() {
    // One row on the calling thread, and rows for all of them; no width is a multiple of a vector.
    for rows in [1, 900] {
        let width = 37;
        let from = values(rows * width, 0.5);
        let got = everywhere(|cx| {
            let mut x = from.clone();
            clamp_rows(cx, &mut x, width, 0.25);
            x
        });
        let want = |x: &f32| match x {
            x if *x > 0.25 => 0.25,
            x if *x < -0.25 => -0.25,
            x => *x,
        };
        assert!(got.iter().copied().eq(from.iter().map(want)));
        assert!(got.contains(&0.25) && got.contains(&-0.25));
        assert!(got.iter().any(|x| x.abs() < 0.25));
    }
}

#[test]
fn rows_are_scaled_and_multiplied_by_columns_of_others() {
    let (width, columns, first) = (300, 700, 350);
    let (x, y) = (values(70 * width, 1.0), values(70 * columns, 2.0));
    let got = everywhere(|cx| {
        let mut x = x.clone();
        multiply_rows(cx, &mut x, width, (&y, columns), first);
        scale_rows(cx, &mut x, width, 0.25);
        weigh_rows(cx, &mut x, &y[..width]);
        x
    });
    for (r, (row, x)) in got.chunks(width).zip(x.chunks(width)).enumerate() {
        let of = &y[r * columns + first..];
        for (i, got) in row.iter().enumerate() {
            assert_eq!(*got, x[i] * of[i] * 0.25 * y[i]);
        }
    }
}
