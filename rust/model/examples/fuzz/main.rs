//! Fuzzing on stable Rust: `fuzz TARGET SECONDS [SEED]`. A target is a reader (`gguf`, `safetensors`) or a scheme of
//! quantised weights; each input is made from a seed of its own, which is printed when it brings a panic to light:
//! `fuzz TARGET 0 SEED` tries that one alone. Whatever comes in, a target may only answer with an error.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::panic,
    clippy::expect_used
)]
mod random;
mod readers;
mod schemes;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    time::{Duration, Instant},
};

use random::Random;

/// Longest time for one input, which it must take twice: the machine may have been busy.
const SLOW: Duration = Duration::from_secs(2);

/// Tries the input of a seed; whether it was taken for sound.
type Target = Box<dyn FnMut(&mut Random) -> bool>;

fn target(name: &str) -> Option<Target> {
    match name {
        "gguf" => Some(readers::gguf()),
        "safetensors" => Some(readers::safetensors()),
        scheme => schemes::target(scheme),
    }
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let name = args.next().unwrap_or_default();
    let seconds = args.next().and_then(|s| s.parse().ok()).unwrap_or(10);
    let only: Option<u64> = args.next().and_then(|s| s.parse().ok());
    let Some(mut target) = target(&name) else {
        let all = [&["gguf", "safetensors"], schemes::NAMES].concat();
        println!("targets: {}", all.join(" "));
        return ExitCode::from(2);
    };
    let end = Instant::now() + Duration::from_secs(seconds);
    let (mut seed, mut tried, mut sound) = (only.unwrap_or(1), 0u64, 0u64);
    let mut slow = None;
    while tried == 0 || Instant::now() < end {
        let start = Instant::now();
        let run = catch_unwind(AssertUnwindSafe(|| target(&mut Random(seed))));
        match run {
            Ok(taken) => sound += u64::from(taken),
            Err(_) => {
                println!("{name}: seed {seed} panics");
                return ExitCode::FAILURE;
            }
        }
        if start.elapsed() > SLOW {
            println!("{name}: seed {seed} takes {:?}", start.elapsed());
            if slow.replace(seed) == Some(seed) {
                return ExitCode::FAILURE;
            }
            continue;
        }
        (seed, tried) = (seed + 1, tried + 1);
    }
    println!("{name}: {tried} inputs, {sound} taken for sound");
    ExitCode::SUCCESS
}
