//! float32 values into ggml's blocks, each type by the scales that leave the least. Knows nothing of how the kernels keep
//! them.
use half::f16;

use super::{
    GgmlType, Raw,
    search::{affine, centred, importance, nearest},
};

/// The types that can be made.
pub const MADE: [GgmlType; 10] = [
    GgmlType::Q4_0,
    GgmlType::Q4_1,
    GgmlType::Q5_0,
    GgmlType::Q5_1,
    GgmlType::Q8_0,
    GgmlType::Q2_K,
    GgmlType::Q3_K,
    GgmlType::Q4_K,
    GgmlType::Q5_K,
    GgmlType::Q6_K,
];

/// Elements of a Q8_0 block.
const BLOCK: usize = 32;

/// `values` as blocks of `ty`, one of [`MADE`]; both whole blocks. A block with a value that is not finite has a scale
/// that is not either, so that it shows.
pub fn quantize(ty: GgmlType, values: &[f32], out: &mut [u8]) {
    let mut raw = Raw::new();
    let blocks = out.chunks_exact_mut(ty.block_bytes());
    for (values, out) in values.chunks_exact(ty.block_len()).zip(blocks) {
        if values.iter().all(|v| v.is_finite()) {
            match ty {
                GgmlType::Q4_0 => raw.take_centred(values, 8.0),
                GgmlType::Q5_0 => raw.take_centred(values, 16.0),
                GgmlType::Q8_0 => raw.take_centred(values, 128.0),
                GgmlType::Q4_1 => raw.take_affine(values, 15.0),
                GgmlType::Q5_1 => raw.take_affine(values, 31.0),
                GgmlType::Q2_K => raw.take_minima(values, 3.0, 15.0),
                GgmlType::Q4_K => raw.take_minima(values, 15.0, 63.0),
                GgmlType::Q5_K => raw.take_minima(values, 31.0, 63.0),
                GgmlType::Q3_K => raw.take_parts(values, 4.0, 32.0),
                _ => raw.take_parts(values, 32.0, 128.0),
            }
        } else {
            (raw.d, raw.m) = (f16::NAN.to_bits(), f16::NAN.to_bits());
        }
        raw.write(ty, out);
    }
}

/// 1 / x, where that is a number.
fn inverse(x: f32) -> f32 {
    if x == 0.0 { 0.0 } else { 1.0 / x }
}

/// `x` as an f16's bits, and what they stand for.
fn rounded(x: f32) -> (u16, f32) {
    let half = f16::from_f32(x);
    (half.to_bits(), half.to_f32())
}

impl Raw {
    /// d * (q - half), one scale for all.
    fn take_centred(&mut self, values: &[f32], half: f32) {
        let mut weights = [0.0; BLOCK];
        importance(values, &mut weights);
        let (bits, d) = rounded(centred(values, &weights, half));
        self.d = bits;
        codes(values, 0.0, d, half, 2.0 * half - 1.0, &mut self.q);
    }

    /// d * q + m, one of each for all.
    fn take_affine(&mut self, values: &[f32], most: f32) {
        let mut weights = [0.0; BLOCK];
        importance(values, &mut weights);
        let fit = affine(values, &weights, most, false);
        let ((d_bits, d), (m_bits, m)) = (rounded(fit.scale), rounded(fit.minimum));
        (self.d, self.m) = (d_bits, m_bits);
        codes(values, m, d, 0.0, most, &mut self.q);
    }

    /// d * sub * (q - half) for each 16, `sub` from `-most` to `most - 1`.
    fn take_parts(&mut self, values: &[f32], half: f32, most: f32) {
        let mut weights = [0.0; 256];
        importance(values, &mut weights);
        let mut scales = [0f32; 16];
        for (j, scale) in scales.iter_mut().enumerate() {
            let part = j * 16..(j + 1) * 16;
            *scale = centred(&values[part.clone()], &weights[part], half);
        }
        let furthest = |a: f32, s: &f32| if s.abs() > a.abs() { *s } else { a };
        let (bits, d) = rounded(scales.iter().fold(0.0, furthest) / -most);
        self.d = bits;
        for (j, scale) in scales.iter().enumerate() {
            let sub = nearest((scale * inverse(d)).max(-most).min(most - 1.0));
            self.sub[j] = sub as i8 as u8;
            let (part, q) = (&values[j * 16..][..16], &mut self.q[j * 16..]);
            codes(part, 0.0, d * sub, half, 2.0 * half - 1.0, q);
        }
    }

