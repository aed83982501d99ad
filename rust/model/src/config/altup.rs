//! Streams beside the residual one, and gates that only outliers pass: Gemma 3n's, as config.json and GGUF say it.
use candle_core::cpu::erf::erf_inv;
use serde_json::Value;

use super::{bounds, fields::Fields};
use crate::{Result, family::Family};

/// Alternating updates, and how sparse the feed-forward parts are.
#[derive(Debug, Clone, PartialEq)]
pub struct AltUp {
    /// Streams.
    pub streams: usize,
    /// The one that layers compute with.
    pub active: usize,
    /// Whether it is scaled before it gates a layer's input.
    pub scaled: bool,
    /// Of each layer, by how many standard deviations above its mean a gate passes; `None` = all of it does.
    pub cuts: Vec<Option<f32>>,
}

fn streams(fields: &Fields<'_>, keys: [&str; 2]) -> Result<(usize, usize)> {
    let streams = fields.count(keys[0], bounds::STREAMS)?.unwrap_or(4);
    let active = fields.size(keys[1], streams - 1)?.unwrap_or(0);
    Ok((streams, active))
}

/// One number a layer, or one for all.
fn each(fields: &Fields<'_>, key: &str, layers: usize) -> Result<Option<Vec<Option<f64>>>> {
    Ok(match fields.get(key) {
        None => None,
        Some(Value::Array(all)) if all.len() == layers => {
            Some(all.iter().map(Value::as_f64).collect())
        }
        Some(Value::Array(_)) => {
            return Err(fields.bad(key, format_args!("expected {layers} numbers")));
        }
        Some(_) => Some(vec![fields.number(key)?; layers]),
    })
}

fn stands_in(family: Option<&Family>) -> bool {
    family.is_some_and(|f| f.names.altup)
}

/// Reads config.json; `None` for families with one stream.
pub(super) fn from_hf(
    fields: &Fields<'_>,
    family: Option<&Family>,
    layers: usize,
) -> Result<Option<AltUp>> {
    if !stands_in(family) {
        return Ok(None);
    }
    const SPARSITY: &str = "activation_sparsity_pattern";
    let (streams, active) = streams(fields, ["altup_num_inputs", "altup_active_idx"])?;
    let usual = |i| Some(if layers > 10 && i < 10 { 0.95 } else { 0.0 });
    let shares = each(fields, SPARSITY, layers)?;
    let shares = shares.unwrap_or_else(|| (0..layers).map(usual).collect());
    // The share of a normal distribution that lies below the cut.
    let cut = |share: Option<f64>| match share {
        Some(0.0) => Ok(None),
        Some(share) if (0.0..1.0).contains(&share) => {
            Ok(Some((erf_inv(2.0 * share - 1.0) * 2f64.sqrt()) as f32))
        }
        _ => Err(fields.bad(SPARSITY, "expected numbers from 0 to below 1")),
    };
    Ok(Some(AltUp {
        streams,
        active,
        scaled: fields.flag("altup_correct_scale")?.unwrap_or(true),
        cuts: shares.into_iter().map(cut).collect::<Result<_>>()?,
    }))
}

/// Reads GGUF metadata, where cuts stand in standard deviations, and no number where there is none; else as [`from_hf`].
pub(super) fn from_gguf(
    fields: &Fields<'_>,
    key: &impl Fn(&str) -> String,
    family: Option<&Family>,
    layers: usize,
) -> Result<Option<AltUp>> {
    if !stands_in(family) {
        return Ok(None);
    }
    let keys = ["altup.num_inputs", "altup.active_idx"].map(key);
    let (streams, active) = streams(fields, keys.each_ref().map(String::as_str))?;
    let cuts = each(fields, &key("activation_sparsity_scale"), layers)?;
    let cuts = cuts.unwrap_or_else(|| vec![None; layers]);
    let cut = |cut: Option<f64>| cut.map(|cut| cut as f32);
    Ok(Some(AltUp {
        streams,
        active,
        scaled: true,
        cuts: cuts.into_iter().map(cut).collect(),
    }))
}
