//! One weight of a checkpoint: what it is for, the tensors that it consists of, and which of its rows are wanted.
//! A scheme knows the parts of one way to keep weights; nothing else does.
use std::{borrow::Cow, collections::BTreeMap, ops::Range};

use super::Role;
use crate::{Error, Result, weights::Stored};

/// Which rows of a stored matrix make a weight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shard {
    /// All.
    Whole,
    /// These: one of several matrices that stand in one.
    Rows(Range<usize>),
}

/// A weight in its file.
pub struct Source<'a> {
    /// Hugging Face name, without the name of a part.
    pub prefix: String,
    /// What it is for.
    pub role: Role,
    /// The rows that are wanted.
    pub shard: Shard,
    /// Its tensors by the last part of their names: `weight`, or `qweight`, `scales` ...
    pub parts: BTreeMap<&'static str, Stored<'a>>,
}

/// A way to keep weights.
pub struct Scheme {
    /// Names of the parts that it needs; the first marks it.
    pub parts: &'static [&'static str],
    /// What the parts of a source mean together.
    open: for<'a> fn(&Source<'_>, Vec<Stored<'a>>) -> Result<Stored<'a>>,
}

/// All schemes, each with a first part of its own.
pub const SCHEMES: &[Scheme] = &[Scheme {
    parts: &["weight"],
    open: plain,
}];

impl<'a> Source<'a> {
    /// The wanted rows.
    ///
    /// # Errors
    /// `Load` when the parts are those of no scheme, or do not have the rows.
    pub fn open(mut self) -> Result<Stored<'a>> {
        let mark = |s: &&Scheme| s.parts.iter().all(|part| self.parts.contains_key(part));
        let Some(scheme) = SCHEMES.iter().find(mark) else {
            return Err(self.bad("has no weight in a form that can be read"));
        };
        let take = |part: &&'static str| self.parts.remove(part);
        let parts = scheme.parts.iter().filter_map(take).collect();
        (scheme.open)(&self, parts)
    }

    fn bad(&self, what: impl std::fmt::Display) -> Error {
        Error::Load(format!("tensor {} {what}", self.prefix))
    }
}

/// One tensor of dense elements or ggml's blocks.
fn plain<'a>(source: &Source<'_>, parts: Vec<Stored<'a>>) -> Result<Stored<'a>> {
    let Some(stored) = parts.into_iter().next() else {
        return Err(source.bad("has no weight"));
    };
    rows(stored, &source.shard).map_err(|what| source.bad(what))
}

/// The rows of `stored` that `shard` names.
pub(crate) fn rows<'a>(
    stored: Stored<'a>,
    shard: &Shard,
) -> std::result::Result<Stored<'a>, String> {
    let Shard::Rows(wanted) = shard else {
        return Ok(stored);
    };
    let all = stored.shape.first().copied().unwrap_or(0);
    if wanted.start > wanted.end || wanted.end > all {
        return Err(format!("has {all} rows, {wanted:?} are wanted"));
    }
    let bytes = stored.data.len() / all.max(1);
    let part = wanted.start * bytes..wanted.end * bytes;
    let data = match stored.data {
        Cow::Borrowed(data) => Cow::Borrowed(&data[part]),
        Cow::Owned(data) => Cow::Owned(data[part].to_vec()),
    };
    let mut shape = stored.shape;
    if let Some(first) = shape.first_mut() {
        *first = wanted.len();
    }
    Ok(Stored {
        dtype: stored.dtype,
        shape,
        data,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use candle_vllm_kernels::cpu::ggml::GgmlType;

    fn source(part: &'static str, shard: Shard) -> Source<'static> {
        let stored = Stored {
            dtype: GgmlType::Q4_0,
            shape: vec![4, 32],
            data: (0..72).collect::<Vec<u8>>().into(),
        };
        Source {
            prefix: "q_proj".into(),
            role: Role::Query,
            shard,
            parts: [(part, stored)].into(),
        }
    }

    #[test]
    fn rows_of_blocks_are_cut_out() {
        let whole = source("weight", Shard::Whole).open().unwrap();
        assert_eq!((whole.shape, whole.data.len()), (vec![4, 32], 72));
        let some = source("weight", Shard::Rows(1..3)).open().unwrap();
        assert_eq!(some.shape, [2, 32]);
        assert_eq!(some.data[..], (18..54).collect::<Vec<u8>>()[..]);
    }

    #[test]
    fn parts_of_no_scheme_and_rows_that_are_not_there_are_errors() {
        assert!(source("blob", Shard::Whole).open().is_err());
        let error = source("weight", Shard::Rows(3..5)).open().err().unwrap();
        assert!(error.to_string().contains("tensor q_proj has 4 rows"));
    }
}
