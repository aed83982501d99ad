#![allow(clippy::unwrap_used)]
use super::super::Cpu;
use super::*;

fn values(n: usize, salt: f32) -> Vec<f32> {
    (0..n)
        .map(|i| (i as f32 * 0.37 + salt).sin() * 2.0 + 0.3)
        .collect()
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

fn near(got: f32, want: f64) {
    assert!((f64::from(got) - want).abs() < 2e-5, "{got}, not {want}");
}

#[test]
fn streams_are_added_up_row_by_row() {
    let (rows, width) = (37, 130);
    let streams: Vec<Vec<f32>> = (0..3).map(|s| values(rows * width, s as f32)).collect();
    let weights = values(rows * 6, 9.0);
    let got = everywhere(|cx| {
        let mut outs = vec![vec![f32::NAN; rows * width]; 2];
        let given: Vec<&[f32]> = streams.iter().map(Vec::as_slice).collect();
        let mut to: Vec<&mut [f32]> = outs.iter_mut().map(Vec::as_mut_slice).collect();
        combine_rows(cx, &given, &weights, width, &mut to);
        outs.concat()
    });
    for (i, got) in got.iter().enumerate() {
        let (out, at) = (i / (rows * width), i % (rows * width));
        let own = &weights[at / width * 6 + out * 3..][..3];
        let sum = own.iter().zip(&streams);
        near(
            *got,
            sum.map(|(w, s)| f64::from(*w) * f64::from(s[at])).sum(),
        );
    }
}

#[test]
fn rows_take_the_size_of_others() {
    let (rows, width) = (21, 50);
    let (x, like) = (values(rows * width, 1.0), values(rows * width, 2.0));
    let got = everywhere(|cx| {
        let mut x = x.clone();
        x[..width].fill(0.0);
        resize_rows(cx, &mut x, &like, width, 1e-5);
        x
    });
    // A row of nothing stays one.
    assert!(got[..width].iter().all(|v| *v == 0.0));
    let square = |x: &[f32]| x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / width as f64;
    for r in 1..rows {
        let row = r * width..(r + 1) * width;
        near(square(&got[row.clone()]) as f32, square(&like[row.clone()]));
        near(
            got[row.start] / x[row.start],
            (square(&like[row.clone()]) / square(&x[row])).sqrt(),
        );
    }
}

#[test]
fn only_outliers_pass() {
    let (rows, width, deviations) = (40, 100, 0.8);
    let (gate, up) = (values(rows * width, 1.0), values(rows * width, 2.0));
    let got = everywhere(|cx| {
        let mut gate = gate.clone();
        gate_outliers(cx, &mut gate, &up, width, deviations, Activation::Silu);
        gate
    });
    for r in 0..rows {
        let row: Vec<f64> = gate[r * width..][..width]
            .iter()
            .map(|v| f64::from(*v))
            .collect();
        let mean = row.iter().sum::<f64>() / width as f64;
        let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / width as f64;
        let cut = mean + f64::from(deviations) * variance.sqrt();
        for (i, v) in row.iter().enumerate() {
            let v = (v - cut).max(0.0);
            let want = v / (1.0 + (-v).exp()) * f64::from(up[r * width + i]);
            near(got[r * width + i], want);
        }
    }
    assert!(got.iter().filter(|v| **v == 0.0).count() > rows * width / 2);
}
