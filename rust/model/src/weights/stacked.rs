//! Tensors of all experts of a layer, cut into one for each: behind the door every expert has matrices of its own.
//! Nothing is copied; an entry is a range of the file.
use std::collections::BTreeMap;

use super::mapped::{Change, Entry};
use crate::{
    config::bounds,
    family::{Family, Lying, Moe},
};

/// Which matrices of an expert a tensor holds.
#[derive(Clone, Copy, PartialEq)]
enum Holds<'a> {
    /// One, by its name.
    One(&'a str),
    /// Gate and up.
    Two,
}

/// Cuts the stacked tensors of a family with experts; `lying` is how the container lays out the matrices in them.
///
/// # Errors
/// What is wrong with which tensor.
pub(super) fn cut(
    entries: &mut BTreeMap<String, Entry>,
    family: &Family,
    lying: Lying,
) -> std::result::Result<(), String> {
    let Some(moe) = family.moe else {
        return Ok(());
    };
    for (name, entry) in std::mem::take(entries) {
        let part = part_of(family, &name);
        let Some((layer, part)) = part.and_then(|(n, part)| Some((n, stack(moe, part)?))) else {
            entries.insert(name, entry);
            continue;
        };
        let (holds, kind) = part;
        let prefix = format!("{}.{layer}.{}", family.names.layers, moe.experts);
        let own = each(&entry, holds, kind, lying, moe).map_err(|what| format!("{name} {what}"))?;
        for (expert, matrix, entry) in own {
            entries.insert(format!("{prefix}.{expert}.{matrix}.{kind}"), entry);
        }
    }
    Ok(())
}

/// Cuts the tensor `{stem}.weight` of several matrices into `{stem}.N.weight`.
///
/// # Errors
/// What is wrong with it.
pub(super) fn list(
    entries: &mut BTreeMap<String, Entry>,
    stem: &str,
) -> std::result::Result<(), String> {
    let Some(entry) = entries.remove(&format!("{stem}.weight")) else {
        return Ok(());
    };
    let &[count, n, k] = &entry.shape[..] else {
        return Err(format!(
            "{stem} has shape {:?}, not one of 3 dimensions",
            entry.shape
        ));
    };
    if !(1..=bounds::STREAMS).contains(&count) || !entry.len.is_multiple_of(count) {
        return Err(format!("{stem} has shape {:?}", entry.shape));
    }
    let len = entry.len / count;
    for i in 0..count {
        let own = Entry {
            start: entry.start + i * len,
            len,
            shape: vec![n, k],
            element: entry.element.clone(),
            ..entry
        };
        entries.insert(format!("{stem}.{i}.weight"), own);
    }
    Ok(())
}

/// Number and part of `{layers}.N.{part}`.
fn part_of<'a>(family: &Family, name: &'a str) -> Option<(&'a str, &'a str)> {
    let rest = name.strip_prefix(family.names.layers)?.strip_prefix('.')?;
    rest.split_once('.')
}

/// What the part of a layer holds, if it is of all experts.
fn stack<'a>(moe: &'a Moe, part: &str) -> Option<(Holds<'a>, &'static str)> {
    let (stem, kind) = if let Some(stem) = part.strip_suffix(".weight") {
        (stem, "weight")
    } else if let Some(stem) = part.strip_suffix(".bias") {
        (stem, "bias")
    } else if let Some(stem) = part.strip_suffix("_bias") {
        (stem, "bias")
    } else if let Some(stem) = part.strip_suffix("_blocks") {
        (stem, "blocks")
    } else if let Some(stem) = part.strip_suffix("_scales") {
        (stem, "scales")
    } else {
        (part, "weight")
    };
    if stem == moe.stacked[0] {
        return Some((Holds::Two, kind));
    }
    if stem == moe.stacked[1] {
        return Some((Holds::One(moe.down), kind));
    }
    let own = stem.strip_prefix(moe.experts)?.strip_prefix('.')?;
    let matrix = [moe.gate, moe.up, moe.down].into_iter().find(|m| *m == own);
    matrix.map(|matrix| (Holds::One(matrix), kind))
}

