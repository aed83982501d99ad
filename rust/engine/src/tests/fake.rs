//! A model that computes nothing but finds every fault: its cache holds token ids by (block, offset), and its logits
//! are a hash of the whole prefix as read back through the block table; a recurrent one has it from its state as well.
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use candle_vllm_kernels::cpu::Compute;
use candle_vllm_model::{
    Kv, Logits, Model, Pending, Result, Spec, StateGroup, States, Step, Tensor,
};

use crate::stats::ModelInfo;

pub const VOCAB: usize = 48;
pub const BLOCK: usize = 4;
/// A sequence with this token gets logits that are not numbers; it is never sampled.
pub const POISON: u32 = 47;

/// The state of a recurrent one: both halves of the hash, and whether there was poison.
const STATE: StateGroup = StateGroup {
    layers: 1,
    width: 3,
};

/// What the model is told from outside while it runs.
#[derive(Default)]
pub struct Controls {
    /// Steps computed.
    pub steps: AtomicUsize,
    /// Tokens computed.
    pub tokens: AtomicUsize,
    /// Panic in this step (1 = the first); 0 = never.
    pub panic_at: AtomicUsize,
    /// Fail in this step.
    pub error_at: AtomicUsize,
    /// Milliseconds a step takes.
    pub delay: AtomicUsize,
    /// Models that were dropped.
    pub dropped: AtomicUsize,
}

pub struct Fake {
    spec: Spec,
    controls: Arc<Controls>,
    compute: Option<Compute>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.controls.dropped.fetch_add(1, Ordering::SeqCst);
    }
}

impl Fake {
    pub fn small(max_position: usize) -> (Box<dyn Model>, Arc<Controls>) {
        Self::sized(max_position, VOCAB)
    }

    pub fn sized(max_position: usize, vocab_size: usize) -> (Box<dyn Model>, Arc<Controls>) {
        Self::made([max_position, vocab_size], 0, None)
    }

    /// A model that keeps a state as well, and says that it takes `state_bytes`.
    pub fn recurrent(max_position: usize, state_bytes: usize) -> (Box<dyn Model>, Arc<Controls>) {
        Self::made([max_position, VOCAB], state_bytes, None)
    }

    /// A model that lends `threads` threads to sampling.
    pub fn threaded(vocab_size: usize, threads: usize) -> Box<dyn Model> {
        Self::made([64, vocab_size], 0, Some(Compute::new(threads).unwrap())).0
    }

    fn made(
        [max_position, vocab_size]: [usize; 2],
        state_bytes: usize,
        compute: Option<Compute>,
    ) -> (Box<dyn Model>, Arc<Controls>) {
        let controls = Arc::new(Controls::default());
        let spec = Spec {
            vocab_size,
            max_position,
            block_size: BLOCK,
            kv_block_bytes: 4 * BLOCK,
            state_bytes,
            ..ModelInfo::default().spec
        };
        let fake = Self {
            spec,
            controls: controls.clone(),
            compute,
        };
        (Box::new(fake), controls)
    }
}

/// A hash of the tokens so far.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Hash {
    value: u64,
    poisoned: bool,
}

impl Hash {
    const START: Hash = Hash {
        value: 0xcbf2_9ce4_8422_2325,
        poisoned: false,
    };

    fn then(self, token: u32) -> Hash {
        let mixed = (self.value ^ u64::from(token)).wrapping_mul(0x0000_0100_0000_01b3);
        Hash {
            value: mixed.rotate_left(17),
            poisoned: self.poisoned || token == POISON,
        }
    }

    /// As a state, which begins as zeros.
    fn store(self, state: &mut [f32]) {
        let value = self.value ^ Self::START.value;
        let poison = if self.poisoned { 1.0 } else { 0.0 };
        let halves = [value as u32, (value >> 32) as u32].map(f32::from_bits);
        state.copy_from_slice(&[halves[0], halves[1], poison]);
    }

    fn load(state: &[f32]) -> Hash {
        let value = u64::from(state[0].to_bits()) | u64::from(state[1].to_bits()) << 32;
        Hash {
            value: value ^ Self::START.value,
            poisoned: state[2] != 0.0,
        }
    }
}

