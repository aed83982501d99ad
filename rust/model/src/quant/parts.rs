//! Typed access to the parts of a weight: every error names the part. Knows no scheme.
use std::borrow::Cow;

use candle_vllm_kernels::cpu::ggml;

use crate::weights::{Element, Part, Raw};

/// A matrix of 32-bit words that hold smaller integers.
pub(super) struct Words<'a> {
    data: Cow<'a, [u8]>,
    /// Words a row.
    pub columns: usize,
    /// Rows.
    pub rows: usize,
}

impl Words<'_> {
    /// The word in a row and column.
    pub fn at(&self, row: usize, column: usize) -> u32 {
        let at = (row * self.columns + column) * 4;
        match self.data.get(at..at + 4) {
            Some(&[a, b, c, d]) => u32::from_le_bytes([a, b, c, d]),
            _ => 0,
        }
    }

    /// Bytes in the file.
    pub fn bytes(&self) -> usize {
        self.data.len()
    }
}

/// Of a matrix of scales: what covers it.
pub(super) struct Numbers {
    /// Row-major values.
    pub values: Vec<f32>,
    /// Columns.
    pub columns: usize,
    /// Rows.
    pub rows: usize,
}

/// What is wrong with a part.
fn wrong(name: &str, part: &Part<'_>, expected: &str) -> String {
    let (element, shape) = (&part.element, &part.shape);
    format!("has {name} of {element:?} {shape:?}, expected {expected}")
}

/// Rows and columns of a part; a vector is one row.
fn sides(part: &Part<'_>) -> Option<[usize; 2]> {
    match part.shape[..] {
        [] => Some([1, 1]),
        [columns] => Some([1, columns]),
        [rows, columns] => Some([rows, columns]),
        _ => None,
    }
}

/// `part` as 32-bit words.
pub(super) fn words<'a>(name: &str, part: Part<'a>) -> Result<Words<'a>, String> {
    match (&part.element, sides(&part)) {
        (Element::Raw(Raw::I32), Some([rows, columns])) => Ok(Words {
            data: part.data,
            columns,
            rows,
        }),
        _ => Err(wrong(name, &part, "a matrix of I32")),
    }
}

/// `part` as float32.
pub(super) fn numbers(name: &str, part: &Part<'_>) -> Result<Numbers, String> {
    let dense = |dtype: ggml::GgmlType| !dtype.is_quantised();
    match (&part.element, sides(part)) {
        (Element::Known(dtype), Some([rows, columns])) if dense(*dtype) => {
            let mut values = vec![0.0; rows * columns];
            ggml::dequantize(*dtype, &part.data, &mut values);
            Ok(Numbers {
                values,
                columns,
                rows,
            })
        }
        (Element::Raw(Raw::F8E8M0), Some([rows, columns])) => Ok(Numbers {
            values: part.data.iter().map(|e| power(*e)).collect(),
            columns,
            rows,
        }),
        _ => Err(wrong(name, part, "a matrix of numbers")),
    }
}

/// `part` as groups of columns.
pub(super) fn indices(name: &str, part: &Part<'_>, columns: usize) -> Result<Vec<u32>, String> {
    if part.element != Element::Raw(Raw::I32) || part.shape != [columns] {
        return Err(wrong(name, part, &format!("{columns} I32")));
    }
    let (values, _) = part.data.as_chunks::<4>();
    Ok(values.iter().map(|b| u32::from_le_bytes(*b)).collect())
}

/// 2^(e - 127), where 255 is no number.
pub(super) fn power(e: u8) -> f32 {
    match e {
        255 => f32::NAN,
        0 => f32::from_bits(1 << 22),
        e => f32::from_bits(u32::from(e) << 23),
    }
}
