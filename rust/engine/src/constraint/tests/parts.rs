//! Free text around what has a form: reasoning before an answer, and parts that the model begins.
use super::support::{accepts_asked, all, allowed, schema, write};
use crate::constraint::{Form, StructuredOutput, Trigger, Whitespace};

fn calls(least: usize, most: Option<usize>) -> StructuredOutput {
    let trigger = |begin: &str, form: Form, end: &str| Trigger {
        begin: begin.into(),
        form,
        end: end.into(),
    };
    let call = schema(
        r#"{"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": false}"#,
    );
    StructuredOutput {
        form: None,
        whitespace: Whitespace::Single,
        after: None,
        triggers: vec![
            trigger("<call>", call, "</call>"),
            trigger("<word>", Form::Regex("[a-z]+".into()), "."),
            trigger(
                "<pick>",
                Form::Choice(vec!["one".into(), "one more".into()]),
                "",
            ),
        ],
        least,
        most,
    }
}

#[test]
fn parts_begin_where_the_model_begins_them() {
    for (tokenizer, forms) in all() {
        let takes =
            |asked: &StructuredOutput, text: &str| accepts_asked(&tokenizer, &forms, asked, text);
        let any = calls(0, None);
        for text in [
            "",
            "free text, {\"as\": you like",
            "<call> {",
            "well: <call>{\"n\": 1}</call>",
            "<call>{\"n\": 1}</call><call>{\"n\": 22}</call> and more text",
            "a <word>abc. b <call>{\"n\": 3}</call> < call",
            "<pick>one more",
        ] {
            let good = text != "<call> {";
            assert_eq!(takes(&any, text), good, "{text:?}");
        }
        for text in [
            "<call>{\"n\": \"x\"}</call>",
            "<call>{\"n\": 1}",
            "<call>{\"n\": 1}</call><call>",
            "<word>ABC.",
            "<pick>two",
        ] {
            assert!(!takes(&any, text), "{text:?}");
        }
        assert!(!takes(&calls(1, None), "no call"));
        assert!(takes(&calls(1, None), "a call: <call>{\"n\": 1}</call>"));
        assert!(!takes(&calls(2, None), "<call>{\"n\": 1}</call>"));
        assert!(takes(&calls(2, None), "<call>{\"n\": 1}</call> <word>x."));
        assert!(takes(&calls(0, Some(1)), "<call>{\"n\": 1}</call>"));
        assert!(!takes(&calls(0, Some(1)), "<call>{\"n\": 1}</call> more"));
    }
}

#[test]
fn a_rule_begins_behind_the_end_of_reasoning() {
    for (tokenizer, forms) in all() {
        let asked = StructuredOutput {
            after: Some("</think>".into()),
            ..StructuredOutput::of(Form::Regex("[0-9]+".into()))
        };
        let takes = |text: &str| accepts_asked(&tokenizer, &forms, &asked, text);
        assert!(takes("I think <think> that it is </think>42"));
        assert!(takes("</think>0"));
        assert!(!takes("42"), "it may not end before");
        assert!(!takes("so </think>"));
        assert!(!takes("so </think>forty"));
    }
}

#[test]
fn a_special_token_begins_and_ends() {
    for (tokenizer, forms) in all() {
        let special = "<|im_start|>";
        let id = tokenizer.token_to_id(special).unwrap();
        assert!(tokenizer.is_special(id));
        let asked = StructuredOutput {
            triggers: vec![Trigger {
                begin: special.into(),
                form: Form::Regex("[0-9]{2}".into()),
                end: special.into(),
            }],
            form: None,
            ..calls(0, None)
        };
        let mut rule = forms.constraint(&asked).unwrap();
        let vocab = tokenizer.vocab_size() + 7;
        assert!(write(&tokenizer, &mut *rule, "some text "));
        assert!(allowed(&mut *rule, vocab)(id));
        rule.accept(id).unwrap();
        assert!(!allowed(&mut *rule, vocab)(id), "digits first");
        for byte in ["4", "2"] {
            let digit = tokenizer.encode_inner(byte).unwrap()[0];
            assert!(allowed(&mut *rule, vocab)(digit));
            rule.accept(digit).unwrap();
        }
        let may = allowed(&mut *rule, vocab);
        assert!(
            (0..vocab as u32).all(|other| may(other) == (other == id)),
            "only the end"
        );
        rule.accept(id).unwrap();
        assert!(write(&tokenizer, &mut *rule, "free again"));
    }
}

#[test]
fn a_draft_stops_where_a_form_begins() {
    let (tokenizer, forms) = all().remove(0);
    let mut rule = forms.constraint(&calls(1, None)).unwrap();
    let text: Vec<u32> = "so <call>{"
        .bytes()
        .map(|b| tokenizer.encode_inner(&(b as char).to_string()).unwrap()[0])
        .collect();
    assert_eq!(rule.admit(&text).unwrap(), "so <call".len());
    let end = tokenizer.eos_ids()[0];
    assert_eq!(rule.admit(&[text[0], end, text[1]]).unwrap(), 1);
    rule.start(&text[..3]);
    let mut mask = vec![0; (tokenizer.vocab_size() + 7).div_ceil(32)];
    assert!(rule.mask(3, &mut mask).unwrap());
    assert_eq!(
        mask[end as usize / 32] >> (end % 32) & 1,
        0,
        "it may not end before a call"
    );
}
