//! config.json and generation_config.json, as transformers 4 and 5 write them, with transformers' defaults.
//! Knows keys of configurations, nothing of tensors.
use std::path::Path;

use serde_json::Value;

use super::{Config, Ids, Sampling, bounds, fields::Fields, rope, sampling};
use crate::{
    Error, Result,
    weights::file::{read_json, read_json_if_there},
};

/// Which layers have a sliding window.
enum Windows {
    /// None, whatever the configuration mentions.
    Never,
    /// Those that `layer_types` names, or all where there is a `sliding_window` (this many tokens by default).
    All { default: Option<usize> },
    /// Those that `layer_types` names, or those from `max_window_layers` on, if `use_sliding_window`.
    Upper { default: usize, first: usize },
}

/// What transformers assumes where config.json is silent (`configuration_<model_type>.py`).
struct Defaults {
    model_type: &'static str,
    architecture: &'static str,
    /// `None`: as many as query heads.
    kv_heads: Option<usize>,
    /// `None`: hidden_size / num_attention_heads.
    head_dim: Option<usize>,
    max_position: Option<usize>,
    windows: Windows,
}

const QWEN_WINDOWS: Windows = Windows::Upper {
    default: 4096,
    first: 28,
};

const DEFAULTS: &[Defaults] = &[
    Defaults {
        model_type: "llama",
        architecture: "LlamaForCausalLM",
        kv_heads: None,
        head_dim: None,
        max_position: Some(2048),
        windows: Windows::Never,
    },
    Defaults {
        model_type: "mistral",
        architecture: "MistralForCausalLM",
        kv_heads: Some(8),
        head_dim: None,
        max_position: Some(4096 * 32),
        windows: Windows::All {
            default: Some(4096),
        },
    },
    Defaults {
        model_type: "qwen2",
        architecture: "Qwen2ForCausalLM",
        kv_heads: Some(32),
        head_dim: None,
        max_position: Some(32_768),
        windows: QWEN_WINDOWS,
    },
    Defaults {
        model_type: "qwen3",
        architecture: "Qwen3ForCausalLM",
        kv_heads: Some(32),
        head_dim: Some(128),
        max_position: Some(32_768),
        windows: QWEN_WINDOWS,
    },
];

/// For model types without a row.
const OTHER: Defaults = Defaults {
    model_type: "",
    architecture: "",
    kv_heads: None,
    head_dim: None,
    max_position: None,
    windows: Windows::All { default: None },
};

/// Reads the configuration of a checkpoint folder.
pub(crate) fn read(folder: &Path) -> Result<Config> {
    let path = folder.join("config.json");
    let config = read_json(&path)?;
    let generation = read_json_if_there(&folder.join("generation_config.json"))?;
    parse(&path.display().to_string(), config, generation.as_ref())
}

/// The normal form of `config`; `place` names the file in messages.
pub(crate) fn parse(place: &str, config: Value, generation: Option<&Value>) -> Result<Config> {
    let not_object = |name: &str| Error::Load(format!("{name}: expected a JSON object"));
    let map = config.as_object().ok_or_else(|| not_object(place))?;
    let plain = Fields::new(place, map);
    let model_type = plain.text("model_type")?.unwrap_or("");
    let defaults = DEFAULTS
        .iter()
        .find(|d| d.model_type == model_type)
        .unwrap_or(&OTHER);
    let architecture = architecture(&plain, defaults)?;
    let place = format!("{place} ({architecture})");
    let fields = Fields::new(&place, map);
    refuse_quantised(&fields)?;
    let generation_place = format!("{place}: generation_config.json");
    let generation = match generation {
        Some(value) => Some(
            value
                .as_object()
                .ok_or_else(|| not_object(&generation_place))?,
        ),
        None => None,
    };
    let generation = generation.map(|map| Fields::new(&generation_place, map));
    let read = normal_form(&place, &fields, generation.as_ref(), defaults)?.check(&place)?;
    Ok(Config {
        architecture,
        raw: config,
        ..read
    })
}

