//! Typed access to a JSON object of settings; every error names the place, the key and the value.
//! Knows nothing of which keys there are.
use serde_json::{Map, Value};

use crate::{Error, Result};

/// The keys of one object. A key that is null counts as absent.
pub(super) struct Fields<'a> {
    place: &'a str,
    map: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    pub fn new(place: &'a str, map: &'a Map<String, Value>) -> Self {
        Fields { place, map }
    }

    /// Where these keys stand, for messages.
    pub fn place(&self) -> &'a str {
        self.place
    }

    /// All keys.
    pub fn map(&self) -> &'a Map<String, Value> {
        self.map
    }

    /// An error about `key`.
    pub fn bad(&self, key: &str, problem: impl std::fmt::Display) -> Error {
        match self.map.get(key) {
            Some(value) => Error::Load(format!(
                "{}: {key} is {}: {problem}",
                self.place,
                brief(value)
            )),
            None => Error::Load(format!("{}: {key} {problem}", self.place)),
        }
    }

    /// Whether `key` stands there, be it as null.
    pub fn mentions(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    /// `key` as an integer of `1..=max`.
    pub fn count(&self, key: &str, max: usize) -> Result<Option<usize>> {
        self.get(key)
            .map(|value| self.as_count(key, value, max))
            .transpose()
    }

    /// `key` as an integer of `0..=max`.
    pub fn size(&self, key: &str, max: usize) -> Result<Option<usize>> {
        match self.get(key).map(Value::as_f64) {
            Some(Some(0.0)) => Ok(Some(0)),
            _ => self.count(key, max),
        }
    }

    /// `value`, which stands under `key`, as an integer of `1..=max`.
    pub fn as_count(&self, key: &str, value: &Value, max: usize) -> Result<usize> {
        let n = value.as_u64().or_else(|| whole(value.as_f64()?));
        let n = n
            .and_then(|n| usize::try_from(n).ok())
            .filter(|n| (1..=max).contains(n));
        n.ok_or_else(|| self.bad(key, format_args!("expected an integer from 1 to {max}")))
    }

    /// `key` as a finite number greater than zero.
    pub fn positive(&self, key: &str) -> Result<Option<f64>> {
        self.number(key)?
            .map(|n| {
                if n > 0.0 {
                    Ok(n)
                } else {
                    Err(self.bad(key, "expected a number above 0"))
                }
            })
            .transpose()
    }

    /// `key` as a finite number.
    pub fn number(&self, key: &str) -> Result<Option<f64>> {
        let number = |value: &Value| value.as_f64().filter(|n| n.is_finite());
        self.get(key)
            .map(|v| number(v).ok_or_else(|| self.bad(key, "expected a finite number")))
            .transpose()
    }

    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.get(key)
            .map(|v| {
                v.as_bool()
                    .ok_or_else(|| self.bad(key, "expected true or false"))
            })
            .transpose()
    }

    pub fn text(&self, key: &str) -> Result<Option<&'a str>> {
        self.get(key)
            .map(|v| v.as_str().ok_or_else(|| self.bad(key, "expected text")))
            .transpose()
    }

    pub fn object(&self, key: &str) -> Result<Option<&'a Map<String, Value>>> {
        self.get(key)
            .map(|v| {
                v.as_object()
                    .ok_or_else(|| self.bad(key, "expected an object"))
            })
            .transpose()
    }

    /// The value of a key that has to be there.
    pub fn need<T>(&self, key: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| self.bad(key, "is missing"))
    }
}

/// `4096.0` for 4096: some writers have only one kind of number.
fn whole(n: f64) -> Option<u64> {
    (n.fract() == 0.0 && (0.0..9e15).contains(&n)).then_some(n as u64)
}

fn brief(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}
