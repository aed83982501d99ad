//! What a schema asks that would not be held is refused, with keyword and place.
use super::support::{all, refusal, schema};
use crate::constraint::{StructuredOutput, keywords::check};

#[test]
fn every_keyword_that_is_not_held_is_named_with_its_place() {
    for (text, keyword, place) in [
        (r#"{"not": {}}"#, "not", "#"),
        (
            r#"{"properties": {"a": {"type": "array", "uniqueItems": true}}}"#,
            "uniqueItems",
            "#/properties/a",
        ),
        (r#"{"anyOf": [{}, {"if": {}}]}"#, "if", "#/anyOf/1"),
        (
            r#"{"$defs": {"x": {"contains": {}}}}"#,
            "contains",
            "#/$defs/x",
        ),
        (
            r#"{"items": {"dependentRequired": {}}}"#,
            "dependentRequired",
            "#/items",
        ),
        (
            r#"{"unevaluatedProperties": false}"#,
            "unevaluatedProperties",
            "#",
        ),
        (r#"{"propertyNames": {}}"#, "propertyNames", "#"),
        (r#"{"typo": 1}"#, "typo", "#"),
        (r#"{"x-guidance": {"lenient": true}}"#, "x-guidance", "#"),
        (r#"{"type": "string", "format": "regex"}"#, "format", "#"),
        (r#"{"nullable": true}"#, "nullable", "#"),
        (r#"{"items": [{}]}"#, "items", "#"),
        (r#"{"minItems": 1000000}"#, "minItems", "#"),
        (r#"{"minProperties": 2}"#, "minProperties", "#"),
        (r#"{"const": 9007199254740993}"#, "const", "#"),
        (r##"{"$ref": "#/$defs/none"}"##, "$ref", "#"),
        (r##"{"$ref": "http://example.com/x"}"##, "$ref", "#"),
        (
            r##"{"default": {"not": {}}, "$ref": "#/default"}"##,
            "$ref",
            "#",
        ),
        (
            r#"{"properties": {"a": {"$id": "x"}}}"#,
            "$id",
            "#/properties/a",
        ),
        (
            r#"{"$schema": "http://json-schema.org/draft-04/schema#"}"#,
            "$schema",
            "#",
        ),
        (r#"{"properties": {"a": 1}}"#, "schema", "#/properties/a"),
        (r#"{"enum": []}"#, "enum", "#"),
        (r#"{"const": {"a": ["x\u0000y"]}}"#, "const", "#"),
        (r#"{"pattern": "^(ab|c\\x01)$"}"#, "pattern", "#"),
        (
            r#"{"patternProperties": {"\u001f": {}}}"#,
            "patternProperties",
            "#",
        ),
        (r#"{"type": "string", "minLength": -1}"#, "minLength", "#"),
        (r#"{"multipleOf": 0}"#, "multipleOf", "#"),
    ] {
        let refused = check(&serde_json::from_str(text).unwrap()).unwrap_err();
        assert_eq!(refused.field, "json_schema");
        let start = format!("`{keyword}` at {place}:");
        assert!(refused.value.starts_with(&start), "{text}: {refused}");
    }
}

#[test]
fn what_only_the_library_refuses_is_named_with_its_place_too() {
    let (_, forms) = all().remove(0);
    for (text, keyword, place) in [
        (
            r#"{"properties": {"a": {"type": "string", "pattern": "a(?=b)"}}}"#,
            "pattern",
            "#/properties/a",
        ),
        (
            r#"{"items": {"oneOf": [{"minimum": 1}, {"maximum": 3}]}}"#,
            "oneOf",
            "#/items",
        ),
        (
            r#"{"type": "object", "patternProperties": {"(?!a)": {}}}"#,
            "patternProperties",
            "#",
        ),
        (
            r#"{"type": "object", "properties": {"a": {}, "b": {}}, "maxProperties": 1}"#,
            "maxProperties",
            "#",
        ),
    ] {
        let said = refusal(&forms, schema(text));
        assert!(
            said.contains(&format!("`{keyword}` at {place}:")),
            "{text}: {said}"
        );
    }
}

#[test]
fn annotations_and_old_drafts_pass() {
    let (_, forms) = all().remove(0);
    for text in [
        r#"{"title": "t", "description": "d", "default": 1, "examples": [2], "deprecated": true, "x-order": 1, "type": "integer"}"#,
        r#"{"$schema": "http://json-schema.org/draft-07/schema#", "type": "array", "items": [{"type": "integer"}], "additionalItems": false}"#,
        r##"{"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "x", "$ref": "#/$defs/a", "$defs": {"a": {"type": "null"}}}"##,
        r#"{"properties": {"not": {"type": "null"}, "if": {}}, "nullable": false}"#,
        r#"{"minProperties": 1}"#,
    ] {
        forms
            .constraint(&StructuredOutput::of(schema(text)))
            .unwrap();
    }
    let deep = format!("{}{{}}{}", r#"{"items": "#.repeat(70), "}".repeat(70));
    assert!(refusal(&forms, schema(&deep)).contains("deeper than 64"));
}
