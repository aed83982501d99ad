//! Memory-mapped weight files and the tensors found in them, behind the `Weights` trait.
//! Knows bytes, shapes and row order; nothing of headers, names in files or configurations.
use std::{
    borrow::Cow,
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
};

use candle_vllm_kernels::cpu::ggml::GgmlType;
use memmap2::Mmap;

use super::{Element, Part, Stored, Weights, file::refuse_lfs_pointer};
use crate::{Error, Result};

/// A read-only map of a regular, non-empty file.
pub(super) struct MappedFile {
    path: PathBuf,
    map: Mmap,
}

impl MappedFile {
    /// Maps `path`. Folders, pipes, devices and empty files are refused.
    pub fn open(path: &Path) -> Result<Self> {
        let io = |source| Error::Io {
            path: path.to_path_buf(),
            source,
        };
        // Opening a pipe would block, so the kind is asked for first.
        let meta = std::fs::metadata(path).map_err(io)?;
        if !meta.is_file() {
            return Err(Error::Load(format!(
                "{} is not a regular file",
                path.display()
            )));
        }
        if meta.len() == 0 {
            return Err(Error::Load(format!("{} is empty", path.display())));
        }
        let file = File::open(path).map_err(io)?;
        // SAFETY: the map is private to this struct and only read. As with every mapped checkpoint, a file that another
        // process cuts short while it is mapped raises SIGBUS; weight files are replaced by rename, not rewritten.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        refuse_lfs_pointer(path, &map)?;
        Ok(MappedFile {
            path: path.to_path_buf(),
            map,
        })
    }

    /// The file's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// The file's path, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives back the pages of a part of [`MappedFile::bytes`]; a part of another file is left.
    pub fn release_bytes(&self, part: &[u8]) {
        let (all, at) = (self.map.as_ptr_range(), part.as_ptr().addr());
        if (all.start.addr()..all.end.addr()).contains(&at) {
            self.release(at - all.start.addr(), part.len());
        }
    }

    /// Gives back the pages that lie wholly inside `start..start + len`; they are read from the file again when touched.
    /// Only Unix is told so; elsewhere the system takes pages back when memory is short.
    #[cfg_attr(not(unix), allow(unused_variables))]
    fn release(&self, start: usize, len: usize) {
        #[cfg(unix)]
        {
            let page = page_size();
            let end = start.saturating_add(len).min(self.map.len()) / page * page;
            let start = start.div_ceil(page) * page;
            if start < end {
                // SAFETY: the map is shared, read-only and backed by a file, so dropped pages come back with the same bytes;
                // no write can be lost and every borrowed slice stays valid.
                let advice = unsafe {
                    self.map.unchecked_advise_range(
                        memmap2::UncheckedAdvice::DontNeed,
                        start,
                        end - start,
                    )
                };
                if let Err(error) = advice {
                    tracing::debug!(path = %self.path.display(), %error, "pages were not given back");
                }
            }
        }
    }
}

/// Bytes of a matrix after which its pages are given back while it is read row by row.
const STEP: usize = 1 << 20;

/// Has `release` give back what has been read of a mapped matrix, [`STEP`] bytes at a time, now that its row `row` of `bytes`
/// has been.
pub(crate) fn passed(data: &[u8], row: usize, bytes: usize, release: &dyn Fn(&[u8])) {
    let (from, to) = (row * bytes / STEP * STEP, (row + 1) * bytes / STEP * STEP);
    if from < to {
        release(&data[from..to]);
    }
}

#[cfg(unix)]
fn page_size() -> usize {
    // SAFETY: sysconf reads a constant of the system and has no preconditions.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size)
        .ok()
        .filter(|s| *s > 0)
        .unwrap_or(4096)
}

/// Where a tensor lies. Ranges are checked against the file by whoever makes the entry.
pub(super) struct Entry {
    /// Index into the mapped files.
    pub file: usize,
    /// First byte in the file.
    pub start: usize,
    /// Bytes.
    pub len: usize,
    /// Element type.
    pub element: Element,
    /// Shape, outermost first.
    pub shape: Vec<usize>,
    /// How the file has it.
    pub change: Change,
}

/// How a file's tensor differs from the one that it stands for; undone when it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// Not at all.
    None,
    /// The two halves of each of so many heads' rows are interleaved (see [`deinterleave`]).
    Interleaved(usize),
    /// One has been added.
    PlusOne,
    /// Inputs x outputs.
    Transposed,
    /// Of inputs x outputs, or of a vector, some outputs; see [`Change::columns`].
    Columns {
        first: usize,
        step: usize,
        count: usize,
    },
    /// `count` rows from the `first` on, every `step`th, whatever their elements are.
    Rows {
        first: usize,
        step: usize,
        count: usize,
    },
    /// Queries, keys and values stand together for each of so many heads.
    ByHead(usize),
}

