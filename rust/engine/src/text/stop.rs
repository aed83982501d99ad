//! Finds stop strings in text that arrives in pieces and holds back what may still become one.
//! The outcome is that of searching the whole text, however it was cut. Knows nothing of tokens.

/// A stop string that was found: where it starts and ends in the whole text, and which one it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Hit {
    start: usize,
    end: usize,
    index: usize,
}

/// One stop string with its Knuth-Morris-Pratt automaton.
#[derive(Debug)]
struct Needle {
    index: usize,
    bytes: Box<[u8]>,
    /// `fail[k]`: length of the longest proper border of the first `k + 1` bytes.
    fail: Box<[usize]>,
    /// Bytes of the needle that the text ends with.
    matched: usize,
}

impl Needle {
    fn new(index: usize, text: &str) -> Self {
        let bytes: Box<[u8]> = text.as_bytes().into();
        let mut fail = vec![0; bytes.len()].into_boxed_slice();
        let mut k = 0;
        for i in 1..bytes.len() {
            while k > 0 && bytes[i] != bytes[k] {
                k = fail[k - 1];
            }
            if bytes[i] == bytes[k] {
                k += 1;
            }
            fail[i] = k;
        }
        Self {
            index,
            bytes,
            fail,
            matched: 0,
        }
    }

    /// Takes the next byte of the text; true when the needle has just been completed.
    fn advance(&mut self, byte: u8) -> bool {
        while self.matched > 0 && self.bytes[self.matched] != byte {
            self.matched = self.fail[self.matched - 1];
        }
        if self.bytes[self.matched] == byte {
            self.matched += 1;
        }
        let complete = self.matched == self.bytes.len();
        if complete {
            self.matched = self.fail[self.matched - 1];
        }
        complete
    }
}

/// Searches for the stop string that starts earliest in the text; of several that start there, the shortest.
#[derive(Debug)]
pub(super) struct StopFinder {
    needles: Vec<Needle>,
    /// Text that is not certain yet.
    held: String,
    /// Bytes of the text before `held`.
    released: usize,
    /// The best stop string so far, while an earlier one may still be completed.
    best: Option<Hit>,
    done: Option<usize>,
}

impl StopFinder {
    /// Empty stop strings never match.
    pub(super) fn new(stops: &[String]) -> Self {
        let needles = stops.iter().enumerate().filter(|(_, s)| !s.is_empty());
        Self {
            needles: needles.map(|(i, s)| Needle::new(i, s)).collect(),
            held: String::new(),
            released: 0,
            best: None,
            done: None,
        }
    }

    /// The stop string that ended the text.
    pub(super) fn stopped(&self) -> Option<usize> {
        self.done
    }

    /// Takes the next text and returns what is certain. Once stopped, returns nothing any more.
    pub(super) fn push(&mut self, text: &str) -> String {
        if self.done.is_some() {
            return String::new();
        }
        if self.needles.is_empty() {
            return text.to_owned();
        }
        let mut end = self.released + self.held.len();
        self.held.push_str(text);
        for &byte in text.as_bytes() {
            end += 1;
            for needle in &mut self.needles {
                if needle.advance(byte) {
                    let hit = Hit {
                        start: end - needle.bytes.len(),
                        end,
                        index: needle.index,
                    };
                    self.best = Some(self.best.map_or(hit, |best| best.min(hit)));
                }
            }
            if let Some(best) = self.best
                && self.earliest_partial(end) >= best.start
            {
                return self.stop_at(best);
            }
        }
        let certain = self
            .earliest_partial(end)
            .min(self.best.map_or(end, |best| best.start));
        self.release(certain)
    }

    /// Ends the text: returns all that was held back, up to a stop string that was found.
    pub(super) fn finish(&mut self) -> String {
        match self.best {
            _ if self.done.is_some() => String::new(),
            Some(best) => self.stop_at(best),
            None => std::mem::take(&mut self.held),
        }
    }

