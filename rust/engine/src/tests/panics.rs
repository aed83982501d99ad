//! Panics injected at each place of the engine: nobody hangs, everybody hears one last word, and only what is broken ends.
use std::time::Duration;

use super::fake::Fake;
use crate::event::{Event, FinishReason, StopReason};
use crate::fault::{Faults, Place};
use crate::{Engine, EngineConfig, GenerationParams, Mailbox, Prompt, Request};

fn engine(background: bool) -> (Engine, Faults) {
    let faults = Faults::default();
    let config = EngineConfig {
        background,
        max_batch_size: 2,
        faults: faults.clone(),
        ..Default::default()
    };
    let (model, controls) = Fake::small(256);
    controls.delay.store(1, std::sync::atomic::Ordering::SeqCst);
    (
        Engine::from_model(config, model, None, vec![]).unwrap(),
        faults,
    )
}

fn request(first: u32, max_tokens: usize) -> Request {
    let params = GenerationParams {
        max_tokens,
        ignore_eos: true,
        seed: Some(1),
        ..Default::default()
    };
    Request::new(Prompt::Tokens(vec![first, 2, 3]), params)
}

/// Steps an engine that does not by itself, and returns a mailbox's events up to the last one of `ends` requests.
fn hear(engine: &Engine, background: bool, mailbox: &Mailbox, ends: usize) -> Vec<Event> {
    let mut all: Vec<Event> = Vec::new();
    for _ in 0..2000 {
        if background {
            all.extend(mailbox.poll(Some(Duration::from_millis(10))));
        } else {
            // Errors are what is looked for.
            let _ = engine.step();
            all.extend(mailbox.try_poll());
        }
        if all.iter().filter(|e| e.finish.is_some()).count() >= ends {
            return all;
        }
    }
    panic!("somebody never heard of the end: {all:?}");
}

fn ends(events: &[Event]) -> Vec<(u64, FinishReason, String)> {
    let end = |e: &Event| {
        let finish = e.finish.clone()?;
        let text = match finish.stop_reason {
            Some(StopReason::Text(text)) => text,
            _ => String::new(),
        };
        Some((e.request, finish.reason, text))
    };
    events.iter().filter_map(end).collect()
}

/// The engine is dead: every request was told so, once, and later ones are refused.
fn all_fail(place: Place, background: bool) {
    let (engine, faults) = engine(background);
    let boxes: Vec<Mailbox> = (0..5).map(|_| Mailbox::new()).collect();
    let submit = |i: usize| engine.submit(request(i as u32, 200), &boxes[i]).unwrap();
    let first = submit(0);
    if background {
        boxes[0].poll(None);
    } else {
        engine.step().unwrap();
    }
    faults.arm(place, None);
    // Two run, two wait or are not even seen yet; a fifth one, if it is not refused, is owed a word too.
    let ids: Vec<u64> = (1..4)
        .filter_map(|i| engine.submit(request(i as u32, 200), &boxes[i]).ok())
        .collect();
    if place == Place::Abort {
        engine.abort(first);
    }
    let mut told = Vec::new();
    for mailbox in &boxes[..=ids.len()] {
        told.extend(ends(&hear(&engine, background, mailbox, 1)));
    }
    std::thread::sleep(Duration::from_millis(5));
    for mailbox in &boxes {
        assert!(
            mailbox.try_poll().iter().all(|e| e.finish.is_none()),
            "{place:?}: a second last word"
        );
    }
    assert_eq!(told.len(), ids.len() + 1);
    for (_, reason, text) in &told {
        assert_eq!(*reason, FinishReason::Error, "{place:?}");
        assert!(
            text.contains(&format!("injected at {place:?}")),
            "{place:?}: {text}"
        );
    }
    let stats = engine.stats();
    assert!(!stats.healthy && stats.failure.is_some(), "{place:?}");
    assert_eq!((stats.running, stats.waiting), (0, 0));
    let refusal = engine.submit(request(9, 1), &boxes[4]).unwrap_err();
    assert!(
        refusal.to_string().contains("injected"),
        "{place:?}: {refusal}"
    );
    engine.abort(first);
    engine.close();
    assert!(
        engine
            .submit(request(9, 1), &boxes[4])
            .unwrap_err()
            .to_string()
            .contains("closed")
    );
}

#[test]
fn a_panic_of_the_engine_is_told_to_everybody_and_refuses_who_comes_later() {
    let places = [
        Place::Command,
        Place::Abort,
        Place::Schedule,
        Place::Postprocess,
        Place::Publish,
        Place::Flush,
    ];
    for place in places {
        for background in [true, false] {
            all_fail(place, background);
        }
    }
}

#[test]
fn a_panic_while_closing_leaves_nobody_without_a_word() {
    for place in [Place::Command, Place::Publish, Place::Flush] {
        for background in [true, false] {
            let (engine, faults) = engine(background);
            let boxes: Vec<Mailbox> = (0..3).map(|_| Mailbox::new()).collect();
            for (i, mailbox) in boxes.iter().enumerate() {
                engine.submit(request(i as u32, 200), mailbox).unwrap();
            }
            if background {
                boxes[0].poll(None);
            } else {
                engine.step().unwrap();
            }
            faults.arm(place, None);
            engine.close();
            for mailbox in &boxes {
                assert_eq!(ends(&mailbox.try_poll()).len(), 1, "{place:?}");
            }
        }
    }
}

#[test]
fn a_panic_of_one_sequence_ends_that_one_alone() {
    for place in [Place::Draw, Place::Take, Place::Finish] {
        for background in [true, false] {
            let (engine, faults) = engine(background);
            let (good, bad) = (Mailbox::new(), Mailbox::new());
            // The second request's number is known before it is submitted.
            faults.arm(place, Some(2));
            engine.submit(request(1, 10), &good).unwrap();
            let id = engine.submit(request(2, 10), &bad).unwrap();
            assert_eq!(id, 2);
            let told = ends(&hear(&engine, background, &bad, 1));
            assert_eq!(
                (told[0].0, told[0].1),
                (2, FinishReason::Error),
                "{place:?}"
            );
            assert!(told[0].2.contains("injected"), "{}", told[0].2);
            let told = ends(&hear(&engine, background, &good, 1));
            assert_eq!(told[0].1, FinishReason::Length, "{place:?}");
            let stats = engine.stats();
            assert!(stats.healthy);
            assert_eq!((stats.counters.errors, stats.counters.finished), (1, 2));
            assert_eq!(stats.kv_blocks_free, stats.kv_blocks_total);
            // And it still serves.
            engine.submit(request(3, 5), &good).unwrap();
            assert_eq!(
                ends(&hear(&engine, background, &good, 1))[0].1,
                FinishReason::Length
            );
        }
    }
}

#[test]
fn a_panic_in_the_text_of_a_request_that_is_cancelled_or_unheard_ends_that_one_alone() {
    for background in [true, false] {
        let (engine, faults) = engine(background);
        let (good, bad) = (Mailbox::new(), Mailbox::new());
        faults.arm(Place::Finish, Some(1));
        engine.submit(request(1, 250), &bad).unwrap();
        engine.abort(1);
        assert_eq!(
            ends(&hear(&engine, background, &bad, 1))[0].1,
            FinishReason::Error
        );
        faults.arm(Place::Finish, Some(2));
        engine.submit(request(2, 250), &bad).unwrap();
        drop(bad);
        engine.submit(request(3, 5), &good).unwrap();
        assert_eq!(
            ends(&hear(&engine, background, &good, 1))[0].1,
            FinishReason::Length
        );
        assert!(engine.stats().healthy);
    }
}
