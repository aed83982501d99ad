//! Mixtures of experts through the door: numbers of their configurations, tensors of all experts, drafting layers.
use std::fs;

use crate::{
    config_gguf::gguf,
    config_hf::Folder,
    support::{Gguf, llama_config, refused, safetensors, scratch},
};
use candle_vllm_kernels::cpu::routing::Scores;
use candle_vllm_model::{
    Error,
    config::{Config, Moe},
    family,
    weights::Checkpoint,
};
use serde_json::{Value, json};

/// The tiny llama's configuration as `model_type`, with 8 experts of which 2 are used, and `changes`.
fn of(model_type: &str, changes: Value) -> Result<Config, Error> {
    let mut all = json!({
        "model_type": model_type,
        "architectures": [family::of_type(model_type).unwrap().architecture],
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 12
    });
    for (key, value) in changes.as_object().unwrap() {
        all[key] = value.clone();
    }
    Folder::new(&format!("moe-{model_type}")).with(all)
}

fn moe(model_type: &str, changes: Value) -> Moe {
    of(model_type, changes).unwrap().moe.unwrap()
}

#[test]
fn configurations_say_how_many_how_wide_and_how_chosen() {
    let plain = moe("qwen3_moe", json!({}));
    assert_eq!((plain.experts, plain.used, plain.width), (8, 2, 12));
    assert!(!plain.normalise && plain.shared.is_none() && plain.groups.is_none());
    assert!(moe("qwen3_moe", json!({"norm_topk_prob": true})).normalise);
    assert!(moe("mixtral", json!({"norm_topk_prob": false})).normalise);
    let shared = json!({"shared_expert_intermediate_size": 40});
    assert_eq!(moe("qwen2_moe", shared).shared, Some(40));
    let ernie = json!({"moe_num_shared_experts": 2});
    assert_eq!(moe("ernie4_5_moe", ernie).shared, Some(24));
    let none = json!({"moe_num_shared_experts": 0});
    assert_eq!(moe("ernie4_5_moe", none).shared, None);
    let lists =
        json!({"num_experts_per_tok": null, "moe_topk": [3, 3], "num_shared_expert": [1, 1]});
    let hunyuan = moe("hunyuan_v1_moe", lists);
    assert_eq!((hunyuan.used, hunyuan.shared), (3, Some(12)));
    let dots = json!({"n_group": 4, "topk_group": 2, "routed_scaling_factor": 2.5});
    let dots = moe("dots1", dots);
    assert_eq!((dots.groups, dots.factor), (Some([4, 2]), 2.5));
    assert_eq!(dots.scores, Scores::Sigmoid);
    let phi = moe("phimoe", json!({"router_jitter_noise": 0.25}));
    assert_eq!(phi.scores, Scores::SparseMixer(0.25));
    let clamped = moe("gpt_oss", json!({"swiglu_limit": 3.0}))
        .clamped
        .unwrap();
    assert_eq!((clamped.alpha, clamped.limit), (1.702, 3.0));
}

#[test]
fn what_does_not_fit_is_refused_by_key() {
    let more = json!({"num_experts_per_tok": 9});
    refused(of("qwen3_moe", more), "expected an integer from 1 to 8");
    let groups = json!({"n_group": 3, "topk_group": 2});
    refused(of("dots1", groups), "n_group is 3");
    let each = json!({"num_experts_per_tok": null, "moe_topk": [2, 3]});
    refused(of("hunyuan_v1_moe", each), "different values");
    refused(of("qwen3_moe", json!({"clip_qkv": 8.0})), "clip_qkv");
    refused(of("minimax_m2", json!({"clip_qkv": 8.0})), "clip_qkv");
    refused(of("olmoe", json!({"clip_qkv": 0})), "clip_qkv");
    refused(of("qwen3_moe", json!({"num_experts": null})), "is missing");
}

#[test]
fn rotary_dim_and_published_names_are_known() {
    assert_eq!(
        of("minimax_m2", json!({"rotary_dim": 4}))
            .unwrap()
            .rotary_dim,
        4
    );
    let published = json!({"architectures": ["PhiMoEForCausalLM"]});
    assert!(of("phimoe", published).is_ok());
    assert!(family::find("PhiMoEForCausalLM").is_some());
}

