//! Factors and caps that some families have beside the matrices, as config.json and GGUF name them.
use super::{bounds, fields::Fields};
use crate::{Error, Result, family::ScaleRule};

/// What attention, residual stream, embedding and logits are multiplied or capped by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scales {
    /// Factor on the scores before softmax; `None` = one over the root of a head's width.
    pub attention: Option<f64>,
    /// Scores become `cap * tanh(score / cap)`.
    pub attention_cap: Option<f64>,
    /// Queries, keys and values are held within this of 0, before they rotate.
    pub clip: Option<f64>,
    /// Logits become `cap * tanh(logit / cap)`.
    pub logit_cap: Option<f64>,
    /// Factor on the embedding.
    pub embedding: f64,
    /// Factor on what a part adds to the residual stream.
    pub residual: f64,
    /// Factor on attention's values.
    pub values: f64,
    /// Factor on the logits.
    pub logits: f64,
    /// A query at position p is multiplied by `1 + beta ln(1 + floor(p / original))`: beta and original.
    pub temperature: Option<(f64, usize)>,
}

impl Default for Scales {
    fn default() -> Self {
        Self {
            attention: None,
            attention_cap: None,
            clip: None,
            logit_cap: None,
            embedding: 1.0,
            residual: 1.0,
            values: 1.0,
            logits: 1.0,
            temperature: None,
        }
    }
}

/// The keys of the two kinds of files.
struct Keys {
    embedding: String,
    residual: String,
    attention: String,
    logits: String,
    values: String,
    attention_cap: String,
    clip: String,
    logit_cap: String,
    /// One over the square of the attention factor; empty where there is none.
    query: &'static str,
    temperature: String,
}

/// Reads config.json; `rope` are the settings of the rotary embedding, where they stand apart.
pub(super) fn from_hf(
    fields: &Fields<'_>,
    rope: &Fields<'_>,
    rule: ScaleRule,
    hidden: usize,
) -> Result<Scales> {
    let own = |name: &str| name.to_string();
    let keys = Keys {
        embedding: own("embedding_multiplier"),
        residual: own("residual_multiplier"),
        attention: own("attention_multiplier"),
        logits: own(match rule {
            ScaleRule::Granite => "logits_scaling",
            _ => "logit_scale",
        }),
        values: own("attention_value_scale"),
        attention_cap: own("attn_logit_softcapping"),
        clip: own("clip_qkv"),
        logit_cap: own("final_logit_softcapping"),
        query: "query_pre_attn_scalar",
        temperature: own("llama_4_scaling_beta"),
    };
    let original = super::rope::original_positions(rope)?;
    read(fields, rope, &keys, rule, (hidden, original))
}

/// Reads `{prefix}.*` of GGUF metadata; `original` are the positions before any stretching.
pub(super) fn from_gguf(
    fields: &Fields<'_>,
    prefix: &str,
    rule: ScaleRule,
    hidden: usize,
    original: usize,
) -> Result<Scales> {
    let key = |name: &str| format!("{prefix}.{name}");
    let keys = Keys {
        embedding: key("embedding_scale"),
        residual: key("residual_scale"),
        attention: key("attention.scale"),
        logits: key("logit_scale"),
        values: key("attention.value_scale"),
        attention_cap: key("attn_logit_softcapping"),
        clip: key("attention.clamp_kqv"),
        logit_cap: key("final_logit_softcapping"),
        query: "",
        temperature: key("attention.temperature_scale"),
    };
    // What Gemma's own files say of caps; of queries they say nothing, and the head's width is right.
    let rule = match rule {
        ScaleRule::Gemma { caps, .. } => ScaleRule::Gemma { query: 0.0, caps },
        other => other,
    };
    read(fields, fields, &keys, rule, (hidden, Some(original)))
}

/// What queries, keys and values are held within.
fn clip(fields: &Fields<'_>, keys: &Keys, rule: ScaleRule) -> Result<Option<f64>> {
    // To llama.cpp 0 is none.
    if keys.query.is_empty() && fields.number(&keys.clip)? == Some(0.0) {
        return Ok(None);
    }
    match fields.positive(&keys.clip)? {
        Some(_) if rule != ScaleRule::Clipped => Err(fields.bad(&keys.clip, "is not supported")),
        clip => Ok(clip),
    }
}

fn read(
    fields: &Fields<'_>,
    rope: &Fields<'_>,
    keys: &Keys,
    rule: ScaleRule,
    (hidden, original): (usize, Option<usize>),
) -> Result<Scales> {
    let mut scales = Scales {
        clip: clip(fields, keys, rule)?,
        ..Scales::default()
    };
    let or = |key: &str, default: f64| Ok::<_, Error>(fields.positive(key)?.unwrap_or(default));
    match rule {
        ScaleRule::Plain | ScaleRule::Clipped => {}
        ScaleRule::Gemma { query, caps } => {
            scales.embedding = (hidden as f64).sqrt();
            let query = fields.positive(keys.query)?.unwrap_or(query);
            scales.attention = Some(query).filter(|q| *q > 0.0).map(|q| q.powf(-0.5));
            let cap = |key: &str, default: Option<f64>| {
                let default = default.filter(|_| !fields.mentions(key));
                Ok::<_, Error>(fields.positive(key)?.or(default))
            };
            scales.attention_cap = cap(&keys.attention_cap, caps[0])?;
            scales.logit_cap = cap(&keys.logit_cap, caps[1])?;
        }
        ScaleRule::Unscaled(cap) => {
            scales.embedding = (hidden as f64).sqrt();
            scales.attention = Some(1.0);
            let cap = cap.filter(|_| !fields.mentions(&keys.logit_cap));
            scales.logit_cap = fields.positive(&keys.logit_cap)?.or(cap);
        }
        ScaleRule::Granite => {
            scales.embedding = or(&keys.embedding, 1.0)?;
            scales.residual = or(&keys.residual, 1.0)?;
            // transformers' default is 1; a GGUF without the key means the usual root.
            let default = if keys.query.is_empty() {
                None
            } else {
                Some(1.0)
            };
            scales.attention = fields.positive(&keys.attention)?.or(default);
            scales.logits = 1.0 / or(&keys.logits, 1.0)?;
        }
        ScaleRule::Logits(default) => scales.logits = or(&keys.logits, default)?,
        ScaleRule::Values(default) => {
            // null means none.
            let default = if fields.mentions(&keys.values) {
                1.0
            } else {
                default
            };
            scales.values = or(&keys.values, default)?;
        }
        ScaleRule::NopeTemperature => {
            let on = fields.get("attn_temperature_tuning");
            // Published files have a number.
            let off = on.is_some_and(|on| *on == false || *on == 0);
            let beta = or("attn_scale", 0.1)?;
            let original = fields.count("floor_scale", bounds::POSITIONS)?;
            scales.temperature = (!off).then_some((beta, original.unwrap_or(8192)));
        }
        ScaleRule::Temperature => {
            let beta = rope.positive(&keys.temperature)?;
            scales.temperature = beta.zip(original);
        }
    }
    Ok(scales)
}