/// Logits after `prefix`: in [-4, 4], a hash of all of it.
pub fn logits(prefix: impl Iterator<Item = u32>, vocab: usize) -> Vec<f32> {
    spread(prefix.fold(Hash::START, Hash::then), vocab)
}

fn spread(hash: Hash, vocab: usize) -> Vec<f32> {
    let Hash {
        value: hash,
        poisoned,
    } = hash;
    let value = |i: u64| {
        let mut x = hash ^ i.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x = (x ^ (x >> 31)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        (x >> 40) as f32 / (1 << 24) as f32 * 8.0 - 4.0
    };
    let masked = |i: u64, x: f32| {
        if i == u64::from(POISON) {
            f32::NEG_INFINITY
        } else {
            x
        }
    };
    (0..vocab as u64)
        .map(|i| {
            if poisoned {
                f32::NAN
            } else {
                masked(i, value(i))
            }
        })
        .collect()
}

impl Model for Fake {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn compute(&self) -> Option<&Compute> {
        self.compute.as_ref()
    }

    fn new_kv(&self, blocks: usize, states: usize) -> Result<Kv> {
        let groups = if self.spec.state_bytes > 0 {
            &[STATE][..]
        } else {
            &[]
        };
        let cells = Box::new(vec![None::<u32>; blocks * BLOCK]);
        Ok(Kv::new(blocks, BLOCK, cells).with_states(States::new(groups, states)))
    }

    fn launch<'a>(&'a mut self, step: &'a Step, kv: &'a mut Kv) -> Result<Pending<'a>> {
        Ok(Pending::new(|| self.run(step, kv)))
    }
}

impl Fake {
    fn run(&mut self, step: &Step, kv: &mut Kv) -> Result<Logits> {
        let now = self.controls.steps.fetch_add(1, Ordering::SeqCst) + 1;
        self.controls
            .tokens
            .fetch_add(step.tokens.len(), Ordering::SeqCst);
        assert!(
            self.controls.panic_at.load(Ordering::SeqCst) != now,
            "asked to panic"
        );
        if self.controls.error_at.load(Ordering::SeqCst) == now {
            return Err(candle_vllm_model::Error::Run("asked to fail".into()));
        }
        std::thread::sleep(Duration::from_millis(
            self.controls.delay.load(Ordering::SeqCst) as u64,
        ));
        let mut hashes = Vec::new();
        if self.spec.state_bytes > 0 {
            let slots = step.slices.iter().map(|s| s.state);
            for (slice, state) in step.slices.iter().zip(kv.states().enter((0, 0), slots)?) {
                let mut hash = Hash::load(state);
                for row in slice.tokens.clone() {
                    hash = hash.then(step.tokens[row]);
                    hashes.push(hash);
                }
                hash.store(state);
            }
        }
        let cells: &mut Vec<Option<u32>> = kv.storage_mut().expect("the cache of another model");
        let mut written = std::collections::HashSet::new();
        let mut data = Vec::new();
        for slice in &step.slices {
            let table = &step.blocks[slice.blocks.clone()];
            let cell =
                |position: usize| table[position / BLOCK] as usize * BLOCK + position % BLOCK;
            for (i, row) in slice.tokens.clone().enumerate() {
                let at = cell(slice.position + i);
                assert!(
                    written.insert(at),
                    "two sequences write cell {at} in one step"
                );
                cells[at] = Some(step.tokens[row]);
            }
            for row in slice.logits.clone() {
                let position = slice.position + row - slice.tokens.start;
                let prefix = (0..=position)
                    .map(|p| cells[cell(p)].expect("a cell read before it was written"));
                let seen = prefix.fold(Hash::START, Hash::then);
                assert!(
                    hashes.get(row).is_none_or(|kept| *kept == seen),
                    "a wrong state"
                );
                data.extend(spread(seen, self.spec.vocab_size));
            }
        }
        Ok(Tensor::new(step.logits_rows(), self.spec.vocab_size, data).into())
    }
}
