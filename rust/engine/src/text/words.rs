//! Cuts a text into words as the expressions of the model families do, by hand and without backtracking.
//! Each function takes the place of an expression, as the models' tokenizer.json files have it; tests compare the two. Knows nothing of tokens.
use super::class::{self, LETTER, LOWER, MARK, NEWLINE, NUMBER, SPACE, UPPER};

/// See [`Scan::gpt2`].
pub(super) const GPT2: &str =
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// [`Scan::llama`] with three digits and no marks.
pub(super) const LLAMA3: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*",
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
);
/// [`Scan::llama`] with one digit and no marks.
pub(super) const QWEN2: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*",
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
);
/// [`Scan::llama`] with one digit and marks.
pub(super) const QWEN35: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}",
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
/// [`Scan::tekken`] with one digit and no contractions.
pub(super) const TEKKEN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
/// [`Scan::tekken`] with three digits and contractions.
pub(super) const GPT4O: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

/// A text and the classes of its characters.
#[derive(Clone, Copy)]
pub(super) struct Scan<'a> {
    text: &'a str,
    classes: &'static [u8],
}

impl<'a> Scan<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self {
            text,
            classes: class::table(),
        }
    }

    /// Character, classes and next place at byte `at`; `None` at the end.
    fn get(&self, at: usize) -> Option<(char, u8, usize)> {
        let first = *self.text.as_bytes().get(at)?;
        let c = if first < 128 {
            first as char
        } else {
            self.text[at..].chars().next()?
        };
        Some((c, self.classes[c as usize], at + c.len_utf8()))
    }

    /// End of the run of characters from `at` on whose classes are `wanted`, at most `most` of them.
    fn run(&self, mut at: usize, most: usize, wanted: impl Fn(u8) -> bool) -> usize {
        for _ in 0..most {
            match self.get(at) {
                Some((_, classes, next)) if wanted(classes) => at = next,
                _ => break,
            }
        }
        at
    }

    /// `'(s|t|re|ve|m|ll|d)`, with `any_case` also in capitals. Returns its end.
    fn contraction(&self, at: usize, any_case: bool) -> Option<usize> {
        let rest = self.text.as_bytes().get(at..)?;
        let fold = |byte: u8| {
            if any_case {
                byte.to_ascii_lowercase()
            } else {
                byte
            }
        };
        let [b'\'', first, ..] = *rest else {
            return None;
        };
        let second = rest.get(2).map(|&byte| fold(byte));
        match (fold(first), second) {
            (b's' | b't' | b'm' | b'd', _) => Some(at + 2),
            (b'r' | b'v', Some(b'e')) | (b'l', Some(b'l')) => Some(at + 3),
            // The long s folds to s.
            _ if any_case && rest[1..].starts_with("ſ".as_bytes()) => Some(at + 3),
            _ => None,
        }
    }

    /// `\s+(?!\S)|\s+`, before which goes `\s*[\r\n]+` when `lines`. `at` is a space.
    fn spaces(&self, at: usize, lines: bool) -> usize {
        let (mut end, mut last, mut after_line) = (at, at, None);
        while let Some((_, classes, next)) =
            self.get(end).filter(|(_, classes, _)| classes & SPACE != 0)
        {
            (last, end) = (end, next);
            if lines && classes & NEWLINE != 0 {
                after_line = Some(end);
            }
        }
        match after_line {
            Some(end) => end,
            // The last space goes to the word that follows.
            None if end < self.text.len() && last > at => last,
            None => end,
        }
    }

    /// A run of at most `most` characters of the class at the front, or of characters that are not of it.
    pub(super) fn class(self, at: usize, class: u8, most: usize) -> usize {
        let inside = self.run(at, most, |f| f & class != 0);
        if inside > at {
            inside
        } else {
            self.run(at, usize::MAX, |f| f & class == 0)
        }
    }

    /// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
    pub(super) fn gpt2(self, at: usize) -> usize {
        if let Some(end) = self.contraction(at, false) {
            return end;
        }
        let Some((c, ..)) = self.get(at) else {
            return at;
        };
        let start = if c == ' ' { at + 1 } else { at };
        match self.get(start) {
            Some((_, classes, next)) if classes & LETTER != 0 => {
                self.run(next, usize::MAX, |f| f & LETTER != 0)
            }
            Some((_, classes, next)) if classes & NUMBER != 0 => {
                self.run(next, usize::MAX, |f| f & NUMBER != 0)
            }
            Some((_, classes, next)) if classes & SPACE == 0 => {
                self.run(next, usize::MAX, |f| f & (SPACE | LETTER | NUMBER) == 0)
            }
            _ => self.spaces(at, false),
        }
    }

    /// `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,digits}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+
    /// |\s+(?!\S)|\s+`; with `marks`, a mark is a letter of the second and no other sign of the fourth part.
    pub(super) fn llama(self, at: usize, digits: usize, marks: bool) -> usize {
        if let Some(end) = self.contraction(at, true) {
            return end;
        }
        let letter = if marks { LETTER | MARK } else { LETTER };
        let Some((c, classes, next)) = self.get(at) else {
            return at;
        };
        if classes & letter != 0 {
            return self.run(next, usize::MAX, |f| f & letter != 0);
        }
        if classes & NUMBER != 0 {
            return self.run(next, digits - 1, |f| f & NUMBER != 0);
        }
        if classes & NEWLINE == 0 {
            let end = self.run(next, usize::MAX, |f| f & letter != 0);
            if end > next {
                return end;
            }
        }
        self.signs(at, c, SPACE | letter | NUMBER, "\r\n")
            .unwrap_or_else(|| self.spaces(at, true))
    }

    /// ` ?[^outside]+[trail]*`
    fn signs(&self, at: usize, first: char, outside: u8, trail: &str) -> Option<usize> {
        let start = if first == ' ' { at + 1 } else { at };
        let mut end = self.run(start, usize::MAX, |f| f & outside == 0);
        if end == start {
            return None;
        }
        while self
            .text
            .as_bytes()
            .get(end)
            .is_some_and(|byte| trail.as_bytes().contains(byte))
        {
            end += 1;
        }
        Some(end)
    }

    /// With U = `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`, W = `[\p{Ll}\p{Lm}\p{Lo}\p{M}]` and C the optional contraction:
    /// `[^\r\n\p{L}\p{N}]?U*W+C|[^\r\n\p{L}\p{N}]?U+W*C|\p{N}{1,digits}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+
    /// |\s+(?!\S)|\s+`
    pub(super) fn tekken(self, at: usize, digits: usize, contractions: bool) -> usize {
        let Some((c, classes, next)) = self.get(at) else {
            return at;
        };
        if classes & NUMBER != 0 {
            return self.run(next, digits - 1, |f| f & NUMBER != 0);
        }
        let after_sign = (classes & (NEWLINE | LETTER) == 0).then_some(next);
        let starts = || after_sign.into_iter().chain([at]);
        let word = starts().find_map(|start| self.lower_word(start));
        let word = word.or_else(|| {
            let end = |start| self.run(start, usize::MAX, is_upper);
            starts().find_map(|start| Some(end(start)).filter(|&end| end > start))
        });
        match word {
            Some(end) if contractions => self.contraction(end, true).unwrap_or(end),
            Some(end) => end,
            None => {
                let signs = self.signs(at, c, SPACE | LETTER | NUMBER, "\r\n/");
                signs.unwrap_or_else(|| self.spaces(at, true))
            }
        }
    }

    /// `U*W+` at `start`. As many U as there are; where no W follows them, the last W among them ends the word.
    fn lower_word(&self, start: usize) -> Option<usize> {
        let (mut end, mut last_lower) = (start, None);
        while let Some((_, classes, next)) =
            self.get(end).filter(|(_, classes, _)| is_upper(*classes))
        {
            end = next;
            if is_lower(classes) {
                last_lower = Some(end);
            }
        }
        let lower_end = self.run(end, usize::MAX, is_lower);
        if lower_end > end {
            Some(lower_end)
        } else {
            last_lower
        }
    }
}

