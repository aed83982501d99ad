//! Loading runs on the threads and cores that were asked for, and leaves none behind.
//! One test: it counts the threads of this process.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]
use std::{collections::HashMap, path::PathBuf, sync::Mutex, thread::ThreadId, time::Duration};

use candle_vllm_kernels::cpu::threads::allowed_cores;
use candle_vllm_model::{LoadOptions, device::Device, load, weights::Checkpoint};

fn threads_of_this_process() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

#[test]
fn loading_keeps_to_its_threads_and_cores_and_leaves_none_behind() {
    let path =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/gguf/llama.gguf");
    let checkpoint = Checkpoint::open(&path).unwrap();
    let (before, cores) = (threads_of_this_process(), allowed_cores());
    let last = *cores.last().unwrap();
    for (threads, affinity) in [(1, vec![last]), (3, vec![last]), (2, Vec::new())] {
        let options = LoadOptions {
            device: Device::Cpu,
            dtype: "auto".into(),
            activations: "auto".into(),
            kv_dtype: "auto".into(),
            isq: None,
            context: None,
            threads: Some(threads),
            cpu_affinity: affinity.clone(),
        };
        let seen: Mutex<HashMap<ThreadId, Vec<usize>>> = Mutex::default();
        let tell = |_, _| {
            let id = std::thread::current().id();
            seen.lock().unwrap().insert(id, allowed_cores());
        };
        let model = load(&checkpoint, &options, &tell).unwrap();
        let seen = seen.into_inner().unwrap();
        assert!((1..=threads).contains(&seen.len()), "{seen:?}");
        let expected = if affinity.is_empty() {
            &cores
        } else {
            &affinity
        };
        assert!(seen.values().all(|cores| cores == expected), "{seen:?}");
        assert_eq!(threads_of_this_process(), before + threads - 1);
        drop(model);
        // A joined thread leaves the list a moment later.
        for _ in 0..100 {
            if threads_of_this_process() == before {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(threads_of_this_process(), before);
    }
}
