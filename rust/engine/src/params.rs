//! How one request is sampled. Every parameter belongs to its own request alone.
//! Knows nothing of the model: what depends on it (ids, lengths) is checked when the request is submitted.
use std::fmt::Display;

use crate::constraint::StructuredOutput;
use crate::error::{Refused, Result};

/// Longest lists that a request may bring.
const MAX_STOPS: usize = 1024;

/// Sampling and stopping of one request; field names and defaults are those of Python's `GenerationParams`.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerationParams {
    /// Tokens to generate at most. Default 256.
    pub max_tokens: usize,
    /// 0 = greedy. Default 1.0; range 0 to 2 and above is allowed up to 100.
    pub temperature: f32,
    /// Nucleus mass, (0, 1]. Default 1.0.
    pub top_p: f32,
    /// The k likeliest tokens only; `None` = all.
    pub top_k: Option<usize>,
    /// Tokens at least this fraction as likely as the best, [0, 1]. Default 0.
    pub min_p: f32,
    /// Over prompt and answer, > 0. Default 1.0.
    pub repetition_penalty: f32,
    /// Per occurrence in the answer, [-2, 2]. Default 0.
    pub frequency_penalty: f32,
    /// For any occurrence in the answer, [-2, 2]. Default 0.
    pub presence_penalty: f32,
    /// Added to the raw logits of these ids, [-100, 100].
    pub logit_bias: Vec<(u32, f32)>,
    /// Texts that end the answer and are not part of it.
    pub stop_sequences: Vec<String>,
    /// Ids that end the answer, beside the model's own end-of-sequence ids.
    pub stop_token_ids: Vec<u32>,
    /// Whether end-of-sequence ids are ordinary tokens.
    pub ignore_eos: bool,
    /// No end-of-sequence or stop id before this many tokens.
    pub min_tokens: usize,
    /// `None` = off, 0 = the chosen token's own, k = and the k best, -1 = the whole vocabulary.
    pub logprobs: Option<i32>,
    /// The same for the prompt's tokens.
    pub prompt_logprobs: Option<i32>,
    /// Seed of the request's random numbers; `None` = drawn by the engine.
    pub seed: Option<u64>,
    /// What the answer must conform to; `None` = free text.
    pub structured_output: Option<StructuredOutput>,
}

impl Default for GenerationParams {
    fn default() -> Self {
        Self {
            max_tokens: 256,
            temperature: 1.0,
            top_p: 1.0,
            top_k: None,
            min_p: 0.0,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            logit_bias: Vec::new(),
            stop_sequences: Vec::new(),
            stop_token_ids: Vec::new(),
            ignore_eos: false,
            min_tokens: 0,
            logprobs: None,
            prompt_logprobs: None,
            seed: None,
            structured_output: None,
        }
    }
}

impl GenerationParams {
    /// Checks every range that does not depend on the model.
    ///
    /// # Errors
    /// `Config`, naming the field, its value and the range.
    pub fn validate(&self) -> Result<()> {
        let unit = 0.0..=1.0;
        let (temperature, top_p, rp) = (self.temperature, self.top_p, self.repetition_penalty);
        within(
            "temperature",
            temperature,
            (0.0..=100.0).contains(&temperature),
            "from 0 (greedy) to 100",
        )?;
        within(
            "top_p",
            top_p,
            unit.contains(&top_p) && top_p > 0.0,
            "above 0 and at most 1",
        )?;
        within(
            "min_p",
            self.min_p,
            unit.contains(&self.min_p),
            "from 0 to 1",
        )?;
        within(
            "repetition_penalty",
            rp,
            rp > 0.0 && rp <= 100.0,
            "above 0 and at most 100 (1 = off)",
        )?;
        for (field, p) in [
            ("frequency_penalty", self.frequency_penalty),
            ("presence_penalty", self.presence_penalty),
        ] {
            within(field, p, (-2.0..=2.0).contains(&p), "from -2 to 2")?;
        }
        for &(id, bias) in &self.logit_bias {
            within(
                "logit_bias",
                format!("{bias} for token {id}"),
                (-100.0..=100.0).contains(&bias),
                "from -100 to 100",
            )?;
        }
        self.validate_counts()?;
        let Some(asked) = &self.structured_output else {
            return Ok(());
        };
        within(
            "min_tokens",
            self.min_tokens,
            self.min_tokens == 0,
            "0 with structured output: its form decides when the answer ends",
        )?;
        asked.validate()
    }

