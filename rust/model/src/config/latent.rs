//! Widths and the scale of latent attention.
use super::{LatentShape, bounds, fields::Fields, rope::mscale};
use crate::{Error, Result};

/// A query's usual scale, made larger where positions are stretched: by the square of what yarn multiplies cos and sin by
/// elsewhere.
fn scale(shape: &LatentShape, stretch: Option<(f64, f64)>) -> f64 {
    let usual = ((shape.nope + shape.rotated) as f64).powf(-0.5);
    stretch.map_or(usual, |(factor, all)| usual * mscale(factor, all).powi(2))
}

/// The keys of config.json, of a family whose widths are `default` where they are silent; `rope` are the settings of the
/// rotation.
pub(super) fn from_hf(
    fields: &Fields<'_>,
    rope: &Fields<'_>,
    default: LatentShape,
) -> Result<LatentShape> {
    let width = |key: &str, default: usize| {
        Ok::<_, Error>(fields.count(key, bounds::HEAD_DIM)?.unwrap_or(default))
    };
    // null means that there is no narrow row; an absent key means the model type's default.
    let query = match fields.count("q_lora_rank", bounds::HIDDEN)? {
        None if fields.mentions("q_lora_rank") => None,
        None => default.query,
        some => some,
    };
    let read = LatentShape {
        query,
        rank: width("kv_lora_rank", default.rank)?,
        nope: width("qk_nope_head_dim", default.nope)?,
        rotated: width("qk_rope_head_dim", default.rotated)?,
        value: width("v_head_dim", default.value)?,
        scale: 1.0,
    };
    let stretch = match rope.positive("factor")? {
        Some(factor) => rope.number("mscale_all_dim")?.map(|all| (factor, all)),
        None => None,
    };
    let scale = scale(&read, stretch.filter(|(_, all)| *all != 0.0));
    Ok(LatentShape { scale, ..read })
}

/// The keys of GGUF metadata; `key` puts the architecture before a name.
pub(super) fn from_gguf(fields: &Fields<'_>, key: &impl Fn(&str) -> String) -> Result<LatentShape> {
    let width = |name: &str| {
        let key = key(name);
        fields.need(&key, fields.count(&key, bounds::HEAD_DIM)?)
    };
    let (rotated, whole) = (
        width("rope.dimension_count")?,
        width("attention.key_length_mla")?,
    );
    let nope = whole.checked_sub(rotated).filter(|n| *n > 0);
    let read = LatentShape {
        query: fields.count(&key("attention.q_lora_rank"), bounds::HIDDEN)?,
        rank: width("attention.kv_lora_rank")?,
        nope: fields.need(&key("attention.key_length_mla"), nope)?,
        rotated,
        value: width("attention.value_length_mla")?,
        scale: 1.0,
    };
    // A tenth of `mscale_all_dim`.
    let all = fields.number(&key("rope.scaling.yarn_log_multiplier"))?;
    let stretch = fields.positive(&key("rope.scaling.factor"))?.zip(all);
    let scale = scale(&read, stretch.map(|(factor, all)| (factor, 10.0 * all)));
    Ok(LatentShape { scale, ..read })
}
