//! A weight of one dimension: what a norm, a bias or a sink holds, wherever its backend keeps it.
use std::any::Any;

use crate::{Error, Result};

/// One value a column, a row or a head.
pub struct Vector {
    len: usize,
    storage: Box<dyn Any + Send + Sync>,
}

impl Vector {
    /// Values that stay on the host.
    pub fn host(values: Vec<f32>) -> Self {
        Self::new(values.len(), Box::new(values))
    }

    /// `len` values in a backend's own storage.
    pub fn new(len: usize, storage: Box<dyn Any + Send + Sync>) -> Self {
        Self { len, storage }
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The values, of a vector on the host.
    ///
    /// # Errors
    /// `Run` when another backend keeps it.
    pub fn values(&self) -> Result<&[f32]> {
        match self.storage.downcast_ref::<Vec<f32>>() {
            Some(values) => Ok(values),
            None => Err(Error::Run("a vector of another backend".into())),
        }
    }
}
