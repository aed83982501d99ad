//! What config.json says of how a checkpoint's weights are quantised. Knows where it stands there; what the settings of a
//! method mean, its scheme knows.
use serde_json::{Map, Value};

use super::SCHEMES;

/// Keys under which writers put it.
const KEYS: [&str; 2] = ["quantization_config", "compression_config"];

/// A method and its settings.
#[derive(Debug, Clone, PartialEq)]
pub struct Quantization {
    /// `gptq`, `awq`, `compressed-tensors`, `fp8` ...
    pub method: String,
    settings: Map<String, Value>,
}

impl Quantization {
    /// What `config`, a whole config.json, says; `None` when the weights are plain.
    ///
    /// # Errors
    /// The key, and what about it cannot be honoured.
    pub fn of(config: &Value) -> Result<Option<Self>, String> {
        let inner = config.get("text_config");
        let places = [Some(config), inner].into_iter().flatten();
        let found = places
            .flat_map(|place| KEYS.map(|key| (key, place.get(key))))
            .find_map(|(key, value)| Some((key, value.filter(|v| !v.is_null())?)));
        let Some((key, value)) = found else {
            return Ok(None);
        };
        let Some(settings) = value.as_object() else {
            return Err(format!("{key} is not an object"));
        };
        let read = Self {
            method: match settings.get("quant_method") {
                Some(Value::String(method)) => method.clone(),
                // compressed-tensors wrote none at first.
                _ if settings.contains_key("config_groups") => "compressed-tensors".into(),
                _ => "unnamed".into(),
            },
            settings: settings.clone(),
        };
        read.check().map_err(|what| format!("{key}: {what}"))?;
        Ok(Some(read))
    }

    fn check(&self) -> Result<(), String> {
        let own = || {
            SCHEMES
                .iter()
                .filter(|s| s.methods.contains(&&*self.method))
        };
        if own().next().is_none() {
            let mut known: Vec<&str> = SCHEMES.iter().flat_map(|s| s.methods).copied().collect();
            known.sort_unstable();
            known.dedup();
            return Err(format!(
                "the quantisation method {} is not supported; supported are {}",
                self.method,
                known.join(", ")
            ));
        }
        own().try_for_each(|scheme| (scheme.check)(self))
    }

    /// A setting; null counts as absent.
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.settings.get(key).filter(|v| !v.is_null())
    }

    /// A setting that is text.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_str()
    }

    /// Refuses a setting unless it is absent or one of `allowed`.
    pub(super) fn only(&self, key: &str, allowed: &[Value]) -> Result<(), String> {
        only(&self.method, key, self.get(key), allowed)
    }

    /// The settings of each group of compressed-tensors' weights.
    pub(super) fn groups(&self) -> impl Iterator<Item = &Value> {
        let groups = self.get("config_groups").and_then(Value::as_object);
        groups.into_iter().flat_map(Map::values)
    }

    /// Rows and columns that one scale covers, where the settings say so.
    pub(super) fn block(&self) -> Option<[usize; 2]> {
        let of = |value: &Value| {
            let sides = value.as_array()?;
            let side = |i: usize| usize::try_from(sides.get(i)?.as_u64()?).ok();
            Some([side(0)?, side(1)?])
        };
        let grouped = || {
            self.groups()
                .find_map(|g| of(g.get("weights")?.get("block_structure")?))
        };
        self.get("weight_block_size")
            .and_then(of)
            .or_else(grouped)
            .filter(|sides| sides.iter().all(|s| *s > 0))
    }
}

/// Refuses `value`, which stands under `key`, unless it is absent or one of `allowed`.
pub(super) fn only(
    method: &str,
    key: &str,
    value: Option<&Value>,
    allowed: &[Value],
) -> Result<(), String> {
    match value.filter(|v| !v.is_null()) {
        Some(value) if !allowed.contains(value) => {
            let list: Vec<String> = allowed.iter().map(Value::to_string).collect();
            Err(format!(
                "{method} with {key} {value} is not supported, only {}",
                list.join(", ")
            ))
        }
        _ => Ok(()),
    }
}
