//! What a request asks for and what it gets: text, stops, lengths, scores, order of service.
use std::path::Path;
use std::sync::atomic::Ordering;

use candle_vllm_model::weights::TokenizerSource;

use super::fake::{BLOCK, Fake, VOCAB};
use crate::event::{Event, Finish, FinishReason, StopReason};
use crate::{Engine, EngineConfig, Error, GenerationParams, Mailbox, Prompt, Request, Tokenizer};

fn engine(config: EngineConfig) -> Engine {
    let config = EngineConfig {
        background: false,
        ..config
    };
    Engine::from_model(config, Fake::small(256).0, None, vec![]).unwrap()
}

fn tokens(prompt: &[u32], params: GenerationParams) -> Request {
    Request::new(Prompt::Tokens(prompt.to_vec()), params)
}

/// All of one request: text, tokens, events, end.
fn run(engine: &Engine, request: Request) -> (String, Vec<u32>, Vec<Event>, Finish) {
    let mailbox = Mailbox::new();
    engine.submit(request, &mailbox).unwrap();
    while engine.step().unwrap().has_work() {}
    let events = mailbox.try_poll();
    let text = events.iter().map(|e| e.text.as_str()).collect();
    let tokens = events.iter().flat_map(|e| e.tokens.clone()).collect();
    let finish = events.last().unwrap().finish.clone().unwrap();
    (text, tokens, events, finish)
}

fn speaking() -> (Engine, Tokenizer) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/hf/llama");
    let tokenizer = Tokenizer::load(&TokenizerSource::Folder(folder)).unwrap();
    let (model, _) = Fake::sized(256, tokenizer.vocab_size());
    let config = EngineConfig {
        background: false,
        ..Default::default()
    };
    (
        Engine::from_model(config, model, Some(tokenizer.clone()), vec![]).unwrap(),
        tokenizer,
    )
}

fn said(seed: u64) -> GenerationParams {
    GenerationParams {
        max_tokens: 60,
        ignore_eos: true,
        seed: Some(seed),
        ..Default::default()
    }
}

#[test]
fn pieces_add_up_to_the_text_of_the_tokens() {
    let (engine, tokenizer) = speaking();
    for seed in 0..20 {
        let (text, tokens, events, finish) = run(
            &engine,
            Request::new(Prompt::Text("Hello".into()), said(seed)),
        );
        assert_eq!(text, tokenizer.decode(&tokens, true).unwrap());
        assert_eq!(
            (tokens.len(), events.len(), finish.reason),
            (60, 60, FinishReason::Length)
        );
        assert_eq!(
            finish.stats.prompt_tokens,
            tokenizer.encode("Hello", true).unwrap().len()
        );
    }
}

#[test]
fn stop_strings_cut_the_text_and_are_named() {
    let (engine, _) = speaking();
    let mut found = 0;
    for seed in 0..30 {
        let (whole, ..) = run(&engine, Request::new(Prompt::Text("Hi".into()), said(seed)));
        let Some((at, stop)) = whole.char_indices().nth(12).map(|(at, _)| {
            let stop: String = whole[at..].chars().take(3).collect();
            (whole.find(&stop).unwrap_or(at), stop)
        }) else {
            continue;
        };
        found += 1;
        let mut params = said(seed);
        params.stop_sequences = vec!["never said".into(), stop.clone()];
        let (text, tokens, _, finish) =
            run(&engine, Request::new(Prompt::Text("Hi".into()), params));
        assert_eq!(text, whole[..at]);
        assert_eq!(finish.reason, FinishReason::StopSequence);
        assert_eq!(finish.stop_reason, Some(StopReason::Text(stop)));
        assert!(tokens.len() < 60);
    }
    assert!(found > 20);
}

