//! The types that keys and values may be kept in.
use super::codes;

/// Element type of keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvType {
    /// 4 bytes, exact: attention computes in f32.
    F32,
    /// 2 bytes, rounded to f16; attention computes in f32.
    F16,
    /// 2 bytes: attention multiplies bf16 and adds f32.
    Bf16,
    /// 1 byte: integers up to 127 times one scale for a token's key in a head, and one for its value.
    Int8,
    /// 1 byte: e4m3 (up to 448) times such scales, so that no value is too large or too small for its range.
    Fp8,
}

impl KvType {
    /// All of them, the exact one first.
    pub const ALL: [KvType; 5] = [
        KvType::F32,
        KvType::F16,
        KvType::Bf16,
        KvType::Int8,
        KvType::Fp8,
    ];

    /// As users write it.
    pub fn name(self) -> &'static str {
        match self {
            KvType::F32 => "f32",
            KvType::F16 => "f16",
            KvType::Bf16 => "bf16",
            KvType::Int8 => "int8",
            KvType::Fp8 => "fp8",
        }
    }

    /// Bytes an element, without its share of a scale.
    pub fn bytes(self) -> usize {
        match self {
            KvType::F32 => 4,
            KvType::F16 | KvType::Bf16 => 2,
            KvType::Int8 | KvType::Fp8 => 1,
        }
    }

    /// Whether each key and each value has a scale.
    pub(crate) fn is_scaled(self) -> bool {
        self.largest_code().is_some()
    }

    /// The largest code of a scaled type.
    pub(crate) fn largest_code(self) -> Option<f32> {
        match self {
            KvType::Int8 => Some(127.0),
            KvType::Fp8 => Some(codes::FP8_MAX),
            KvType::F32 | KvType::F16 | KvType::Bf16 => None,
        }
    }

    /// Bytes an element of the queries that meet such keys: bf16, or f32 where attention computes in it.
    pub(crate) fn query_bytes(self) -> usize {
        match self {
            KvType::F32 | KvType::F16 => 4,
            KvType::Bf16 | KvType::Int8 | KvType::Fp8 => 2,
        }
    }

    /// Turns one head's key or value of a token into what a cache keeps of it.
    pub fn round(self, row: &mut [f32]) {
        let scale = self.largest_code().map(|most| codes::scale_of(row, most));
        let by = scale.map_or(0.0, codes::inverse);
        let (int8, fp8) = (codes::int8_value, codes::fp8_value);
        for v in row {
            *v = match self {
                KvType::F32 => *v,
                KvType::F16 => half::f16::from_f32(*v).to_f32(),
                KvType::Bf16 => half::bf16::from_f32(*v).to_f32(),
                KvType::Int8 => int8(codes::int8(*v * by)) * scale.unwrap_or(0.0),
                KvType::Fp8 => fp8(codes::fp8(*v * by)) * scale.unwrap_or(0.0),
            };
        }
    }
}