impl Change {
    /// `count` columns from the `first` on, every `step`th, are the rows of the tensor.
    pub fn columns(first: usize, step: usize, count: usize) -> Self {
        Self::Columns { first, step, count }
    }
}

/// All tensors of a checkpoint by Hugging Face name, over one or several mapped files.
pub(super) struct MappedWeights {
    pub files: Vec<MappedFile>,
    pub entries: BTreeMap<String, Entry>,
}

impl MappedWeights {
    fn entry(&self, name: &str) -> Result<(&Entry, &MappedFile)> {
        let missing = || Error::Load(format!("{}: there is no tensor {name}", self.place()));
        let entry = self.entries.get(name).ok_or_else(missing)?;
        let file = self.files.get(entry.file).ok_or_else(missing)?;
        Ok((entry, file))
    }

    /// Bytes of all files.
    pub fn file_bytes(&self) -> u64 {
        self.files.iter().map(|f| f.bytes().len() as u64).sum()
    }

    /// The files, for messages.
    pub fn place(&self) -> String {
        match self.files.as_slice() {
            [] => "checkpoint".to_string(),
            [only] => only.path().display().to_string(),
            [first, rest @ ..] => {
                format!("{} and {} more files", first.path().display(), rest.len())
            }
        }
    }
}

impl Weights for MappedWeights {
    fn part(&self, name: &str) -> Result<Part<'_>> {
        let (entry, file) = self.entry(name)?;
        let bad =
            |what: String| Error::Load(format!("{}: tensor {name} {what}", file.path().display()));
        let end = entry.start.checked_add(entry.len);
        let data = end
            .and_then(|end| file.bytes().get(entry.start..end))
            .ok_or_else(|| bad("lies outside the file".to_string()))?;
        let part = Part {
            element: entry.element.clone(),
            shape: entry.shape.clone(),
            data: Cow::Borrowed(data),
        };
        match entry.change {
            Change::None => return Ok(part),
            Change::Rows { first, step, count } => {
                return picked(part, first, step, count).map_err(bad);
            }
            _ => {}
        }
        let stored = part.stored().map_err(bad)?;
        let stored = undo(entry.change, stored).map_err(bad)?;
        Ok(stored.into())
    }

    fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    fn names(&self) -> Vec<String> {
        self.entries.keys().cloned().collect()
    }

    fn release(&self, name: &str) {
        if let Ok((entry, file)) = self.entry(name) {
            file.release(entry.start, entry.len);
        }
    }

    fn release_bytes(&self, part: &[u8]) {
        self.files.iter().for_each(|file| file.release_bytes(part));
    }
}

/// The tensor that a changed one stands for.
fn undo(change: Change, stored: Stored<'_>) -> std::result::Result<Stored<'_>, String> {
    let rows = stored.shape.first().copied().unwrap_or(0);
    let with = |data: Vec<u8>| Stored {
        data: Cow::Owned(data),
        dtype: stored.dtype,
        shape: stored.shape.clone(),
    };
    match change {
        Change::None => Ok(stored),
        Change::Interleaved(heads) => Ok(with(deinterleave(&stored.data, rows, heads))),
        Change::ByHead(heads) if rows.is_multiple_of(3 * heads) => {
            Ok(with(stacked(&stored.data, rows, heads)))
        }
        Change::ByHead(heads) => Err(format!("has {rows} rows, not 3 for each of {heads} heads")),
        Change::PlusOne if stored.dtype == GgmlType::F32 => {
            let less = |b: &[u8; 4]| (f32::from_le_bytes(*b) - 1.0).to_le_bytes();
            Ok(with(
                stored.data.as_chunks().0.iter().flat_map(less).collect(),
            ))
        }
        Change::PlusOne => Err(format!("has type {}, not F32", stored.dtype.name())),
        Change::Transposed if stored.shape.len() != 2 => Err("is no dense matrix".into()),
        Change::Transposed => {
            let all = stored.shape.last().copied().unwrap_or(0);
            columns(stored, 0, 1, all)
        }
        Change::Columns { first, step, count } => columns(stored, first, step, count),
        Change::Rows { first, step, count } => picked(stored.into(), first, step, count)?.stored(),
    }
}

/// Some rows of a tensor.
fn picked(
    part: Part<'_>,
    first: usize,
    step: usize,
    count: usize,
) -> std::result::Result<Part<'_>, String> {
    let rows = part.shape.first().copied().unwrap_or(0);
    if count > 0 && first + (count - 1) * step >= rows {
        return Err(format!(
            "has {rows} rows, {count} from {first} on are wanted"
        ));
    }
    let size = part.data.len() / rows.max(1);
    let mut data = Vec::with_capacity(count * size);
    for row in (0..count).map(|i| first + i * step) {
        data.extend_from_slice(&part.data[row * size..][..size]);
    }
    let mut shape = part.shape;
    if let Some(first) = shape.first_mut() {
        *first = count;
    }
    Ok(Part {
        element: part.element,
        shape,
        data: Cow::Owned(data),
    })
}

