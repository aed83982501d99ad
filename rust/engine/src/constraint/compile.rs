//! From a form to a compiled grammar, within bounds: size of the source, work of the lexer, size of the grammar, and time
//! on the clock. A compilation runs on a thread of its own that nobody has to wait for. Knows nothing of requests.
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::{JsonCompileOptions, Matcher, ParserFactory, TokenParser};
use parking_lot::{Condvar, Mutex};
use serde_json::Value;
use toktrie::{InferenceCapabilities, TokEnv};

use super::keywords;
use super::spec::{Form, Whitespace};
use super::{gbnf, regex};
use crate::error::{Error, Refused, Result};

/// Time that one compilation may take, and time that one may wait for its turn. Machines that run tests may be busy.
const PATIENCE: Duration = Duration::from_secs(if cfg!(test) { 60 } else { 1 });
/// Compilations at once, given-up ones among them.
const AT_ONCE: usize = 2;
/// Stack of a compiling thread: schemas and grammars are walked by recursion. Only what is used takes memory.
const STACK: usize = 32 << 20;

/// What a grammar is compiled from; equal ones are compiled once.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Source {
    pub(super) form: Form,
    pub(super) whitespace: Whitespace,
    /// What stands behind the form, if anything.
    pub(super) end: String,
}

/// Compiles for one vocabulary.
pub(super) struct Compiler {
    factory: Arc<ParserFactory>,
    /// Turns that are free.
    turns: Arc<(Mutex<usize>, Condvar)>,
}

/// A turn, given back when the compilation is over, whoever waits for it.
struct Turn(Arc<(Mutex<usize>, Condvar)>);

impl Drop for Turn {
    fn drop(&mut self) {
        *self.0.0.lock() += 1;
        self.0.1.notify_one();
    }
}

impl Compiler {
    /// Prepares slices of the vocabulary, once.
    ///
    /// # Errors
    /// `Config` when the vocabulary cannot serve.
    pub(super) fn new(env: &TokEnv) -> Result<Self> {
        let capabilities = InferenceCapabilities {
            ff_tokens: env.tokenize_is_canonical(),
            ..InferenceCapabilities::default()
        };
        let slices = llguidance::earley::SlicedBiasComputer::general_slices();
        let mut factory = ParserFactory::new(env, capabilities, &slices).map_err(|e| {
            let expected = "left out: this model's vocabulary cannot be held to a form";
            Refused::new("structured_output", first_line(&e.to_string()), expected)
        })?;
        *factory.limits_mut() = limits();
        factory.quiet();
        Ok(Self {
            factory: Arc::new(factory),
            turns: Arc::new((Mutex::new(AT_ONCE), Condvar::new())),
        })
    }

    /// The grammar of `source`, at its start. Waits for at most twice [`PATIENCE`].
    ///
    /// # Errors
    /// `Config` naming what is not held or not understood, or the bound that was met; `QueueFull` when other
    /// compilations took too long to wait for.
    pub(super) fn compile(&self, source: &Source) -> Result<TokenParser> {
        let turn = self.turn()?;
        let (tell, told) = bounded(1);
        let (factory, work) = (self.factory.clone(), source.clone());
        std::thread::Builder::new()
            .name("candle-vllm-grammar".into())
            .stack_size(STACK)
            .spawn(move || {
                candle_vllm_kernels::cpu::stand_back();
                let made = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    make(&factory, &work)
                }));
                drop(turn);
                // Nobody hears when it took too long.
                let _ = tell.send(made);
            })
            .map_err(|e| {
                Error::Generation(format!("cannot start a thread to compile with: {e}"))
            })?;
        let field = source.form.field();
        match told.recv_timeout(PATIENCE) {
            Ok(Ok(made)) => Ok(made?),
            Ok(Err(panic)) => {
                let value = crate::fault::message(&*panic);
                Err(Refused::new(field, value, "a form that can be compiled").into())
            }
            Err(_) => {
                let value = format!("{} bytes that take longer", source.form.source_len());
                let expected = format!("compiled within {} s", PATIENCE.as_secs());
                Err(Refused::new(field, value, expected).into())
            }
        }
    }

    fn turn(&self) -> Result<Turn> {
        let until = Instant::now() + PATIENCE;
        let mut free = self.turns.0.lock();
        while *free == 0 {
            if self.turns.1.wait_until(&mut free, until).timed_out() {
                return Err(Error::QueueFull(
                    "other grammars are being compiled and take long: try again later".into(),
                ));
            }
        }
        *free -= 1;
        Ok(Turn(self.turns.clone()))
    }
}

/// What a grammar may cost: compiling about 20 ms of regular-expression work and a few MB, a mask at most about 5 ms.
fn limits() -> ParserLimits {
    ParserLimits {
        max_items_in_row: 2_000,
        initial_lexer_fuel: 1_000_000,
        step_lexer_fuel: 60_000,
        step_max_items: 50_000,
        max_lexer_states: 20_000,
        max_grammar_size: 200_000,
        precompute_large_lexemes: true,
        verbose_errors: false,
    }
}

fn make(factory: &ParserFactory, source: &Source) -> std::result::Result<TokenParser, Refused> {
    let field = source.form.field();
    let grammar = write(source)?;
    let parse = |grammar| -> std::result::Result<TokenParser, String> {
        let parser = factory.create_parser(grammar);
        parser.map_err(|e| first_line(&format!("{e:#}")))
    };
    let mut parser = parse(grammar).map_err(|said| {
        blame(source, &said, |form| {
            let alone = Source {
                form,
                ..source.clone()
            };
            parse(write(&alone)?)
                .map(drop)
                .map_err(|said| Refused::new(field, said, ""))
        })
    })?;
    if let Form::JsonSchema(_) = source.form
        && let Some(warning) = parser.grammar_warnings().first()
    {
        return Err(Refused::new(
            field,
            first_line(warning),
            "a schema all of which is enforced",
        ));
    }
    parser.start_without_prompt();
    // What can never begin is told now, not when a request runs.
    match Matcher::new(Ok(parser.deep_clone())).compute_mask() {
        Ok(_) => Ok(parser),
        Err(e) => {
            let expected = "a form that some answer can have, within the bounds of work";
            Err(Refused::new(field, first_line(&e.to_string()), expected))
        }
    }
}

