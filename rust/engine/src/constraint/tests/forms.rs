//! Each kind of form takes what it says and nothing else; what cannot be is refused by name.
use super::support::{accepts, accepts_asked, all, allowed, refusal, schema};
use crate::constraint::{Form, Next, StructuredOutput, Whitespace};

fn table() -> Vec<(Form, Vec<&'static str>, Vec<&'static str>)> {
    vec![
        (
            Form::JsonObject,
            vec![
                "{}",
                r#"{"a": 1}"#,
                r#"{"a": {"b": [1, 2, null, true, "x\n"]}}"#,
            ],
            vec!["", "[]", "1", r#"{"a": 1"#, r#"{a: 1}"#, r#"{"a": 1}x"#],
        ),
        (
            schema(
                r#"{"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
                "required": ["name", "age"], "additionalProperties": false}"#,
            ),
            vec![
                r#"{"name": "Zoë 語", "age": 41}"#,
                r#"{"name": "", "age": 0}"#,
            ],
            vec![
                r#"{"name": "x"}"#,
                r#"{"name": "x", "age": -1}"#,
                r#"{"name": "x", "age": 1, "b": 2}"#,
                r#"{"name": 1, "age": 1}"#,
            ],
        ),
        (schema("true"), vec!["1", "[]", "null"], vec!["", "x"]),
        (
            schema(r#"{"enum": [1.5, "a", null, {"b": [true]}]}"#),
            vec!["1.5", "\"a\"", "null", r#"{"b": [true]}"#],
            vec!["1", "\"b\"", "{}"],
        ),
        (
            Form::Regex("[a-c]{2,4}".into()),
            vec!["ab", "cccc"],
            vec!["a", "abcab", "ad", ""],
        ),
        (
            Form::Regex("^yes|no$".into()),
            vec!["yes", "no"],
            vec!["yesno", "maybe"],
        ),
        (
            Form::Regex(r"\d{3}-\d{4}/x".into()),
            vec!["555-1234/x"],
            vec!["555-123/x"],
        ),
        (
            Form::Choice(vec![
                "yes".into(),
                "yes, please".into(),
                "no\n\"really\"".into(),
                "a|b.*".into(),
            ]),
            vec!["yes", "yes, please", "no\n\"really\"", "a|b.*"],
            vec!["ye", "yes,", "a", "a|bc", "no"],
        ),
        (
            Form::Lark("start: \"a\" b+\nb: \"b\" | \"c\"".into()),
            vec!["ab", "accb"],
            vec!["a", "b", "abd"],
        ),
        (
            Form::Gbnf("root ::= \"a\" (\"b\" | [c-e])+ end?\nend ::= \"!\"".into()),
            vec!["ab", "acde!", "abb"],
            vec!["a", "ab?", "a!"],
        ),
        (
            Form::Gbnf("root ::= \"(\" root? \")\"".into()),
            vec!["()", "((()))"],
            vec!["(", "(()", "())"],
        ),
    ]
}

#[test]
fn each_form_takes_its_own_answers_and_no_others() {
    for (tokenizer, forms) in all() {
        for (form, good, bad) in table() {
            for text in good {
                assert!(
                    accepts(&tokenizer, &forms, &form, text),
                    "{form:?} takes {text:?}"
                );
            }
            for text in bad {
                assert!(
                    !accepts(&tokenizer, &forms, &form, text),
                    "{form:?} does not take {text:?}"
                );
            }
        }
        assert_eq!(forms.kept().0, table().len(), "each is compiled once");
    }
}

#[test]
fn white_space_is_as_asked() {
    let text = |whitespace, text: &str| {
        let (tokenizer, forms) = all().remove(0);
        let asked = StructuredOutput {
            whitespace,
            ..StructuredOutput::of(schema(r#"{"type": "array", "items": {"type": "integer"}}"#))
        };
        accepts_asked(&tokenizer, &forms, &asked, text)
    };
    use Whitespace::{Any, Compact, Single};
    for (whitespace, one, none, many) in [
        (Single, true, false, false),
        (Compact, false, true, false),
        (Any, true, true, true),
    ] {
        assert_eq!(text(whitespace, "[1, 2]"), one, "{whitespace:?}");
        assert_eq!(text(whitespace, "[1,2]"), none, "{whitespace:?}");
        assert_eq!(text(whitespace, "[ 1,\n\t2 ]"), many, "{whitespace:?}");
        assert!(!text(whitespace, "[1, 2,]"));
    }
}

#[test]
fn what_cannot_be_held_is_refused_by_name() {
    let (_, forms) = all().remove(0);
    for (form, says) in [
        (Form::Regex("a(?=b)".into()), "regex"),
        (Form::Regex("(a".into()), "regex"),
        (Form::Regex(r"(a)\1".into()), "regex"),
        (Form::Lark("start: nothing".into()), "grammar"),
        (Form::Lark("".into()), "grammar"),
        (Form::Gbnf("root ::= nothing".into()), "no rule `nothing`"),
        (Form::Choice(vec![]), "choice"),
        (Form::Choice(vec!["".into()]), "choice"),
        (schema("{"), "json_schema"),
        (schema("false"), "json_schema"),
        (
            schema(r#"{"type": "integer", "minimum": 5, "maximum": 3}"#),
            "json_schema",
        ),
        (Form::Regex("a".repeat(1 << 20)), "at most 524288 bytes"),
    ] {
        let said = refusal(&forms, form.clone());
        assert!(said.contains(says), "{said}");
        assert!(!said.contains("backtrace") && said.len() < 700, "{said}");
    }
}

#[test]
fn an_answer_ends_where_nothing_may_follow() {
    for (tokenizer, forms) in all() {
        let mut rule = forms
            .constraint(&StructuredOutput::of(Form::Regex("ab".into())))
            .unwrap();
        let vocab = tokenizer.vocab_size() + 7;
        let may = allowed(&mut *rule, vocab);
        let fits = |id: &u32| may(*id) && b"ab".starts_with(tokenizer.token_bytes(*id));
        assert!(
            (0..vocab as u32).filter(|&id| may(id)).all(|id| fits(&id)),
            "nothing else may come"
        );
        let mut next = Next::Open;
        let mut text = Vec::new();
        while next == Next::Open {
            let may = allowed(&mut *rule, vocab);
            let id = (0..vocab as u32).find(|&id| may(id)).unwrap();
            text.extend_from_slice(tokenizer.token_bytes(id));
            next = rule.accept(id).unwrap();
        }
        assert_eq!(text, b"ab");
    }
}

#[test]
fn a_draft_has_the_masks_of_its_beginnings() {
    for (tokenizer, forms) in all() {
        let form = schema(
            r#"{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}"#,
        );
        let vocab = tokenizer.vocab_size() + 7;
        let ids = tokenizer.encode(r#"{"a": 123}"#, false).unwrap();
        let new = || {
            forms
                .constraint(&StructuredOutput::of(form.clone()))
                .unwrap()
        };
        let mut rule = new();
        let mut draft = ids.clone();
        draft.extend_from_slice(&tokenizer.encode("}}", false).unwrap());
        let admitted = rule.admit(&draft).unwrap();
        assert!(admitted <= ids.len(), "{admitted} of {}", ids.len());
        let draft = &draft[..admitted];
        rule.start(draft);
        rule.work();
        let mut step = new();
        for i in 0..=admitted {
            let mut mask = vec![0; vocab.div_ceil(32)];
            assert!(rule.mask(i, &mut mask).unwrap());
            let may = allowed(&mut *step, vocab);
            let ends_here = i == ids.len();
            for id in 0..vocab as u32 {
                let bit = mask[id as usize / 32] >> (id % 32) & 1 == 1;
                assert!(ends_here || bit == may(id), "row {i}, token {id}");
            }
            if let Some(&id) = draft.get(i) {
                step.accept(id).unwrap();
            }
        }
        // The draft left no trace.
        assert!(rule.admit(&ids[..1]).unwrap() == 1);
    }
}

#[test]
fn one_answer_does_not_touch_another_of_the_same_form() {
    let (tokenizer, forms) = all().remove(0);
    let asked = StructuredOutput::of(Form::Regex("(ab|cd)+".into()));
    let (mut a, mut b) = (
        forms.constraint(&asked).unwrap(),
        forms.constraint(&asked).unwrap(),
    );
    let id = |text: &str| tokenizer.encode_inner(text).unwrap()[0];
    a.accept(id("a")).unwrap();
    assert!(a.accept(id("d")).is_err(), "`ad` breaks the rule");
    let mut mask = vec![0; 20];
    a.start(&[]);
    assert!(
        a.mask(0, &mut mask).is_err(),
        "a broken answer has no mask ever"
    );
    b.accept(id("c")).unwrap();
    assert!(allowed(&mut *b, tokenizer.vocab_size() + 7)(id("d")));
}
