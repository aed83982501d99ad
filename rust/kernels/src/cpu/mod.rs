//! CPU kernels: one file per operation, a scalar reference beside the vector variants.
//! Every kernel takes a [`Compute`]: there is no global state, so two engines live in one process.
mod activation;
pub mod attention;
mod buffer;
mod by_head;
pub mod exp;
pub mod ggml;
mod input;
mod isa;
pub mod kv;
mod lanes;
pub mod logits;
mod matmul;
mod norm;
mod pack;
pub mod rope;
pub mod routing;
mod self_check;
mod short_conv;
mod streams;
#[cfg(test)]
mod testing;
pub mod threads;
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
mod tile_unit;

pub use activation::{Activation, Clamped, Xielu};
pub use by_head::{ByHead, Parts, by_head};
pub use input::Input;
pub use isa::{Cpu, Isa, IsaError};
pub use matmul::{Bench, Expert, Job, Part, Then, Weigh, experts, gate_up, head, matmul};
pub use norm::{
    Norm, add_rows, clamp_rows, multiply_rows, normalise_groups, scale_rows, weigh_rows,
};
pub use pack::{Matrix, Mode, PackError, Rows};
pub use short_conv::{Conv, ConvSeq, short_conv};
pub use streams::{combine_rows, gate_outliers, resize_rows};
pub use threads::{CoreError, Pool, available_threads, check_cores, stand_back};

/// What a kernel needs to know about the machine it runs on: the instruction set and the threads.
#[derive(Debug)]
pub struct Compute {
    /// The instruction set that every kernel uses.
    pub cpu: Cpu,
    /// The compute threads; the caller of a kernel is one of them.
    pub pool: Pool,
}

/// Why no compute context could be made.
#[derive(Debug, thiserror::Error)]
pub enum ComputeError {
    /// `CANDLE_VLLM_ISA` names something this machine cannot run.
    #[error(transparent)]
    Isa(#[from] IsaError),
    /// The operating system refused a thread.
    #[error("cannot start {threads} compute threads: {source}")]
    Threads {
        /// Threads asked for.
        threads: usize,
        /// What the system said.
        source: std::io::Error,
    },
}

impl Compute {
    /// The widest instruction set of this machine (or `CANDLE_VLLM_ISA`'s) and `threads` compute threads,
    /// the caller among them. Settles the instruction set before the workers start, as AMX asks.
    pub fn new(threads: usize) -> Result<Self, ComputeError> {
        let cpu = Cpu::detect()?;
        Self::with_cpu(cpu, threads)
    }

    /// As [`Compute::new`] with an instruction set from [`Cpu::available`].
    pub fn with_cpu(cpu: Cpu, threads: usize) -> Result<Self, ComputeError> {
        Self::on_cores(cpu, threads, &[])
    }

    /// As [`Compute::with_cpu`] with the threads bound to `cores`; see [`Pool::on_cores`].
    pub fn on_cores(cpu: Cpu, threads: usize, cores: &[usize]) -> Result<Self, ComputeError> {
        let pool = Pool::on_cores(threads, cores)
            .map_err(|source| ComputeError::Threads { threads, source })?;
        Ok(Self { cpu, pool })
    }
}
