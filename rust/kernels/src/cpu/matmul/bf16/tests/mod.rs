//! bf16 products: the loops on emulated tiles, the machine's own instructions against them and against float64.
#![allow(clippy::unwrap_used)]
use super::super::sink::Role;
use super::super::{Job, Then, bf16_dot, matmul};
use super::*;
use crate::cpu::ggml::GgmlType;
use crate::cpu::input::Input;
use crate::cpu::lanes::Plain;
use crate::cpu::pack::{Matrix, Mode};
use crate::cpu::testing::{Random, cpus, random_weights};
use crate::cpu::tile_unit::Emulated;
use crate::cpu::{Compute, Cpu, Isa};

/// The product on emulated tiles; the activations are put into bf16 form as a machine with tiles would.
fn emulated(matrix: &Matrix, x: &[f32], rows: usize) -> Vec<f32> {
    let cx = Compute::with_cpu(cpus()[0], 1).unwrap();
    let mut input = Input::new();
    input.fill_bf16(&cx, x, rows, matrix.k());
    let n = matrix.n();
    let mut out = vec![f32::NAN; rows * n];
    let to = out.as_mut_ptr();
    let sink = Sink {
        out: to,
        n,
        bias: None,
        role: Role::Set,
        isa: Isa::Scalar,
    };
    let work = Work {
        matrix,
        input: &input,
        panels: 0..matrix.panels(),
        tiles: 0..input.tiles(),
    };
    // SAFETY: the output has rows x n values and nobody else writes it.
    unsafe { tiles::<Emulated, Plain>(&work, &sink) };
    out
}

fn product(cpu: Cpu, matrix: &Matrix, x: &[f32], rows: usize, threads: usize) -> Vec<f32> {
    let cx = Compute::with_cpu(cpu, threads).unwrap();
    let mut input = Input::new();
    input.fill(&cx, x, rows, matrix.k(), None, &[matrix]);
    let mut out = vec![f32::NAN; rows * matrix.n()];
    matmul(
        &cx,
        &input,
        &mut [Job {
            matrix,
            bias: None,
            out: &mut out,
            then: Then::Set,
        }],
    );
    out
}

#[test]
fn every_way_is_close_to_float64_and_rows_stand_alone() {
    let mut random = Random::new(7);
    for (n, k) in [(1, 31), (37, 96), (83, 257), (64, 64)] {
        let data = random_weights(&mut random, GgmlType::BF16, n, k);
        let matrix = Matrix::pack(cpus()[0], Mode::Fast, GgmlType::BF16, n, k, &data).unwrap();
        let w = matrix.dequantize();
        let most = 70;
        let x = random.values(most * k);
        let want = |i: usize| {
            let pairs = w[i % n * k..][..k].iter().zip(&x[i / n * k..]);
            pairs
                .map(|(w, x)| f64::from(*w) * f64::from(half::bf16::from_f32(*x).to_f32()))
                .sum::<f64>()
        };
        let tiles = emulated(&matrix, &x, most);
        let check = |out: &[f32], name: &str| {
            for (i, v) in out.iter().enumerate() {
                assert!(
                    (f64::from(*v) - want(i)).abs() < 1e-4,
                    "{name} {n} x {k}: {v} is not {}",
                    want(i)
                );
            }
        };
        check(&tiles, "emulated");
        for rows in [1, 2, 15, 16, 17, 33, 48] {
            assert!(
                emulated(&matrix, &x[..rows * k], rows)[..] == tiles[..rows * n],
                "{rows} rows"
            );
        }
        for cpu in cpus().into_iter().filter(|c| bf16_dot(*c)) {
            let all = product(cpu, &matrix, &x, most, 2);
            check(&all, cpu.name());
            assert!(
                cpu.isa() != Isa::Amx || all == tiles,
                "amx differs from its emulation"
            );
            for rows in [1, 2, 3, 5, 8, 11, 16, 17, 31, 33, 64] {
                let part = product(cpu, &matrix, &x[..rows * k], rows, 1 + rows % 3);
                assert!(
                    part[..] == all[..rows * n],
                    "{} {n} x {k}, {rows} rows",
                    cpu.name()
                );
            }
        }
    }
}
