//! Mixtures of experts: names of a family's tensors, and what its configurations leave unsaid.
use candle_vllm_kernels::cpu::{Clamped, Weigh, routing::Scores};

/// Experts in place of the feed-forward part, in each layer that has a router; other layers are dense.
#[derive(Debug, Clone, Copy)]
pub struct Moe {
    /// Into one score an expert.
    pub router: &'static str,
    /// Added to the scores for the choice alone; the whole name.
    pub correction: &'static str,
    /// Before the numbers of experts; parts of one stand under `{experts}.{number}.`.
    pub experts: &'static str,
    /// Into the activation.
    pub gate: &'static str,
    /// Beside the gate.
    pub up: &'static str,
    /// Back to the residual stream.
    pub down: &'static str,
    /// All experts' gates and ups in one tensor, and all their downs; the whole names but for `.weight`.
    pub stacked: [&'static str; 2],
    /// How matrices lie in these two.
    pub lying: Lying,
    /// The expert that all rows go to; its parts are `gate_proj`, `up_proj`, `down_proj`.
    pub shared: &'static str,
    /// How much it counts.
    pub shared_gate: &'static str,
    /// What experts are chosen by.
    pub scores: Scores,
    /// Whether weights are divided by their sum.
    pub normalised: Normalised,
    /// Whether a group of experts counts as much as its two best; else as its best.
    pub by_two: bool,
    /// What weights multiply.
    pub weigh: Weigh,
    /// Set where experts stand beside a dense feed-forward part, not in its place, and configurations may have none.
    pub beside: Option<Beside>,
    /// In place of the configuration's activation; what it leaves unsaid.
    pub clamped: Option<Clamped>,
}

/// Experts beside a dense part: both read the same stream through norms of their own, and what they give is normalised
/// before it is added up.
#[derive(Debug, Clone, Copy)]
pub struct Beside {
    /// Of what the dense part gives.
    pub dense_norm: &'static str,
    /// Before the experts.
    pub norm: &'static str,
    /// Of what they give.
    pub post_norm: &'static str,
    /// Factors on the normalised stream that the router reads; the whole name.
    pub scale: &'static str,
    /// Factors on the weights of the experts; the whole name.
    pub expert_scale: &'static str,
}

/// Whether the weights of a row are divided by their sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Normalised {
    /// As `norm_topk_prob` says; where it does not stand, by config.json and by llama.cpp's graph.
    Said {
        /// In config.json.
        hf: bool,
        /// In GGUF.
        gguf: bool,
    },
    /// Whatever is said.
    Always,
    /// They are as they are.
    Never,
}

/// How matrices lie in a tensor of all experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lying {
    /// Outputs x inputs, first the gate's rows, then those of up.
    Rows,
    /// Inputs x outputs, first the gate's columns.
    Columns,
    /// Inputs x outputs, columns of gate and up in turn.
    InTurn,
}

/// Qwen's.
pub(super) const QWEN: Moe = Moe {
    router: "mlp.gate",
    correction: "",
    experts: "mlp.experts",
    gate: "gate_proj",
    up: "up_proj",
    down: "down_proj",
    stacked: ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
    lying: Lying::Rows,
    shared: "",
    shared_gate: "",
    scores: Scores::Softmax,
    normalised: Normalised::Said {
        hf: false,
        gguf: true,
    },
    by_two: true,
    weigh: Weigh::Output,
    beside: None,
    clamped: None,
};

/// DeepSeek V3's choice, with groups and a correction, which others took over.
pub(super) const DEEPSEEK: Moe = Moe {
    correction: "mlp.gate.e_score_correction_bias",
    shared: "mlp.shared_experts",
    scores: Scores::Sigmoid,
    normalised: Normalised::Said {
        hf: true,
        gguf: false,
    },
    ..QWEN
};

/// Mixtral's.
pub(super) const MIXTRAL: Moe = Moe {
    router: "block_sparse_moe.gate",
    experts: "block_sparse_moe.experts",
    gate: "w1",
    up: "w3",
    down: "w2",
    stacked: [
        "block_sparse_moe.experts.gate_up_proj",
        "block_sparse_moe.experts.down_proj",
    ],
    normalised: Normalised::Always,
    ..QWEN
};

impl Moe {
    /// The Hugging Face name of a GGUF tensor `blk.N.{part}.{kind}` of the experts, with its kind where it has one.
    /// Where all experts' matrices stand in one tensor the name has no number.
    pub fn of_gguf(&self, part: &str, kind: &str) -> Option<String> {
        let Self {
            experts, shared, ..
        } = self;
        let matrix = |part: &str| match part {
            "gate" => self.gate,
            "up" => self.up,
            _ => self.down,
        };
        // Mixtral's first files have a tensor an expert: `ffn_gate.3`.
        if let Some((part, number)) = part.strip_prefix("ffn_").and_then(|p| p.split_once('.')) {
            let known = matches!(part, "gate" | "up" | "down");
            let number: usize = number.parse().ok().filter(|_| known)?;
            return Some(format!("{experts}.{number}.{}.{kind}", matrix(part)));
        }
        let beside = self.beside.as_ref();
        let name = match part {
            "ffn_gate_inp" if kind == "scale" => return beside.map(|b| b.scale.to_string()),
            "ffn_down_exps" if kind == "scale" => {
                return beside.map(|b| b.expert_scale.to_string());
            }
            "post_ffw_norm_1" => beside?.dense_norm.to_string(),
            "pre_ffw_norm_2" => beside?.norm.to_string(),
            "post_ffw_norm_2" => beside?.post_norm.to_string(),
            "ffn_gate_inp" => self.router.to_string(),
            "exp_probs_b" => return Some(self.correction.to_string()).filter(|n| !n.is_empty()),
            "ffn_gate_up_exps" => self.stacked[0].to_string(),
            "ffn_gate_inp_shexp" => self.shared_gate.to_string(),
            _ => {
                let (part, end) = part.strip_prefix("ffn_")?.split_once('_')?;
                match (part, end) {
                    ("gate" | "up" | "down", "exps") => format!("{experts}.{}", matrix(part)),
                    ("gate" | "up" | "down", "shexp") if !shared.is_empty() => {
                        format!("{shared}.{part}_proj")
                    }
                    _ => return None,
                }
            }
        };
        (!name.is_empty()).then(|| format!("{name}.{kind}"))
    }
}
