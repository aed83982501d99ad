//! Elements of 8 bits beside their scales: weight F8_E4M3, F8_E5M2 or I8 `[n, k]`, and weight_scale (or
//! weight_scale_inv, which is a factor all the same) for all of it, each row, groups of columns or blocks of rows and
//! columns; weight_zero_point beside I8. fp8 of DeepSeek, Qwen, vLLM and compressed-tensors, and the latter's int8.
//!
//! Packed as Q8_0: I8 exactly where a scale covers whole blocks of 32 (see `grouped.rs`); floating point rounded to 8 bits
//! with a scale a block of 32, a tenth of the error that its own 3 or 2 bits of fraction have.
use std::borrow::Cow;

use candle_vllm_kernels::cpu::{Rows, ggml::GgmlType};
use serde_json::Value;

use super::{
    Coded, Described, Quantization, compressed,
    described::{rounded, rounds_to},
    grouped::{Grouped, Groups, Integers},
    parts::{Numbers, numbers},
    source::{Parts, Scheme},
};
use crate::weights::{Element, Part, Raw};

const METHODS: &[&str] = &["fp8", "fbgemm_fp8", "modelopt", compressed::METHOD];

/// With factors called weight_scale.
pub(super) const SCHEME: Scheme = Scheme {
    methods: METHODS,
    needs: &["weight", "weight_scale"],
    may: &["weight_zero_point", "input_scale", "output_scale"],
    check,
    open: |parts, settings| open(parts, "weight_scale", settings),
};

/// With factors called weight_scale_inv.
pub(super) const INVERSE: Scheme = Scheme {
    needs: &["weight", "weight_scale_inv"],
    may: &["input_scale", "activation_scale"],
    open: |parts, settings| open(parts, "weight_scale_inv", settings),
    ..SCHEME
};

fn check(settings: &Quantization) -> Result<(), String> {
    if settings.method == compressed::METHOD {
        return compressed::check(settings);
    }
    settings.only("fmt", &["e4m3", "float8_e4m3fn", "e5m2"].map(Value::from))?;
    settings.only(
        "quant_algo",
        &["FP8", "FP8_PB_WO", "FP8_PER_CHANNEL_PER_TOKEN"].map(Value::from),
    )
}

/// Rows and columns that a scale covers.
fn tile(
    scales: &Numbers,
    [n, k]: [usize; 2],
    block: Option<[usize; 2]>,
) -> Result<[usize; 2], String> {
    let (rows, columns) = (scales.rows, scales.columns);
    let blocks = |[r, c]: [usize; 2]| n.div_ceil(r) == rows && k.div_ceil(c) == columns;
    match block {
        _ if scales.values.len() == 1 => Ok([n.max(1), k.max(1)]),
        Some(block) if blocks(block) => Ok(block),
        // A vector of a scale for each row.
        _ if rows == 1 && columns == n => Ok([1, k.max(1)]),
        _ if rows == n && columns > 0 && k.is_multiple_of(columns) => Ok([1, (k / columns).max(1)]),
        _ => Err(format!(
            "of {n} x {k} has {rows} x {columns} scales, which cover neither all, rows, groups nor blocks{}",
            block.map_or(String::new(), |b| format!(" of {} x {}", b[0], b[1]))
        )),
    }
}

fn open<'a>(
    mut parts: Parts<'a>,
    scale: &'static str,
    settings: Option<&Quantization>,
) -> Result<Described<'a>, String> {
    let mut take = |name: &'static str| parts.remove(name).ok_or(format!("has no {name}"));
    let weight = take("weight")?;
    let &[n, k] = &weight.shape[..] else {
        return Err(format!(
            "has shape {:?}, not that of a matrix",
            weight.shape
        ));
    };
    let raw = match weight.element {
        Element::Raw(raw @ (Raw::I8 | Raw::F8E4M3 | Raw::F8E5M2)) => raw,
        other => return Err(format!("has elements of {other:?} beside {scale}")),
    };
    let scales = numbers(scale, &take(scale)?)?;
    let tile = tile(&scales, [n, k], settings.and_then(Quantization::block))?;
    let scales = Scales {
        columns: k.div_ceil(tile[1]),
        values: scales.values,
        tile,
    };
    let zeros = take("weight_zero_point").ok();
    let zeros = zeros
        .map(|part| zeros_of(&part, scales.values.len()))
        .transpose()?;
    let data = weight.data;
    Ok(Described::Made(match raw {
        Raw::I8 => {
            let (groups, count) = (Groups::Of(tile[1]), scales.columns);
            let bytes = Bytes {
                data,
                k,
                scales,
                zeros,
            };
            Box::new(Grouped::new([n, k], 8, groups, count, bytes))
        }
        raw => Box::new(Floats {
            shape: [n, k],
            data,
            table: Box::new(std::array::from_fn(|code| decode(raw, code as u8))),
            scales,
        }),
    }))
}

