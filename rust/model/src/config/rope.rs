//! Rotary embedding settings as transformers 4 and 5 and GGUF write them. Semantics: `modeling_rope_utils.py` of
//! transformers 5 and `llama_hparams`/`llama-context.cpp` of llama.cpp. Computes no frequencies.
use serde_json::{Map, Value};

use super::{RopeScaling, bounds, fields::Fields, gguf::Facts};
use crate::{Error, Result};

/// Base of the frequencies where a GGUF file names none.
const DEFAULT_THETA: f64 = 10_000.0;

/// What a configuration says of rotary embedding.
pub(super) struct Rope {
    pub theta: f64,
    /// Hunyuan's `dynamic` scaling: a larger base at any length, see [`Rope::base`].
    alpha: Option<f64>,
    pub scaling: RopeScaling,
    /// Share of a head that rotates.
    pub partial: f64,
    /// Base and stretching of the layers with a window, where they have their own.
    pub local: Option<(f64, RopeScaling)>,
    /// The object of settings.
    map: Map<String, Value>,
}

impl Rope {
    /// The base for `dim` rotating dimensions.
    pub fn base(&self, dim: usize) -> f64 {
        let grown = |a: f64| a.powf(dim as f64 / (dim as f64 - 2.0));
        self.theta * self.alpha.filter(|_| dim > 2).map_or(1.0, grown)
    }

    /// Whether nothing is said of rotations.
    pub fn is_unsaid(&self) -> bool {
        self.map.is_empty()
    }

    /// The object of settings.
    pub fn fields<'a>(&'a self, place: &'a str) -> Fields<'a> {
        Fields::new(place, &self.map)
    }
}

/// `original_max_position_embeddings` of an object of settings.
pub(super) fn original_positions(inner: &Fields<'_>) -> Result<Option<usize>> {
    inner.count(ORIGINAL, bounds::POSITIONS)
}

const ORIGINAL: &str = "original_max_position_embeddings";

/// Reads `rope_scaling` (version 4), `rope_parameters` (version 5) and the keys beside them.
/// `defaults`: the family's base and share of a head; `kinds`: whether layers with a window may have settings of their own.
pub(super) fn from_hf(
    place: &str,
    top: &Fields<'_>,
    max_position: usize,
    (theta, partial): (f64, f64),
    kinds: bool,
) -> Result<Rope> {
    let empty = Map::new();
    let filled = |key: &'static str| {
        Ok::<_, Error>(top.object(key)?.filter(|m| !m.is_empty()).map(|m| (key, m)))
    };
    // transformers prefers the older name where both stand.
    let found = match filled("rope_scaling")? {
        Some(found) => Some(found),
        None => filled("rope_parameters")?,
    };
    let (key, map) = found.unwrap_or(("rope_parameters", &empty));
    let place = format!("{place}: {key}");
    let inner = Fields::new(&place, map);
    let (full, sliding) = (inner.object(FULL)?, inner.object(SLIDING)?);
    let other = |(name, value): &(&String, &Value)| {
        value.is_object() && !(kinds && [FULL, SLIDING].contains(&name.as_str()))
    };
    if let Some((name, _)) = map.iter().find(other) {
        return Err(inner.bad(
            name,
            "settings for such layers are not supported in this architecture",
        ));
    }
    let map = full.unwrap_or(map);
    let inner = Fields::new(&place, map);
    let theta = first(
        &inner,
        top,
        &["rope_theta", "rotary_emb_base"],
        checked_theta,
    )?
    .unwrap_or(theta);
    let keys = ["partial_rotary_factor", "rotary_pct", "rope_percent"];
    let local = match sliding {
        Some(map) => {
            let own = Fields::new(&place, map);
            let theta = first(&own, top, &["rope_theta"], checked_theta)?.unwrap_or(theta);
            Some((theta, scaling(top, &own, max_position)?))
        }
        None => {
            let keys = ["rope_local_base_freq", "swa_rope_theta"];
            first(top, top, &keys, checked_theta)?.map(|theta| (theta, RopeScaling::None))
        }
    };
    let alpha = match inner.text("rope_type")?.or(inner.text("type")?) {
        Some("dynamic") => inner.positive("alpha")?,
        _ => None,
    };
    let scaling = match alpha {
        Some(_) => RopeScaling::None,
        None => scaling(top, &inner, max_position)?,
    };
    let whole = matches!(scaling, RopeScaling::Proportional { .. });
    let said = first(&inner, top, &keys, checked_partial)?.filter(|_| !whole);
    Ok(Rope {
        theta,
        alpha,
        partial: said.unwrap_or(partial),
        scaling,
        local,
        map: map.clone(),
    })
}

