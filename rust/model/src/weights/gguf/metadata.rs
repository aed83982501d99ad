//! The metadata of a GGUF file and typed access to it.
use std::collections::BTreeMap;

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Any unsigned integer or bool-free integer that fits.
    Uint(u64),
    /// Signed integer.
    Int(i64),
    /// f32 or f64.
    Float(f64),
    /// bool.
    Bool(bool),
    /// UTF-8 text.
    Text(String),
    /// Integers, unsigned or signed.
    Ints(Vec<i64>),
    /// Floats.
    Floats(Vec<f32>),
    /// Booleans.
    Bools(Vec<bool>),
    /// Strings (vocabularies, merges). Invalid UTF-8 is replaced.
    Texts(Vec<String>),
}

/// All key-value pairs of the header.
#[derive(Debug, Clone, Default)]
pub struct Metadata(pub BTreeMap<String, Value>);

impl Metadata {
    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }
    /// `key` as text.
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.get(key) {
            Some(Value::Text(s)) => Some(s),
            _ => None,
        }
    }
    /// `key` as a non-negative integer.
    pub fn uint(&self, key: &str) -> Option<u64> {
        match self.get(key) {
            Some(Value::Uint(v)) => Some(*v),
            Some(Value::Int(v)) => u64::try_from(*v).ok(),
            _ => None,
        }
    }
    /// `key` as a bool.
    pub fn bool(&self, key: &str) -> Option<bool> {
        match self.get(key) {
            Some(Value::Bool(v)) => Some(*v),
            _ => None,
        }
    }
    /// `key` as strings.
    pub fn texts(&self, key: &str) -> Option<&[String]> {
        match self.get(key) {
            Some(Value::Texts(v)) => Some(v),
            _ => None,
        }
    }
}
