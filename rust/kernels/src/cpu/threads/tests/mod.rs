#![allow(clippy::unwrap_used, clippy::panic)]
use super::*;
use std::sync::atomic::AtomicU64;

#[test]
fn every_worker_runs_once_in_every_region() {
    for threads in [1, 2, 3, 8] {
        let pool = Pool::new(threads).unwrap();
        assert_eq!(pool.threads(), threads);
        for _ in 0..500 {
            let hits: Vec<AtomicU32> = (0..threads).map(|_| AtomicU32::new(0)).collect();
            pool.run(&|w| {
                hits[w].fetch_add(1, Ordering::Relaxed);
            });
            assert!(hits.iter().all(|h| h.load(Ordering::Relaxed) == 1));
        }
    }
}

#[test]
fn every_task_runs_once() {
    let pool = Pool::new(3).unwrap();
    for tasks in [0, 1, 2, 3, 100] {
        let hits: Vec<AtomicU32> = (0..tasks).map(|_| AtomicU32::new(0)).collect();
        pool.for_each(tasks, &|t| {
            hits[t].fetch_add(1, Ordering::Relaxed);
        });
        assert!(hits.iter().all(|h| h.load(Ordering::Relaxed) == 1));
    }
}

#[test]
fn who_is_done_takes_from_the_shares_of_others() {
    let pool = Pool::new(3).unwrap();
    let done = AtomicU32::new(0);
    pool.for_each(30, &|task| {
        // The first task of each share but one waits for all tasks behind it.
        if task == 0 || task == 10 {
            let start = std::time::Instant::now();
            while done.load(Ordering::Relaxed) < 28 {
                assert!(start.elapsed() < Duration::from_secs(30), "nobody helps");
                std::thread::yield_now();
            }
        } else {
            done.fetch_add(1, Ordering::Relaxed);
        }
    });
}

#[test]
fn regions_after_sleep_see_the_callers_writes() {
    let pool = Pool::new(2).unwrap();
    let mut expected = 0;
    for round in 0..20u64 {
        // Longer than the spin, so that both park.
        std::thread::sleep(Duration::from_millis(2));
        let value = round * 7;
        let sum = AtomicU64::new(0);
        pool.run(&|w| {
            if w == 1 {
                std::thread::sleep(Duration::from_millis(1));
            }
            sum.fetch_add(value, Ordering::Relaxed);
        });
        expected += sum.load(Ordering::Relaxed);
    }
    assert_eq!(expected, 2 * 7 * 190);
}

#[test]
fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
    let pool = Pool::new(3).unwrap();
    for bad in 0..3 {
        let caught = catch_unwind(AssertUnwindSafe(|| {
            pool.run(&|w| {
                if w == bad {
                    panic!("worker {w}");
                }
            });
        }));
        assert_eq!(
            caught.unwrap_err().downcast_ref::<String>(),
            Some(&format!("worker {bad}"))
        );
        let count = AtomicU32::new(0);
        pool.run(&|_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.load(Ordering::Relaxed), 3);
    }
}

#[test]
fn nested_regions_run_on_the_thread_that_asks() {
    let pool = Pool::new(2).unwrap();
    let count = AtomicU32::new(0);
    pool.run(&|_| {
        pool.run(&|_| {
            pool.for_each(5, &|_| {
                count.fetch_add(1, Ordering::Relaxed);
            });
        });
    });
    assert_eq!(count.load(Ordering::Relaxed), 2 * 2 * 5);
}

#[test]
fn two_callers_take_turns() {
    let pool = Pool::new(2).unwrap();
    let count = AtomicU32::new(0);
    std::thread::scope(|s| {
        for _ in 0..3 {
            s.spawn(|| {
                for _ in 0..200 {
                    pool.run(&|_| {
                        count.fetch_add(1, Ordering::Relaxed);
                    });
                }
            });
        }
    });
    assert_eq!(count.load(Ordering::Relaxed), 3 * 200 * 2);
}

#[test]
fn a_quota_leaves_its_whole_cores() {
    assert_eq!(threads_for(8, None), 8);
    for (quota, threads) in [(0.3, 1), (1.0, 1), (1.9, 1), (2.0, 2), (2.5, 2), (64.0, 8)] {
        assert_eq!(threads_for(8, Some(quota)), threads, "{quota}");
    }
    assert_eq!(threads_for(1, Some(4.0)), 1);
}

#[cfg(target_os = "linux")]
#[test]
fn threads_run_on_the_cores_given() {
    let all = allowed_cores();
    for cores in [&all[..1], &all[all.len() - 1..], &all[..]] {
        let threads = 3;
        let pool = Pool::on_cores(threads, cores).unwrap();
        let seen: Vec<Mutex<Vec<usize>>> = (0..threads).map(|_| Mutex::default()).collect();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                pool.bind_caller();
                pool.run(&|worker| *lock(&seen[worker]) = allowed_cores());
            });
        });
        for (worker, seen) in seen.iter().enumerate() {
            assert_eq!(*lock(seen), [cores[worker % cores.len()]]);
        }
    }
    // Without cores nothing is bound, nor the caller.
    let free = Pool::new(2).unwrap();
    free.bind_caller();
    free.run(&|_| assert_eq!(allowed_cores(), all));
}

#[test]
fn threads_beyond_the_cores_do_not_spin() {
    let one = &allowed_cores()[..1];
    assert_eq!(Pool::on_cores(2, one).unwrap().shared.spin, Duration::ZERO);
    assert_eq!(
        Pool::new(available_threads() + 1).unwrap().shared.spin,
        Duration::ZERO
    );
    assert_eq!(Pool::new(1).unwrap().shared.spin, SPIN);
}
