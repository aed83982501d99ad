//! Products: the oracle against float64, every level against the oracle bit for bit.
#![allow(clippy::unwrap_used)]
mod experts;

use super::*;
use crate::cpu::Norm;
use crate::cpu::ggml::GgmlType;
use crate::cpu::pack::Mode;
use crate::cpu::testing::{Random, cpus, random_weights, storages};

fn packed(random: &mut Random, storage: Storage, ty: GgmlType, n: usize, k: usize) -> Matrix {
    let data = random_weights(random, ty, n, k);
    Matrix::pack_as(storage, ty, n, k, &data).unwrap()
}

/// As the scalar level keeps a type.
fn fast(ty: GgmlType) -> Storage {
    Storage::of(cpus()[0], Mode::Fast, ty, 0)
}

/// Every type in every arithmetic (fixed point has tests of its own).
fn arithmetics() -> impl Iterator<Item = (GgmlType, Storage)> {
    GgmlType::all().flat_map(|ty| storages(ty).into_iter().map(move |s| (ty, s)))
}

/// `x matrix^T` for one matrix.
fn product(cx: &Compute, matrix: &Matrix, x: &[f32], rows: usize) -> Vec<f32> {
    let mut input = Input::new();
    input.fill(cx, x, rows, matrix.k(), None, &[matrix]);
    let mut out = vec![f32::NAN; rows * matrix.n()];
    let mut jobs = [Job {
        matrix,
        bias: None,
        out: &mut out,
        then: Then::Set,
    }];
    matmul(cx, &input, &mut jobs);
    out
}

fn bits(v: &[f32]) -> Vec<u32> {
    v.iter().map(|v| v.to_bits()).collect()
}

fn columns(ty: GgmlType) -> &'static [usize] {
    match ty.block_len() {
        256 => &[256, 768],
        32 => &[32, 96, 256, 608],
        _ => &[1, 31, 96, 257],
    }
}

/// Whether a matrix has another arithmetic on `cpu` than on the scalar level.
fn own_arithmetic(cpu: Cpu, matrix: &Matrix) -> bool {
    matches!(matrix.storage, Storage::Bf16 { dot: true }) && bf16_dot(cpu)
}

#[test]
fn oracle_is_close_to_float64() {
    let mut random = Random::new(1);
    let cx = Compute::with_cpu(cpus()[0], 2).unwrap();
    for (ty, storage) in arithmetics() {
        for &k in columns(ty) {
            let (n, rows) = (19, 3);
            let matrix = packed(&mut random, storage, ty, n, k);
            let (w, x) = (matrix.dequantize(), random.values(rows * k));
            let out = product(&cx, &matrix, &x, rows);
            for (i, got) in out.iter().enumerate() {
                let (w, x) = (&w[i % n * k..][..k], &x[i / n * k..][..k]);
                let term = |(w, x): (&f32, &f32)| f64::from(*w) * f64::from(*x);
                let want: f64 = w.iter().zip(x).map(term).sum();
                let size: f64 = w.iter().zip(x).map(|p| term(p).powi(2)).sum::<f64>().sqrt();
                // Roundings of half a step at most, as a share of a block's largest activation.
                let tolerance = match storage {
                    Storage::A8(_) => 0.05 * size,
                    Storage::A15(_) => 4e-4 * size,
                    _ => 1e-5 * size + 1e-6,
                };
                let off = (f64::from(*got) - want).abs();
                assert!(
                    off <= tolerance,
                    "{} {storage:?} k {k}: {got} is not {want}",
                    ty.name()
                );
            }
        }
    }
}

#[test]
fn every_level_gives_the_oracles_bits() {
    let mut random = Random::new(2);
    let oracle = Compute::with_cpu(cpus()[0], 2).unwrap();
    for (ty, storage) in arithmetics() {
        for (i, &k) in columns(ty).iter().enumerate() {
            let n = [1, 16, 35, 83][(i + ty as usize) % 4];
            let most = 130;
            let matrix = packed(&mut random, storage, ty, n, k);
            let x = random.values(most * k);
            let want = product(&oracle, &matrix, &x, most);
            for cpu in cpus() {
                if own_arithmetic(cpu, &matrix) {
                    continue;
                }
                for (rows, threads) in [
                    (1, 1),
                    (1, 2),
                    (2, 3),
                    (3, 1),
                    (4, 4),
                    (5, 1),
                    (6, 2),
                    (7, 1),
                    (8, 2),
                    (9, 1),
                    (11, 2),
                    (13, 1),
                    (16, 2),
                    (17, 1),
                    (24, 4),
                    (29, 1),
                    (31, 3),
                    (33, 2),
                    (64, 1),
                    (65, 2),
                    (130, 4),
                ] {
                    let cx = Compute::with_cpu(cpu, threads).unwrap();
                    let got = product(&cx, &matrix, &x[..rows * k], rows);
                    let same = bits(&got) == bits(&want[..rows * n]);
                    assert!(
                        same,
                        "{} {storage:?} {} n {n} k {k} rows {rows}",
                        ty.name(),
                        cpu.name()
                    );
                }
            }
        }
    }
}

