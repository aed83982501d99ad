//! A bounds-checked reader over the bytes of a GGUF header. Knows integers, strings and metadata values.
//! Allocates in proportion to bytes that are there, never to a count that a file claims.
use super::Value;
use crate::{Error, Result};

/// Longest array of a header, in elements: hundreds of times the largest vocabulary.
const MAX_ARRAY: u64 = 1 << 26;

/// Longest key or tensor name, in bytes (ggml's own limit for keys).
const MAX_NAME: u64 = 65_535;

/// A position in the file. Errors name the file, the position and what was being read.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    place: &'a str,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8], place: &'a str) -> Self {
        Reader {
            bytes,
            at: 0,
            place,
        }
    }

    /// Bytes read so far.
    pub fn position(&self) -> usize {
        self.at
    }

    /// Bytes left.
    pub fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// An error about this file.
    pub fn error(&self, what: impl std::fmt::Display) -> Error {
        Error::Load(format!("{}: {what}", self.place))
    }

    pub fn take(&mut self, n: usize, what: &str) -> Result<&'a [u8]> {
        let end = self.at.checked_add(n);
        let Some(part) = end.and_then(|end| self.bytes.get(self.at..end)) else {
            return Err(self.error(format_args!(
                "the file ends inside {what} (at byte {} of {})",
                self.at,
                self.bytes.len()
            )));
        };
        self.at += n;
        Ok(part)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N, what)?);
        Ok(out)
    }

    pub fn u32(&mut self, what: &str) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub fn u64(&mut self, what: &str) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A count of things of at least `size` bytes each, which have to fit into the rest of the file.
    pub fn count(&mut self, size: usize, what: &str) -> Result<usize> {
        let n = self.u64(what)?;
        let fits = n
            .checked_mul(size as u64)
            .is_some_and(|bytes| bytes <= self.remaining() as u64);
        match usize::try_from(n) {
            Ok(n) if fits => Ok(n),
            _ => Err(self.error(format_args!(
                "{what} is {n}, more than the file has room for"
            ))),
        }
    }

    fn text_bytes(&mut self, what: &str) -> Result<&'a [u8]> {
        let n = self.count(1, what)?;
        self.take(n, what)
    }

    /// A key or tensor name: short, not empty, UTF-8.
    pub fn name(&mut self, what: &str) -> Result<String> {
        let bytes = self.text_bytes(what)?;
        match std::str::from_utf8(bytes) {
            Ok(name) if !name.is_empty() && bytes.len() as u64 <= MAX_NAME => Ok(name.to_string()),
            Ok("") => Err(self.error(format_args!("{what} is empty"))),
            Ok(_) => Err(self.error(format_args!(
                "{what} has {} bytes, more than {MAX_NAME}",
                bytes.len()
            ))),
            Err(_) => Err(self.error(format_args!(
                "{what} is not UTF-8: {:?}",
                String::from_utf8_lossy(bytes)
            ))),
        }
    }

    /// The value of metadata key `key`: a type code, then the value.
    pub fn value(&mut self, key: &str) -> Result<Value> {
        let code = self.u32(key)?;
        if code == ARRAY {
            self.list(key)
        } else {
            self.scalar(code, key)
        }
    }

    fn scalar(&mut self, code: u32, key: &str) -> Result<Value> {
        Ok(match code {
            U8 => Value::Uint(self.array::<1>(key)?[0].into()),
            I8 => Value::Int(i8::from_le_bytes(self.array(key)?).into()),
            U16 => Value::Uint(u16::from_le_bytes(self.array(key)?).into()),
            I16 => Value::Int(i16::from_le_bytes(self.array(key)?).into()),
            U32 => Value::Uint(self.u32(key)?.into()),
            I32 => Value::Int(i32::from_le_bytes(self.array(key)?).into()),
            U64 => Value::Uint(self.u64(key)?),
            I64 => Value::Int(i64::from_le_bytes(self.array(key)?)),
            F32 => Value::Float(f32::from_le_bytes(self.array(key)?).into()),
            F64 => Value::Float(f64::from_le_bytes(self.array(key)?)),
            BOOL => Value::Bool(self.bool(key)?),
            TEXT => Value::Text(self.lossy_text(key)?),
            other => {
                return Err(self.error(format_args!("{key} has the unknown value type {other}")));
            }
        })
    }

    fn bool(&mut self, key: &str) -> Result<bool> {
        match self.array::<1>(key)? {
            [0] => Ok(false),
            [1] => Ok(true),
            [other] => Err(self.error(format_args!("{key} is {other}, not a bool"))),
        }
    }

    /// Vocabularies hold pieces of characters, so broken UTF-8 is replaced rather than refused.
    fn lossy_text(&mut self, key: &str) -> Result<String> {
        Ok(String::from_utf8_lossy(self.text_bytes(key)?).into_owned())
    }

    fn list(&mut self, key: &str) -> Result<Value> {
        let code = self.u32(key)?;
        let Some(size) = element_bytes(code) else {
            let what = if code == ARRAY {
                "an array of arrays"
            } else {
                "an array of an unknown type"
            };
            return Err(self.error(format_args!(
                "{key} is {what} (type {code}), which cannot be read"
            )));
        };
        let n = self.count(size, key)?;
        if n as u64 > MAX_ARRAY {
            return Err(self.error(format_args!(
                "{key} has {n} elements, more than {MAX_ARRAY}"
            )));
        }
        Ok(match code {
            F32 => Value::Floats(self.each(n, |r| Ok(f32::from_le_bytes(r.array(key)?)))?),
            // Nothing reads such an array at double precision.
            F64 => Value::Floats(self.each(n, |r| Ok(f64::from_le_bytes(r.array(key)?) as f32))?),
            BOOL => Value::Bools(self.each(n, |r| r.bool(key))?),
            TEXT => Value::Texts(self.each(n, |r| r.lossy_text(key))?),
            _ => Value::Ints(self.each(n, |r| r.integer(code, key))?),
        })
    }

    /// `n` has been checked against the bytes that are left.
    fn each<T>(
        &mut self,
        n: usize,
        mut read: impl FnMut(&mut Self) -> Result<T>,
    ) -> Result<Vec<T>> {
        let mut out = Vec::with_capacity(n);
        for _ in 0..n {
            out.push(read(self)?);
        }
        Ok(out)
    }

    fn integer(&mut self, code: u32, key: &str) -> Result<i64> {
        match self.scalar(code, key)? {
            Value::Int(v) => Ok(v),
            Value::Uint(v) => i64::try_from(v)
                .map_err(|_| self.error(format_args!("{key} holds {v}, which is too large"))),
            _ => Err(self.error(format_args!("{key} does not hold integers"))),
        }
    }
}

const U8: u32 = 0;
const I8: u32 = 1;
const U16: u32 = 2;
const I16: u32 = 3;
const U32: u32 = 4;
const I32: u32 = 5;
const F32: u32 = 6;
const BOOL: u32 = 7;
const TEXT: u32 = 8;
const ARRAY: u32 = 9;
const U64: u32 = 10;
const I64: u32 = 11;
const F64: u32 = 12;

/// Fewest bytes an array element of this type takes.
fn element_bytes(code: u32) -> Option<usize> {
    match code {
        U8 | I8 | BOOL => Some(1),
        U16 | I16 => Some(2),
        U32 | I32 | F32 => Some(4),
        U64 | I64 | F64 | TEXT => Some(8),
        _ => None,
    }
}
