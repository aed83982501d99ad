//! What a checkpoint is and what it would take, found out by loading it with matrices that are only measured: what loading
//! would refuse is refused here, and of the weights only those are read that the doors have to turn around.
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::{
    LoadOptions, Result, Spec,
    backend::Packer,
    load_with,
    quant::{Described, Format, Measured, PerHead, Role, Vector},
    weights::Checkpoint,
};

/// How much of a checkpoint's matrices is stored in one type, or in a code whose packed form is of that type.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Kind {
    /// Matrices.
    pub matrices: usize,
    /// Weights in them.
    pub parameters: u64,
    /// Bytes in the file.
    pub bytes: u64,
}

/// A checkpoint that would load.
#[derive(Debug, Clone, PartialEq)]
pub struct Inspection {
    /// What the loaded model would be.
    pub spec: Spec,
    /// Types of the stored matrices by name (`Q4_K`, `BF16` ...).
    pub kinds: BTreeMap<&'static str, Kind>,
}

/// Measures what [`crate::load`] would load.
///
/// # Errors
/// As `load`.
pub fn inspect(checkpoint: &Checkpoint, options: &LoadOptions) -> Result<Inspection> {
    let (backend, runtime) = options.open()?;
    let packer = backend.packer();
    let measuring = Measuring {
        packer: packer.as_ref(),
        kinds: Mutex::default(),
    };
    let model = load_with(checkpoint, backend, &measuring, &runtime, &|_, _| ())?;
    let kinds = measuring.kinds.into_inner();
    Ok(Inspection {
        spec: model.spec().clone(),
        kinds: kinds.unwrap_or_else(PoisonError::into_inner),
    })
}

/// Measures what another packs, and counts what was stored.
struct Measuring<'a> {
    packer: &'a dyn Packer,
    kinds: Mutex<BTreeMap<&'static str, Kind>>,
}

impl Packer for Measuring<'_> {
    fn matrix(&self, name: &str, role: Role, weight: &Described<'_>) -> Result<Box<dyn Format>> {
        let measured = self.measure(name, role, weight)?;
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let kind = kinds.entry(weight.kind().name()).or_default();
        kind.matrices += 1;
        kind.parameters += measured.shape().iter().map(|&d| d as u64).product::<u64>();
        kind.bytes += weight.file_bytes() as u64;
        Ok(Box::new(measured))
    }

    fn measure(&self, name: &str, role: Role, weight: &Described<'_>) -> Result<Measured> {
        self.packer.measure(name, role, weight)
    }

    fn per_head(&self, shape: [usize; 3], values: Vec<f32>) -> Result<PerHead> {
        self.packer.per_head(shape, values)
    }

    fn vector(&self, values: Vec<f32>) -> Result<Vector> {
        self.packer.vector(values)
    }
}