#[test]
fn rows_do_not_depend_on_each_other() {
    let mut random = Random::new(3);
    for cpu in cpus() {
        for (ty, storage) in arithmetics() {
            let (n, k, rows) = (40, 512, 67);
            let matrix = packed(&mut random, storage, ty, n, k);
            let x = random.values(rows * k);
            let cx = Compute::with_cpu(cpu, 2).unwrap();
            let all = product(&cx, &matrix, &x, rows);
            for (from, to) in [(0, 1), (1, 4), (10, 26), (30, 67), (66, 67)] {
                let part = product(&cx, &matrix, &x[from * k..to * k], to - from);
                assert_eq!(
                    bits(&part),
                    bits(&all[from * n..to * n]),
                    "{} {}",
                    ty.name(),
                    cpu.name()
                );
            }
        }
    }
}

#[test]
fn every_panel_meets_every_tile_once_and_few_tiles_before_the_next_panel() {
    let mut random = Random::new(8);
    let cx = Compute::with_cpu(cpus()[0], 1).unwrap();
    let (n, k, rows) = (48, 512, 150);
    let matrix = packed(&mut random, Storage::F32, GgmlType::F32, n, k);
    let mut input = Input::new();
    input.fill(&cx, &random.values(rows * k), rows, k, None, &[&matrix]);
    for tiles in [0..input.tiles(), 2..7, 3..4, 5..5] {
        let work = Work {
            matrix: &matrix,
            input: &input,
            panels: 1..3,
            tiles: tiles.clone(),
        };
        let met: Vec<_> = work.meetings(4).collect();
        assert!(met.iter().all(|(run, _)| run.len() <= LEAST_TILES));
        for p in 1..3 {
            let own = met.iter().filter(|(_, q)| *q == p);
            let own: Vec<usize> = own.flat_map(|(run, _)| run.clone()).collect();
            assert_eq!(own, tiles.clone().collect::<Vec<_>>());
        }
    }
}

#[test]
fn jobs_bias_and_addition_are_computed_in_one_call() {
    let mut random = Random::new(4);
    for cpu in cpus() {
        for rows in [1, 20] {
            let cx = Compute::with_cpu(cpu, 2).unwrap();
            let k = 256;
            let types = [GgmlType::Q4_K, GgmlType::F16, GgmlType::Q8_0];
            let matrices = types.map(|ty| packed(&mut random, fast(ty), ty, 21, k));
            let x = random.values(rows * k);
            let (bias, old) = (random.values(21), random.values(rows * 21));
            let mut input = Input::new();
            let [a, b, c] = &matrices;
            input.fill(&cx, &x, rows, k, None, &[a, b, c]);
            let mut out = [old.clone(), old.clone(), old.clone()];
            let [p, q, r] = &mut out;
            matmul(
                &cx,
                &input,
                &mut [
                    Job {
                        matrix: a,
                        bias: Some(&bias),
                        out: p,
                        then: Then::Set,
                    },
                    Job {
                        matrix: b,
                        bias: None,
                        out: q,
                        then: Then::Add,
                    },
                    Job {
                        matrix: c,
                        bias: Some(&bias),
                        out: r,
                        then: Then::Add,
                    },
                ],
            );
            for (i, matrix) in matrices.iter().enumerate() {
                let mut want = product(&cx, matrix, &x, rows);
                for (j, w) in want.iter_mut().enumerate() {
                    let biased = if i == 1 { *w } else { *w + bias[j % 21] };
                    *w = if i == 0 { biased } else { biased + old[j] };
                }
                assert_eq!(bits(&out[i]), bits(&want), "{} job {i}", cpu.name());
            }
        }
    }
}

#[test]
fn gate_and_up_meet_in_the_activation() {
    let mut random = Random::new(5);
    let (n, k) = (83, 288);
    let gate = packed(
        &mut random,
        Storage::A8(GgmlType::Q4_1),
        GgmlType::Q4_1,
        n,
        k,
    );
    let up = packed(
        &mut random,
        Storage::A8(GgmlType::Q5_0),
        GgmlType::Q5_0,
        n,
        k,
    );
    let (bias, weight) = (random.values(n), random.values(k));
    for act in [
        Activation::Silu,
        Activation::Gelu,
        Activation::GeluTanh,
        Activation::Relu,
    ] {
        for rows in [1, 3, 37] {
            let x = random.values(rows * k);
            let mut first = None;
            for cpu in cpus() {
                let cx = Compute::with_cpu(cpu, 2).unwrap();
                let mut input = Input::new();
                let norm = Some(Norm::rms(&weight, 1e-6));
                input.fill(&cx, &x, rows, k, norm, &[&gate, &up]);
                let (mut a, mut b) = (vec![0f32; rows * n], vec![0f32; rows * n]);
                let job = |matrix, out, bias| Job {
                    matrix,
                    bias,
                    out,
                    then: Then::Set,
                };
                matmul(
                    &cx,
                    &input,
                    &mut [job(&gate, &mut a, Some(&bias)), job(&up, &mut b, None)],
                );
                let want: Vec<f32> = a.iter().zip(&b).map(|(a, b)| act.of([*a])[0] * b).collect();
                let mut got = vec![f32::NAN; rows * n];
                gate_up(&cx, &input, &gate, &up, (Some(&bias), None), act, &mut got);
                assert_eq!(
                    bits(&got),
                    bits(&want),
                    "{act:?} {} rows {rows}",
                    cpu.name()
                );
                let mut alone = vec![f32::NAN; rows * n];
                let job = Job {
                    matrix: &gate,
                    bias: Some(&bias),
                    out: &mut alone,
                    then: Then::Activate(act),
                };
                matmul(&cx, &input, &mut [job]);
                let want: Vec<f32> = a.iter().map(|a| act.of([*a])[0]).collect();
                assert_eq!(bits(&alone), bits(&want), "{act:?} {}", cpu.name());
                let first = first.get_or_insert_with(|| bits(&got));
                assert_eq!(*first, bits(&got));
            }
        }
    }
}

