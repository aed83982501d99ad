//! Weights as the kernels read them: one packed copy of a matrix, 16 output rows interleaved.
//! Knows no instruction set and no model; the arithmetic is `matmul`'s.
mod given;
pub(crate) mod layout;

pub use given::Rows;

use super::buffer::Buffer;
use super::ggml::{GgmlType, Raw};
use super::matmul::a16::{MOST_COLUMNS, row_scale};
use super::threads::{Pool, Rows as Slices};
use super::{Compute, Cpu, Isa};
use given::{Given, Rounded};
use half::{bf16, f16};
use layout::{BLOCK, FEW_BITS, LANES, Layout};

/// Which arithmetic a matrix is multiplied with. BF16 weights meet the bf16 dot product of the instruction set where it
/// has one (never in `Exact`), else they are multiplied as in `Exact`; F32 and F16 always are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// float32 activations and one fused multiply-add a product, in K order. Dense weights stay as they are and are
    /// widened in registers; quantised weights are dequantised to float32 when packed.
    Exact,
    /// Quantised weights against activations of the width that the instruction set multiplies fastest: `Int16` with AMX,
    /// else `Int8`.
    Fast,
    /// Quantised weights against activations of 8 bits, one scale a block of 32; of 15 bits where the instruction set has
    /// no dot product of bytes and the weights have more than 6 bits, which then cost the same.
    Int8,
    /// Quantised weights against activations of 15 bits, one scale a block of 32; with AMX against 16-bit fixed point, one
    /// scale a row of activations and one a row of weights (rows of more than 32,768 columns: 15 bits).
    Int16,
}

/// A matrix that cannot be packed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PackError {
    /// No rows or no columns.
    #[error("a matrix of {n} x {k} holds nothing")]
    Empty {
        /// Output rows.
        n: usize,
        /// Columns.
        k: usize,
    },
    /// Columns that do not fill whole blocks.
    #[error("{name} has blocks of {block} columns, but the matrix has {k}")]
    Columns {
        /// The type's name.
        name: &'static str,
        /// Columns a block.
        block: usize,
        /// Columns of the matrix.
        k: usize,
    },
    /// Not as many bytes as the shape needs.
    #[error("{name} of {n} x {k} needs {want} bytes, but there are {got}")]
    Bytes {
        /// The type's name.
        name: &'static str,
        /// Output rows.
        n: usize,
        /// Columns.
        k: usize,
        /// Bytes the shape needs.
        want: u128,
        /// Bytes given.
        got: usize,
    },
}

/// How a panel is stored, and which activations it meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Storage {
    /// [`Layout`] of a quantised type; activations of 8 bits, a scale for each block.
    A8(GgmlType),
    /// The same bytes; activations of 15 bits, a scale for each block.
    A15(GgmlType),
    /// The same bytes; fixed point of 16 bits, a scale for each row of weights and of activations.
    A16(GgmlType),
    /// f32 [k][16].
    F32,
    /// f16 [k][16].
    F16,
    /// bf16 [k / 2][16][2], k padded with zeros to a multiple of 32; `dot` allows the bf16 dot product.
    Bf16 { dot: bool },
}

impl Storage {
    /// How `mode` keeps a type on `cpu`.
    pub(crate) fn of(cpu: Cpu, mode: Mode, ty: GgmlType, k: usize) -> Storage {
        let bits = Layout::of(ty).map_or(0, |l| l.bits());
        match (ty, mode, cpu.isa()) {
            (GgmlType::F16, ..) => Storage::F16,
            (GgmlType::BF16, ..) => Storage::Bf16 {
                dot: mode != Mode::Exact,
            },
            (GgmlType::F32, ..) | (_, Mode::Exact, _) => Storage::F32,
            (_, Mode::Fast | Mode::Int16, Isa::Amx) if k <= MOST_COLUMNS => Storage::A16(ty),
            (_, Mode::Int16, _) => Storage::A15(ty),
            (_, _, Isa::Scalar | Isa::Avx2) if bits > FEW_BITS => Storage::A15(ty),
            _ => Storage::A8(ty),
        }
    }

