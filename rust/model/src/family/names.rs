//! Hugging Face names of a family's tensors, without `.weight` and `.bias`. Empty: the family has no such part.

/// Parts of a decoder. Parts of a layer stand under `{layers}.{number}.`.
#[derive(Debug, Clone, Copy)]
pub struct Names {
    /// Token embedding.
    pub embedding: &'static str,
    /// Position embedding.
    pub positions: &'static str,
    /// Before the numbers of layers.
    pub layers: &'static str,
    /// Last norm.
    pub norm: &'static str,
    /// Into the logits.
    pub head: &'static str,
    /// Before attention.
    pub input_norm: &'static str,
    /// Queries.
    pub q: &'static str,
    /// Keys.
    pub k: &'static str,
    /// Values.
    pub v: &'static str,
    /// Whether attention is by a latent, whose parts are called alike in all families (`layers/latent.rs`).
    pub latent: bool,
    /// Queries, keys and values in one matrix, in place of the three.
    pub qkv: &'static str,
    /// Norm of queries.
    pub q_norm: &'static str,
    /// Norm of keys.
    pub k_norm: &'static str,
    /// One logit a head that takes part in the softmax; the whole name.
    pub sinks: &'static str,
    /// From attention to the residual stream.
    pub output: &'static str,
    /// Of what attention gives.
    pub post_attention: &'static str,
    /// Before the feed-forward part.
    pub mlp_norm: &'static str,
    /// Into the activation of a gated feed-forward part.
    pub gate: &'static str,
    /// Beside the gate, or into the activation where there is none.
    pub up: &'static str,
    /// Gate and up in one matrix, in place of the two.
    pub gate_up: &'static str,
    /// From the feed-forward part to the residual stream.
    pub down: &'static str,
    /// Of what the feed-forward part gives.
    pub post_mlp: &'static str,
    /// One factor on all that a layer gives; the whole name.
    pub layer_scale: &'static str,
    /// Whether layers have inputs by token, whose parts are called alike in all families (`layers/layer_input.rs`).
    pub layer_inputs: bool,
    /// Whether the residual stream is several, whose parts are called alike in all families (`layers/altup.rs`,
    /// `layers/laurel.rs`).
    pub altup: bool,
    /// Whether some layers convolve, whose parts are called alike in all families (`layers/short_conv.rs`).
    pub short_conv: bool,
}

/// GGUF names of the parts of several streams.
const ALTUP: [(bool, &str, &str); 10] = [
    (false, "altup_proj", "model.altup_projections"),
    (
        false,
        "altup_unembd_proj",
        "model.altup_unembed_projections",
    ),
    (true, "altup_correct_coef", "altup.correction_coefs"),
    (true, "altup_correct_scale", "altup.correct_output_scale"),
    (true, "altup_predict_coef", "altup.prediction_coefs"),
    (true, "altup_router", "altup.modality_router"),
    (true, "altup_router_norm", "altup.router_norm"),
    (true, "laurel_l", "laurel.linear_left"),
    (true, "laurel_r", "laurel.linear_right"),
    (true, "laurel_post_norm", "laurel.post_laurel_norm"),
];

/// Llama's.
pub(super) const LLAMA: Names = Names {
    embedding: "model.embed_tokens",
    positions: "",
    layers: "model.layers",
    norm: "model.norm",
    head: "lm_head",
    input_norm: "input_layernorm",
    q: "self_attn.q_proj",
    k: "self_attn.k_proj",
    v: "self_attn.v_proj",
    latent: false,
    qkv: "",
    q_norm: "",
    k_norm: "",
    sinks: "",
    output: "self_attn.o_proj",
    post_attention: "",
    mlp_norm: "post_attention_layernorm",
    gate: "mlp.gate_proj",
    up: "mlp.up_proj",
    gate_up: "",
    down: "mlp.down_proj",
    post_mlp: "",
    layer_scale: "",
    layer_inputs: false,
    altup: false,
    short_conv: false,
};

impl Names {
    /// With norms of queries and keys.
    pub(super) const fn with_qk_norm(self) -> Names {
        Names {
            q_norm: "self_attn.q_norm",
            k_norm: "self_attn.k_norm",
            ..self
        }
    }

    /// With norms on both sides of each part (Gemma 2).
    pub(super) const fn sandwiched(self) -> Names {
        Names {
            post_attention: "post_attention_layernorm",
            mlp_norm: "pre_feedforward_layernorm",
            post_mlp: "post_feedforward_layernorm",
            ..self
        }
    }

