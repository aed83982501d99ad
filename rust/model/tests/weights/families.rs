//! What families' configurations leave unsaid: published forms, rules of windows and rotations, factors, and what is said
//! about an architecture that nobody knows.
use crate::config_hf::Folder;
use crate::support::{Gguf, refused, scratch};
use candle_vllm_model::{
    Error,
    config::{Config, RopeScaling, Rotation, Scales},
    family,
    weights::Checkpoint,
};
use serde_json::json;

fn own(theta: f64) -> Rotation {
    Rotation::Own {
        theta,
        scaling: RopeScaling::None,
    }
}

#[test]
fn a_published_gemma_3_says_little() {
    // As google/gemma-3-4b-it has it.
    let config = json!({
        "architectures": ["Gemma3ForConditionalGeneration"],
        "model_type": "gemma3",
        "eos_token_id": [1, 106],
        "text_config": {
            "hidden_size": 2560,
            "intermediate_size": 10240,
            "model_type": "gemma3_text",
            "num_hidden_layers": 34,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            "sliding_window": 1024
        },
        "vision_config": {"model_type": "siglip_vision_model"}
    });
    let c = Folder::new("gemma3-published").open(&config).unwrap();
    assert_eq!(c.architecture, "Gemma3ForCausalLM");
    assert_eq!((c.heads, c.kv_heads, c.head_dim), (8, 4, 256));
    assert_eq!((c.vocab_size, c.max_position), (262_208, 131_072));
    assert_eq!(c.rope_scaling, RopeScaling::Linear { factor: 8.0 });
    assert!(c.tie_word_embeddings && c.rope_theta == 1e6);
    assert_eq!(c.activation, "gelu_pytorch_tanh");
    assert_eq!(c.eos_token_ids, [1, 106]);
    for (i, (window, rotation)) in c.windows.iter().zip(&c.rotations).enumerate() {
        let whole = i % 6 == 5;
        assert_eq!(*window, (!whole).then_some(1024));
        assert_eq!(
            *rotation,
            if whole { Rotation::Main } else { own(10_000.0) }
        );
    }
    let wanted = Scales {
        attention: Some(1.0 / 16.0),
        embedding: 2560f64.sqrt(),
        ..Scales::default()
    };
    assert_eq!(c.scales, wanted);
}

/// As google/gemma-4-E2B-it has it, with `changes`.
fn gemma4(changes: serde_json::Value) -> Result<Config, Error> {
    let mut text = json!({
        "attention_k_eq_v": false,
        "enable_moe_block": false,
        "final_logit_softcapping": 30.0,
        "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": 1536,
        "hidden_size_per_layer_input": 256,
        "intermediate_size": 6144,
        "model_type": "gemma4_text",
        "num_attention_heads": 8,
        "num_global_key_value_heads": null,
        "num_hidden_layers": 35,
        "num_key_value_heads": 1,
        "num_kv_shared_layers": 20,
        "sliding_window": 512,
        "sliding_window_pattern": 5,
        "use_double_wide_mlp": true,
        "vocab_size": 262144
    });
    for (key, value) in changes.as_object().unwrap() {
        text[key] = value.clone();
    }
    let config = json!({
        "architectures": ["Gemma4ForConditionalGeneration"],
        "model_type": "gemma4",
        "text_config": text,
        "audio_config": {}
    });
    Folder::new("gemma4-published").open(&config)
}

#[test]
fn layers_of_gemma_4_have_two_shapes_and_share_keys() {
    let c = gemma4(json!({})).unwrap();
    assert_eq!(c.architecture, "Gemma4ForCausalLM");
    assert_eq!(
        (c.head_dim, c.kv_heads, c.intermediate_size),
        (512, 1, 12_288)
    );
    assert_eq!(
        (c.scales.attention, c.scales.logit_cap),
        (Some(1.0), Some(30.0))
    );
    assert!(c.moe.is_none() && c.tie_word_embeddings);
    let (factor, share) = (1.0, 0.25);
    assert_eq!(c.rope_scaling, RopeScaling::Proportional { factor, share });
    let inputs = c.layer_inputs.unwrap();
    assert_eq!((inputs.width, inputs.rows), (256, 262_144));
    for i in 0..35 {
        let (own, whole) = (c.layer(i), i % 5 == 4);
        let width = if whole { 512 } else { 256 };
        assert_eq!(
            (own.head_dim, own.rotary_dim, own.keyed),
            (width, width, false)
        );
        assert_eq!(c.windows[i], (!whole).then_some(512));
        let read = (i >= 15).then_some(if whole { 14 } else { 13 });
        let mlp = if read.is_some() { 12_288 } else { 6144 };
        assert_eq!((own.reads, own.intermediate_size), (read, mlp), "{i}");
    }
}

