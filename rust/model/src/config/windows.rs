//! Which layers see how far back, and which rotate how: from the keys of config.json, or by a family's rule.
use serde_json::Value;

use super::{RopeScaling, Rotation, bounds, fields::Fields, rope::Rope};
use crate::{
    Result,
    family::{Rotations, Windows},
};

/// The window of each layer, by config.json.
pub(super) fn from_hf(
    fields: &Fields<'_>,
    rule: &Windows,
    layers: usize,
) -> Result<Vec<Option<usize>>> {
    const KEY: &str = "sliding_window";
    let (default, on, first) = match rule {
        Windows::Never => return Ok(vec![None; layers]),
        Windows::Chunks { default, interval } => {
            return chunks(fields, *default, *interval, layers);
        }
        Windows::Hybrid { default, interval } => {
            return hybrid(fields, *default, *interval, layers);
        }
        Windows::All { default } => (*default, used(fields, true)?, 0),
        Windows::Pattern { default, .. } => (*default, used(fields, true)?, 0),
        Windows::OpenEnded { default, .. } => (Some(*default), used(fields, true)?, 0),
        Windows::Upper {
            default,
            first,
            unsaid,
        } => {
            let first = match fields.get("max_window_layers") {
                // 0 is a real value here: a window on every layer.
                Some(v) if v.as_u64() == Some(0) => 0,
                _ => fields
                    .count("max_window_layers", bounds::WINDOW)?
                    .unwrap_or(*first),
            };
            (Some(*default), used(fields, *unsaid)?, first)
        }
    };
    let default = if fields.mentions(KEY) { None } else { default };
    let window = if on {
        fields.count(KEY, bounds::WINDOW)?.or(default)
    } else {
        None
    };
    let open = matches!(rule, Windows::OpenEnded { .. });
    let mut all = match (fields.get("layer_types"), rule) {
        (Some(types), _) => layer_types(fields, types, window, layers)?,
        (None, Windows::Pattern { pattern, .. } | Windows::OpenEnded { pattern, .. }) => {
            by_pattern(window, given_pattern(fields, *pattern)?, layers)
        }
        _ => (0..layers).map(|i| window.filter(|_| i >= first)).collect(),
    };
    if let Some(last) = all.last_mut().filter(|_| open) {
        *last = None;
    }
    Ok(all)
}

/// Chunks in the layers that rotate, unless `layer_types` says which.
fn chunks(
    fields: &Fields<'_>,
    default: usize,
    interval: usize,
    layers: usize,
) -> Result<Vec<Option<usize>>> {
    const KEY: &str = "attention_chunk_size";
    let default = (!fields.mentions(KEY)).then_some(default);
    let size = fields.count(KEY, bounds::WINDOW)?.or(default);
    if let Some(types) = fields.get("layer_types") {
        return layer_types(fields, types, size, layers);
    }
    let still = still(fields, interval)?;
    Ok((0..layers).map(|i| size.filter(|_| !still(i))).collect())
}

/// MiMo's windows, which are told in two ways.
fn hybrid(
    fields: &Fields<'_>,
    default: usize,
    interval: usize,
    layers: usize,
) -> Result<Vec<Option<usize>>> {
    const MARKS: &str = "hybrid_layer_pattern";
    let before = fields.count("sliding_window_size", bounds::WINDOW)?;
    let window = match before {
        Some(before) => before + 1,
        None => fields
            .count("sliding_window", bounds::WINDOW)?
            .unwrap_or(default),
    };
    if let Some(types) = fields.get("layer_types") {
        return layer_types(fields, types, Some(window), layers);
    }
    let Some(marks) = fields.get(MARKS) else {
        return Ok(by_interval(Some(window), interval, layers));
    };
    let mark = |v: &Value| match v.as_u64() {
        Some(0) => Some(None),
        Some(1) => Some(Some(window)),
        _ => None,
    };
    let marks = marks.as_array().filter(|m| m.len() == layers);
    let all = marks.and_then(|m| m.iter().map(mark).collect());
    all.ok_or_else(|| fields.bad(MARKS, format_args!("expected 0 or 1 for {layers} layers")))
}

/// All but the first and the last of every `interval` layers have the window.
pub(super) fn by_interval(
    window: Option<usize>,
    interval: usize,
    layers: usize,
) -> Vec<Option<usize>> {
    let mut all = by_pattern(window, interval, layers);
    if let Some(first) = all.first_mut() {
        *first = None;
    }
    all
}