    /// d * sub * q - m * min for each part, both from 0 to `top`: parts of 16 where `top` has 4 bits, else of 32.
    fn take_minima(&mut self, values: &[f32], most: f32, top: f32) {
        let mut weights = [0.0; 256];
        importance(values, &mut weights);
        let len = if top < 16.0 { 16 } else { 32 };
        let parts = 256 / len;
        let (mut scales, mut minima) = ([0f32; 16], [0f32; 16]);
        for j in 0..parts {
            let part = j * len..(j + 1) * len;
            let fit = affine(&values[part.clone()], &weights[part], most, true);
            (scales[j], minima[j]) = (fit.scale, -fit.minimum);
        }
        let greatest = |all: &[f32]| all.iter().fold(0f32, |a, s| a.max(*s));
        let (d_bits, d) = rounded(greatest(&scales) / top);
        let (m_bits, m) = rounded(greatest(&minima) / top);
        (self.d, self.m) = (d_bits, m_bits);
        let step = |x: f32, unit: f32| nearest((x * inverse(unit)).max(0.0).min(top));
        for j in 0..parts {
            let (sub, min) = (step(scales[j], d), step(minima[j], m));
            (self.sub[j], self.min[j]) = (sub as u8, min as u8);
            let (part, q) = (&values[j * len..][..len], &mut self.q[j * len..]);
            codes(part, -(m * min), d * sub, 0.0, most, q);
        }
    }
}

/// The integers from 0 to `most` with which `scale * (q - offset) + minimum` is nearest to each value.
fn codes(values: &[f32], minimum: f32, scale: f32, offset: f32, most: f32, out: &mut [u8]) {
    let inverse = inverse(scale);
    for (q, v) in out.iter_mut().zip(values) {
        // The bounds come first: `nearest` takes no large numbers.
        *q = nearest(((v - minimum) * inverse + offset).max(0.0).min(most)) as u8;
    }
}

/// `values`, whole blocks of 32, as Q8_0 blocks of 34 bytes, without a search: for values that no file keeps so. The scale
/// is rounded up, so that no value is cut off; a block with a value that is not finite has a scale that is not either, so
/// that it shows.
pub fn q8_0(values: &[f32], out: &mut [u8]) {
    for (values, out) in values
        .chunks_exact(BLOCK)
        .zip(out.chunks_exact_mut(2 + BLOCK))
    {
        let most = values.iter().fold(0f32, |most, v| most.max(v.abs()));
        let finite = values.iter().all(|v| v.is_finite());
        let d = if finite { scale(most, 127.0) } else { f16::NAN };
        let inverse = match d.to_f32() {
            d if d > 0.0 => 1.0 / d,
            _ => 0.0,
        };
        out[..2].copy_from_slice(&d.to_le_bytes());
        for (q, v) in out[2..].iter_mut().zip(values) {
            *q = (v * inverse).round_ties_even() as i8 as u8;
        }
    }
}

