//! Classes of characters that pre-tokenizers tell apart, as one table. Knows nothing of words.
//! Source: the Unicode tables of `regex-syntax`, so that a class is what `\p{..}` means elsewhere in this crate.
use std::sync::LazyLock;

use regex_syntax::hir::{Class, HirKind};

/// `\p{L}`.
pub(super) const LETTER: u8 = 1;
/// `\p{N}`.
pub(super) const NUMBER: u8 = 2;
/// `\p{M}`.
pub(super) const MARK: u8 = 4;
/// `\s`.
pub(super) const SPACE: u8 = 8;
/// `[\p{Lu}\p{Lt}]`.
pub(super) const UPPER: u8 = 16;
/// `\p{Ll}`.
pub(super) const LOWER: u8 = 32;
/// `[\r\n]`.
pub(super) const NEWLINE: u8 = 64;
/// `\p{P}` and ASCII punctuation.
pub(super) const PUNCTUATION: u8 = 128;

static TABLE: LazyLock<Box<[u8]>> = LazyLock::new(|| {
    let classes = [
        (r"\p{L}", LETTER),
        (r"\p{N}", NUMBER),
        (r"\p{M}", MARK),
        (r"\s", SPACE),
        (r"[\p{Lu}\p{Lt}]", UPPER),
        (r"\p{Ll}", LOWER),
        (r"[\r\n]", NEWLINE),
        (r"[\p{P}[:punct:]]", PUNCTUATION),
    ];
    let mut table = vec![0; 0x11_0000].into_boxed_slice();
    for (expression, flag) in classes {
        // The expressions are constants; a test makes sure that each of them is a class.
        let Ok(hir) = regex_syntax::parse(expression) else {
            continue;
        };
        let HirKind::Class(Class::Unicode(class)) = hir.kind() else {
            continue;
        };
        for range in class.ranges() {
            for entry in &mut table[range.start() as usize..=range.end() as usize] {
                *entry |= flag;
            }
        }
    }
    table
});

/// Classes by code point.
pub(super) fn table() -> &'static [u8] {
    &TABLE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_is_in_the_table() {
        let of = |c: char| table()[c as usize];
        assert_eq!(of('a'), LETTER | LOWER);
        assert_eq!(of('ǅ'), LETTER | UPPER);
        assert_eq!(of('語'), LETTER);
        assert_eq!(of('½'), NUMBER);
        assert_eq!(of('\u{301}'), MARK);
        assert_eq!(of('\u{3000}'), SPACE);
        assert_eq!(of('\n'), SPACE | NEWLINE);
        assert_eq!([of('$'), of('、')], [PUNCTUATION; 2]);
        assert_eq!(of('😀'), 0);
        for c in '\0'..=char::MAX {
            assert_eq!(of(c) & SPACE != 0, c.is_whitespace(), "{c:?}");
            assert!(of(c) & NUMBER == 0 || c.is_numeric(), "{c:?}");
            assert!(of(c) & LETTER == 0 || c.is_alphabetic(), "{c:?}");
        }
    }
}
