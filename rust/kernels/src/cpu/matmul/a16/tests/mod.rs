//! Fixed point: the oracle against float64, every way of computing it against the oracle, bit for bit.
#![allow(clippy::unwrap_used)]
use super::super::sink::Role;
use super::super::{Job, PART_TILES, Then, Work, gate_up, matmul};
use super::tiles::{Join, Ring, Unpack, Waiting, panels};
use super::*;
use crate::cpu::Activation;
use crate::cpu::ggml::GgmlType;
use crate::cpu::input::Input;
use crate::cpu::lanes::Plain;
use crate::cpu::pack::{Matrix, Storage};
use crate::cpu::testing::{Random, cpus, random_weights};
use crate::cpu::tile_unit::Emulated;
use crate::cpu::{Compute, Isa};

fn packed(random: &mut Random, ty: GgmlType, n: usize, k: usize) -> Matrix {
    let data = random_weights(random, ty, n, k);
    Matrix::pack_as(Storage::A16(ty), ty, n, k, &data).unwrap()
}

fn product(cx: &Compute, matrix: &Matrix, x: &[f32], rows: usize) -> Vec<f32> {
    let mut input = Input::new();
    input.fill(cx, x, rows, matrix.k(), None, &[matrix]);
    let mut out = vec![f32::NAN; rows * matrix.n()];
    let job = Job {
        matrix,
        bias: None,
        out: &mut out,
        then: Then::Set,
    };
    matmul(cx, &input, &mut [job]);
    out
}

fn bits(v: &[f32]) -> Vec<u32> {
    v.iter().map(|v| v.to_bits()).collect()
}

fn quantised() -> impl Iterator<Item = GgmlType> {
    GgmlType::all().filter(|t| Layout::of(*t).is_some())
}

fn columns(ty: GgmlType) -> &'static [usize] {
    if ty.block_len() == 256 {
        &[256, 768, 1024]
    } else {
        &[32, 96, 256, 608, 1056]
    }
}

