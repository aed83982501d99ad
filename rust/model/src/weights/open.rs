//! Finds out what a path holds and opens it. Pickles are refused and nothing in a folder is ever run.
use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use super::{Checkpoint, TokenizerSource, door, gguf, mapped::MappedWeights, safetensors};
use crate::{Error, Result, config};

/// File endings that hold, or may hold, Python pickles: loading one can run code.
const PICKLES: [&str; 6] = ["bin", "pt", "pth", "ckpt", "pkl", "pickle"];

impl Checkpoint {
    /// Opens a checkpoint: a folder with config.json and safetensors, a folder with one GGUF model, or a `.gguf` file
    /// (of a split model, any of its files).
    ///
    /// Everything is checked against the files' sizes before use; weights stay on disk until they are asked for.
    ///
    /// # Errors
    /// `Io` when a file cannot be read; `Load` naming the file and the tensor, key or value that is wrong.
    pub fn open(path: &Path) -> Result<Checkpoint> {
        let meta = fs::metadata(path).map_err(|source| Error::Io {
            path: path.to_path_buf(),
            source,
        })?;
        if meta.is_dir() {
            open_folder(path)
        } else {
            open_file(path)
        }
    }
}

/// The GGUF file that `path` is, or that is the folder's one model; `None` where it is something else.
///
/// # Errors
/// `Io` when it cannot be read, `Load` for several models in one folder.
pub fn gguf_at(path: &Path) -> Result<Option<PathBuf>> {
    let meta = fs::metadata(path).map_err(|source| Error::Io {
        path: path.to_path_buf(),
        source,
    })?;
    if !meta.is_dir() {
        let is = has_ending(path, "gguf") || starts_as_gguf(path)?;
        return Ok(is.then(|| path.to_path_buf()));
    }
    let files = list(path)?;
    let of_kind = |ending: &str| -> Vec<&PathBuf> {
        files.iter().filter(|f| has_ending(f, ending)).collect()
    };
    let ggufs = of_kind("gguf");
    if !of_kind("safetensors").is_empty() || ggufs.is_empty() {
        return Ok(None);
    }
    Ok(Some(gguf::only_model(path, &ggufs)?.to_path_buf()))
}

fn open_file(path: &Path) -> Result<Checkpoint> {
    let place = path.display();
    if is_pickle(path) {
        return Err(Error::Load(format!(
            "{place} is a pickle, which can run code when loaded; use safetensors or GGUF"
        )));
    }
    if has_ending(path, "safetensors") {
        return Err(Error::Load(format!(
            "{place} has no configuration; give the folder that holds it and config.json"
        )));
    }
    if has_ending(path, "gguf") || starts_as_gguf(path)? {
        return gguf::open(path);
    }
    Err(Error::Load(format!(
        "{place} is neither a folder nor a GGUF file"
    )))
}

fn open_folder(folder: &Path) -> Result<Checkpoint> {
    let place = folder.display();
    let files = list(folder)?;
    let of_kind = |ending: &str| -> Vec<&PathBuf> {
        files.iter().filter(|f| has_ending(f, ending)).collect()
    };
    let tensors = of_kind("safetensors");
    if folder.join(safetensors::INDEX).exists() || !tensors.is_empty() {
        return open_safetensors(folder, &tensors);
    }
    let ggufs = of_kind("gguf");
    if !ggufs.is_empty() {
        return gguf::open(gguf::only_model(folder, &ggufs)?);
    }
    if let Some(pickle) = files.iter().find(|f| is_pickle(f)) {
        return Err(Error::Load(format!(
            "{place} holds only pickles ({}), which can run code when loaded; use safetensors or GGUF",
            pickle.file_name().unwrap_or_default().to_string_lossy()
        )));
    }
    Err(Error::Load(format!(
        "{place} holds no model: neither *.safetensors nor *.gguf"
    )))
}

fn open_safetensors(folder: &Path, files: &[&PathBuf]) -> Result<Checkpoint> {
    let place = folder.display();
    let single = folder.join("model.safetensors");
    if !folder.join("config.json").exists() {
        return Err(Error::Load(format!("{place} has no config.json")));
    }
    // The configuration is read first: it is small and says more about what is wrong.
    let config = config::hf::read(folder)?;
    let mut weights: MappedWeights = if single.exists() {
        safetensors::open_single(&single)?
    } else if folder.join(safetensors::INDEX).exists() {
        safetensors::open_sharded(folder)?
    } else if let [only] = files {
        safetensors::open_single(only)?
    } else {
        let what = format!(
            "{place} has {} safetensors files and no {}",
            files.len(),
            safetensors::INDEX
        );
        return Err(Error::Load(what));
    };
    door::text_model(&mut weights, &config)?;
    Ok(Checkpoint {
        config,
        file_bytes: weights.file_bytes(),
        weights: Box::new(weights),
        tokenizer: TokenizerSource::Folder(folder.to_path_buf()),
    })
}

/// Files and folders in `folder`, sorted, so that messages and choices do not depend on the file system.
fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let io = |source| Error::Io {
        path: folder.to_path_buf(),
        source,
    };
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(io)? {
        files.push(entry.map_err(io)?.path());
    }
    files.sort();
    Ok(files)
}

fn starts_as_gguf(path: &Path) -> Result<bool> {
    let io = |source| Error::Io {
        path: path.to_path_buf(),
        source,
    };
    if !fs::metadata(path).map_err(io)?.is_file() {
        return Ok(false);
    }
    let mut start = Vec::with_capacity(4);
    fs::File::open(path)
        .map_err(io)?
        .take(4)
        .read_to_end(&mut start)
        .map_err(io)?;
    Ok(start == gguf::MAGIC)
}

fn has_ending(path: &Path, ending: &str) -> bool {
    path.extension()
        .is_some_and(|e| e.eq_ignore_ascii_case(ending))
}

fn is_pickle(path: &Path) -> bool {
    PICKLES.iter().any(|ending| has_ending(path, ending))
}