/// Everything but `architecture` and `raw`.
fn normal_form(
    place: &str,
    fields: &Fields<'_>,
    generation: Option<&Fields<'_>>,
    defaults: &Defaults,
) -> Result<Config> {
    let count = |key: &str, max| fields.need(key, fields.count(key, max)?);
    let layers = count("num_hidden_layers", bounds::LAYERS)?;
    let heads = count("num_attention_heads", bounds::HEADS)?;
    let hidden_size = count("hidden_size", bounds::HIDDEN)?;
    let vocab_size = count("vocab_size", bounds::VOCAB)?;
    let head_dim = head_dim(fields, defaults, hidden_size, heads)?;
    let max_position = fields
        .count("max_position_embeddings", bounds::POSITIONS)?
        .or(defaults.max_position);
    let max_position = fields.need("max_position_embeddings", max_position)?;
    let rope = rope::from_hf(place, fields, max_position)?;
    let sources: Vec<&Fields<'_>> = generation.into_iter().chain([fields]).collect();
    Ok(Config {
        architecture: String::new(),
        hidden_size,
        intermediate_size: count("intermediate_size", bounds::INTERMEDIATE)?,
        layers,
        heads,
        kv_heads: kv_heads(fields, defaults, heads)?,
        head_dim,
        vocab_size,
        max_position: rope::reach(&rope.scaling, max_position),
        norm_eps: norm_eps(fields)?,
        rope_theta: rope.theta,
        rope_scaling: rope.scaling,
        rotary_dim: rope::rotary_dim(head_dim, rope.partial),
        windows: windows(fields, &defaults.windows, layers)?,
        tie_word_embeddings: fields.flag("tie_word_embeddings")?.unwrap_or(false),
        activation: first_text(fields, &["hidden_act", "hidden_activation"])?
            .unwrap_or("silu")
            .to_string(),
        dtype: first_text(fields, &["dtype", "torch_dtype"])?
            .map(|d| d.trim_start_matches("torch.").to_string()),
        eos_token_ids: ids(&sources, "eos_token_id", vocab_size)?,
        bos_token_id: ids(&sources, "bos_token_id", vocab_size)?.first().copied(),
        sampling: generation.map_or_else(Sampling::default, |g| sampling::read(g, sampling::HF)),
        raw: Value::Null,
    })
}

fn architecture(fields: &Fields<'_>, defaults: &Defaults) -> Result<String> {
    let Some(value) = fields.get("architectures") else {
        return match defaults.architecture {
            "" => Err(fields.bad("architectures", "is missing")),
            known => Ok(known.to_string()),
        };
    };
    let first = value
        .as_array()
        .and_then(|a| a.first())
        .and_then(Value::as_str)
        .filter(|s| !s.is_empty());
    first
        .map(str::to_string)
        .ok_or_else(|| fields.bad("architectures", "expected a list of names"))
}

/// A quantised checkpoint read as a plain one would miss its tensors one by one; this says it once.
fn refuse_quantised(fields: &Fields<'_>) -> Result<()> {
    for key in ["quantization_config", "compression_config"] {
        if let Some(settings) = fields.object(key)? {
            let method = settings
                .get("quant_method")
                .and_then(Value::as_str)
                .unwrap_or("unnamed");
            return Err(fields.bad(
                key,
                format_args!("the quantisation method {method} is not supported"),
            ));
        }
    }
    Ok(())
}

fn head_dim(
    fields: &Fields<'_>,
    defaults: &Defaults,
    hidden: usize,
    heads: usize,
) -> Result<usize> {
    if let Some(given) = fields.count("head_dim", bounds::HEAD_DIM)? {
        return Ok(given);
    }
    if let Some(default) = defaults.head_dim {
        return Ok(default);
    }
    if !hidden.is_multiple_of(heads) {
        return Err(fields.bad(
            "hidden_size",
            format_args!("expected a multiple of num_attention_heads, {heads}"),
        ));
    }
    match hidden / heads {
        dim if dim <= bounds::HEAD_DIM => Ok(dim),
        dim => Err(fields.bad(
            "hidden_size",
            format_args!("gives heads of {dim}, more than {}", bounds::HEAD_DIM),
        )),
    }
}