    /// Bytes of a panel of `k` columns.
    fn panel_bytes(self, k: usize) -> usize {
        match self {
            Storage::A8(ty) | Storage::A15(ty) | Storage::A16(ty) => {
                Layout::of(ty).map_or(0, |l| l.panel_bytes(k))
            }
            Storage::F32 => k * LANES * 4,
            Storage::F16 => k * LANES * 2,
            Storage::Bf16 { .. } => k.next_multiple_of(BLOCK) * LANES * 2,
        }
    }

    /// Name of the weights' type as they are kept, `dtype` being the file's.
    fn label(self, dtype: GgmlType) -> &'static str {
        match self {
            Storage::A8(_) | Storage::A15(_) | Storage::A16(_) => lower(dtype),
            Storage::F32 => "f32",
            Storage::F16 => "f16",
            Storage::Bf16 { .. } => "bf16",
        }
    }
}

/// Whether a matrix of `dtype` can be `[n, k]`.
fn check_shape(dtype: GgmlType, n: usize, k: usize) -> Result<(), PackError> {
    let (name, block) = (dtype.name(), dtype.block_len());
    if n == 0 || k == 0 {
        return Err(PackError::Empty { n, k });
    }
    if !k.is_multiple_of(block) {
        return Err(PackError::Columns { name, block, k });
    }
    Ok(())
}

/// Whether `got` bytes are an `[n, k]` matrix of `dtype`.
fn check_bytes(dtype: GgmlType, n: usize, k: usize, got: usize) -> Result<(), PackError> {
    let row = (k / dtype.block_len()) as u128 * dtype.block_bytes() as u128;
    let want = row.saturating_mul(n as u128);
    if want != got as u128 {
        let name = dtype.name();
        return Err(PackError::Bytes {
            name,
            n,
            k,
            want,
            got,
        });
    }
    Ok(())
}

/// A packed matrix of `n` output rows and `k` columns.
#[derive(Debug)]
pub struct Matrix {
    pub(crate) storage: Storage,
    n: usize,
    k: usize,
    panel_bytes: usize,
    data: Buffer,
    /// Of `A16`: scales of each panel's rows, and what its weights are multiplied with.
    row_scales: Vec<[[f32; LANES]; 2]>,
    label: &'static str,
    /// Bytes that kernels asked for.
    #[cfg(test)]
    pub(crate) read: std::sync::atomic::AtomicUsize,
}

impl Matrix {
    /// Packs a row-major `[n, k]` matrix of `dtype`. Any `n`; `k` a multiple of the type's block. The bytes are the same
    /// for every `cpu` and every mode but `Exact`. Types of codebooks (IQ1 to IQ3, TQ) are rounded to int8.
    pub fn pack(
        cpu: Cpu,
        mode: Mode,
        dtype: GgmlType,
        n: usize,
        k: usize,
        data: &[u8],
    ) -> Result<Matrix, PackError> {
        Self::pack_bytes(cpu, None, mode, dtype, [n, k], data)
    }

    /// As [`Matrix::pack`], on the threads of `cx`.
    pub fn pack_on(
        cx: &Compute,
        mode: Mode,
        dtype: GgmlType,
        shape: [usize; 2],
        data: &[u8],
    ) -> Result<Matrix, PackError> {
        Self::pack_bytes(cx.cpu, Some(&cx.pool), mode, dtype, shape, data)
    }

