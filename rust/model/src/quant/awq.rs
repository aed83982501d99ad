//! AWQ: qweight I32 `[k, n / 8]`, 8 integers of 4 bits a word along a row, in the order of [`NIBBLE`]; qzeros I32
//! `[groups, n / 8]` alike; scales `[groups, n]`. Source: AutoAWQ `awq/modules/linear/gemm.py`.
use super::{
    Described, Quantization,
    grouped::{Grouped, Groups, Integers},
    parts::{Numbers, Words, numbers, words},
    source::{Parts, Scheme},
};

/// The scheme.
pub(super) const SCHEME: Scheme = Scheme {
    methods: &["awq"],
    needs: &["qweight", "qzeros", "scales"],
    may: &[],
    check,
    open,
};

/// The place in its word of each of 8 outputs.
const NIBBLE: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

fn check(settings: &Quantization) -> Result<(), String> {
    settings.only("bits", &[4.into()])?;
    settings.only("w_bit", &[4.into()])?;
    settings.only("version", &["gemm".into(), "GEMM".into()])
}

struct Awq<'a> {
    codes: Words<'a>,
    zeros: Words<'a>,
    scales: Numbers,
}

fn open<'a>(mut parts: Parts<'a>, _: Option<&Quantization>) -> Result<Described<'a>, String> {
    let mut take = |name: &'static str| parts.remove(name).ok_or(format!("has no {name}"));
    let codes = words("qweight", take("qweight")?)?;
    let zeros = words("qzeros", take("qzeros")?)?;
    let scales = numbers("scales", &take("scales")?)?;
    let (k, n, count) = (codes.rows, scales.columns, scales.rows);
    let fits = codes.columns.checked_mul(8) == Some(n) && zeros.columns == codes.columns;
    if !fits || zeros.rows != count || count == 0 || k % count != 0 {
        return Err(format!(
            "has qweight {k} x {}, qzeros {} x {} and scales {count} x {n}, which do not fit together",
            codes.columns, zeros.rows, zeros.columns
        ));
    }
    let integers = Awq {
        codes,
        zeros,
        scales,
    };
    let groups = Groups::Of((k / count).max(1));
    let grouped = Grouped::new([n, k], 4, groups, count, integers);
    Ok(Described::Made(Box::new(grouped)))
}

impl Integers for Awq<'_> {
    fn codes(&self, row: usize, out: &mut [u8]) {
        let shift = 4 * NIBBLE[row % 8];
        for (column, out) in out.iter_mut().enumerate() {
            *out = (self.codes.at(column, row / 8) >> shift & 15) as u8;
        }
    }

    fn scale(&self, row: usize, group: usize) -> f32 {
        self.scales.values[group * self.scales.columns + row]
    }

    fn zero(&self, row: usize, group: usize) -> i32 {
        (self.zeros.at(group, row / 8) >> (4 * NIBBLE[row % 8]) & 15) as i32
    }

    fn file_bytes(&self) -> usize {
        self.codes.bytes() + self.zeros.bytes() + self.scales.values.len() * 2
    }
}