fn kv_heads(fields: &Fields<'_>, defaults: &Defaults, heads: usize) -> Result<usize> {
    const KEY: &str = "num_key_value_heads";
    // null means "as many as query heads"; an absent key means the model type's default.
    let default = if fields.mentions(KEY) {
        None
    } else {
        defaults.kv_heads
    };
    Ok(fields
        .count(KEY, bounds::HEADS)?
        .or(default)
        .unwrap_or(heads))
}

fn norm_eps(fields: &Fields<'_>) -> Result<f64> {
    for key in [
        "rms_norm_eps",
        "layer_norm_eps",
        "layer_norm_epsilon",
        "norm_epsilon",
        "norm_eps",
    ] {
        if let Some(eps) = fields.number(key)? {
            return if (0.0..1.0).contains(&eps) {
                Ok(eps)
            } else {
                Err(fields.bad(key, "expected 0 to 1"))
            };
        }
    }
    Ok(1e-6)
}

fn first_text<'a>(fields: &Fields<'a>, keys: &[&str]) -> Result<Option<&'a str>> {
    for key in keys {
        if let Some(text) = fields.text(key)? {
            return Ok(Some(text));
        }
    }
    Ok(None)
}

/// The window of each layer.
fn windows(fields: &Fields<'_>, rule: &Windows, layers: usize) -> Result<Vec<Option<usize>>> {
    const KEY: &str = "sliding_window";
    let (default, on, first) = match rule {
        Windows::Never => return Ok(vec![None; layers]),
        Windows::All { default } => (
            *default,
            fields.flag("use_sliding_window")?.unwrap_or(true),
            0,
        ),
        Windows::Upper { default, first } => {
            let first = match fields.get("max_window_layers") {
                // 0 is a real value here: a window on every layer.
                Some(v) if v.as_u64() == Some(0) => 0,
                _ => fields
                    .count("max_window_layers", bounds::WINDOW)?
                    .unwrap_or(*first),
            };
            (
                Some(*default),
                fields.flag("use_sliding_window")?.unwrap_or(false),
                first,
            )
        }
    };
    let default = if fields.mentions(KEY) { None } else { default };
    let window = if on {
        fields.count(KEY, bounds::WINDOW)?.or(default)
    } else {
        None
    };
    match fields.get("layer_types") {
        None => Ok((0..layers).map(|i| window.filter(|_| i >= first)).collect()),
        Some(types) => layer_types(fields, types, window, layers),
    }
}

fn layer_types(
    fields: &Fields<'_>,
    types: &Value,
    window: Option<usize>,
    layers: usize,
) -> Result<Vec<Option<usize>>> {
    const KEY: &str = "layer_types";
    let types = types.as_array().filter(|t| t.len() == layers);
    let types =
        types.ok_or_else(|| fields.bad(KEY, format_args!("expected a list of {layers} names")))?;
    types
        .iter()
        .map(|kind| match kind.as_str() {
            Some("full_attention") => Ok(None),
            Some("sliding_attention") if window.is_some() => Ok(window),
            Some("sliding_attention") => {
                Err(fields.bad(KEY, "needs sliding_window, which is not set or not in use"))
            }
            _ => Err(fields.bad(KEY, format_args!("{kind} is not supported"))),
        })
        .collect()
}

/// All ids that the files name under `key`, each once. Ids beyond the vocabulary can never occur and are left out.
fn ids(sources: &[&Fields<'_>], key: &str, vocab: usize) -> Result<Vec<u32>> {
    let mut all = Vec::new();
    for fields in sources {
        let Some(value) = fields.get(key) else {
            continue;
        };
        let ids: Ids = serde_json::from_value(value.clone())
            .map_err(|_| fields.bad(key, "expected a token id or a list of them"))?;
        let ids = match ids {
            Ids::One(id) => vec![id],
            Ids::Many(ids) => ids,
        };
        for id in ids {
            if id as usize >= vocab {
                tracing::warn!(key, id, vocab, "a special token lies beyond the vocabulary");
            } else if !all.contains(&id) {
                all.push(id);
            }
        }
    }
    Ok(all)
}
