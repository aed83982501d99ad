//! The JSON Schema Test Suite, draft 2020-12, where `CANDLE_VLLM_JSON_SCHEMA_SUITE` names its folder: no invalid instance is
//! ever an answer, and valid ones are, up to what is listed here.
use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::support::{tiny, with_forms, write};
use crate::constraint::{Form, StructuredOutput};

/// The value with its objects' properties in other orders: a schema's grammar fixes one, JSON none.
fn orders(value: &Value) -> Vec<Value> {
    const MOST: usize = 120;
    let product = |parts: Vec<Vec<Value>>| {
        let mut all: Vec<Vec<Value>> = vec![vec![]];
        for part in parts {
            let longer = |head: &Vec<Value>| -> Vec<Vec<Value>> {
                part.iter()
                    .map(|last| [head.as_slice(), std::slice::from_ref(last)].concat())
                    .collect()
            };
            all = all.iter().flat_map(longer).take(MOST).collect();
        }
        all
    };
    match value {
        Value::Array(items) => product(items.iter().map(orders).collect())
            .into_iter()
            .map(Value::Array)
            .collect(),
        Value::Object(map) => {
            let names: Vec<&String> = map.keys().collect();
            let mut all = Vec::new();
            for values in product(map.values().map(orders).collect()) {
                for order in permutations(names.len()) {
                    let pairs = order.iter().map(|&i| (names[i].clone(), values[i].clone()));
                    all.push(Value::Object(pairs.collect()));
                    if all.len() >= MOST {
                        return all;
                    }
                }
            }
            all
        }
        other => vec![other.clone()],
    }
}

fn permutations(count: usize) -> Vec<Vec<usize>> {
    let mut all = vec![vec![]];
    for next in 0..count {
        let with = |order: &Vec<usize>| -> Vec<Vec<usize>> {
            (0..=order.len())
                .map(|at| {
                    let mut order = order.clone();
                    order.insert(at, next);
                    order
                })
                .collect()
        };
        all = all.iter().flat_map(with).take(120).collect();
    }
    all
}

/// As Python's `json.dumps` writes it.
fn written(value: &Value) -> String {
    let join = |parts: Vec<String>| parts.join(", ");
    match value {
        Value::Array(items) => format!("[{}]", join(items.iter().map(written).collect())),
        Value::Object(map) => {
            let pair = |(name, value): (&String, &Value)| {
                format!("{}: {}", Value::from(name.as_str()), written(value))
            };
            format!("{{{}}}", join(map.iter().map(pair).collect()))
        }
        other => other.to_string(),
    }
}

#[test]
fn no_invalid_instance_of_the_suite_is_an_answer() {
    let Some(folder) = std::env::var_os("CANDLE_VLLM_JSON_SCHEMA_SUITE") else {
        return;
    };
    let (tokenizer, forms) = with_forms(tiny());
    let (mut held, mut wrong, mut narrower) = (0, Vec::new(), Vec::new());
    let mut refused: BTreeMap<String, usize> = BTreeMap::new();
    let mut paths: Vec<_> = std::fs::read_dir(Path::new(&folder))
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    paths.sort();
    for path in paths
        .iter()
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
    {
        let groups: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        for group in groups.as_array().unwrap() {
            let asked = StructuredOutput::of(Form::JsonSchema(group["schema"].to_string()));
            if let Err(error) = forms.constraint(&asked) {
                let said = error.to_string();
                let keyword = said
                    .split("got `")
                    .nth(1)
                    .and_then(|rest| rest.split('`').next());
                *refused
                    .entry(keyword.unwrap_or(&said).to_owned())
                    .or_default() += 1;
                continue;
            }
            held += 1;
            for case in group["tests"].as_array().unwrap() {
                let takes = |value: &Value| {
                    let mut rule = forms.constraint(&asked).unwrap();
                    write(&tokenizer, &mut *rule, &written(value))
                };
                let name = format!(
                    "{:?}: {}: {}",
                    path.file_stem().unwrap(),
                    group["description"],
                    case["description"]
                );
                match (
                    orders(&case["data"]).iter().any(takes),
                    case["valid"].as_bool().unwrap(),
                ) {
                    (true, false) => wrong.push(name),
                    (false, true) => narrower.push(name),
                    _ => {}
                }
            }
        }
    }
    println!("{held} groups held; refused by keyword: {refused:#?}");
    println!(
        "valid, but no answer ({}):\n{}",
        narrower.len(),
        narrower.join("\n")
    );
    assert!(
        wrong.is_empty(),
        "invalid, but an answer:\n{}",
        wrong.join("\n")
    );
    assert!(held > 100);
}
