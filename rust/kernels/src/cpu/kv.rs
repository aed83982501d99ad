//! The paged cache of keys and values: shape, memory and layout. Knows nothing of attention.
//!
//! A block holds `block_size` tokens of all layers. Inside, per layer, 32 tokens and key/value head, lies a *page*:
//! - keys: two groups of 16 tokens, a lane being a token: `[dims][16]`, Bf16 `[dims / 2][16][2]`
//! - values: F32 `[32][dims]`, Bf16 `[dims / 16][16 pairs of tokens][16][2]`, others `[dims / 16][32][16]`
//! - of types that need them, scales of 32 keys behind the keys and of 32 values behind the values, in bf16
//! - no values in a latent cache: they are the last columns of the keys
//!
//! so that both operands of AMX tiles and of `vdpbf16ps` are read in place.
pub(crate) mod codes;
mod memory;
mod page;
mod types;

use memory::Memory;
pub(crate) use page::Page;
use std::ops::Range;
pub use types::KvType;

/// Tokens a page.
pub(crate) const PAGE: usize = 32;
/// Tokens a group: the lanes of a vector.
pub(crate) const GROUP: usize = 16;

/// What a cache holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvShape {
    /// Layers.
    pub layers: usize,
    /// Blocks.
    pub blocks: usize,
    /// Tokens a block, a multiple of 32.
    pub block_size: usize,
    /// Key/value heads a layer.
    pub kv_heads: usize,
    /// Width of a head's key, up to [`MAX_HEAD_DIM`]; one that fills no whole vectors takes the room of the next that
    /// does.
    pub key_dim: usize,
    /// Width of a head's value.
    pub value_dim: usize,
    /// Whether values are the last columns of the keys, not kept twice.
    pub latent: bool,
    /// Element type.
    pub dtype: KvType,
}

/// Why there is no cache.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AllocError {
    /// The shape cannot be laid out.
    #[error("KV cache: {0}")]
    Shape(String),
    /// The system has not that much memory.
    #[error("no memory for a KV cache of {blocks} blocks of {block_bytes} bytes")]
    Memory {
        /// Blocks asked for.
        blocks: usize,
        /// Bytes a block.
        block_bytes: usize,
    },
}

impl KvShape {
    /// Bytes of one block: keys and values of all layers, padding included.
    pub fn block_bytes(&self) -> usize {
        let pages = self.layers * (self.block_size / PAGE).max(1) * self.kv_heads;
        pages * self.page().bytes()
    }

    pub(crate) fn page(&self) -> Page {
        // Keys are multiplied 2 or, as bf16, 32 dimensions at a time; padding is zero and stays so.
        let keys = match self.dtype {
            KvType::F32 | KvType::F16 => self.key_dim.next_multiple_of(8),
            KvType::Bf16 | KvType::Int8 | KvType::Fp8 => self.key_dim.next_multiple_of(32),
        };
        Page {
            key_dims: keys,
            value_dims: self.value_dim.next_multiple_of(16),
            dtype: self.dtype,
            latent: self
                .latent
                .then(|| self.key_dim.saturating_sub(self.value_dim)),
        }
    }

    fn check(&self) -> Result<usize, AllocError> {
        let error = |text: String| Err(AllocError::Shape(text));
        if self.block_size == 0 || !self.block_size.is_multiple_of(PAGE) {
            return error(format!(
                "block_size {} is not a multiple of {PAGE}",
                self.block_size
            ));
        }
        for (what, dim) in [("keys", self.key_dim), ("values", self.value_dim)] {
            if dim == 0 || dim > MAX_HEAD_DIM {
                return error(format!("{what} of {dim} are not from 1 to {MAX_HEAD_DIM}"));
            }
        }
        if self.latent && self.value_dim > self.key_dim {
            let (key, value) = (self.key_dim, self.value_dim);
            return error(format!("values of {value} are no part of keys of {key}"));
        }
        if self.layers == 0 || self.blocks == 0 || self.kv_heads == 0 {
            return error("layers, blocks and kv_heads must be at least 1".into());
        }
        let pages = [
            self.layers,
            self.block_size / PAGE,
            self.kv_heads,
            self.blocks,
        ]
        .into_iter()
        .try_fold(self.page().bytes(), usize::checked_mul);
        match pages {
            Some(bytes) if bytes < isize::MAX as usize / 2 => Ok(bytes),
            _ => error(format!("{self:?} is larger than the address space")),
        }
    }
}

/// Widest head.
pub const MAX_HEAD_DIM: usize = 1024;

