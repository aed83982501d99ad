//! The configuration in GGUF metadata. Keys: ggml `docs/gguf.md` and llama.cpp `llama-arch.cpp`.
//! Knows keys of configurations; the tensors' share comes as `Facts`.
use serde_json::{Map, Number, Value as Json};

use super::{
    Config, LatentShape, LayerShape, Rotation, Scales, Sparse, altup, bounds, fields::Fields,
    latent, moe, rope, sampling, scales, shape, short_conv, sparse,
};
use crate::{
    Error, Result,
    family::{self, Family, Sizes, Windows},
    weights::gguf::{Metadata, Value},
};

/// Longest array that is kept in [`Config::raw`]: per-layer settings, not vocabularies.
const MAX_RAW_ARRAY: usize = bounds::LAYERS;

/// What GGUF says through its tensors.
pub(crate) struct Facts {
    /// Rows of `token_embd.weight`.
    pub embedding_rows: Option<usize>,
    /// Whether there is an output matrix of its own.
    pub has_output: bool,
    /// Blocks with an index.
    pub indexes: Vec<usize>,
    /// Rows of `per_layer_token_embd.weight`.
    pub input_rows: Option<usize>,
    /// Blocks with a matrix of values.
    pub valued: Vec<usize>,
    /// Values of `rope_freqs.weight`.
    pub rope_factors: Option<Vec<f32>>,
    /// Values of `rope_factors_short.weight` and `rope_factors_long.weight`.
    pub longrope: Option<[Vec<f32>; 2]>,
}

/// The normal form of `metadata`; `place` names the file in messages.
pub(crate) fn read(place: &str, metadata: &Metadata, facts: &Facts) -> Result<Config> {
    let raw = raw(metadata);
    let plain = Fields::new(place, &raw);
    let name = plain.need("general.architecture", plain.text("general.architecture")?)?;
    let key = |k: &str| format!("{name}.{k}");
    let architecture = architecture(&plain, name)?;
    let family = family::find(&architecture);
    let place = format!("{place} ({architecture})");
    let fields = Fields::new(&place, &raw);

    let count = |k: &str, max| fields.need(&key(k), uniform(&fields, &key(k), max)?);
    let blocks = count("block_count", bounds::LAYERS)?;
    // The last ones draft tokens.
    let layers = match fields.number(&key("nextn_predict_layers"))? {
        Some(drafting) if drafting < blocks as f64 => blocks - drafting.max(0.0) as usize,
        _ => blocks,
    };
    let heads = count("attention.head_count", bounds::HEADS)?;
    let hidden_size = count("embedding_length", bounds::HIDDEN)?;
    let context = count("context_length", bounds::POSITIONS)?;
    let (latent, widths, sparse) =
        attention(&fields, &key, family, (hidden_size, heads, layers), facts)?;
    let vocab_size = vocab(&fields, &key, metadata, facts)?;
    let windows = windows(&fields, &key, family.map(|f| &f.defaults.windows), layers)?;
    let rope = rope::from_gguf(&fields, name, context, facts)?;
    let (rotations, scales) = match family {
        Some(f) => {
            let key = key("rope.scaling.original_context_length");
            let original = fields.count(&key, bounds::POSITIONS)?.unwrap_or(context);
            (
                super::windows::rotations(&fields, f.rotations, &rope, &windows)?,
                scales::from_gguf(&fields, name, f.scales, hidden_size, original)?,
            )
        }
        None => (vec![Rotation::Main; layers], Scales::default()),
    };
    let sizes = family.map_or(Sizes::Alike, |f| f.sizes);
    let base = base(&fields, &key, family, (heads, widths))?;
    let (widest, shapes) = shapes(&fields, &key, sizes, base, &windows, facts)?;
    let read = Config {
        hidden_size,
        moe: match family.and_then(|f| f.moe) {
            Some(own) => moe::from_gguf(&fields, name, own)?,
            None => None,
        },
        layers,
        heads,
        head_dim: widest.head_dim,
        value_dim: widest.value_dim,
        shapes,
        layer_inputs: shape::inputs(
            &fields,
            family.and_then(|f| f.layer_inputs),
            &["embedding_length_per_layer_input", "vocab_size"].map(key),
            facts.input_rows,
        )?,
        altup: altup::from_gguf(&fields, &key, family, layers)?,
        latent,
        conv: short_conv::from_gguf(&fields, &key, family, layers)?,
        sparse,
        vocab_size,
        intermediate_size: widest.intermediate_size,
        kv_heads: widest.kv_heads,
        max_position: rope::reach(&rope.scaling, context),
        norm_eps: norm_eps(&fields, &key)?,
        rotary_dim: widest.rotary_dim,
        rope_theta: rope.theta,
        rope_scaling: rope.scaling,
        windows,
        chunked: family.is_some_and(|f| f.defaults.windows.are_chunks()),
        rotations,
        scales,
        parallel_residual: fields.flag(&key("use_parallel_residual"))?,
        tie_word_embeddings: !facts.has_output,
        // GGUF does not say; llama.cpp has it in each architecture's graph.
        activation: family.map_or("silu", |f| f.defaults.activation).to_string(),
        dtype: dtype(metadata),
        eos_token_ids: special(&fields, metadata, &["eos", "eot", "eom"], vocab_size)?,
        bos_token_id: special(&fields, metadata, &["bos"], vocab_size)?
            .first()
            .copied(),
        sampling: sampling::read(&fields, sampling::GGUF),
        architecture,
        raw: Json::Null,
    };
    let read = read.check(&place)?;
    Ok(Config {
        raw: Json::Object(raw),
        ..read
    })
}

