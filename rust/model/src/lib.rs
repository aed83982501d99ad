//! What a token becomes: architectures, layers, weights and quantisation, over a backend that computes.
//! Knows nothing of requests, scheduling, sampling, text or Python.
pub mod arch;
pub mod backend;
pub mod config;
pub mod device;
pub mod error;
pub mod family;
pub mod inspect;
pub mod kv;
mod layers;
pub mod loader;
pub mod logits;
pub mod pending;
pub mod quant;
pub mod quantize;
pub mod rope;
pub mod states;
pub mod step;
pub mod weights;

pub use backend::tensor::Tensor;
pub use error::{Error, Refused, Result};
pub use inspect::{Inspection, Kind, inspect};
pub use kv::Kv;
pub use logits::Logits;
pub use pending::Pending;
pub use states::{StateGroup, States};
pub use step::{Slice, Slots, Step};

use backend::{
    Backend, KvType,
    cpu::{Activations, Arithmetic, Dtype},
};
use candle_vllm_kernels::cpu::{Compute, CoreError, check_cores, ggml::GgmlType};
use weights::Checkpoint;

/// What the engine must know of a model to run it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Spec {
    /// Name of the architecture as the checkpoint gives it, e.g. `LlamaForCausalLM`.
    pub architecture: String,
    /// Decoder layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Columns of the logits.
    pub vocab_size: usize,
    /// Longest sequence the model was made for, in tokens.
    pub max_position: usize,
    /// Bytes of keys and values of one block, all layers.
    pub kv_block_bytes: usize,
    /// Bytes of a sequence's recurrent states, all layers; 0 where there are none.
    pub state_bytes: usize,
    /// Tokens a KV block.
    pub block_size: usize,
    /// Bytes that a row of a step takes while it is computed, at most; its logits apart.
    pub row_bytes: usize,
    /// How the weights are computed with: `f32`, `bf16`, `q4_1` ...
    pub dtype: String,
    /// How keys and values are kept: `f32`, `f16`, `bf16`, `int8`, `fp8`.
    pub kv_dtype: String,
    /// Number of weights.
    pub parameters: u64,
    /// Bytes the packed weights take.
    pub weight_bytes: u64,
    /// Device and instruction set, e.g. `cpu (amx)`.
    pub device: String,
    /// Compute threads.
    pub threads: usize,
}

/// A loaded model. Object-safe; a fake one in a test is ten lines.
pub trait Model: Send {
    /// What the engine must know of it.
    fn spec(&self) -> &Spec;

    /// An empty cache of `blocks` blocks, and of `states` slots where the model keeps recurrent states.
    fn new_kv(&self, blocks: usize, states: usize) -> Result<Kv>;

    /// Begins one step, which writes the new tokens' keys and values into `kv`. What comes of it are the logits, shape
    /// `[step.logits_rows(), vocab_size]`, in row order.
    ///
    /// A row's bits depend on its own sequence's tokens alone: not on the other rows, the chunking or the threads.
    fn launch<'a>(&'a mut self, step: &'a Step, kv: &'a mut Kv) -> Result<Pending<'a>>;

    /// [`Model::launch`] and [`Pending::finish`] in one, where nothing is to be done in between.
    fn forward(&mut self, step: &Step, kv: &mut Kv) -> Result<Logits> {
        self.launch(step, kv)?.finish()
    }

    /// The threads that compute, for work on the logits between two steps; `None` when there are none on the host.
    fn compute(&self) -> Option<&Compute> {
        None
    }
}

/// How to load a model.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Where it runs; checked before any weight is read.
    pub device: device::Device,
    /// `auto`, `f32`, `bf16`, `f16` (and `float32`, `bfloat16`, `float16`).
    pub dtype: String,
    /// `auto`, `int8`, `int16`: what activations are rounded to that quantised weights meet.
    pub activations: String,
    /// `auto` (f32 in the exact mode, else bf16), `f32`, `f16`, `bf16`, `int8`, `fp8`.
    pub kv_dtype: String,
    /// A type of [`quant::isq::names`]: matrices that the checkpoint keeps wider are quantised to it while they are loaded.
    pub isq: Option<String>,
    /// The longest sequence that will be run; `None` = as long as the model was made for.
    pub context: Option<usize>,
    /// Compute threads; `None` = the cores this process may use.
    pub threads: Option<usize>,
    /// Cores that the compute threads are bound to, one each in turn; empty = where the system likes.
    pub cpu_affinity: Vec<usize>,
}

impl LoadOptions {
    /// Refuses unknown dtypes and cores that cannot be used before anything is read.
    pub fn check(&self) -> Result<()> {
        check_cores(&self.cpu_affinity).map_err(refused_cores)?;
        self.isq()?;
        kv_dtype(&self.kv_dtype, self.arithmetic()?.dtype).map(drop)
    }

