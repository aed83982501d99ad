//! The array that backends hand around: two dimensions, float32, and a storage that only its backend looks into.
use std::sync::Arc;

use parking_lot::Mutex;

use crate::{Error, Result};

/// Spent buffers, kept for the next tensor: from the second step on nothing is allocated.
#[derive(Clone, Default)]
pub struct Recycler(Arc<Mutex<Vec<Vec<f32>>>>);

impl Recycler {
    /// A tensor of `rows` x `columns`. Its values are whatever the buffer held before: write them all.
    pub fn tensor(&self, rows: usize, columns: usize) -> Tensor {
        let need = rows * columns;
        let mut spare = self.0.lock();
        let best = (0..spare.len())
            .filter(|&i| spare[i].len() >= need)
            .min_by_key(|&i| spare[i].len());
        // Where none is large enough the largest makes way, so that there are never more than were in use at once.
        let largest = (0..spare.len()).max_by_key(|&i| spare[i].len());
        let chosen = best.or(largest).map(|i| spare.swap_remove(i));
        drop(spare);
        let mut data = chosen.unwrap_or_default();
        if data.len() < need {
            data = vec![0.0; need];
        }
        Tensor {
            shape: [rows, columns],
            storage: Storage::Host(Buffer {
                len: need,
                data,
                home: Some(self.clone()),
            }),
        }
    }
}

/// Host memory that goes back to its recycler when dropped.
#[derive(Default)]
struct Buffer {
    /// Values in use; a recycled vector may be longer, for cutting and growing it would write zeros.
    len: usize,
    data: Vec<f32>,
    home: Option<Recycler>,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(home) = self.home.take() {
            home.0.lock().push(std::mem::take(&mut self.data));
        }
    }
}

enum Storage {
    Host(Buffer),
    Candle(candle_core::Tensor),
}

/// A float32 array of `[rows, columns]`, on the host or in candle's hands. (Device pointers join with a device backend.)
pub struct Tensor {
    shape: [usize; 2],
    storage: Storage,
}

impl Default for Tensor {
    fn default() -> Self {
        Self::new(0, 0, Vec::new())
    }
}

impl Tensor {
    /// `data` in row-major order as `[rows, columns]`; it must hold `rows * columns` values.
    pub fn new(rows: usize, columns: usize, data: Vec<f32>) -> Self {
        debug_assert_eq!(rows * columns, data.len());
        Self {
            shape: [rows, columns],
            storage: Storage::Host(Buffer {
                len: data.len(),
                data,
                home: None,
            }),
        }
    }

    /// A two-dimensional candle tensor, taken as float32.
    pub fn from_candle(tensor: candle_core::Tensor) -> Result<Self> {
        let (rows, columns) = tensor.dims2()?;
        let storage = Storage::Candle(tensor.to_dtype(candle_core::DType::F32)?);
        Ok(Self {
            shape: [rows, columns],
            storage,
        })
    }

    /// The same values as a candle tensor on `device`.
    pub fn to_candle(&self, device: &candle_core::Device) -> Result<candle_core::Tensor> {
        Ok(match &self.storage {
            Storage::Candle(t) => t.to_device(device)?,
            Storage::Host(b) => candle_core::Tensor::from_slice(
                &b.data[..b.len],
                (self.shape[0], self.shape[1]),
                device,
            )?,
        })
    }

    /// The same values on the host.
    pub fn into_host(self) -> Result<Self> {
        match &self.storage {
            Storage::Host(_) => Ok(self),
            Storage::Candle(t) => Ok(Self::new(
                self.shape[0],
                self.shape[1],
                t.flatten_all()?.to_vec1()?,
            )),
        }
    }

    /// `[rows, columns]`.
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// All values, row-major. Empty for a tensor that is not on the host: see [`Tensor::into_host`].
    pub fn data(&self) -> &[f32] {
        match &self.storage {
            Storage::Host(b) => &b.data[..b.len],
            Storage::Candle(_) => &[],
        }
    }

    /// All values, writable; an error for a tensor that is not on the host.
    pub fn data_mut(&mut self) -> Result<&mut [f32]> {
        match &mut self.storage {
            Storage::Host(b) => Ok(&mut b.data[..b.len]),
            Storage::Candle(_) => Err(Error::Run(
                "a candle tensor was given to a host backend".into(),
            )),
        }
    }

    /// One row of a host tensor.
    pub fn row(&self, r: usize) -> &[f32] {
        &self.data()[r * self.shape[1]..][..self.shape[1]]
    }
}
