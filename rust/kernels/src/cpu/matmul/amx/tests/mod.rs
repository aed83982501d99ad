//! The loops and remainders of the tile kernel on an emulated tile unit, against the oracle.
#![allow(clippy::unwrap_used)]
use super::*;
use crate::cpu::ggml::GgmlType;
use crate::cpu::input::Input;
use crate::cpu::lanes::Plain;
use crate::cpu::matmul::formats::with_format;
use crate::cpu::matmul::sink::Role;
use crate::cpu::matmul::tiles::Emulated;
use crate::cpu::matmul::{Job, matmul};
use crate::cpu::pack::{Matrix, Mode};
use crate::cpu::testing::{Random, cpus, random_weights};
use crate::cpu::{Compute, Isa};

/// As the vector kernels unpack for the tile unit.
unsafe fn unpack<F: Format>(panel: *const u8, to: &mut Unpacked) {
    let l = &F::L;
    let groups = to.blocks().div_ceil(l.blocks);
    // SAFETY: the panel holds as many blocks as `to`.
    let panel = unsafe { std::slice::from_raw_parts(panel, groups * l.bytes()) };
    for b in 0..to.blocks() {
        let group = &panel[b / l.blocks * l.bytes()..][..l.bytes()];
        for lane in 0..LANES {
            let scales = l.scales(group, b % l.blocks, lane);
            let words = l.words(group, b % l.blocks, lane);
            for (k, q) in words.map(u32::to_le_bytes).concat().into_iter().enumerate() {
                let mut w = i32::from(q) - l.offset;
                if l.scheme == Scheme::PairMin {
                    w *= scales.sub[k / 16];
                }
                // SAFETY: 512 bytes of weights a block.
                unsafe { *to.weights(b).add(k / 4 * 64 + lane * 4 + k % 4) = w as i8 as u8 };
            }
            let sub = scales.sub.map(|s| s as f32);
            for (i, v) in [scales.d, scales.m[0], scales.m[1], sub[0], sub[1]]
                .into_iter()
                .enumerate()
            {
                // SAFETY: five vectors of scales a block.
                unsafe { *to.scales(b, i).add(lane) = v };
            }
        }
    }
}

#[test]
fn emulated_tiles_give_the_oracles_bits() {
    let mut random = Random::new(9);
    let cx = Compute::with_cpu(cpus()[0], 1).unwrap();
    for ty in GgmlType::all().filter(|t| t.is_quantised()) {
        let (n, k) = (37, if ty.block_len() == 32 { 96 } else { 512 });
        let data = random_weights(&mut random, ty, n, k);
        let matrix = Matrix::pack(cx.cpu, Mode::Fast, ty, n, k, &data).unwrap();
        for rows in [1, 3, 4, 5, 8, 11, 12, 13, 16, 17, 25, 32, 46] {
            let x = random.values(rows * k);
            let mut input = Input::new();
            input.fill(&cx, &x, rows, k, None, &[&matrix]);
            let (mut want, mut got) = (vec![0f32; rows * n], vec![f32::NAN; rows * n]);
            let job = Job {
                matrix: &matrix,
                bias: None,
                out: &mut want,
                add: false,
            };
            matmul(&cx, &input, &mut [job]);
            let out = got.as_mut_ptr();
            let sink = Sink {
                out,
                n,
                bias: None,
                role: Role::Set,
                isa: Isa::Scalar,
            };
            let work = Work {
                matrix: &matrix,
                input: &input,
                panels: 0..matrix.panels(),
            };
            // SAFETY: the output has rows x n values and nobody else writes it.
            with_format!(ty, F => Unpacked::with(input.blocks(), |unpacked| unsafe {
                body::<F, Emulated, Plain>(unpack::<F>, unpacked, &work, &sink);
            }));
            let same = want
                .iter()
                .zip(&got)
                .all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "{} rows {rows}", ty.name());
        }
    }
}
