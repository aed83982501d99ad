//! A Hugging Face checkpoint as llama.cpp names and lays it out: the inverse of GGUF's door (`weights/gguf`), by whose own
//! rules each name, move of rows and key is checked before anything is written.
use std::collections::BTreeSet;

use candle_vllm_kernels::cpu::ggml::GgmlType;

use super::{Kind, encode, narrow, spot};
use crate::{
    Error, Result,
    family::{self, Family},
    loader::Loader,
    quant::{Described, Role, Shard},
    weights::{
        Checkpoint,
        gguf::{
            names,
            write::{Rows, Tensor},
        },
        mapped::Change,
    },
};

/// Families that are written, and what llama.cpp calls them: those whose every key and name is known to be right, because
/// their files were compared with those of llama.cpp's own converter (`tests/parity/test_quantize.py`).
const WRITTEN: [(&str, &str); 14] = [
    ("LlamaForCausalLM", "llama"),
    ("MistralForCausalLM", "llama"),
    ("MixtralForCausalLM", "llama"),
    ("Qwen2ForCausalLM", "qwen2"),
    ("Qwen2MoeForCausalLM", "qwen2moe"),
    ("Qwen3ForCausalLM", "qwen3"),
    ("Qwen3MoeForCausalLM", "qwen3moe"),
    ("GemmaForCausalLM", "gemma"),
    ("Gemma2ForCausalLM", "gemma2"),
    ("Phi3ForCausalLM", "phi3"),
    ("GraniteForCausalLM", "granite"),
    ("SmolLM3ForCausalLM", "smollm3"),
    ("ArceeForCausalLM", "arcee"),
    ("Olmo2ForCausalLM", "olmo2"),
];

/// Parts outside the layers.
const TOP: [&str; 4] = ["token_embd", "position_embd", "output_norm", "output"];

/// Parts of a layer; of two that name the same tensor the first counts.
const PARTS: [&str; 15] = [
    "attn_norm",
    "attn_q",
    "attn_k",
    "attn_v",
    "attn_qkv",
    "attn_q_norm",
    "attn_k_norm",
    "attn_output",
    "ffn_norm",
    "post_attention_norm",
    "ffn_gate",
    "ffn_up",
    "ffn_down",
    "post_ffw_norm",
    "ffn_gate_inp",
];

/// Parts of a layer's experts: of all of them in one tensor, and of the one that all rows go to.
const EXPERTS: [&str; 3] = ["ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"];
const SHARED: [&str; 4] = [
    "ffn_gate_shexp",
    "ffn_up_shexp",
    "ffn_down_shexp",
    "ffn_gate_inp_shexp",
];

fn refused(what: impl std::fmt::Display) -> Error {
    Error::Load(format!("cannot be written as GGUF: {what}"))
}

/// What llama.cpp calls the family of `architecture`.
pub(super) fn arch(architecture: &str) -> Result<&'static str> {
    let found = WRITTEN.iter().find(|(name, _)| *name == architecture);
    found.map(|(_, gguf)| *gguf).ok_or_else(|| {
        let known: Vec<&str> = WRITTEN.iter().map(|(name, _)| *name).collect();
        let known = known.join(", ");
        refused(format_args!(
            "of Hugging Face folders only those of {known} are; this is a {architecture}"
        ))
    })
}

/// One tensor of the new file: its name, and what it is made of.
struct Named {
    gguf: String,
    /// Names in the checkpoint with their kinds; several: one behind the other.
    parts: Vec<String>,
}

