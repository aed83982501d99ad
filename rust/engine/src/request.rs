//! A request as the caller hands it in, and the checks that need the model: vocabulary, lengths, memory.
//! Runs on the caller's thread; knows nothing of scheduling.
use crate::error::{Error, Refused, Result};
use crate::params::GenerationParams;
use crate::stats::ModelInfo;
use crate::text::Tokenizer;

/// Log-probabilities that one request may ask for over its whole prompt, and over its whole answer: 64 Mi entries of 8
/// bytes are half a GiB.
const MAX_LOGPROBS: usize = 64 << 20;

/// What to continue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// Text, encoded with the tokenizer's own special tokens.
    Text(String),
    /// Token ids, taken as they are.
    Tokens(Vec<u32>),
}

/// One request.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// What to continue.
    pub prompt: Prompt,
    /// How to sample and when to stop.
    pub params: GenerationParams,
    /// Requests share cached prefixes only with requests of the same salt. `None` is a salt of its own.
    pub cache_salt: Option<String>,
    /// Smaller runs first and is preempted last; equal priorities run in order of arrival. Default 0.
    pub priority: i32,
    /// Whether special tokens are left out of the text. Default true.
    pub skip_special_tokens: bool,
}

impl Request {
    /// A request with default priority, no salt and special tokens left out.
    pub fn new(prompt: Prompt, params: GenerationParams) -> Self {
        Self {
            prompt,
            params,
            cache_salt: None,
            priority: 0,
            skip_special_tokens: true,
        }
    }
}

/// The prompt's token ids.
pub(crate) fn encode(prompt: Prompt, tokenizer: Option<&Tokenizer>) -> Result<Vec<u32>> {
    match (prompt, tokenizer) {
        (Prompt::Tokens(ids), _) => Ok(ids),
        (Prompt::Text(text), Some(tokenizer)) => tokenizer.encode(&text, true),
        (Prompt::Text(_), None) => Err(Error::Tokenization(
            "this model has no tokenizer: give the prompt as token ids".into(),
        )),
    }
}

/// Refuses what this model could never run.
pub(crate) fn check(prompt: &[u32], params: &GenerationParams, info: &ModelInfo) -> Result<()> {
    params.validate()?;
    if prompt.is_empty() {
        return Err(Refused::new("prompt", "none", "at least one token").into());
    }
    let vocab = info.spec.vocab_size;
    let in_vocabulary = |field, id: u32| match (id as usize) < vocab {
        true => Ok(()),
        false => Err(Refused::new(
            field,
            id,
            format!("made of this model's token ids, 0 to {}", vocab - 1),
        )),
    };
    prompt
        .iter()
        .try_for_each(|&id| in_vocabulary("prompt", id))?;
    params
        .logit_bias
        .iter()
        .try_for_each(|&(id, _)| in_vocabulary("logit_bias", id))?;
    params
        .stop_token_ids
        .iter()
        .try_for_each(|&id| in_vocabulary("stop_token_ids", id))?;
    // Nothing is generated after a prompt that is only scored, so it may fill the whole length.
    let needed = prompt.len() + usize::from(params.max_tokens > 0);
    if needed > info.max_sequence_length {
        let longest = info.max_sequence_length;
        let expected = match params.max_tokens {
            0 => format!("at most {longest} tokens, the longest sequence (max_sequence_length)"),
            _ => format!(
                "at most {} tokens, which leaves one for the answer in the longest sequence \
                 (max_sequence_length {longest})",
                longest - 1
            ),
        };
        return Err(Refused::new("prompt", format!("{} tokens", prompt.len()), expected).into());
    }
    if prompt.len() > info.max_prompt_tokens {
        let most = info.max_prompt_tokens;
        return Err(Refused::new(
            "prompt",
            format!("{} tokens", prompt.len()),
            format!(
                "at most {most} tokens: enable_chunked_prefill is off, and the memory has room to compute so many at once"
            ),
        )
        .into());
    }
    let answer = params
        .max_tokens
        .min(info.max_sequence_length - prompt.len());
    for (field, asked, tokens) in [
        ("prompt_logprobs", params.prompt_logprobs, prompt.len()),
        ("logprobs", params.logprobs, answer),
    ] {
        let wanted = match asked {
            None => 0,
            Some(-1) => vocab,
            Some(k) => (k.max(0) as usize).min(vocab) + 1,
        };
        if wanted.saturating_mul(tokens) > MAX_LOGPROBS {
            return Err(Refused::new(
                field,
                format!("{wanted} for each of {tokens} tokens"),
                format!("at most {MAX_LOGPROBS} log-probabilities in all"),
            )
            .into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn refusal(prompt: &[u32], params: GenerationParams) -> Refused {
        let mut info = ModelInfo::default();
        info.spec.vocab_size = 100;
        info.max_sequence_length = 8;
        match check(prompt, &params, &info) {
            Err(Error::Config(refused)) => refused,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_cannot_run_is_refused_by_name() {
        let some = GenerationParams::default;
        let empty = refusal(&[], some());
        assert_eq!(
            (empty.field, &*empty.expected),
            ("prompt", "at least one token")
        );
        let outside = refusal(&[1, 100], some());
        assert_eq!((outside.field, &*outside.value), ("prompt", "100"));
        let long = refusal(&[1; 8], some());
        assert_eq!((long.field, &*long.value), ("prompt", "8 tokens"));
        assert!(long.expected.starts_with("at most 7 tokens"), "{long}");
        let bias = GenerationParams {
            logit_bias: vec![(100, 1.0)],
            ..some()
        };
        assert_eq!(refusal(&[1], bias).field, "logit_bias");
        let stop = GenerationParams {
            stop_token_ids: vec![500],
            ..some()
        };
        assert_eq!(refusal(&[1], stop).field, "stop_token_ids");
    }

    #[test]
    fn a_prompt_beyond_the_memory_for_activations_is_refused_with_the_number() {
        let mut info = ModelInfo::default();
        info.spec.vocab_size = 100;
        (info.max_sequence_length, info.max_prompt_tokens) = (100, 20);
        check(&[1; 20], &GenerationParams::default(), &info).unwrap();
        let error = check(&[1; 21], &GenerationParams::default(), &info).unwrap_err();
        assert!(error.to_string().contains("at most 20 tokens"), "{error}");
    }

    #[test]
    fn a_scored_prompt_may_fill_the_length() {
        let mut info = ModelInfo::default();
        info.spec.vocab_size = 100;
        info.max_sequence_length = 8;
        let params = GenerationParams {
            max_tokens: 0,
            prompt_logprobs: Some(0),
            ..Default::default()
        };
        check(&[1; 8], &params, &info).unwrap();
    }

    #[test]
    fn unbounded_logprobs_are_refused() {
        let mut info = ModelInfo::default();
        info.spec.vocab_size = 1 << 17;
        info.max_sequence_length = 1 << 13;
        let params = GenerationParams {
            prompt_logprobs: Some(-1),
            ..Default::default()
        };
        let error = check(&vec![1; 1 << 12], &params, &info).unwrap_err();
        assert!(error.to_string().starts_with("prompt_logprobs"), "{error}");
        let mut params = GenerationParams {
            logprobs: Some(-1),
            max_tokens: 512,
            ..Default::default()
        };
        check(&[1], &params, &info).unwrap();
        params.max_tokens = 513;
        let error = check(&[1], &params, &info).unwrap_err();
        assert!(error.to_string().starts_with("logprobs"), "{error}");
        // What the length does not leave room for is not asked for.
        check(&vec![1; (1 << 13) - 100], &params, &info).unwrap();
    }
}