/// Settings of layers without a window, and of those with one.
const FULL: &str = "full_attention";
const SLIDING: &str = "sliding_attention";

/// The first of `keys` that stands in the inner object or else in the outer one.
fn first(
    inner: &Fields<'_>,
    top: &Fields<'_>,
    keys: &[&str],
    check: fn(&Fields<'_>, &str, f64) -> Result<f64>,
) -> Result<Option<f64>> {
    for key in keys {
        if let Some(value) = either(inner, top, key, check)? {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

/// The number `key` of the inner object, or else of the outer one.
fn either(
    inner: &Fields<'_>,
    top: &Fields<'_>,
    key: &str,
    check: fn(&Fields<'_>, &str, f64) -> Result<f64>,
) -> Result<Option<f64>> {
    let fields = if inner.get(key).is_some() { inner } else { top };
    fields
        .number(key)?
        .map(|n| check(fields, key, n))
        .transpose()
}

fn scaling(top: &Fields<'_>, inner: &Fields<'_>, max_position: usize) -> Result<RopeScaling> {
    let key = if inner.get("rope_type").is_some() {
        "rope_type"
    } else {
        "type"
    };
    let factor = || inner.need("factor", inner.positive("factor")?);
    match inner.text(key)?.unwrap_or("default") {
        "default" => Ok(RopeScaling::None),
        "linear" => Ok(RopeScaling::Linear { factor: factor()? }),
        "dynamic" => Ok(RopeScaling::Dynamic {
            factor: factor()?,
            original: max_position,
        }),
        "llama3" => llama3(inner, original(top, inner, max_position)?),
        "yarn" => yarn(inner, original(top, inner, max_position)?, max_position),
        "proportional" => Ok(RopeScaling::Proportional {
            factor: inner.positive("factor")?.unwrap_or(1.0),
            share: either(inner, top, "partial_rotary_factor", checked_partial)?.unwrap_or(1.0),
        }),
        "longrope" | "su" => longrope(inner, original(top, inner, max_position)?, max_position),
        _ => Err(inner.bad(
            key,
            "this rotary scaling is not supported (linear, dynamic, llama3, yarn, longrope and proportional are)",
        )),
    }
}

fn checked_theta(fields: &Fields<'_>, key: &str, theta: f64) -> Result<f64> {
    if theta > 1.0 {
        Ok(theta)
    } else {
        Err(fields.bad(key, "expected a number above 1"))
    }
}

fn checked_partial(fields: &Fields<'_>, key: &str, partial: f64) -> Result<f64> {
    if partial > 0.0 && partial <= 1.0 {
        Ok(partial)
    } else {
        Err(fields.bad(key, "expected a number above 0, at most 1"))
    }
}

/// Positions of the original training: beside the dictionary (which wins), in it, or all of them.
fn original(top: &Fields<'_>, inner: &Fields<'_>, max_position: usize) -> Result<usize> {
    match top.count(ORIGINAL, bounds::POSITIONS)? {
        Some(n) => Ok(n),
        None => Ok(original_positions(inner)?.unwrap_or(max_position)),
    }
}

fn llama3(fields: &Fields<'_>, original: usize) -> Result<RopeScaling> {
    let need = |key: &str| fields.need(key, fields.positive(key)?);
    let (low, high) = (need("low_freq_factor")?, need("high_freq_factor")?);
    if high <= low {
        return Err(fields.bad(
            "high_freq_factor",
            format_args!("expected more than low_freq_factor, {low}"),
        ));
    }
    Ok(RopeScaling::Llama3 {
        factor: need("factor")?,
        low_freq_factor: low,
        high_freq_factor: high,
        original,
    })
}

fn yarn(fields: &Fields<'_>, original: usize, max_position: usize) -> Result<RopeScaling> {
    let factor = fields
        .positive("factor")?
        .unwrap_or(max_position as f64 / original as f64);
    // As transformers has it, 0 means the default.
    let or = |key: &str, default: f64| {
        Ok::<_, Error>(fields.number(key)?.filter(|n| *n != 0.0).unwrap_or(default))
    };
    let (beta_fast, beta_slow) = (or("beta_fast", 32.0)?, or("beta_slow", 1.0)?);
    if beta_slow <= 0.0 || beta_fast < beta_slow {
        return Err(fields.bad(
            "beta_fast",
            format_args!("expected at least beta_slow, {beta_slow}, and both above 0"),
        ));
    }
    let attention_factor = match fields.positive("attention_factor")? {
        Some(given) => Some(given),
        None => match (or("mscale", 0.0)?, or("mscale_all_dim", 0.0)?) {
            (m, all) if m != 0.0 && all != 0.0 => Some(mscale(factor, m) / mscale(factor, all)),
            _ => None,
        },
    };
    if attention_factor.is_some_and(|a| !a.is_finite() || a <= 0.0) {
        return Err(fields.bad("mscale", "gives no usable attention factor"));
    }
    let truncate = fields.flag("truncate")?.unwrap_or(true);
    Ok(RopeScaling::Yarn {
        factor,
        original,
        beta_fast,
        beta_slow,
        attention_factor,
        truncate,
    })
}

fn longrope(fields: &Fields<'_>, original: usize, max_position: usize) -> Result<RopeScaling> {
    let stretch = max_position as f64 / original as f64;
    let factor = match fields.positive("factor")? {
        // transformers takes the ratio wherever the original length is known.
        Some(factor) if original == max_position => factor,
        _ => stretch,
    };
    Ok(RopeScaling::LongRope {
        short: positives(fields, "short_factor")?,
        long: positives(fields, "long_factor")?,
        original,
        attention_factor: match (fields.positive("attention_factor")?, mscales(fields)?) {
            (Some(given), _) | (None, Some(given)) => given,
            (None, None) => longrope_factor(factor, original),
        },
    })
}

/// PhiMoE's factor, which it gives for short and for long contexts.
fn mscales(fields: &Fields<'_>) -> Result<Option<f64>> {
    let [short, long] = ["short_mscale", "long_mscale"].map(|key| fields.positive(key));
    let (short, long) = (short?, long?);
    if short != long {
        let what = "a factor unlike that of short contexts is not supported";
        return Err(fields.bad("long_mscale", what));
    }
    Ok(long)
}

fn longrope_factor(factor: f64, original: usize) -> f64 {
    if factor <= 1.0 {
        1.0
    } else {
        (1.0 + factor.ln() / (original as f64).ln()).sqrt()
    }
}

/// The list of positive numbers `key`.
fn positives(fields: &Fields<'_>, key: &str) -> Result<Vec<f64>> {
    let list = fields.need(key, fields.get(key))?;
    let number = |v: &Value| v.as_f64().filter(|n| n.is_finite() && *n > 0.0);
    let numbers = list.as_array().and_then(|l| l.iter().map(number).collect());
    numbers.ok_or_else(|| fields.bad(key, "expected a list of numbers above 0"))
}

/// What yarn multiplies cos and sin by, of a checkpoint with this `mscale`.
pub(super) fn mscale(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 {
        1.0
    } else {
        0.1 * mscale * factor.ln() + 1.0
    }
}

/// Reads `{prefix}.rope.*` of GGUF metadata; `factors` are those of `rope_freqs.weight`.
pub(super) fn from_gguf(
    fields: &Fields<'_>,
    prefix: &str,
    context: usize,
    facts: &Facts,
) -> Result<Rope> {
    let key = |name: &str| format!("{prefix}.rope.{name}");
    let base = key("freq_base");
    let theta = fields.number(&base)?.unwrap_or(DEFAULT_THETA);
    if theta <= 1.0 {
        return Err(fields.bad(&base, "expected a number above 1"));
    }
    let kind_key = key("scaling.type");
    let factor = match fields.positive(&key("scaling.factor"))? {
        Some(factor) => factor,
        None => fields.positive(&key("scale_linear"))?.unwrap_or(1.0),
    };
    // Without a type llama.cpp scales linearly.
    let mut scaling = match fields.text(&kind_key)?.unwrap_or("linear") {
        "none" => RopeScaling::None,
        "linear" if factor == 1.0 => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor },
        "yarn" => gguf_yarn(fields, &key, factor, context)?,
        _ => {
            return Err(fields.bad(
                &kind_key,
                "this rotary scaling is not supported (none, linear and yarn are)",
            ));
        }
    };
    if let ("gpt-oss", RopeScaling::Yarn { truncate, .. }) = (prefix, &mut scaling) {
        // As its makers have it; GGUF does not say.
        *truncate = false;
    }
    let scaling = match (&facts.rope_factors, scaling) {
        (None, _) if facts.longrope.is_some() => gguf_longrope(fields, &key, context, facts)?,
        (None, scaling) => scaling,
        (Some(factors), RopeScaling::None) => RopeScaling::Factors(factors.clone()),
        (Some(_), _) => {
            return Err(fields.bad(
                &kind_key,
                "not supported together with the tensor rope_freqs.weight",
            ));
        }
    };
    let local = fields.number(&key("freq_base_swa"))?;
    let local = local.map(|theta| checked_theta(fields, &key("freq_base_swa"), theta));
    Ok(Rope {
        theta,
        alpha: None,
        scaling,
        partial: 1.0,
        local: local.transpose()?.map(|theta| (theta, RopeScaling::None)),
        map: Map::new(),
    })
}

fn gguf_longrope(
    fields: &Fields<'_>,
    key: &impl Fn(&str) -> String,
    context: usize,
    facts: &Facts,
) -> Result<RopeScaling> {
    let wide = |v: &Vec<f32>| v.iter().copied().map(f64::from).collect();
    let [short, long] = facts
        .longrope
        .as_ref()
        .map(|f| [&f[0], &f[1]].map(wide))
        .unwrap_or_default();
    let original = fields.count(&key("scaling.original_context_length"), bounds::POSITIONS)?;
    Ok(RopeScaling::LongRope {
        short,
        long,
        original: original.unwrap_or(context),
        attention_factor: fields.positive(&key("scaling.attn_factor"))?.unwrap_or(1.0),
    })
}

fn gguf_yarn(
    fields: &Fields<'_>,
    key: &impl Fn(&str) -> String,
    factor: f64,
    context: usize,
) -> Result<RopeScaling> {
    let original = fields
        .count(&key("scaling.original_context_length"), bounds::POSITIONS)?
        .unwrap_or(context);
    let ext = key("scaling.yarn_ext_factor");
    // Negative is llama.cpp's "as the type says", which is 1 for yarn.
    if fields.number(&ext)?.is_some_and(|e| e >= 0.0 && e != 1.0) {
        return Err(fields.bad(&ext, "only 1 is supported"));
    }
    let log_mul = key("scaling.yarn_log_multiplier");
    let log_mul = fields.number(&log_mul)?.filter(|m| *m != 0.0);
    let beta =
        |name: &str, default: f64| Ok::<_, Error>(fields.positive(&key(name))?.unwrap_or(default));
    let (beta_fast, beta_slow) = (
        beta("scaling.yarn_beta_fast", 32.0)?,
        beta("scaling.yarn_beta_slow", 1.0)?,
    );
    if beta_fast < beta_slow {
        return Err(fields.bad(
            &key("scaling.yarn_beta_fast"),
            format_args!("expected at least {beta_slow}"),
        ));
    }
    let attn = match fields.positive(&key("scaling.yarn_attn_factor"))? {
        Some(attn) => Some(attn),
        None => fields.positive(&key("scaling.attn_factor"))?,
    };
    // llama.cpp multiplies what the factor gives; transformers' attention_factor is the product.
    let attention_factor = match log_mul {
        Some(all) => Some(mscale(factor, 1.0) / mscale(factor, all)),
        None => attn.filter(|a| *a != 1.0).map(|a| a * mscale(factor, 1.0)),
    };
    if attention_factor.is_some_and(|a| !a.is_finite() || a <= 0.0) {
        let what = "gives no usable attention factor";
        return Err(fields.bad(&key("scaling.yarn_log_multiplier"), what));
    }
    Ok(RopeScaling::Yarn {
        factor,
        original,
        beta_fast,
        beta_slow,
        attention_factor,
        truncate: true,
    })
}

/// The longest sequence: as far as a scaling reaches that was made to go beyond the checkpoint's own length.
pub(super) fn reach(scaling: &RopeScaling, max_position: usize) -> usize {
    let (base, factor) = match scaling {
        RopeScaling::Yarn {
            factor, original, ..
        }
        | RopeScaling::Dynamic { factor, original } => (*original, *factor),
        _ => return max_position,
    };
    // The cast saturates; the bound keeps later arithmetic on positions far from overflow.
    let reached = (base as f64 * factor) as usize;
    reached.clamp(max_position, bounds::POSITIONS.max(max_position))
}

/// Rotating dimensions of a head of `head_dim` (transformers truncates).
pub(super) fn rotary_dim(head_dim: usize, partial: f64) -> usize {
    (head_dim as f64 * partial) as usize
}