/// Latent attention, the widths of keys and values, and what picks keys.
fn attention(
    fields: &Fields<'_>,
    key: &impl Fn(&str) -> String,
    family: Option<&Family>,
    (hidden_size, heads, layers): (usize, usize, usize),
    facts: &Facts,
) -> Result<(Option<LatentShape>, [usize; 2], Option<Sparse>)> {
    let latent = match family.and_then(|f| f.defaults.latent) {
        Some(_) => Some(latent::from_gguf(fields, key)?),
        None => None,
    };
    let widths = match &latent {
        Some(l) => [l.nope + l.rotated; 2],
        None => head_dims(fields, key, hidden_size, heads)?,
    };
    let narrow = family.is_some_and(|f| f.defaults.value_dim.is_some());
    if widths[0] != widths[1] && !narrow {
        let what = format_args!("values unlike keys ({}) are not supported", widths[0]);
        return Err(fields.bad(&key("attention.value_length"), what));
    }
    let sparse = match (family.and_then(|f| f.defaults.index), &latent) {
        (Some(index), Some(l)) => {
            let own = (0..layers).map(|i| facts.indexes.contains(&i)).collect();
            Some(sparse::from_gguf(fields, key, (index, l.rotated), own)?)
        }
        _ => None,
    };
    Ok((latent, widths, sparse))
}

/// The Hugging Face name of the architecture that llama.cpp calls `name`.
fn architecture(fields: &Fields<'_>, name: &str) -> Result<String> {
    let has = |key: &str| {
        Ok::<_, Error>(
            fields
                .number(&format!("{name}.{key}"))?
                .is_some_and(|n| n > 0.0),
        )
    };
    // llama.cpp files Mixtral under llama, OLMo 3 under olmo2, and DeepSeek V2 with all that followed it.
    let gating = fields.count(&format!("{name}.expert_gating_func"), 4)?;
    let named = match name {
        "llama" if has("expert_count")? => Some("MixtralForCausalLM"),
        "deepseek2" if gating != Some(2) => Some("DeepseekV2ForCausalLM"),
        "olmo2" if has("attention.sliding_window")? => Some("Olmo3ForCausalLM"),
        _ => None,
    };
    let known = || family::of_gguf(name).map(|f| f.architecture);
    let found = named.or_else(known);
    Ok(found.map_or_else(|| format!("gguf:{name}"), str::to_string))
}

/// The shape of all layers but for the MLP, as far as they are alike.
fn base(
    fields: &Fields<'_>,
    key: &impl Fn(&str) -> String,
    family: Option<&Family>,
    (heads, [head_dim, value_dim]): (usize, [usize; 2]),
) -> Result<LayerShape> {
    let keys = key("attention.head_count_kv");
    let alike = family.is_none_or(|f| f.sizes == Sizes::Alike);
    let convolves = family.is_some_and(|f| f.defaults.conv.is_some());
    let kv_heads = match fields.get(&keys) {
        // Layers that convolve have none.
        Some(Json::Array(each)) if convolves => {
            let found = each.iter().find(|n| n.as_u64() != Some(0));
            found
                .map(|n| fields.as_count(&keys, n, bounds::HEADS))
                .transpose()?
        }
        // One a layer.
        Some(Json::Array(_)) if !alike => Some(1),
        _ => uniform(fields, &keys, bounds::HEADS)?,
    };
    let rotary = fields.count(&key("rope.dimension_count"), bounds::HEAD_DIM)?;
    Ok(LayerShape {
        kv_heads: kv_heads.unwrap_or(heads),
        head_dim,
        value_dim,
        rotary_dim: rotary.unwrap_or(head_dim),
        intermediate_size: 0,
        reads: None,
        keyed: false,
    })
}

