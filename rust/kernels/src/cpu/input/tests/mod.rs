//! Activations: the same bits on every level, the values that the formulas say.
#![allow(clippy::unwrap_used)]
use super::*;
use crate::cpu::Cpu;
use crate::cpu::ggml::GgmlType;
use crate::cpu::testing::{Random, cpus, random_weights, storages};

fn matrices(k: usize) -> Vec<Matrix> {
    let mut random = Random::new(1);
    GgmlType::all()
        .filter(|t| k.is_multiple_of(t.block_len()))
        .flat_map(|ty| {
            let data = random_weights(&mut random, ty, 1, k);
            let pack = |storage| Matrix::pack_as(storage, ty, 1, k, &data).unwrap();
            storages(ty).into_iter().map(pack).collect::<Vec<_>>()
        })
        .collect()
}

/// Words out of high and low bytes, as NEON has them.
fn joined(bytes: &[u8]) -> Vec<u8> {
    let word = |high: u8, low: u8| i16::from(high as i8) * 128 + i16::from(low as i8);
    let blocks = bytes.chunks(2 * BLOCK).flat_map(|block| {
        let (high, low) = block.split_at(BLOCK);
        high.iter().zip(low).map(|(&h, &l)| word(h, l))
    });
    blocks.flat_map(i16::to_le_bytes).collect()
}

/// All bytes that a filled input holds (bf16 left out: only some levels need it).
fn bits(cpu: Cpu, input: &Input) -> Vec<Vec<u8>> {
    let cells = input.rows * input.blocks;
    let mut all = vec![input.x.bytes()[..cells * 128].to_vec()];
    let forms = &input.forms;
    for (from, kinds, width) in [(&input.a8, forms.a8, 1), (&input.a15, forms.a15, 2)] {
        if kinds == 0 {
            continue;
        }
        let q = &from.q.bytes()[..cells * 32 * width];
        all.push(match (cpu.isa(), width) {
            (Isa::Neon, 2) => joined(q),
            _ => q.to_vec(),
        });
        all.push(from.d.bytes()[..cells * 4].to_vec());
        let parts = [1, 1, 1, 1, 2, 2, 2, 2];
        for (i, sums) in from.sums.iter().enumerate() {
            if kinds & 1 << i != 0 {
                all.push(sums.bytes()[..cells * 4 * parts[i]].to_vec());
            }
        }
    }
    all
}

#[test]
fn forms_have_the_same_bits_on_every_level_and_thread_count() {
    let mut random = Random::new(2);
    for k in [7, 40, 256, 608] {
        let matrices = matrices(k);
        let matrices: Vec<&Matrix> = matrices.iter().collect();
        for rows in [1, 5, 16, 39, 70] {
            let mut x = random.values(rows * k);
            x[0] = 0.0;
            x[k / 2] = 1e-33;
            let weight = random.values(k);
            for norm in [None, Some(Norm::rms(&weight, 1e-5))] {
                let mut oracle = None;
                for cpu in cpus() {
                    for threads in [1, 3] {
                        let cx = Compute::with_cpu(cpu, threads).unwrap();
                        let mut input = Input::new();
                        input.fill(&cx, &x, rows, k, norm, &matrices);
                        let got = bits(cpu, &input);
                        let want = oracle.get_or_insert_with(|| got.clone());
                        assert!(*want == got, "{} k {k} rows {rows}", cpu.name());
                    }
                }
            }
        }
    }
}

#[test]
fn norm_and_scales_follow_their_formulas() {
    let (rows, k) = (3, 72);
    let mut random = Random::new(5);
    let (x, weight) = (random.values(rows * k), random.values(k));
    let data = random_weights(&mut random, GgmlType::F32, 2, k);
    let dense = Matrix::pack_as(Storage::F32, GgmlType::F32, 2, k, &data).unwrap();
    for cpu in cpus() {
        let cx = Compute::with_cpu(cpu, 2).unwrap();
        let mut input = Input::new();
        input.fill(&cx, &x, rows, k, Some(Norm::rms(&weight, 1e-3)), &[&dense]);
        for r in 0..rows {
            let row = &x[r * k..][..k];
            let mean = row.iter().map(|v| f64::from(v * v)).sum::<f64>() / k as f64;
            for i in 0..k {
                let want = f64::from(row[i]) / (mean + 1e-3).sqrt() * f64::from(weight[i]);
                let got = input.x.bytes()[(r * input.stride() + i) * 4..][..4]
                    .try_into()
                    .unwrap();
                assert!((f64::from(f32::from_le_bytes(got)) - want).abs() < 1e-5);
            }
        }
    }
}

#[test]
fn blocks_that_hold_no_numbers_show_it() {
    let k = 96;
    let mut random = Random::new(6);
    let data = random_weights(&mut random, GgmlType::Q4_0, 1, k);
    let ty = GgmlType::Q4_0;
    let pack = |storage| Matrix::pack_as(storage, ty, 1, k, &data).unwrap();
    let matrices = [Storage::A8(ty), Storage::A15(ty)].map(pack);
    for cpu in cpus() {
        let cx = Compute::with_cpu(cpu, 1).unwrap();
        let mut x = random.values(k);
        x[..32].fill(0.0);
        x[40] = f32::NAN;
        x[70] = f32::INFINITY;
        let mut input = Input::new();
        input.fill(&cx, &x, 1, k, None, &[&matrices[0], &matrices[1]]);
        for from in [&input.a8, &input.a15] {
            let d: Vec<f32> = from.d.bytes()[..12]
                .chunks(4)
                .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
                .collect();
            assert!(d[0] == 0.0 && d[1].is_nan() && d[2].is_nan(), "{d:?}");
        }
    }
}