/// The grammar in the library's own form.
fn write(source: &Source) -> std::result::Result<TopLevelGrammar, Refused> {
    let end = &source.end;
    let lark = match &source.form {
        Form::JsonObject => return Ok(json(serde_json::json!({"type": "object"}), source)),
        Form::JsonSchema(text) => {
            let schema: Value = serde_json::from_str(text).map_err(|e| {
                Refused::new("json_schema", format!("a text that is none ({e})"), "JSON")
            })?;
            keywords::check(&schema)?;
            return Ok(json(schema, source));
        }
        Form::Regex(expression) => regex::whole(expression, end)?,
        Form::Choice(texts) => regex::choice(texts, end),
        Form::Lark(lark) => nested(lark, end),
        Form::Gbnf(text) => {
            let lark = gbnf::to_lark(text);
            let wrong = |said| Refused::new("grammar", said, "a grammar in llama.cpp's notation");
            nested(&lark.map_err(wrong)?, end)
        }
    };
    Ok(TopLevelGrammar::from_lark(lark))
}

/// A schema with the layout that its text has.
fn json(schema: Value, source: &Source) -> TopLevelGrammar {
    let (item, key) = match source.whitespace {
        Whitespace::Single => (", ", ": "),
        Whitespace::Compact | Whitespace::Any => (",", ":"),
    };
    let options = JsonCompileOptions {
        item_separator: item.into(),
        key_separator: key.into(),
        whitespace_flexible: source.whitespace == Whitespace::Any,
        // Without `\u....`: spelt with it, the name of a property would pass for another one.
        json_allowed_escapes: Some("nrbtf\\\"".into()),
        ..JsonCompileOptions::default()
    };
    let mut schema = match schema {
        // What is neither true nor an object has been refused, but for `false`, which nothing satisfies.
        Value::Bool(true) => Value::Object(serde_json::Map::new()),
        Value::Bool(false) => serde_json::json!({"allOf": [false]}),
        schema => schema,
    };
    options.apply_to(&mut schema);
    match source.end.is_empty() {
        true => TopLevelGrammar::from_json_schema(schema),
        false => {
            let end = &source.end;
            TopLevelGrammar::from_lark(format!("start: body {end}\nbody: %json {schema}\n"))
        }
    }
}

/// A grammar with its end behind it.
fn nested(lark: &str, end: &str) -> String {
    match end.is_empty() {
        true => lark.to_owned(),
        false => format!("start: body {end}\nbody: %lark {{\n{lark}\n}}\n"),
    }
}

/// What the library refused, with the place in a schema where one can be found.
fn blame(
    source: &Source,
    said: &str,
    compiles: impl Fn(Form) -> std::result::Result<(), Refused>,
) -> Refused {
    let field = source.form.field();
    let Form::JsonSchema(text) = &source.form else {
        return Refused::new(field, said, "a form that can be compiled");
    };
    let schema: Value = serde_json::from_str(text).unwrap_or_default();
    for (keyword, expected) in [
        (
            "pattern",
            "an expression without look-around and references back",
        ),
        (
            "patternProperties",
            "expressions without look-around, no two of which match one name",
        ),
        (
            "oneOf",
            "of schemas that can be told apart by type, or by a required property's constant",
        ),
        (
            "maxProperties",
            "left out, unless every property is required",
        ),
        (
            "minProperties",
            "left out, unless every property is required",
        ),
    ] {
        for place in keywords::places(&schema, &[keyword]) {
            let part = part(&schema, &place, keyword);
            if compiles(Form::JsonSchema(part.to_string())).is_err() {
                let value = schema.pointer(&format!("{place}/{keyword}"));
                let value = format!(
                    "{} ({said})",
                    value.map(Value::to_string).unwrap_or_default()
                );
                return keywords::refuse(keyword, &place, value, expected);
            }
        }
    }
    Refused::new(field, said, "a schema that can be compiled")
}

/// One keyword of a schema alone, with what it may depend on.
fn part(schema: &Value, place: &str, keyword: &str) -> Value {
    let mut part = serde_json::Map::new();
    for shared in ["$schema", "$defs", "definitions"] {
        if let Some(value) = schema.get(shared) {
            part.insert(shared.into(), value.clone());
        }
    }
    let siblings: &[&str] = match keyword {
        "pattern" => &["pattern"],
        "patternProperties" => &["type", "properties", "patternProperties"],
        "oneOf" => &["type", "properties", "required", "oneOf"],
        _ => &[
            "type",
            "properties",
            "required",
            "additionalProperties",
            "minProperties",
            "maxProperties",
        ],
    };
    let at = schema.pointer(place);
    for sibling in siblings {
        if let Some(value) = at.and_then(|at| at.get(*sibling)) {
            part.insert((*sibling).into(), value.clone());
        }
    }
    Value::Object(part)
}

/// What an error says, without what the library adds for its own developers.
pub(super) fn first_line(text: &str) -> String {
    let text = text.split("\n<").next().unwrap_or(text).trim();
    let mut line = text.lines().next().unwrap_or(text).to_owned();
    if let Some((cut, _)) = line.char_indices().nth(300) {
        line.truncate(cut);
    }
    line
}
