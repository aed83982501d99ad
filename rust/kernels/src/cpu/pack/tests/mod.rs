//! Packing: values come back exactly, sizes stay near the file's, wrong shapes are refused.
#![allow(clippy::unwrap_used)]
use super::*;
use crate::cpu::{
    ggml::dequantize,
    testing::{Random, cpus, random_weights, storages},
};

#[test]
fn packed_values_are_the_files() {
    let mut random = Random::new(3);
    for ty in GgmlType::all() {
        for (n, blocks) in [(1, 1), (16, 3), (37, 2), (48, 1)] {
            let k = blocks * if ty.is_quantised() { ty.block_len() } else { 7 };
            let data = random_weights(&mut random, ty, n, k);
            let mut want = vec![0f32; n * k];
            dequantize(ty, &data, &mut want);
            for storage in storages(ty) {
                let matrix = Matrix::pack_as(storage, ty, n, k, &data).unwrap();
                assert_eq!((matrix.n(), matrix.k()), (n, k));
                assert_eq!(
                    matrix.dequantize(),
                    want,
                    "{} {storage:?} {n} x {k}",
                    ty.name()
                );
                let ids = [n as u32 - 1, 0, n as u32 / 2];
                let mut rows = vec![0f32; 3 * k];
                matrix.rows(&ids, &mut rows);
                for (id, row) in ids.iter().zip(rows.chunks(k)) {
                    assert_eq!(row, &want[*id as usize * k..][..k]);
                }
            }
        }
    }
}

#[test]
fn large_matrices_stay_within_the_files_size() {
    let mut random = Random::new(4);
    for ty in GgmlType::all() {
        let data = random_weights(&mut random, ty, 64, 768);
        let matrix = Matrix::pack(cpus()[0], Mode::Fast, ty, 64, 768, &data).unwrap();
        if !ty.in_codebook() {
            assert!(
                matrix.bytes() * 100 <= data.len() * 109,
                "{}: {}",
                ty.name(),
                matrix.bytes()
            );
        }
        assert_eq!(matrix.label(), ty.name().to_lowercase());
    }
}

#[test]
fn types_without_panels_become_int8() {
    let mut random = Random::new(5);
    for ty in GgmlType::all().filter(|ty| ty.in_codebook()) {
        let data = random_weights(&mut random, ty, 18, 512);
        let mut want = vec![0f32; 18 * 512];
        dequantize(ty, &data, &mut want);
        for mode in [Mode::Fast, Mode::Int8, Mode::Int16] {
            let matrix = Matrix::pack(cpus()[0], mode, ty, 18, 512, &data).unwrap();
            assert_eq!(matrix.bytes(), 32 * 512 / 32 * 34);
            let got = matrix.dequantize();
            for (got, want) in got.chunks(32).zip(want.chunks(32)) {
                let most = want.iter().fold(0f32, |m, v| m.max(v.abs()));
                let near = |(g, w): (&f32, &f32)| (g - w).abs() <= most / 250.0 + 1e-6;
                assert!(got.iter().zip(want).all(near), "{}", ty.name());
            }
        }
        let exact = Matrix::pack(cpus()[0], Mode::Exact, ty, 18, 512, &data).unwrap();
        assert_eq!(exact.dequantize(), want, "{}", ty.name());
    }
}

#[test]
fn wrong_shapes_are_refused_with_their_numbers() {
    let pack = |ty, n, k, len: usize| {
        Matrix::pack(cpus()[0], Mode::Fast, ty, n, k, &vec![0; len])
            .unwrap_err()
            .to_string()
    };
    assert!(pack(GgmlType::Q4_K, 2, 128, 144).contains("blocks of 256"));
    assert!(pack(GgmlType::Q4_0, 2, 64, 71).contains("needs 72 bytes, but there are 71"));
    assert!(pack(GgmlType::F32, 0, 4, 0).contains("holds nothing"));
    assert!(pack(GgmlType::F32, usize::MAX, usize::MAX, 0).contains("needs"));
}