#[test]
fn the_largest_integers_do_not_overflow() {
    // Sub-scales of -128 and weights of -32, at which sums come nearest to 2^31; activations all at their peak.
    let (k, rows) = (256, 20);
    let mut block = vec![0u8; GgmlType::Q6_K.block_bytes()];
    block[192..208].fill(0x80);
    block[208..].copy_from_slice(&half::f16::ONE.to_le_bytes());
    let data = block.repeat(16);
    for cpu in cpus() {
        let cx = Compute::with_cpu(cpu, 1).unwrap();
        for storage in [Storage::A8(GgmlType::Q6_K), Storage::A15(GgmlType::Q6_K)] {
            let matrix = Matrix::pack_as(storage, GgmlType::Q6_K, 16, k, &data).unwrap();
            for rows in [1, 3, rows] {
                for sign in [1.0, -1.0] {
                    let got = product(&cx, &matrix, &vec![sign; rows * k], rows);
                    let want = sign * 256.0 * 4096.0;
                    let near = |v: &f32| (v - want).abs() <= 1.0;
                    assert!(got.iter().all(near), "{storage:?} {}: {got:?}", cpu.name());
                }
            }
        }
    }
}

#[test]
fn a_head_is_a_product_and_the_maxima_of_its_rows() {
    let mut random = Random::new(8);
    let k = 256;
    for (ty, storage) in [
        (GgmlType::Q4_1, Storage::A8(GgmlType::Q4_1)),
        (GgmlType::Q6_K, Storage::A15(GgmlType::Q6_K)),
        (GgmlType::BF16, Storage::Bf16 { dot: true }),
        (GgmlType::F32, Storage::F32),
        (GgmlType::Q8_0, Storage::A16(GgmlType::Q8_0)),
    ] {
        for n in [5, 1024, 3000] {
            let matrix = packed(&mut random, storage, ty, n, k);
            for (cpu, rows) in cpus().into_iter().flat_map(|c| [(c, 1), (c, 3), (c, 21)]) {
                let cx = Compute::with_cpu(cpu, 2).unwrap();
                let x = random.values(rows * k);
                let want = product(&cx, &matrix, &x, rows);
                let mut input = Input::new();
                input.fill(&cx, &x, rows, k, None, &[&matrix]);
                let length = logits::maxima_len(n);
                let (mut out, mut maxima) = (vec![0f32; rows * n], vec![0f32; rows * length]);
                let bias: Vec<f32> = (0..n).map(|i| i as f32 * 0.01).collect();
                let finish = Finish {
                    scale: 0.5,
                    softcap: Some(9.0),
                };
                head(
                    &cx,
                    &input,
                    &matrix,
                    Some(&bias),
                    finish,
                    &mut out,
                    &mut maxima,
                );
                for (out, want) in out.chunks(n).zip(want.chunks(n)) {
                    let mut want: Vec<f32> = want.iter().zip(&bias).map(|(w, b)| w + b).collect();
                    finish.apply(cpu, &mut want);
                    assert_eq!(bits(out), bits(&want), "{} {}", ty.name(), cpu.name());
                }
                head(
                    &cx,
                    &input,
                    &matrix,
                    None,
                    Finish::NONE,
                    &mut out,
                    &mut maxima,
                );
                assert_eq!(bits(&out), bits(&want), "{} {}", ty.name(), cpu.name());
                for (row, maxima) in out.chunks(n).zip(maxima.chunks(length)) {
                    let mut want = vec![0f32; length];
                    logits::maxima(cpu, row, &mut want);
                    assert_eq!(maxima, want);
                    let largest = row.iter().copied().fold(f32::MIN, f32::max);
                    assert_eq!(logits::peak_by(cx.cpu, row, maxima).value, largest);
                }
            }
        }
    }
}

#[test]
fn nothing_is_computed_for_no_rows() {
    let mut random = Random::new(6);
    let cx = Compute::with_cpu(cpus()[0], 2).unwrap();
    let matrix = packed(
        &mut random,
        Storage::A8(GgmlType::Q4_0),
        GgmlType::Q4_0,
        16,
        32,
    );
    assert!(product(&cx, &matrix, &[], 0).is_empty());
}
