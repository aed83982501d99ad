//! Finds a model's chat templates. Rendering them is Python's work.
use std::{collections::BTreeMap, fs, path::Path};

use candle_vllm_model::weights::gguf::{Metadata, Value as Gguf};
use serde_json::Value;

use super::folder::read;
use crate::{Error, Result};

/// Name of the template that is used when none is asked for.
pub(super) const DEFAULT: &str = "default";

/// Templates of a folder: `tokenizer_config.json`'s `chat_template` (a text, or a list of names and texts), over which go
/// `chat_template.json`, `chat_template.jinja` and `additional_chat_templates/NAME.jinja`, as in transformers.
pub(super) fn from_folder(folder: &Path, config: &Value) -> Result<BTreeMap<String, String>> {
    let mut templates = BTreeMap::new();
    add_json(
        &mut templates,
        &folder.join("tokenizer_config.json"),
        config.get("chat_template"),
    )?;
    let json = folder.join("chat_template.json");
    if let Some(text) = read(&json)? {
        let value: Value = serde_json::from_str(&text)
            .map_err(|e| Error::ModelLoad(format!("{} is not JSON: {e}", json.display())))?;
        add_json(&mut templates, &json, value.get("chat_template"))?;
    }
    if let Some(text) = read(&folder.join("chat_template.jinja"))? {
        templates.insert(DEFAULT.into(), text);
    }
    let more = folder.join("additional_chat_templates");
    if let Ok(entries) = fs::read_dir(&more) {
        for path in entries.flatten().map(|entry| entry.path()) {
            let name = path.file_stem().and_then(|stem| stem.to_str());
            if let (Some(name), Some("jinja")) = (name, path.extension().and_then(|e| e.to_str()))
                && let Some(text) = read(&path)?
            {
                templates.insert(name.to_owned(), text);
            }
        }
    }
    Ok(templates)
}

fn add_json(
    templates: &mut BTreeMap<String, String>,
    file: &Path,
    value: Option<&Value>,
) -> Result<()> {
    let wrong = || {
        let file = file.display();
        Error::ModelLoad(format!(
            "{file}: chat_template must be a text or a list of {{name, template}}"
        ))
    };
    match value {
        None | Some(Value::Null) => {}
        Some(Value::String(text)) => {
            templates.insert(DEFAULT.into(), text.clone());
        }
        Some(Value::Array(list)) => {
            for entry in list {
                let name = entry
                    .get("name")
                    .and_then(Value::as_str)
                    .ok_or_else(wrong)?;
                let text = entry
                    .get("template")
                    .and_then(Value::as_str)
                    .ok_or_else(wrong)?;
                templates.insert(name.to_owned(), text.to_owned());
            }
        }
        Some(Value::Object(map)) => {
            for (name, text) in map {
                templates.insert(name.clone(), text.as_str().ok_or_else(wrong)?.to_owned());
            }
        }
        Some(_) => return Err(wrong()),
    }
    Ok(())
}

/// Templates of GGUF metadata: `tokenizer.chat_template` and `tokenizer.chat_template.NAME`.
pub(super) fn from_gguf(metadata: &Metadata) -> BTreeMap<String, String> {
    let key = "tokenizer.chat_template";
    let all = metadata
        .0
        .range(key.to_owned()..)
        .take_while(|(k, _)| k.starts_with(key));
    let texts = all.filter_map(|(k, value)| match value {
        Gguf::Text(text) if k == key => Some((DEFAULT.to_owned(), text.clone())),
        Gguf::Text(text) => Some((k[key.len()..].strip_prefix('.')?.to_owned(), text.clone())),
        _ => None,
    });
    texts.collect()
}