/// All tensors of the checkpoint under ggml's names.
fn named(checkpoint: &Checkpoint, family: &Family) -> Result<Vec<Named>> {
    let (config, weights) = (&checkpoint.config, &checkpoint.weights);
    let mut all: Vec<Named> = Vec::new();
    let mut taken = BTreeSet::new();
    let mut add = |gguf: String, parts: Vec<String>| {
        if weights_have(checkpoint, &parts) && taken.insert(parts[0].clone()) {
            taken.extend(parts[1..].iter().cloned());
            all.push(Named { gguf, parts });
        }
    };
    for part in TOP {
        for kind in ["weight", "bias"] {
            if let Some(name) = family.names.of_gguf(false, part) {
                add(format!("{part}.{kind}"), vec![format!("{name}.{kind}")]);
            }
        }
    }
    for layer in 0..config.layers {
        let place = |name: &str| format!("{}.{layer}.{name}", family.names.layers);
        for (part, kind) in PARTS
            .iter()
            .chain(&SHARED)
            .flat_map(|p| [(p, "weight"), (p, "bias")])
        {
            let dense = family
                .names
                .of_gguf(true, part)
                .map(|n| format!("{n}.{kind}"));
            let name = dense.or_else(|| family.moe?.of_gguf(part, kind));
            if let Some(name) = name {
                add(format!("blk.{layer}.{part}.{kind}"), vec![place(&name)]);
            }
        }
        for (part, moe) in EXPERTS.iter().zip(family.moe.iter().cycle()) {
            let matrix = match *part {
                "ffn_gate_exps" => moe.gate,
                "ffn_up_exps" => moe.up,
                _ => moe.down,
            };
            let count = config.moe.map_or(0, |moe| moe.experts);
            let one = |n: usize| place(&format!("{}.{n}.{matrix}.weight", moe.experts));
            add(
                format!("blk.{layer}.{part}.weight"),
                (0..count).map(one).collect(),
            );
        }
    }
    let mut left = weights.names();
    let head = format!("{}.weight", family.names.head);
    left.retain(|name| {
        let tied = config.tie_word_embeddings && *name == head;
        !tied && !taken.contains(name) && !crate::loader::is_table(name)
    });
    all.retain(|t| !(config.tie_word_embeddings && t.gguf == "output.weight"));
    match left.first() {
        None => Ok(all),
        Some(name) => Err(refused(format_args!(
            "llama.cpp has no name for the tensor {name} of a {}",
            config.architecture
        ))),
    }
}

fn weights_have(checkpoint: &Checkpoint, parts: &[String]) -> bool {
    // A quantised matrix has parts of its own in place of `weight`.
    let has = |name: &String| {
        let prefix = name.strip_suffix(".weight");
        checkpoint.weights.contains(name)
            || prefix.is_some_and(|p| crate::loader::has(checkpoint, p))
    };
    !parts.is_empty() && parts.iter().all(has)
}

/// The checkpoint's tensors as the new file has them.
///
/// # Errors
/// `Load` for one that llama.cpp has no name for, and for what is wrong with one.
pub(super) fn tensors<'a>(
    loader: &'a Loader<'a>,
    checkpoint: &'a Checkpoint,
    kind: Kind,
) -> Result<Vec<Tensor<'a>>> {
    let config = &checkpoint.config;
    let family =
        family::find(&config.architecture).ok_or_else(|| family::unknown(&config.architecture))?;
    let mut all = Vec::new();
    for Named { gguf, parts } in named(checkpoint, family)? {
        let door = names::hugging_face(Some(family), &gguf, config).map_err(refused)?;
        let door = door.ok_or_else(|| refused(format_args!("{gguf} is read by nobody")))?;
        if parts.len() == 1 && door.name != parts[0] {
            return Err(refused(format_args!(
                "{gguf} would be read as {}",
                door.name
            )));
        }
        all.push(tensor(loader, config, kind, gguf, parts, door.change)?);
    }
    Ok(all)
}