/// The most of each size, and the shape of each layer where a family's layers differ.
fn shapes(
    fields: &Fields<'_>,
    key: &impl Fn(&str) -> String,
    sizes: Sizes,
    mut base: LayerShape,
    windows: &[Option<usize>],
    facts: &Facts,
) -> Result<(LayerShape, Vec<LayerShape>)> {
    let mlp = key("feed_forward_length");
    if sizes == Sizes::Alike {
        let width = uniform(fields, &mlp, bounds::INTERMEDIATE)?;
        base.intermediate_size = fields.need(&mlp, width)?;
        return Ok((base, Vec::new()));
    }
    let widths = shape::mlp_widths(fields, &mlp, windows.len())?;
    let (most, widths) = fields.need(&mlp, widths)?;
    base.intermediate_size = most;
    let of = (windows, &widths[..], &facts.valued[..]);
    let all = shape::from_gguf(fields, key, base, of)?;
    Ok((LayerShape::widest(&all, base), all))
}

/// The window of each layer.
fn windows(
    fields: &Fields<'_>,
    key: &impl Fn(&str) -> String,
    rule: Option<&Windows>,
    layers: usize,
) -> Result<Vec<Option<usize>>> {
    let window_key = key("attention.sliding_window");
    // 0 is how Phi-3's converter writes none.
    let window = match fields.get(&window_key).and_then(Json::as_u64) {
        Some(0) => None,
        _ => fields.count(&window_key, bounds::WINDOW)?,
    };
    let window = match rule {
        // llama.cpp counts the tokens before a query's own.
        Some(Windows::Hybrid { .. }) => window.map(|before| before + 1),
        _ => window,
    };
    let which = fields.get(&key("attention.sliding_window_pattern"));
    if let Some(Json::Array(which)) =
        which.filter(|w| w.as_array().is_some_and(|w| w.len() >= layers))
    {
        let on = |v: &Json| v.as_bool().unwrap_or(v.as_u64() != Some(0));
        let own = which.iter().take(layers).map(on);
        return Ok(own.map(|on| window.filter(|_| on)).collect());
    }
    Ok(match rule {
        // llama.cpp has the size in its graph.
        Some(Windows::Chunks { default, interval }) => {
            super::windows::by_pattern(window.or(Some(*default)), *interval, layers)
        }
        Some(Windows::Pattern { pattern, .. } | Windows::OpenEnded { pattern, .. }) => {
            super::windows::by_pattern(window, *pattern, layers)
        }
        Some(Windows::Hybrid { interval, .. }) => {
            super::windows::by_interval(window, *interval, layers)
        }
        _ => vec![window; layers],
    })
}

/// A count that may be given for each layer, and then has to be the same for all.
fn uniform(fields: &Fields<'_>, key: &str, max: usize) -> Result<Option<usize>> {
    let Some(Json::Array(each)) = fields.get(key) else {
        return fields.count(key, max);
    };
    let first = fields.need(key, each.first())?;
    if each.iter().any(|v| v != first) {
        return Err(fields.bad(
            key,
            "different values for different layers are not supported",
        ));
    }
    fields.as_count(key, first, max).map(Some)
}

/// Widths of a head's key and value.
fn head_dims(
    fields: &Fields<'_>,
    key: &impl Fn(&str) -> String,
    hidden: usize,
    heads: usize,
) -> Result<[usize; 2]> {
    let (k, v) = (key("attention.key_length"), key("attention.value_length"));
    let dim = match fields.count(&k, bounds::HEAD_DIM)? {
        Some(dim) => dim,
        None if hidden.is_multiple_of(heads) && hidden / heads <= bounds::HEAD_DIM => {
            hidden / heads
        }
        None => {
            let what = format_args!(
                "expected a multiple of the {heads} heads, in heads of at most {}",
                bounds::HEAD_DIM
            );
            return Err(fields.bad(&key("embedding_length"), what));
        }
    };
    let value = fields.count(&v, bounds::HEAD_DIM)?.unwrap_or(dim);
    Ok([dim, value])
}

