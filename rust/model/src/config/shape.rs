//! What single layers have of their own, in families whose layers differ: widths and numbers of heads, widths of the
//! MLP, whose keys and values they read; and the inputs that each layer has beside the residual stream.
use serde_json::{Map, Value};

use super::{bounds, fields::Fields};
use crate::{
    Error, Result,
    family::{self, Sizes},
};

/// The shape of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerShape {
    /// Key/value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Width of a head's value.
    pub value_dim: usize,
    /// Dimensions of a head that rotate.
    pub rotary_dim: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// The layer before it whose keys and values it reads, having none of its own.
    pub reads: Option<usize>,
    /// Whether values are made of what keys are made of, by the same matrix.
    pub keyed: bool,
}

impl LayerShape {
    /// The most of each size; rotations are those of layers with the widest heads.
    pub(super) fn widest(all: &[LayerShape], base: LayerShape) -> LayerShape {
        all.iter().fold(base, |most, own| LayerShape {
            kv_heads: most.kv_heads.max(own.kv_heads),
            head_dim: most.head_dim.max(own.head_dim),
            value_dim: most.value_dim.max(own.value_dim),
            rotary_dim: most.rotary_dim.max(own.rotary_dim),
            intermediate_size: most.intermediate_size.max(own.intermediate_size),
            ..most
        })
    }
}

/// Inputs of each layer by token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerInputs {
    /// Width of a layer's.
    pub width: usize,
    /// Tokens that have them; others have those of token 0.
    pub rows: usize,
}

/// Widths of the MLP by `intermediate_size`: the largest, and those of all layers where each has its own.
pub(super) fn mlp_widths(
    fields: &Fields<'_>,
    key: &str,
    layers: usize,
) -> Result<Option<(usize, Vec<usize>)>> {
    let Some(Value::Array(each)) = fields.get(key) else {
        return Ok(fields
            .count(key, bounds::INTERMEDIATE)?
            .map(|n| (n, Vec::new())));
    };
    if each.len() != layers {
        return Err(fields.bad(key, format_args!("expected {layers} numbers")));
    }
    let each: Vec<usize> = each
        .iter()
        .map(|n| fields.as_count(key, n, bounds::INTERMEDIATE))
        .collect::<Result<_>>()?;
    Ok(each.iter().max().map(|most| (*most, each.clone())))
}

/// The layers of config.json, all as `base` but for what is said of them; `windows` and `widths` (of the MLP, may be
/// empty) have an entry a layer. None where all layers of the family are alike.
pub(super) fn from_hf(
    fields: &Fields<'_>,
    sizes: Sizes,
    base: LayerShape,
    windows: &[Option<usize>],
    widths: &[usize],
) -> Result<Vec<LayerShape>> {
    let (whole, shared) = match sizes {
        Sizes::Alike => return Ok(Vec::new()),
        Sizes::Windowed => return windowed(fields, base, windows),
        Sizes::Kinds { whole, shared } => (whole, shared),
    };
    if fields.text("use_bidirectional_attention")? == Some("all") {
        let what = "attention to later tokens is not supported";
        return Err(fields.bad("use_bidirectional_attention", what));
    }
    let keyed = fields.flag("attention_k_eq_v")?.unwrap_or(false);
    let mut all = vec![base; windows.len()];
    for ((layer, window), i) in all.iter_mut().zip(windows).zip(0..) {
        layer.keyed = keyed && window.is_none();
        layer.intermediate_size = widths.get(i).copied().unwrap_or(base.intermediate_size);
    }
    if let Some(own) = fields.object("per_layer_config")? {
        overridden(fields, own, &mut all)?;
    } else if let Some(default) = whole {
        const KEYS: [&str; 2] = ["global_head_dim", "num_global_key_value_heads"];
        let unsaid = if fields.mentions(KEYS[0]) {
            base.head_dim
        } else {
            default
        };
        let head_dim = fields.count(KEYS[0], bounds::HEAD_DIM)?.unwrap_or(unsaid);
        let kv_heads = fields.count(KEYS[1], bounds::HEADS)?.filter(|_| keyed);
        let kinds = all.iter_mut().zip(windows);
        for (layer, _) in kinds.filter(|(_, window)| window.is_none()) {
            layer.head_dim = head_dim;
            layer.kv_heads = kv_heads.unwrap_or(base.kv_heads);
        }
    }
    for layer in &mut all {
        (layer.rotary_dim, layer.value_dim) = (layer.head_dim, layer.head_dim);
    }
    const SHARED: &str = "num_kv_shared_layers";
    let shared = fields.size(SHARED, windows.len())?.unwrap_or(shared);
    share(fields, SHARED, shared, windows, &mut all)?;
    if fields.flag("use_double_wide_mlp")?.unwrap_or(false) {
        let readers = all.iter_mut().filter(|l| l.reads.is_some());
        readers.for_each(|l| l.intermediate_size *= 2);
    }
    Ok(all)
}

/// Layers with a window have `swa_num_key_value_heads`, twice those of the others where nothing is said.
fn windowed(
    fields: &Fields<'_>,
    base: LayerShape,
    windows: &[Option<usize>],
) -> Result<Vec<LayerShape>> {
    let alike = [
        ("swa_head_dim", base.head_dim),
        ("swa_v_head_dim", base.value_dim),
    ];
    for (key, other) in alike {
        if fields
            .count(key, bounds::HEAD_DIM)?
            .is_some_and(|n| n != other)
        {
            let what = format_args!("unlike that of layers without a window, {other}");
            return Err(fields.bad(key, what));
        }
    }
    let kv_heads = fields.count("swa_num_key_value_heads", bounds::HEADS)?;
    let own = LayerShape {
        kv_heads: kv_heads.unwrap_or(2 * base.kv_heads),
        ..base
    };
    let layer = |window: &Option<usize>| window.map_or(base, |_| own);
    Ok(windows.iter().map(layer).collect())
}