    /// With norms behind each part only (OLMo 2).
    pub(super) const fn post_normed(self) -> Names {
        Names {
            input_norm: "",
            mlp_norm: "",
            ..self.sandwiched()
        }
    }

    /// With gate and up in one matrix.
    pub(super) const fn fused_mlp(self) -> Names {
        Names {
            gate: "",
            up: "",
            gate_up: "mlp.gate_up_proj",
            ..self
        }
    }

    /// The Hugging Face name of a GGUF tensor outside the blocks, and of one inside (after `blk.N.`), by llama.cpp's
    /// `gguf-py/gguf/tensor_mapping.py`; `None` when the family has no such part.
    pub fn of_gguf(&self, block: bool, part: &str) -> Option<&'static str> {
        let altup = |(inside, gguf, _): &&(bool, &str, &str)| *inside == block && *gguf == part;
        if let Some((.., name)) = ALTUP.iter().filter(|_| self.altup).find(altup) {
            return Some(name);
        }
        let name = match (block, part) {
            (false, "token_embd") => self.embedding,
            (false, "position_embd") => self.positions,
            (false, "output_norm") => self.norm,
            (false, "output") => self.head,
            (false, "per_layer_token_embd") if self.layer_inputs => "model.embed_tokens_per_layer",
            (false, "per_layer_model_proj") if self.layer_inputs => {
                "model.per_layer_model_projection"
            }
            (false, "per_layer_proj_norm") if self.layer_inputs => {
                "model.per_layer_projection_norm"
            }
            (true, "inp_gate") if self.layer_inputs => "per_layer_input_gate",
            (true, "proj") if self.layer_inputs => "per_layer_projection",
            (true, "post_norm") if self.layer_inputs => "post_per_layer_input_norm",
            (true, "layer_output_scale") => self.layer_scale,
            (true, "attn_norm") => self.input_norm,
            (true, "attn_q") => self.q,
            (true, "attn_k") => self.k,
            (true, "attn_v") => self.v,
            (true, "attn_qkv") => self.qkv,
            (true, "attn_q_norm") => self.q_norm,
            (true, "attn_k_norm") => self.k_norm,
            (true, "attn_sinks") => self.sinks,
            (true, "attn_q_a") if self.latent => "self_attn.q_a_proj",
            (true, "attn_q_a_norm") if self.latent => "self_attn.q_a_layernorm",
            (true, "attn_q_b") if self.latent => "self_attn.q_b_proj",
            (true, "attn_kv_a_mqa") if self.latent => "self_attn.kv_a_proj_with_mqa",
            (true, "attn_kv_a_norm") if self.latent => "self_attn.kv_a_layernorm",
            (true, "attn_kv_b") if self.latent => "self_attn.kv_b_proj",
            (true, "attn_k_b") if self.latent => "self_attn.k_b_proj",
            (true, "attn_v_b") if self.latent => "self_attn.v_b_proj",
            (true, "indexer.attn_q_b") if self.latent => "self_attn.indexer.wq_b",
            (true, "indexer.attn_k") if self.latent => "self_attn.indexer.wk",
            (true, "indexer.k_norm") if self.latent => "self_attn.indexer.k_norm",
            (true, "indexer.proj") if self.latent => "self_attn.indexer.weights_proj",
            (false, "token_embd_norm") if self.short_conv => self.norm,
            (true, "shortconv.in_proj") if self.short_conv => "conv.in_proj",
            (true, "shortconv.conv") if self.short_conv => "conv.conv",
            (true, "shortconv.out_proj") if self.short_conv => "conv.out_proj",
            (true, "attn_output") => self.output,
            // Seed-OSS and others keep Hugging Face's name for the norm before the feed-forward part.
            (true, "post_attention_norm") if self.post_attention.is_empty() => self.mlp_norm,
            (true, "post_attention_norm") => self.post_attention,
            (true, "ffn_norm") => self.mlp_norm,
            (true, "ffn_gate") => self.gate,
            (true, "ffn_up") if self.up.is_empty() => self.gate_up,
            (true, "ffn_up") => self.up,
            (true, "ffn_down") => self.down,
            (true, "post_ffw_norm") => self.post_mlp,
            _ => "",
        };
        Some(name).filter(|n| !n.is_empty())
    }
}