/// One sequence's part of a step.
#[derive(Debug, Clone)]
pub struct Seq<'a> {
    /// Its rows in q, k, v and the output.
    pub rows: Range<usize>,
    /// Position of the first of these rows: the number of its tokens that the cache already holds.
    pub position: usize,
    /// Physical blocks in order of position; they cover `position + rows.len()` tokens at least.
    pub blocks: &'a [u32],
}

impl Seq<'_> {
    /// Which of its blocks it writes to.
    fn written(&self, block_size: usize) -> Range<usize> {
        match self.rows.len() {
            0 => 0..0,
            rows => self.position / block_size..(self.position + rows).div_ceil(block_size),
        }
    }
}

/// Keys and values of all layers. Memory is given by the system when it is first written, and given back on drop.
#[derive(Debug)]
pub struct KvCache {
    shape: KvShape,
    page: Page,
    memory: Memory,
}

impl KvCache {
    /// An empty cache.
    pub fn new(shape: KvShape) -> Result<KvCache, AllocError> {
        let bytes = shape.check()?;
        let memory = Memory::zeroed(bytes).ok_or(AllocError::Memory {
            blocks: shape.blocks,
            block_bytes: shape.block_bytes(),
        })?;
        Ok(KvCache {
            shape,
            page: shape.page(),
            memory,
        })
    }

    /// Its shape.
    pub fn shape(&self) -> &KvShape {
        &self.shape
    }

    pub(crate) fn page(&self) -> Page {
        self.page
    }

    /// Bytes before the pages of (`layer`, `head`) in their block.
    pub(crate) fn offset(&self, layer: usize, head: usize) -> usize {
        let subs = self.shape.block_size / PAGE;
        (layer * subs * self.shape.kv_heads + head) * self.page.bytes()
    }

    /// Checks what every kernel relies on: block tables that cover their sequences' tokens with blocks that exist, and
    /// blocks that are written by one sequence and read by no other.
    ///
    /// # Panics
    /// When one of them does not hold.
    pub(crate) fn check(&self, seqs: &[Seq<'_>]) {
        let (size, count) = (self.shape.block_size, self.shape.blocks);
        let mut written = vec![0u64; count.div_ceil(64)];
        for seq in seqs {
            let tokens = seq.position + seq.rows.len();
            let blocks = seq.blocks.len();
            assert!(
                tokens <= blocks.saturating_mul(size),
                "{tokens} tokens in {blocks} blocks"
            );
            for &block in &seq.blocks[seq.written(size)] {
                let block = block as usize;
                assert!(block < count, "block {block} of {count}");
                let (word, bit) = (&mut written[block / 64], 1 << (block % 64));
                assert!(*word & bit == 0, "block {block} is written twice");
                *word |= bit;
            }
        }
        for seq in seqs {
            let own = seq.written(size);
            for &block in seq.blocks[..own.start].iter().chain(&seq.blocks[own.end..]) {
                let block = block as usize;
                assert!(block < count, "block {block} of {count}");
                let taken = written[block / 64] >> (block % 64) & 1 == 1;
                assert!(!taken, "block {block} is read while it is written");
            }
        }
    }

    /// Where page `index` (of 32 tokens, counted in the sequence) of the head at `offset` lies.
    #[inline]
    pub(crate) fn at(&self, blocks: &[u32], index: usize, offset: usize) -> *const u8 {
        let subs = self.shape.block_size / PAGE;
        let block = blocks[index / subs] as usize;
        let sub = index % subs * self.shape.kv_heads * self.page.bytes();
        let byte = block * self.shape.layers * subs * self.shape.kv_heads * self.page.bytes()
            + sub
            + offset;
        debug_assert!(byte + self.page.bytes() <= self.memory.len());
        // SAFETY: `check` has seen that the block exists; layer and head were checked when `offset` was made.
        unsafe { self.memory.as_ptr().add(byte) }
    }

    /// The cache as several threads write it, each its own pages.
    pub(crate) fn shared(&mut self) -> Writer<'_> {
        Writer { cache: self }
    }
}

/// A cache that is being written by several threads at disjoint pages.
pub(crate) struct Writer<'a> {
    cache: &'a KvCache,
}

impl Writer<'_> {
    /// As [`KvCache::at`]; made from a mutable borrow, so that pages may be written through it.
    #[inline]
    pub fn at(&self, blocks: &[u32], index: usize, offset: usize) -> *mut u8 {
        self.cache.at(blocks, index, offset).cast_mut()
    }
    pub fn cache(&self) -> &KvCache {
        self.cache
    }
}

#[cfg(test)]
mod tests;