/// The entries of each expert: its number, the matrix and where it is.
fn each<'a>(
    entry: &Entry,
    holds: Holds<'a>,
    kind: &str,
    lying: Lying,
    moe: &'a Moe,
) -> std::result::Result<Vec<(usize, &'a str, Entry)>, String> {
    let dims = match kind {
        "weight" | "scales" => 3,
        "blocks" => 4,
        _ => 2,
    };
    // Parts of MXFP4 have the outputs first.
    let coded = matches!(kind, "blocks" | "scales");
    let wrong = || {
        Err(format!(
            "has shape {:?}, not one of {dims} dimensions",
            entry.shape
        ))
    };
    let &[experts, ref own @ ..] = &entry.shape[..] else {
        return wrong();
    };
    let parts = if holds == Holds::Two { 2 } else { 1 };
    // Where gate and up stand side by side: the outputs.
    let turned = kind == "weight" && lying != Lying::Rows;
    let outputs = if turned { own.last() } else { own.first() };
    let outputs = outputs.copied().unwrap_or(0);
    let fits = (1..=bounds::EXPERTS).contains(&experts) && outputs > 0;
    let fits = fits && outputs.is_multiple_of(parts) && entry.len.is_multiple_of(experts * parts);
    if own.len() + 1 != dims || !fits {
        return wrong();
    }
    let (size, half) = (entry.len / experts, outputs / parts);
    let mut all = Vec::with_capacity(experts * parts);
    for expert in 0..experts {
        for part in 0..parts {
            let matrix = match (holds, part) {
                (Holds::One(name), _) => name,
                (Holds::Two, 0) => moe.gate,
                (Holds::Two, _) => moe.up,
            };
            let start = entry.start + expert * size;
            let (start, len, change) = match lying {
                Lying::InTurn if parts == 2 && coded => {
                    let (first, step, count) = (part, 2, half);
                    (start, size, Change::Rows { first, step, count })
                }
                Lying::InTurn if parts == 2 => (start, size, Change::columns(part, 2, half)),
                Lying::Columns | Lying::InTurn if turned => {
                    (start, size, Change::columns(part * half, 1, half))
                }
                _ => (start + part * (size / parts), size / parts, Change::None),
            };
            let mut shape = own.to_vec();
            if let (Change::None, Some(rows)) = (change, shape.first_mut()) {
                *rows = half;
            }
            let file = entry.file;
            let element = entry.element.clone();
            let own = Entry {
                file,
                start,
                len,
                element,
                shape,
                change,
            };
            all.push((expert, matrix, own));
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::Element;
    use super::*;
    use crate::family;
    use candle_vllm_kernels::cpu::ggml::GgmlType;

    fn entries(name: &str, shape: &[usize]) -> BTreeMap<String, Entry> {
        let entry = Entry {
            file: 0,
            start: 100,
            len: shape.iter().product::<usize>() * 2,
            element: Element::Known(GgmlType::BF16),
            shape: shape.to_vec(),
            change: Change::None,
        };
        [(format!("model.layers.1.{name}"), entry)].into()
    }

    fn one(all: &BTreeMap<String, Entry>, part: &str) -> (usize, usize, Vec<usize>, Change) {
        let entry = &all[&format!("model.layers.1.mlp.experts.{part}")];
        (entry.start, entry.len, entry.shape.clone(), entry.change)
    }

    #[test]
    fn rows_of_gate_and_up_are_ranges() {
        let family = family::find("Qwen3MoeForCausalLM").unwrap();
        let mut all = entries("mlp.experts.gate_up_proj", &[3, 4, 5]);
        cut(&mut all, family, Lying::Rows).unwrap();
        assert_eq!(all.len(), 6);
        let gate = one(&all, "2.gate_proj.weight");
        assert_eq!(gate, (100 + 80, 20, vec![2, 5], Change::None));
        let up = one(&all, "2.up_proj.weight");
        assert_eq!(up, (100 + 100, 20, vec![2, 5], Change::None));
    }

    #[test]
    fn columns_in_turn_are_taken_when_read() {
        let family = family::find("GptOssForCausalLM").unwrap();
        let mut all = entries("mlp.experts.gate_up_proj", &[2, 5, 6]);
        cut(&mut all, family, Lying::InTurn).unwrap();
        let up = one(&all, "1.up_proj.weight");
        assert_eq!(up, (160, 60, vec![5, 6], Change::columns(1, 2, 3)));
        let mut all = entries("mlp.experts.gate_up_proj_bias", &[2, 6]);
        cut(&mut all, family, Lying::InTurn).unwrap();
        let gate = one(&all, "1.gate_proj.bias");
        assert_eq!(gate, (112, 12, vec![6], Change::columns(0, 2, 3)));
        let mut all = entries("mlp.experts.down_proj", &[2, 3, 5]);
        cut(&mut all, family, Lying::InTurn).unwrap();
        let down = one(&all, "1.down_proj.weight");
        assert_eq!(down, (130, 30, vec![3, 5], Change::columns(0, 1, 5)));
    }

    #[test]
    fn rows_of_mxfp4_in_turn_are_taken_when_read() {
        let family = family::find("GptOssForCausalLM").unwrap();
        let mut all = entries("mlp.experts.gate_up_proj_blocks", &[2, 6, 2, 16]);
        cut(&mut all, family, Lying::InTurn).unwrap();
        let rows = |first| Change::Rows {
            first,
            step: 2,
            count: 3,
        };
        let up = one(&all, "1.up_proj.blocks");
        assert_eq!(up, (100 + 384, 384, vec![6, 2, 16], rows(1)));
        let mut all = entries("mlp.experts.down_proj_scales", &[2, 3, 5]);
        cut(&mut all, family, Lying::InTurn).unwrap();
        let down = one(&all, "1.down_proj.scales");
        assert_eq!(down, (130, 30, vec![3, 5], Change::None));
    }

    #[test]
    fn shapes_that_hold_no_experts_are_refused() {
        let family = family::find("Qwen3MoeForCausalLM").unwrap();
        for shape in [&[3, 5, 4][..], &[3, 4], &[0, 4, 4], &[1 << 20, 2, 1], &[3]] {
            let mut all = entries("mlp.experts.gate_up_proj", shape);
            let error = cut(&mut all, family, Lying::Rows).err().unwrap();
            assert!(
                error.contains("layers.1.mlp.experts.gate_up_proj"),
                "{error}"
            );
        }
        let mut other = entries("mlp.gate.weight", &[3, 4, 4]);
        cut(&mut other, family, Lying::Rows).unwrap();
        assert!(other.contains_key("model.layers.1.mlp.gate.weight"));
    }
}
