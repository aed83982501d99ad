//! How the checkpoint's maker recommends to sample: generation_config.json, or GGUF's `general.sampling.*`.
//! Knows ranges, nothing of samplers. Advice that cannot be followed is left out with a warning: the model runs without.
use super::fields::Fields;

/// What is recommended; `None` where nothing is said.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Sampling {
    /// From 0 (greedy) to 100.
    pub temperature: Option<f64>,
    /// Above 0 and at most 1.
    pub top_p: Option<f64>,
    /// At least 1.
    pub top_k: Option<u32>,
    /// From 0 to 1.
    pub min_p: Option<f64>,
    /// Above 0 and at most 100.
    pub repetition_penalty: Option<f64>,
}

/// The keys of the two kinds of files, in the order of `Sampling`'s fields.
pub(super) const HF: [&str; 5] = [
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
];
/// As llama.cpp's `llama-arch.cpp` has them.
pub(super) const GGUF: [&str; 5] = [
    "general.sampling.temp",
    "general.sampling.top_p",
    "general.sampling.top_k",
    "general.sampling.min_p",
    "general.sampling.penalty_repeat",
];

/// The advice under `keys`.
pub(super) fn read(fields: &Fields<'_>, keys: [&str; 5]) -> Sampling {
    let [temperature, top_p, top_k, min_p, repetition_penalty] = keys;
    let value = |key: &str, fits: fn(f64) -> bool| {
        let found = fields.number(key).ok().flatten().filter(|&n| fits(n));
        if found.is_none() && fields.get(key).is_some() {
            let error = fields.bad(key, "this recommendation cannot be followed");
            tracing::warn!("{error}");
        }
        found.and_then(shortest)
    };
    Sampling {
        temperature: value(temperature, |n| (0.0..=100.0).contains(&n)),
        top_p: value(top_p, |n| n > 0.0 && n <= 1.0),
        // 0 and -1 are how either kind of file says "all".
        top_k: value(top_k, |n| {
            n.fract() == 0.0 && (-1.0..=f64::from(i32::MAX)).contains(&n)
        })
        .filter(|&n| n >= 1.0)
        .map(|n| n as u32),
        min_p: value(min_p, |n| (0.0..=1.0).contains(&n)),
        repetition_penalty: value(repetition_penalty, |n| n > 0.0 && n <= 100.0),
    }
}

/// The number as people write it: GGUF's 0.9 is an f32, which as an f64 is 0.899999976. Samplers take an f32 anyway.
fn shortest(n: f64) -> Option<f64> {
    (n as f32).to_string().parse().ok()
}
