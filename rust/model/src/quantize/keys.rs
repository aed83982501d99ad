//! A configuration as GGUF metadata, and the proof that reading it gives the configuration again.
use std::f64::consts::PI;

use crate::{
    Error, Result,
    config::{Config, RopeScaling, Sampling, gguf::Facts},
    family::{self, ScaleRule},
    weights::gguf::{
        Metadata,
        write::{Pair, Said, metadata},
    },
};

/// `{arch}.*` of a model, and the factors that llama.cpp keeps in a tensor of its own.
pub(super) struct Keys {
    pub pairs: Vec<Pair>,
    /// `rope_freqs.weight`.
    pub factors: Option<Vec<f32>>,
}

fn refused(what: impl std::fmt::Display) -> Error {
    Error::Load(format!("cannot be written as GGUF: {what}"))
}

/// The metadata of `config`, whose family llama.cpp calls `arch`; `tokens` are those of the tokenizer, which must be there
/// already.
///
/// # Errors
/// `Load` where GGUF has no way to say what the configuration says.
pub(super) fn keys(config: &Config, arch: &str, name: &str, tokens: &[Pair]) -> Result<Keys> {
    let mut pairs = vec![
        Pair::new("general.architecture", Said::Text(arch)),
        Pair::new("general.type", Said::Text("model")),
        Pair::new("general.name", Said::Text(name)),
    ];
    let key = |k: &str| format!("{arch}.{k}");
    let mut count = |k: &str, n: usize| -> Result<()> {
        let n = u32::try_from(n).map_err(|_| refused(format_args!("{k} is {n}")))?;
        pairs.push(Pair::new(key(k), Said::U32(n)));
        Ok(())
    };
    count("block_count", config.layers)?;
    count("context_length", context(config))?;
    count("embedding_length", config.hidden_size)?;
    count("feed_forward_length", config.intermediate_size)?;
    count("attention.head_count", config.heads)?;
    count("attention.head_count_kv", config.kv_heads)?;
    count("attention.key_length", config.head_dim)?;
    count("attention.value_length", config.value_dim)?;
    count("rope.dimension_count", config.rotary_dim)?;
    count("vocab_size", config.vocab_size)?;
    if let Some(window) = config.windows.iter().flatten().next() {
        count("attention.sliding_window", *window)?;
    }
    if let Some(moe) = &config.moe {
        count("expert_count", moe.experts)?;
        count("expert_used_count", moe.used)?;
        count("expert_feed_forward_length", moe.width)?;
        if let Some(shared) = moe.shared {
            count("expert_shared_feed_forward_length", shared)?;
        }
        pairs.push(Pair::new(
            key("expert_weights_norm"),
            Said::Bool(moe.normalise),
        ));
    }
    let mut number = |k: &str, v: f64| pairs.push(Pair::new(key(k), Said::F32(v as f32)));
    let centred = family::find(&config.architecture).is_some_and(|f| f.norm.centred());
    number(
        match centred {
            true => "attention.layer_norm_epsilon",
            false => "attention.layer_norm_rms_epsilon",
        },
        config.norm_eps,
    );
    number("rope.freq_base", config.rope_theta);
    scales(config, &mut number);
    let factors = rope(config, &mut pairs, &key)?;
    let keys = Keys { pairs, factors };
    proven(config, &keys, tokens)?;
    Ok(keys)
}

/// The positions that the checkpoint itself names, before any stretching.
fn context(config: &Config) -> usize {
    let inner = config.raw.get("text_config").unwrap_or(&config.raw);
    let said = inner
        .get("max_position_embeddings")
        .and_then(serde_json::Value::as_u64);
    said.and_then(|n| usize::try_from(n).ok())
        .unwrap_or(config.max_position)
}

fn scales(config: &Config, number: &mut impl FnMut(&str, f64)) {
    let (scales, family) = (&config.scales, family::find(&config.architecture));
    match family.map(|f| f.scales) {
        Some(ScaleRule::Gemma { .. }) => {
            scales
                .attention_cap
                .into_iter()
                .for_each(|v| number("attn_logit_softcapping", v));
            scales
                .logit_cap
                .into_iter()
                .for_each(|v| number("final_logit_softcapping", v));
        }
        Some(ScaleRule::Granite) => {
            number("embedding_scale", scales.embedding);
            number("residual_scale", scales.residual);
            scales
                .attention
                .into_iter()
                .for_each(|v| number("attention.scale", v));
            number("logit_scale", 1.0 / scales.logits);
        }
        _ => {}
    }
}

