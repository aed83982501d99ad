//! How many experts there are, how wide they are and how they are chosen, as config.json and GGUF name it.
use candle_vllm_kernels::cpu::{Clamped, routing::Scores};
use serde_json::Value;

use super::{bounds, fields::Fields};
use crate::{
    Error, Result,
    family::{self, Normalised},
};

/// Numbers of a mixture of experts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moe {
    /// Experts a layer.
    pub experts: usize,
    /// Experts a row.
    pub used: usize,
    /// Width of an expert.
    pub width: usize,
    /// Width of the expert that all rows go to, if there is one.
    pub shared: Option<usize>,
    /// What experts are chosen by.
    pub scores: Scores,
    /// Whether the weights of a row are divided by their sum.
    pub normalise: bool,
    /// What they are multiplied with.
    pub factor: f64,
    /// How many groups experts stand in, and of how many they are chosen.
    pub groups: Option<[usize; 2]>,
    /// The experts' activation, where it is not the model's.
    pub clamped: Option<Clamped>,
}

/// The keys of the two kinds of files; the first that stands there counts.
struct Keys<'a> {
    experts: &'a [&'a str],
    used: &'a [&'a str],
    width: &'a [&'a str],
    shared_width: &'a [&'a str],
    shared_count: &'a [&'a str],
    groups: [&'a str; 2],
    normalise: &'a str,
    factor: &'a str,
}

const HF: Keys<'_> = Keys {
    experts: &[
        "num_experts",
        "num_local_experts",
        "n_routed_experts",
        "moe_num_experts",
    ],
    used: &["num_experts_per_tok", "moe_k", "moe_topk", "top_k_experts"],
    width: &["moe_intermediate_size", "intermediate_size"],
    shared_width: &["shared_expert_intermediate_size"],
    shared_count: &[
        "n_shared_experts",
        "num_shared_experts",
        "moe_num_shared_experts",
        "num_shared_expert",
    ],
    groups: ["n_group", "topk_group"],
    normalise: "norm_topk_prob",
    factor: "routed_scaling_factor",
};

/// Reads config.json; none where a family may be without experts and this configuration is.
pub(super) fn from_hf(fields: &Fields<'_>, family: &family::Moe) -> Result<Option<Moe>> {
    if family.beside.is_some() && !fields.flag("enable_moe_block")?.unwrap_or(false) {
        return Ok(None);
    }
    let mut moe = read(fields, family, &HF)?;
    if let Scores::SparseMixer(jitter) = &mut moe.scores {
        let said = fields.number("router_jitter_noise")?;
        *jitter = said.map_or(*jitter, |noise| noise as f32);
    }
    if let Some(clamped) = &mut moe.clamped {
        let said = |key| Ok::<_, Error>(fields.positive(key)?.map(|v| v as f32));
        clamped.alpha = said("swiglu_alpha")?.unwrap_or(clamped.alpha);
        clamped.limit = said("swiglu_limit")?.unwrap_or(clamped.limit);
    }
    // DeepSeek V2's smaller sizes have groups and choose without them.
    if fields.text("topk_method")? == Some("greedy") {
        moe.groups = None;
    }
    moe.normalise = match family.normalised {
        Normalised::Always => true,
        Normalised::Never => false,
        Normalised::Said { hf, .. } => fields.flag(HF.normalise)?.unwrap_or(hf),
    };
    Ok(Some(moe))
}

