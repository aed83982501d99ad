//! The engine from outside: threads, waking, failing, closing, cancelling at every stage.
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::fake::{BLOCK, Controls, Fake, POISON};
use crate::event::{Event, FinishReason, StopReason};
use crate::{Engine, EngineConfig, Error, GenerationParams, Mailbox, Prompt, Request};

fn engine(config: EngineConfig) -> (Engine, Arc<Controls>) {
    let (model, controls) = Fake::small(256);
    (
        Engine::from_model(config, model, None, vec![]).unwrap(),
        controls,
    )
}

fn inline(blocks: usize) -> EngineConfig {
    EngineConfig {
        background: false,
        kv_cache_memory: Some((blocks * BLOCK * 4) as u64),
        ..Default::default()
    }
}

fn request(prompt: &[u32], max_tokens: usize) -> Request {
    let params = GenerationParams {
        max_tokens,
        ignore_eos: true,
        seed: Some(1),
        ..Default::default()
    };
    Request::new(Prompt::Tokens(prompt.to_vec()), params)
}

/// Polls until the request's last event.
fn finish(mailbox: &Mailbox) -> Vec<Event> {
    let mut all = Vec::new();
    let limit = Instant::now() + Duration::from_secs(20);
    while Instant::now() < limit {
        all.extend(mailbox.poll(Some(Duration::from_secs(20))));
        if all.last().is_some_and(|e: &Event| e.finish.is_some()) {
            return all;
        }
    }
    panic!("no end within 20 seconds");
}

fn reason(events: &[Event]) -> FinishReason {
    events.last().unwrap().finish.as_ref().unwrap().reason
}