#[test]
fn the_oracle_is_nearer_to_float64_than_the_weights_are() {
    let mut random = Random::new(1);
    let cx = Compute::with_cpu(cpus()[0], 1).unwrap();
    for ty in quantised() {
        for &k in columns(ty) {
            let (n, rows) = (19, 3);
            let matrix = packed(&mut random, ty, n, k);
            let (w, x) = (matrix.dequantize(), random.values(rows * k));
            for (i, got) in product(&cx, &matrix, &x, rows).iter().enumerate() {
                let (w, x) = (&w[i % n * k..][..k], &x[i / n * k..][..k]);
                let term = |(w, x): (&f32, &f32)| f64::from(*w) * f64::from(*x);
                let want: f64 = w.iter().zip(x).map(term).sum();
                let size: f64 = w.iter().zip(x).map(|p| term(p).powi(2)).sum::<f64>().sqrt();
                let off = (f64::from(*got) - want).abs();
                assert!(
                    off <= 1e-2 * size,
                    "{} k {k}: {got} is not {want}",
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
    for ty in quantised() {
        for (i, &k) in columns(ty).iter().enumerate() {
            let n = [1, 16, 35, 83][(i + ty as usize) % 4];
            let matrix = packed(&mut random, ty, n, k);
            let most = 70;
            let mut x = random.values(most * k);
            x[..k].fill(0.0);
            x[3 * k + 1] = 1e4; // an outlier
            let want = product(&oracle, &matrix, &x, most);
            for cpu in cpus() {
                for rows in [1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 33, 70] {
                    let cx = Compute::with_cpu(cpu, 1 + rows % 2).unwrap();
                    let got = product(&cx, &matrix, &x[..rows * k], rows);
                    let same = bits(&got) == bits(&want[..rows * n]);
                    assert!(same, "{} {} n {n} k {k} rows {rows}", ty.name(), cpu.name());
                }
            }
        }
    }
}

#[test]
fn parts_of_the_rows_give_the_bits_of_the_whole() {
    let mut random = Random::new(3);
    let (rows, k) = (PART_TILES * 16 * 3 + 21, 320);
    let whole = Compute::with_cpu(cpus()[0], 1).unwrap();
    let weights = [
        packed(&mut random, GgmlType::Q4_1, 83, k),
        packed(&mut random, GgmlType::Q8_0, 83, k),
    ];
    let x = random.values(rows * k);
    let gated = |cx: &Compute| {
        let mut input = Input::new();
        input.fill(cx, &x, rows, k, None, &[&weights[0], &weights[1]]);
        let mut out = vec![f32::NAN; rows * 83];
        let [gate, up] = &weights;
        gate_up(
            cx,
            &input,
            gate,
            up,
            (None, None),
            Activation::Silu,
            &mut out,
        );
        out
    };
    let want = (product(&whole, &weights[0], &x, rows), gated(&whole));
    for cpu in cpus().into_iter().filter(|cpu| cpu.isa() == Isa::Amx) {
        for threads in [1, 2, 3, 4] {
            let cx = Compute::with_cpu(cpu, threads).unwrap();
            let got = product(&cx, &weights[0], &x, rows);
            assert!(bits(&got) == bits(&want.0), "{threads} threads");
            assert!(
                bits(&gated(&cx)) == bits(&want.1),
                "{threads} threads, gated"
            );
        }
    }
}

impl Join for Plain {
    unsafe fn join(from: *const i32) -> Self {
        Plain(std::array::from_fn(|lane| {
            // SAFETY: the integers are there.
            let at = |i: usize| i64::from(unsafe { *from.add(256 * i + lane) });
            rounded((at(0) << 16) + (at(1) << 8) + at(2), 1.0, 1.0)
        }))
    }

    unsafe fn put(waiting: &Waiting<'_>, from: usize, to: usize) {
        // SAFETY: passed on.
        unsafe { waiting.put::<Plain>(from, to) }
    }
}

/// As vectors unpack.
struct Slow(Layout);

impl Unpack for Slow {
    unsafe fn chunk(&self, work: &Work<'_>, p: usize, chunk: usize, to: *mut u8) {
        for i in 0..2 * LANES {
            let (half, lane) = (i / LANES, i % LANES);
            let (_, inverse) = work.matrix.row_scale(p * LANES + lane);
            let panel = work.matrix.panel(p);
            for (k, w) in block(&self.0, panel, 2 * chunk + half, lane, inverse)
                .into_iter()
                .enumerate()
            {
                let at = half * 512 + k / 4 * 64 + lane * 4 + k % 4;
                let [low, high] = w.to_le_bytes();
                // SAFETY: two tiles of 1,024 bytes.
                unsafe {
                    to.add(at).write(high);
                    to.add(1024 + at).write(low);
                }
            }
        }
    }
}

#[test]
fn emulated_tiles_give_the_oracles_bits() {
    let mut random = Random::new(9);
    let cx = Compute::with_cpu(cpus()[0], 1).unwrap();
    for ty in quantised() {
        let (n, k) = (37, if ty.block_len() == 32 { 1056 } else { 512 });
        let matrix = packed(&mut random, ty, n, k);
        for rows in [1, 3, 16, 17, 46, 61] {
            let x = random.values(rows * k);
            let want = product(&cx, &matrix, &x, rows);
            let mut input = Input::new();
            input.fill(&cx, &x, rows, k, None, &[&matrix]);
            let mut got = vec![f32::NAN; rows * n];
            let sink = Sink {
                out: got.as_mut_ptr(),
                n,
                bias: None,
                role: Role::Set,
                isa: Isa::Scalar,
            };
            let work = Work {
                matrix: &matrix,
                input: &input,
                panels: 0..matrix.panels(),
                tiles: 0..input.tiles(),
            };
            let unpack = Slow(Layout::of(ty).unwrap());
            Ring::with(&work, |ring| {
                // SAFETY: the output has rows x n values and nobody else writes it.
                unsafe { panels::<Emulated, Plain, _>(&unpack, ring, &work, &sink) };
            });
            assert_eq!(bits(&got), bits(&want), "{} rows {rows}", ty.name());
        }
    }
}

#[test]
fn what_is_no_number_shows() {
    let (n, k) = (20, 64);
    let mut random = Random::new(4);
    let mut data = random_weights(&mut random, GgmlType::Q4_0, n, k);
    let row = data.len() / n;
    data[3 * row..3 * row + 2].copy_from_slice(&half::f16::INFINITY.to_le_bytes());
    data[5 * row..6 * row].fill(0);
    let matrix =
        Matrix::pack_as(Storage::A16(GgmlType::Q4_0), GgmlType::Q4_0, n, k, &data).unwrap();
    let mut x = random.values(2 * k);
    x[k + 7] = f32::NAN;
    for cpu in cpus() {
        let cx = Compute::with_cpu(cpu, 1).unwrap();
        let out = product(&cx, &matrix, &x, 2);
        for (i, v) in out[..n].iter().enumerate() {
            assert_eq!(v.is_nan(), i == 3, "{} output {i}: {v}", cpu.name());
        }
        assert_eq!(out[5], 0.0);
        assert!(out[n..].iter().all(|v| v.is_nan()), "{}", cpu.name());
    }
}

#[test]
fn the_largest_weights_and_activations_do_not_overflow() {
    // All extremes: 8-bit weights of -128 and 127, activations of one magnitude, the longest K.
    let (n, k) = (16, MOST_COLUMNS);
    for byte in [0x80u8, 0x7f] {
        let mut block = half::f16::from_f32(0.5).to_le_bytes().to_vec();
        block.extend([byte; 32]);
        let data = block.repeat(n * k / 32);
        let matrix =
            Matrix::pack_as(Storage::A16(GgmlType::Q8_0), GgmlType::Q8_0, n, k, &data).unwrap();
        for sign in [1.0, -1.0] {
            let x = vec![sign * 3.0; k];
            let want = sign * 3.0 * 0.5 * f32::from(byte as i8) * k as f32;
            for cpu in cpus() {
                let cx = Compute::with_cpu(cpu, 1).unwrap();
                // Vectors, a tile, two tiles at once.
                for rows in [1, 3, TILE_ROWS, 48] {
                    let got = product(&cx, &matrix, &x.repeat(rows), rows);
                    for row in [got[0], got[(rows - 1) * n]] {
                        assert!((row / want - 1.0).abs() < 3e-3, "{row} {want} rows {rows}");
                    }
                }
            }
        }
    }
}
