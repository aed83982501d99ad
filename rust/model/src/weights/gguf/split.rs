//! Models split over several GGUF files, `NAME-00001-of-00003.gguf` and so on, as llama.cpp's gguf-split makes them.
//! Knows file names and the split.* keys; nothing of tensors' meaning.
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use super::{Header, header};
use crate::{Error, Result, weights::mapped::MappedFile};

/// A file name of a split set. `part` counts from 1.
struct PartName {
    stem: String,
    part: u32,
    parts: u32,
}

/// `STEM-PPPPP-of-NNNNN.gguf`.
fn part_name(path: &Path) -> Option<PartName> {
    let name = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
    let (rest, parts) = name.rsplit_once("-of-")?;
    let (stem, part) = rest.rsplit_once('-')?;
    let number = |s: &str| {
        s.parse()
            .ok()
            .filter(|n: &u32| *n > 0 && format!("{n:05}") == s)
    };
    let (part, parts) = (number(part)?, number(parts)?);
    (part <= parts).then(|| PartName {
        stem: stem.to_string(),
        part,
        parts,
    })
}

/// Opens all files of the model that `path` belongs to, first part first.
pub(super) fn open_parts(path: &Path) -> Result<(Vec<MappedFile>, Vec<Header>)> {
    let (file, header) = open(path)?;
    let place = path.display().to_string();
    let count = split_number(&place, &header, "split.count")?.unwrap_or(0);
    let named = part_name(path);
    if count <= 1 {
        return match named {
            Some(name) if name.parts > 1 => Err(disagree(
                &place,
                "named as one of several parts, but split.count is not",
            )),
            _ => Ok((vec![file], vec![header])),
        };
    }
    let Some(name) = named.filter(|n| u64::from(n.parts) == count) else {
        let what = format!(
            "split.count is {count}, but the name is not NAME-00001-of-{count:05}.gguf or the like"
        );
        return Err(disagree(&place, what));
    };
    let (mut files, mut headers, mut total) = (Vec::new(), Vec::new(), 0);
    let mut opened = Some((file, header));
    for part in 1..=name.parts {
        let other =
            path.with_file_name(format!("{}-{part:05}-of-{:05}.gguf", name.stem, name.parts));
        let own = if part == name.part {
            opened.take()
        } else {
            None
        };
        let (file, header) = match own {
            Some(own) => own,
            None if !other.exists() => {
                return Err(disagree(
                    &place,
                    format!("the part {} is missing", other.display()),
                ));
            }
            None => open(&other)?,
        };
        let place = other.display().to_string();
        check_part(&place, &header, u64::from(part) - 1, count)?;
        total += header.tensors.len() as u64;
        files.push(file);
        headers.push(header);
    }
    each_once(&place, &headers)?;
    let first = headers
        .first()
        .map(|h| split_number(&place, h, "split.tensors.count"))
        .transpose()?
        .flatten();
    match first {
        Some(n) if n != total => Err(disagree(
            &place,
            format!("split.tensors.count is {n}, the parts hold {total}"),
        )),
        _ => Ok((files, headers)),
    }
}

/// No tensor stands in two of the parts.
fn each_once(place: &str, headers: &[Header]) -> Result<()> {
    let mut names = BTreeSet::new();
    let mut all = headers.iter().flat_map(|h| &h.tensors);
    match all.find(|tensor| !names.insert(&tensor.name)) {
        Some(tensor) => Err(disagree(
            place,
            format!("tensor {} stands in two of the files", tensor.name),
        )),
        None => Ok(()),
    }
}

fn check_part(place: &str, header: &Header, number: u64, count: u64) -> Result<()> {
    for (key, expected) in [("split.no", number), ("split.count", count)] {
        let found = split_number(place, header, key)?;
        if found != Some(expected) {
            let found = found.map_or("missing".to_string(), |n| n.to_string());
            return Err(disagree(
                place,
                format!("{key} is {found}, expected {expected}"),
            ));
        }
    }
    Ok(())
}

fn split_number(place: &str, header: &Header, key: &str) -> Result<Option<u64>> {
    match (header.metadata.get(key), header.metadata.uint(key)) {
        (None, _) => Ok(None),
        (_, Some(n)) => Ok(Some(n)),
        (Some(other), None) => Err(disagree(place, format!("{key} is {other:?}, not a count"))),
    }
}

fn open(path: &Path) -> Result<(MappedFile, Header)> {
    let file = MappedFile::open(path)?;
    let header = header::parse(file.bytes(), &path.display().to_string())?;
    Ok((file, header))
}

/// The one model among a folder's GGUF files: a single file, or the first part of a single split set.
pub(in crate::weights) fn only_model<'a>(folder: &Path, files: &[&'a PathBuf]) -> Result<&'a Path> {
    let mut models: Vec<&'a Path> = Vec::new();
    for file in files {
        let again = part_name(file).is_some_and(|n| {
            models
                .iter()
                .any(|m| part_name(m).is_some_and(|o| o.stem == n.stem && o.parts == n.parts))
        });
        if !again {
            models.push(file);
        }
    }
    match models.as_slice() {
        [only] => Ok(only),
        _ => {
            let names: Vec<_> = models
                .iter()
                .filter_map(|m| m.file_name())
                .map(|n| n.to_string_lossy())
                .collect();
            let what = format!(
                "{} holds {} GGUF models, give one: {}",
                folder.display(),
                names.len(),
                names.join(", ")
            );
            Err(Error::Load(what))
        }
    }
}

fn disagree(place: &str, what: impl std::fmt::Display) -> Error {
    Error::Load(format!("{place}: {what}"))
}
