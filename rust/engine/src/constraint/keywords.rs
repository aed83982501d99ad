//! Which keywords of a JSON schema are held, and where one stands that is not. What passes here is either enforced to the
//! letter by the grammar or an annotation; nothing is overlooked silently. Knows nothing of grammars.
use std::collections::HashSet;

use serde_json::{Map, Value};

use super::regex;
use crate::error::Refused;

/// Schemas within schemas at most.
const MAX_DEPTH: usize = 64;
/// Items, properties or characters that may be counted.
const MAX_COUNT: u64 = 10_000;

/// Keywords that only describe.
const ANNOTATIONS: &[&str] = &[
    "$comment",
    "title",
    "description",
    "default",
    "deprecated",
    "readOnly",
    "writeOnly",
    "example",
    "examples",
    "contentMediaType",
    "contentEncoding",
    "contentSchema",
    "discriminator",
    "externalDocs",
    "xml",
];

/// Formats that are held.
pub(super) const FORMATS: &[&str] = &[
    "date-time",
    "time",
    "date",
    "duration",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "uuid",
    "uri",
];

/// What an expression or value must be.
const UNWRITABLE: &str = "without control characters that JSON writes as \\u00NN only";

/// Whether JSON writes a character as `\u00NN` only, which no answer does.
pub(super) fn is_unwritable(c: char) -> bool {
    c.is_ascii_control() && !matches!(c, '\n' | '\r' | '\t' | '\u{8}' | '\u{c}')
}

/// A walk over one schema.
#[derive(Default)]
struct Walk {
    /// Places of schemas, as JSON pointers.
    schemas: HashSet<String>,
    /// References: where they stand, and where to.
    references: Vec<(String, String)>,
    /// Whether `$schema` names a draft before 2020-12, whose `items` may be a list.
    old: bool,
}

/// Refuses what would not be held, naming keyword and place.
pub(super) fn check(schema: &Value) -> Result<(), Refused> {
    let mut walk = Walk::default();
    if let Some(draft) = schema.get("$schema") {
        walk.old = is_old(draft)?;
    }
    walk.schema(schema, "", 0)?;
    for (at, to) in &walk.references {
        if !walk.schemas.contains(to) {
            let expected =
                "a JSON pointer to a schema of the same document, `#` or `#/...`, without ~ and %";
            return Err(refuse("$ref", at, format!("#{to}"), expected));
        }
    }
    Ok(())
}

/// Places of schemas that have one of `keywords`, in order.
pub(super) fn places(schema: &Value, keywords: &[&str]) -> Vec<String> {
    let mut walk = Walk::default();
    // A schema that was checked walks to its end.
    let _ = walk.schema(schema, "", 0);
    let has = |place: &String| {
        let at = schema.pointer(place);
        at.is_some_and(|at| keywords.iter().any(|keyword| at.get(*keyword).is_some()))
    };
    let mut places: Vec<String> = walk.schemas.into_iter().filter(has).collect();
    places.sort_unstable();
    places
}

fn is_old(draft: &Value) -> Result<bool, Refused> {
    match draft.as_str().map(|draft| draft.trim_end_matches('#')) {
        Some("https://json-schema.org/draft/2020-12/schema") => Ok(false),
        Some(
            "https://json-schema.org/draft/2019-09/schema"
            | "http://json-schema.org/draft-07/schema"
            | "http://json-schema.org/draft-06/schema",
        ) => Ok(true),
        _ => {
            let expected = "draft 2020-12, 2019-09, 07 or 06";
            Err(refuse("$schema", "", draft.to_string(), expected))
        }
    }
}

/// A keyword of the schema at a pointer, with its value and what is taken in its place.
pub(super) fn refuse(keyword: &str, at: &str, value: impl Into<String>, expected: &str) -> Refused {
    let mut value = value.into();
    if let Some((cut, _)) = value.char_indices().nth(200) {
        value.truncate(cut);
        value.push_str("...");
    }
    let place = if at.is_empty() {
        "#".to_owned()
    } else {
        format!("#{at}")
    };
    Refused::new(
        "json_schema",
        format!("`{keyword}` at {place}: {value}"),
        format!("with {keyword} {expected}"),
    )
}

impl Walk {
    fn schema(&mut self, schema: &Value, at: &str, depth: usize) -> Result<(), Refused> {
        self.schemas.insert(at.to_owned());
        if depth > MAX_DEPTH {
            let value = format!("deeper than {MAX_DEPTH}");
            return Err(refuse("schema", at, value, "nested less deeply"));
        }
        let map = match schema {
            Value::Bool(_) => return Ok(()),
            Value::Object(map) => map,
            other => {
                let expected = "that is an object, true or false";
                return Err(refuse("schema", at, other.to_string(), expected));
            }
        };
        for (keyword, value) in map {
            self.keyword(keyword, value, at, depth)?;
        }
        properties_are_counted(map, at)
    }

