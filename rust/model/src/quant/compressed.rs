//! compressed-tensors' packed integers: weight_packed I32 `[n, k / per]`, `per` integers of 4 or 8 bits a word along a row,
//! raised by half their range; weight_scale `[n, groups]`; weight_zero_point I32 `[n / per, groups]`, packed down a column;
//! weight_g_idx I32 `[k]` (`actorder: group`); weight_shape I64, `n` and `k`. Its other formats are those of `scaled.rs`.
//! Source: compressed-tensors `pack_quantized/base.py`.
use serde_json::Value;

use super::{
    Described, Quantization,
    grouped::{Grouped, Groups, Integers},
    parts::{Numbers, Words, indices, numbers, words},
    settings::only,
    source::{Parts, Scheme},
};
use crate::weights::{Element, Part, Raw};

/// The method's name.
pub(super) const METHOD: &str = "compressed-tensors";

/// The scheme.
pub(super) const SCHEME: Scheme = Scheme {
    methods: &[METHOD],
    needs: &["weight_packed", "weight_scale", "weight_shape"],
    may: &["weight_zero_point", "weight_g_idx"],
    check,
    open,
};

/// Refuses what neither this scheme nor `scaled.rs` can read.
pub(super) fn check(settings: &Quantization) -> Result<(), String> {
    let formats = [
        "dense",
        "int-quantized",
        "float-quantized",
        "naive-quantized",
        "pack-quantized",
        "mixed-precision",
    ]
    .map(Value::from);
    settings.only("format", &formats)?;
    for group in settings.groups() {
        only(METHOD, "format", group.get("format"), &formats)?;
        let Some(weights) = group.get("weights").filter(|w| !w.is_null()) else {
            return Err(format!(
                "{METHOD} that quantises no weights is not supported"
            ));
        };
        only(
            METHOD,
            "num_bits",
            weights.get("num_bits"),
            &[4.into(), 8.into()],
        )?;
        if weights.get("type").and_then(Value::as_str) == Some("float") {
            only(
                METHOD,
                "num_bits of type float",
                weights.get("num_bits"),
                &[8.into()],
            )?;
        }
        let orders = ["group", "weight", "static", "dynamic"].map(Value::from);
        let orders = [orders.as_slice(), &[true.into(), false.into()]].concat();
        only(METHOD, "actorder", weights.get("actorder"), &orders)?;
    }
    Ok(())
}

struct Packed<'a> {
    codes: Words<'a>,
    zeros: Option<Words<'a>>,
    scales: Numbers,
    bits: usize,
}

fn open<'a>(mut parts: Parts<'a>, _: Option<&Quantization>) -> Result<Described<'a>, String> {
    let mut take = |name: &'static str| parts.remove(name).ok_or(format!("has no {name}"));
    let codes = words("weight_packed", take("weight_packed")?)?;
    let scales = numbers("weight_scale", &take("weight_scale")?)?;
    let [n, k] = shape(&take("weight_shape")?)?;
    let bits = [4, 8]
        .into_iter()
        .find(|b| k > 0 && k.div_ceil(32 / b) == codes.columns);
    let count = scales.columns;
    let fits = codes.rows == n && scales.rows == n && (1..=k).contains(&count);
    let Some(bits) = bits.filter(|_| fits) else {
        return Err(format!(
            "of {n} x {k} has weight_packed {} x {} and weight_scale {} x {count}, which do not fit together",
            codes.rows, codes.columns, scales.rows
        ));
    };
    let zeros = take("weight_zero_point").ok();
    let zeros = zeros
        .map(|part| words("weight_zero_point", part))
        .transpose()?;
    if let Some(zeros) = &zeros
        && [zeros.rows, zeros.columns] != [n.div_ceil(32 / bits), count]
    {
        return Err(format!(
            "has weight_zero_point {} x {}, of {n} rows and {count} groups",
            zeros.rows, zeros.columns
        ));
    }
    let listed = take("weight_g_idx").ok();
    // -1 in every place: no order of its own.
    let listed = listed.filter(|part| part.data.iter().any(|b| *b != 255));
    let listed = listed.map(|part| indices("weight_g_idx", &part, k));
    let groups = Groups::new(k.div_ceil(count), listed.transpose()?, count)?;
    let integers = Packed {
        codes,
        zeros,
        scales,
        bits,
    };
    let grouped = Grouped::new([n, k], bits, groups, count, integers);
    Ok(Described::Made(Box::new(grouped)))
}

fn shape(part: &Part<'_>) -> Result<[usize; 2], String> {
    let (values, _) = part.data.as_chunks::<8>();
    let side = |at: usize| usize::try_from(i64::from_le_bytes(*values.get(at)?)).ok();
    match (&part.element, side(0), side(1), values.len()) {
        (Element::Raw(Raw::I64), Some(n), Some(k), 2) => Ok([n, k]),
        _ => Err("has a weight_shape that is not two sides of I64".into()),
    }
}

impl Integers for Packed<'_> {
    fn codes(&self, row: usize, out: &mut [u8]) {
        let mask = (1u32 << self.bits) - 1;
        for (word, out) in out.chunks_mut(32 / self.bits).enumerate() {
            let mut word = self.codes.at(row, word);
            for out in out {
                *out = (word & mask) as u8;
                word >>= self.bits;
            }
        }
    }

    fn scale(&self, row: usize, group: usize) -> f32 {
        self.scales.values[row * self.scales.columns + group]
    }

    fn zero(&self, row: usize, group: usize) -> i32 {
        let per = 32 / self.bits;
        match &self.zeros {
            None => 1 << (self.bits - 1),
            Some(zeros) => {
                let word = zeros.at(row / per, group) >> (row % per * self.bits);
                (word & ((1 << self.bits) - 1)) as i32
            }
        }
    }

    fn file_bytes(&self) -> usize {
        let zeros = self.zeros.as_ref().map_or(0, Words::bytes);
        self.codes.bytes() + zeros + self.scales.values.len() * 2
    }
}
