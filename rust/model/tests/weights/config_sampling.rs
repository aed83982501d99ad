//! Recommended sampling of either kind of checkpoint: what is read, what counts as "off", what is left out.
use std::fs;

use candle_vllm_model::config::Sampling;
use serde_json::{Value, json};

use crate::{config_gguf::gguf, config_hf::Folder};

#[test]
fn recommended_sampling_is_read_and_bad_advice_left_out() {
    let folder = Folder::new("sampling");
    let read = |generation: Value| {
        fs::write(
            folder.0.join("generation_config.json"),
            generation.to_string(),
        )
        .unwrap();
        folder.with(json!({})).unwrap().sampling
    };
    let qwen = json!({"temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0, "repetition_penalty": 1.05,
                      "do_sample": true});
    assert_eq!(
        read(qwen),
        Sampling {
            temperature: Some(0.6),
            top_p: Some(0.95),
            top_k: Some(20),
            min_p: Some(0.0),
            repetition_penalty: Some(1.05),
        }
    );
    assert_eq!(read(json!({"eos_token_id": 2})), Sampling::default());
    for off in [json!(0), json!(-1), json!(null)] {
        assert_eq!(read(json!({"top_k": off})), Sampling::default());
    }
    let bad =
        json!({"temperature": -1, "top_p": 0, "top_k": 2.5, "min_p": "a", "repetition_penalty": 0});
    assert_eq!(read(bad), Sampling::default());
    let one_bad = read(json!({"temperature": 101, "top_p": 0.5}));
    assert_eq!((one_bad.temperature, one_bad.top_p), (None, Some(0.5)));
}

#[test]
fn gguf_recommended_sampling_is_read_as_it_was_written() {
    let config = gguf("gguf-sampling", |f| {
        f.f32("general.sampling.temp", 0.6)
            .f32("general.sampling.top_p", 0.9)
            .f32("general.sampling.min_p", 2.0);
        f.u32("general.sampling.top_k", 20);
    })
    .unwrap();
    let wanted = Sampling {
        temperature: Some(0.6),
        top_p: Some(0.9),
        top_k: Some(20),
        ..Sampling::default()
    };
    assert_eq!(config.sampling, wanted);
}
