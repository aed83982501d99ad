//! The door of Hugging Face checkpoints: the text model inside one that also sees or hears, names that changed with time,
//! and rows that files keep otherwise than they are computed with.
use super::mapped::{Change, Entry, MappedWeights};
use crate::{
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
const BESIDE: [&str; 12] = [
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
];

/// Renames the tensors of the text model and leaves out the others, which is said once.
pub(super) fn text_model(weights: &mut MappedWeights, config: &Config) {
    let family = family::find(&config.architecture);
    let composite = config.raw.get("text_config").is_some();
    let mut left_out = 0;
    let entries = std::mem::take(&mut weights.entries);
    for (name, mut entry) in entries {
        if composite && BESIDE.iter().any(|part| name.starts_with(part)) {
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
            "only the text model is loaded: tensors of other parts are left out"
        );
    }
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
    if let Some(rest) = name.strip_prefix("lm_head.") {
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
