//! What is looked for is found wherever it stands, and nothing goes on behind it within a token.
use crate::constraint::marks::Marks;

const TOKENS: [&str; 10] = [
    "<", "t", ">", "<t", "t>", "<t>", "<t>x", ">x", "x<", "a<t><t",
];

fn marks(texts: &[&str]) -> Marks {
    Marks::new(texts.iter().copied(), TOKENS.iter().map(|t| t.as_bytes()))
}

fn banned(marks: &Marks, text: &str) -> Vec<&'static str> {
    let mut found = marks.start();
    for byte in text.bytes() {
        marks.push(&mut found, &[byte]).unwrap();
    }
    let text = |id: u32| TOKENS[id as usize].as_bytes();
    marks
        .banned(&found, text)
        .map(|id| TOKENS[id as usize])
        .collect()
}

#[test]
fn tokens_that_hold_an_end_and_more_are_banned_where_it_would_be_one() {
    let marks = marks(&["<t>"]);
    assert_eq!(banned(&marks, ""), ["<t>x", "a<t><t"]);
    assert_eq!(banned(&marks, "<t"), ["<t>x", ">x", "a<t><t"]);
    assert_eq!(banned(&marks, "<tt"), ["<t>x", "a<t><t"]);
    assert_eq!(banned(&marks, "<<"), ["<t>x", "a<t><t"]);
}

#[test]
fn every_split_of_a_text_is_found() {
    let marks = marks(&["abab", "ab", "aa"]);
    let text = b"xaababab";
    for cut in 1..text.len() {
        let mut found = marks.start();
        let (a, b) = text.split_at(cut);
        // Both ends and what comes in between are told where they end a token.
        let first = marks.push(&mut found, a);
        let ends = |bytes: &[u8]| bytes.ends_with(b"ab") || bytes.ends_with(b"aa");
        let crosses = (1..a.len()).any(|end| ends(&a[..end]));
        assert_eq!(first.is_err(), crosses, "{cut}");
        if !crosses {
            assert_eq!(first.unwrap().is_some(), ends(a));
            assert!(b.len() < 2 || marks.push(&mut found, b).is_err() || ends(text));
        }
    }
    let mut found = marks.start();
    assert_eq!(marks.push(&mut found, b"a"), Ok(None));
    assert_eq!(marks.push(&mut found, b"b"), Ok(Some(1)));
    assert_eq!(marks.push(&mut found, b"a"), Ok(None));
    assert_eq!(
        marks.push(&mut found, b"b"),
        Ok(Some(0)),
        "the longest that ends here"
    );
}
