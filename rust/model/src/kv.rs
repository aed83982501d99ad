//! What sequences keep from step to step, as the engine sees it: a number of blocks of equal size for keys and values, and
//! of slots for recurrent states. What a block holds is the backend's.
use std::any::Any;

use crate::States;

/// Keys and values of all layers in `blocks` blocks of `block_size` tokens each, and the slots of states.
pub struct Kv {
    blocks: usize,
    block_size: usize,
    storage: Box<dyn Any + Send>,
    states: States,
}

impl Kv {
    /// A cache over a backend's own storage.
    pub fn new(blocks: usize, block_size: usize, storage: Box<dyn Any + Send>) -> Self {
        Self {
            blocks,
            block_size,
            storage,
            states: States::default(),
        }
    }

    /// The same cache with slots for states.
    pub fn with_states(self, states: States) -> Self {
        Self { states, ..self }
    }

    /// The slots for states.
    pub fn states(&mut self) -> &mut States {
        &mut self.states
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
