//! What a step tells the outside: at most one event a request a step.

/// Why a request ended. Names are Python's `FinishReason` values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// End-of-sequence id, or a stop id.
    Stop,
    /// `max_tokens` or the longest sequence was reached.
    Length,
    /// A stop string was found.
    StopSequence,
    /// Cancelled.
    Cancelled,
    /// Failed; the message is in [`Finish::stop_reason`].
    Error,
}

impl FinishReason {
    /// `stop`, `length`, `stop_sequence`, `cancelled`, `error`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::StopSequence => "stop_sequence",
            Self::Cancelled => "cancelled",
            Self::Error => "error",
        }
    }
}

/// Log-softmax of the raw logits at one token.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprob {
    /// The token.
    pub token_id: u32,
    /// Its own log-probability.
    pub logprob: f32,
    /// The likeliest tokens, as asked for: best first, or in order of ids when they are more than 1,024.
    pub top: Vec<(u32, f32)>,
}

/// Figures of one request.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct RequestStats {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Prompt tokens taken from the prefix cache.
    pub cached_tokens: usize,
    /// Tokens generated.
    pub generated_tokens: usize,
    /// Seconds from submission to the first step with a token of this request.
    pub queue_time: f64,
    /// Seconds from there to the first generated token.
    pub prefill_time: f64,
    /// Seconds from submission to the end.
    pub total_time: f64,
}

/// The end of a request.
#[derive(Debug, Clone, PartialEq)]
pub struct Finish {
    /// Why.
    pub reason: FinishReason,
    /// The stop string or id that hit, or the error's message.
    pub stop_reason: Option<StopReason>,
    /// Figures.
    pub stats: RequestStats,
}

/// What stopped a request.
#[derive(Debug, Clone, PartialEq)]
pub enum StopReason {
    /// A stop string, or an error's message.
    Text(String),
    /// A stop id.
    Token(u32),
}

/// What happened to one request in one step.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// The request.
    pub request: u64,
    /// Tokens generated in this step (one, unless text was held back or speculation ran).
    pub tokens: Vec<u32>,
    /// Text that became certain: whole characters only, nothing that may turn out to be a stop string.
    pub text: String,
    /// One entry a token, when asked for.
    pub logprobs: Vec<TokenLogprob>,
    /// Once, with the first event, when asked for: one entry a prompt token, the first `None`.
    pub prompt_logprobs: Option<Vec<Option<TokenLogprob>>>,
    /// Set on the last event.
    pub finish: Option<Finish>,
}

impl Event {
    /// An event in which nothing happens.
    pub(crate) fn empty(request: u64) -> Self {
        Self {
            request,
            tokens: Vec::new(),
            text: String::new(),
            logprobs: Vec::new(),
            prompt_logprobs: None,
            finish: None,
        }
    }
}
