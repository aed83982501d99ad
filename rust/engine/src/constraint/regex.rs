//! Expressions in the notation of the grammar library. An expression matches the whole text.
//! Knows nothing of tokens.
use llguidance::regex_to_lark;
use regex_syntax::hir::{Hir, HirKind};

use super::keywords::is_unwritable;
use crate::error::Refused;

/// `expression`, and `end` (Lark's notation) behind it. Anchors at its ends mean nothing more and are left out.
pub(super) fn whole(expression: &str, end: &str) -> Result<String, Refused> {
    regex_syntax::parse(expression).map_err(|e| {
        let said = e.to_string();
        let said = said
            .lines()
            .last()
            .unwrap_or(&said)
            .trim_start_matches("error: ");
        let expected =
            "an expression as Rust's regex crate reads it, without look-around and references back";
        Refused::new("regex", format!("{expression:.80} ({said})"), expected)
    })?;
    Ok(lark(&regex_to_lark(unanchored(expression), ""), end))
}

/// One of `texts`, and `end` behind it.
pub(super) fn choice(texts: &[String], end: &str) -> String {
    let texts: Vec<String> = texts
        .iter()
        .map(|text| regex_syntax::escape(text))
        .collect();
    lark(&regex_to_lark(&texts.join("|"), ""), end)
}

/// Whether an expression spells out a character that answers in JSON cannot write. One that cannot be read has its own error.
pub(super) fn writes_unwritable(expression: &str) -> bool {
    fn writes(hir: &Hir) -> bool {
        match hir.kind() {
            HirKind::Literal(literal) => literal
                .0
                .iter()
                .any(|&byte| byte < 128 && is_unwritable(char::from(byte))),
            HirKind::Repetition(repeated) => writes(&repeated.sub),
            HirKind::Capture(group) => writes(&group.sub),
            HirKind::Concat(parts) | HirKind::Alternation(parts) => parts.iter().any(writes),
            HirKind::Class(_) | HirKind::Look(_) | HirKind::Empty => false,
        }
    }
    regex_syntax::parse(expression).is_ok_and(|hir| writes(&hir))
}

/// A text as Lark writes it.
pub(super) fn literal(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Text and end are one expression, so that where the one ends is not decided before the other is read; a token that ends
/// it stands apart.
fn lark(expression: &str, end: &str) -> String {
    match serde_json::from_str::<String>(end) {
        Ok(text) => {
            let end = regex_to_lark(&regex_syntax::escape(&text), "");
            format!("start: /(?:{expression}){end}/\n")
        }
        Err(_) => format!("start: /(?:{expression})/ {end}\n"),
    }
}

fn unanchored(expression: &str) -> &str {
    let inner = expression.strip_prefix('^').unwrap_or(expression);
    let Some(before) = inner.strip_suffix('$') else {
        return inner;
    };
    let escapes = before.len() - before.trim_end_matches('\\').len();
    match escapes % 2 {
        0 => before,
        _ => inner,
    }
}
