//! GGUF metadata in normal form: optional keys, rotary scalings, names of architectures, and refusals that name the key.
use candle_vllm_model::{
    Result,
    config::{Config, RopeScaling},
    weights::Checkpoint,
};
use serde_json::{Value, json};

use crate::{
    config_hf::Folder,
    support::{self, Gguf, llama_config, refused, scratch, sound, yarn},
};

pub fn gguf(name: &str, change: impl FnOnce(&mut Gguf)) -> Result<Config> {
    let mut file = Gguf::llama();
    change(&mut file);
    Checkpoint::open(&file.write(&scratch(name), "model.gguf")).map(|c| c.config)
}

#[test]
fn gguf_metadata_and_config_json_say_the_same() {
    let plain = |c: Config| Config {
        raw: Value::Null,
        tie_word_embeddings: false,
        ..c
    };
    let ours = gguf("gguf-same", |_| {}).unwrap();
    assert!(ours.tie_word_embeddings);
    assert_eq!(
        plain(ours),
        plain(Folder::new("gguf-same-hf").open(&llama_config()).unwrap())
    );
    let untied = gguf("gguf-untied", |f| {
        _ = f.counted("output.weight", &[16, 10], 0.0)
    })
    .unwrap();
    assert!(!untied.tie_word_embeddings);
}

#[test]
fn gguf_optional_keys_are_read() {
    let config = gguf("gguf-optional", |f| {
        f.u32s("llama.attention.head_count", &[2])
            .u32s("llama.feed_forward_length", &[24]);
        f.u32("llama.attention.sliding_window", 6)
            .f32("llama.rope.freq_base", 1e6);
        f.u32("tokenizer.ggml.eot_token_id", 4)
            .u32("tokenizer.ggml.eom_token_id", 2);
        f.u32("tokenizer.ggml.bos_token_id", 1)
            .u32("general.file_type", 32);
    })
    .unwrap();
    assert_eq!(
        (config.heads, config.intermediate_size, config.windows),
        (2, 24, vec![Some(6)])
    );
    assert_eq!(
        (config.eos_token_ids, config.bos_token_id),
        (vec![2, 4], Some(1))
    );
    assert_eq!(
        (config.rope_theta, config.dtype.as_deref()),
        (1e6, Some("bfloat16"))
    );
    assert_eq!(config.raw["llama.block_count"], json!(1));
    assert!(config.raw.get("tokenizer.ggml.bos_token_id").is_none());
}

#[test]
fn gguf_rotary_scalings_are_read() {
    let of =
        |change: fn(&mut Gguf)| gguf("gguf-rope", change).map(|c| (c.rope_scaling, c.max_position));
    let scaling =
        |kind: &'static str| move |f: &mut Gguf| _ = f.text("llama.rope.scaling.type", kind);
    assert_eq!(
        of(|f| _ = f.f32("llama.rope.scaling.factor", 4.0)).unwrap(),
        (RopeScaling::Linear { factor: 4.0 }, 64)
    );
    assert_eq!(
        of(|f| _ = f.f32("llama.rope.scale_linear", 2.0)).unwrap().0,
        RopeScaling::Linear { factor: 2.0 }
    );
    let yarn_of = |f: &mut Gguf| {
        f.text("llama.rope.scaling.type", "yarn")
            .f32("llama.rope.scaling.factor", 4.0);
        f.u32("llama.rope.scaling.original_context_length", 32);
    };
    assert_eq!(
        gguf("gguf-yarn", yarn_of).unwrap().rope_scaling,
        yarn(None, true)
    );
    let more = gguf("gguf-yarn-more", |f| {
        yarn_of(f);
        f.f32("llama.rope.scaling.attn_factor", 0.5)
            .f32("llama.rope.scaling.yarn_beta_fast", 16.0);
        f.f32("llama.rope.scaling.yarn_ext_factor", 1.0);
    });
    let more = more.unwrap();
    let RopeScaling::Yarn {
        attention_factor: Some(a),
        beta_fast: 16.0,
        ..
    } = more.rope_scaling
    else {
        panic!()
    };
    assert!((a - 0.5 * (0.1 * 4f64.ln() + 1.0)).abs() < 1e-12);
    assert_eq!(more.max_position, 128);
    assert_eq!(
        of(|f| _ = f.counted("rope_freqs.weight", &[4], 1.0))
            .unwrap()
            .0,
        RopeScaling::Factors(vec![1.0, 2.0, 3.0, 4.0])
    );
    refused(
        of(|f| _ = f.counted("rope_freqs.weight", &[3], 1.0)),
        "3 rotary frequency factors for 4 frequencies",
    );
    refused(
        of(|f| _ = f.counted("rope_freqs.weight", &[4], 0.0)),
        "factor 0 is not positive",
    );
    let both = |f: &mut Gguf| {
        _ = f
            .f32("llama.rope.scaling.factor", 4.0)
            .counted("rope_freqs.weight", &[4], 1.0)
    };
    refused(gguf("gguf-both", both), "rope_freqs.weight");
    refused(
        gguf("gguf-long", scaling("longrope")),
        "llama.rope.scaling.type is \"longrope\"",
    );
    refused(
        gguf("gguf-ext", |f| {
            yarn_of(f);
            f.f32("llama.rope.scaling.yarn_ext_factor", 0.5);
        }),
        "yarn_ext_factor is 0.5",
    );
}