/// Which layers do not rotate: those that `no_rope_layers` marks by 0, else the last of every so many.
fn still<'a>(fields: &Fields<'a>, interval: usize) -> Result<impl Fn(usize) -> bool + use<'a>> {
    let marks = fields.get("no_rope_layers").and_then(Value::as_array);
    let marks = marks.filter(|m| !m.is_empty());
    let given = fields.count("no_rope_layer_interval", bounds::LAYERS)?;
    let interval = given.unwrap_or(interval);
    Ok(move |i: usize| match marks {
        Some(marks) => marks.get(i).and_then(Value::as_u64) == Some(0),
        None => (i + 1).is_multiple_of(interval),
    })
}

fn used(fields: &Fields<'_>, default: bool) -> Result<bool> {
    Ok(fields.flag("use_sliding_window")?.unwrap_or(default))
}

/// `sliding_window_pattern`: a number, or letters of which L is a layer with a window (EXAONE).
fn given_pattern(fields: &Fields<'_>, default: usize) -> Result<usize> {
    const KEYS: [&str; 2] = ["sliding_window_pattern", "_sliding_window_pattern"];
    for key in KEYS {
        match fields.get(key) {
            None => {}
            Some(Value::String(letters)) if letters.trim_start_matches('L') == "G" => {
                return Ok(letters.len());
            }
            Some(_) => return Ok(fields.count(key, bounds::LAYERS)?.unwrap_or(default)),
        }
    }
    Ok(default)
}

/// All but the last of every `pattern` layers have the window.
pub(super) fn by_pattern(
    window: Option<usize>,
    pattern: usize,
    layers: usize,
) -> Vec<Option<usize>> {
    let whole = |i: usize| (i + 1).is_multiple_of(pattern);
    (0..layers).map(|i| window.filter(|_| !whole(i))).collect()
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
            Some("sliding_attention" | "chunked_attention") if window.is_some() => Ok(window),
            Some("sliding_attention") => {
                Err(fields.bad(KEY, "needs sliding_window, which is not set or not in use"))
            }
            _ => Err(fields.bad(KEY, format_args!("{kind} is not supported"))),
        })
        .collect()
}

/// How each layer rotates; `windows` has an entry a layer.
pub(super) fn rotations(
    fields: &Fields<'_>,
    rule: Rotations,
    rope: &Rope,
    windows: &[Option<usize>],
) -> Result<Vec<Rotation>> {
    let each = |of: &dyn Fn(usize, bool) -> Rotation| {
        let layers = windows.iter().enumerate();
        Ok(layers.map(|(i, w)| of(i, w.is_some())).collect())
    };
    let own = |theta: f64, scaling: RopeScaling| Rotation::Own { theta, scaling };
    match rule {
        Rotations::Never => each(&|_, _| Rotation::None),
        Rotations::Alike => each(&|_, _| Rotation::Main),
        Rotations::Local(theta) | Rotations::Proportional { local: theta, .. } => {
            let (theta, scaling) = rope.local.clone().unwrap_or((theta, RopeScaling::None));
            let local = own(theta, scaling);
            each(&|_, w| if w { local.clone() } else { Rotation::Main })
        }
        Rotations::LocalPlain => {
            let (theta, scaling) = rope
                .local
                .clone()
                .unwrap_or((rope.theta, RopeScaling::None));
            let plain = own(theta, scaling);
            each(&|_, w| if w { plain.clone() } else { Rotation::Main })
        }
        Rotations::WindowsOnly => {
            let some = windows.iter().any(Option::is_some);
            each(&|_, w| {
                if w || !some {
                    Rotation::Main
                } else {
                    Rotation::None
                }
            })
        }
        Rotations::Interval(default) => {
            let none = still(fields, default)?;
            each(&|i, _| {
                if none(i) {
                    Rotation::None
                } else {
                    Rotation::Main
                }
            })
        }
        Rotations::Each => each_theta(fields, windows.len()),
    }
}

fn each_theta(fields: &Fields<'_>, layers: usize) -> Result<Vec<Rotation>> {
    const KEY: &str = "layer_rope_theta";
    let Some(list) = fields.get(KEY) else {
        return Ok(vec![Rotation::Main; layers]);
    };
    let list = list.as_array().filter(|l| l.len() == layers);
    let list = list.ok_or_else(|| fields.bad(KEY, format_args!("expected {layers} numbers")))?;
    let of = |theta: &Value| match theta.as_f64() {
        Some(0.0) => Ok(Rotation::None),
        Some(theta) if theta > 1.0 => Ok(Rotation::Own {
            theta,
            scaling: RopeScaling::None,
        }),
        _ => Err(fields.bad(KEY, "expected numbers above 1, or 0")),
    };
    list.iter().map(of).collect()
}