/// U of `tekken`.
fn is_upper(classes: u8) -> bool {
    classes & (UPPER | MARK) != 0 || classes & (LETTER | LOWER) == LETTER
}

/// W of `tekken`.
fn is_lower(classes: u8) -> bool {
    classes & (LOWER | MARK) != 0 || classes & (LETTER | UPPER) == LETTER
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use fancy_regex::Regex;

    use super::*;

    type Cut = fn(Scan, usize) -> usize;

    const CUTS: [(&str, Cut); 6] = [
        (GPT2, |scan, at| scan.gpt2(at)),
        (LLAMA3, |scan, at| scan.llama(at, 3, false)),
        (QWEN2, |scan, at| scan.llama(at, 1, false)),
        (QWEN35, |scan, at| scan.llama(at, 1, true)),
        (TEKKEN, |scan, at| scan.tekken(at, 1, false)),
        (GPT4O, |scan, at| scan.tekken(at, 3, true)),
    ];

    fn words(text: &str, cut: Cut) -> Vec<&str> {
        let mut words = Vec::new();
        let mut at = 0;
        while at < text.len() {
            let end = cut(Scan::new(text), at);
            assert!(end > at, "{text:?} at {at}");
            words.push(&text[at..end]);
            at = end;
        }
        words
    }

    #[test]
    fn every_cut_is_that_of_its_expression() {
        let signs = [
            "a", "b", "A", "Z", "ǅ", "ʰ", "語", "\u{301}", "\u{903}", "1", "2", "½", "٣", " ", " ",
            "\t", "\n", "\r", "\u{a0}", "\u{3000}", "'", "'s", "'S", "'ſ", "'ll", "'Re", "'VE",
            "'d", "'x", ".", "/", "-", "😀", "\u{0}", "é", "ß", "\u{200d}",
        ];
        let mut state = 3u64;
        let mut random = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize
        };
        for (expression, cut) in CUTS {
            let regex = Regex::new(expression).unwrap();
            for _ in 0..4000 {
                let text: String = (0..random() % 14)
                    .map(|_| signs[random() % signs.len()])
                    .collect();
                let expected: Vec<&str> = regex
                    .find_iter(&text)
                    .map(|found| found.unwrap().as_str())
                    .collect();
                assert_eq!(words(&text, cut), expected, "{expression}");
            }
        }
    }

    #[test]
    fn a_long_run_is_one_word_at_once() {
        let spaces = " ".repeat(3_000_000);
        for (_, cut) in CUTS {
            assert_eq!(words(&spaces, cut).len(), 1);
        }
    }
}
