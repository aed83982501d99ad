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

use super::{Stored, Weights, file::refuse_lfs_pointer};
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

    /// Gives back the pages that lie wholly inside `start..start + len`; they are read from the file again when touched.
    fn release(&self, start: usize, len: usize) {
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

fn page_size() -> usize {
    // SAFETY: sysconf reads a constant of the system and has no preconditions.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size)
        .ok()
        .filter(|s| *s > 0)
        .unwrap_or(4096)
}

/// What the elements of a tensor are.
pub(super) enum Element {
    /// A type that can be computed with.
    Known(GgmlType),
    /// A dtype this library does not read, by its name in the file.
    Other(String),
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
    /// `Some(heads)` where the file has the two halves of each head's rows interleaved (see [`deinterleave`]).
    pub interleaved: Option<usize>,
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

    fn place(&self) -> String {
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
    fn get(&self, name: &str) -> Result<Stored<'_>> {
        let (entry, file) = self.entry(name)?;
        let bad =
            |what: String| Error::Load(format!("{}: tensor {name} {what}", file.path().display()));
        let dtype = match &entry.element {
            Element::Known(dtype) => *dtype,
            Element::Other(dtype) => {
                return Err(bad(format!(
                    "has dtype {dtype}; only F32, F16 and BF16 can be read from safetensors"
                )));
            }
        };
        let end = entry.start.checked_add(entry.len);
        let data = end
            .and_then(|end| file.bytes().get(entry.start..end))
            .ok_or_else(|| bad("lies outside the file".to_string()))?;
        let data = match entry.interleaved {
            None => Cow::Borrowed(data),
            Some(heads) => Cow::Owned(deinterleave(
                data,
                entry.shape.first().copied().unwrap_or(0),
                heads,
            )),
        };
        Ok(Stored {
            dtype,
            shape: entry.shape.clone(),
            data,
        })
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
}
