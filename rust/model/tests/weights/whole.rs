//! A checkpoint is what it says and all of it is used: pointers in place of files, tensors that nobody reads.
use std::fs;

use crate::support::{Gguf, llama_config, refusal, safetensors, scratch};
use candle_vllm_model::{
    arch::Runtime,
    backend::{KvType, Portable},
    load_on,
    weights::Checkpoint,
};

/// The tensors of [`Gguf::llama`] under their Hugging Face names, all zero.
fn tensors() -> Vec<(&'static str, &'static str, Vec<usize>, Vec<u8>)> {
    let shapes: [(&str, &[usize]); 11] = [
        ("model.embed_tokens.weight", &[10, 16]),
        ("model.layers.0.input_layernorm.weight", &[16]),
        ("model.layers.0.self_attn.q_proj.weight", &[16, 16]),
        ("model.layers.0.self_attn.k_proj.weight", &[8, 16]),
        ("model.layers.0.self_attn.v_proj.weight", &[8, 16]),
        ("model.layers.0.self_attn.o_proj.weight", &[16, 16]),
        ("model.layers.0.post_attention_layernorm.weight", &[16]),
        ("model.layers.0.mlp.gate_proj.weight", &[24, 16]),
        ("model.layers.0.mlp.up_proj.weight", &[24, 16]),
        ("model.layers.0.mlp.down_proj.weight", &[16, 24]),
        ("model.norm.weight", &[16]),
    ];
    shapes
        .into_iter()
        .map(|(name, shape)| zeros(name, shape))
        .collect()
}

fn zeros(name: &'static str, shape: &[usize]) -> (&'static str, &'static str, Vec<usize>, Vec<u8>) {
    let bytes = 4 * shape.iter().product::<usize>();
    (name, "F32", shape.to_vec(), vec![0; bytes])
}

/// What loading says of the tensors and `extra` ones.
fn loading(test: &str, tied: bool, extra: &[(&'static str, &[usize])]) -> Result<(), String> {
    let folder = scratch(test);
    let mut config = llama_config();
    config["tie_word_embeddings"] = tied.into();
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let mut all = tensors();
    all.extend(extra.iter().map(|(name, shape)| zeros(name, shape)));
    fs::write(folder.join("model.safetensors"), safetensors(&all)).unwrap();
    let runtime = Runtime {
        kv_dtype: KvType::F32,
        exact: true,
        context: None,
        isq: None,
    };
    let checkpoint = Checkpoint::open(&folder).unwrap();
    let model = load_on(&checkpoint, Box::new(Portable), &runtime, &|_, _| ());
    model.map(drop).map_err(|e| e.to_string())
}

#[test]
fn tensors_that_nobody_reads_are_listed() {
    assert_eq!(loading("unread-none", true, &[]), Ok(()));
    let head: &[(&str, &[usize])] = &[("lm_head.weight", &[10, 16])];
    assert_eq!(loading("unread-head", false, head), Ok(()));
    let extra: &[(&str, &[usize])] = &[
        ("lm_head.bias", &[10]),
        ("model.layers.0.self_attn.q_norm.weight", &[8]),
        ("model.layers.1.mlp.up_proj.weight", &[24, 16]),
    ];
    let error = loading("unread-extra", true, extra).unwrap_err();
    assert!(
        error.starts_with("3 tensors") && error.contains("LlamaForCausalLM"),
        "{error}"
    );
    for (name, _) in extra {
        assert!(error.contains(name), "{error}");
    }
    // A head that the configuration says to be the embedding, and tables that are no weights.
    let spare: &[(&str, &[usize])] = &[
        ("lm_head.weight", &[10, 16]),
        ("model.layers.0.self_attn.rotary_emb.inv_freq", &[4]),
    ];
    assert_eq!(loading("unread-spare", true, spare), Ok(()));
}

#[test]
fn a_git_lfs_pointer_is_called_so() {
    let pointer = "version https://git-lfs.github.com/spec/v1\n\
        oid sha256:4665a5ea423c2713d436b5ee50593a9640e0018c1550b5a0002f74190d6caea8\nsize 269060552\n";
    let folder = scratch("lfs");
    fs::write(folder.join("config.json"), llama_config().to_string()).unwrap();
    let weights = folder.join("model.safetensors");
    fs::write(&weights, pointer).unwrap();
    let gguf = Gguf::llama().write(&scratch("lfs-gguf"), "model.gguf");
    fs::write(&gguf, pointer).unwrap();
    for (open, file) in [(&folder, &weights), (&gguf, &gguf)] {
        let error = refusal(open);
        assert!(error.contains("Git LFS pointer"), "{error}");
        assert!(error.contains(&file.display().to_string()), "{error}");
    }
    fs::write(folder.join("config.json"), pointer).unwrap();
    assert!(refusal(&folder).contains("config.json is a Git LFS pointer"));
}