#[test]
fn what_single_layers_of_gemma_4_are_told_holds_or_is_refused() {
    let one = json!({"0": {"num_key_value_heads": 2}, "34": {"head_dim": 128}});
    let own = gemma4(json!({"per_layer_config": one, "num_kv_shared_layers": 0})).unwrap();
    assert_eq!((own.layer(0).kv_heads, own.layer(34).head_dim), (2, 128));
    assert_eq!((own.layer(4).head_dim, own.kv_heads), (256, 2));
    let global = json!({"attention_k_eq_v": true, "num_global_key_value_heads": 2});
    let keyed = gemma4(global).unwrap();
    assert_eq!((keyed.layer(4).kv_heads, keyed.layer(4).keyed), (2, true));
    assert_eq!((keyed.layer(3).kv_heads, keyed.layer(3).keyed), (1, false));
    // The last layer sees all, whatever the pattern says.
    assert_eq!(
        gemma4(json!({"sliding_window_pattern": 6}))
            .unwrap()
            .windows[34],
        None
    );
    assert!(
        gemma4(json!({"hidden_size_per_layer_input": 0}))
            .unwrap()
            .layer_inputs
            .is_none()
    );
    let refusals = [
        (
            json!({"num_kv_shared_layers": 33}),
            "leaves no layer of each kind",
        ),
        (
            json!({"num_kv_shared_layers": 36}),
            "expected an integer from 1 to 35",
        ),
        (
            json!({"per_layer_config": {"35": {}}}),
            "by the numbers of layers",
        ),
        (
            json!({"per_layer_config": {"0": {"skip": ["mlp"]}}}),
            "for single layers is not supported",
        ),
        (
            json!({"per_layer_config": {"34": {"head_dim": 64}}}),
            "share keys, but not their shape",
        ),
        (
            json!({"per_layer_config": {"0": {"num_key_value_heads": 3}}}),
            "cannot share 3 key/value heads",
        ),
        (
            json!({"per_layer_config": {"0": {"head_dim": 7}}}),
            "do not fit a head of 7",
        ),
        (
            json!({"use_bidirectional_attention": "all"}),
            "later tokens",
        ),
        (json!({"intermediate_size": [1, 2]}), "expected 35 numbers"),
        (json!({"enable_moe_block": true}), "num_experts is missing"),
    ];
    for (changes, message) in refusals {
        refused(gemma4(changes), message);
    }
}

