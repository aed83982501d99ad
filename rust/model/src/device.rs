//! Which device a model runs on: the words users write, checked against what this machine has.
use crate::{Error, Result};

/// A device that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// The host's processor.
    Cpu,
}

impl Device {
    /// Reads `auto`, `cpu`, `cuda`, `cuda:N` or `metal`; a device that is not there is an error that says what is.
    pub fn find(name: &str) -> Result<Self> {
        match name {
            "auto" | "cpu" => Ok(Self::Cpu),
            "metal" | "cuda" => Err(absent(name)),
            _ => match name.strip_prefix("cuda:").map(str::parse::<u32>) {
                Some(Ok(_)) => Err(absent(name)),
                _ => Err(Error::Device(format!(
                    "device is {name:?}; it must be auto, cpu, cuda:N or metal"
                ))),
            },
        }
    }
}

fn absent(name: &str) -> Error {
    Error::Device(format!(
        "device {name:?} is not available: this build computes on cpu only; use device=\"cpu\" or \"auto\""
    ))
}
