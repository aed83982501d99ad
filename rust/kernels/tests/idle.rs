//! An idle pool uses no processor time. Alone in its process, so that no other test's threads are counted.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]
use candle_vllm_kernels::cpu::Pool;
use std::time::Duration;

/// Nanoseconds on a processor of each compute thread of this process.
fn busy() -> Vec<u64> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let read = |dir: &std::path::Path, name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
    tasks
        .map(|e| e.unwrap().path())
        .filter(|dir| read(dir, "comm").starts_with("compute-"))
        .map(|dir| {
            read(&dir, "schedstat")
                .split_whitespace()
                .next()
                .unwrap()
                .parse()
                .unwrap()
        })
        .collect()
}

#[test]
fn an_idle_pool_uses_no_time() {
    let pool = Pool::new(4).unwrap();
    pool.run(&|_| {});
    std::thread::sleep(Duration::from_millis(20));
    let before = busy();
    assert_eq!(before.len(), 3);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(before, busy());
    drop(pool);
    assert!(busy().is_empty());
}
