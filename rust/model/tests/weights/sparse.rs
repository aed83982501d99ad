//! Configurations of attention that is not the same in all layers: indexes, and MiMo's two kinds.
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::{config_hf::Folder, support::refused};
use candle_vllm_model::{
    Result,
    config::{Config, IndexShape, Rotation, Sparse},
    family,
};
use serde_json::{Value, json};

/// The tiny llama's configuration as `model_type` with experts, and `changes`.
fn of(model_type: &str, changes: Value) -> Result<Config> {
    static FOLDERS: AtomicUsize = AtomicUsize::new(0);
    let name = format!("sparse-{}", FOLDERS.fetch_add(1, Ordering::Relaxed));
    let mut all = json!({
        "model_type": model_type,
        "architectures": [family::of_type(model_type).unwrap().architecture],
        "n_routed_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 12,
        "num_hidden_layers": 6
    });
    for (key, value) in changes.as_object().unwrap() {
        all[key] = value.clone();
    }
    Folder::new(&name).with(all)
}

fn glm(changes: Value) -> Result<Config> {
    of("glm_moe_dsa", changes)
}

fn sparse(config: Result<Config>) -> Sparse {
    config.unwrap().sparse.unwrap()
}

#[test]
fn an_index_has_its_family_s_shape_unless_it_is_said() {
    let deepseek = sparse(of("deepseek_v32", json!({})));
    let shape = IndexShape {
        heads: 64,
        width: 128,
        most: 2048,
        interleaved: false,
    };
    assert_eq!((deepseek.index, deepseek.own), (shape, vec![true; 6]));
    let said = json!({"index_n_heads": 3, "index_head_dim": 80, "index_topk": 7});
    let said = sparse(glm(said)).index;
    assert_eq!((said.heads, said.width, said.most), (3, 80, 7));
    assert!(said.interleaved);
    let turned = json!({"indexer_rope_interleave": false});
    assert!(!sparse(glm(turned)).index.interleaved);
    assert!(of("deepseek_v3", json!({})).unwrap().sparse.is_none());
}

#[test]
fn layers_without_an_index_are_told_in_four_ways() {
    let own = |changes: Value| sparse(glm(changes)).own;
    let [t, f] = [true, false];
    assert_eq!(own(json!({})), [t; 6]);
    assert_eq!(
        own(json!({"index_topk_pattern": "FFSSFS"})),
        [t, t, f, f, t, f]
    );
    let names = json!({"indexer_types": ["full", "shared", "full", "full", "shared", "shared"]});
    assert_eq!(own(names), [t, f, t, t, f, f]);
    // As transformers counts: layer i has one where max(i - offset + 1, 0) is a multiple.
    assert_eq!(own(json!({"index_topk_freq": 3})), [t, t, f, f, t, f]);
    let offset = json!({"index_topk_freq": 2, "index_skip_topk_offset": 3});
    assert_eq!(own(offset), [t, t, t, f, t, f]);
    assert_eq!(
        own(json!({"index_topk_freq": null, "index_topk_pattern": null})),
        [t; 6]
    );
}

#[test]
fn indexes_that_cannot_be_are_refused() {
    for (changes, said) in [
        (json!({"indexer_types": ["full"]}), "indexer_types"),
        (
            json!({"index_topk_pattern": "FFXSFS"}),
            "index_topk_pattern",
        ),
        (json!({"index_topk_pattern": "SFFFFF"}), "first layer"),
        (json!({"index_head_dim": 62}), "index_head_dim"),
        (json!({"index_head_dim": 65}), "even"),
        (json!({"index_topk": 0}), "index_topk"),
    ] {
        refused(glm(changes), said);
    }
}

fn mimo(changes: Value) -> Result<Config> {
    let mut all = json!({
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 24,
        "v_head_dim": 16,
        "rope_theta": null,
        "num_hidden_layers": 7
    });
    for (key, value) in changes.as_object().unwrap() {
        all[key] = value.clone();
    }
    of("mimo_v2_flash", all)
}

#[test]
fn mimo_s_layers_are_told_as_published_and_as_transformers_saves_them() {
    let published = mimo(json!({
        "hybrid_layer_pattern": [0, 1, 1, 1, 1, 0, 1],
        "sliding_window": 9,
        "sliding_window_size": 9,
        "swa_num_key_value_heads": 4,
        "swa_head_dim": 24,
        "rope_theta": 5000000,
        "swa_rope_theta": 10000,
        "partial_rotary_factor": 0.334,
        "layernorm_epsilon": 0.25
    }));
    let [full, own] = ["full_attention", "sliding_attention"];
    let rope = |theta: f64| json!({"rope_theta": theta, "partial_rotary_factor": 0.334});
    let saved = mimo(json!({
        "layer_types": [full, own, own, own, own, full, own],
        "sliding_window": 10,
        "rope_parameters": {full: rope(5e6), own: rope(1e4)}
    }));
    let bare = mimo(json!({"sliding_window": 10}));
    for config in [published.unwrap(), saved.unwrap(), bare.unwrap()] {
        let w = Some(10);
        assert_eq!(config.windows, [None, w, w, w, w, None, w]);
        assert_eq!((config.rope_theta, config.rotary_dim), (5e6, 8));
        assert_eq!(config.scales.values, 0.707);
        for (i, window) in config.windows.iter().enumerate() {
            let layer = config.layer(i);
            let heads = if window.is_some() { 4 } else { 2 };
            assert_eq!(
                (layer.kv_heads, layer.head_dim, layer.value_dim),
                (heads, 24, 16)
            );
            let main = config.rotations[i] == Rotation::Main;
            assert_eq!(main, window.is_none());
        }
    }
}

#[test]
fn what_mimo_s_files_may_say_otherwise_is_heeded_or_refused() {
    assert_eq!(
        mimo(json!({"attention_value_scale": null}))
            .unwrap()
            .scales
            .values,
        1.0
    );
    assert_eq!(
        mimo(json!({"layernorm_epsilon": 0.25, "rms_norm_eps": null}))
            .unwrap()
            .norm_eps,
        0.25
    );
    for (changes, said) in [
        (json!({"swa_head_dim": 32}), "swa_head_dim"),
        (json!({"swa_v_head_dim": 24}), "swa_v_head_dim"),
        (
            json!({"hybrid_layer_pattern": [0, 1]}),
            "hybrid_layer_pattern",
        ),
        (
            json!({"hybrid_layer_pattern": [0, 1, 2, 1, 1, 0, 1]}),
            "hybrid_layer_pattern",
        ),
        (json!({"swa_num_key_value_heads": 3}), "3 key/value heads"),
    ] {
        refused(mimo(changes), said);
    }
}