/// What `per_layer_config` says of layers, by their numbers.
fn overridden(fields: &Fields<'_>, own: &Map<String, Value>, all: &mut [LayerShape]) -> Result<()> {
    const KEY: &str = "per_layer_config";
    for (number, settings) in own {
        let layer = number.parse().ok().and_then(|n: usize| all.get_mut(n));
        let (Some(layer), Value::Object(settings)) = (layer, settings) else {
            return Err(fields.bad(KEY, "expected objects by the numbers of layers"));
        };
        let place = format!("{}: {KEY}: {number}", fields.place());
        let settings = Fields::new(&place, settings);
        for key in settings.map().keys() {
            match key.as_str() {
                "head_dim" => {
                    let n = settings.count(key, bounds::HEAD_DIM)?;
                    layer.head_dim = n.unwrap_or(layer.head_dim);
                }
                "num_key_value_heads" => {
                    let n = settings.count(key, bounds::HEADS)?;
                    layer.kv_heads = n.unwrap_or(layer.kv_heads);
                }
                "intermediate_size" => {
                    let n = settings.count(key, bounds::INTERMEDIATE)?;
                    layer.intermediate_size = n.unwrap_or(layer.intermediate_size);
                }
                _ => return Err(settings.bad(key, "for single layers is not supported")),
            }
        }
    }
    Ok(())
}

/// The last `count` layers read what the last layer of their kind before them has written.
fn share(
    fields: &Fields<'_>,
    key: &str,
    count: usize,
    windows: &[Option<usize>],
    all: &mut [LayerShape],
) -> Result<()> {
    let first = all.len().saturating_sub(count);
    for i in first..all.len() {
        let like = |n: &usize| windows[*n].is_some() == windows[i].is_some();
        let Some(read) = (0..first).rev().find(like) else {
            let what = "leaves no layer of each kind that keeps keys and values";
            return Err(fields.bad(key, what));
        };
        let (own, its) = (all[i], all[read]);
        if (own.kv_heads, own.head_dim) != (its.kv_heads, its.head_dim) {
            let what = format_args!("layers {read} and {i} share keys, but not their shape");
            return Err(fields.bad(key, what));
        }
        all[i].reads = Some(read);
    }
    Ok(())
}

/// The layers of GGUF metadata, as [`from_hf`], of families whose layers differ. `valued`: the layers that have a matrix
/// of values.
pub(super) fn from_gguf(
    fields: &Fields<'_>,
    key: &impl Fn(&str) -> String,
    base: LayerShape,
    (windows, widths, valued): (&[Option<usize>], &[usize], &[usize]),
) -> Result<Vec<LayerShape>> {
    // Of layers with a window, as of the others where their heads are as wide.
    let like = |other| {
        move |head_dim| {
            if head_dim == base.head_dim {
                other
            } else {
                head_dim
            }
        }
    };
    let windowed = |name: &str, default| {
        let key = key(name);
        Ok::<_, Error>(fields.count(&key, bounds::HEAD_DIM)?.unwrap_or(default))
    };
    let head_dim = windowed("attention.key_length_swa", base.head_dim)?;
    let value_dim = windowed("attention.value_length_swa", like(base.value_dim)(head_dim))?;
    let rotary_dim = windowed("rope.dimension_count_swa", like(base.rotary_dim)(head_dim))?;
    let heads = key("attention.head_count_kv");
    let kv_heads = match fields.get(&heads) {
        // Those that draft are counted too.
        Some(Value::Array(each)) if each.len() >= windows.len() => each[..windows.len()]
            .iter()
            .map(|n| fields.as_count(&heads, n, bounds::HEADS))
            .collect::<Result<_>>()?,
        Some(Value::Array(_)) => {
            let what = format_args!("expected {} numbers", windows.len());
            return Err(fields.bad(&heads, what));
        }
        _ => vec![base.kv_heads; windows.len()],
    };
    let of = |i: usize| LayerShape {
        kv_heads: kv_heads[i],
        head_dim: windows[i].map_or(base.head_dim, |_| head_dim),
        value_dim: windows[i].map_or(base.value_dim, |_| value_dim),
        rotary_dim: windows[i].map_or(base.rotary_dim, |_| rotary_dim),
        intermediate_size: widths.get(i).copied().unwrap_or(base.intermediate_size),
        reads: None,
        keyed: !valued.contains(&i),
    };
    let mut all: Vec<LayerShape> = (0..windows.len()).map(of).collect();
    let shared = key("attention.shared_kv_layers");
    let count = fields.size(&shared, windows.len())?.unwrap_or(0);
    share(fields, &shared, count, windows, &mut all)?;
    Ok(all)
}

/// The inputs of layers; `keys` are their width and the number of rows, which `rows` is where nothing is said.
pub(super) fn inputs(
    fields: &Fields<'_>,
    family: Option<family::LayerInputs>,
    keys: &[impl AsRef<str>; 2],
    rows: Option<usize>,
) -> Result<Option<LayerInputs>> {
    let Some(family) = family else {
        return Ok(None);
    };
    let [width, said] = keys.each_ref().map(AsRef::as_ref);
    let width = fields.size(width, bounds::HIDDEN)?;
    let rows = match rows {
        Some(rows) => rows,
        None => fields.count(said, bounds::VOCAB)?.unwrap_or(family.rows),
    };
    let width = width.unwrap_or(family.width);
    Ok((width > 0).then_some(LayerInputs { width, rows }))
}
