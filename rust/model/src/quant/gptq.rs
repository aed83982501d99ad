//! GPTQ: qweight I32 `[k / per, n]`, `per` integers of 4 or 8 bits a word down a column; scales `[groups, n]`; qzeros I32
//! `[groups, n / per]`; g_idx I32 `[k]`, the group of each column (`desc_act`). The first checkpoint format keeps zeros
//! less one. Source: AutoGPTQ `qlinear_cuda_old.py`, GPTQModel `convert_gptq_v1_to_v2_format`.
use super::{
    Described, Quantization,
    grouped::{Grouped, Groups, Integers},
    parts::{Numbers, Words, indices, numbers, words},
    source::{Parts, Scheme},
};

/// The scheme.
pub(super) const SCHEME: Scheme = Scheme {
    methods: &["gptq"],
    needs: &["qweight", "qzeros", "scales"],
    may: &["g_idx"],
    check,
    open,
};

fn check(settings: &Quantization) -> Result<(), String> {
    settings.only("bits", &[4.into(), 8.into()])?;
    settings.only("checkpoint_format", &["gptq".into(), "gptq_v2".into()])?;
    settings.only("pack_dtype", &["int32".into()])
}

struct Gptq<'a> {
    codes: Words<'a>,
    zeros: Words<'a>,
    scales: Numbers,
    bits: usize,
    /// What the stored zeros lack.
    lack: i32,
}

fn open<'a>(
    mut parts: Parts<'a>,
    settings: Option<&Quantization>,
) -> Result<Described<'a>, String> {
    let mut take = |name: &'static str| parts.remove(name).ok_or(format!("has no {name}"));
    let codes = words("qweight", take("qweight")?)?;
    let zeros = words("qzeros", take("qzeros")?)?;
    let scales = numbers("scales", &take("scales")?)?;
    let (n, count) = (codes.columns, scales.rows);
    // Modules may have a width of their own (`dynamic`), so the parts say it.
    let bits = match zeros.columns {
        0 => 0,
        columns if n.is_multiple_of(columns) => 32 * columns / n,
        _ => 0,
    };
    if ![4, 8].contains(&bits) || scales.columns != n || zeros.rows != count || count == 0 {
        return Err(format!(
            "of {n} rows has scales {} x {} and qzeros {} x {}, not those of 4 or 8 bits",
            scales.rows, scales.columns, zeros.rows, zeros.columns
        ));
    }
    let k = codes.rows * (32 / bits);
    let size = k.div_ceil(count);
    let listed = take("g_idx").ok().map(|part| indices("g_idx", &part, k));
    let groups = Groups::new(size, listed.transpose()?, count)?;
    let second = settings.and_then(|s| s.text("checkpoint_format")) == Some("gptq_v2");
    let integers = Gptq {
        codes,
        zeros,
        scales,
        bits,
        lack: i32::from(!second),
    };
    let grouped = Grouped::new([n, k], bits, groups, count, integers);
    Ok(Described::Made(Box::new(grouped)))
}

impl Integers for Gptq<'_> {
    fn codes(&self, row: usize, out: &mut [u8]) {
        let mask = (1u32 << self.bits) - 1;
        for (word, out) in out.chunks_mut(32 / self.bits).enumerate() {
            let mut word = self.codes.at(word, row);
            for out in out {
                *out = (word & mask) as u8;
                word >>= self.bits;
            }
        }
    }

    fn scale(&self, row: usize, group: usize) -> f32 {
        self.scales.values[group * self.scales.columns + row]
    }

    fn zero(&self, row: usize, group: usize) -> i32 {
        let per = 32 / self.bits;
        let word = self.zeros.at(group, row / per) >> (row % per * self.bits);
        (word & ((1 << self.bits) - 1)) as i32 + self.lack
    }

    fn file_bytes(&self) -> usize {
        self.codes.bytes() + self.zeros.bytes() + self.scales.values.len() * 2
    }
}
