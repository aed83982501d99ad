//! float32 values into ggml's blocks. Knows nothing of how the kernels keep them.
use half::f16;

/// Elements of a Q8_0 block.
const BLOCK: usize = 32;

/// `values`, whole blocks of 32, as Q8_0 blocks of 34 bytes. The scale is rounded up, so that no value is cut off; a
/// block with a value that is not finite has a scale that is not either, so that it shows.
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
    use super::super::{GgmlType, dequantize};
    use super::*;

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

    #[test]
    fn zeros_stay_and_infinities_show() {
        assert_eq!(back(&[0.0; 32]), [0.0; 32]);
        let mut values = [1.0; 32];
        values[7] = f32::INFINITY;
        assert!(back(&values).iter().all(|v| v.is_nan()));
    }
}
