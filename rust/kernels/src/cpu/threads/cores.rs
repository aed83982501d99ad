//! The cores that this process may use, and threads bound to one of them.
//! Knows nothing of pools. Where the system has no affinity (not Linux), all cores are allowed and none can be chosen.

/// Why threads cannot run on the cores that were asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CoreError {
    /// Not among the cores of this process: not there, or kept from it (taskset, cpuset).
    #[error("core {core} is not available; this process may use {allowed}")]
    NotAllowed {
        /// What was asked for.
        core: usize,
        /// The cores that may be used, as in `0-3,8`.
        allowed: String,
    },
    /// This system binds no threads.
    #[error("binding threads to cores needs Linux")]
    Unsupported,
}

/// Refuses the first of `cores` on which this process may not run.
pub fn check_cores(cores: &[usize]) -> Result<(), CoreError> {
    if cfg!(not(target_os = "linux")) && !cores.is_empty() {
        return Err(CoreError::Unsupported);
    }
    check_among(cores, &allowed_cores())
}

fn check_among(cores: &[usize], allowed: &[usize]) -> Result<(), CoreError> {
    match cores.iter().find(|core| !allowed.contains(core)) {
        Some(&core) => Err(CoreError::NotAllowed {
            core,
            allowed: ranges(allowed),
        }),
        None => Ok(()),
    }
}

/// `cores 0-3,8`, from ascending numbers.
fn ranges(cores: &[usize]) -> String {
    let mut parts: Vec<(usize, usize)> = Vec::new();
    for &core in cores {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == core => *last = core,
            _ => parts.push((core, core)),
        }
    }
    let text: Vec<String> = parts
        .iter()
        .map(|&(first, last)| match first == last {
            true => first.to_string(),
            false => format!("{first}-{last}"),
        })
        .collect();
    let noun = if cores.len() == 1 { "core" } else { "cores" };
    format!("{noun} {}", text.join(","))
}

/// Words of a mask for 8,192 cores, more than Linux is built for.
#[cfg(target_os = "linux")]
const WORDS: usize = 8192 / usize::BITS as usize;

/// The cores of the calling thread's affinity mask, ascending; all of them where the system does not tell.
pub fn allowed_cores() -> Vec<usize> {
    #[cfg(target_os = "linux")]
    {
        let mut mask = [0usize; WORDS];
        // SAFETY: the kernel writes at most the size given, which is that of `mask`; 0 is the calling thread.
        let written = unsafe {
            libc::syscall(
                libc::SYS_sched_getaffinity,
                0,
                size_of_val(&mask),
                mask.as_mut_ptr(),
            )
        };
        if written > 0 {
            let bits = usize::BITS as usize;
            return (0..WORDS * bits)
                .filter(|core| mask[core / bits] >> (core % bits) & 1 == 1)
                .collect();
        }
    }
    (0..std::thread::available_parallelism().map_or(1, usize::from)).collect()
}

/// Binds the calling thread to one core. A core that has gone meanwhile is no error: the thread then runs anywhere.
pub fn bind_to(core: usize) {
    #[cfg(target_os = "linux")]
    {
        let bits = usize::BITS as usize;
        let mut mask = [0usize; WORDS];
        let Some(word) = mask.get_mut(core / bits) else {
            return;
        };
        *word = 1 << (core % bits);
        // SAFETY: the kernel reads as many bytes as `mask` has; 0 is the calling thread.
        unsafe {
            libc::syscall(
                libc::SYS_sched_setaffinity,
                0,
                size_of_val(&mask),
                mask.as_ptr(),
            );
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = core;
}

/// Lets the calling thread run only where others leave time: for long work beside compute threads. Nothing happens where
/// the system knows no priority of one thread.
pub fn stand_back() {
    #[cfg(target_os = "linux")]
    // SAFETY: takes three numbers and touches no memory; 0 is the calling thread (on Linux alone not its process).
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, 5);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn cores_that_are_not_there_are_named() {
        let error = check_among(&[1, 9], &[0, 1, 2, 3, 8]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "core 9 is not available; this process may use cores 0-3,8"
        );
        let alone = check_among(&[0], &[5]).unwrap_err().to_string();
        assert!(alone.ends_with("may use core 5"), "{alone}");
        assert_eq!(check_among(&[8, 0], &[0, 1, 2, 3, 8]), Ok(()));
        assert_eq!(check_cores(&[]), Ok(()));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_bound_thread_may_use_its_core_alone() {
        let all = allowed_cores();
        assert!(!all.is_empty());
        for &core in &all {
            let bound = std::thread::spawn(move || {
                bind_to(core);
                (allowed_cores(), check_cores(&[core]))
            });
            assert_eq!(bound.join().unwrap(), (vec![core], Ok(())));
        }
        // As taskset does it: a narrower mask leaves fewer cores, also to threads started under it.
        let first = all[0];
        let narrow = std::thread::spawn(move || {
            bind_to(first);
            std::thread::spawn(super::super::available_threads)
                .join()
                .unwrap()
        });
        assert_eq!(narrow.join().unwrap(), 1);
        // No such core: nothing happens.
        bind_to(usize::MAX);
        assert_eq!(allowed_cores(), all);
    }
}