/// Columns of a dense matrix as the rows of another, or values of a vector.
fn columns(
    stored: Stored<'_>,
    first: usize,
    step: usize,
    count: usize,
) -> std::result::Result<Stored<'_>, String> {
    let (k, n, shape) = match (&stored.shape[..], stored.dtype.block_len()) {
        (&[k, n], 1) => (k, n, vec![count, k]),
        (&[n], 1) => (1, n, vec![count]),
        _ => return Err("is no dense matrix".to_string()),
    };
    if count > 0 && first + (count - 1) * step >= n {
        return Err(format!(
            "has {n} columns, {count} from {first} on are wanted"
        ));
    }
    let columns = (0..count).map(|i| first + i * step);
    Ok(Stored {
        data: Cow::Owned(turned(&stored.data, [k, n], columns)),
        shape,
        dtype: stored.dtype,
    })
}

/// Columns of `[k, n]` as rows.
fn turned(data: &[u8], [k, n]: [usize; 2], columns: impl Iterator<Item = usize>) -> Vec<u8> {
    let size = data.len() / (k * n).max(1);
    let mut out = Vec::with_capacity(columns.size_hint().0 * k * size);
    for column in columns {
        for row in 0..k {
            out.extend_from_slice(&data[(row * n + column) * size..][..size]);
        }
    }
    out
}

/// Rows `[head][q, k, v][width]` as `[q, k, v][head][width]`. `rows` divides by `3 * heads`.
fn stacked(data: &[u8], rows: usize, heads: usize) -> Vec<u8> {
    let part = data.len() / rows.max(1) * (rows / (3 * heads).max(1));
    let mut out = Vec::with_capacity(data.len());
    for kind in 0..3 {
        for head in 0..heads {
            out.extend_from_slice(&data[(head * 3 + kind) * part..][..part]);
        }
    }
    out
}

/// Puts the rows of a q or k projection back in Hugging Face order. llama.cpp's converter turns each head's rows
/// `[a0 .. ah, b0 .. bh]` (rotate halves) into `[a0, b0, a1, b1, ...]` (rotate pairs): `LlamaModel.permute` of
/// `convert_hf_to_gguf.py`. Whole rows move, so quantised blocks stay as they are. `rows` divides by `2 * heads`.
fn deinterleave(data: &[u8], rows: usize, heads: usize) -> Vec<u8> {
    let head_rows = rows / heads.max(1);
    let (half, row) = (head_rows / 2, data.len() / rows.max(1));
    let mut out = Vec::with_capacity(data.len());
    for head in data.chunks_exact((head_rows * row).max(1)) {
        for part in 0..2 {
            for d in 0..half {
                let at = (2 * d + part) * row;
                out.extend_from_slice(&head[at..at + row]);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deinterleave_undoes_the_converters_permutation() {
        // 2 heads of 6 rows of 2 bytes. numpy: w.reshape(2, 2, 3, 2).swapaxes(1, 2).reshape(12, 2)
        let original: Vec<u8> = (0..24).collect();
        let mut permuted = Vec::new();
        for head in 0..2 {
            for d in 0..3 {
                for part in 0..2 {
                    let row = head * 6 + part * 3 + d;
                    permuted.extend_from_slice(&original[row * 2..row * 2 + 2]);
                }
            }
        }
        assert_ne!(permuted, original);
        assert_eq!(deinterleave(&permuted, 12, 2), original);
    }

    #[test]
    fn matrices_are_turned_and_heads_sorted() {
        // [2, 3] elements of 2 bytes.
        let data = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11];
        assert_eq!(
            turned(&data, [2, 3], 0..3),
            [0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11]
        );
        let odd = turned(&data, [2, 3], [1].into_iter());
        assert_eq!(odd, [2, 3, 8, 9]);
        // 2 heads of 1 row of 2 bytes: q0 k0 v0 q1 k1 v1.
        assert_eq!(stacked(&data, 6, 2), [0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11]);
    }

    #[test]
    fn what_cannot_be_undone_is_said() {
        let stored = |dtype| Stored {
            dtype,
            shape: vec![5],
            data: Cow::Owned(vec![0; 20]),
        };
        assert!(undo(Change::ByHead(2), stored(GgmlType::F32)).is_err());
        assert!(undo(Change::Transposed, stored(GgmlType::F32)).is_err());
        assert!(undo(Change::PlusOne, stored(GgmlType::BF16)).is_err());
        let less = undo(Change::PlusOne, stored(GgmlType::F32));
        assert!(less.is_ok_and(|s| s.data[..4] == (-1f32).to_le_bytes()));
    }
}
