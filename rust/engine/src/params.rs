//! How one request is sampled. Every parameter belongs to its own request alone.

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
        }
    }
}
