//! Answers under a form in an engine: beside others, preempted, cached, forced or drawn one by one, they are the same and
//! have their form.
use std::path::Path;

use candle_vllm_model::weights::TokenizerSource;

use super::fake::{BLOCK, Fake};
use crate::{
    Engine, EngineConfig, Form, GenerationParams, Mailbox, Prompt, Request, StructuredOutput,
    Tokenizer, Trigger,
};

const SCHEMA: &str = r#"{"type": "object", "properties": {"kind": {"enum": ["first", "second"]}, "count": {"type": "integer",
    "minimum": 0, "maximum": 999}, "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3}},
    "required": ["kind", "count", "tags"], "additionalProperties": false}"#;

fn engine(blocks: usize) -> Engine {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/hf/llama");
    let tokenizer = Tokenizer::load(&TokenizerSource::Folder(folder)).unwrap();
    let (model, _) = Fake::sized(400, tokenizer.vocab_size() + 3);
    let config = EngineConfig {
        background: false,
        kv_cache_memory: Some((blocks * BLOCK * 4) as u64),
        ..Default::default()
    };
    Engine::from_model(config, model, Some(tokenizer), vec![]).unwrap()
}

fn params(form: Option<Form>, seed: u64) -> GenerationParams {
    GenerationParams {
        max_tokens: 150,
        seed: Some(seed),
        structured_output: form.map(StructuredOutput::of),
        ..Default::default()
    }
}

/// All answers, submitted together: text, tokens, and how they ended.
fn run(engine: &Engine, all: &[GenerationParams]) -> Vec<(String, Vec<u32>, &'static str)> {
    let mailboxes: Vec<Mailbox> = (all.iter())
        .map(|params| {
            let mailbox = Mailbox::new();
            let prompt = Prompt::Text("A prompt that all of them share".into());
            engine
                .submit(Request::new(prompt, params.clone()), &mailbox)
                .unwrap();
            mailbox
        })
        .collect();
    while engine.step().unwrap().has_work() {}
    engine.check_blocks().unwrap();
    let answer = |mailbox: &Mailbox| {
        let events = mailbox.try_poll();
        let text = events.iter().map(|e| e.text.as_str()).collect();
        let tokens = events.iter().flat_map(|e| e.tokens.clone()).collect();
        let finish = events.last().unwrap().finish.clone().unwrap();
        (text, tokens, finish.reason.as_str())
    };
    mailboxes.iter().map(answer).collect()
}

fn has_form(text: &str) -> bool {
    let Ok(value) = serde_json::from_str::<serde_json::Value>(text) else {
        return false;
    };
    let count = value["count"].as_u64();
    let tags = value["tags"].as_array();
    value.as_object().is_some_and(|map| map.len() == 3)
        && matches!(value["kind"].as_str(), Some("first" | "second"))
        && count.is_some_and(|count| count < 1000)
        && tags
            .is_some_and(|tags| tags.len() <= 3 && tags.iter().all(serde_json::Value::is_boolean))
}

fn mixture() -> Vec<GenerationParams> {
    let forms = |seed: u64| match seed % 5 {
        0 | 1 => Some(Form::JsonSchema(SCHEMA.into())),
        2 => Some(Form::Regex("(ab|[0-9]{2} )+".into())),
        3 => Some(Form::Choice(vec![
            "yes".into(),
            "certainly".into(),
            "no".into(),
        ])),
        _ => None,
    };
    (0..15).map(|seed| params(forms(seed), seed)).collect()
}

#[test]
fn answers_have_their_form_and_are_the_same_alone_together_and_preempted() {
    let all = mixture();
    let alone: Vec<_> = (all.iter())
        .flat_map(|p| run(&engine(400), std::slice::from_ref(p)))
        .collect();
    let roomy = engine(2000);
    assert_eq!(run(&roomy, &all), alone);
    // Again, from the prefix cache.
    assert_eq!(run(&roomy, &all), alone);
    assert!(roomy.stats().counters.prefix_hit_tokens > 0);
    let tight = engine(60);
    assert_eq!(run(&tight, &all), alone);
    assert!(tight.stats().counters.preemptions > 0, "memory was tight");
    for (i, (text, _, ended)) in alone.iter().enumerate() {
        let good = match i % 5 {
            0 | 1 => has_form(text),
            3 => ["yes", "certainly", "no"].contains(&&**text),
            _ => true,
        };
        assert!(
            good && (*ended == "stop" || i % 5 == 4 || i % 5 == 2),
            "{i}: {ended} {text:?}"
        );
    }
}

