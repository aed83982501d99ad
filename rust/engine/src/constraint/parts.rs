//! An answer under a rule: all of it follows a grammar, or it is free up to some text and then follows one: behind the end
//! of reasoning, or in parts that have a form wherever the model begins one. Knows nothing of sequences.
use std::sync::Arc;

use llguidance::TokenParser;

use super::Next;
use super::grammar::Grammar;
use super::marks::{Found, Marks};
use crate::error::{Error, Result};
use crate::text::Tokenizer;

/// What an answer may consist of.
pub(super) struct Plan {
    pub(super) tokenizer: Tokenizer,
    /// Ids that end an answer.
    pub(super) ends: Arc<[u32]>,
    /// The text behind which the rule begins.
    pub(super) after: Option<Marks>,
    pub(super) rule: Rule,
}

/// The rule of an answer.
pub(super) enum Rule {
    /// All of it has one form.
    Whole(Box<TokenParser>),
    /// Parts of it have.
    Parts {
        begins: Marks,
        /// The grammar behind each begin.
        grammars: Vec<TokenParser>,
        /// No end before this many.
        least: usize,
        /// The end with this many.
        most: usize,
    },
}

/// Which tokens may come at one place.
pub(super) enum Row<'a> {
    /// All.
    Free,
    /// Those with a bit.
    Only(&'a [u32]),
    /// All but these.
    Without(&'a [u32]),
}

/// Where an answer is.
enum Place {
    /// In text that is free up to the text behind which the rule begins.
    Before(Found),
    /// In free text between parts.
    Between(Found),
    /// In something that has a form.
    Within(Box<Grammar>),
}

/// An answer under a plan.
pub(super) struct Parts {
    plan: Plan,
    place: Place,
    /// Parts that are complete.
    count: usize,
}

fn broken(what: &str) -> Error {
    Error::Generation(format!("the answer broke its rule: {what}"))
}

impl Plan {
    /// The place where the rule begins.
    fn begin(&self) -> Place {
        match &self.rule {
            Rule::Whole(parser) => {
                Place::Within(Box::new(Grammar::new(parser.as_ref().deep_clone())))
            }
            Rule::Parts { begins, .. } => Place::Between(begins.start()),
        }
    }

    fn text(&self, id: u32) -> &[u8] {
        self.tokenizer.token_bytes(id)
    }
}

impl Parts {
    pub(super) fn new(plan: Plan) -> Self {
        let place = match &plan.after {
            Some(after) => Place::Before(after.start()),
            None => plan.begin(),
        };
        Self {
            plan,
            place,
            count: 0,
        }
    }

    /// What is looked for in free text, how much of it is there, and whether the answer may end.
    fn free(&self) -> Option<(&Marks, &Found, bool)> {
        match (&self.place, &self.plan.after, &self.plan.rule) {
            (Place::Before(found), Some(after), _) => Some((after, found, false)),
            (Place::Between(found), _, Rule::Parts { begins, least, .. }) => {
                Some((begins, found, self.count >= *least))
            }
            _ => None,
        }
    }

    /// How many of `draft` may follow: in free text, those before a form begins.
    pub(super) fn admit(&mut self, draft: &[u32]) -> Result<usize> {
        if let Place::Within(grammar) = &mut self.place {
            return grammar.admit(draft, &self.plan.ends);
        }
        let Some((marks, found, _)) = self.free() else {
            return Ok(0);
        };
        let mut found = found.clone();
        let plain = |id: &&u32| {
            !self.plan.ends.contains(id) && marks.push(&mut found, self.plan.text(**id)) == Ok(None)
        };
        Ok(draft.iter().take_while(plain).count())
    }

    /// Finds what may follow the answer so far, and it with each beginning of `draft`, which was admitted. `fill` gets one
    /// row after the other.
    pub(super) fn rows(&mut self, draft: &[u32], mut fill: impl FnMut(Row<'_>)) -> Result<()> {
        if let Place::Within(grammar) = &mut self.place {
            return grammar.masks(draft, |mask| fill(Row::Only(mask)));
        }
        let Some((marks, found, may_end)) = self.free() else {
            return Err(broken("it is nowhere"));
        };
        let mut found = found.clone();
        for i in 0..=draft.len() {
            let mut banned: Vec<u32> = marks.banned(&found, |id| self.plan.text(id)).collect();
            if !may_end {
                banned.extend_from_slice(&self.plan.ends);
            }
            match banned.is_empty() {
                true => fill(Row::Free),
                false => fill(Row::Without(&banned)),
            }
            if let Some(&id) = draft.get(i)
                && marks.push(&mut found, self.plan.text(id)) != Ok(None)
            {
                return Err(broken("a draft went past a begin"));
            }
        }
        Ok(())
    }

    /// Takes a token.
    pub(super) fn accept(&mut self, token: u32) -> Result<Next> {
        let ends = self.plan.ends.contains(&token);
        if let Place::Within(grammar) = &mut self.place {
            return match grammar.accept(token)? {
                Next::Open => Ok(Next::Open),
                Next::Complete => Ok(self.part_is_complete(ends)),
            };
        }
        if ends {
            let may_end = self.free().is_some_and(|(.., may_end)| may_end);
            return match may_end {
                true => Ok(Next::Complete),
                false => Err(broken("it ended too early")),
            };
        }
        let begun = match (&mut self.place, &self.plan.after, &self.plan.rule) {
            (Place::Before(found), Some(marks), _) => {
                let text = self.plan.tokenizer.token_bytes(token);
                marks
                    .push(found, text)
                    .map(|hit| hit.map(|_| self.plan.begin()))
            }
            (
                Place::Between(found),
                _,
                Rule::Parts {
                    begins, grammars, ..
                },
            ) => {
                let text = self.plan.tokenizer.token_bytes(token);
                begins.push(found, text).map(|hit| {
                    hit.map(|i| Place::Within(Box::new(Grammar::new(grammars[i].deep_clone()))))
                })
            }
            _ => Ok(None),
        };
        match begun {
            Ok(Some(place)) => self.place = place,
            Ok(None) => {}
            Err(_) => return Err(broken("a token went past a begin")),
        }
        Ok(Next::Open)
    }

    fn part_is_complete(&mut self, ended: bool) -> Next {
        let Rule::Parts { begins, most, .. } = &self.plan.rule else {
            return Next::Complete;
        };
        self.count += 1;
        if ended || self.count >= *most {
            return Next::Complete;
        }
        self.place = Place::Between(begins.start());
        Next::Open
    }

    /// Tokens that must follow.
    pub(super) fn forced(&mut self) -> Result<Vec<u32>> {
        match &mut self.place {
            Place::Within(grammar) => grammar.forced(),
            _ => Ok(Vec::new()),
        }
    }
}
