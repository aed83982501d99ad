//! config.json in normal form: transformers' defaults, rotary scalings, windows, special tokens, and refusals that name
//! the key.

use std::{fs, path::PathBuf};

use crate::support::{llama_config, refused, safetensors, scratch, sound, yarn};
use candle_vllm_model::{
    Result,
    config::{Config, RopeScaling},
    weights::Checkpoint,
};
use serde_json::{Value, json};

/// A folder whose config.json is written anew for every look.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let folder = scratch(name);
        let tensor = ("a.weight", "F32", vec![1], vec![0; 4]);
        fs::write(folder.join("model.safetensors"), safetensors(&[tensor])).unwrap();
        Folder(folder)
    }

    pub fn open(&self, config: &Value) -> Result<Config> {
        fs::write(self.0.join("config.json"), config.to_string()).unwrap();
        Checkpoint::open(&self.0).map(|c| c.config)
    }

    /// The configuration of the tiny llama with `changes`.
    pub fn with(&self, changes: Value) -> Result<Config> {
        self.open(&merged(llama_config(), changes))
    }
}

fn merged(mut config: Value, changes: Value) -> Value {
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

fn without(mut config: Value, keys: &[&str]) -> Value {
    keys.iter()
        .for_each(|key| drop(config.as_object_mut().unwrap().remove(*key)));
    config
}

#[test]
fn what_config_json_leaves_out_is_what_transformers_assumes() {
    let folder = Folder::new("defaults");
    let bare = without(
        llama_config(),
        &[
            "architectures",
            "num_key_value_heads",
            "max_position_embeddings",
            "rms_norm_eps",
            "eos_token_id",
        ],
    );
    let of = |model_type: &str, heads: u32| {
        let changes =
            json!({"model_type": model_type, "num_attention_heads": heads, "hidden_size": 64});
        folder.open(&merged(bare.clone(), changes)).unwrap()
    };
    let llama = of("llama", 4);
    assert_eq!(
        (
            llama.kv_heads,
            llama.head_dim,
            llama.rotary_dim,
            llama.max_position
        ),
        (4, 16, 16, 2048)
    );
    assert_eq!((llama.norm_eps, llama.rope_theta), (1e-6, 10_000.0));
    assert_eq!(
        (llama.rope_scaling, llama.windows.as_slice()),
        (RopeScaling::None, &[None][..])
    );
    assert_eq!(
        (llama.architecture.as_str(), llama.activation.as_str()),
        ("LlamaForCausalLM", "silu")
    );
    assert!(!llama.tie_word_embeddings && llama.eos_token_ids.is_empty() && llama.dtype.is_none());
    let mistral = of("mistral", 8);
    assert_eq!((mistral.kv_heads, mistral.max_position), (8, 131_072));
    assert_eq!(
        (mistral.architecture.as_str(), mistral.windows),
        ("MistralForCausalLM", vec![Some(4096)])
    );
    let qwen2 = of("qwen2", 32);
    assert_eq!(
        (qwen2.kv_heads, qwen2.head_dim, qwen2.max_position),
        (32, 2, 32_768)
    );
    let qwen3 = of("qwen3", 32);
    assert_eq!((qwen3.head_dim, qwen3.windows), (128, vec![None]));
    // null: as many as query heads, whatever the default.
    let null = merged(
        bare.clone(),
        json!({"model_type": "mistral", "num_key_value_heads": null}),
    );
    assert_eq!(folder.open(&null).unwrap().kv_heads, 2);
    refused(
        folder.open(&merged(bare, json!({"model_type": "x"}))),
        "architectures is missing",
    );
}

#[test]
fn rotary_scalings_of_both_versions_are_read() {
    let folder = Folder::new("rope");
    let four = |scaling: Value| {
        folder
            .with(json!({"rope_theta": 5e5, "rope_scaling": scaling}))
            .unwrap()
    };
    let five = |mut parameters: Value| {
        parameters["rope_theta"] = json!(5e5);
        // Version 5 wins over a stray key beside it.
        folder
            .with(json!({"rope_theta": 7.0, "rope_parameters": parameters}))
            .unwrap()
    };
    let cases = [
        (json!({"rope_type": "default"}), RopeScaling::None, 64),
        (
            json!({"rope_type": "linear", "factor": 4}),
            RopeScaling::Linear { factor: 4.0 },
            64,
        ),
        (
            json!({"rope_type": "dynamic", "factor": 2.0}),
            RopeScaling::Dynamic {
                factor: 2.0,
                original: 64,
            },
            128,
        ),
        (
            json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                   "original_max_position_embeddings": 16}),
            RopeScaling::Llama3 {
                factor: 8.0,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original: 16,
            },
            64,
        ),
        (
            json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}),
            yarn(None, true),
            128,
        ),
        (
            json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "beta_fast": 0,
                   "attention_factor": 1.5, "truncate": false, "mscale": 2.0, "mscale_all_dim": 3.0}),
            yarn(Some(1.5), false),
            128,
        ),
        (
            json!({"rope_type": "yarn", "original_max_position_embeddings": 16, "mscale": 1.0}),
            RopeScaling::Yarn {
                factor: 4.0,
                original: 16,
                beta_fast: 32.0,
                beta_slow: 1.0,
                attention_factor: None,
                truncate: true,
            },
            64,
        ),
    ];
    for (written, expected, reach) in cases {
        let mut old = written.clone();
        old["type"] = old["rope_type"].take();
        old.as_object_mut().unwrap().remove("rope_type");
        for config in [four(written.clone()), four(old), five(written)] {
            assert_eq!(
                (config.rope_scaling, config.rope_theta, config.max_position),
                (expected.clone(), 5e5, reach)
            );
        }
    }
}