#[test]
fn forced_tokens_change_nothing_but_the_steps() {
    for seed in 0..8 {
        let forced = params(Some(Form::JsonSchema(SCHEMA.into())), seed);
        let drawn = GenerationParams {
            logprobs: Some(0),
            ..forced.clone()
        };
        let (a, b) = (engine(400), engine(400));
        assert_eq!(run(&a, &[forced]), run(&b, &[drawn]));
        let steps = |engine: &Engine| engine.stats().counters.steps;
        assert!(
            steps(&a) * 13 < steps(&b) * 10,
            "{} steps against {}",
            steps(&a),
            steps(&b)
        );
    }
}

#[test]
fn stop_strings_and_lengths_cut_what_has_a_form() {
    let form = Some(Form::JsonSchema(SCHEMA.into()));
    let cut = GenerationParams {
        stop_sequences: vec!["\"count\"".into()],
        ..params(form.clone(), 1)
    };
    let short = GenerationParams {
        max_tokens: 12,
        ..params(form, 1)
    };
    let answers = run(&engine(400), &[cut, short]);
    assert_eq!(answers[0].2, "stop_sequence");
    assert!(answers[0].0.ends_with(", ") && answers[0].0.starts_with("{\"kind\": "));
    assert_eq!((answers[1].1.len(), answers[1].2), (12, "length"));
}

#[test]
fn a_form_ends_the_answer_though_ends_are_ignored() {
    let ignoring = GenerationParams {
        ignore_eos: true,
        ..params(Some(Form::Regex("[ab]{3,}".into())), 3)
    };
    let (text, tokens, ended) = run(&engine(400), &[ignoring]).remove(0);
    assert!(text.bytes().all(|b| b == b'a' || b == b'b'));
    assert!(ended == "stop" && tokens.len() < 150, "{ended}: {text}");
}

#[test]
fn parts_have_their_form_within_free_text() {
    let engine = engine(2000);
    let trigger = Trigger {
        begin: "a".into(),
        form: Form::Regex("[0-9]{3}".into()),
        end: "!".into(),
    };
    let asked = StructuredOutput {
        form: None,
        triggers: vec![trigger],
        least: 2,
        most: Some(3),
        ..StructuredOutput::of(Form::JsonObject)
    };
    let all: Vec<_> = (0..10)
        .map(|seed| GenerationParams {
            structured_output: Some(asked.clone()),
            max_tokens: 300,
            ..params(None, seed)
        })
        .collect();
    let mut ended = 0;
    for (text, _, reason) in run(&engine, &all) {
        let parts: Vec<&str> = text.split('a').skip(1).collect();
        for (i, part) in parts.iter().enumerate() {
            let (digits, rest) = part.split_at(part.len().min(4));
            let whole = digits.len() == 4
                && digits[..3].bytes().all(|b| b.is_ascii_digit())
                && digits.ends_with('!');
            let cut = reason == "length" && i + 1 == parts.len() && rest.is_empty();
            assert!(whole || cut, "{text:?}");
        }
        if reason == "stop" {
            ended += 1;
            assert!((2..=3).contains(&parts.len()), "{text:?}");
        }
    }
    assert!(ended > 0);
}

#[test]
fn what_cannot_be_held_never_runs() {
    let engine = engine(400);
    let mailbox = Mailbox::new();
    let bad = params(Some(Form::JsonSchema(r#"{"not": {}}"#.into())), 1);
    let refused = engine
        .submit(Request::new(Prompt::Tokens(vec![5]), bad), &mailbox)
        .unwrap_err();
    assert!(refused.to_string().contains("`not` at #"), "{refused}");
    let early = GenerationParams {
        min_tokens: 3,
        ..params(Some(Form::JsonObject), 1)
    };
    let refused = engine
        .submit(Request::new(Prompt::Tokens(vec![5]), early), &mailbox)
        .unwrap_err();
    assert!(refused.to_string().starts_with("min_tokens"), "{refused}");
    assert_eq!(engine.stats().waiting, 0);
}
