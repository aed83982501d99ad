//! config.json and generation_config.json, as transformers 4 and 5 write them, with transformers' defaults.
//! Knows keys of configurations, nothing of tensors.
use std::path::Path;

use serde_json::Value;

use super::{
    Config, Ids, LatentShape, LayerShape, RopeScaling, Rotation, Sampling, Scales, altup, bounds,
    fields::Fields, latent, moe, rope, sampling, scales, shape, short_conv, sparse, windows,
};
use crate::{
    Error, Result,
    family::{self, Defaults, Family, Rotations, Sizes, Windows},
    quant::Quantization,
    weights::file::{read_json, read_json_if_there},
};

/// For families that nobody knows.
const OTHER: Defaults = Defaults {
    heads: None,
    kv_heads: None,
    head_dim: None,
    value_dim: None,
    vocab: None,
    max_position: None,
    theta: 10_000.0,
    partial: 1.0,
    tied: false,
    activation: "silu",
    windows: Windows::All { default: None },
    latent: None,
    index: None,
    conv: None,
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
    let outer = config.as_object().ok_or_else(|| not_object(place))?;
    let plain = Fields::new(place, outer);
    let text = plain.object("text_config")?;
    let model_type = Fields::new(place, text.unwrap_or(outer)).text("model_type")?;
    let family = model_type.and_then(family::of_type);
    let architecture = match (family, text) {
        // The text model inside a checkpoint that also sees or hears.
        (Some(family), Some(_)) => family.architecture.to_string(),
        _ => architecture(&plain, family)?,
    };
    let family = family.or_else(|| family::find(&architecture));
    let place = format!("{place} ({architecture})");
    let outer = Fields::new(&place, outer);
    let quantised = Quantization::of(&config);
    quantised.map_err(|what| Error::Load(format!("{place}: {what}")))?;
    let fields = Fields::new(&place, text.unwrap_or(outer.map()));
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
    let sources = Sources {
        fields: &fields,
        outer: &outer,
        generation: generation.as_ref(),
    };
    let read = normal_form(&place, &sources, family).and_then(|read| read.check(&place));
    let read = match (read, family) {
        // What is wrong with a configuration that nobody here knows is that nobody knows it.
        (Err(_), None) => return Err(family::unknown(&architecture)),
        (read, _) => read?,
    };
    Ok(Config {
        architecture,
        raw: config,
        ..read
    })
}

/// Where settings stand.
struct Sources<'a> {
    /// Of the text model.
    fields: &'a Fields<'a>,
    /// Around them; the same where the checkpoint is a text model.
    outer: &'a Fields<'a>,
    generation: Option<&'a Fields<'a>>,
}

/// What a head is made of.
struct Head {
    width: usize,
    /// Dimensions that rotate.
    rotated: usize,
    latent: Option<LatentShape>,
}

impl Head {
    fn read(
        place: &str,
        fields: &Fields<'_>,
        defaults: &Defaults,
        rope: &rope::Rope,
        (hidden_size, heads): (usize, usize),
    ) -> Result<Self> {
        if let Some(default) = defaults.latent {
            let latent = latent::from_hf(fields, &rope.fields(place), default)?;
            return Ok(Self {
                width: latent.nope + latent.rotated,
                rotated: latent.rotated,
                latent: Some(latent),
            });
        }
        let width = head_dim(fields, defaults, hidden_size, heads)?;
        let rotated = match fields.count("rotary_dim", width)? {
            // MiniMax says it so.
            Some(dim) if rope.partial == 1.0 => dim,
            _ => rope::rotary_dim(width, rope.partial),
        };
        Ok(Self {
            width,
            rotated,
            latent: None,
        })
    }

    /// The shape of a layer with such heads, but for its MLP.
    fn layer(&self, fields: &Fields<'_>, defaults: &Defaults, heads: usize) -> Result<LayerShape> {
        let value_dim = match defaults.value_dim {
            Some(default) => fields
                .count("v_head_dim", bounds::HEAD_DIM)?
                .unwrap_or(default),
            None => self.width,
        };
        Ok(LayerShape {
            kv_heads: kv_heads(fields, defaults, heads)?,
            head_dim: self.width,
            value_dim,
            rotary_dim: self.rotated,
            intermediate_size: 0,
            reads: None,
            keyed: false,
        })
    }
}

/// What is said of rotations, or what the family assumes.
fn rope_of(
    place: &str,
    fields: &Fields<'_>,
    family: Option<&Family>,
    max_position: usize,
) -> Result<rope::Rope> {
    use Rotations::{Local, LocalPlain, Proportional};
    let defaults = family.map_or(&OTHER, |f| &f.defaults);
    let kinds = |f: &Family| matches!(f.rotations, Local(_) | LocalPlain | Proportional { .. });
    let kinds = family.is_some_and(kinds);
    let own = (defaults.theta, defaults.partial);
    let mut rope = rope::from_hf(place, fields, max_position, own, kinds)?;
    if let (true, Some(Proportional { share, .. })) =
        (rope.is_unsaid(), family.map(|f| f.rotations))
    {
        let factor = 1.0;
        rope.scaling = RopeScaling::Proportional { factor, share };
    }
    Ok(rope)
}