#[test]
fn gguf_architectures_get_hugging_face_names() {
    let of = |name: &str| {
        let mut file = Gguf::llama();
        let pairs = std::mem::take(&mut file.pairs);
        for (key, value) in pairs {
            file.pairs
                .push((key.replace("llama.", &format!("{name}.")), value));
        }
        file.text("general.architecture", name);
        Checkpoint::open(&file.write(&scratch("gguf-arch"), "model.gguf")).unwrap()
    };
    assert_eq!(of("qwen3").config.architecture, "Qwen3ForCausalLM");
    assert_eq!(of("gemma2").config.architecture, "Gemma2ForCausalLM");
    let unknown = of("mystery");
    assert_eq!(unknown.config.architecture, "gguf:mystery");
    assert!(unknown.weights.contains("blk.0.attn_q.weight"));
    let experts = gguf("gguf-experts", |f| {
        f.u32("llama.expert_count", 8)
            .u32("llama.expert_used_count", 2)
            .counted("blk.0.ffn_gate_exps.weight", &[16, 24, 8], 0.0);
    });
    assert_eq!(experts.unwrap().architecture, "MixtralForCausalLM");
}

#[test]
fn gguf_refusals_name_the_key() {
    type Change = fn(&mut Gguf);
    let cases: &[(Change, &str)] = &[
        (
            |f| _ = f.without("general.architecture"),
            "general.architecture is missing",
        ),
        (
            |f| _ = f.without("llama.block_count"),
            "llama.block_count is missing",
        ),
        (
            |f| _ = f.u32("llama.block_count", 0),
            "llama.block_count is 0",
        ),
        (
            |f| _ = f.text("llama.context_length", "64"),
            "llama.context_length is \"64\"",
        ),
        (
            |f| _ = f.u32s("llama.attention.head_count_kv", &[1, 2]),
            "head_count_kv is [1,2]: different values",
        ),
        (
            |f| _ = f.u32s("llama.attention.head_count", &[]),
            "llama.attention.head_count is []",
        ),
        (
            |f| _ = f.u32("llama.attention.head_count", 3),
            "llama.embedding_length is 16: expected a multiple",
        ),
        (
            |f| _ = f.u32("llama.attention.value_length", 4),
            "llama.attention.value_length is 4: values unlike keys (8)",
        ),
        (
            |f| _ = f.u32("llama.rope.dimension_count", 10),
            "10 rotary dimensions do not fit a head of 8",
        ),
        (
            |f| _ = f.f32("llama.rope.freq_base", f32::NAN),
            "llama.rope.freq_base is \"NaN\": expected a finite number",
        ),
        (
            |f| _ = f.f32("llama.rope.freq_base", 0.5),
            "llama.rope.freq_base is 0.5",
        ),
        (
            |f| _ = f.without("llama.attention.layer_norm_rms_epsilon"),
            "layer_norm_rms_epsilon is missing",
        ),
        (
            |f| _ = f.text("tokenizer.ggml.eos_token_id", "x"),
            "tokenizer.ggml.eos_token_id is Text(\"x\")",
        ),
        (|f| drop(f.tensors.remove(0)), "llama.vocab_size is missing"),
    ];
    for (change, message) in cases {
        refused(gguf("gguf-refusals", change), message);
    }
    let many = [&8u32.to_le_bytes()[..], &11u64.to_le_bytes(), &[0; 88]].concat();
    let tokens = gguf("gguf-tokens", |f| {
        _ = f.raw("tokenizer.ggml.tokens", 9, &many)
    });
    refused(tokens, "11 tokens, but only 10 rows");
}

#[test]
fn any_gguf_key_may_be_anything() {
    let keys: Vec<String> = Gguf::llama()
        .pairs
        .iter()
        .map(|(key, _)| key.clone())
        .collect();
    let names = [
        "scaling.type",
        "scaling.factor",
        "scaling.original_context_length",
        "freq_base",
        "dimension_count",
    ];
    let more = names.map(|name| format!("llama.rope.{name}"));
    let values: Vec<(u32, Vec<u8>)> = vec![
        (4, vec![0; 4]),
        (4, vec![255; 4]),
        (5, vec![255; 4]),
        (6, f32::NAN.to_le_bytes().to_vec()),
        (6, f32::INFINITY.to_le_bytes().to_vec()),
        (6, 1e-30f32.to_le_bytes().to_vec()),
        (7, vec![1]),
        (8, support::text("yarn")),
        (10, vec![255; 8]),
        (10, 3u64.to_le_bytes().to_vec()),
        (12, f64::MAX.to_le_bytes().to_vec()),
        (9, [&4u32.to_le_bytes()[..], &0u64.to_le_bytes()].concat()),
        (
            9,
            [&11u32.to_le_bytes()[..], &1u64.to_le_bytes(), &[255; 8]].concat(),
        ),
    ];
    let folder = scratch("gguf-nasty");
    for key in keys.iter().chain(&more) {
        for (code, value) in &values {
            let mut file = Gguf::llama();
            file.text("llama.rope.scaling.type", "yarn")
                .raw(key, *code, value);
            let opened = Checkpoint::open(&file.write(&folder, "model.gguf"));
            opened.map_or_else(
                |e| assert!(e.to_string().contains("model.gguf")),
                |c| sound(&c.config),
            );
        }
    }
}
