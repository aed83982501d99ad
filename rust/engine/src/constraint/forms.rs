//! All that an engine needs to hold answers to forms: its vocabulary, made when first asked for, and grammars that were
//! compiled before. Called on the threads of those who submit. Knows nothing of sequences.
use std::sync::{Arc, OnceLock};

use llguidance::TokenParser;
use parking_lot::Mutex;

use super::Constraint;
use super::cache::Cache;
use super::compile::{Compiler, Source};
use super::held::Held;
use super::marks::Marks;
use super::parts::{Parts, Plan, Rule};
use super::regex::literal;
use super::spec::{Form, StructuredOutput, Whitespace};
use super::vocabulary::Vocabulary;
use crate::error::Result;
use crate::text::Tokenizer;

/// Bytes of compiled grammars that are kept.
const CACHE: usize = 64 << 20;

/// Forms of answers for one model.
pub(crate) struct Forms {
    tokenizer: Tokenizer,
    /// Tokens of the model's logits.
    vocab: usize,
    ends: Arc<[u32]>,
    compiler: OnceLock<Result<Compiler>>,
    cache: Mutex<Cache>,
}

impl Forms {
    /// `vocab`: tokens of the model's logits; `ends`: ids that end an answer.
    pub(crate) fn new(tokenizer: Tokenizer, vocab: usize, ends: Arc<[u32]>) -> Self {
        Self {
            tokenizer,
            vocab,
            ends,
            compiler: OnceLock::new(),
            cache: Mutex::new(Cache::new(CACHE)),
        }
    }

    /// The rule for one answer.
    ///
    /// # Errors
    /// `Config` naming what cannot be held, and the errors of [`Compiler::compile`].
    pub(crate) fn constraint(&self, asked: &StructuredOutput) -> Result<Box<dyn Constraint>> {
        asked.validate()?;
        let rule = match &asked.form {
            Some(form) => Rule::Whole(Box::new(self.grammar(form, asked.whitespace, "")?)),
            None => Rule::Parts {
                begins: self.marks(asked.triggers.iter().map(|t| t.begin.as_str())),
                grammars: (asked.triggers.iter())
                    .map(|t| self.grammar(&t.form, asked.whitespace, &t.end))
                    .collect::<Result<_>>()?,
                least: asked.least,
                most: asked.most.unwrap_or(usize::MAX),
            },
        };
        let plan = Plan {
            tokenizer: self.tokenizer.clone(),
            ends: self.ends.clone(),
            after: asked
                .after
                .as_deref()
                .map(|after| self.marks([after].into_iter())),
            rule,
        };
        Ok(Box::new(Held::new(Parts::new(plan), self.vocab)))
    }

    fn grammar(&self, form: &Form, whitespace: Whitespace, end: &str) -> Result<TokenParser> {
        let source = Source {
            form: form.clone(),
            whitespace,
            end: self.end(end),
        };
        if let Some(parser) = self.cache.lock().get(&source) {
            return Ok(parser);
        }
        let parser = self.compiler()?.compile(&source)?;
        self.cache.lock().put(source, parser.deep_clone());
        Ok(parser)
    }

    fn compiler(&self) -> Result<&Compiler> {
        let make = || {
            let vocabulary = Vocabulary::new(&self.tokenizer, self.vocab, &self.ends)?;
            Compiler::new(&vocabulary.shared())
        };
        self.compiler
            .get_or_init(make)
            .as_ref()
            .map_err(Clone::clone)
    }

    /// What ends a part, as Lark writes it: a special token as itself.
    fn end(&self, text: &str) -> String {
        match self.tokenizer.encode_inner(text).as_deref() {
            _ if text.is_empty() => String::new(),
            Ok(&[id]) if self.tokenizer.is_special(id) => format!("<[{id}]>"),
            _ => literal(text),
        }
    }

    fn marks<'a>(&'a self, texts: impl Iterator<Item = &'a str>) -> Marks {
        let tokens = (0..self.vocab as u32).map(|id| self.tokenizer.token_bytes(id));
        Marks::new(texts, tokens)
    }

    /// Grammars that are kept, and bytes that they count for.
    #[cfg(test)]
    pub(super) fn kept(&self) -> (usize, usize) {
        self.cache.lock().size()
    }
}
