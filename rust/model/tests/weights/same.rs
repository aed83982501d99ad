//! Golden checkpoints through the door: safetensors and GGUF give the same tensors and the same configuration.

use crate::golden;
use candle_vllm_kernels::cpu::ggml::GgmlType;
use candle_vllm_model::{
    config::{Config, RopeScaling},
    weights::{Checkpoint, Stored, TokenizerSource},
};

/// Of other families, for their tensors' names, turns and rows.
const OTHERS: [&str; 10] = [
    "olmo2",
    "granite",
    "smollm3",
    "starcoder2",
    "gpt2",
    "gpt_neox",
    "qwen2_moe",
    "mixtral",
    "granitemoe",
    "gpt_oss",
];

const BOTH: [&str; 6] = [
    "llama",
    "llama_tied_bias",
    "llama_linear_rope",
    "llama_yarn",
    "qwen2",
    "qwen3",
];

fn floats(stored: &Stored<'_>) -> Vec<f32> {
    match stored.dtype {
        GgmlType::F32 => stored
            .data
            .as_chunks::<4>()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect(),
        GgmlType::BF16 => {
            let bits = stored
                .data
                .as_chunks::<2>()
                .0
                .iter()
                .map(|b| u16::from_le_bytes(*b));
            bits.map(|b| f32::from_bits(u32::from(b) << 16)).collect()
        }
        other => panic!("unexpected {other:?}"),
    }
}

#[test]
fn safetensors_and_gguf_hold_the_same_tensors() {
    for case in BOTH.into_iter().chain(OTHERS) {
        let hf = Checkpoint::open(&golden::hf(case)).unwrap();
        let gguf = Checkpoint::open(&golden::gguf(case)).unwrap();
        assert_eq!(hf.weights.names(), gguf.weights.names(), "{case}");
        assert!(hf.weights.names().len() > 20);
        for name in hf.weights.names() {
            let (a, b) = (
                hf.weights.get(&name).unwrap(),
                gguf.weights.get(&name).unwrap(),
            );
            assert_eq!(a.shape, b.shape, "{case} {name}");
            assert_eq!(floats(&a).len(), a.shape.iter().product::<usize>());
            assert!(floats(&a) == floats(&b), "{case} {name} differs");
        }
    }
}

#[test]
fn materialised_weights_are_numpys() {
    // The first values of RandomState(crc32("lm_head.weight")), by numpy, as bfloat16 after * 0.2.
    let bits = golden::tensor("lm_head.weight", 4, 0.0, 0.2);
    let gguf = Checkpoint::open(&golden::gguf("llama")).unwrap();
    let stored = gguf.weights.get("lm_head.weight").unwrap();
    let first: Vec<u16> = stored
        .data
        .as_chunks::<2>()
        .0
        .iter()
        .take(4)
        .map(|b| u16::from_le_bytes(*b))
        .collect();
    assert_eq!(bits, first);
}

/// What both formats carry.
fn shared(config: &Config) -> Config {
    Config {
        raw: serde_json::Value::Null,
        rope_scaling: RopeScaling::None,
        ..config.clone()
    }
}

#[test]
fn safetensors_and_gguf_hold_the_same_configuration() {
    for case in BOTH {
        let hf = Checkpoint::open(&golden::hf(case)).unwrap().config;
        let gguf = Checkpoint::open(&golden::gguf(case)).unwrap().config;
        assert_eq!(shared(&hf), shared(&gguf), "{case}");
        match case {
            "llama" => {
                let RopeScaling::Factors(factors) = &gguf.rope_scaling else {
                    panic!("no factors")
                };
                assert_eq!(factors.len(), 8);
                assert!(matches!(
                    hf.rope_scaling,
                    RopeScaling::Llama3 {
                        factor: 8.0,
                        original: 128,
                        ..
                    }
                ));
            }
            _ => assert_eq!(hf.rope_scaling, gguf.rope_scaling, "{case}"),
        }
    }
}

#[test]
fn both_styles_of_config_give_the_same() {
    let five = Checkpoint::open(&golden::hf("llama")).unwrap();
    let four = Checkpoint::open(&golden::hf("llama_config_v4")).unwrap();
    let plain = |c: &Config| Config {
        raw: serde_json::Value::Null,
        ..c.clone()
    };
    assert_eq!(plain(&five.config), plain(&four.config));
    assert_eq!(four.config.eos_token_ids, [2]);
    assert_eq!(four.config.dtype.as_deref(), Some("bfloat16"));
    assert!(matches!(four.tokenizer, TokenizerSource::Folder(_)));
}

#[test]
fn every_ggml_type_opens_with_exact_sizes() {
    for kind in [
        "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K",
        "Q6_K",
    ] {
        let checkpoint = Checkpoint::open(&golden::ggml(kind)).unwrap();
        assert_eq!(checkpoint.config.architecture, "LlamaForCausalLM");
        let mut kinds = Vec::new();
        for name in checkpoint.weights.names() {
            let stored = checkpoint.weights.get(&name).unwrap();
            let elements: usize = stored.shape.iter().product();
            let bytes = elements / stored.dtype.block_len() * stored.dtype.block_bytes();
            assert_eq!(stored.data.len(), bytes, "{kind} {name}");
            kinds.push(stored.dtype.name());
        }
        assert!(kinds.contains(&kind), "{kind}: {kinds:?}");
    }
}
