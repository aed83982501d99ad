//! One weight of a checkpoint: what it is for, the tensors that it consists of, and which of its rows are wanted.
//! A scheme knows the parts of one way to keep weights; nothing else does.
use std::{borrow::Cow, collections::BTreeMap, ops::Range};

use super::{Described, Quantization, Role, described::Cut};
use crate::{
    Error, Result,
    weights::{Part, Stored},
};

/// Which rows of a stored matrix make a weight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shard {
    /// All.
    Whole,
    /// These: one of several matrices that stand in one.
    Rows(Range<usize>),
}

/// The tensors of a weight by the last part of their names: `weight`, or `qweight`, `scales` ...
pub type Parts<'a> = BTreeMap<&'static str, Part<'a>>;

/// A weight in its file.
pub struct Source<'a> {
    /// Hugging Face name, without the name of a part.
    pub prefix: String,
    /// What it is for.
    pub role: Role,
    /// The rows that are wanted.
    pub shard: Shard,
    /// Its tensors.
    pub parts: Parts<'a>,
    /// What config.json says of quantised weights.
    pub quantization: Option<&'a Quantization>,
}

/// A way to keep weights.
pub struct Scheme {
    /// Methods of config.json that mean it; a scheme without is there with any method and none.
    pub methods: &'static [&'static str],
    /// Names of the parts that it needs.
    pub needs: &'static [&'static str],
    /// Names of the parts that may stand beside them.
    pub may: &'static [&'static str],
    /// Refuses settings that it cannot honour.
    pub check: fn(&Quantization) -> std::result::Result<(), String>,
    /// What the parts mean together.
    pub open: Open,
}

/// Describes the matrix that parts make.
pub type Open =
    for<'a> fn(Parts<'a>, Option<&Quantization>) -> std::result::Result<Described<'a>, String>;

/// All schemes; the first that has its parts is taken, so those with more parts stand first.
pub const SCHEMES: &[Scheme] = &[
    super::gptq::SCHEME,
    super::awq::SCHEME,
    super::compressed::SCHEME,
    super::bitsandbytes::SCHEME,
    super::scaled::SCHEME,
    super::scaled::INVERSE,
    super::mxfp4::SCHEME,
    Scheme {
        methods: &[],
        needs: &["weight"],
        may: &[],
        check: |_| Ok(()),
        open: plain,
    },
];

impl<'a> Source<'a> {
    /// The wanted rows.
    ///
    /// # Errors
    /// `Load` when the parts are those of no scheme, do not fit together, or do not have the rows.
    pub fn open(mut self) -> Result<Described<'a>> {
        let method = self.quantization.map(|q| &*q.method);
        let meant = |s: &&Scheme| match method {
            Some(method) => s.methods.contains(&method),
            None => false,
        };
        let there = |s: &&Scheme| s.needs.iter().all(|part| self.parts.contains_key(part));
        let plain = |s: &&Scheme| s.methods.is_empty();
        let Some(scheme) = SCHEMES.iter().filter(there).find(|s| plain(s) || meant(s)) else {
            let parts: Vec<&str> = self.parts.keys().copied().collect();
            return Err(self.bad(format_args!(
                "has the parts {}, which are no weight of the method {}",
                parts.join(", "),
                method.unwrap_or("that config.json does not name")
            )));
        };
        if !scheme.methods.is_empty() {
            // Some writers leave an empty list of groups where there is nothing to say.
            self.parts
                .retain(|part, tensor| !tensor.data.is_empty() || scheme.needs.contains(part));
            if let Some((part, _)) = self.parts.iter().find(|(_, t)| t.data.is_empty()) {
                return Err(self.bad(format_args!("has an empty {part}")));
            }
        }
        let bad = |what: String| Error::Load(format!("tensor {} {what}", self.prefix));
        let all = (scheme.open)(self.parts, self.quantization).map_err(bad)?;
        cut(all, self.shard).map_err(bad)
    }

    fn bad(&self, what: impl std::fmt::Display) -> Error {
        Error::Load(format!("tensor {} {what}", self.prefix))
    }
}

/// One tensor of dense elements or ggml's blocks.
fn plain<'a>(
    mut parts: Parts<'a>,
    _: Option<&Quantization>,
) -> std::result::Result<Described<'a>, String> {
    let weight = parts.remove("weight").ok_or("has no weight")?;
    Ok(Described::Stored(weight.stored()?))
}

/// The rows of `all` that `shard` names.
fn cut<'a>(all: Described<'a>, shard: Shard) -> std::result::Result<Described<'a>, String> {
    Ok(match (all, shard) {
        (Described::Stored(stored), shard) => Described::Stored(rows(stored, &shard)?),
        (all, Shard::Whole) => all,
        (Described::Made(all), Shard::Rows(rows)) => {
            within(&rows, all.shape()[0])?;
            Described::Made(Box::new(Cut { all, rows }))
        }
    })
}

fn within(wanted: &Range<usize>, all: usize) -> std::result::Result<(), String> {
    if wanted.start > wanted.end || wanted.end > all {
        return Err(format!("has {all} rows, {wanted:?} are wanted"));
    }
    Ok(())
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
    within(wanted, all)?;
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
    #![allow(clippy::unwrap_used, clippy::panic)]
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
            parts: [(part, stored.into())].into(),
            quantization: None,
        }
    }

    fn opened(shard: Shard) -> Stored<'static> {
        match source("weight", shard).open().unwrap() {
            Described::Stored(stored) => stored,
            Described::Made(_) => panic!("a plain weight is stored"),
        }
    }

    #[test]
    fn rows_of_blocks_are_cut_out() {
        let whole = opened(Shard::Whole);
        assert_eq!((whole.shape, whole.data.len()), (vec![4, 32], 72));
        let some = opened(Shard::Rows(1..3));
        assert_eq!(some.shape, [2, 32]);
        assert_eq!(some.data[..], (18..54).collect::<Vec<u8>>()[..]);
    }

    #[test]
    fn parts_of_no_scheme_and_rows_that_are_not_there_are_errors() {
        let error = source("qweight", Shard::Whole).open().err().unwrap();
        assert!(
            error.to_string().contains("has the parts qweight"),
            "{error}"
        );
        let error = source("weight", Shard::Rows(3..5)).open().err().unwrap();
        assert!(error.to_string().contains("tensor q_proj has 4 rows"));
    }
}
