//! A rule without an engine: texts are fed token by token, as a model that wanted to write them would.
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_vllm_model::weights::{Checkpoint, TokenizerSource};

use crate::constraint::{Constraint, Form, Forms, Next, StructuredOutput};
use crate::text::Tokenizer;

pub fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens")
}

pub fn tiny() -> Tokenizer {
    Tokenizer::load(&TokenizerSource::Folder(goldens().join("hf/llama"))).unwrap()
}

/// SmolLM2's own vocabulary; `None` where `CANDLE_VLLM_TEST_MODEL` does not say where it lies.
pub fn smollm2() -> Option<Tokenizer> {
    let path = std::env::var_os("CANDLE_VLLM_TEST_MODEL")?;
    Some(Tokenizer::load(&Checkpoint::open(Path::new(&path)).unwrap().tokenizer).unwrap())
}

/// All vocabularies at hand.
pub fn all() -> Vec<(Tokenizer, Forms)> {
    [Some(tiny()), smollm2()]
        .into_iter()
        .flatten()
        .map(with_forms)
        .collect()
}

pub fn with_forms(tokenizer: Tokenizer) -> (Tokenizer, Forms) {
    let ends: Arc<[u32]> = tokenizer.eos_ids().into();
    // A model's logits may be wider than its vocabulary.
    let forms = Forms::new(tokenizer.clone(), tokenizer.vocab_size() + 7, ends);
    (tokenizer, forms)
}

/// The mask of the row behind the answer so far: whether a token may come.
pub fn allowed(rule: &mut dyn Constraint, vocab: usize) -> impl Fn(u32) -> bool + use<> {
    rule.start(&[]);
    let mut mask = vec![0; vocab.div_ceil(32)];
    let held = rule.mask(0, &mut mask).unwrap();
    move |id: u32| !held || mask[id as usize / 32] >> (id % 32) & 1 == 1
}

/// Whether a text is an answer of this form. Written in single bytes, as no forced spelling would have it, too: a form is
/// about texts.
pub fn accepts(tokenizer: &Tokenizer, forms: &Forms, form: &Form, text: &str) -> bool {
    let asked = StructuredOutput::of(form.clone());
    accepts_asked(tokenizer, forms, &asked, text)
}

pub fn accepts_asked(
    tokenizer: &Tokenizer,
    forms: &Forms,
    asked: &StructuredOutput,
    text: &str,
) -> bool {
    let mut rule = forms.constraint(asked).unwrap();
    write(tokenizer, &mut *rule, text)
}

/// Writes a text: forced tokens are taken as they come, and what is free in whatever tokens the mask allows.
pub fn write(tokenizer: &Tokenizer, rule: &mut dyn Constraint, text: &str) -> bool {
    let vocab = tokenizer.vocab_size() + 7;
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        let may = allowed(rule, vocab);
        let fits = |id: &u32| {
            let bytes = tokenizer.token_bytes(*id);
            !bytes.is_empty() && !tokenizer.is_special(*id) && rest.starts_with(bytes) && may(*id)
        };
        let best = (0..vocab as u32)
            .filter(fits)
            .max_by_key(|&id| tokenizer.token_bytes(id).len());
        let Some(id) = best else { return false };
        rest = &rest[tokenizer.token_bytes(id).len()..];
        match rule.accept(id).unwrap() {
            Next::Complete => return rest.is_empty(),
            Next::Open => {}
        }
        for id in rule.forced().unwrap() {
            match rest.strip_prefix(tokenizer.token_bytes(id)) {
                Some(left) => rest = left,
                // It may have been what ends a part.
                None if tokenizer.is_special(id) => {}
                None => return false,
            }
            if rule.accept(id).unwrap() == Next::Complete {
                return rest.is_empty();
            }
        }
    }
    let may = allowed(rule, vocab);
    tokenizer.eos_ids().iter().any(|&id| may(id))
}

pub fn schema(text: &str) -> Form {
    Form::JsonSchema(text.into())
}

/// What a refusal says.
pub fn refusal(forms: &Forms, form: Form) -> String {
    match forms.constraint(&StructuredOutput::of(form.clone())) {
        Err(e) => e.to_string(),
        Ok(_) => panic!("{form:?} was not refused"),
    }
}