fn message(events: &[Event]) -> String {
    match &events.last().unwrap().finish.as_ref().unwrap().stop_reason {
        Some(StopReason::Text(text)) => text.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn engines_and_mailboxes_cross_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Engine>();
    shared::<Mailbox>();
}

#[test]
fn many_threads_submit_and_wait() {
    let (engine, _) = engine(EngineConfig::default());
    std::thread::scope(|scope| {
        for t in 0..32u32 {
            let engine = &engine;
            scope.spawn(move || {
                let mailbox = Mailbox::new();
                engine.submit(request(&[t, 1, 2], 20), &mailbox).unwrap();
                let events = finish(&mailbox);
                assert_eq!(reason(&events), FinishReason::Length);
                assert_eq!(events.iter().map(|e| e.tokens.len()).sum::<usize>(), 20);
            });
        }
    });
    assert_eq!(engine.stats().counters.finished, 32);
}

#[test]
fn an_idle_engine_computes_nothing_and_wakes_for_the_next_request() {
    let (engine, controls) = engine(EngineConfig::default());
    let mailbox = Mailbox::new();
    engine.submit(request(&[1], 2), &mailbox).unwrap();
    finish(&mailbox);
    let steps = controls.steps.load(Ordering::SeqCst);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(controls.steps.load(Ordering::SeqCst), steps);
    engine.submit(request(&[2], 2), &mailbox).unwrap();
    finish(&mailbox);
}

#[test]
fn a_panic_fails_all_requests_and_the_engine_but_hangs_nobody() {
    for background in [true, false] {
        let (engine, controls) = engine(EngineConfig {
            background,
            max_batch_size: 2,
            ..Default::default()
        });
        controls.panic_at.store(3, Ordering::SeqCst);
        let boxes: Vec<Mailbox> = (0..4).map(|_| Mailbox::new()).collect();
        for (i, mailbox) in boxes.iter().enumerate() {
            // A submission may come after the panic already.
            let _ = engine.submit(request(&[i as u32], 100), mailbox);
        }
        if !background {
            while engine.step().is_ok() {}
        }
        let events = finish(&boxes[0]);
        assert_eq!(reason(&events), FinishReason::Error);
        assert!(message(&events).contains("asked to panic"));
        let stats = engine.stats();
        assert!(!stats.healthy && stats.failure.unwrap().contains("asked to panic"));
        assert_eq!(
            (stats.running, stats.waiting, stats.kv_blocks_free),
            (0, 0, stats.kv_blocks_total)
        );
        let refusal = engine.submit(request(&[1], 1), &boxes[0]).unwrap_err();
        assert!(refusal.to_string().contains("asked to panic"), "{refusal}");
        engine.close();
        assert_eq!(controls.dropped.load(Ordering::SeqCst), 1);
    }
}

#[test]
fn a_failed_step_fails_its_requests_and_no_others() {
    let (engine, controls) = engine(EngineConfig {
        max_batch_size: 1,
        ..inline(100)
    });
    controls.error_at.store(2, Ordering::SeqCst);
    let (first, second) = (Mailbox::new(), Mailbox::new());
    engine.submit(request(&[1, 2, 3], 5), &first).unwrap();
    engine.submit(request(&[1, 2, 3], 5), &second).unwrap();
    while engine.step().unwrap().has_work() {}
    let events = finish(&first);
    assert_eq!(
        (reason(&events), message(&events).as_str()),
        (FinishReason::Error, "asked to fail")
    );
    assert_eq!(reason(&finish(&second)), FinishReason::Length);
    assert!(engine.stats().healthy);
    assert_eq!(engine.stats().counters.errors, 1);
}

#[test]
fn logits_that_are_not_numbers_fail_their_own_request_only() {
    let (engine, _) = engine(inline(100));
    let (good, bad) = (Mailbox::new(), Mailbox::new());
    engine.submit(request(&[1, 2], 5), &good).unwrap();
    engine.submit(request(&[1, POISON], 5), &bad).unwrap();
    let mut scored = request(&[POISON, 1, 2], 5);
    scored.params.prompt_logprobs = Some(0);
    let third = Mailbox::new();
    engine.submit(scored, &third).unwrap();
    while engine.step().unwrap().has_work() {}
    assert_eq!(reason(&finish(&good)), FinishReason::Length);
    for mailbox in [&bad, &third] {
        let events = finish(mailbox);
        assert_eq!(reason(&events), FinishReason::Error);
        assert!(message(&events).contains("NaN"));
    }
    engine.check_blocks().unwrap();
}

#[test]
fn closing_cancels_everything_and_frees_the_model_before_it_returns() {
    for background in [true, false] {
        let (engine, controls) = engine(EngineConfig {
            background,
            max_batch_size: 1,
            ..Default::default()
        });
        controls.delay.store(2, Ordering::SeqCst);
        let (running, waiting) = (Mailbox::new(), Mailbox::new());
        engine.submit(request(&[1], 200), &running).unwrap();
        engine.submit(request(&[2], 200), &waiting).unwrap();
        if background {
            running.poll(None);
        } else {
            engine.step().unwrap();
        }
        engine.close();
        assert_eq!(controls.dropped.load(Ordering::SeqCst), 1);
        for mailbox in [&running, &waiting] {
            assert_eq!(reason(&finish(mailbox)), FinishReason::Cancelled);
        }
        let stats = engine.stats();
        assert!(stats.closed && stats.running + stats.waiting == 0);
        assert!(
            engine
                .submit(request(&[1], 1), &running)
                .unwrap_err()
                .to_string()
                .contains("closed")
        );
        assert!(engine.step().is_err());
        engine.abort(1);
        engine.close();
    }
}

#[test]
fn a_close_in_the_midst_of_submissions_answers_every_one_that_was_taken() {
    let (engine, _) = engine(EngineConfig::default());
    let mailbox = Mailbox::new();
    let taken = std::thread::scope(|scope| {
        let submit = || {
            (0..500)
                .filter(|_| engine.submit(request(&[1], 3), &mailbox).is_ok())
                .count()
        };
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(submit)).collect();
        std::thread::sleep(Duration::from_millis(3));
        engine.close();
        threads
            .into_iter()
            .map(|t| t.join().unwrap())
            .sum::<usize>()
    });
    let ends = mailbox
        .try_poll()
        .iter()
        .filter(|e| e.finish.is_some())
        .count();
    assert_eq!(ends, taken);
}

#[test]
fn a_full_queue_refuses_but_free_places_do_not_count_as_queue() {
    let (engine, _) = engine(EngineConfig {
        max_batch_size: 2,
        max_queue: Some(1),
        ..inline(100)
    });
    let mailbox = Mailbox::new();
    for _ in 0..3 {
        engine.submit(request(&[1], 50), &mailbox).unwrap();
    }
    let refusal = engine.submit(request(&[1], 50), &mailbox).unwrap_err();
    assert!(matches!(refusal, Error::QueueFull(_)), "{refusal:?}");
    engine.step().unwrap();
    assert!(engine.submit(request(&[1], 50), &mailbox).is_err());
    engine.abort(1);
    assert_eq!((engine.stats().running, engine.stats().waiting), (1, 1));
    engine.submit(request(&[1], 50), &mailbox).unwrap();
}

