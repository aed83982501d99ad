//! The door of Hugging Face checkpoints: the text model inside one that also sees or hears, names that changed with time,
//! and rows that files keep otherwise than they are computed with.
use super::{
    mapped::{Change, Entry, MappedWeights},
    stacked,
};
use crate::{
    Error, Result,
    config::Config,
    family::{self, Family, Layout},
};

/// What checkpoints that also see or hear put before the text model's names.
const INSIDE: [(&str, &str); 4] = [
    ("model.language_model.lm_head.", "lm_head."),
    ("model.language_model.", "model."),
    ("language_model.lm_head.", "lm_head."),
    ("language_model.model.", "model."),
];
/// What the other parts are called.
const BESIDE: [&str; 14] = [
    "vision_tower.",
    "vision_model.",
    "visual.",
    "multi_modal_projector.",
    "audio_tower.",
    "embed_audio.",
    "embed_vision.",
    "model.vision_tower.",
    "model.vision_model.",
    "model.visual.",
    "model.multi_modal_projector.",
    "model.audio_tower.",
    "model.embed_audio.",
    "model.embed_vision.",
];

/// What layers that draft tokens are called where they stand apart.
const DRAFTING: [&str; 2] = ["mtp", "model.mtp"];

/// Renames the tensors of the text model and leaves out the others, which is said once.
///
/// # Errors
/// `Load` for a tensor of all experts that is not of their shape.
pub(super) fn text_model(weights: &mut MappedWeights, config: &Config) -> Result<()> {
    let family = family::find(&config.architecture);
    let composite = config.raw.get("text_config").is_some();
    let mut left_out = 0;
    let entries = std::mem::take(&mut weights.entries);
    for (name, mut entry) in entries {
        let beside = composite && BESIDE.iter().any(|part| name.starts_with(part));
        if beside || family.is_some_and(|f| drafts(f, &name, config)) {
            left_out += 1;
            continue;
        }
        let mut name = if composite { inside(&name) } else { name };
        if let Some(family) = family {
            name = current(family, name);
            entry.change = change(family, &name, &entry, config);
        }
        weights.entries.insert(name, entry);
    }
    if left_out > 0 {
        let architecture = &config.architecture;
        tracing::warn!(
            architecture,
            left_out,
            "only the text model is loaded: tensors of other parts and of drafting layers are left out"
        );
    }
    let Some((family, moe)) = family.and_then(|f| Some((f, f.moe?))) else {
        return Ok(());
    };
    stacked::cut(&mut weights.entries, family, moe.lying)
        .map_err(|what| Error::Load(format!("{}: tensor {what}", weights.place())))
}

/// Whether a tensor belongs to a layer that drafts tokens: one behind the last, where the configuration names such.
fn drafts(family: &Family, name: &str, config: &Config) -> bool {
    let named = |key| config.raw.get(key).and_then(serde_json::Value::as_u64);
    let behind = || {
        let rest = name.strip_prefix(family.names.layers)?.strip_prefix('.')?;
        let number: usize = rest.split('.').next()?.parse().ok()?;
        let more = named("num_nextn_predict_layers").or(named("num_mtp_layers"))?;
        Some(number >= config.layers && number - config.layers < more as usize)
    };
    let apart = |stem: &&str| {
        name.strip_prefix(*stem)
            .is_some_and(|r| r.starts_with(['.', '_']))
    };
    DRAFTING.iter().any(apart) || behind().unwrap_or(false)
}

fn inside(name: &str) -> String {
    let renamed = INSIDE
        .iter()
        .find_map(|(from, to)| Some(format!("{to}{}", name.strip_prefix(from)?)));
    renamed.unwrap_or_else(|| name.to_string())
}

/// The name that the family's published files have: the first GPT-2 files have none of the parts before the layers, and
/// transformers 5 calls every head alike.
fn current(family: &Family, name: String) -> String {
    let stem = family.names.layers.split('.').next().unwrap_or("");
    let bare = ["h.", "wte.", "wpe.", "ln_f."]
        .iter()
        .any(|part| name.starts_with(part));
    let sinks = family.names.sinks;
    if let Some(rest) = name
        .strip_suffix("self_attn.sinks")
        .filter(|_| !sinks.is_empty())
    {
        format!("{rest}{sinks}")
    } else if let Some(rest) = name.strip_prefix("lm_head.") {
        format!("{}.{rest}", family.names.head)
    } else if stem == "transformer" && bare {
        format!("{stem}.{name}")
    } else {
        name
    }
}

fn change(family: &Family, name: &str, entry: &Entry, config: &Config) -> Change {
    let part = |part: &str| {
        name.strip_prefix(family.names.layers).is_some_and(|rest| {
            let rest = rest
                .strip_suffix(".weight")
                .or_else(|| rest.strip_suffix(".bias"));
            rest.is_some_and(|rest| rest.ends_with(part))
        })
    };
    let names = &family.names;
    let matrices = [names.qkv, names.output, names.up, names.down];
    match family.layout {
        Layout::Transposed if entry.shape.len() == 2 && matrices.into_iter().any(part) => {
            Change::Transposed
        }
        Layout::ByHead if part(names.qkv) => Change::ByHead(config.heads),
        _ => Change::None,
    }
}
