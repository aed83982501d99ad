//! Which Hugging Face name a GGUF tensor has, and which rows the converter moved. Source: llama.cpp
//! `gguf-py/gguf/tensor_mapping.py`, `convert_hf_to_gguf.py`. The names themselves: `family`.
use super::super::mapped::Change;
use crate::{
    config::Config,
    family::{Family, Layout},
};

/// llama.cpp's tensor of rotary frequency factors; it becomes part of the configuration.
pub(crate) const ROPE_FACTORS: &str = "rope_freqs.weight";

/// The two sets of longrope's, short and long; likewise.
pub(super) const LONGROPE: [&str; 2] = ["rope_factors_short.weight", "rope_factors_long.weight"];

/// What of an index makes its keys.
pub(super) const INDEX: &str = "indexer.attn_k.weight";

/// Early converters stored the inverse frequencies, which follow from the configuration.
const ROTARY: &str = "attn_rot_embd";

/// A part of several streams that has no kind.
const ALTUP_SCALE: &str = "altup.correct_output_scale";

/// A tensor behind the door.
pub(crate) struct Target {
    /// Hugging Face name.
    pub name: String,
    /// What the converter did to it.
    pub change: Change,
}

/// What `name` is called; `None` for tensors that no model reads. Without a family names stay as they are, so that the
/// architecture, not a tensor, is what the message to the user is about.
pub(crate) fn hugging_face(
    family: Option<&Family>,
    name: &str,
    config: &Config,
) -> std::result::Result<Option<Target>, String> {
    let plain = |name: String| Target {
        name,
        change: Change::None,
    };
    let Some(family) = family else {
        return Ok(Some(plain(name.to_string())));
    };
    if name == ROPE_FACTORS || LONGROPE.contains(&name) {
        return Ok(None);
    }
    let unknown = || format!("is not one that a {} has", family.architecture);
    let (stem, kind) = name.rsplit_once('.').ok_or_else(unknown)?;
    let scaled = family.moe.and_then(|moe| moe.beside).is_some();
    let known = matches!(kind, "weight" | "bias") || (kind == "scale" && scaled);
    if !known {
        return Err(unknown());
    }
    let names = &family.names;
    let Some((n, part)) = block_part(stem) else {
        let top = names.of_gguf(false, stem).ok_or_else(unknown)?;
        let mut target = plain(format!("{top}.{kind}"));
        target.change = shifted(family, top == names.norm, kind);
        return Ok(Some(target));
    };
    if n >= config.layers && drafts(config) {
        return Ok(None);
    }
    if n >= config.layers {
        return Err(format!(
            "belongs to block {n}, but block_count is {}",
            config.layers
        ));
    }
    if part == ROTARY {
        return Ok(None);
    }
    if let Some(expert) = family.moe.and_then(|moe| moe.of_gguf(part, kind)) {
        return Ok(Some(plain(format!("{}.{n}.{expert}", names.layers))));
    }
    let part = names.of_gguf(true, part).ok_or_else(unknown)?;
    let prefix = format!("{}.{n}.{part}", names.layers);
    if [names.sinks, names.layer_scale, ALTUP_SCALE].contains(&part) {
        return Ok(Some(plain(prefix)));
    }
    let interleaves = family.layout == Layout::Interleaved;
    let norms = [
        names.input_norm,
        names.post_attention,
        names.mlp_norm,
        names.post_mlp,
        names.q_norm,
        names.k_norm,
    ];
    let change = if interleaves && part == names.q {
        Change::Interleaved(config.heads)
    } else if interleaves && part == names.k {
        Change::Interleaved(config.kv_heads)
    } else {
        shifted(family, norms.contains(&part), kind)
    };
    Ok(Some(Target {
        name: format!("{prefix}.{kind}"),
        change,
    }))
}

/// Whether the last blocks draft tokens rather than being part of the model.
fn drafts(config: &Config) -> bool {
    let all = config.raw.as_object().into_iter().flatten();
    all.into_iter().any(|(key, value)| {
        key.ends_with(".nextn_predict_layers") && value.as_u64().is_some_and(|n| n > 0)
    })
}

/// llama.cpp adds the one to norms that count from one.
fn shifted(family: &Family, norm: bool, kind: &str) -> Change {
    if norm && kind == "weight" && family.norm.offset() != 0.0 {
        Change::PlusOne
    } else {
        Change::None
    }
}

/// The blocks that have the tensor `part`.
pub(super) fn blocks_with<'a>(names: impl Iterator<Item = &'a String>, part: &str) -> Vec<usize> {
    names
        .filter_map(|name| block_part(name))
        .filter_map(|(n, own)| (own == part).then_some(n))
        .collect()
}

/// The block number and part of `blk.N.PART`.
fn block_part(stem: &str) -> Option<(usize, &str)> {
    let (n, part) = stem.strip_prefix("blk.")?.split_once('.')?;
    // `01` or `+1` would name a block twice.
    let number = n
        .parse::<usize>()
        .ok()
        .filter(|parsed| parsed.to_string() == n)?;
    Some((number, part))
}
