//! How many KV blocks an engine gets, from what was asked for and what the machine (or its cgroup) has left.
//! Knows nothing of what is in a block.
use std::fs;
use std::path::Path;

use candle_vllm_kernels::cpu::threads::cgroup::{Group, cgroups};
use candle_vllm_model::Spec;

use crate::config::EngineConfig;
use crate::error::{Refused, Result};

/// Part of the memory that is available which the KV cache takes at most when nothing was asked for.
const FRACTION: f64 = 0.4;
/// Assumed available where the system does not tell (4 GiB).
const UNKNOWN: u64 = 4 << 30;

/// Bytes of logits that prompt log-probabilities and drafts may ask for in one step.
const LOGITS: usize = 64 << 20;

/// What the memory is divided into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// KV blocks.
    pub blocks: usize,
    /// Slots for recurrent states.
    pub states: usize,
    /// Tokens of the longest sequence.
    pub longest: usize,
    /// Tokens of the longest prompt: without pieces, what the activations of one step have room for.
    pub prompt: usize,
}

/// What one sequence of a length takes, and what there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// Tokens of the sequence.
    pub context: usize,
    /// Bytes of packed weights.
    pub weights: u64,
    /// Bytes of keys and values, and of states.
    pub cache: u64,
    /// Bytes of the activations of one step.
    pub activations: u64,
    /// Bytes that this process may still use.
    pub available: u64,
    /// Tokens of the longest sequence for which there is room; 0 where there is none at all.
    pub most: usize,
}

impl Need {
    /// Bytes in all.
    pub fn total(&self) -> u64 {
        self.weights + self.cache + self.activations
    }

    /// Whether there is room for that.
    pub fn fits(&self) -> bool {
        self.total() <= self.available
    }
}

/// What one sequence of the configured length takes, else of the longest that the model was made for.
pub fn need(config: &EngineConfig, spec: &Spec) -> Need {
    need_with(config, spec, available().unwrap_or(UNKNOWN))
}

fn need_with(config: &EngineConfig, spec: &Spec, available: u64) -> Need {
    let longest = config.max_sequence_length;
    let context = longest.unwrap_or(spec.max_position);
    let (block_bytes, block_size) = (spec.kv_block_bytes.max(1) as u64, spec.block_size.max(1));
    let cache = |tokens: usize| (tokens.div_ceil(block_size) as u64).saturating_mul(block_bytes);
    let rows = match config.enable_chunked_prefill {
        true => step_tokens(config).min(context.max(config.max_batch_size)),
        false => context,
    };
    let activations = activations(config, spec, rows);
    let state = spec.state_bytes as u64;
    let left = available.saturating_sub(spec.weight_bytes + activations + state);
    let most = usize::try_from(left / block_bytes).unwrap_or(usize::MAX);
    Need {
        context,
        weights: spec.weight_bytes,
        cache: cache(context).saturating_add(state),
        activations,
        available,
        most: most.saturating_mul(block_size).min(spec.max_position),
    }
}

/// Sizes for the memory at hand.
///
/// # Errors
/// Names the value that does not fit and the one that would.
pub fn size(config: &EngineConfig, spec: &Spec) -> Result<Sizes> {
    size_with(config, spec, available().unwrap_or(UNKNOWN))
}

/// Tokens of one step at most: all decodes of a full batch fit, and a prompt beside them moves on.
pub fn step_tokens(config: &EngineConfig) -> usize {
    config.prefill_chunk_size.max(config.max_batch_size)
}

/// Rows of logits of one step at most, beside one a sequence.
pub fn logits_rows(spec: &Spec) -> usize {
    (LOGITS / (4 * spec.vocab_size.max(1))).max(16)
}

/// Bytes that the activations of a step take: of `tokens` rows, and the logits of all rows that may have any.
fn activations(config: &EngineConfig, spec: &Spec, tokens: usize) -> u64 {
    let logits = (logits_rows(spec) + config.max_batch_size).min(tokens) * 4 * spec.vocab_size;
    (tokens as u64).saturating_mul(spec.row_bytes as u64) + logits as u64
}