/// The least f16 with which `peak` steps reach `most`.
fn scale(most: f32, peak: f32) -> f16 {
    let d = f16::from_f32(most / peak);
    if d.to_f32() * peak < most {
        f16::from_bits(d.to_bits() + 1)
    } else {
        d
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::dequantize;
    use super::*;
    use crate::cpu::testing::Random;

    fn back(values: &[f32]) -> Vec<f32> {
        let mut blocks = vec![0; values.len() / BLOCK * 34];
        q8_0(values, &mut blocks);
        let mut back = vec![0.0; values.len()];
        dequantize(GgmlType::Q8_0, &blocks, &mut back);
        back
    }

    #[test]
    fn no_value_is_further_than_half_a_step() {
        for peak in [3.7e-6f32, 1e-3, 0.75, 900.0] {
            let values: Vec<f32> = (0..64)
                .map(|i| peak * (i as f32 * 0.7).sin() / (1 + i / 32) as f32)
                .collect();
            for (block, back) in values.chunks(BLOCK).zip(back(&values).chunks(BLOCK)) {
                let most = block.iter().fold(0f32, |m, v| m.max(v.abs()));
                let step = scale(most, 127.0).to_f32();
                assert!(step <= most / 127.0 * 1.001 + 6e-8);
                for (v, b) in block.iter().zip(back) {
                    assert!((v - b).abs() <= step * 0.501, "{v} {b} {step}");
                }
            }
        }
    }

    /// Of types and sums of three numbers from -1 to 1: the root of what llama.cpp's reference quantiser leaves, as a share
    /// of the values (`ggml_quantize_chunk` without importances, llama.cpp of 2026-11).
    const REFERENCE: [(GgmlType, f64); 10] = [
        (GgmlType::Q4_0, 0.07937),
        (GgmlType::Q4_1, 0.07432),
        (GgmlType::Q5_0, 0.03931),
        (GgmlType::Q5_1, 0.03608),
        (GgmlType::Q8_0, 0.004918),
        (GgmlType::Q2_K, 0.28424),
        (GgmlType::Q3_K, 0.14329),
        (GgmlType::Q4_K, 0.06743),
        (GgmlType::Q5_K, 0.03419),
        (GgmlType::Q6_K, 0.01656),
    ];

    #[test]
    fn errors_are_those_of_the_reference_at_most() {
        let mut random = Random::new(17);
        let values: Vec<f32> = (0..16_384)
            .map(|_| random.unit() + random.unit() + random.unit())
            .collect();
        let squares: f64 = values.iter().map(|v| f64::from(*v).powi(2)).sum();
        for (ty, reference) in REFERENCE {
            let mut blocks = vec![0; values.len() / ty.block_len() * ty.block_bytes()];
            quantize(ty, &values, &mut blocks);
            let mut back = vec![0.0; values.len()];
            dequantize(ty, &blocks, &mut back);
            let off = |(a, b): (&f32, &f32)| f64::from(a - b).powi(2);
            let left: f64 = values.iter().zip(&back).map(off).sum();
            let share = (left / squares).sqrt();
            println!("{} {share:.5} {reference:.5}", ty.name());
            assert!(share <= reference * 1.02, "{} {share}", ty.name());
        }
    }

    #[test]
    fn no_block_breaks_and_what_is_not_finite_shows() {
        for ty in MADE {
            let blocks = |values: &[f32]| {
                let mut blocks = vec![0; ty.block_bytes() * values.len() / ty.block_len()];
                quantize(ty, values, &mut blocks);
                let mut back = vec![0.0; values.len()];
                dequantize(ty, &blocks, &mut back);
                back
            };
            assert_eq!(blocks(&[0.0; 256]), [0.0; 256], "{}", ty.name());
            for alike in [1.5, -1.5, 1e-9, -3e4] {
                let back = blocks(&[alike; 256]);
                let near = |b: &f32| (b - alike).abs() <= alike.abs() * 0.01 + 1e-7;
                assert!(back.iter().all(near), "{} {alike} {}", ty.name(), back[0]);
            }
            let mut one = [0.0; 256];
            one[100] = -2.0;
            let back = blocks(&one);
            assert!((back[100] + 2.0).abs() < 0.02, "{}", ty.name());
            one[100] = f32::INFINITY;
            let last = 255.min(100 / ty.block_len() * ty.block_len() + ty.block_len() - 1);
            assert!(blocks(&one)[100..=last].iter().all(|v| v.is_nan()));
        }
    }

    #[test]
    fn zeros_stay_and_infinities_show() {
        assert_eq!(back(&[0.0; 32]), [0.0; 32]);
        let mut values = [1.0; 32];
        values[7] = f32::INFINITY;
        assert!(back(&values).iter().all(|v| v.is_nan()));
    }
}