#[test]
fn yarn_takes_its_attention_factor_from_mscale() {
    let folder = Folder::new("mscale");
    let parameters = json!({"rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 32,
        "mscale": 0.707, "mscale_all_dim": 1.5, "beta_fast": 16, "beta_slow": 2, "rope_theta": 10000});
    let config = folder.with(json!({"rope_parameters": parameters})).unwrap();
    let RopeScaling::Yarn {
        attention_factor: Some(factor),
        beta_fast,
        beta_slow,
        ..
    } = config.rope_scaling
    else {
        panic!("{:?}", config.rope_scaling)
    };
    let ln = 40f64.ln();
    assert!((factor - (0.0707 * ln + 1.0) / (0.15 * ln + 1.0)).abs() < 1e-12);
    assert_eq!((beta_fast, beta_slow), (16.0, 2.0));
    // The key beside the dictionary wins, as in Phi.
    let parameters =
        json!({"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32});
    let changes = json!({"rope_parameters": parameters, "original_max_position_embeddings": 48});
    let config = folder.with(changes).unwrap();
    assert!(matches!(
        config.rope_scaling,
        RopeScaling::Yarn { original: 48, .. }
    ));
    assert_eq!(config.max_position, 96);
}

#[test]
fn windows_follow_the_model_type() {
    let folder = Folder::new("windows");
    let of = |model_type: &str, changes: Value| {
        let base = json!({"model_type": model_type, "num_hidden_layers": 4});
        folder.with(merged(base, changes)).unwrap().windows
    };
    let (no, w) = (None, Some(8));
    assert_eq!(of("llama", json!({"sliding_window": 8})), [no; 4]);
    assert_eq!(of("mistral", json!({"sliding_window": 8})), [w; 4]);
    assert_eq!(of("mistral", json!({"sliding_window": null})), [no; 4]);
    assert_eq!(of("qwen2", json!({"sliding_window": 8})), [no; 4]);
    let upper = json!({"sliding_window": 8, "use_sliding_window": true, "max_window_layers": 3});
    assert_eq!(of("qwen2", upper.clone()), [no, no, no, w]);
    assert_eq!(
        of(
            "qwen3",
            merged(upper.clone(), json!({"max_window_layers": 0}))
        ),
        [w; 4]
    );
    assert_eq!(
        of("qwen3", without(upper.clone(), &["max_window_layers"])),
        [no; 4]
    );
    let types = json!({"layer_types": ["sliding_attention", "full_attention", "full_attention", "sliding_attention"]});
    assert_eq!(of("qwen3", merged(upper, types.clone())), [w, no, no, w]);
    let four = |changes: Value| {
        folder.with(merged(
            json!({"model_type": "qwen3", "num_hidden_layers": 4}),
            changes,
        ))
    };
    refused(four(types), "layer_types is [\"sliding_attention\"");
    refused(
        four(json!({"layer_types": ["full_attention"]})),
        "expected a list of 4 names",
    );
    refused(
        four(
            json!({"layer_types": ["full_attention", "linear_attention", "full_attention", "full_attention"]}),
        ),
        "\"linear_attention\" is not supported",
    );
}

#[test]
fn special_tokens_come_from_both_files() {
    let folder = Folder::new("special");
    let generation = folder.0.join("generation_config.json");
    let ids = |config: Value, other: Value| {
        fs::write(&generation, other.to_string()).unwrap();
        folder
            .with(config)
            .map(|c| (c.eos_token_ids, c.bos_token_id))
    };
    let config = json!({"eos_token_id": [2, 3], "bos_token_id": 1});
    assert_eq!(
        ids(config.clone(), json!({"eos_token_id": 5})).unwrap(),
        (vec![5, 2, 3], Some(1))
    );
    assert_eq!(
        ids(config.clone(), json!({"eos_token_id": [3, 4, 99]}))
            .unwrap()
            .0,
        [3, 4, 2]
    );
    assert_eq!(
        ids(json!({"eos_token_id": null}), json!({})).unwrap(),
        (vec![], None)
    );
    refused(
        ids(config.clone(), json!({"eos_token_id": "2"})),
        "generation_config.json: eos_token_id is \"2\"",
    );
    refused(
        ids(config.clone(), json!([])),
        "generation_config.json: expected a JSON object",
    );
    refused(
        ids(json!({"eos_token_id": [-1]}), json!({})),
        "eos_token_id is [-1]: expected a token id",
    );
    fs::write(&generation, "{").unwrap();
    refused(
        folder.with(config),
        "generation_config.json is not valid JSON",
    );
}

#[test]
fn config_json_refusals_name_the_key() {
    let folder = Folder::new("hf-refusals");
    let cases = [
        (json!({"hidden_size": null}), "hidden_size"),
        (
            json!({"hidden_size": "16"}),
            "hidden_size is \"16\": expected an integer from 1",
        ),
        (json!({"hidden_size": -1}), "hidden_size is -1"),
        (json!({"hidden_size": 16.5}), "hidden_size is 16.5"),
        (
            json!({"hidden_size": 17}),
            "hidden_size is 17: expected a multiple of num_attention_heads, 2",
        ),
        (json!({"num_hidden_layers": 0}), "num_hidden_layers is 0"),
        (
            json!({"num_hidden_layers": 1u64 << 40}),
            "num_hidden_layers is 1099511627776: expected an integer from 1 to 4096",
        ),
        (
            json!({"num_attention_heads": 3, "hidden_size": 24, "num_key_value_heads": 2}),
            "3 query heads cannot share 2",
        ),
        (
            json!({"head_dim": 7}),
            "7 rotary dimensions do not fit a head of 7",
        ),
        (json!({"vocab_size": 0}), "vocab_size is 0"),
        (json!({"rms_norm_eps": -1e-5}), "rms_norm_eps is -0.00001"),
        (
            json!({"rms_norm_eps": "x"}),
            "rms_norm_eps is \"x\": expected a finite number",
        ),
        (
            json!({"max_position_embeddings": 0}),
            "max_position_embeddings is 0",
        ),
        (
            json!({"tie_word_embeddings": 1}),
            "tie_word_embeddings is 1: expected true or false",
        ),
        (json!({"architectures": []}), "architectures is []"),
        (
            json!({"quantization_config": {"quant_method": "quip"}}),
            "the quantisation method quip is not supported; supported are awq",
        ),
        (
            json!({"quantization_config": {"quant_method": "gptq", "bits": 3}}),
            "gptq with bits 3 is not supported, only 4, 8",
        ),
        (
            json!({"quantization_config": {"quant_method": "awq", "version": "gemv"}}),
            "awq with version \"gemv\" is not supported",
        ),
        (
            json!({"compression_config": {"quant_method": "compressed-tensors", "format": "marlin-24"}}),
            "compressed-tensors with format \"marlin-24\" is not supported",
        ),
        (
            json!({"quantization_config": {"config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "float"}}}}}),
            "compressed-tensors with num_bits of type float 4 is not supported",
        ),
        (
            json!({"quantization_config": 4}),
            "quantization_config is not an object",
        ),
    ];
    for (changes, message) in cases {
        refused(folder.with(changes), message);
    }
    refused(
        folder.open(&json!([])),
        "config.json: expected a JSON object",
    );
}

#[test]
fn rotary_refusals_name_the_key() {
    let folder = Folder::new("rope-refusals");
    let cases = [
        (
            json!({"rope_theta": 0}),
            "rope_theta is 0: expected a number above 1",
        ),
        (
            json!({"rope_scaling": []}),
            "rope_scaling is []: expected an object",
        ),
        (
            json!({"rope_scaling": {"type": "spiral"}}),
            "rope_scaling: type is \"spiral\": this rotary scaling is not",
        ),
        (
            json!({"rope_scaling": {"type": "longrope"}}),
            "rope_scaling: short_factor is missing",
        ),
        (
            json!({"rope_scaling": {"rope_type": "su", "short_factor": [1, -1]}}),
            "rope_scaling: short_factor is [1,-1]: expected a list of numbers above 0",
        ),
        (
            json!({"rope_scaling": {"type": "linear"}}),
            "rope_scaling: factor is missing",
        ),
        (
            json!({"rope_scaling": {"type": "linear", "factor": 0}}),
            "factor is 0: expected a number above 0",
        ),
        (
            json!({"rope_scaling": {"type": "llama3", "factor": 8}}),
            "low_freq_factor is missing",
        ),
        (
            json!({"rope_scaling": {"type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4}}),
            "high_freq_factor is 4: expected more than low_freq_factor",
        ),
        (
            json!({"rope_scaling": {"type": "yarn", "factor": 4, "beta_fast": 0.5}}),
            "beta_fast is 0.5",
        ),
        (
            json!({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}),
            "rope_parameters: full_attention is",
        ),
        (
            json!({"partial_rotary_factor": 1.5}),
            "partial_rotary_factor is 1.5",
        ),
        (
            json!({"partial_rotary_factor": 0.4}),
            "3 rotary dimensions do not fit a head of 8",
        ),
    ];
    for (changes, message) in cases {
        refused(folder.with(changes), message);
    }
}

/// Values that a file may hold in place of any other.
fn nasty() -> Vec<Value> {
    vec![
        json!(null),
        json!(0),
        json!(1),
        json!(-1),
        json!(0.5),
        json!(3.0),
        json!(1e308),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(u32::MAX),
        json!(4096),
        json!(""),
        json!("yarn"),
        json!([]),
        json!([1, null, "x"]),
        json!({}),
        json!({"type": "yarn", "factor": 1e300, "original_max_position_embeddings": 1}),
        json!({"type": "yarn", "factor": 4, "mscale": 1e308, "mscale_all_dim": -1e308}),
        json!({"type": "dynamic", "factor": 1e-300}),
        json!(true),
    ]
}

#[test]
fn any_key_of_config_json_may_be_anything() {
    let folder = Folder::new("hf-nasty");
    let keys = [
        "head_dim",
        "rope_theta",
        "rope_scaling",
        "rope_parameters",
        "sliding_window",
        "layer_types",
    ];
    let more = [
        "use_sliding_window",
        "max_window_layers",
        "partial_rotary_factor",
        "bos_token_id",
        "dtype",
        "hidden_act",
    ];
    let mut opened = 0;
    for model_type in ["llama", "mistral", "qwen2", "other"] {
        let base = merged(
            llama_config(),
            json!({"model_type": model_type, "use_sliding_window": true}),
        );
        let own: Vec<String> = base.as_object().unwrap().keys().cloned().collect();
        for key in own.iter().map(String::as_str).chain(keys).chain(more) {
            for value in nasty() {
                let result = folder.open(&merged(base.clone(), json!({ key: value.clone() })));
                opened += usize::from(result.is_ok());
                result.map_or_else(
                    |error| assert!(error.to_string().contains("config.json")),
                    |c| sound(&c),
                );
            }
        }
    }
    assert!(opened > 100, "{opened}");
}