/// The most of each size, and the shape of each layer where a family's layers differ.
fn shapes(
    fields: &Fields<'_>,
    family: Option<&Family>,
    base: LayerShape,
    hidden_size: usize,
    windows: &[Option<usize>],
) -> Result<(LayerShape, Vec<LayerShape>)> {
    // Llama 4's dense layers are wider than its experts.
    let keys: &[&str] = match fields.get("intermediate_size_mlp") {
        Some(_) => &["intermediate_size_mlp"],
        None => &["intermediate_size", "n_inner", "block_ff_dim"],
    };
    let mut found = keys
        .iter()
        .filter_map(|key| shape::mlp_widths(fields, key, windows.len()).transpose());
    // GPT-2 leaves its width out.
    let unsaid = fields.get("n_embd").map(|_| (4 * hidden_size, Vec::new()));
    let widths = found.next().transpose()?.or(unsaid);
    let (intermediate_size, widths) = fields.need(keys[0], widths)?;
    let intermediate_size = short_conv::mlp_width(fields, intermediate_size)?;
    let base = LayerShape {
        intermediate_size,
        ..base
    };
    let sizes = family.map_or(Sizes::Alike, |f| f.sizes);
    if sizes == Sizes::Alike && !widths.is_empty() {
        let what = "different values for different layers are not supported";
        return Err(fields.bad(keys[0], what));
    }
    let all = shape::from_hf(fields, sizes, base, windows, &widths)?;
    Ok((LayerShape::widest(&all, base), all))
}

/// Names of the activation.
const ACTIVATION: [&str; 3] = ["hidden_act", "hidden_activation", "activation_function"];

/// Everything but `architecture` and `raw`.
fn normal_form(
    place: &str,
    sources: &Sources<'_>,
    family: Option<&'static Family>,
) -> Result<Config> {
    let fields = sources.fields;
    let defaults = family.map_or(&OTHER, |f| &f.defaults);
    let count = |keys: &[&str], max, default: Option<usize>| {
        for key in keys {
            if let Some(n) = fields.count(key, max)? {
                return Ok(n);
            }
        }
        fields.need(keys[0], default)
    };
    let layers = count(&["num_hidden_layers", "n_layer"], bounds::LAYERS, None)?;
    let keys = ["num_attention_heads", "n_head"];
    let heads = count(&keys, bounds::HEADS, defaults.heads)?;
    let hidden_size = count(&["hidden_size", "n_embd"], bounds::HIDDEN, None)?;
    let vocab_size = count(&["vocab_size"], bounds::VOCAB, defaults.vocab)?;
    let keys = ["max_position_embeddings", "n_positions"];
    let max_position = count(&keys, bounds::POSITIONS, defaults.max_position)?;
    let rope = rope_of(place, fields, family, max_position)?;
    let head = Head::read(place, fields, defaults, &rope, (hidden_size, heads))?;
    let windows = windows::from_hf(fields, &defaults.windows, layers)?;
    let base = head.layer(fields, defaults, heads)?;
    let (widest, shapes) = shapes(fields, family, base, hidden_size, &windows)?;
    let (rotations, scales) = match family {
        Some(f) => (
            windows::rotations(fields, f.rotations, &rope, &windows)?,
            scales::from_hf(fields, &rope.fields(place), f.scales, hidden_size)?,
        ),
        None => (vec![Rotation::Main; layers], Scales::default()),
    };
    let ids_of = |key: &str| {
        let outer = sources
            .generation
            .into_iter()
            .chain([sources.outer, fields]);
        ids(&outer.collect::<Vec<_>>(), key, vocab_size)
    };
    let tied = match fields.flag("tie_word_embeddings")? {
        None => sources.outer.flag("tie_word_embeddings")?,
        some => some,
    };
    Ok(Config {
        architecture: String::new(),
        hidden_size,
        intermediate_size: widest.intermediate_size,
        moe: match family.and_then(|f| f.moe) {
            Some(own) => moe::from_hf(fields, own)?,
            None => None,
        },
        layers,
        heads,
        kv_heads: widest.kv_heads,
        head_dim: widest.head_dim,
        value_dim: widest.value_dim,
        shapes,
        layer_inputs: shape::inputs(
            fields,
            family.and_then(|f| f.layer_inputs),
            &["hidden_size_per_layer_input", "vocab_size_per_layer_input"],
            None,
        )?,
        altup: altup::from_hf(fields, family, layers)?,
        latent: head.latent,
        conv: short_conv::from_hf(fields, defaults.conv, layers)?,
        sparse: match defaults.index {
            Some(index) => Some(sparse::from_hf(fields, index, (layers, head.rotated))?),
            None => None,
        },
        vocab_size,
        max_position: rope::reach(&rope.scaling, max_position),
        norm_eps: norm_eps(fields)?,
        rope_theta: rope.base(widest.rotary_dim),
        rotary_dim: widest.rotary_dim,
        rope_scaling: rope.scaling,
        windows,
        chunked: defaults.windows.are_chunks(),
        rotations,
        scales,
        parallel_residual: fields.flag("use_parallel_residual")?,
        tie_word_embeddings: tied.unwrap_or(defaults.tied),
        activation: first_text(fields, &ACTIVATION)?
            .unwrap_or(defaults.activation)
            .to_string(),
        dtype: first_text(fields, &["dtype", "torch_dtype"])?
            .or(first_text(sources.outer, &["dtype", "torch_dtype"])?)
            .map(|d| d.trim_start_matches("torch.").to_string()),
        eos_token_ids: ids_of("eos_token_id")?,
        bos_token_id: ids_of("bos_token_id")?.first().copied(),
        sampling: sources
            .generation
            .map_or_else(Sampling::default, |g| sampling::read(g, sampling::HF)),
        raw: Value::Null,
    })
}

fn architecture(fields: &Fields<'_>, family: Option<&'static Family>) -> Result<String> {
    let Some(value) = fields.get("architectures") else {
        return match family {
            None => Err(fields.bad("architectures", "is missing")),
            Some(known) => Ok(known.architecture.to_string()),
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
        "layernorm_epsilon",
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