/// The keys of the rotary scaling; Llama 3's becomes a tensor.
fn rope(
    config: &Config,
    pairs: &mut Vec<Pair>,
    key: &impl Fn(&str) -> String,
) -> Result<Option<Vec<f32>>> {
    let mut text = |k: &str, v: &str| pairs.push(Pair::new(key(k), Said::Text(v)));
    match &config.rope_scaling {
        RopeScaling::None => Ok(None),
        RopeScaling::Linear { factor } => {
            text("rope.scaling.type", "linear");
            pairs.push(Pair::new(
                key("rope.scaling.factor"),
                Said::F32(*factor as f32),
            ));
            Ok(None)
        }
        RopeScaling::Yarn {
            factor, original, ..
        } => {
            text("rope.scaling.type", "yarn");
            pairs.push(Pair::new(
                key("rope.scaling.factor"),
                Said::F32(*factor as f32),
            ));
            let original = u32::try_from(*original).map_err(refused)?;
            pairs.push(Pair::new(
                key("rope.scaling.original_context_length"),
                Said::U32(original),
            ));
            Ok(None)
        }
        RopeScaling::Llama3 { .. } => Ok(Some(llama3(config))),
        RopeScaling::Factors(factors) => Ok(Some(factors.clone())),
        other => Err(refused(format_args!("its rotary scaling {other:?}"))),
    }
}

/// What each inverse frequency is divided by (transformers `_compute_llama3_parameters`).
fn llama3(config: &Config) -> Vec<f32> {
    let RopeScaling::Llama3 {
        factor,
        low_freq_factor: low,
        high_freq_factor: high,
        original,
    } = config.rope_scaling
    else {
        return Vec::new();
    };
    let of = |i: usize| {
        let length = 2.0
            * PI
            * config
                .rope_theta
                .powf(2.0 * i as f64 / config.rotary_dim as f64);
        let original = original as f64;
        let smooth = ((original / length - low) / (high - low)).clamp(0.0, 1.0);
        (1.0 / ((1.0 - smooth) / factor + smooth)) as f32
    };
    (0..config.rotary_dim / 2).map(of).collect()
}

/// Refuses a configuration that would be read otherwise than it is.
fn proven(config: &Config, keys: &Keys, tokens: &[Pair]) -> Result<()> {
    let all: Vec<Pair> = keys.pairs.iter().chain(tokens).cloned().collect();
    let metadata: Metadata = metadata(&all)?;
    let facts = Facts {
        embedding_rows: Some(config.vocab_size),
        has_output: !config.tie_word_embeddings,
        rope_factors: keys.factors.clone(),
        longrope: None,
        indexes: Vec::new(),
        input_rows: None,
        valued: (0..config.layers).collect(),
    };
    let read = crate::config::gguf::read("the new file", &metadata, &facts)?;
    let (was, is) = (plain(config.clone()), plain(read));
    if was == is {
        return Ok(());
    }
    let (was, is) = (format!("{was:#?}"), format!("{is:#?}"));
    let first = was.lines().zip(is.lines()).find(|(a, b)| a != b);
    let (a, b) = first.unwrap_or_default();
    let (a, b) = (a.trim(), b.trim());
    Err(refused(format_args!(
        "its configuration has {a}, which would be read as {b}"
    )))
}

/// What counts of a configuration: numbers as GGUF keeps them, and nothing that does not compute.
fn plain(config: Config) -> Config {
    let narrow = |v: f64| f64::from(v as f32);
    let scales = config.scales;
    let root = (config.head_dim as f64).sqrt();
    Config {
        architecture: String::new(),
        dtype: None,
        eos_token_ids: Vec::new(),
        bos_token_id: None,
        sampling: Sampling::default(),
        raw: serde_json::Value::Null,
        norm_eps: narrow(config.norm_eps),
        rope_theta: narrow(config.rope_theta),
        parallel_residual: None,
        rope_scaling: match config.rope_scaling {
            RopeScaling::Llama3 { .. } => RopeScaling::Factors(llama3(&config)),
            RopeScaling::Linear { factor } => RopeScaling::Linear {
                factor: narrow(factor),
            },
            other => other,
        },
        scales: crate::config::Scales {
            attention: Some(narrow(scales.attention.unwrap_or(1.0 / root))),
            embedding: narrow(scales.embedding),
            residual: narrow(scales.residual),
            logits: narrow(scales.logits),
            attention_cap: scales.attention_cap.map(narrow),
            logit_cap: scales.logit_cap.map(narrow),
            ..scales
        },
        ..config
    }
}