#[test]
fn olmoe_may_hold_queries_keys_and_values_within_bounds() {
    let hf = |clip: Value| of("olmoe", json!({"clip_qkv": clip})).unwrap().scales.clip;
    assert_eq!(
        [hf(json!(8)), hf(json!(0.5)), hf(Value::Null)],
        [Some(8.0), Some(0.5), None]
    );
    let gguf = |arch: &str, clip: f32| {
        gguf("moe-clip", |f| {
            for (key, _) in &mut f.pairs {
                *key = key.replace("llama.", &format!("{arch}."));
            }
            f.text("general.architecture", arch);
            if arch == "olmoe" {
                f.u32("olmoe.expert_count", 8)
                    .u32("olmoe.expert_used_count", 2)
                    .u32("olmoe.expert_feed_forward_length", 12);
            }
            f.f32(&format!("{arch}.attention.clamp_kqv"), clip);
        })
        .map(|c| c.scales.clip)
    };
    assert_eq!(gguf("olmoe", 8.0).unwrap(), Some(8.0));
    // llama.cpp's way to say none.
    assert_eq!(gguf("olmoe", 0.0).unwrap(), None);
    assert_eq!(gguf("llama", 0.0).unwrap(), None);
    refused(gguf("llama", 8.0), "llama.attention.clamp_kqv");
}

#[test]
fn gguf_keys_say_the_same() {
    let config = gguf("moe-gguf", |f| {
        f.u32("llama.expert_count", 8)
            .u32("llama.expert_used_count", 2)
            .u32("llama.expert_feed_forward_length", 12)
            .u32("llama.expert_gating_func", 2)
            .f32("llama.expert_weights_scale", 2.5);
    });
    let moe = config.unwrap().moe.unwrap();
    assert_eq!((moe.experts, moe.used, moe.width), (8, 2, 12));
    assert_eq!((moe.scores, moe.factor), (Scores::Sigmoid, 2.5));
    assert!(moe.normalise);
}

#[test]
fn stacked_tensors_become_experts_and_bad_ones_are_named() {
    let open = |dims: &[u64]| {
        let mut file = Gguf::llama();
        file.u32("llama.expert_count", 3)
            .u32("llama.expert_used_count", 1)
            .counted("blk.0.ffn_gate_exps.weight", dims, 0.0);
        Checkpoint::open(&file.write(&scratch("moe-stacked"), "model.gguf"))
    };
    let weights = open(&[4, 2, 3]).unwrap().weights;
    let all = |e: usize| {
        let name = format!("model.layers.0.block_sparse_moe.experts.{e}.w1.weight");
        let stored = weights.get(&name).unwrap();
        assert_eq!(stored.shape, [2, 4]);
        stored.data.to_vec()
    };
    let whole: Vec<u8> = (0..3).flat_map(all).collect();
    let floats: Vec<f32> = whole
        .as_chunks()
        .0
        .iter()
        .map(|b| f32::from_le_bytes(*b))
        .collect();
    assert!(floats.windows(2).all(|w| w[1] == w[0] + 1.0), "{floats:?}");
    let error = open(&[4, 6]).err().unwrap().to_string();
    assert!(error.contains("experts.w1"), "{error}");
}

#[test]
fn layers_that_draft_are_left_out() {
    let folder = scratch("moe-drafts");
    let tensor = |name: &str| (name.to_string(), "F32", vec![1], vec![0; 4]);
    let names = [
        "a.weight",
        "mtp.norm.weight",
        "model.layers.1.eh_proj.weight",
        "model.layers.2.w",
    ];
    let tensors: Vec<_> = names.iter().map(|n| tensor(n)).collect();
    let tensors: Vec<_> = tensors
        .iter()
        .map(|(n, d, s, b)| (n.as_str(), *d, s.clone(), b.clone()))
        .collect();
    fs::write(folder.join("model.safetensors"), safetensors(&tensors)).unwrap();
    let mut config = llama_config();
    let changes = json!({"model_type": "glm4_moe", "architectures": ["Glm4MoeForCausalLM"],
        "n_routed_experts": 4, "num_experts_per_tok": 2, "num_nextn_predict_layers": 1});
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let weights = Checkpoint::open(&folder).unwrap().weights;
    assert_eq!(weights.names(), ["a.weight", "model.layers.2.w"]);
}