    fn validate_counts(&self) -> Result<()> {
        within(
            "top_k",
            0,
            self.top_k != Some(0),
            "at least 1, or None for all tokens",
        )?;
        within(
            "min_tokens",
            self.min_tokens,
            self.min_tokens <= self.max_tokens,
            &format!("at most {}, the most tokens of the answer", self.max_tokens),
        )?;
        for (field, value) in [
            ("logprobs", self.logprobs),
            ("prompt_logprobs", self.prompt_logprobs),
        ] {
            within(
                field,
                value.unwrap_or_default(),
                value.is_none_or(|k| k >= -1),
                "-1 (the whole vocabulary), 0 or more, or None",
            )?;
        }
        for (field, count) in [
            ("stop_sequences", self.stop_sequences.len()),
            ("stop_token_ids", self.stop_token_ids.len()),
        ] {
            within(
                field,
                count,
                count <= MAX_STOPS,
                &format!("at most {MAX_STOPS} entries"),
            )?;
        }
        within(
            "stop_sequences",
            "an empty one",
            !self.stop_sequences.iter().any(String::is_empty),
            "texts of at least one character",
        )
    }
}

fn within(field: &'static str, value: impl Display, ok: bool, range: &str) -> Result<()> {
    match ok {
        true => Ok(()),
        false => Err(Refused::new(field, value, range).into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn defaults_and_edges_are_allowed() {
        GenerationParams::default().validate().unwrap();
        let edge = GenerationParams {
            temperature: 0.0,
            min_p: 1.0,
            frequency_penalty: -2.0,
            presence_penalty: 2.0,
            logit_bias: vec![(0, -100.0)],
            logprobs: Some(-1),
            max_tokens: 0,
            ..Default::default()
        };
        edge.validate().unwrap();
    }

    #[test]
    fn every_bad_value_is_refused_by_name() {
        let some = GenerationParams::default;
        let bad = [
            (
                "temperature",
                GenerationParams {
                    temperature: -0.1,
                    ..some()
                },
            ),
            (
                "temperature",
                GenerationParams {
                    temperature: f32::NAN,
                    ..some()
                },
            ),
            (
                "temperature",
                GenerationParams {
                    temperature: f32::INFINITY,
                    ..some()
                },
            ),
            (
                "top_p",
                GenerationParams {
                    top_p: 0.0,
                    ..some()
                },
            ),
            (
                "top_p",
                GenerationParams {
                    top_p: 1.01,
                    ..some()
                },
            ),
            (
                "top_k",
                GenerationParams {
                    top_k: Some(0),
                    ..some()
                },
            ),
            (
                "min_p",
                GenerationParams {
                    min_p: -0.1,
                    ..some()
                },
            ),
            (
                "repetition_penalty",
                GenerationParams {
                    repetition_penalty: 0.0,
                    ..some()
                },
            ),
            (
                "frequency_penalty",
                GenerationParams {
                    frequency_penalty: 2.1,
                    ..some()
                },
            ),
            (
                "presence_penalty",
                GenerationParams {
                    presence_penalty: f32::NAN,
                    ..some()
                },
            ),
            (
                "logit_bias",
                GenerationParams {
                    logit_bias: vec![(7, 100.5)],
                    ..some()
                },
            ),
            (
                "stop_sequences",
                GenerationParams {
                    stop_sequences: vec![String::new()],
                    ..some()
                },
            ),
            (
                "min_tokens",
                GenerationParams {
                    min_tokens: 257,
                    ..some()
                },
            ),
            (
                "logprobs",
                GenerationParams {
                    logprobs: Some(-2),
                    ..some()
                },
            ),
            (
                "prompt_logprobs",
                GenerationParams {
                    prompt_logprobs: Some(-2),
                    ..some()
                },
            ),
        ];
        for (field, params) in bad {
            let error = params.validate().unwrap_err().to_string();
            assert!(error.starts_with(field), "{field}: {error}");
        }
    }
}