fn zeros_of(part: &Part<'_>, len: usize) -> Result<Vec<i8>, String> {
    if part.element != Element::Raw(Raw::I8) || part.data.len() != len {
        let (element, shape) = (&part.element, &part.shape);
        return Err(format!(
            "has weight_zero_point of {element:?} {shape:?}, expected {len} I8"
        ));
    }
    Ok(part.data.iter().map(|z| *z as i8).collect())
}

/// The factors of a matrix.
struct Scales {
    values: Vec<f32>,
    columns: usize,
    tile: [usize; 2],
}

impl Scales {
    fn index(&self, row: usize, group: usize) -> usize {
        row / self.tile[0] * self.columns + group
    }
}

/// Integers of 8 bits.
struct Bytes<'a> {
    data: Cow<'a, [u8]>,
    k: usize,
    scales: Scales,
    zeros: Option<Vec<i8>>,
}

impl Integers for Bytes<'_> {
    fn codes(&self, row: usize, out: &mut [u8]) {
        for (out, q) in out.iter_mut().zip(&self.data[row * self.k..][..self.k]) {
            *out = q ^ 0x80; // two's complement + 128
        }
    }
    fn scale(&self, row: usize, group: usize) -> f32 {
        self.scales.values[self.scales.index(row, group)]
    }
    fn zero(&self, row: usize, group: usize) -> i32 {
        let zeros = self.zeros.as_ref();
        128 + zeros.map_or(0, |z| i32::from(z[self.scales.index(row, group)]))
    }
    fn file_bytes(&self) -> usize {
        self.data.len() + self.scales.values.len() * 4
    }
}

/// Floating-point numbers of 8 bits.
struct Floats<'a> {
    shape: [usize; 2],
    data: Cow<'a, [u8]>,
    table: Box<[f32; 256]>,
    scales: Scales,
}

impl Rows for Floats<'_> {
    fn blocks(&self, row: usize, out: &mut [u8]) {
        let mut values = vec![0.0; self.shape[1]];
        self.values(row, &mut values);
        rounded(&values, out);
    }

    fn values(&self, row: usize, out: &mut [f32]) {
        let k = self.shape[1];
        let codes = self.data[row * k..][..k].chunks(self.scales.tile[1]);
        let out = out.chunks_mut(self.scales.tile[1]);
        for (group, (out, codes)) in out.zip(codes).enumerate() {
            let scale = self.scales.values[self.scales.index(row, group)];
            for (out, code) in out.iter_mut().zip(codes) {
                *out = scale * self.table[usize::from(*code)];
            }
        }
    }
}

impl Coded for Floats<'_> {
    fn shape(&self) -> [usize; 2] {
        self.shape
    }
    fn packs_as(&self) -> GgmlType {
        rounds_to(self.shape[1])
    }
    fn file_bytes(&self) -> usize {
        self.data.len() + self.scales.values.len() * 4
    }
}

/// The number that a code stands for (OCP 8-bit floating point specification, E4M3 without infinities).
fn decode(raw: Raw, code: u8) -> f32 {
    let (bits, bias) = if raw == Raw::F8E5M2 { (2, 15) } else { (3, 7) };
    let exponent = i32::from(code & 0x7f) >> bits;
    let fraction = f32::from(code & ((1 << bits) - 1)) / f32::from(1u8 << bits);
    let size = match (raw, code & 0x7f) {
        (Raw::F8E5M2, 0x7c) => f32::INFINITY,
        (Raw::F8E5M2, 0x7d..) | (_, 0x7f) => f32::NAN,
        _ if exponent == 0 => fraction * f32::powi(2.0, 1 - bias),
        _ => (1.0 + fraction) * f32::powi(2.0, exponent - bias),
    };
    if code & 0x80 == 0 { size } else { -size }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_stand_for_the_numbers_of_the_standard() {
        let of = |code| decode(Raw::F8E4M3, code);
        assert_eq!(
            [of(0), of(1), of(8), of(0x7e)],
            [0.0, 2f32.powi(-9), 2f32.powi(-6), 448.0]
        );
        assert!(of(0xff).is_nan() && of(0xb8) == -1.0);
        let of = |code| decode(Raw::F8E5M2, code);
        assert_eq!(
            [of(1), of(0x7b), of(0x7c)],
            [2f32.powi(-16), 57344.0, f32::INFINITY]
        );
    }
}