/// A tokenizer whose tokens can only be decoded together: words of a vocabulary of `VOCAB`, joined by spaces.
fn whole() -> Tokenizer {
    let words: Vec<String> = (0..VOCAB).map(|i| format!("\"w{i}\":{i}")).collect();
    let json = format!(
        r#"{{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
"pre_tokenizer":{{"type":"Whitespace"}},"post_processor":null,
"decoder":{{"type":"WordPiece","prefix":"\u0023\u0023","cleanup":false}},
"model":{{"type":"WordLevel","vocab":{{{}}},"unk_token":"w0"}}}}"#,
        words.join(",")
    );
    let folder = std::env::temp_dir().join(format!("candle-vllm-whole-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("tokenizer.json"), json).unwrap();
    let tokenizer = Tokenizer::load(&TokenizerSource::Folder(folder.clone())).unwrap();
    std::fs::remove_dir_all(folder).unwrap();
    tokenizer
}

#[test]
fn stop_strings_stop_a_text_that_can_only_be_decoded_whole() {
    let config = EngineConfig {
        background: false,
        ..Default::default()
    };
    let (model, _) = Fake::small(256);
    let engine = Engine::from_model(config, model, Some(whole()), vec![]).unwrap();
    for seed in 0..10 {
        let mut params = said(seed);
        params.max_tokens = 200;
        let (text, tokens, ..) = run(&engine, tokens(&[1], params.clone()));
        assert_eq!(
            text,
            tokens
                .iter()
                .map(|t| format!("w{t}"))
                .collect::<Vec<_>>()
                .join(" ")
        );
        // The end of the 41st word and the whole of the next one.
        let stop = format!("{} w{}", tokens[40] % 10, tokens[41]);
        let at = text.find(&stop).unwrap();
        params.stop_sequences = vec!["never said".into(), stop.clone()];
        let (stopped, spent, _, finish) = run(&engine, self::tokens(&[1], params));
        assert_eq!(stopped, text[..at]);
        assert_eq!(finish.reason, FinishReason::StopSequence);
        assert_eq!(finish.stop_reason, Some(StopReason::Text(stop)));
        assert!(spent.len() <= 41 + 12, "{} tokens", spent.len());
    }
}

#[test]
fn end_ids_end_the_answer_and_are_in_its_tokens_but_not_in_its_text() {
    let (engine, tokenizer) = speaking();
    let prompt = || Prompt::Text("Hi".into());
    let (_, all, ..) = run(&engine, Request::new(prompt(), said(3)));
    let stop = all[10];
    let end = all.iter().position(|&t| t == stop).unwrap();
    let mut params = said(3);
    params.stop_token_ids = vec![stop];
    let (text, tokens, _, finish) = run(&engine, Request::new(prompt(), params));
    assert_eq!(tokens, all[..=end]);
    assert_eq!(text, tokenizer.decode(&all[..end], true).unwrap());
    assert_eq!(
        (finish.reason, finish.stop_reason),
        (FinishReason::Stop, Some(StopReason::Token(stop)))
    );
    // An end-of-sequence id of the model is the same, unless it is ignored.
    let eos = engine.model_info().eos_token_ids[0];
    let biased = |ignore_eos| GenerationParams {
        logit_bias: vec![(eos, 100.0)],
        ignore_eos,
        ..said(3)
    };
    let (text, tokens, _, finish) = run(&engine, Request::new(prompt(), biased(false)));
    assert_eq!((text.as_str(), tokens.as_slice()), ("", &[eos][..]));
    assert_eq!(
        (finish.reason, finish.stop_reason),
        (FinishReason::Stop, Some(StopReason::Token(eos)))
    );
    let (_, tokens, _, finish) = run(&engine, Request::new(prompt(), biased(true)));
    assert_eq!((tokens.len(), finish.reason), (60, FinishReason::Length));
}

#[test]
fn a_prompt_is_scored_without_an_answer() {
    for chunk in [1, 3, 512] {
        let engine = engine(EngineConfig {
            prefill_chunk_size: chunk,
            max_batch_size: 1,
            ..Default::default()
        });
        let params = GenerationParams {
            max_tokens: 0,
            prompt_logprobs: Some(2),
            ..Default::default()
        };
        let prompt = [5, 6, 7, 8, 9, 10, 11, 12, 13];
        let mut last = None;
        // The second time, cached blocks must not hide the scores.
        for _ in 0..2 {
            let (_, tokens, events, finish) = run(&engine, tokens(&prompt, params.clone()));
            assert!(tokens.is_empty() && events.len() == 1);
            assert_eq!(
                (finish.reason, finish.stats.cached_tokens),
                (FinishReason::Length, 0)
            );
            let scores = events[0].prompt_logprobs.clone().unwrap();
            assert_eq!(scores.len(), prompt.len());
            assert!(scores[0].is_none());
            for (token, score) in prompt.iter().zip(&scores).skip(1) {
                let score = score.as_ref().unwrap();
                assert_eq!((score.token_id, score.top.len()), (*token, 2));
                assert!(score.top[0].1 >= score.top[1].1);
            }
            assert!(last.is_none_or(|l| l == scores));
            last = Some(scores);
        }
    }
}

#[test]
fn lengths_end_at_max_tokens_or_at_the_longest_sequence() {
    let engine = engine(EngineConfig {
        max_sequence_length: Some(20),
        ..Default::default()
    });
    let params = |max_tokens| GenerationParams {
        max_tokens,
        ..Default::default()
    };
    let (_, got, _, finish) = run(&engine, tokens(&[1; 5], params(7)));
    assert_eq!((got.len(), finish.reason), (7, FinishReason::Length));
    let (_, got, _, finish) = run(&engine, tokens(&[1; 5], params(1000)));
    assert_eq!((got.len(), finish.reason), (15, FinishReason::Length));
    let mailbox = Mailbox::new();
    let refusal = engine
        .submit(tokens(&[1; 20], params(1)), &mailbox)
        .unwrap_err();
    assert!(refusal.to_string().contains("at most 19"), "{refusal}");
}

#[test]
fn what_needs_a_tokenizer_is_refused_without_one() {
    let engine = engine(EngineConfig::default());
    let mailbox = Mailbox::new();
    let text = Request::new(Prompt::Text("Hi".into()), GenerationParams::default());
    assert!(matches!(
        engine.submit(text, &mailbox),
        Err(Error::Tokenization(_))
    ));
    let params = GenerationParams {
        stop_sequences: vec!["x".into()],
        ..Default::default()
    };
    assert!(matches!(
        engine.submit(tokens(&[1], params), &mailbox),
        Err(Error::Config(_))
    ));
    assert!(engine.tokenizer().is_err());
    assert_eq!(engine.stats().waiting, 0);
}

#[test]
fn rows_of_a_mixed_batch_are_sampled_by_their_own_parameters() {
    let some = |seed| GenerationParams {
        max_tokens: 30,
        seed: Some(seed),
        logprobs: Some(1),
        ..Default::default()
    };
    let all = [
        GenerationParams {
            temperature: 0.0,
            ..some(1)
        },
        GenerationParams {
            temperature: 2.0,
            ..some(2)
        },
        GenerationParams {
            top_k: Some(2),
            ..some(3)
        },
        GenerationParams {
            top_p: 0.3,
            ..some(4)
        },
        GenerationParams {
            min_p: 0.5,
            ..some(5)
        },
        GenerationParams {
            repetition_penalty: 1.8,
            ..some(6)
        },
        GenerationParams {
            frequency_penalty: 2.0,
            presence_penalty: 1.0,
            ..some(7)
        },
        GenerationParams {
            logit_bias: vec![(9, 100.0)],
            ..some(8)
        },
        GenerationParams {
            max_tokens: 5,
            prompt_logprobs: Some(1),
            ..some(9)
        },
        some(10),
    ];
    let alone: Vec<Vec<Event>> = (all.iter())
        .map(|params| {
            run(
                &engine(EngineConfig::default()),
                tokens(&[1, 2, 3, 4, 5], params.clone()),
            )
            .2
        })
        .collect();
    let together = engine(EngineConfig::default());
    let boxes: Vec<Mailbox> = all.iter().map(|_| Mailbox::new()).collect();
    for (params, mailbox) in all.iter().zip(&boxes) {
        together
            .submit(tokens(&[1, 2, 3, 4, 5], params.clone()), mailbox)
            .unwrap();
    }
    while together.step().unwrap().has_work() {}
    for (mailbox, alone) in boxes.iter().zip(&alone) {
        let got = mailbox.try_poll();
        assert_eq!(got.len(), alone.len());
        for (a, b) in got.iter().zip(alone) {
            assert_eq!(
                (&a.tokens, &a.logprobs, &a.prompt_logprobs),
                (&b.tokens, &b.logprobs, &b.prompt_logprobs)
            );
            assert_eq!(a.logprobs.len(), a.tokens.len());
        }
    }
    let biased: Vec<u32> = alone[7].iter().flat_map(|e| e.tokens.clone()).collect();
    assert_eq!(biased, [9; 30]);
}

#[test]
fn decodes_come_first_and_prompts_share_what_is_left() {
    let engine = engine(EngineConfig {
        prefill_chunk_size: 8,
        max_batch_size: 4,
        ..Default::default()
    });
    let mailbox = Mailbox::new();
    let params = GenerationParams {
        max_tokens: 50,
        ..Default::default()
    };
    engine
        .submit(tokens(&[1, 2], params.clone()), &mailbox)
        .unwrap();
    assert_eq!(engine.step().unwrap().tokens, 2);
    let prompt: Vec<u32> = (0..20).collect();
    engine.submit(tokens(&prompt, params), &mailbox).unwrap();
    for (tokens, answers) in [(8, 1), (8, 1), (7, 2), (2, 2)] {
        mailbox.try_poll();
        assert_eq!(engine.step().unwrap().tokens, tokens);
        assert_eq!(mailbox.try_poll().len(), answers);
    }
}

#[test]
fn without_chunks_a_prompt_is_computed_whole_beside_decodes_but_not_beside_another_prompt() {
    let engine = engine(EngineConfig {
        prefill_chunk_size: 8,
        max_batch_size: 4,
        enable_chunked_prefill: false,
        ..Default::default()
    });
    let mailbox = Mailbox::new();
    let params = GenerationParams {
        max_tokens: 50,
        ..Default::default()
    };
    for start in [0, 5, 10] {
        let prompt: Vec<u32> = (start..start + 20).collect();
        engine
            .submit(tokens(&prompt, params.clone()), &mailbox)
            .unwrap();
    }
    assert_eq!(
        (1..=4)
            .map(|_| engine.step().unwrap().tokens)
            .collect::<Vec<_>>(),
        [20, 21, 22, 3]
    );
}

#[test]
fn smaller_priorities_go_first_and_equal_ones_in_order_of_arrival() {
    let engine = engine(EngineConfig {
        max_batch_size: 1,
        ..Default::default()
    });
    let mailbox = Mailbox::new();
    let mut submit = |priority: i32| {
        let mut request = tokens(
            &[1],
            GenerationParams {
                max_tokens: 1,
                ..Default::default()
            },
        );
        request.priority = priority;
        engine.submit(request, &mailbox).unwrap()
    };
    let ids: Vec<u64> = [5, 0, 5, -1].into_iter().map(&mut submit).collect();
    while engine.step().unwrap().has_work() {}
    let order: Vec<u64> = mailbox.try_poll().iter().map(|e| e.request).collect();
    assert_eq!(order, [ids[3], ids[1], ids[0], ids[2]]);
}

#[test]
fn a_request_that_finds_no_room_waits_for_the_running_ones_to_end() {
    // Ten blocks: the second prompt needs eight of them and waits until the first, with five, has ended.
    let engine = engine(EngineConfig {
        kv_cache_memory: Some((10 * BLOCK * 4) as u64),
        ..Default::default()
    });
    let mailbox = Mailbox::new();
    let params = |max_tokens| GenerationParams {
        max_tokens,
        ..Default::default()
    };
    let first = engine
        .submit(tokens(&[1; 16], params(4)), &mailbox)
        .unwrap();
    let second = engine
        .submit(tokens(&[2; 32], params(4)), &mailbox)
        .unwrap();
    let third = engine.submit(tokens(&[3; 4], params(1)), &mailbox).unwrap();
    engine.step().unwrap();
    assert_eq!(
        (engine.stats().running, engine.stats().waiting),
        (1, 2),
        "nobody overtakes the second"
    );
    while engine.step().unwrap().has_work() {
        engine.check_blocks().unwrap();
    }
    let order: Vec<u64> = mailbox
        .try_poll()
        .iter()
        .filter(|e| e.finish.is_some())
        .map(|e| e.request)
        .collect();
    assert_eq!(order, [first, third, second]);
    assert_eq!(engine.stats().counters.preemptions, 0);
}

#[test]
fn a_cache_that_holds_all_sequences_whole_runs_them_all_at_once() {
    // Twelve blocks are three for each of four sequences, and the first has its three before the last one comes.
    let engine = engine(EngineConfig {
        kv_cache_memory: Some((12 * BLOCK * 4) as u64),
        prefill_chunk_size: 4,
        max_batch_size: 4,
        ..Default::default()
    });
    let mailbox = Mailbox::new();
    for prompt in 1..=4 {
        let params = GenerationParams {
            max_tokens: 7,
            ignore_eos: true,
            ..Default::default()
        };
        engine
            .submit(tokens(&[prompt; 6], params), &mailbox)
            .unwrap();
    }
    let mut most = 0;
    while engine.step().unwrap().has_work() {
        engine.check_blocks().unwrap();
        most = most.max(engine.stats().running);
    }
    assert_eq!((most, engine.stats().counters.preemptions), (4, 0));
}

#[test]
fn scores_of_long_prompts_are_computed_in_bounded_pieces() {
    // 64 MiB of logits are 32 rows of this vocabulary.
    let vocab = (64 << 20) / 4 / 32;
    let (model, controls) = Fake::sized(256, vocab);
    let config = EngineConfig {
        background: false,
        ..Default::default()
    };
    let engine = Engine::from_model(config, model, None, vec![]).unwrap();
    let params = GenerationParams {
        max_tokens: 0,
        prompt_logprobs: Some(0),
        ..Default::default()
    };
    let (_, _, events, _) = run(&engine, tokens(&[VOCAB as u32; 70], params));
    assert_eq!(events[0].prompt_logprobs.as_ref().unwrap().len(), 70);
    assert_eq!(controls.steps.load(Ordering::SeqCst), 3);
}