fn tensor<'a>(
    loader: &'a Loader<'a>,
    config: &crate::config::Config,
    kind: Kind,
    gguf: String,
    parts: Vec<String>,
    change: Change,
) -> Result<Tensor<'a>> {
    let open = move |name: &str| -> Result<Described<'a>> {
        match name.strip_suffix(".weight") {
            Some(prefix) => loader.source(prefix, Role::Up, Shard::Whole)?.open(),
            None => Ok(Described::Stored(loader.stored(name)?)),
        }
    };
    let (stored, mut shape) = {
        let first = open(&parts[0])?;
        (first.packed_from(), first.shape())
    };
    if parts.len() > 1 {
        shape.insert(0, parts.len());
    }
    let columns = shape.last().copied().unwrap_or(1);
    let matrix = spot(&gguf, config.layers, config.tie_word_embeddings);
    let matrix =
        matrix.filter(|s| shape.len() > 1 && s.role != Role::Router && s.role != Role::Positions);
    // As llama.cpp's converter: vectors and what chooses experts are float32.
    let dtype = matrix.map_or(GgmlType::F32, |spot| kind.of(spot, stored, columns));
    // A bias is one row, whose values move as its matrix's rows do.
    let vector = shape.len() == 1;
    let rows = shape.iter().rev().skip(1).product::<usize>();
    let each = rows / parts.len();
    Ok(Tensor {
        name: gguf,
        dtype,
        shape,
        open: Box::new(move || {
            let opened = parts.iter().map(|name| open(name));
            let opened = opened.collect::<Result<Vec<_>>>()?;
            let make: Rows<'a> = Box::new(move |row, out| {
                let at = if vector {
                    row
                } else {
                    source_row(change, row, rows)
                };
                let (from, row) = (&opened[at / each.max(1)], at % each.max(1));
                row_of(from, row, change, dtype, columns, out);
                if let (true, Change::Interleaved(_)) = (vector, change) {
                    let values = out.to_vec();
                    let (values, _) = values.as_chunks::<4>();
                    for (i, out) in out.chunks_exact_mut(4).enumerate() {
                        out.copy_from_slice(&values[source_row(change, i, columns)]);
                    }
                }
                Ok(())
            });
            Ok(make)
        }),
    })
}

/// Which row of the checkpoint is the file's row `row`: see `weights::mapped::deinterleave`.
fn source_row(change: Change, row: usize, rows: usize) -> usize {
    let Change::Interleaved(heads) = change else {
        return row;
    };
    let head = rows / heads.max(1);
    let (first, within) = (row / head * head, row % head);
    first + within % 2 * (head / 2) + within / 2
}

fn row_of(
    from: &Described<'_>,
    row: usize,
    change: Change,
    dtype: GgmlType,
    columns: usize,
    out: &mut [u8],
) {
    match from {
        Described::Stored(stored) if change != Change::PlusOne => {
            let bytes = columns / stored.dtype.block_len() * stored.dtype.block_bytes();
            let data = &stored.data[row * bytes..][..bytes];
            encode(stored.dtype, data, dtype, columns, out);
        }
        Described::Made(rows) if rows.packs_as() == dtype => rows.blocks(row, out),
        _ => {
            let mut values = vec![0.0; columns];
            from.row(row, &mut values);
            if change == Change::PlusOne {
                values.iter_mut().for_each(|v| *v += 1.0);
            }
            narrow(dtype, &values, out);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn rows_are_interleaved_as_the_converter_does() {
        // 2 heads of 6 rows: numpy w.reshape(2, 2, 3).swapaxes(1, 2).
        let rows: Vec<usize> = (0..12)
            .map(|r| source_row(Change::Interleaved(2), r, 12))
            .collect();
        assert_eq!(rows, [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]);
        assert_eq!(source_row(Change::None, 7, 12), 7);
    }

    #[test]
    fn other_families_are_refused_with_those_that_are_written() {
        assert_eq!(arch("MistralForCausalLM").unwrap(), "llama");
        let error = arch("DeepseekV3ForCausalLM").unwrap_err().to_string();
        assert!(error.contains("this is a DeepseekV3ForCausalLM"), "{error}");
        assert!(error.contains("Qwen3ForCausalLM"), "{error}");
        for (name, _) in WRITTEN {
            assert!(family::find(name).is_some(), "{name}");
        }
    }
}
