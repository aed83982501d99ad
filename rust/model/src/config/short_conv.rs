//! Layers that convolve in place of attending (LFM2): which they are, and over how many tokens.
use serde_json::Value;

use super::{bounds, fields::Fields};
use crate::{Result, family::Family};

/// Gated short convolutions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShortConv {
    /// Whether each layer convolves; the others attend.
    pub own: Vec<bool>,
    /// Tokens that an output is made of, at least 2.
    pub taps: usize,
}

impl ShortConv {
    fn new(fields: &Fields<'_>, key: &str, taps: usize, own: Vec<bool>) -> Result<Self> {
        if taps < 2 {
            return Err(fields.bad(key, "expected at least 2"));
        }
        Ok(Self { own, taps })
    }
}

/// By `layer_types`, or by `full_attn_idxs` of older files; over `default` tokens where config.json is silent. `None` in
/// families that have no such layers.
pub(super) fn from_hf(
    fields: &Fields<'_>,
    default: Option<usize>,
    layers: usize,
) -> Result<Option<ShortConv>> {
    const TYPES: &str = "layer_types";
    const ATTENDING: &str = "full_attn_idxs";
    const TAPS: &str = "conv_L_cache";
    let Some(default) = default else {
        return Ok(None);
    };
    let own = match (fields.get(TYPES), fields.get(ATTENDING)) {
        (Some(Value::Array(types)), _) if types.len() == layers => {
            let of = |kind: &Value| match kind.as_str() {
                Some("conv") => Ok(true),
                Some("full_attention") => Ok(false),
                _ => Err(fields.bad(TYPES, format_args!("{kind} is not supported"))),
            };
            types.iter().map(of).collect::<Result<_>>()?
        }
        (Some(_), _) => {
            return Err(fields.bad(TYPES, format_args!("expected a list of {layers} names")));
        }
        (None, Some(Value::Array(which))) => {
            let attends = |i: usize| which.iter().any(|v| v.as_u64() == Some(i as u64));
            (0..layers).map(|i| !attends(i)).collect()
        }
        (None, Some(_)) => return Err(fields.bad(ATTENDING, "expected a list of numbers")),
        (None, None) => vec![false; layers],
    };
    let taps = fields.count(TAPS, bounds::TAPS)?.unwrap_or(default);
    ShortConv::new(fields, TAPS, taps, own).map(Some)
}

/// The width of the MLP that LFM2's configurations mean by the `width` that they name: two thirds of it, times
/// `block_ffn_dim_multiplier`, rounded up to `block_multiple_of`, unless `block_auto_adjust_ff_dim` is off (transformers
/// `modeling_lfm2.py`, Lfm2MLP).
pub(super) fn mlp_width(fields: &Fields<'_>, width: usize) -> Result<usize> {
    let unsaid = fields.text("model_type")? == Some("lfm2");
    if !fields.flag("block_auto_adjust_ff_dim")?.unwrap_or(unsaid) {
        return Ok(width);
    }
    let factor = fields.positive("block_ffn_dim_multiplier")?.unwrap_or(1.0);
    let multiple = fields.count("block_multiple_of", bounds::INTERMEDIATE)?;
    let scaled = factor * (2 * width / 3) as f64;
    let adjusted = (scaled as usize).next_multiple_of(multiple.unwrap_or(256));
    match adjusted {
        1..=bounds::INTERMEDIATE => Ok(adjusted),
        _ => Err(fields.bad("block_ffn_dim_multiplier", "makes a width out of range")),
    }
}

/// By the layers without key/value heads; `None` as in [`from_hf`].
pub(super) fn from_gguf(
    fields: &Fields<'_>,
    key: &impl Fn(&str) -> String,
    family: Option<&Family>,
    layers: usize,
) -> Result<Option<ShortConv>> {
    if family.is_none_or(|f| f.defaults.conv.is_none()) {
        return Ok(None);
    }
    let heads = fields.get(&key("attention.head_count_kv"));
    let heads = heads.and_then(Value::as_array);
    let none = |i: usize| heads.and_then(|h| h.get(i)).and_then(Value::as_u64) == Some(0);
    let own = (0..layers).map(none).collect();
    let key = key("shortconv.l_cache");
    let taps = fields.need(&key, fields.count(&key, bounds::TAPS)?)?;
    ShortConv::new(fields, &key, taps, own).map(Some)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use serde_json::json;

    fn with<T>(map: Value, f: impl Fn(&Fields<'_>) -> Result<T>) -> Result<T> {
        let Value::Object(map) = map else {
            panic!("an object")
        };
        f(&Fields::new("config.json", &map))
    }

    #[test]
    fn layers_are_told_in_two_ways() {
        let hf = |map| with(map, |f| from_hf(f, Some(3), 4));
        let want = Some(ShortConv {
            own: vec![true, true, false, true],
            taps: 3,
        });
        let types = json!(["conv", "conv", "full_attention", "conv"]);
        assert_eq!(hf(json!({"layer_types": types})).unwrap(), want);
        assert_eq!(
            hf(json!({"full_attn_idxs": [2], "conv_L_cache": 3})).unwrap(),
            want
        );
        let gguf = json!({"a.attention.head_count_kv": [0, 0, 2, 0], "a.shortconv.l_cache": 3});
        let key = |name: &str| format!("a.{name}");
        let family = crate::family::find("Lfm2ForCausalLM");
        let read = with(gguf.clone(), |f| from_gguf(f, &key, family, 4));
        assert_eq!(read.unwrap(), want);
        assert_eq!(with(gguf, |f| from_gguf(f, &key, None, 4)).unwrap(), None);
        for (wrong, named) in [
            (json!({"layer_types": ["conv"]}), "layer_types"),
            (
                json!({"layer_types": ["conv", "conv", "mamba", "conv"]}),
                "mamba",
            ),
            (json!({"full_attn_idxs": 2}), "full_attn_idxs"),
            (json!({"conv_L_cache": 1}), "conv_L_cache"),
        ] {
            let text = hf(wrong.clone()).unwrap_err().to_string();
            assert!(text.contains(named), "{wrong}: {text}");
        }
    }

    #[test]
    fn published_widths_are_what_their_tensors_have() {
        let of = |map, width| with(map, |f| mlp_width(f, width)).unwrap();
        // LFM2-1.2B, LFM2-350M.
        let said = json!({"block_auto_adjust_ff_dim": true, "block_multiple_of": 256});
        assert_eq!((of(said.clone(), 12_288), of(said, 6656)), (8192, 4608));
        assert_eq!(of(json!({"model_type": "lfm2"}), 12_288), 8192);
        assert_eq!(
            of(json!({"block_auto_adjust_ff_dim": false}), 12_288),
            12_288
        );
        assert_eq!(of(json!({"model_type": "lfm2_moe"}), 160), 160);
    }
}
