//! What an engine tells of itself: the model it runs, what it is doing, what it has done.
//! Plain records; knows nothing of how the figures come about.
use candle_vllm_model::{Spec, config::Sampling};

/// The model of an engine and the limits it runs under.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelInfo {
    /// Architecture, sizes, dtypes, device and threads.
    pub spec: Spec,
    /// Longest sequence (prompt and answer), in tokens.
    pub max_sequence_length: usize,
    /// Sequences that run at once.
    pub max_batch_size: usize,
    /// Tokens of one step at most.
    pub step_tokens: usize,
    /// Longest prompt in tokens: where prompts are computed whole, what the memory for activations has room for.
    pub max_prompt_tokens: usize,
    /// Blocks of the KV cache.
    pub kv_blocks: usize,
    /// Slots for recurrent states; 0 where the model keeps none.
    pub kv_states: usize,
    /// Bytes of the KV cache, states included.
    pub kv_bytes: u64,
    /// Ids that end an answer.
    pub eos_token_ids: Vec<u32>,
    /// Beginning-of-sequence id, if the tokenizer names one.
    pub bos_token_id: Option<u32>,
    /// The model's own chat template (Jinja), if it has one.
    pub chat_template: Option<String>,
    /// How the checkpoint's maker recommends to sample.
    pub sampling: Sampling,
}

impl Default for ModelInfo {
    fn default() -> Self {
        let spec = Spec {
            architecture: String::new(),
            layers: 0,
            hidden_size: 0,
            vocab_size: 0,
            max_position: 0,
            kv_block_bytes: 0,
            state_bytes: 0,
            block_size: 0,
            row_bytes: 0,
            dtype: String::new(),
            kv_dtype: String::new(),
            parameters: 0,
            weight_bytes: 0,
            device: String::new(),
            threads: 0,
        };
        Self {
            spec,
            max_sequence_length: 0,
            max_batch_size: 0,
            step_tokens: 0,
            max_prompt_tokens: usize::MAX,
            kv_blocks: 0,
            kv_states: 0,
            kv_bytes: 0,
            eos_token_ids: Vec::new(),
            bos_token_id: None,
            chat_template: None,
            sampling: Sampling::default(),
        }
    }
}

/// Counters since the engine started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Steps computed.
    pub steps: u64,
    /// Prompt tokens of requests that were admitted, cached ones included.
    pub prompt_tokens: u64,
    /// Of these, tokens taken from the prefix cache.
    pub prefix_hit_tokens: u64,
    /// Tokens generated.
    pub generated_tokens: u64,
    /// Tokens drafted by speculation.
    pub drafted_tokens: u64,
    /// Of these, tokens that came true.
    pub kept_tokens: u64,
    /// Requests that ended, for whatever reason.
    pub finished: u64,
    /// Sequences that lost their blocks to others and were computed again.
    pub preemptions: u64,
    /// Requests that were cancelled.
    pub aborts: u64,
    /// Requests that ended with an error.
    pub errors: u64,
}

/// A snapshot of an engine, taken after its latest step or command.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Requests that hold KV blocks and take part in steps.
    pub running: usize,
    /// Requests that wait to be admitted, or admitted again.
    pub waiting: usize,
    /// Blocks of the KV cache.
    pub kv_blocks_total: usize,
    /// Blocks that no request uses (their cached content counts as free: it is evicted when needed).
    pub kv_blocks_free: usize,
    /// Blocks with content that later prompts may reuse, in use or not.
    pub kv_blocks_cached: usize,
    /// Counters.
    pub counters: Counters,
    /// False once the engine has failed; then every submission is an error.
    pub healthy: bool,
    /// Why it is not healthy.
    pub failure: Option<String>,
    /// Whether the engine was closed.
    pub closed: bool,
}

/// Where the time of one step went, in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct StepCost {
    /// Deciding which tokens run, and laying them out for the model.
    pub schedule: f32,
    /// The model.
    pub model: f32,
    /// From logits to tokens, all sequences.
    pub sample: f32,
    /// Booking the tokens: text, stop strings, events, prefix cache.
    pub book: f32,
    /// Handing the events out and showing the new figures.
    pub publish: f32,
}

impl StepCost {
    /// All but the model.
    pub fn overhead(&self) -> f32 {
        self.schedule + self.sample + self.book + self.publish
    }
}

/// What of a prompt the prefix cache holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CachedPrefix {
    /// Tokens from its start that need not be computed: whole blocks.
    pub tokens: usize,
    /// Index of the first token that differs from the cached text that has most in common with the prompt; `None` where
    /// no cached text goes on otherwise.
    pub diverges_at: Option<usize>,
}

/// What one call of `step` did.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct StepReport {
    /// Tokens computed: prompt pieces and decodes.
    pub tokens: usize,
    /// Sequences that took part.
    pub sequences: usize,
    /// Requests that ended.
    pub finished: usize,
    /// Requests that run after the step.
    pub running: usize,
    /// Requests that wait after the step.
    pub waiting: usize,
    /// Where the time went.
    pub cost: StepCost,
}

impl StepReport {
    /// Whether another step has something to do.
    pub fn has_work(&self) -> bool {
        self.running + self.waiting > 0
    }
}
