//! Parts of quantised weights, of shapes and types that may or may not fit together: described, and every row is made.
use std::collections::BTreeMap;

use candle_vllm_kernels::cpu::ggml::GgmlType;
use candle_vllm_model::{
    quant::{Described, Quantization, Role, SCHEMES, Shard, Source},
    weights::{Element, Part, Raw},
};
use serde_json::{Value, json};

use super::{Random, Target};

/// The targets: methods of config.json.
pub const NAMES: &[&str] = &[
    "gptq",
    "awq",
    "compressed-tensors",
    "fp8",
    "mxfp4",
    "bitsandbytes",
];

const ELEMENTS: [(Element, usize); 10] = [
    (Element::Known(GgmlType::F32), 4),
    (Element::Known(GgmlType::F16), 2),
    (Element::Known(GgmlType::BF16), 2),
    (Element::Raw(Raw::U8), 1),
    (Element::Raw(Raw::I8), 1),
    (Element::Raw(Raw::I32), 4),
    (Element::Raw(Raw::I64), 8),
    (Element::Raw(Raw::F8E4M3), 1),
    (Element::Raw(Raw::F8E5M2), 1),
    (Element::Raw(Raw::F8E8M0), 1),
];

pub fn target(method: &str) -> Option<Target> {
    let method = NAMES.iter().find(|name| **name == method)?;
    Some(Box::new(move |random| {
        let config = json!({ "quantization_config": settings(method, random) });
        let Ok(Some(quantization)) = Quantization::of(&config) else {
            return false;
        };
        let schemes: Vec<_> = SCHEMES
            .iter()
            .filter(|s| s.methods.contains(method))
            .collect();
        let scheme = schemes[random.below(schemes.len())];
        let sides = [8 * (1 + random.below(6)), 32 * (1 + random.below(8))];
        let mut parts = BTreeMap::new();
        for part in scheme.needs.iter().chain(scheme.may) {
            let wanted = scheme.needs.contains(part) || random.below(2) == 0;
            if wanted && random.below(40) > 0 {
                parts.insert(*part, made(part, sides, method, random));
            }
        }
        let source = Source {
            prefix: "layer".into(),
            role: Role::Query,
            shard: match random.below(3) {
                0 => Shard::Rows(random.below(8)..random.below(40)),
                _ => Shard::Whole,
            },
            parts,
            quantization: Some(&quantization),
        };
        source.open().is_ok_and(|described| read(&described))
    }))
}

fn settings(method: &str, random: &mut Random) -> Value {
    let sides = [16, 32, 64, 128, 0, 7];
    json!({
        "quant_method": method,
        "bits": random.one(&[4, 8, 4, 3]),
        "checkpoint_format": random.one(&["gptq", "gptq_v2", "gptq"]),
        "weight_block_size": [random.one(&sides), random.one(&sides)],
        "config_groups": {"group_0": {"weights": {"num_bits": random.one(&[4, 8])}}},
    })
}

/// A part that often fits a matrix of `n` rows and `k` columns.
fn made(part: &str, [n, k]: [usize; 2], method: &str, random: &mut Random) -> Part<'static> {
    let groups = k / random.one(&[32, 16, 64]).min(k);
    let per = random.one(&[8, 8, 4]);
    let (f, i, u) = (random.below(3), 5, 3);
    let (element, mut shape) = match (method, part) {
        ("gptq", "qweight") => (i, vec![k / per, n]),
        ("gptq", "qzeros") => (i, vec![groups, n / per]),
        ("awq", "qweight") => (i, vec![k, n / 8]),
        ("awq", "qzeros") => (i, vec![groups, n / 8]),
        ("gptq" | "awq", "scales") => (f, vec![groups, n]),
        ("gptq", _) => (i, vec![k]),
        (_, "weight_packed") => (i, vec![n, k / per]),
        (_, "weight_shape") => (6, vec![2]),
        (_, "weight_g_idx") => (i, vec![k]),
        ("compressed-tensors", "weight_zero_point") => (random.one(&[4, 5]), vec![n / per, groups]),
        ("mxfp4", "blocks") => (u, vec![n, k / 32, 16]),
        ("mxfp4", _) => (u, vec![n, k / 32]),
        ("bitsandbytes", "weight") => (u, vec![n * k / 2, 1]),
        ("bitsandbytes", "weight.absmax") => (random.one(&[0, 3]), vec![n * k / 64]),
        ("bitsandbytes", "weight.quant_map") => (0, vec![16]),
        ("bitsandbytes", "weight.nested_quant_map") => (0, vec![256]),
        ("bitsandbytes", "weight.nested_absmax") => (0, vec![(n * k / 64).div_ceil(256)]),
        ("bitsandbytes", _) => return state([n, k], random),
        (_, "weight") => (random.one(&[4, 7, 8]), vec![n, k]),
        _ => (
            f,
            [vec![n, 1], vec![n, groups], vec![1], vec![n]][random.below(4)].clone(),
        ),
    };
    if random.below(12) == 0 && !shape.is_empty() {
        let side = random.below(shape.len());
        shape[side] = random.below(70);
    }
    if random.below(40) == 0 {
        shape.push(1 + random.below(3));
    }
    let element = if random.below(30) == 0 {
        random.below(10)
    } else {
        element
    };
    let (element, size) = ELEMENTS[element].clone();
    let mut data = random.bytes(shape.iter().product::<usize>() * size);
    match part {
        "weight_shape" if data.len() == 16 && random.below(8) > 0 => {
            data[..8].copy_from_slice(&(n as u64).to_le_bytes());
            data[8..].copy_from_slice(&(k as u64).to_le_bytes());
        }
        "weight_shape" => random.change(&mut data, 16),
        "g_idx" | "weight_g_idx" if random.below(8) > 0 => {
            let listed = data.as_chunks_mut::<4>().0;
            for index in listed {
                *index = (random.below(groups.max(1)) as u32).to_le_bytes();
            }
        }
        _ => {}
    }
    data.resize(shape.iter().product::<usize>() * size, 0);
    Part {
        element,
        shape,
        data: data.into(),
    }
}

/// bitsandbytes' JSON, sometimes misprinted.
fn state([n, k]: [usize; 2], random: &mut Random) -> Part<'static> {
    let size = random.one(&[64, 64, 64, 0, 1, 4096]);
    let state =
        json!({"shape": [n, k], "blocksize": size, "nested_blocksize": random.one(&[256, 0])});
    let mut data = state.to_string().into_bytes();
    if random.below(6) == 0 {
        random.misprint(&mut data);
    }
    Part {
        element: Element::Raw(Raw::U8),
        shape: vec![data.len()],
        data: data.into(),
    }
}

/// Makes every row in both ways.
fn read(described: &Described<'_>) -> bool {
    if let Described::Made(rows) = described {
        let ([n, k], ty) = (rows.shape(), rows.packs_as());
        let mut values = vec![0.0; k];
        let mut blocks = vec![0; k / ty.block_len() * ty.block_bytes()];
        for row in 0..n {
            rows.values(row, &mut values);
            rows.blocks(row, &mut blocks);
        }
        std::hint::black_box((&values, &blocks));
    }
    true
}