    /// The backend, and what else of the options a model must know.
    fn open(&self) -> Result<(Box<dyn Backend>, arch::Runtime)> {
        let arithmetic = self.arithmetic()?;
        let runtime = arch::Runtime {
            kv_dtype: kv_dtype(&self.kv_dtype, arithmetic.dtype)?,
            exact: arithmetic.dtype == Dtype::F32,
            context: self.context,
            isq: self.isq()?,
        };
        let backend: Box<dyn Backend> = match self.device {
            device::Device::Cpu => Box::new(backend::Cpu::on_cores(
                arithmetic,
                self.threads,
                &self.cpu_affinity,
            )?),
        };
        Ok((backend, runtime))
    }

    fn isq(&self) -> Result<Option<GgmlType>> {
        let Some(name) = &self.isq else {
            return Ok(None);
        };
        let refused = || Refused::new("isq", name, format!("one of {}", quant::isq::names()));
        Ok(Some(quant::isq::named(name).ok_or_else(refused)?))
    }

    fn arithmetic(&self) -> Result<Arithmetic> {
        let dtype = dtype(&self.dtype)?;
        let activations = match self.activations.as_str() {
            "auto" => Activations::Auto,
            "int8" => Activations::Int8,
            "int16" => Activations::Int16,
            other => {
                return Err(Refused::new("activations", other, "one of auto, int8, int16").into());
            }
        };
        if dtype == Dtype::F32 && activations != Activations::Auto {
            let expected = format!("auto with dtype {}, which rounds none", self.dtype);
            return Err(Refused::new("activations", &self.activations, expected).into());
        }
        Ok(Arithmetic { dtype, activations })
    }
}

fn refused_cores(error: CoreError) -> Refused {
    match error {
        CoreError::NotAllowed { core, allowed } => Refused::new(
            "cpu_affinity",
            format!("core {core}"),
            format!("among what this process may use, {allowed}"),
        ),
        CoreError::Unsupported => Refused::new(
            "cpu_affinity",
            "some",
            "left out: binding threads to cores needs Linux",
        ),
    }
}

fn dtype(name: &str) -> Result<Dtype> {
    Ok(match name {
        "auto" => Dtype::Auto,
        "f32" | "float32" => Dtype::F32,
        "bf16" | "bfloat16" => Dtype::Bf16,
        "f16" | "float16" => Dtype::F16,
        _ => {
            return Err(Refused::new("dtype", name, "one of auto, f32, bf16, f16").into());
        }
    })
}

fn kv_dtype(name: &str, weights: Dtype) -> Result<KvType> {
    let name = match name {
        "auto" if weights == Dtype::F32 => "f32",
        "auto" | "bfloat16" => "bf16",
        "float16" => "f16",
        "float32" => "f32",
        "fp8_e4m3" => "fp8",
        name => name,
    };
    let found = KvType::ALL.into_iter().find(|ty| ty.name() == name);
    let expected = "one of auto, f32, f16, bf16, int8, fp8";
    Ok(found.ok_or_else(|| Refused::new("kv_cache_dtype", name, expected))?)
}

/// Loads the weights of `checkpoint`. `progress` is told (bytes done, bytes in all), from several threads.
pub fn load(
    checkpoint: &Checkpoint,
    options: &LoadOptions,
    progress: loader::Progress<'_>,
) -> Result<Box<dyn Model>> {
    let (backend, runtime) = options.open()?;
    load_on(checkpoint, backend, &runtime, progress)
}

/// Loads the weights of `checkpoint` for a given backend.
pub fn load_on(
    checkpoint: &Checkpoint,
    backend: Box<dyn Backend>,
    runtime: &arch::Runtime,
    progress: loader::Progress<'_>,
) -> Result<Box<dyn Model>> {
    let packer = backend.packer();
    load_with(checkpoint, backend, packer.as_ref(), runtime, progress)
}

/// As [`load_on`], with the matrices packed by `packer`.
fn load_with(
    checkpoint: &Checkpoint,
    backend: Box<dyn Backend>,
    packer: &dyn backend::Packer,
    runtime: &arch::Runtime,
    progress: loader::Progress<'_>,
) -> Result<Box<dyn Model>> {
    let loader = loader::Loader::new(checkpoint, packer, progress).quantising(runtime.isq);
    // The caller's thread is not ours to bind to a core; the thread that takes its place ends with the loading.
    let loaded = std::thread::scope(|scope| {
        let load = || {
            if let Some(compute) = backend.compute() {
                compute.pool.bind_caller();
            }
            let model = arch::load(&loader, backend, runtime)?;
            loader.all_read()?;
            Ok(model)
        };
        scope.spawn(load).join()
    });
    loaded.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
