//! Places where a schema's grammar could let something through that the schema does not.
use super::support::{accepts, all, schema};

#[test]
fn names_and_values_cannot_hide_behind_escapes() {
    for (tokenizer, forms) in all() {
        let takes = |text: &str, answer: &str| accepts(&tokenizer, &forms, &schema(text), answer);
        let open = r#"{"type": "object", "properties": {"a": {"type": "integer"}}}"#;
        assert!(takes(open, r#"{"b": "x"}"#));
        assert!(!takes(open, r#"{"a": "x"}"#));
        assert!(!takes(open, "{\"\\u0061\": \"x\"}"), "\\u0061 is a");
        assert!(!takes(open, r#"{"a": 1, "a": "x"}"#));
        assert!(!takes(open, r#"{"b": 2, "a": "x"}"#));
        // Classes may hold control characters; answers do not.
        let class = r#"{"type": "string", "pattern": "^[\\x01a]b$"}"#;
        assert!(takes(class, "\"ab\"") && !takes(class, "\"b\""));
        let constant = r#"{"const": "a/b"}"#;
        assert!(takes(constant, r#""a/b""#));
        assert!(!takes(constant, r#""a""#));
    }
}

#[test]
fn bounds_hold_at_their_edges() {
    for (tokenizer, forms) in all() {
        let takes = |text: &str, answer: &str| accepts(&tokenizer, &forms, &schema(text), answer);
        for (text, good, bad) in [
            (
                r#"{"type": "integer", "exclusiveMinimum": 0, "maximum": 100}"#,
                vec!["1", "100"],
                vec!["0", "101", "-1", "-0"],
            ),
            (
                r#"{"type": "number", "minimum": -1.5, "exclusiveMaximum": 2}"#,
                vec!["-1.5", "1.999", "0"],
                vec!["-1.51", "2", "2.0"],
            ),
            (
                r#"{"type": "integer", "multipleOf": 7}"#,
                vec!["0", "14", "-21"],
                vec!["1", "15"],
            ),
            (
                r#"{"type": "string", "minLength": 2, "maxLength": 3}"#,
                vec!["\"語x\"", "\"abc\"", "\"\\n\\n\""],
                vec!["\"a\"", "\"abcd\""],
            ),
            (
                r#"{"type": "string", "pattern": "^a+$"}"#,
                vec!["\"aa\""],
                vec!["\"ab\"", "\"\""],
            ),
            (
                r#"{"type": "string", "pattern": "b"}"#,
                vec!["\"abc\""],
                vec!["\"ac\""],
            ),
            (
                r#"{"type": "array", "items": {"type": "null"}, "minItems": 1, "maxItems": 2}"#,
                vec!["[null]", "[null, null]"],
                vec!["[]", "[null, null, null]"],
            ),
            (
                r#"{"type": "array", "prefixItems": [{"const": 1}], "items": false}"#,
                vec!["[]", "[1]"],
                vec!["[2]", "[1, 1]"],
            ),
            (
                r#"{"type": "object", "required": ["z"], "additionalProperties": {"type": "boolean"}}"#,
                vec![r#"{"z": true}"#],
                vec!["{}", r#"{"z": 1}"#],
            ),
            (
                r#"{"type": "object", "patternProperties": {"^n": {"type": "integer"}}, "additionalProperties": false}"#,
                vec!["{}", r#"{"n1": 1}"#],
                vec![r#"{"m": 1}"#, r#"{"n": "x"}"#],
            ),
            (
                r#"{"type": "object", "minProperties": 1}"#,
                vec![r#"{"a": 1}"#],
                vec!["{}"],
            ),
            (
                r#"{"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 5}]}"#,
                vec!["3", "5"],
                vec!["2", "6"],
            ),
            (
                r#"{"oneOf": [{"type": "integer"}, {"type": "string"}]}"#,
                vec!["1", "\"a\""],
                vec!["null"],
            ),
            (
                r##"{"$ref": "#/$defs/n", "$defs": {"n": {"type": "object", "properties": {"next": {"$ref": "#/$defs/n"}}, "additionalProperties": false}}}"##,
                vec!["{}", r#"{"next": {"next": {}}}"#],
                vec![r#"{"next": 1}"#, r#"{"other": {}}"#],
            ),
        ] {
            good.iter()
                .for_each(|answer| assert!(takes(text, answer), "{text} takes {answer}"));
            bad.iter()
                .for_each(|answer| assert!(!takes(text, answer), "{text} does not take {answer}"));
        }
    }
}
