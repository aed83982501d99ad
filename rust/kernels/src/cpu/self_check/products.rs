//! Products of every kind, gated and with their maxima, through the same doors as a model.
use super::super::ggml::GgmlType;
use super::super::logits::{Finish, maxima_len};
use super::super::matmul::{bf16_dot, gate_up, head};
use super::super::pack::{Matrix, Mode, Storage};
use super::super::{Activation, Compute, Cpu, Input, Norm};
use super::{Noise, SelfCheck, agree};

/// Output rows of the products.
const N: usize = 16;
/// Rows of activations: few rows and many take different ways, AMX begins at 17.
const ROWS: [usize; 2] = [1, 17];
/// Types, modes and columns: each way to form scales, both widths of activations, and dense weights of two bytes.
const PRODUCTS: [(GgmlType, Mode, usize); 7] = [
    (GgmlType::Q4_1, Mode::Fast, 64),
    (GgmlType::Q8_0, Mode::Fast, 64),
    (GgmlType::Q4_K, Mode::Fast, 256),
    (GgmlType::Q6_K, Mode::Fast, 256),
    (GgmlType::Q4_1, Mode::Int16, 64),
    (GgmlType::Q6_K, Mode::Int16, 256),
    (GgmlType::BF16, Mode::Fast, 64),
];

/// Weights and activations of one product.
pub(super) struct Product {
    ty: GgmlType,
    mode: Mode,
    k: usize,
    /// `[N, k]`, as in a file.
    weights: Vec<u8>,
    /// `[most rows, k]`
    x: Vec<f32>,
}

/// One for each kind.
pub(super) fn all(random: &mut Noise) -> Vec<Product> {
    let product = |(ty, mode, k)| Product {
        ty,
        mode,
        k,
        weights: weights(random, ty, k),
        x: (0..ROWS[1] * k).map(|_| random.unit()).collect(),
    };
    PRODUCTS.map(product).into()
}

/// Whether products on `cpu` are those of the scalar level: the same bits, or close where the level has an arithmetic
/// of its own.
pub(super) fn pass(check: &mut SelfCheck, cpu: Cpu) -> bool {
    let products = std::mem::take(&mut check.products);
    let passes = products.iter().all(|product| {
        let storage = Storage::of(cpu, product.mode, product.ty, product.k);
        let same = !(product.ty == GgmlType::BF16 && bf16_dot(cpu));
        ROWS.into_iter().all(|rows| {
            let of = |cx: &Compute| product.on(cx, storage, rows);
            match (check.on(cpu, of), check.on(Cpu::SCALAR, of)) {
                (Some(got), Some(want)) => agree(&got, &want, same),
                _ => false,
            }
        })
    });
    check.products = products;
    passes
}

impl Product {
    /// The first `rows` rows, normalised, by the weights kept as `storage` says: the product and the maxima of its rows,
    /// then the product gated by itself.
    fn on(&self, cx: &Compute, storage: Storage, rows: usize) -> Option<Vec<f32>> {
        let matrix = Matrix::pack_as(storage, self.ty, N, self.k, &self.weights).ok()?;
        let norm = Norm::rms(&self.x[..self.k], 1e-5);
        let mut input = Input::new();
        let x = &self.x[..rows * self.k];
        input.fill(cx, x, rows, self.k, Some(norm), &[&matrix]);
        let mut all = vec![0f32; rows * (2 * N + maxima_len(N))];
        let (out, rest) = all.split_at_mut(rows * N);
        let (gated, maxima) = rest.split_at_mut(rows * N);
        let finish = Finish {
            scale: 0.5,
            softcap: Some(3.0),
        };
        head(cx, &input, &matrix, None, finish, out, maxima);
        let (act, bias) = (Activation::Silu, (None, None));
        gate_up(cx, &input, &matrix, &matrix, bias, act, gated);
        // Of groups that no column fills: they have no distance from each other.
        all.retain(|v| *v != f32::NEG_INFINITY);
        Some(all)
    }
}

/// A file's bytes of `[N, k]` weights.
fn weights(random: &mut Noise, ty: GgmlType, k: usize) -> Vec<u8> {
    let mut data = Vec::new();
    for _ in 0..N * k / ty.block_len() {
        match ty {
            GgmlType::BF16 => data.extend(half::bf16::from_f32(random.unit()).to_le_bytes()),
            _ => data.extend(block(random, ty)),
        }
    }
    data
}

/// A block of a quantised type: any weights, scales of about 0.01.
fn block(random: &mut Noise, ty: GgmlType) -> Vec<u8> {
    let mut block: Vec<u8> = (0..ty.block_bytes()).map(|_| random.next() as u8).collect();
    let scales: &[usize] = match ty {
        GgmlType::Q4_1 | GgmlType::Q4_K => &[0, 2],
        GgmlType::Q6_K => &[208],
        _ => &[0],
    };
    for &at in scales {
        let scale = half::f16::from_f32(0.01 + 0.005 * random.unit());
        block[at..at + 2].copy_from_slice(&scale.to_le_bytes());
    }
    block
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn wrong_weights_are_noticed() {
        let mut check = SelfCheck::new().unwrap();
        for mut product in all(&mut Noise(7)) {
            let storage = Storage::of(Cpu::SCALAR, product.mode, product.ty, product.k);
            let right = check
                .on(Cpu::SCALAR, |cx| product.on(cx, storage, 1))
                .unwrap();
            let last = product.weights.len() - 3;
            product.weights[last] ^= 1;
            let wrong = check
                .on(Cpu::SCALAR, |cx| product.on(cx, storage, 1))
                .unwrap();
            assert!(!agree(&wrong, &right, true), "{}", product.ty.name());
        }
    }
}
