//! Which Hugging Face name a GGUF tensor has, and which rows the converter moved. Source: llama.cpp
//! `gguf-py/gguf/tensor_mapping.py`, `convert_hf_to_gguf.py`. A new architecture is a row of `FAMILIES`.
use crate::config::Config;

/// llama.cpp's tensor of rotary frequency factors; it becomes part of the configuration.
pub(super) const ROPE_FACTORS: &str = "rope_freqs.weight";

/// Early converters stored the inverse frequencies, which follow from the configuration.
const ROTARY: &str = "attn_rot_embd";

/// Tensors outside the blocks.
const TOP: &[(&str, &str)] = &[
    ("token_embd", "model.embed_tokens"),
    ("output_norm", "model.norm"),
    ("output", "lm_head"),
];

/// Architectures whose tensors stand under the same names.
pub(super) struct Family {
    /// Hugging Face name of the architecture.
    architecture: &'static str,
    /// Parts of a block: GGUF's name after `blk.N.`, Hugging Face's after `model.layers.N.`.
    block: &'static [(&'static str, &'static str)],
    /// Whether the converter interleaved the rows of q and k for pairwise rotation.
    interleaved: bool,
}

/// Pre-norm decoders with a gated MLP and, in some, q and k norms.
const DENSE: &[(&str, &str)] = &[
    ("attn_norm", "input_layernorm"),
    ("attn_q", Q),
    ("attn_k", K),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

const Q: &str = "self_attn.q_proj";
const K: &str = "self_attn.k_proj";

const FAMILIES: &[Family] = &[
    Family {
        architecture: "LlamaForCausalLM",
        block: DENSE,
        interleaved: true,
    },
    Family {
        architecture: "Qwen2ForCausalLM",
        block: DENSE,
        interleaved: false,
    },
    Family {
        architecture: "Qwen3ForCausalLM",
        block: DENSE,
        interleaved: false,
    },
];

/// The family of an architecture, if its tensor names are known.
pub(super) fn family(architecture: &str) -> Option<&'static Family> {
    FAMILIES.iter().find(|f| f.architecture == architecture)
}

/// A tensor behind the door.
pub(super) struct Target {
    /// Hugging Face name.
    pub name: String,
    /// Heads whose rows are interleaved, if any are.
    pub interleaved: Option<usize>,
}

/// What `name` is called; `None` for tensors that no model reads. Without a family names stay as they are, so that the
/// architecture, not a tensor, is what the message to the user is about.
pub(super) fn hugging_face(
    family: Option<&Family>,
    name: &str,
    config: &Config,
) -> std::result::Result<Option<Target>, String> {
    let plain = |name: String| Target {
        name,
        interleaved: None,
    };
    let Some(family) = family else {
        return Ok(Some(plain(name.to_string())));
    };
    if name == ROPE_FACTORS {
        return Ok(None);
    }
    let unknown = || format!("is not one that a {} has", family.architecture);
    let (stem, kind) = name.rsplit_once('.').ok_or_else(unknown)?;
    if !matches!(kind, "weight" | "bias") {
        return Err(unknown());
    }
    if let Some((_, top)) = TOP.iter().find(|(gguf, _)| *gguf == stem) {
        return Ok(Some(plain(format!("{top}.{kind}"))));
    }
    let (n, part) = block_part(stem).ok_or_else(unknown)?;
    if n >= config.layers {
        return Err(format!(
            "belongs to block {n}, but block_count is {}",
            config.layers
        ));
    }
    if part == ROTARY {
        return Ok(None);
    }
    let known = family.block.iter().find(|(gguf, _)| *gguf == part);
    let (_, part) = known.ok_or_else(unknown)?;
    let interleaved = match *part {
        Q if family.interleaved => Some(config.heads),
        K if family.interleaved => Some(config.kv_heads),
        _ => None,
    };
    Ok(Some(Target {
        name: format!("model.layers.{n}.{part}.{kind}"),
        interleaved,
    }))
}

/// The block number and part of `blk.N.PART`.
fn block_part(stem: &str) -> Option<(usize, &str)> {
    let (n, part) = stem.strip_prefix("blk.")?.split_once('.')?;
    // `01` or `+1` would name a block twice.
    let number = n
        .parse::<usize>()
        .ok()
        .filter(|parsed| parsed.to_string() == n)?;
    Some((number, part))
}
