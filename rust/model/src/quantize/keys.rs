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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{
        config::hf,
        weights::gguf::{Value, write::metadata},
    };
    use serde_json::json;

    /// A small model of `model_type` with `changes`.
    fn config(model_type: &str, changes: serde_json::Value) -> Config {
        let family = family::of_type(model_type).unwrap();
        let mut all = json!({
            "architectures": [family.architecture], "model_type": model_type, "hidden_size": 64,
            "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "head_dim": 16, "vocab_size": 8, "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "rope_theta": 5e5,
            "tie_word_embeddings": false, "bos_token_id": 1, "eos_token_id": 2
        });
        for (key, value) in changes.as_object().unwrap() {
            all[key] = value.clone();
        }
        hf::parse("config.json", all, None).unwrap()
    }

    fn of(arch: &str, config: &Config) -> Result<(Metadata, Option<Vec<f32>>)> {
        let texts: Vec<String> = (0..8).map(|i| format!("t{i}")).collect();
        let tokens = [Pair::new("tokenizer.ggml.tokens", Said::Texts(&texts))];
        let keys = keys(config, arch, "small", &tokens)?;
        Ok((metadata(&keys.pairs)?, keys.factors))
    }

    fn number(metadata: &Metadata, key: &str) -> Option<f64> {
        match metadata.get(key) {
            Some(Value::Float(v)) => Some(*v),
            _ => None,
        }
    }

    fn refused_with(arch: &str, config: &Config, what: &str) {
        let error = of(arch, config).unwrap_err().to_string();
        assert!(error.contains(what), "{error:?} lacks {what:?}");
    }

    #[test]
    fn counts_and_numbers_stand_under_the_familys_name() {
        let (said, factors) = of("qwen3", &config("qwen3", json!({}))).unwrap();
        assert_eq!(said.text("general.architecture"), Some("qwen3"));
        assert_eq!(said.text("general.name"), Some("small"));
        for (key, count) in [
            ("block_count", 2),
            ("context_length", 128),
            ("embedding_length", 64),
            ("feed_forward_length", 96),
            ("attention.head_count", 4),
            ("attention.head_count_kv", 2),
            ("attention.key_length", 16),
            ("attention.value_length", 16),
            ("rope.dimension_count", 16),
            ("vocab_size", 8),
        ] {
            assert_eq!(said.uint(&format!("qwen3.{key}")), Some(count), "{key}");
        }
        let eps = number(&said, "qwen3.attention.layer_norm_rms_epsilon");
        assert_eq!(eps, Some(f64::from(1e-5f32)));
        assert_eq!(number(&said, "qwen3.rope.freq_base"), Some(5e5));
        assert!(factors.is_none());
        let keys = said.0.keys();
        let none = [
            "sliding",
            "expert",
            "scaling",
            "softcap",
            "layer_norm_epsilon",
        ];
        assert!(
            keys.into_iter()
                .all(|k| none.iter().all(|n| !k.contains(n)))
        );
    }

    #[test]
    fn experts_and_windows_are_said_where_they_are() {
        let experts = json!({"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24,
            "norm_topk_prob": true});
        let (said, _) = of("qwen3moe", &config("qwen3_moe", experts)).unwrap();
        let count = |key: &str| said.uint(&format!("qwen3moe.{key}"));
        assert_eq!(count("expert_count"), Some(6));
        assert_eq!(count("expert_used_count"), Some(2));
        assert_eq!(count("expert_feed_forward_length"), Some(24));
        assert_eq!(count("expert_shared_feed_forward_length"), None);
        assert_eq!(said.bool("qwen3moe.expert_weights_norm"), Some(true));
        let gemma = json!({"sliding_window": 32, "query_pre_attn_scalar": 16, "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0});
        let (said, _) = of("gemma2", &config("gemma2", gemma)).unwrap();
        assert_eq!(said.uint("gemma2.attention.sliding_window"), Some(32));
        assert_eq!(number(&said, "gemma2.attn_logit_softcapping"), Some(50.0));
        assert_eq!(number(&said, "gemma2.final_logit_softcapping"), Some(30.0));
        let granite = json!({"embedding_multiplier": 12.0, "residual_multiplier": 0.25, "attention_multiplier": 0.125,
            "logits_scaling": 8.0});
        let (said, _) = of("granite", &config("granite", granite)).unwrap();
        for (key, value) in [
            ("embedding_scale", 12.0),
            ("residual_scale", 0.25),
            ("attention.scale", 0.125),
            ("logit_scale", 8.0),
        ] {
            assert_eq!(
                number(&said, &format!("granite.{key}")),
                Some(value),
                "{key}"
            );
        }
    }

    #[test]
    fn rotary_scalings_are_said_or_become_factors() {
        let scaled = |scaling: serde_json::Value| {
            of("llama", &config("llama", json!({"rope_scaling": scaling})))
        };
        let (said, factors) = scaled(json!({"rope_type": "linear", "factor": 4.0})).unwrap();
        assert_eq!(said.text("llama.rope.scaling.type"), Some("linear"));
        assert_eq!(number(&said, "llama.rope.scaling.factor"), Some(4.0));
        assert!(factors.is_none());
        let yarn =
            json!({"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 64});
        let (said, _) = scaled(yarn).unwrap();
        assert_eq!(said.text("llama.rope.scaling.type"), Some("yarn"));
        let original = said.uint("llama.rope.scaling.original_context_length");
        assert_eq!(original, Some(64));
        let llama3 = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64});
        let (said, factors) = scaled(llama3).unwrap();
        assert_eq!(said.text("llama.rope.scaling.type"), None);
        let factors = factors.unwrap();
        assert_eq!(factors.len(), 8);
        // 2 pi is a tenth of 64: whole; 2 pi * 5e5^(2/16) = 32.4 lies between 16 and 64: mixed; the next is beyond.
        assert_eq!(factors[0], 1.0);
        let smooth = (64.0 / (2.0 * PI * 5e5f64.powf(0.125)) - 1.0) / 3.0;
        let mixed = 1.0 / ((1.0 - smooth) / 8.0 + smooth);
        assert!((f64::from(factors[1]) - mixed).abs() < 1e-6, "{factors:?}");
        assert!(factors[2..].iter().all(|f| *f == 8.0), "{factors:?}");
    }

    #[test]
    fn what_gguf_cannot_say_is_refused() {
        let scaled = |scaling: serde_json::Value| config("llama", json!({"rope_scaling": scaling}));
        let dynamic = scaled(json!({"rope_type": "dynamic", "factor": 2.0}));
        refused_with("llama", &dynamic, "its rotary scaling Dynamic");
        // llama.cpp takes the temperature from the factor.
        let warm = scaled(
            json!({"rope_type": "yarn", "factor": 2.0, "attention_factor": 1.5,
            "original_max_position_embeddings": 64}),
        );
        refused_with("llama", &warm, "attention_factor: Some");
        // Its windows lie in other layers than llama.cpp would have them.
        let mut moved = config(
            "gemma2",
            json!({"sliding_window": 32, "query_pre_attn_scalar": 16}),
        );
        moved.windows.reverse();
        refused_with("gemma2", &moved, "which would be read as");
        let mut long = config("llama", json!({}));
        long.intermediate_size = 1 << 32;
        refused_with("llama", &long, "feed_forward_length is 4294967296");
        // Under another family's name.
        refused_with(
            "gemma",
            &config("llama", json!({})),
            "which would be read as",
        );
    }
}