    fn pack_bytes(
        cpu: Cpu,
        pool: Option<&Pool>,
        mode: Mode,
        dtype: GgmlType,
        [n, k]: [usize; 2],
        data: &[u8],
    ) -> Result<Matrix, PackError> {
        check_shape(dtype, n, k)?;
        check_bytes(dtype, n, k, data.len())?;
        let filled = |dtype, given: &Given<'_>| {
            Self::filled(Storage::of(cpu, mode, dtype, k), dtype, [n, k], given, pool)
        };
        if !dtype.in_codebook() || mode == Mode::Exact {
            return Ok(filled(dtype, &Given::Bytes(data)));
        }
        check_shape(GgmlType::Q8_0, n, k)?;
        let rows = Rounded { dtype, k, data };
        Ok(Matrix {
            label: lower(dtype),
            ..filled(GgmlType::Q8_0, &Given::Rows(&rows))
        })
    }

    /// [`Matrix::label`] and [`Matrix::bytes`] of what [`Matrix::pack`] would make, by the same rules.
    pub fn measure(
        cpu: Cpu,
        mode: Mode,
        dtype: GgmlType,
        [n, k]: [usize; 2],
    ) -> Result<(&'static str, usize), PackError> {
        check_shape(dtype, n, k)?;
        let rounded = dtype.in_codebook() && mode != Mode::Exact;
        let packed = if rounded { GgmlType::Q8_0 } else { dtype };
        let storage = Storage::of(cpu, mode, packed, k);
        let label = if rounded {
            lower(dtype)
        } else {
            storage.label(dtype)
        };
        Ok((label, n.div_ceil(LANES) * storage.panel_bytes(k)))
    }

    /// As [`Matrix::pack`], to be multiplied in a given way wherever that is.
    pub(crate) fn pack_as(
        storage: Storage,
        dtype: GgmlType,
        n: usize,
        k: usize,
        data: &[u8],
    ) -> Result<Matrix, PackError> {
        check_shape(dtype, n, k)?;
        check_bytes(dtype, n, k, data.len())?;
        let given = Given::Bytes(data);
        Ok(Self::filled(storage, dtype, [n, k], &given, None))
    }

    /// As [`Matrix::pack_on`], of rows that are made one by one.
    pub fn pack_rows(
        cx: &Compute,
        mode: Mode,
        dtype: GgmlType,
        [n, k]: [usize; 2],
        rows: &dyn Rows,
    ) -> Result<Matrix, PackError> {
        check_shape(dtype, n, k)?;
        let storage = Storage::of(cx.cpu, mode, dtype, k);
        let given = Given::Rows(rows);
        Ok(Self::filled(storage, dtype, [n, k], &given, Some(&cx.pool)))
    }

    fn filled(
        storage: Storage,
        dtype: GgmlType,
        [n, k]: [usize; 2],
        given: &Given<'_>,
        pool: Option<&Pool>,
    ) -> Matrix {
        let panel_bytes = storage.panel_bytes(k);
        let mut matrix = Matrix {
            storage,
            n,
            k,
            panel_bytes,
            data: Buffer::lasting(n.div_ceil(LANES) * panel_bytes),
            row_scales: Vec::new(),
            label: storage.label(dtype),
            #[cfg(test)]
            read: Default::default(),
        };
        matrix.fill(dtype, given, pool);
        if let (Storage::A16(_), Some(layout)) = (storage, Layout::of(dtype)) {
            matrix.row_scales = (0..matrix.panels())
                .map(|p| matrix.scales_of(&layout, p))
                .collect();
        }
        matrix
    }

    /// Row scales of a panel; rows beyond the last are zeros and have none.
    fn scales_of(&self, layout: &Layout, p: usize) -> [[f32; LANES]; 2] {
        let (mut first, mut second) = ([0f32; LANES], [0f32; LANES]);
        let panel = self.panel(p);
        for (lane, scales) in first.iter_mut().zip(&mut second).enumerate() {
            let blocks = (0..self.k / BLOCK).map(|b| {
                let group = &panel[b / layout.blocks * layout.bytes()..][..layout.bytes()];
                layout.scales(group, b % layout.blocks, lane)
            });
            (*scales.0, *scales.1) = row_scale(layout, blocks);
        }
        [first, second]
    }

    fn fill(&mut self, dtype: GgmlType, given: &Given<'_>, pool: Option<&Pool>) {
        let (storage, n, k, panels) = (self.storage, self.n, self.k, self.panels());
        let slices = Slices::new(self.data.bytes_mut(), self.panel_bytes);
        let panel = |p: usize| {
            // SAFETY: each panel is one task's, and nothing else holds the bytes.
            let panel = unsafe { slices.row(p) };
            given.fill(storage, (dtype, k), p * LANES..n, panel);
        };
        match pool {
            Some(pool) => pool.for_each(panels, &panel),
            None => (0..panels).for_each(panel),
        }
    }

    /// Output rows.
    pub fn n(&self) -> usize {
        self.n
    }
    /// Columns.
    pub fn k(&self) -> usize {
        self.k
    }
    /// Bytes that the packed copy takes.
    pub fn bytes(&self) -> usize {
        self.data.len()
    }
    /// How the weights are kept: `f32`, `bf16`, `q4_1` ...
    pub fn label(&self) -> &'static str {
        self.label
    }
    /// Bits of the integers that activations become; `None` where they stay floating point.
    pub fn activation_bits(&self) -> Option<u32> {
        match self.storage {
            Storage::A8(_) => Some(8),
            Storage::A15(_) => Some(15),
            Storage::A16(_) => Some(16),
            Storage::F32 | Storage::F16 | Storage::Bf16 { .. } => None,
        }
    }
    /// Panels of 16 output rows; the last may be padded.
    pub(crate) fn panels(&self) -> usize {
        self.n.div_ceil(LANES)
    }
    /// Bytes of a panel.
    pub(crate) fn panel_bytes(&self) -> usize {
        self.panel_bytes
    }
    /// Of `A16`: scales of the rows of panel `p`, and what their weights are multiplied with.
    #[cfg(any(target_arch = "x86_64", test))]
    pub(crate) fn panel_scales(&self, p: usize) -> (&[f32; LANES], &[f32; LANES]) {
        let [d, inverse] = &self.row_scales[p];
        (d, inverse)
    }
    /// Of `A16`: the same of output row `i`, which may lie in the last panel's padding.
    pub(crate) fn row_scale(&self, i: usize) -> (f32, f32) {
        let [d, inverse] = &self.row_scales[i / LANES];
        (d[i % LANES], inverse[i % LANES])
    }
    /// Panel `p`.
    pub(crate) fn panel(&self, p: usize) -> &[u8] {
        #[cfg(test)]
        self.read
            .fetch_add(self.panel_bytes, std::sync::atomic::Ordering::Relaxed);
        &self.data.bytes()[p * self.panel_bytes..][..self.panel_bytes]
    }

    /// Dequantised rows `ids`, float32 `[ids.len(), k]`, exactly the file's values.
    ///
    /// # Panics
    /// When an id is not below `n` or `out` is shorter than the rows.
    pub fn rows(&self, ids: &[u32], out: &mut [f32]) {
        assert!(out.len() >= ids.len() * self.k, "rows: out is too short");
        for (&id, out) in ids.iter().zip(out.chunks_exact_mut(self.k)) {
            let id = id as usize;
            assert!(id < self.n, "rows: row {id} of {}", self.n);
            self.row(self.panel(id / LANES), id % LANES, out);
        }
    }

    /// All values, row-major `[n, k]`.
    pub fn dequantize(&self) -> Vec<f32> {
        let mut out = vec![0f32; self.n * self.k];
        for (r, out) in out.chunks_exact_mut(self.k).enumerate() {
            self.row(self.panel(r / LANES), r % LANES, out);
        }
        out
    }

    fn row(&self, panel: &[u8], lane: usize, out: &mut [f32]) {
        match self.storage {
            Storage::A8(ty) | Storage::A15(ty) | Storage::A16(ty) => {
                if let Some(layout) = Layout::of(ty) {
                    unpack_blocks(&layout, panel, lane, out);
                }
            }
            Storage::F32 => {
                for (o, line) in out.iter_mut().zip(panel.chunks_exact(64)) {
                    let b = &line[lane * 4..];
                    *o = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
                }
            }
            Storage::F16 => {
                for (o, line) in out.iter_mut().zip(panel.chunks_exact(32)) {
                    *o = f16::from_le_bytes([line[lane * 2], line[lane * 2 + 1]]).to_f32();
                }
            }
            Storage::Bf16 { .. } => {
                for (o, line) in out.chunks_mut(2).zip(panel.chunks_exact(64)) {
                    for (o, b) in o.iter_mut().zip(line[lane * 4..].chunks_exact(2)) {
                        *o = bf16::from_le_bytes([b[0], b[1]]).to_f32();
                    }
                }
            }
        }
    }
}