/// Tokens of the longest prompt that is computed whole, where `left` bytes are for activations and more.
fn whole_prompt(config: &EngineConfig, spec: &Spec, longest: usize, left: u64) -> usize {
    let least = step_tokens(config);
    let fixed = activations(config, spec, least);
    let more = (left / 2).saturating_sub(fixed) / spec.row_bytes.max(1) as u64;
    least
        .saturating_add(usize::try_from(more).unwrap_or(usize::MAX))
        .min(longest)
}

/// Slots for recurrent states where keys and values have `bytes` together with them: one for each sequence that runs and
/// as many for snapshots, in half of the bytes at most and beside a sequence as long as was asked for, but one at least.
fn states(config: &EngineConfig, spec: &Spec, bytes: u64) -> usize {
    if spec.state_bytes == 0 {
        return 0;
    }
    let asked = config.max_sequence_length.unwrap_or(0);
    let blocks = asked.div_ceil(spec.block_size.max(1)) as u64;
    let beside = bytes.saturating_sub(blocks.saturating_mul(spec.kv_block_bytes as u64));
    let room = beside.min(bytes / 2) / spec.state_bytes as u64;
    let room = usize::try_from(room).unwrap_or(usize::MAX);
    config.max_batch_size.saturating_mul(2).min(room).max(1)
}

/// Refuses a `max_sequence_length` beyond what the model was made for.
pub fn check_length(config: &EngineConfig, max_position: usize) -> Result<()> {
    match config.max_sequence_length {
        Some(asked) if asked > max_position => Err(Refused::new(
            "max_sequence_length",
            asked,
            format!("at most {max_position} tokens, which this model was made for"),
        )
        .into()),
        _ => Ok(()),
    }
}

/// That not even one block fits into `bytes`, nor a state where there are such.
fn too_little(config: &EngineConfig, spec: &Spec, bytes: u64) -> Refused {
    let least = spec.kv_block_bytes.max(1) + spec.state_bytes;
    let tokens = spec.block_size.max(1);
    let state = if spec.state_bytes > 0 {
        " and a state"
    } else {
        ""
    };
    let expected =
        format!("at least {least} bytes, which one block of {tokens} tokens{state} takes");
    let got = match config.kv_cache_memory {
        Some(asked) => asked.to_string(),
        None => format!("{bytes}, the part of the free memory that it takes by itself"),
    };
    Refused::new("kv_cache_memory", got, expected)
}

fn size_with(config: &EngineConfig, spec: &Spec, available: u64) -> Result<Sizes> {
    let (block_bytes, block_size) = (spec.kv_block_bytes.max(1) as u64, spec.block_size.max(1));
    check_length(config, spec.max_position)?;
    let longest = config
        .max_sequence_length
        .unwrap_or(spec.max_position)
        .max(1);
    let whole = |left| match config.enable_chunked_prefill {
        true => longest,
        false => whole_prompt(config, spec, longest, left),
    };
    // Activations come first: a cache that leaves them no room is of no use.
    let rows = match config.enable_chunked_prefill {
        true => step_tokens(config),
        false => whole(available),
    };
    let free = available.saturating_sub(activations(config, spec, rows));
    let bytes = config
        .kv_cache_memory
        .unwrap_or((free as f64 * FRACTION) as u64);
    let states = states(config, spec, bytes);
    let state_bytes = states as u64 * spec.state_bytes as u64;
    let for_blocks = bytes.saturating_sub(state_bytes);
    let mut blocks = usize::try_from(for_blocks / block_bytes).unwrap_or(usize::MAX);
    if config.kv_cache_memory.is_none() {
        blocks = blocks.min(
            config
                .max_batch_size
                .saturating_mul(longest.div_ceil(block_size)),
        );
    }
    // Block numbers are 32 bits wide.
    let blocks = blocks.min(u32::MAX as usize - 1);
    if blocks == 0 {
        return Err(too_little(config, spec, bytes).into());
    }
    let fits = blocks.saturating_mul(block_size);
    match config.max_sequence_length {
        Some(asked) if asked > fits => Err(Refused::new(
            "max_sequence_length",
            asked,
            format!(
                "at most {fits} tokens, which {bytes} bytes of KV cache hold ({} bytes would hold what was asked for)",
                (asked.div_ceil(block_size) as u64).saturating_mul(block_bytes) + state_bytes
            ),
        )
        .into()),
        _ => {
            let longest = longest.min(fits);
            let kv = (blocks as u64).saturating_mul(block_bytes) + state_bytes;
            let prompt = whole(available.saturating_sub(kv)).min(longest);
            Ok(Sizes {
                blocks,
                states,
                longest,
                prompt,
            })
        }
    }
}