    fn keyword(
        &mut self,
        keyword: &str,
        value: &Value,
        at: &str,
        depth: usize,
    ) -> Result<(), Refused> {
        let below = format!("{at}/{keyword}");
        let wrong = |expected| Err(refuse(keyword, at, value.to_string(), expected));
        match keyword {
            "properties" | "patternProperties" | "$defs" | "definitions" => {
                let Value::Object(map) = value else {
                    return wrong("an object of schemas");
                };
                let patterns = keyword == "patternProperties";
                if patterns && map.keys().any(|name| regex::writes_unwritable(name)) {
                    return wrong(UNWRITABLE);
                }
                for (name, schema) in map {
                    self.schema(schema, &format!("{below}/{name}"), depth + 1)?;
                }
                Ok(())
            }
            "items" if self.old && value.is_array() => self.list(value, &below, depth),
            "prefixItems" if !self.old => self.list(value, &below, depth),
            "allOf" | "anyOf" | "oneOf" => self.list(value, &below, depth),
            "items" if value.is_array() => {
                wrong("a schema: a list is `prefixItems` in draft 2020-12")
            }
            "additionalItems" if !self.old => wrong("left out: it means nothing in draft 2020-12"),
            "items" | "additionalProperties" | "additionalItems" => {
                self.schema(value, &below, depth + 1)
            }
            "$ref" => self.reference(value, at),
            "$schema" | "$id" | "id" if at.is_empty() => Ok(()),
            "const" => exact(keyword, value, at),
            "enum" => match value {
                Value::Array(values) if !values.is_empty() => exact(keyword, value, at),
                _ => wrong("a list of at least one value"),
            },
            "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" => match value {
                Value::Number(_) => exact(keyword, value, at),
                _ => wrong("a number"),
            },
            "multipleOf" => match value.as_f64() {
                Some(x) if x > 0.0 => exact(keyword, value, at),
                _ => wrong("a number above 0"),
            },
            "minItems" | "maxItems" | "minLength" | "maxLength" | "minProperties"
            | "maxProperties" => match value.as_u64() {
                Some(count) if count <= MAX_COUNT => Ok(()),
                _ => wrong("from 0 to 10000"),
            },
            "format" => match value.as_str() {
                Some(format) if FORMATS.contains(&format) => Ok(()),
                _ => wrong(&format!("one of {}", FORMATS.join(", "))),
            },
            "pattern" => match value.as_str() {
                Some(expression) if regex::writes_unwritable(expression) => wrong(UNWRITABLE),
                _ => Ok(()),
            },
            "type" | "required" => Ok(()),
            // OpenAPI 3.0 writes it everywhere; only `true` means something.
            "nullable" if value == &Value::Bool(false) => Ok(()),
            _ if ANNOTATIONS.contains(&keyword) => Ok(()),
            _ if keyword.starts_with("x-") && keyword != "x-guidance" => Ok(()),
            _ => wrong("left out: it is not enforced"),
        }
    }

    fn list(&mut self, value: &Value, below: &str, depth: usize) -> Result<(), Refused> {
        match value {
            Value::Array(schemas) if !schemas.is_empty() => {
                let mut schemas = schemas.iter().enumerate();
                schemas.try_for_each(|(i, s)| self.schema(s, &format!("{below}/{i}"), depth + 1))
            }
            _ => {
                let (at, keyword) = below.rsplit_once('/').unwrap_or(("", below));
                let expected = "a list of at least one schema";
                Err(refuse(keyword, at, value.to_string(), expected))
            }
        }
    }

    fn reference(&mut self, value: &Value, at: &str) -> Result<(), Refused> {
        let to = value.as_str().and_then(|to| to.strip_prefix('#'));
        match to {
            Some(to) if (to.is_empty() || to.starts_with('/')) && !to.contains(['~', '%']) => {
                self.references.push((at.to_owned(), to.to_owned()));
                Ok(())
            }
            _ => {
                let expected =
                    "a JSON pointer into the same document, `#` or `#/...`, without ~ and %";
                Err(refuse("$ref", at, value.to_string(), expected))
            }
        }
    }
}

/// Numbers are compared as 64-bit floats: refuses those that may not be what they were written as, and texts that no
/// answer can write.
fn exact(keyword: &str, value: &Value, at: &str) -> Result<(), Refused> {
    match value {
        // Beyond 2^53 neighbours of a whole number are the same float, and one that was too large is read as its neighbour.
        Value::Number(number) => match number.as_f64() {
            Some(x) if x.abs() < (1u64 << 53) as f64 => Ok(()),
            _ => {
                let expected = "made of numbers between -2^53 and 2^53";
                Err(refuse(keyword, at, number.to_string(), expected))
            }
        },
        Value::String(text) if text.chars().any(is_unwritable) => {
            Err(refuse(keyword, at, value.to_string(), UNWRITABLE))
        }
        Value::Array(values) => values.iter().try_for_each(|v| exact(keyword, v, at)),
        Value::Object(map) => map.values().try_for_each(|v| exact(keyword, v, at)),
        _ => Ok(()),
    }
}

/// One optional property more than the required ones can be counted; of several, two might have the same name, and a
/// reader would keep one.
fn properties_are_counted(map: &Map<String, Value>, at: &str) -> Result<(), Refused> {
    let least = map
        .get("minProperties")
        .and_then(Value::as_u64)
        .unwrap_or(0);
    let required = map.get("required").and_then(Value::as_array);
    let names: HashSet<&str> = required
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    match least <= names.len() as u64 + 1 {
        true => Ok(()),
        false => {
            let expected = format!(
                "at most {}, one more than `required` names",
                names.len() + 1
            );
            Err(refuse("minProperties", at, least.to_string(), &expected))
        }
    }
}
