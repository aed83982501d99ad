//! The paged KV cache as the engine sees it: a number of blocks of equal size. What a block holds is the backend's.
use std::any::Any;

/// Keys and values of all layers in `blocks` blocks of `block_size` tokens each.
pub struct Kv {
    blocks: usize,
    block_size: usize,
    storage: Box<dyn Any + Send>,
}

impl Kv {
    /// A cache over a backend's own storage.
    pub fn new(blocks: usize, block_size: usize, storage: Box<dyn Any + Send>) -> Self {
        Self {
            blocks,
            block_size,
            storage,
        }
    }

    /// Number of blocks.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// Tokens a block.
    pub fn block_size(&self) -> usize {
        self.block_size
    }

    /// The backend's storage, if it is of type `T`.
    pub fn storage_mut<T: 'static>(&mut self) -> Option<&mut T> {
        self.storage.downcast_mut()
    }
}