#[test]
fn cancelling_frees_blocks_at_every_stage() {
    // Room for one and a half of these prompts: the second waits, or is preempted, while the first runs.
    let (engine, _) = engine(EngineConfig {
        prefill_chunk_size: 8,
        enable_prefix_cache: false,
        ..inline(70)
    });
    let prompt: Vec<u32> = (0..64).map(|i| i % 40).collect();
    let start = |tokens: usize| {
        let mailbox = Mailbox::new();
        (
            engine.submit(request(&prompt, tokens), &mailbox).unwrap(),
            mailbox,
        )
    };
    let cancelled = |mailbox: &Mailbox, id: u64| {
        engine.abort(id);
        engine.abort(id);
        engine.check_blocks().unwrap();
        let events = mailbox.try_poll();
        assert_eq!(reason(&events), FinishReason::Cancelled);
        assert_eq!(events.iter().filter(|e| e.finish.is_some()).count(), 1);
        assert_eq!(engine.stats().kv_blocks_free, 70);
    };
    // Queued.
    let (id, mailbox) = start(10);
    cancelled(&mailbox, id);
    // In the midst of its prompt.
    let (id, mailbox) = start(10);
    engine.step().unwrap();
    assert_eq!(engine.stats().kv_blocks_free, 54);
    cancelled(&mailbox, id);
    // Decoding.
    let (id, mailbox) = start(100);
    for _ in 0..20 {
        engine.step().unwrap();
    }
    cancelled(&mailbox, id);
    // Preempted: three prompts fit, their answers do not.
    let all: Vec<_> = (0..3).map(|_| start(100)).collect();
    while engine.stats().counters.preemptions == 0 {
        engine.step().unwrap();
    }
    let (last, mailbox) = &all[2];
    assert_eq!((engine.stats().running, engine.stats().waiting), (2, 1));
    engine.abort(*last);
    assert_eq!(reason(&mailbox.try_poll()), FinishReason::Cancelled);
    all[..2].iter().for_each(|(id, _)| engine.abort(*id));
    assert_eq!(engine.stats().kv_blocks_free, 70);
    assert!(!engine.step().unwrap().has_work());
    engine.abort(12_345);
}

#[test]
fn a_dropped_mailbox_cancels_its_requests() {
    let (engine, _) = engine(inline(100));
    let mailbox = Mailbox::new();
    engine.submit(request(&[1], 200), &mailbox).unwrap();
    engine.step().unwrap();
    drop(mailbox);
    assert!(!engine.step().unwrap().has_work());
    assert_eq!(engine.stats().kv_blocks_free, 100);
    assert_eq!(engine.stats().counters.aborts, 1);
}

#[test]
fn one_prompt_many_times_is_computed_once() {
    let (engine, controls) = engine(inline(200));
    let mailbox = Mailbox::new();
    let prompt: Vec<u32> = (0..101).map(|i| i % 40).collect();
    for seed in 0..8 {
        let mut r = request(&prompt, 1);
        r.params.seed = Some(seed);
        engine.submit(r, &mailbox).unwrap();
    }
    while engine.step().unwrap().has_work() {}
    assert_eq!(controls.tokens.load(Ordering::SeqCst), 101 + 7);
    assert_eq!(engine.stats().counters.prefix_hit_tokens, 7 * 100);
    let cached: Vec<usize> = mailbox
        .try_poll()
        .iter()
        .filter_map(|e| e.finish.as_ref())
        .map(|f| f.stats.cached_tokens)
        .collect();
    assert_eq!(cached, [0, 100, 100, 100, 100, 100, 100, 100]);
}

#[test]
fn answers_enter_the_prefix_cache_and_salts_keep_it_apart() {
    let (engine, _) = engine(inline(200));
    let mailbox = Mailbox::new();
    let complete = |prompt: &[u32], salt: Option<&str>| {
        let mut r = request(prompt, 17);
        r.cache_salt = salt.map(str::to_owned);
        engine.submit(r, &mailbox).unwrap();
        while engine.step().unwrap().has_work() {}
        let events = mailbox.try_poll();
        let tokens: Vec<u32> = events.iter().flat_map(|e| e.tokens.clone()).collect();
        (
            tokens,
            events
                .last()
                .unwrap()
                .finish
                .as_ref()
                .unwrap()
                .stats
                .cached_tokens,
        )
    };
    let (answer, cached) = complete(&[1, 2, 3, 4], None);
    assert_eq!(cached, 0);
    let longer = [&[1, 2, 3, 4], &answer[..], &[5]].concat();
    // 4 + 16 tokens were computed: the last one generated never was.
    assert_eq!(complete(&longer, None).1, 20);
    assert_eq!(complete(&longer, Some("a")).1, 0);
    assert_eq!(complete(&longer, Some("a")).1, 20);
    assert_eq!(complete(&longer, Some("b")).1, 0);
}

