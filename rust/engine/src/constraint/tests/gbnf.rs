//! llama.cpp's notation: its own sample grammars mean what they mean there.
use super::support::{accepts, all};
use crate::constraint::{Form, gbnf::to_lark};

const ARITHMETIC: &str = r#"
root  ::= (expr "=" ws term "\n")+
expr  ::= term ([-+*/] term)*
term  ::= ident | num | "(" ws expr ")" ws
ident ::= [a-z] [a-z0-9_]* ws
num   ::= [0-9]+ ws
ws    ::= [ \t]*
"#;

const LIST: &str = r##"
# a list, one item a line
root ::= item+
item ::= "- " [^\r\n\x0b\x0c\x85\u2028\u2029]+ "\n"
"##;

const JSON: &str = r#"
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws

object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws

array  ::=
  "[" ws (
            value
    ("," ws value)*
  )? "]" ws

string ::=
  "\"" (
    [^"\\\x7F\x00-\x1F] |
    "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) # escapes
  )* "\"" ws

number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws

ws ::= | " " | "\n" [ \t]{0,20}
"#;

#[test]
fn sample_grammars_take_what_they_describe() {
    for (tokenizer, forms) in all() {
        for (grammar, good, bad) in [
            (
                ARITHMETIC,
                vec!["1+x= 2\n", "(a*2)-3=4\n7=7\n"],
                vec!["1+=2\n", "1=2", "A=1\n"],
            ),
            (
                LIST,
                vec!["- one\n- two 語\n"],
                vec!["one\n", "- \n", "- one"],
            ),
            (
                JSON,
                vec!["{}", r#"{"a": [1, 2.5e3, "x\u00e9", {"b": null}]}"#, "{ }"],
                vec!["[]", r#"{"a": }"#, r#"{"a": 01}"#, r#"{"a": "x"#],
            ),
            (
                "root ::= \"a\"{2,3} | \"b\"{2} [^a-c]",
                vec!["aa", "aaa", "bbd"],
                vec!["a", "bba", "aaaa"],
            ),
            (
                "root ::= x | y\nx ::= \"x\" root\ny ::= \"y\" | .",
                vec!["y", "xy", "xxz"],
                vec!["", "yy"],
            ),
        ] {
            let form = Form::Gbnf(grammar.into());
            for text in good {
                assert!(
                    accepts(&tokenizer, &forms, &form, text),
                    "{text:?} of {grammar}"
                );
            }
            for text in bad {
                assert!(
                    !accepts(&tokenizer, &forms, &form, text),
                    "{text:?} not of {grammar}"
                );
            }
        }
    }
}

#[test]
fn what_is_wrong_is_told_with_its_line() {
    for (grammar, says) in [
        ("", "no rule `root`"),
        ("x ::= \"a\"", "no rule `root`"),
        ("root ::= y", "no rule `y`"),
        ("root ::= \"a\"\nroot ::= \"b\"", "twice"),
        ("root ::= \"a\"\nx = \"b\"", "line 2: `::=`"),
        ("root ::= \"a", "does not end"),
        ("root ::= (\"a\"", "`)` is missing"),
        ("root ::= [z-a]", "no range"),
        ("root ::= []", "empty class"),
        ("root ::= \"\\q\"", "no escape"),
        ("root ::= \"a\"{3,2}", "no count"),
        ("root ::= \"a\"{99999}", "no count"),
        (
            &format!("root ::= {}\"a\"{}", "(".repeat(100), ")".repeat(100)),
            "deeper than",
        ),
    ] {
        let said = to_lark(grammar).unwrap_err();
        assert!(said.contains(says), "{grammar:?}: {said}");
    }
}
