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
