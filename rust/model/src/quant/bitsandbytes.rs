//! bitsandbytes of 4 bits (NF4, FP4): weight U8 `[n * k / 2, 1]`, two codes a byte, the high one first, of the table
//! weight.quant_map F32 `[16]`; weight.absmax, a factor for each `blocksize` numbers: F32, or U8 of the table
//! weight.nested_quant_map F32 `[256]` with a factor weight.nested_absmax for each `nested_blocksize` of them, and
//! `nested_offset` added. The rest stands as JSON in weight.quant_state.*. Packed as Q8_0, rounded.
//! Source: bitsandbytes `functional.py`, `QuantState`.
use std::borrow::Cow;

use candle_vllm_kernels::cpu::{Rows, ggml::GgmlType};
use serde::Deserialize;

use super::{
    Coded, Described, Quantization,
    described::{rounded, rounds_to},
    parts::numbers,
    source::{Parts, Scheme},
};
use crate::weights::{Element, Part, Raw};

const STATES: [&str; 2] = [
    "weight.quant_state.bitsandbytes__nf4",
    "weight.quant_state.bitsandbytes__fp4",
];

/// The scheme.
pub(super) const SCHEME: Scheme = Scheme {
    methods: &["bitsandbytes"],
    needs: &["weight", "weight.absmax", "weight.quant_map"],
    may: &[
        STATES[0],
        STATES[1],
        "weight.nested_absmax",
        "weight.nested_quant_map",
    ],
    check,
    open,
};

fn check(settings: &Quantization) -> Result<(), String> {
    settings.only("load_in_8bit", &[false.into()])?;
    settings.only("bnb_4bit_quant_storage", &["uint8".into()])
}

/// What weight.quant_state says.
#[derive(Deserialize)]
struct State {
    shape: [usize; 2],
    blocksize: usize,
    nested_blocksize: Option<usize>,
    nested_offset: Option<f32>,
}

struct Nibbles<'a> {
    shape: [usize; 2],
    codes: Cow<'a, [u8]>,
    table: [f32; 16],
    factors: Vec<f32>,
    block: usize,
}

fn open<'a>(mut parts: Parts<'a>, _: Option<&Quantization>) -> Result<Described<'a>, String> {
    let state = STATES.iter().find_map(|name| parts.remove(name));
    let state = state.ok_or("has no weight.quant_state")?;
    let state: State = serde_json::from_slice(&state.data)
        .map_err(|e| format!("has a broken weight.quant_state: {e}"))?;
    let mut take = |name: &'static str| parts.remove(name).ok_or(format!("has no {name}"));
    let weight = take("weight")?;
    let map = numbers("weight.quant_map", &take("weight.quant_map")?)?;
    let table = <[f32; 16]>::try_from(map.values)
        .map_err(|all| format!("has a weight.quant_map of {} numbers", all.len()))?;
    let absmax = take("weight.absmax")?;
    let nested = take("weight.nested_absmax").ok();
    let factors = match nested {
        None => numbers("weight.absmax", &absmax)?.values,
        Some(nested) => {
            let table = take("weight.nested_quant_map")?;
            unnested(&absmax, &nested, &table, &state)?
        }
    };
    let [n, k] = state.shape;
    let count = n.checked_mul(k).unwrap_or(0);
    let fits = weight.element == Element::Raw(Raw::U8)
        && count > 0
        && state.blocksize > 0
        && count.div_ceil(2) == weight.data.len()
        && count.div_ceil(state.blocksize) == factors.len();
    if !fits {
        return Err(format!(
            "of {n} x {k} has {} bytes and {} factors of {} numbers, which do not fit together",
            weight.data.len(),
            factors.len(),
            state.blocksize
        ));
    }
    Ok(Described::Made(Box::new(Nibbles {
        shape: [n, k],
        codes: weight.data,
        table,
        factors,
        block: state.blocksize,
    })))
}

/// Factors that are quantised themselves.
fn unnested(
    absmax: &Part<'_>,
    nested: &Part<'_>,
    table: &Part<'_>,
    state: &State,
) -> Result<Vec<f32>, String> {
    let factors = numbers("weight.nested_absmax", nested)?.values;
    let table = numbers("weight.nested_quant_map", table)?.values;
    let size = state.nested_blocksize.unwrap_or(256).max(1);
    let count = absmax.data.len().div_ceil(size);
    if absmax.element != Element::Raw(Raw::U8) || table.len() != 256 || factors.len() != count {
        return Err("has nested factors that do not fit together".into());
    }
    let offset = state.nested_offset.unwrap_or(0.0);
    let codes = absmax.data.iter().enumerate();
    let factor = |(i, code): (usize, &u8)| table[usize::from(*code)] * factors[i / size] + offset;
    Ok(codes.map(factor).collect())
}

impl Rows for Nibbles<'_> {
    fn blocks(&self, row: usize, out: &mut [u8]) {
        let mut values = vec![0.0; self.shape[1]];
        self.values(row, &mut values);
        rounded(&values, out);
    }

    fn values(&self, row: usize, out: &mut [f32]) {
        for (column, out) in out.iter_mut().enumerate() {
            let at = row * self.shape[1] + column;
            let code = self.codes[at / 2] >> (4 - at % 2 * 4) & 15;
            *out = self.table[usize::from(code)] * self.factors[at / self.block];
        }
    }
}

impl Coded for Nibbles<'_> {
    fn shape(&self) -> [usize; 2] {
        self.shape
    }
    fn packs_as(&self) -> GgmlType {
        rounds_to(self.shape[1])
    }
    fn file_bytes(&self) -> usize {
        self.codes.len() + self.factors.len()
    }
}