/// Packs one row of blocks into lane `lane` of a panel.
fn pack_blocks(ty: GgmlType, layout: &Layout, panel: &mut [u8], lane: usize, row: &[u8]) {
    let per = ty.block_len() / BLOCK;
    let mut raw = Raw::new();
    for (i, block) in row.chunks_exact(ty.block_bytes()).enumerate() {
        raw.read(ty, block);
        let (group, first) = (i * per / layout.blocks, i * per % layout.blocks);
        let group = &mut panel[group * layout.bytes()..][..layout.bytes()];
        layout.write(group, first, lane, &raw, per);
    }
}

/// The values of lane `lane` of a panel.
fn unpack_blocks(layout: &Layout, panel: &[u8], lane: usize, out: &mut [f32]) {
    for (i, out) in out.chunks_exact_mut(BLOCK).enumerate() {
        let (group, b) = (i / layout.blocks, i % layout.blocks);
        let group = &panel[group * layout.bytes()..][..layout.bytes()];
        let scales = layout.scales(group, b, lane);
        let words = layout.words(group, b, lane).map(u32::to_le_bytes);
        for (j, o) in out.iter_mut().enumerate() {
            let q = i32::from(words[j / 4][j % 4]) - layout.offset;
            let scale = scales.d * scales.sub[j / 16] as f32;
            *o = scale * q as f32 + scales.m[j / 16];
        }
    }
}

