//! Products of activations and packed matrices: out = x W^T, any number of rows, one arithmetic for each way of storing
//! weights (written down in `scalar` and `a16`), the same bits for every number of rows and of threads.
//! Here: the doors, and how panels are shared out. Knows no layer.
pub(crate) mod a16;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(any(target_arch = "x86_64", test))]
mod bf16;
mod exact;
mod experts;
mod formats;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;
mod sink;
mod unpacked;

use super::activation::Activation;
use super::input::{Input, TILE};
use super::logits::{self, Finish};
use super::pack::layout::{BLOCK, LANES, Layout};
use super::pack::{Matrix, Storage};
use super::{Compute, Cpu, Isa};
pub use experts::{Bench, Expert, Part, Weigh, experts};
use formats::with_format;
use sink::{Role, Sink};
use std::cell::RefCell;
use std::ops::Range;

/// One product of a call: `out = x matrix^T (+ bias)`, or added to what `out` holds.
#[derive(Debug)]
pub struct Job<'a> {
    /// Weights `[n, k]`.
    pub matrix: &'a Matrix,
    /// `[n]`
    pub bias: Option<&'a [f32]>,
    /// `[rows, n]`
    pub out: &'a mut [f32],
    /// What is done with it.
    pub then: Then,
}

/// What is done with a product.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Then {
    /// `out = ...`
    Set,
    /// `out += ...`
    Add,
    /// `out = act(...)`
    Activate(Activation),
}

impl Job<'_> {
    fn check(&self, cx: &Compute, input: &Input) {
        let n = self.matrix.n();
        assert_eq!(
            self.out.len(),
            input.rows() * n,
            "matmul: out is not [rows, n]"
        );
        assert!(
            self.bias.is_none_or(|b| b.len() == n),
            "matmul: bias is not [n]"
        );
        assert!(
            input.serves(cx, self.matrix),
            "matmul: the input was filled without this matrix"
        );
    }
}

/// Most panels of a task where there are many rows; bounds the buffer between gate and up.
const MOST_PANELS: usize = 12;
/// Fewest tiles of activations of a part.
const PART_TILES: usize = 8;
/// Bytes of weights that a task should have at least, so that taking it costs little.
const TASK_BYTES: usize = 16 * 1024;

/// Bytes of activations that stay near while all panels of a task meet them: half of a usual second cache. Few in tests,
/// whose products are small.
const NEAR_BYTES: usize = if cfg!(test) { 1 } else { 512 } * 1024;
/// Fewest tiles that a panel is unpacked for, where there are so many.
const LEAST_TILES: usize = 2;

/// Whether bf16 weights meet bf16 activations in the instruction set's dot product.
pub(crate) fn bf16_dot(cpu: Cpu) -> bool {
    match cpu.isa() {
        Isa::Amx => true,
        Isa::Avx512 => cpu.bf16(),
        Isa::Scalar | Isa::Neon | Isa::Avx2 => false,
    }
}

/// Panels of one matrix and the tiles of activations they meet.
pub(crate) struct Work<'a> {
    matrix: &'a Matrix,
    input: &'a Input,
    panels: Range<usize>,
    /// All, unless [`parts`] cuts them.
    tiles: Range<usize>,
}

impl Work<'_> {
    /// The order in which tiles of activations and panels meet: all panels meet the first tiles, as many as stay near,
    /// then the next ones. An activation has `bytes` bytes. A panel is unpacked for each meeting.
    fn meetings(&self, bytes: usize) -> impl Iterator<Item = (Range<usize>, usize)> {
        let tile = self.input.blocks() * BLOCK * TILE * bytes;
        let most = (NEAR_BYTES / tile.max(1)).max(LEAST_TILES);
        let (tiles, panels) = (self.tiles.clone(), self.panels.clone());
        let runs = tiles.len().div_ceil(most);
        (0..runs).flat_map(move |i| {
            let run = part(tiles.len(), i, runs);
            let run = tiles.start + run.start..tiles.start + run.end;
            panels.clone().map(move |p| (run.clone(), p))
        })
    }
}

