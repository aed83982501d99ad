//! Reading the small JSON files of a checkpoint folder, and telling files from what stands in for them.
use std::path::Path;

use serde_json::Value;

use crate::{Error, Result};

/// Configuration and index files are kilobytes; a larger one is refused before it is read.
const MAX_JSON: u64 = 64 << 20;

/// How the text begins that Git leaves in place of a large file that it did not fetch.
const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// Refuses a Git LFS pointer that stands where the content of `path` should.
///
/// # Errors
/// `Load` that says so, and what to do.
pub fn refuse_lfs_pointer(path: &Path, content: &[u8]) -> Result<()> {
    if !content.starts_with(LFS_POINTER) {
        return Ok(());
    }
    Err(Error::Load(format!(
        "{} is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`, or give the model's id instead",
        path.display()
    )))
}

/// The JSON value in `path`.
pub(crate) fn read_json(path: &Path) -> Result<Value> {
    let io = |source| Error::Io {
        path: path.to_path_buf(),
        source,
    };
    let meta = std::fs::metadata(path).map_err(io)?;
    if !meta.is_file() {
        return Err(Error::Load(format!(
            "{} is not a regular file",
            path.display()
        )));
    }
    if meta.len() > MAX_JSON {
        return Err(Error::Load(format!(
            "{} has {} bytes, more than any such file",
            path.display(),
            meta.len()
        )));
    }
    let bytes = std::fs::read(path).map_err(io)?;
    refuse_lfs_pointer(path, &bytes)?;
    serde_json::from_slice(&bytes)
        .map_err(|e| Error::Load(format!("{} is not valid JSON: {e}", path.display())))
}

/// The JSON value in `path`, or `None` where there is no such file.
pub(crate) fn read_json_if_there(path: &Path) -> Result<Option<Value>> {
    if path.exists() {
        read_json(path).map(Some)
    } else {
        Ok(None)
    }
}