#[test]
fn a_published_gemma_3n_has_streams_and_cuts() {
    // As google/gemma-3n-E2B-it has it.
    let published = |changes: serde_json::Value| {
        let types: Vec<&str> = (0..30)
            .map(|i| {
                if i % 5 == 4 {
                    "full_attention"
                } else {
                    "sliding_attention"
                }
            })
            .collect();
        let sparse: Vec<f64> = (0..30).map(|i| if i < 10 { 0.95 } else { 0.0 }).collect();
        let mut text = json!({
            "activation_sparsity_pattern": sparse,
            "altup_active_idx": 0,
            "altup_num_inputs": 4,
            "final_logit_softcapping": 30.0,
            "head_dim": 256,
            "hidden_size": 2048,
            "hidden_size_per_layer_input": 256,
            "intermediate_size": vec![8192; 30],
            "layer_types": types,
            "model_type": "gemma3n_text",
            "num_attention_heads": 8,
            "num_hidden_layers": 30,
            "num_key_value_heads": 2,
            "num_kv_shared_layers": 10,
            "rope_local_base_freq": 10000.0,
            "rope_scaling": null,
            "rope_theta": 1e6,
            "sliding_window": 512,
            "vocab_size": 262400,
            "vocab_size_per_layer_input": 262144
        });
        for (key, value) in changes.as_object().unwrap() {
            text[key] = value.clone();
        }
        let config = json!({
            "architectures": ["Gemma3nForConditionalGeneration"],
            "model_type": "gemma3n",
            "text_config": text
        });
        Folder::new("gemma3n-published").open(&config)
    };
    let c = published(json!({})).unwrap();
    assert_eq!(c.architecture, "Gemma3nForCausalLM");
    let altup = c.altup.as_ref().unwrap();
    assert_eq!((altup.streams, altup.active, altup.scaled), (4, 0, true));
    // The quantile of a normal distribution below which 95 % lie.
    assert!(
        altup.cuts[..10]
            .iter()
            .all(|c| (c.unwrap() - 1.644_853_6).abs() < 1e-6)
    );
    assert!(altup.cuts[10..].iter().all(Option::is_none));
    assert_eq!(
        (c.layer(19).reads, c.layer(24).reads, c.layer(29).reads),
        (None, Some(19), Some(19))
    );
    assert_eq!(c.layer(28).reads, Some(18));
    assert_eq!((c.rope_theta, &c.rotations[0]), (1e6, &own(10_000.0)));
    assert_eq!((c.intermediate_size, c.scales.attention), (8192, Some(1.0)));
    let refusals = [
        (
            json!({"activation_sparsity_pattern": [0.5]}),
            "expected 30 numbers",
        ),
        (
            json!({"activation_sparsity_pattern": vec![1.0; 30]}),
            "from 0 to below 1",
        ),
        (json!({"altup_active_idx": 4}), "altup_active_idx is 4"),
        (json!({"altup_num_inputs": 0}), "altup_num_inputs is 0"),
    ];
    for (changes, message) in refusals {
        refused(published(changes), message);
    }
}

/// The tiny llama's configuration as `model_type`, with 4 layers and `changes`.
fn of(model_type: &str, changes: serde_json::Value) -> Result<Config, Error> {
    let mut all = json!({
        "model_type": model_type,
        "architectures": [family::of_type(model_type).unwrap().architecture],
        "num_hidden_layers": 4
    });
    for (key, value) in changes.as_object().unwrap() {
        all[key] = value.clone();
    }
    Folder::new(&format!("family-{model_type}")).with(all)
}

#[test]
fn rules_say_which_layers_rotate_and_how() {
    let rotations = |model_type, changes| of(model_type, changes).unwrap().rotations;
    let (main, none) = (Rotation::Main, Rotation::None);
    let last = [main.clone(), main.clone(), main.clone(), none.clone()];
    assert_eq!(rotations("cohere2", json!({"sliding_window": 16})), last);
    assert_eq!(rotations("smollm3", json!({})), last);
    let marks = json!({"no_rope_layers": [0, 1, 1, 1]});
    assert_eq!(rotations("smollm3", marks)[0], none);
    // Without windows every layer of EXAONE 4 rotates.
    assert_eq!(rotations("exaone4", json!({}))[3], main);
    let letters = json!({"sliding_window": 16, "sliding_window_pattern": "LLLG"});
    assert_eq!(rotations("exaone4", letters), last);
    let each = json!({"layer_rope_theta": [0, 1e4, 1e4, 5e5]});
    assert_eq!(
        rotations("granite_swa", each),
        [none.clone(), own(1e4), own(1e4), own(5e5)]
    );
    assert_eq!(
        rotations("gpt2", json!({})),
        [none.clone(), none.clone(), none.clone(), none]
    );
    let local = json!({"rope_local_base_freq": 5000.0, "rope_theta": 1e6});
    assert_eq!(rotations("gemma3_text", local)[0], own(5000.0));
    refused(
        of("granite_swa", json!({"layer_rope_theta": [1e4]})),
        "expected 4 numbers",
    );
}