fn lower(ty: GgmlType) -> &'static str {
    match ty {
        GgmlType::F32 => "f32",
        GgmlType::F16 => "f16",
        GgmlType::BF16 => "bf16",
        GgmlType::Q4_0 => "q4_0",
        GgmlType::Q4_1 => "q4_1",
        GgmlType::Q5_0 => "q5_0",
        GgmlType::Q5_1 => "q5_1",
        GgmlType::Q8_0 => "q8_0",
        GgmlType::Q2_K => "q2_k",
        GgmlType::Q3_K => "q3_k",
        GgmlType::Q4_K => "q4_k",
        GgmlType::Q5_K => "q5_k",
        GgmlType::Q6_K => "q6_k",
        GgmlType::IQ4_NL => "iq4_nl",
        GgmlType::IQ4_XS => "iq4_xs",
        GgmlType::MXFP4 => "mxfp4",
        GgmlType::IQ2_XXS => "iq2_xxs",
        GgmlType::IQ2_XS => "iq2_xs",
        GgmlType::IQ2_S => "iq2_s",
        GgmlType::IQ3_XXS => "iq3_xxs",
        GgmlType::IQ3_S => "iq3_s",
        GgmlType::IQ1_S => "iq1_s",
        GgmlType::IQ1_M => "iq1_m",
        GgmlType::TQ1_0 => "tq1_0",
        GgmlType::TQ2_0 => "tq2_0",
    }
}

#[cfg(test)]
mod tests;
