//! What a request may ask of its answer's form, and the limits that need no tokenizer.
//! Plain records; knows nothing of how a form is held.
use std::fmt::Display;

use crate::error::{Refused, Result};

/// Bytes of a schema, expression or grammar at most.
pub(super) const MAX_SOURCE: usize = 512 << 10;
/// Texts of a choice at most.
const MAX_CHOICES: usize = 4096;
/// Triggers at most.
const MAX_TRIGGERS: usize = 256;
/// Bytes of a text that begins or ends something at most.
const MAX_MARK: usize = 256;

/// A form that an answer, or a part of it, has.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Form {
    /// Any JSON object.
    JsonObject,
    /// JSON that a schema allows (drafts 6 to 2020-12), as its text.
    JsonSchema(String),
    /// A text that an expression matches from its first to its last character.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// A grammar in Lark's notation, as llguidance reads it.
    Lark(String),
    /// A grammar in llama.cpp's notation.
    Gbnf(String),
}

/// White space between the parts of JSON.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Whitespace {
    /// One line, as Python's `json.dumps` writes it: a space behind each comma and colon and nowhere else. Most of what
    /// can be forced is then forced, and no answer ends in blanks.
    #[default]
    Single,
    /// None at all.
    Compact,
    /// Any, anywhere that JSON allows it.
    Any,
}

/// A part of an answer that has a form, wherever the model begins one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Trigger {
    /// What begins it; text or the text of a special token.
    pub begin: String,
    /// The form of what follows.
    pub form: Form,
    /// What stands behind it, if anything.
    pub end: String,
}

/// What an answer must conform to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StructuredOutput {
    /// The form of the whole answer; `None` = free text with `triggers`.
    pub form: Option<Form>,
    /// White space of JSON, in `form` and `triggers`.
    pub whitespace: Whitespace,
    /// The rule begins behind this text (or special token); before it everything but an end is free.
    pub after: Option<String>,
    /// Parts that have a form once the model begins them. Only without `form`.
    pub triggers: Vec<Trigger>,
    /// No end before this many parts.
    pub least: usize,
    /// The answer ends with this many parts; `None` = as many as it likes.
    pub most: Option<usize>,
}

impl StructuredOutput {
    /// An answer that is all of one form.
    pub fn of(form: Form) -> Self {
        Self {
            form: Some(form),
            whitespace: Whitespace::default(),
            after: None,
            triggers: Vec::new(),
            least: 0,
            most: None,
        }
    }

    /// Checks what does not depend on the tokenizer.
    ///
    /// # Errors
    /// `Config`, naming the field, its value and the range.
    pub fn validate(&self) -> Result<()> {
        let forms = usize::from(self.form.is_some()) + usize::from(!self.triggers.is_empty());
        let both = if forms == 0 { "neither" } else { "both" };
        within(
            "structured_output",
            both,
            forms == 1,
            "a form or triggers, one of the two",
        )?;
        within(
            "triggers",
            self.triggers.len(),
            self.triggers.len() <= MAX_TRIGGERS,
            format!("at most {MAX_TRIGGERS}"),
        )?;
        let counts = self.most.is_none_or(|most| most >= self.least.max(1));
        within(
            "most",
            self.most.unwrap_or_default(),
            counts,
            "at least 1 and at least `least`",
        )?;
        let counted = self.least > 0 || self.most.is_some();
        let of_triggers = !counted || !self.triggers.is_empty();
        within(
            "least",
            self.least,
            of_triggers,
            "left out without triggers: it counts them",
        )?;
        if let Some(after) = &self.after {
            mark("after", after, 1)?;
        }
        for trigger in &self.triggers {
            mark("triggers", &trigger.begin, 1)?;
            mark("triggers", &trigger.end, 0)?;
            trigger.form.validate()?;
        }
        self.form.as_ref().map_or(Ok(()), Form::validate)
    }
}

impl Form {
    /// A grammar in whichever of the two notations its first rule is written.
    pub fn grammar(text: &str) -> Self {
        let rule = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
        let first = text.lines().find(rule).unwrap_or_default().trim_start();
        let name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        match first
            .trim_start_matches(name)
            .trim_start()
            .starts_with("::=")
        {
            true => Self::Gbnf(text.to_owned()),
            false => Self::Lark(text.to_owned()),
        }
    }

    /// The field that errors name.
    pub(super) fn field(&self) -> &'static str {
        match self {
            Self::JsonObject => "json_object",
            Self::JsonSchema(_) => "json_schema",
            Self::Regex(_) => "regex",
            Self::Choice(_) => "choice",
            Self::Lark(_) | Self::Gbnf(_) => "grammar",
        }
    }

    /// Bytes of what the user wrote.
    pub(super) fn source_len(&self) -> usize {
        match self {
            Self::JsonObject => 0,
            Self::JsonSchema(s) | Self::Regex(s) | Self::Lark(s) | Self::Gbnf(s) => s.len(),
            Self::Choice(texts) => texts.iter().map(|text| text.len() + 1).sum(),
        }
    }

    fn validate(&self) -> Result<()> {
        let size = self.source_len();
        within(
            self.field(),
            format!("{size} bytes"),
            size <= MAX_SOURCE,
            format!("at most {MAX_SOURCE} bytes"),
        )?;
        if let Self::Choice(texts) = self {
            let count = texts.len();
            within(
                "choice",
                format!("{count} texts"),
                (1..=MAX_CHOICES).contains(&count),
                format!("1 to {MAX_CHOICES} texts"),
            )?;
            let empty = texts.iter().any(String::is_empty);
            within(
                "choice",
                "an empty text",
                !empty,
                "texts of at least one character",
            )?;
        }
        Ok(())
    }
}

fn mark(field: &'static str, text: &str, least: usize) -> Result<()> {
    within(
        field,
        format!("a text of {} bytes", text.len()),
        (least..=MAX_MARK).contains(&text.len()),
        format!("texts of {least} to {MAX_MARK} bytes"),
    )
}

fn within(
    field: &'static str,
    value: impl Display,
    ok: bool,
    range: impl Into<String>,
) -> Result<()> {
    match ok {
        true => Ok(()),
        false => Err(Refused::new(field, value, range).into()),
    }
}
