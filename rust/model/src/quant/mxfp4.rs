//! MXFP4 (OCP microscaling formats): blocks U8 `[n, k / 32, 16]`, two numbers of 4 bits a byte, the low one first; scales
//! U8 `[n, k / 32]`, powers of two. Packed as ggml's MXFP4, which differs in the order of its bytes: exact where half a
//! scale is an f16 (2^-24 to 2^15).
use std::borrow::Cow;

use candle_vllm_kernels::cpu::{Rows, ggml::GgmlType};

use super::{
    Coded, Described, Quantization,
    parts::power,
    source::{Parts, Scheme},
};
use crate::weights::{Element, Raw};

/// The scheme.
pub(super) const SCHEME: Scheme = Scheme {
    methods: &["mxfp4"],
    needs: &["blocks", "scales"],
    may: &[],
    check: |_| Ok(()),
    open,
};

/// Twice the number that each code stands for.
const TWICE: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// Numbers of a block, and their bytes.
const BLOCK: usize = 32;
const BYTES: usize = BLOCK / 2;

struct Mxfp4<'a> {
    shape: [usize; 2],
    codes: Cow<'a, [u8]>,
    scales: Cow<'a, [u8]>,
}

fn open<'a>(mut parts: Parts<'a>, _: Option<&Quantization>) -> Result<Described<'a>, String> {
    let mut take = |name: &'static str| parts.remove(name).ok_or(format!("has no {name}"));
    let (blocks, scales) = (take("blocks")?, take("scales")?);
    let u8s = [&blocks, &scales]
        .iter()
        .all(|part| part.element == Element::Raw(Raw::U8));
    match (&blocks.shape[..], &scales.shape[..]) {
        (&[n, groups, BYTES], &[rows, columns]) if u8s && [n, groups] == [rows, columns] => {
            Ok(Described::Made(Box::new(Mxfp4 {
                shape: [n, groups * BLOCK],
                codes: blocks.data,
                scales: scales.data,
            })))
        }
        (blocks, scales) => Err(format!(
            "has blocks {blocks:?} and scales {scales:?}, expected U8 [n, k / 32, 16] and [n, k / 32]"
        )),
    }
}

impl Mxfp4<'_> {
    /// The codes and the exponent of each block of a row.
    fn row(&self, row: usize) -> impl Iterator<Item = ([u8; BLOCK], u8)> {
        let groups = self.shape[1] / BLOCK;
        let codes = self.codes[row * groups * BYTES..].chunks_exact(BYTES);
        let scales = &self.scales[row * groups..][..groups];
        codes.zip(scales).map(|(codes, scale)| {
            let code = |i: usize| codes[i / 2] >> (i % 2 * 4) & 15;
            (std::array::from_fn(code), *scale)
        })
    }
}

impl Rows for Mxfp4<'_> {
    fn blocks(&self, row: usize, out: &mut [u8]) {
        for (out, (codes, scale)) in out.chunks_exact_mut(1 + BYTES).zip(self.row(row)) {
            out[0] = scale;
            for (j, out) in out[1..].iter_mut().enumerate() {
                *out = codes[j] | codes[j + BYTES] << 4;
            }
        }
    }

    fn values(&self, row: usize, out: &mut [f32]) {
        for (out, (codes, scale)) in out.chunks_exact_mut(BLOCK).zip(self.row(row)) {
            let half = power(scale) * 0.5;
            for (out, code) in out.iter_mut().zip(codes) {
                *out = half * f32::from(TWICE[usize::from(code)]);
            }
        }
    }
}

impl Coded for Mxfp4<'_> {
    fn shape(&self) -> [usize; 2] {
        self.shape
    }
    fn packs_as(&self) -> GgmlType {
        GgmlType::MXFP4
    }
    fn file_bytes(&self) -> usize {
        self.codes.len() + self.scales.len()
    }
}
