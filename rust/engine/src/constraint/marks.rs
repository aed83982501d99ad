//! Texts that are looked for in an answer as its tokens come, so that what follows them begins with a token of its own.
//! Knows nothing of grammars.

/// A text and where it may end within a token.
#[derive(Debug)]
struct Mark {
    text: Vec<u8>,
    /// Of each beginning of the text, the longest one that it also ends with.
    back: Vec<u32>,
}

/// Texts to look for.
#[derive(Debug)]
pub(super) struct Marks {
    marks: Vec<Mark>,
    /// Tokens that may go on behind the end of a text: those that hold a text's end and more.
    crossing: Vec<u32>,
}

/// How much of each text the answer ends with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found(Vec<u32>);

impl Mark {
    fn new(text: &str) -> Self {
        let text = text.as_bytes().to_vec();
        let mut back = vec![0; text.len() + 1];
        let mut same = 0;
        for at in 1..text.len() {
            while same > 0 && text[at] != text[same] {
                same = back[same] as usize;
            }
            same += usize::from(text[at] == text[same]);
            back[at + 1] = same as u32;
        }
        Self { text, back }
    }

    /// How much of the text stands at the end after one more byte.
    fn step(&self, mut have: usize, byte: u8) -> usize {
        if have == self.text.len() {
            have = self.back[have] as usize;
        }
        while have > 0 && self.text[have] != byte {
            have = self.back[have] as usize;
        }
        have + usize::from(self.text[have] == byte)
    }

    /// Whether some text before `bytes` lets this mark end within them, and not at their end.
    fn may_cross(&self, bytes: &[u8]) -> bool {
        (1..bytes.len()).any(|end| {
            let (inside, size) = (&bytes[..end], self.text.len());
            match end < size {
                true => self.text.ends_with(inside),
                false => inside.ends_with(&self.text),
            }
        })
    }
}

impl Marks {
    /// Looks for `texts` in a vocabulary of tokens given by their texts.
    pub(super) fn new<'a>(
        texts: impl Iterator<Item = &'a str>,
        tokens: impl Iterator<Item = &'a [u8]>,
    ) -> Self {
        let marks: Vec<Mark> = texts.map(Mark::new).collect();
        let crosses = |bytes: &[u8]| marks.iter().any(|mark| mark.may_cross(bytes));
        let crossing = (0..).zip(tokens).filter(|(_, bytes)| crosses(bytes));
        let crossing = crossing.map(|(id, _)| id).collect();
        Self { marks, crossing }
    }

    /// Nothing is there yet.
    pub(super) fn start(&self) -> Found {
        Found(vec![0; self.marks.len()])
    }

    /// Takes a token's text. The text that ended with it, if any: of several the longest.
    ///
    /// # Errors
    /// The text that ended before the token did.
    pub(super) fn push(&self, found: &mut Found, token: &[u8]) -> Result<Option<usize>, usize> {
        let mut whole = None;
        for (at, byte) in token.iter().enumerate() {
            for (i, (mark, have)) in self.marks.iter().zip(&mut found.0).enumerate() {
                *have = mark.step(*have as usize, *byte) as u32;
                if *have as usize == mark.text.len() {
                    if at + 1 < token.len() {
                        return Err(i);
                    }
                    let longer = |old: usize| self.marks[old].text.len() >= mark.text.len();
                    whole = whole.filter(|&old| longer(old)).or(Some(i));
                }
            }
        }
        Ok(whole)
    }

    /// Tokens that may not come now: they would go on behind the end of a text.
    pub(super) fn banned<'a>(
        &'a self,
        found: &'a Found,
        text: impl Fn(u32) -> &'a [u8] + 'a,
    ) -> impl Iterator<Item = u32> + 'a {
        self.crossing.iter().copied().filter(move |&id| {
            let mut found = found.clone();
            self.push(&mut found, text(id)).is_err()
        })
    }
}