    /// Where the earliest stop string that may still be completed starts; `end` when there is none.
    fn earliest_partial(&self, end: usize) -> usize {
        end - self
            .needles
            .iter()
            .map(|needle| needle.matched)
            .max()
            .unwrap_or(0)
    }

    fn stop_at(&mut self, hit: Hit) -> String {
        self.done = Some(hit.index);
        let text = self.release(hit.start);
        self.held.clear();
        text
    }

    /// Gives out the text before byte `until`, which is the start of a stop string and so of a character.
    fn release(&mut self, until: usize) -> String {
        let count = until - self.released;
        self.released = until;
        let rest = self.held.split_off(count);
        std::mem::replace(&mut self.held, rest)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (Vec<String>, Option<usize>) {
        let stops: Vec<String> = stops.iter().map(|s| (*s).to_owned()).collect();
        let mut finder = StopFinder::new(&stops);
        let mut out: Vec<String> = pieces.iter().map(|piece| finder.push(piece)).collect();
        out.push(finder.finish());
        (out, finder.stopped())
    }

    #[test]
    fn holds_back_only_what_may_still_match() {
        assert_eq!(
            run(&["</s>"], &["a<", "/", "b", "c"]).0,
            ["a", "", "</b", "c", ""]
        );
        assert_eq!(
            run(&["</s>"], &["a</", "s", "> more"]),
            (vec!["a".into(), "".into(), "".into(), "".into()], Some(0))
        );
        assert_eq!(run(&["</s>"], &["a</s"]).0, ["a", "</s"]);
    }

    #[test]
    fn the_earliest_start_wins_and_then_the_shortest() {
        assert_eq!(
            run(&["abcd", "bc"], &["xabc", "d"]),
            (vec!["x".into(), "".into(), "".into()], Some(0))
        );
        assert_eq!(
            run(&["abcd", "bc"], &["xabc", "e"]),
            (vec!["x".into(), "a".into(), "".into()], Some(1))
        );
        assert_eq!(
            run(&["abcd", "bc"], &["xabc"]),
            (vec!["x".into(), "a".into()], Some(1))
        );
        assert_eq!(
            run(&["ab", "a"], &["xab"]),
            (vec!["x".into(), "".into()], Some(1))
        );
    }

    #[test]
    fn empty_stop_strings_never_match() {
        assert_eq!(
            run(&["", "b"], &["ab"]),
            (vec!["a".into(), "".into()], Some(1))
        );
        assert_eq!(run(&[""], &["ab"]), (vec!["ab".into(), "".into()], None));
    }

    /// Every cut of every text over a small alphabet gives what a search of the whole text gives.
    #[test]
    fn equals_a_search_of_the_whole_text_under_every_cut() {
        let sets: [&[&str]; 5] = [
            &["aab"],
            &["aab", "ab"],
            &["aba", "bab"],
            &["ééa", "éa"],
            &["b", "aaab", "aaé"],
        ];
        let letters = ["a", "b", "é"];
        for stops in sets {
            for code in 0..3usize.pow(6) {
                let chars: Vec<&str> = (0..6).map(|i| letters[code / 3usize.pow(i) % 3]).collect();
                let text = chars.concat();
                let best = stops
                    .iter()
                    .enumerate()
                    .filter_map(|(i, s)| Some((text.find(s)?, s.len(), i)))
                    .min();
                for cuts in 0..32u32 {
                    let mut pieces = vec![String::new()];
                    for (i, c) in chars.iter().enumerate() {
                        if i > 0 && cuts >> (i - 1) & 1 == 1 {
                            pieces.push(String::new());
                        }
                        pieces.last_mut().unwrap().push_str(c);
                    }
                    let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
                    let (out, stopped) = run(stops, &pieces);
                    assert_eq!(
                        out.concat(),
                        text[..best.map_or(text.len(), |b| b.0)],
                        "{stops:?} {pieces:?}"
                    );
                    assert_eq!(stopped, best.map(|b| b.2), "{stops:?} {pieces:?}");
                }
            }
        }
    }
}