/// Rows of the embedding: as the tensor has them, or as the metadata says.
fn vocab(
    fields: &Fields<'_>,
    key: &impl Fn(&str) -> String,
    metadata: &Metadata,
    facts: &Facts,
) -> Result<usize> {
    let tokens = metadata
        .texts("tokenizer.ggml.tokens")
        .map(<[String]>::len)
        .filter(|n| *n > 0);
    let size_key = key("vocab_size");
    let rows = match facts.embedding_rows {
        Some(rows) => Some(rows),
        None => fields.count(&size_key, bounds::VOCAB)?.or(tokens),
    };
    let rows = fields.need(&size_key, rows)?;
    if rows > bounds::VOCAB {
        return Err(Error::Load(format!(
            "{}: {rows} rows of token_embd.weight are too many",
            fields.place()
        )));
    }
    match tokens {
        Some(n) if n > rows => Err(Error::Load(format!(
            "{}: {n} tokens, but only {rows} rows of token_embd.weight",
            fields.place()
        ))),
        _ => Ok(rows),
    }
}

fn norm_eps(fields: &Fields<'_>, key: &impl Fn(&str) -> String) -> Result<f64> {
    let rms = key("attention.layer_norm_rms_epsilon");
    for key in [&rms, &key("attention.layer_norm_epsilon")] {
        if let Some(eps) = fields.number(key)? {
            return if (0.0..1.0).contains(&eps) {
                Ok(eps)
            } else {
                Err(fields.bad(key, "expected 0 to 1"))
            };
        }
    }
    fields.need(&rms, None)
}

/// `general.file_type` where it names a plain dtype (llama.h, `enum llama_ftype`).
fn dtype(metadata: &Metadata) -> Option<String> {
    let name = match metadata.uint("general.file_type")? {
        0 => "float32",
        1 => "float16",
        32 => "bfloat16",
        _ => return None,
    };
    Some(name.to_string())
}

/// The special tokens `tokenizer.ggml.{name}_token_id`. Ids beyond the vocabulary can never occur and are left out.
fn special(
    fields: &Fields<'_>,
    metadata: &Metadata,
    names: &[&str],
    vocab: usize,
) -> Result<Vec<u32>> {
    let mut ids = Vec::new();
    for name in names {
        let key = format!("tokenizer.ggml.{name}_token_id");
        let Some(value) = metadata.get(&key) else {
            continue;
        };
        let id = metadata.uint(&key).and_then(|id| u32::try_from(id).ok());
        let Some(id) = id else {
            return Err(Error::Load(format!(
                "{}: {key} is {value:?}, not a token id",
                fields.place()
            )));
        };
        if id as usize >= vocab {
            tracing::warn!(key, id, vocab, "a special token lies beyond the vocabulary");
        } else if !ids.contains(&id) {
            ids.push(id);
        }
    }
    Ok(ids)
}

/// Metadata as JSON, without the tokenizer and without long arrays.
fn raw(metadata: &Metadata) -> Map<String, Json> {
    let keep = metadata
        .0
        .iter()
        .filter(|(key, _)| !key.starts_with("tokenizer."));
    keep.filter_map(|(key, value)| Some((key.clone(), json(value)?)))
        .collect()
}

fn json(value: &Value) -> Option<Json> {
    let list = |n: usize, items: &mut dyn Iterator<Item = Json>| {
        (n <= MAX_RAW_ARRAY).then(|| items.collect())
    };
    match value {
        Value::Uint(v) => Some((*v).into()),
        Value::Int(v) => Some((*v).into()),
        Value::Float(v) => Some(decimal(*v)),
        Value::Bool(v) => Some((*v).into()),
        Value::Text(v) => Some(v.as_str().into()),
        Value::Ints(v) => list(v.len(), &mut v.iter().map(|v| (*v).into())),
        Value::Floats(v) => list(v.len(), &mut v.iter().map(|v| decimal((*v).into()))),
        Value::Bools(v) => list(v.len(), &mut v.iter().map(|v| (*v).into())),
        Value::Texts(v) => list(v.len(), &mut v.iter().map(|v| v.as_str().into())),
    }
}

/// A float32 as the shortest decimal that it stands for: 9.99999997e-07 was written as 1e-06, and is 1e-06 in the
/// configuration that it was converted from. Not-numbers become text, which no reader of numbers takes.
fn decimal(value: f64) -> Json {
    let short = value as f32;
    let value = if f64::from(short) == value {
        short.to_string().parse().unwrap_or(value)
    } else {
        value
    };
    Number::from_f64(value).map_or_else(|| Json::String(value.to_string()), Json::Number)
}