#[test]
fn factors_and_caps_follow_the_family() {
    let scales = |model_type, changes| of(model_type, changes).unwrap().scales;
    let gemma2 = scales("gemma2", json!({"final_logit_softcapping": null}));
    assert_eq!((gemma2.attention_cap, gemma2.logit_cap), (Some(50.0), None));
    let granite = json!({
        "embedding_multiplier": 12.0,
        "residual_multiplier": 0.22,
        "attention_multiplier": 0.0078125,
        "logits_scaling": 16.0
    });
    let wanted = Scales {
        embedding: 12.0,
        residual: 0.22,
        attention: Some(0.0078125),
        logits: 1.0 / 16.0,
        ..Scales::default()
    };
    assert_eq!(scales("granite", granite.clone()), wanted);
    // The same keys mean nothing to a Llama.
    assert_eq!(scales("llama", granite), Scales::default());
    assert_eq!(scales("cohere", json!({})).logits, 0.0625);
    refused(
        of("gemma2", json!({"attn_logit_softcapping": -1})),
        "attn_logit_softcapping is -1",
    );
}

#[test]
fn hunyuan_and_longrope_change_the_frequencies() {
    let alpha = json!({"head_dim": 8, "rope_scaling": {"type": "dynamic", "alpha": 1000.0}});
    let c = of("hunyuan_v1_dense", alpha).unwrap();
    assert_eq!(c.rope_scaling, RopeScaling::None);
    assert!((c.rope_theta / (1e4 * 1000f64.powf(8.0 / 6.0)) - 1.0).abs() < 1e-12);
    let long = |short: usize| {
        let rope = json!({"type": "longrope", "short_factor": vec![1.0; short], "long_factor": vec![2.0; 4]});
        let changes = json!({
            "head_dim": 8,
            "max_position_embeddings": 4096,
            "original_max_position_embeddings": 64,
            "rope_scaling": rope
        });
        of("phi3", changes)
    };
    let RopeScaling::LongRope {
        original,
        attention_factor,
        ..
    } = long(4).unwrap().rope_scaling
    else {
        panic!("not longrope");
    };
    assert_eq!(original, 64);
    assert!((attention_factor - 2f64.sqrt()).abs() < 1e-12);
    refused(
        long(3),
        "3 short and 4 long rotary factors for 4 frequencies",
    );
}

#[test]
fn an_unknown_architecture_is_told_the_known_ones_and_the_nearest() {
    let folder = Folder::new("unknown-architecture");
    let config = json!({"architectures": ["Gemma2ForCausalLN"], "model_type": "gemma22"});
    let error = folder.open(&config).unwrap_err().to_string();
    assert!(
        error.contains("Gemma2ForCausalLN is not supported"),
        "{error}"
    );
    assert!(
        error.contains("the nearest name is Gemma2ForCausalLM"),
        "{error}"
    );
    for known in family::architectures() {
        assert!(error.contains(known), "{error} lacks {known}");
    }
}

#[test]
fn names_of_families_are_told_apart() {
    let all: Vec<&str> = family::architectures().collect();
    for (i, name) in all.iter().enumerate() {
        assert!(!all[..i].contains(name), "{name} twice");
        let row = family::find(name).unwrap();
        assert_eq!(family::of_type(row.model_type).unwrap().architecture, *name);
        if !row.gguf.is_empty() {
            assert_eq!(family::of_gguf(row.gguf).unwrap().architecture, *name);
        }
    }
}

#[test]
fn gguf_keeps_olmo_3_under_olmo_2() {
    let folder = scratch("gguf-olmo3");
    let mut file = Gguf::llama();
    file.text("general.architecture", "olmo2");
    let keys: [(&str, u32); 6] = [
        ("block_count", 2),
        ("context_length", 64),
        ("embedding_length", 16),
        ("feed_forward_length", 32),
        ("attention.head_count", 2),
        ("attention.sliding_window", 16),
    ];
    for (key, value) in keys {
        file.u32(&format!("olmo2.{key}"), value);
    }
    file.f32("olmo2.attention.layer_norm_rms_epsilon", 1e-5);
    let path = file.write(&folder, "olmo.gguf");
    // Its tensors are a llama's: the family is found before they are looked at.
    let error = Checkpoint::open(&path).err().map(|e| e.to_string());
    assert!(error.is_some_and(|e| e.contains("a Olmo3ForCausalLM has")));
}