/// Computes all jobs in one parallel region.
///
/// # Panics
/// When an output does not have `[rows, n]` values, a bias `[n]`, or the input was filled without the matrix.
pub fn matmul(cx: &Compute, input: &Input, jobs: &mut [Job<'_>]) {
    jobs.iter().for_each(|job| job.check(cx, input));
    if input.rows() == 0 {
        return;
    }
    let bytes = jobs.iter().map(|j| j.matrix.bytes()).sum();
    let sinks: Vec<Sink<'_>> = jobs
        .iter_mut()
        .map(|job| Sink {
            out: job.out.as_mut_ptr(),
            n: job.matrix.n(),
            bias: job.bias,
            role: match job.then {
                Then::Set => Role::Set,
                Then::Add => Role::Add,
                Then::Activate(act) => Role::Activate(act),
            },
            isa: cx.cpu.isa(),
        })
        .collect();
    let steps: Vec<usize> = jobs
        .iter()
        .map(|j| panels_a_task(cx, input, j.matrix.panel_bytes(), bytes))
        .collect();
    let tasks = |i: usize| jobs[i].matrix.panels().div_ceil(steps[i]);
    let total: usize = (0..jobs.len()).map(tasks).sum();
    let parts = parts(cx, input, jobs.iter().map(|j| j.matrix));
    cx.pool.for_each(parts * total, &|task| {
        let tiles = part(input.tiles(), task / total, parts);
        let mut task = task % total;
        let mut i = 0;
        while task >= tasks(i) {
            task -= tasks(i);
            i += 1;
        }
        let matrix = jobs[i].matrix;
        let panels = task * steps[i]..((task + 1) * steps[i]).min(matrix.panels());
        // SAFETY: the sizes were checked above, and each panel of a job belongs to one task.
        unsafe {
            run(
                cx.cpu,
                &Work {
                    matrix,
                    input,
                    panels,
                    tiles,
                },
                &sinks[i],
            )
        };
    });
}

/// `out = act(x gate^T + bias.0) * (x up^T + bias.1)`, `[rows, n]`, in one parallel region.
///
/// # Panics
/// As [`matmul`], and when the matrices differ in shape.
pub fn gate_up(
    cx: &Compute,
    input: &Input,
    gate: &Matrix,
    up: &Matrix,
    bias: (Option<&[f32]>, Option<&[f32]>),
    act: Activation,
    out: &mut [f32],
) {
    let (n, rows) = (gate.n(), input.rows());
    assert!(
        up.n() == n && up.k() == gate.k(),
        "gate_up: the matrices differ in shape"
    );
    assert_eq!(out.len(), rows * n, "gate_up: out is not [rows, n]");
    let fits = |b: Option<&[f32]>| b.is_none_or(|b| b.len() == n);
    assert!(fits(bias.0) && fits(bias.1), "gate_up: a bias is not [n]");
    let served = input.serves(cx, gate) && input.serves(cx, up);
    assert!(
        served,
        "gate_up: the input was filled without these matrices"
    );
    let pair = gate.panel_bytes() + up.panel_bytes();
    let step = panels_a_task(cx, input, pair, gate.bytes() + up.bytes());
    let panels = gate.panels();
    let (out, isa) = (Shared(out.as_mut_ptr()), cx.cpu.isa());
    let tasks = panels.div_ceil(step);
    let parts = parts(cx, input, [gate, up].into_iter());
    cx.pool.for_each(parts * tasks, &|task| {
        let tiles = part(input.tiles(), task / tasks, parts);
        let task = task % tasks;
        let panels = task * step..((task + 1) * step).min(panels);
        let work = |matrix| Work {
            matrix,
            input,
            panels: panels.clone(),
            tiles: tiles.clone(),
        };
        let sink = |bias| Sink {
            out: out.get(),
            n,
            bias,
            role: Role::Set,
            isa,
        };
        // SAFETY: sizes were checked above; a panel's rows belong to one task.
        unsafe {
            let (gate, up) = ((work(gate), sink(bias.0)), (work(up), sink(bias.1)));
            gated(cx.cpu, gate, up, act);
        }
    });
}

/// `out = finish(x matrix^T + bias)`, `[rows, n]`, and the maxima of its rows, `[rows, maxima_len(n)]`, found while a task's part of a
/// row is still in the caches of its thread; see [`logits::maxima`].
///
/// # Panics
/// As [`matmul`], and when `maxima` has another size.
pub fn head(
    cx: &Compute,
    input: &Input,
    matrix: &Matrix,
    bias: Option<&[f32]>,
    finish: Finish,
    out: &mut [f32],
    maxima: &mut [f32],
) {
    let (rows, n) = (input.rows(), matrix.n());
    assert_eq!(out.len(), rows * n, "head: out is not [rows, n]");
    assert!(
        input.serves(cx, matrix),
        "head: the input was filled without this matrix"
    );
    assert!(bias.is_none_or(|b| b.len() == n), "head: bias is not [n]");
    let length = logits::maxima_len(n);
    assert_eq!(maxima.len(), rows * length, "head: maxima of each row");
    if rows == 0 {
        return;
    }
    let sink = Sink {
        out: out.as_mut_ptr(),
        n,
        bias,
        role: Role::Set,
        isa: cx.cpu.isa(),
    };
    let maxima = Shared(maxima.as_mut_ptr());
    let step = panels_a_task(cx, input, matrix.panel_bytes(), matrix.bytes());
    cx.pool.for_each(n.div_ceil(logits::STRIPE), &|stripe| {
        const PANELS: usize = logits::STRIPE / LANES;
        let end = ((stripe + 1) * PANELS).min(matrix.panels());
        for first in (stripe * PANELS..end).step_by(step) {
            let work = Work {
                matrix,
                input,
                panels: first..end.min(first + step),
                tiles: 0..input.tiles(),
            };
            // SAFETY: the sizes were checked above, and each panel belongs to one task.
            unsafe { run(cx.cpu, &work, &sink) };
        }
        let first = stripe * logits::STRIPE;
        let width = logits::STRIPE.min(n - first);
        for r in 0..rows {
            // SAFETY: this task alone has written these values, and writes these maxima.
            let (values, to) = unsafe {
                let to = maxima.get().add(r * length + stripe * logits::GROUPS);
                (
                    std::slice::from_raw_parts_mut(sink.out.add(r * n + first), width),
                    std::slice::from_raw_parts_mut(to, logits::GROUPS),
                )
            };
            finish.apply(cx.cpu, values);
            logits::maxima(cx.cpu, values, to);
        }
    });
}

/// A task of [`gate_up`]: what the gate gives is kept near until the up product meets it. Roles are set here.
///
/// # Safety
/// As [`run`].
unsafe fn gated(
    cpu: Cpu,
    (gate, mut keep): (Work<'_>, Sink<'_>),
    (up, mut sink): (Work<'_>, Sink<'_>),
    act: Activation,
) {
    BETWEEN.with_borrow_mut(|between| {
        let (first, rows) = (gate.panels.start, gate.input.rows());
        between.resize(gate.panels.len() * rows * LANES, 0.0);
        keep.role = Role::Keep {
            to: between.as_mut_ptr(),
            first,
            rows,
        };
        sink.role = Role::Gate {
            from: between.as_ptr(),
            first,
            rows,
            act,
        };
        // SAFETY: passed on; `between` holds the task's panels.
        unsafe {
            run(cpu, &gate, &keep);
            run(cpu, &up, &sink);
        }
    });
}

thread_local! {
    /// What the gate gave, `[panel][row][16]`, until the up product meets it.
    static BETWEEN: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// An output that threads write in different places.
#[derive(Clone, Copy)]
struct Shared(*mut f32);
// SAFETY: each task writes the columns of its own panels.
unsafe impl Sync for Shared {}

impl Shared {
    fn get(&self) -> *mut f32 {
        self.0
    }
}

/// Parts into which the tiles of activations are cut, so that a thread's rows stay in its own caches from one product
/// to the next: one, unless each thread has many and the weights are unpacked for tiles.
fn parts<'a>(cx: &Compute, input: &Input, mut matrices: impl Iterator<Item = &'a Matrix>) -> usize {
    let threads = cx.pool.threads();
    let a16 = matrices.all(|m| matches!(m.storage, Storage::A16(_)));
    if a16 && cx.cpu.isa() == Isa::Amx && input.tiles() >= PART_TILES * threads {
        threads
    } else {
        1
    }
}

fn part(tiles: usize, i: usize, parts: usize) -> Range<usize> {
    i * tiles / parts..(i + 1) * tiles / parts
}

/// How many panels of `panel_bytes` a task takes, of a call that reads `bytes`: enough tasks to balance the threads,
/// each worth taking.
fn panels_a_task(cx: &Compute, input: &Input, panel_bytes: usize, bytes: usize) -> usize {
    let share = bytes / (cx.pool.threads() * 8);
    let rows = input.rows().next_power_of_two();
    let panels = share
        .max(TASK_BYTES / rows.min(16))
        .div_ceil(panel_bytes.max(1))
        .max(1);
    if rows > 16 {
        panels.min(MOST_PANELS)
    } else {
        panels
    }
}

/// Computes the panels of `work` and hands every tile of 16 rows to `sink`.
///
/// # Safety
/// The input holds the form of the matrix, the sink's output and bias fit, no other thread writes these panels, and
/// the machine runs `cpu`.
unsafe fn run(cpu: Cpu, work: &Work<'_>, sink: &Sink<'_>) {
    // Not every kernel looks at them.
    debug_assert!(
        work.tiles == (0..work.input.tiles()) || matches!(work.matrix.storage, Storage::A16(_))
    );
    // SAFETY: passed on.
    unsafe {
        match work.matrix.storage {
            Storage::A8(ty) => {
                if let Some(layout) = Layout::of(ty) {
                    a8(cpu, ty, &layout, work, sink);
                }
            }
            Storage::A15(ty) => {
                if let Some(layout) = Layout::of(ty) {
                    a15(cpu, ty, &layout, work, sink);
                }
            }
            Storage::A16(ty) => {
                if let Some(layout) = Layout::of(ty) {
                    a16(cpu, ty, &layout, work, sink);
                }
            }
            Storage::F32 => exact::run::<exact::F32>(cpu, work, sink),
            Storage::F16 => exact::run::<exact::F16>(cpu, work, sink),
            #[cfg(target_arch = "x86_64")]
            Storage::Bf16 { dot: true } if cpu.isa() == Isa::Amx => bf16::amx(work, sink),
            #[cfg(target_arch = "x86_64")]
            Storage::Bf16 { dot: true } if bf16_dot(cpu) => bf16::avx512(work, sink),
            Storage::Bf16 { .. } => exact::run::<exact::Bf16>(cpu, work, sink),
        }
    }
}

unsafe fn a8(
    cpu: Cpu,
    ty: super::ggml::GgmlType,
    layout: &Layout,
    work: &Work<'_>,
    sink: &Sink<'_>,
) {
    // SAFETY: passed on; the machine runs `cpu`.
    unsafe {
        match cpu.isa() {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Amx => {
                with_format!(ty, F => avx512::run::<avx512::A8, F>(work, sink));
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 if layout.bits() <= super::pack::layout::FEW_BITS => {
                with_format!(ty, F => avx2::run::<avx2::A8, F>(cpu.avx_vnni(), work, sink));
            }
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => with_format!(ty, F => neon::run::<F, i8>(cpu, work, sink)),
            _ => scalar::run::<i8>(layout, work, sink),
        }
    }
}

unsafe fn a15(
    cpu: Cpu,
    ty: super::ggml::GgmlType,
    layout: &Layout,
    work: &Work<'_>,
    sink: &Sink<'_>,
) {
    // Other machines take the scalar way, whatever the type.
    let _ = ty;
    // SAFETY: passed on; the machine runs `cpu`.
    unsafe {
        match cpu.isa() {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                with_format!(ty, F => avx2::run::<avx2::A15, F>(cpu.avx_vnni(), work, sink));
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Amx => {
                with_format!(ty, F => avx512::run::<avx512::A15, F>(work, sink));
            }
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => with_format!(ty, F => neon::run::<F, i16>(cpu, work, sink)),
            _ => scalar::run::<i16>(layout, work, sink),
        }
    }
}

unsafe fn a16(
    cpu: Cpu,
    ty: super::ggml::GgmlType,
    layout: &Layout,
    work: &Work<'_>,
    sink: &Sink<'_>,
) {
    // Other machines take the scalar way, whatever the type.
    let _ = ty;
    // SAFETY: passed on; the machine runs `cpu`.
    unsafe {
        match cpu.isa() {
            #[cfg(target_arch = "x86_64")]
            Isa::Amx if work.input.rows() >= a16::TILE_ROWS => {
                with_format!(ty, F => a16::amx::<F>(work, sink));
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Amx => with_format!(ty, F => a16::few::<F>(work, sink)),
            _ => a16::scalar(layout, work, sink),
        }
    }
}

#[cfg(test)]
mod tests;