#[test]
fn threads_that_submit_poll_cancel_and_vanish_leave_nothing_behind() {
    let (engine, _) = engine(EngineConfig {
        max_batch_size: 8,
        max_queue: Some(20),
        kv_cache_memory: Some(80 * BLOCK as u64 * 4),
        prefill_chunk_size: 16,
        ..Default::default()
    });
    let full = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for t in 0..8usize {
            let (engine, full) = (&engine, &full);
            scope.spawn(move || {
                for i in 0..60usize {
                    let mailbox = Mailbox::new();
                    let prompt: Vec<u32> = (0..1 + i * 13 % 60)
                        .map(|p| (p * (1 + t % 3)) as u32 % 40)
                        .collect();
                    let submitted: Vec<u64> = (0..4)
                        .filter_map(|_| {
                            match engine.submit(request(&prompt, 1 + i % 40), &mailbox) {
                                Ok(id) => Some(id),
                                Err(Error::QueueFull(_)) => {
                                    full.fetch_add(1, Ordering::Relaxed);
                                    None
                                }
                                Err(e) => panic!("{e}"),
                            }
                        })
                        .collect();
                    let cancelled = if (i + t) % 3 == 0 {
                        submitted.len() / 2
                    } else {
                        0
                    };
                    submitted[..cancelled]
                        .iter()
                        .for_each(|&id| engine.abort(id));
                    if (i + t) % 5 == 0 {
                        continue;
                    }
                    let mut open = submitted.len();
                    while open > 0 {
                        let events = mailbox.poll(Some(Duration::from_secs(20)));
                        assert!(!events.is_empty(), "no event within 20 seconds");
                        open -= events.iter().filter(|e| e.finish.is_some()).count();
                    }
                }
            });
        }
    });
    let limit = Instant::now() + Duration::from_secs(20);
    while engine.stats().running + engine.stats().waiting > 0 {
        assert!(Instant::now() < limit, "{:?}", engine.stats());
        std::thread::sleep(Duration::from_millis(1));
    }
    let stats = engine.stats();
    assert!(stats.healthy);
    assert_eq!(stats.kv_blocks_free, 80);
    assert!(
        stats.counters.aborts > 0 && full.load(Ordering::Relaxed) > 0,
        "{stats:?}"
    );
}

#[test]
fn threads_that_share_the_sampling_draw_what_one_draws() {
    let answers = |threads: usize| {
        let config = EngineConfig {
            background: false,
            kv_cache_memory: Some(1 << 20),
            ..Default::default()
        };
        // Twelve rows of 9,000 logits are worth waking threads for.
        let model = Fake::threaded(9_000, threads);
        let engine = Engine::from_model(config, model, None, vec![]).unwrap();
        let mailboxes: Vec<Mailbox> = (0..12)
            .map(|i| {
                let mailbox = Mailbox::new();
                let mut request = request(&[i, 3, i + 1], 6);
                request.params.top_p = if i % 2 == 0 { 0.9 } else { 1.0 };
                // One of them fails, and only that one.
                if i == 5 {
                    request.prompt = Prompt::Tokens(vec![POISON]);
                }
                engine.submit(request, &mailbox).unwrap();
                mailbox
            })
            .collect();
        while engine.step().unwrap().has_work() {}
        let events: Vec<Vec<Event>> = mailboxes.iter().map(Mailbox::try_poll).collect();
        for (i, events) in events.iter().enumerate() {
            let expected = if i == 5 {
                FinishReason::Error
            } else {
                FinishReason::Length
            };
            assert_eq!(reason(events), expected, "request {i}");
        }
        let tokens = events
            .iter()
            .map(|e| e.iter().flat_map(|e| e.tokens.clone()).collect());
        tokens.collect::<Vec<Vec<u32>>>()
    };
    let alone = answers(1);
    assert_eq!(alone.iter().flatten().count(), 66);
    assert_eq!(answers(2), alone);
    assert_eq!(answers(5), alone);
}
