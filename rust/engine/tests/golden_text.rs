//! A real checkpoint from file to text: open, submit, poll.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::{path::PathBuf, time::Duration};

use candle_vllm_engine::{Engine, EngineConfig, GenerationParams, Mailbox, Prompt, Request};

fn config(dtype: &str) -> EngineConfig {
    let model_path =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/gguf/llama.gguf");
    EngineConfig {
        model_path,
        dtype: dtype.into(),
        ..EngineConfig::default()
    }
}

#[test]
fn a_checkpoint_answers() {
    let engine = Engine::open(config("f32"), None).unwrap();
    let mailbox = Mailbox::new();
    let params = GenerationParams {
        temperature: 0.0,
        max_tokens: 9,
        ignore_eos: true,
        ..GenerationParams::default()
    };
    let request = Request {
        prompt: Prompt::Tokens(vec![5, 6, 7]),
        params,
        cache_salt: None,
        priority: 0,
        skip_special_tokens: true,
    };
    engine.submit(request, &mailbox).unwrap();
    let mut tokens = Vec::new();
    loop {
        let events = mailbox.poll(Some(Duration::from_secs(20)));
        assert!(!events.is_empty(), "no event in 20 seconds");
        let end = events.iter().any(|e| e.finish.is_some());
        tokens.extend(events.into_iter().flat_map(|e| e.tokens));
        if end {
            break;
        }
    }
    assert_eq!(tokens.len(), 9);
}

#[test]
fn wrong_words_are_refused_before_the_model_is_read() {
    let message = |change: fn(&mut EngineConfig)| {
        let mut config = config("auto");
        config.model_path = "/nowhere".into();
        change(&mut config);
        Engine::open(config, None).err().unwrap().to_string()
    };
    assert!(message(|c| c.device = "cuda:3".into()).contains("cpu"));
    assert!(message(|c| c.device = "tpu".into()).contains("cuda:N"));
    assert!(message(|c| c.dtype = "int3".into()).contains("bf16"));
    assert!(message(|c| c.activations = "int4".into()).contains("int16"));
    let contradiction = message(|c| (c.dtype, c.activations) = ("f32".into(), "int8".into()));
    assert!(contradiction.starts_with("activations") && contradiction.contains("f32"));
    assert!(message(|c| c.kv_cache_dtype = "fp4".into()).contains("kv_cache_dtype"));
}