/// Reads `{prefix}.*` of GGUF metadata; none as [`from_hf`].
pub(super) fn from_gguf(
    fields: &Fields<'_>,
    prefix: &str,
    family: &family::Moe,
) -> Result<Option<Moe>> {
    let key = |name: &str| format!("{prefix}.{name}");
    let [experts, used, shared_count] =
        ["expert_count", "expert_used_count", "expert_shared_count"].map(key);
    let [width, dense, shared_width] = [
        "expert_feed_forward_length",
        "feed_forward_length",
        "expert_shared_feed_forward_length",
    ]
    .map(key);
    let [groups, used_groups] = ["expert_group_count", "expert_group_used_count"].map(key);
    let [normalise, factor] = ["expert_weights_norm", "expert_weights_scale"].map(key);
    let keys = Keys {
        experts: &[&experts],
        used: &[&used],
        width: &[&width, &dense],
        shared_width: &[&shared_width],
        shared_count: &[&shared_count],
        groups: [&groups, &used_groups],
        normalise: &normalise,
        factor: &factor,
    };
    if family.beside.is_some() && first(fields, keys.experts, bounds::EXPERTS)?.is_none() {
        return Ok(None);
    }
    let mut moe = read(fields, family, &keys)?;
    let gating = key("expert_gating_func");
    moe.scores = match fields.count(&gating, 3)? {
        None => moe.scores,
        Some(1) => Scores::Softmax,
        Some(2) => Scores::Sigmoid,
        Some(_) => Scores::ChosenSoftmax,
    };
    moe.normalise = match family.normalised {
        Normalised::Always => true,
        Normalised::Never => false,
        Normalised::Said { gguf, .. } => fields.flag(keys.normalise)?.unwrap_or(gguf),
    };
    Ok(Some(moe))
}

/// A count that may stand there for each layer, and then has to be the same for all; 0 is no count.
fn count(fields: &Fields<'_>, key: &str, max: usize) -> Result<Option<usize>> {
    let value = match fields.get(key) {
        Some(Value::Array(each)) => {
            let first = fields.need(key, each.first())?;
            if each.iter().any(|v| v != first) {
                let what = "different values for different layers are not supported";
                return Err(fields.bad(key, what));
            }
            first
        }
        Some(value) => value,
        None => return Ok(None),
    };
    if value.as_u64() == Some(0) {
        return Ok(None);
    }
    fields.as_count(key, value, max).map(Some)
}

fn first(fields: &Fields<'_>, keys: &[&str], max: usize) -> Result<Option<usize>> {
    for key in keys {
        if fields.get(key).is_some() {
            return count(fields, key, max);
        }
    }
    Ok(None)
}

fn read(fields: &Fields<'_>, family: &family::Moe, keys: &Keys<'_>) -> Result<Moe> {
    let need = |of: &[&str], max| fields.need(of[0], first(fields, of, max)?);
    let experts = need(keys.experts, bounds::EXPERTS)?;
    let used = need(keys.used, experts)?;
    let width = need(keys.width, bounds::INTERMEDIATE)?;
    let shared = if family.shared.is_empty() {
        None
    } else if let Some(width) = first(fields, keys.shared_width, bounds::INTERMEDIATE)? {
        Some(width)
    } else {
        let said = keys.shared_count.iter().any(|k| fields.get(k).is_some());
        let number = first(fields, keys.shared_count, bounds::EXPERTS)?;
        number
            .or(if said { None } else { Some(1) })
            .map(|n| n * width)
    };
    Ok(Moe {
        experts,
        used,
        width,
        shared,
        scores: family.scores,
        normalise: false,
        factor: fields.positive(keys.factor)?.unwrap_or(1.0),
        groups: groups(fields, keys.groups, experts)?,
        clamped: family.clamped,
    })
}

fn groups(fields: &Fields<'_>, keys: [&str; 2], experts: usize) -> Result<Option<[usize; 2]>> {
    let of = |key| Ok::<_, Error>(count(fields, key, experts)?.unwrap_or(1));
    let [number, used] = [of(keys[0])?, of(keys[1])?];
    if number == 1 {
        return Ok(None);
    }
    if !experts.is_multiple_of(number) || used > number {
        let what = format_args!("does not fit {experts} experts, of which {used} groups are used");
        return Err(fields.bad(keys[0], what));
    }
    Ok(Some([number, used]))
}