/// Bytes that this process may still use without swapping; `None` where the system does not tell.
pub fn available() -> Option<u64> {
    let system = fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| meminfo(&text));
    let group = least(&cgroups("memory"));
    match (system, group) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

fn meminfo(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    line.split_whitespace()
        .next()?
        .parse::<u64>()
        .ok()?
        .checked_mul(1024)
}

/// What the groups leave (v2 `memory.max`, v1 `memory.limit_in_bytes`), the least of them. Page cache that the kernel can
/// drop counts as free.
fn least(groups: &[Group]) -> Option<u64> {
    let left = |group: &Group| {
        let (max, used, cache) = match group.old {
            false => ("memory.max", "memory.current", "inactive_file "),
            true => (
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                "total_inactive_file ",
            ),
        };
        group_left(&group.folder, max, used, cache)
    };
    groups.iter().filter_map(left).min()
}

fn group_left(at: &Path, max: &str, used: &str, cache: &str) -> Option<u64> {
    let number = |name: &str| {
        fs::read_to_string(at.join(name))
            .ok()?
            .trim()
            .parse::<u64>()
            .ok()
    };
    let stat = fs::read_to_string(at.join("memory.stat")).unwrap_or_default();
    let cache = stat
        .lines()
        .find_map(|l| l.strip_prefix(cache)?.trim().parse::<u64>().ok())
        .unwrap_or(0);
    Some(number(max)?.saturating_sub(number(used)?.saturating_sub(cache)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::stats::ModelInfo;
    use candle_vllm_kernels::cpu::threads::cgroup::groups;

    fn spec() -> Spec {
        Spec {
            kv_block_bytes: 1000,
            block_size: 16,
            max_position: 160,
            ..ModelInfo::default().spec
        }
    }

    fn config(memory: Option<u64>, length: Option<usize>) -> EngineConfig {
        EngineConfig {
            kv_cache_memory: memory,
            max_sequence_length: length,
            ..Default::default()
        }
    }

    fn sizes(config: &EngineConfig, available: u64) -> (usize, usize) {
        let sizes = size_with(config, &spec(), available).unwrap();
        assert_eq!(sizes.prompt, sizes.longest, "computed in pieces");
        (sizes.blocks, sizes.longest)
    }

    #[test]
    fn by_default_a_full_batch_of_the_longest_fits_unless_memory_is_short() {
        assert_eq!(sizes(&config(None, None), 1 << 40), (160, 160));
        assert_eq!(sizes(&config(None, Some(17)), 1 << 40), (32, 17));
        assert_eq!(sizes(&config(None, None), 12_500), (5, 80));
    }

    #[test]
    fn given_memory_decides() {
        assert_eq!(sizes(&config(Some(3999), None), 0), (3, 48));
        assert_eq!(sizes(&config(Some(1 << 20), None), 0), (1048, 160));
    }

    #[test]
    fn activations_come_before_the_cache() {
        // 512 rows of 10 bytes and 160 rows of logits of 100 tokens.
        let spec = Spec {
            row_bytes: 10,
            vocab_size: 100,
            ..spec()
        };
        let used = 512 * 10 + 512 * 400;
        let sized = |available| {
            size_with(&config(None, None), &spec, available)
                .unwrap()
                .blocks
        };
        assert_eq!(sized(used + 12_500), 5);
        assert_eq!(sized(used + 25_000), 10);
        assert!(size_with(&config(None, None), &spec, used).is_err());
    }

    #[test]
    fn without_pieces_a_prompt_is_as_long_as_activations_have_room() {
        let spec = Spec {
            row_bytes: 1 << 20,
            max_position: 1 << 17,
            ..spec()
        };
        let config = |memory| EngineConfig {
            enable_chunked_prefill: false,
            ..config(memory, None)
        };
        let sized = |memory, available| size_with(&config(memory), &spec, available).unwrap();
        // Half of what the cache leaves, and a step at least.
        let kv = 4000 * 1000;
        assert_eq!(sized(Some(kv), kv + (8 << 30)).prompt, 4096);
        assert_eq!(sized(Some(kv), kv + (1 << 20)).prompt, 512);
        let by_itself = sized(None, 16 << 30);
        assert!((4096..8192).contains(&by_itself.prompt), "{by_itself:?}");
        assert_eq!(sized(None, 1 << 50).prompt, 1 << 17);
    }

    #[test]
    fn a_sequence_needs_weights_blocks_and_activations() {
        let spec = Spec {
            row_bytes: 10,
            vocab_size: 100,
            weight_bytes: 50_000,
            ..spec()
        };
        let need = need_with(&config(None, Some(33)), &spec, 100_000);
        let rows = 33.max(EngineConfig::default().max_batch_size) as u64;
        assert_eq!((need.context, need.cache), (33, 3000));
        assert_eq!(need.activations, rows * 10 + rows * 400);
        assert_eq!(need.total(), 53_000 + rows * 410);
        assert!(need.fits());
        assert_eq!(need.most, 160);
        let tight = need_with(&config(None, Some(33)), &spec, need.total() - 1);
        assert!(!tight.fits());
        assert_eq!(tight.most, 32, "a block less");
        assert_eq!(need_with(&config(None, None), &spec, 0).most, 0);
    }

    #[test]
    fn states_have_two_slots_a_sequence_and_at_most_half_of_the_cache() {
        let spec = Spec {
            state_bytes: 500,
            ..spec()
        };
        let sized = |memory| size_with(&config(Some(memory), None), &spec, 1 << 40).unwrap();
        let batch = EngineConfig::default().max_batch_size;
        let roomy = sized(1 << 20);
        assert_eq!(roomy.states, 2 * batch);
        assert_eq!(roomy.blocks, ((1 << 20) - 1000 * batch) / 1000);
        assert_eq!((sized(10_000).states, sized(10_000).blocks), (10, 5));
        assert_eq!((sized(1500).states, sized(1500).blocks), (1, 1));
        let short = size_with(&config(Some(1499), None), &spec, 1 << 40);
        let text = short.unwrap_err().to_string();
        assert!(
            text.contains("at least 1500 bytes, which one block of 16 tokens and a state takes")
        );
        let need = need_with(&config(None, Some(33)), &spec, 1 << 40);
        assert_eq!(need.cache, 3500);
    }

    #[test]
    fn what_cannot_fit_is_refused_with_the_figures() {
        let text = |c| size_with(&c, &spec(), 1 << 40).unwrap_err().to_string();
        assert_eq!(
            text(config(Some(999), None)),
            "kv_cache_memory must be at least 1000 bytes, which one block of 16 tokens takes; got 999"
        );
        assert!(text(config(Some(3000), Some(49))).contains("4000 bytes would hold"));
        assert!(text(config(None, Some(161))).contains("at most 160"));
    }

    #[test]
    fn memory_files_are_read() {
        assert_eq!(
            meminfo("MemTotal: 9 kB\nMemAvailable:      12 kB\n"),
            Some(12 * 1024)
        );
        assert_eq!(meminfo("MemTotal: 9 kB\n"), None);
        let root = std::env::temp_dir().join(format!("candle-vllm-cgroup-{}", std::process::id()));
        let inner = root.join("a/b");
        fs::create_dir_all(&inner).unwrap();
        fs::write(inner.join("memory.max"), "max\n").unwrap();
        fs::write(root.join("a/memory.max"), "1000\n").unwrap();
        fs::write(root.join("a/memory.current"), "700\n").unwrap();
        fs::write(root.join("a/memory.stat"), "anon 1\ninactive_file 200\n").unwrap();
        let left = |membership| least(&groups(&root, membership, "memory"));
        assert_eq!(left("0::/a/b\n"), Some(500));
        assert_eq!(left("0::/\n"), None);
        fs::remove_dir_all(&root).unwrap();
    }
}
