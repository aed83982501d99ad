//! Which instructions this machine runs, found once at start; `CANDLE_VLLM_ISA` asks for a lower level.
//! Knows no kernel but the self-check that may turn a level off.
use super::self_check::SelfCheck;
use std::sync::OnceLock;

/// Name of the environment variable that asks for a level.
const VARIABLE: &str = "CANDLE_VLLM_ISA";

/// Levels of instruction sets, narrow to wide. A machine of one level runs all lower ones of its family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// Plain Rust: the oracle of all others.
    Scalar,
    /// aarch64 with Advanced SIMD.
    Neon,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, VL, DQ and VNNI.
    Avx512,
    /// [`Isa::Avx512`] with BF16, VBMI and the tiles AMX-INT8 and AMX-BF16, allowed by the operating system.
    Amx,
}

impl Isa {
    const ALL: [Isa; 5] = [Isa::Scalar, Isa::Neon, Isa::Avx2, Isa::Avx512, Isa::Amx];

    /// The word that `CANDLE_VLLM_ISA` takes.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Neon => "neon",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Amx => "amx",
        }
    }
}

/// A level and the optional instructions beside it. Whoever holds one may run them: it is only made by detection
/// ([`Cpu::detect`], [`Cpu::available`]) and only ever narrowed, so that kernels need not ask the machine again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu {
    isa: Isa,
    bf16: bool,
    vbmi: bool,
    avx_vnni: bool,
    dotprod: bool,
    i8mm: bool,
}

/// A wish for an instruction set that cannot be met.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IsaError {
    /// Not a level's name.
    #[error("{VARIABLE}={word:?} is not an instruction set; this machine has {available}")]
    Unknown {
        /// The word found.
        word: String,
        /// Names of the levels there are.
        available: String,
    },
    /// A level that this machine lacks.
    #[error("{VARIABLE}={word} asks for instructions that this machine lacks; it has {available}")]
    Missing {
        /// The level asked for.
        word: String,
        /// Names of the levels there are.
        available: String,
    },
}

impl Cpu {
    pub(super) const SCALAR: Cpu = Cpu {
        isa: Isa::Scalar,
        bf16: false,
        vbmi: false,
        avx_vnni: false,
        dotprod: false,
        i8mm: false,
    };

    /// The level to use: the widest that passes its self-check, or the one that `CANDLE_VLLM_ISA`
    /// (`scalar`, `neon`, `avx2`, `avx512`, `amx`; empty = unset) asks for.
    pub fn detect() -> Result<Cpu, IsaError> {
        Self::choose(std::env::var(VARIABLE).ok().as_deref())
    }

    fn choose(wish: Option<&str>) -> Result<Cpu, IsaError> {
        let available = Self::available();
        let names = || {
            available
                .iter()
                .map(|c| c.isa.name())
                .collect::<Vec<_>>()
                .join(", ")
        };
        let word = wish.unwrap_or("").trim().to_ascii_lowercase();
        if word.is_empty() {
            // Scalar always stands first, so the list is never empty.
            return Ok(available.last().copied().unwrap_or(Self::SCALAR));
        }
        let Some(isa) = Isa::ALL.into_iter().find(|i| i.name() == word) else {
            return Err(IsaError::Unknown {
                word,
                available: names(),
            });
        };
        match available.iter().find(|c| c.isa == isa) {
            Some(cpu) => Ok(*cpu),
            None => Err(IsaError::Missing {
                word,
                available: names(),
            }),
        }
    }

    /// Every level that this machine runs correctly, scalar first. Found once: a level whose self-check fails is left out,
    /// with a warning, and so are all above it, which use its instructions too.
    pub fn available() -> Vec<Cpu> {
        static LEVELS: OnceLock<Vec<Cpu>> = OnceLock::new();
        LEVELS
            .get_or_init(|| {
                let mut check = SelfCheck::new();
                Self::passing(machine::levels(), |cpu| {
                    check.as_mut().is_none_or(|check| check.passes(*cpu))
                })
            })
            .clone()
    }

    /// The scalar level and those of `levels`, which ascend, up to the first that does not pass `check`.
    fn passing(levels: Vec<Cpu>, check: impl FnMut(&Cpu) -> bool) -> Vec<Cpu> {
        let count = levels.len();
        let mut passing = vec![Self::SCALAR];
        passing.extend(levels.iter().copied().take_while(check));
        if let Some(failed) = levels.get(passing.len() - 1) {
            let isa = failed.name();
            let above = count - passing.len();
            tracing::warn!(isa, above, "self-check failed: not used, nor those above");
        }
        passing
    }

    /// The level.
    #[inline(always)]
    pub fn isa(self) -> Isa {
        self.isa
    }

    /// AVX512_BF16 (`vdpbf16ps`); only with [`Isa::Avx512`] and above.
    #[inline(always)]
    pub fn bf16(self) -> bool {
        self.bf16
    }

    /// AVX512_VBMI (`vpermb`); only with [`Isa::Avx512`] and above, always with [`Isa::Amx`].
    #[inline(always)]
    pub fn vbmi(self) -> bool {
        self.vbmi
    }

    /// AVX-VNNI: `vpdpbusd` in its 256-bit VEX form; only with [`Isa::Avx2`] and above.
    #[inline(always)]
    pub fn avx_vnni(self) -> bool {
        self.avx_vnni
    }

    /// NEON `sdot`.
    #[inline(always)]
    pub fn dotprod(self) -> bool {
        self.dotprod
    }

    /// NEON `smmla`.
    #[inline(always)]
    pub fn i8mm(self) -> bool {
        self.i8mm
    }

    /// The same level as older machines have it: without its optional instructions, the youngest left out first.
    pub fn narrower(self) -> Vec<Cpu> {
        let mut narrower = Vec::new();
        let mut cpu = self;
        let optional = [
            (
                Isa::Avx2,
                (|c| &mut c.avx_vnni) as fn(&mut Cpu) -> &mut bool,
            ),
            (Isa::Avx512, |c| &mut c.vbmi),
            (Isa::Avx512, |c| &mut c.bf16),
            (Isa::Neon, |c| &mut c.i8mm),
            (Isa::Neon, |c| &mut c.dotprod),
        ];
        for (isa, instructions) in optional {
            if self.isa == isa && std::mem::take(instructions(&mut cpu)) {
                narrower.push(cpu);
            }
        }
        narrower
    }

    /// The level's name, as `CANDLE_VLLM_ISA` writes it.
    pub fn name(&self) -> &'static str {
        self.isa.name()
    }
}

#[cfg(target_arch = "x86_64")]
mod machine {
    use super::{Cpu, Isa};
    use std::arch::is_x86_feature_detected as has;

    pub fn levels() -> Vec<Cpu> {
        let mut levels = Vec::new();
        if !(has!("avx2") && has!("fma") && has!("f16c") && has!("popcnt")) {
            return levels;
        }
        let avx2 = Cpu {
            isa: Isa::Avx2,
            avx_vnni: has!("avxvnni"),
            ..Cpu::SCALAR
        };
        levels.push(avx2);
        if !(has!("avx512f")
            && has!("avx512bw")
            && has!("avx512vl")
            && has!("avx512dq")
            && has!("avx512vnni"))
        {
            return levels;
        }
        let avx512 = Cpu {
            isa: Isa::Avx512,
            bf16: has!("avx512bf16"),
            vbmi: has!("avx512vbmi"),
            ..avx2
        };
        levels.push(avx512);
        if avx512.bf16 && avx512.vbmi && has_amx() && amx_allowed() {
            levels.push(Cpu {
                isa: Isa::Amx,
                ..avx512
            });
        }
        levels
    }

    /// CPUID leaf 7 EDX: 22 AMX-BF16, 24 AMX-TILE, 25 AMX-INT8; XCR0: 17 tile configuration, 18 tile data.
    fn has_amx() -> bool {
        use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
        // SAFETY: every x86-64 processor has CPUID.
        #[allow(unused_unsafe)]
        let (features, xsave) = unsafe {
            if __cpuid(0).eax < 7 {
                return false;
            }
            (__cpuid_count(7, 0).edx, __cpuid(1).ecx)
        };
        let wanted = 1 << 22 | 1 << 24 | 1 << 25;
        // Bit 27 (OSXSAVE) says that XGETBV may be used.
        if features & wanted != wanted || xsave & (1 << 27) == 0 {
            return false;
        }
        #[target_feature(enable = "xsave")]
        fn xcr0() -> u64 {
            // SAFETY: called only where OSXSAVE is set.
            #[allow(unused_unsafe)]
            unsafe {
                _xgetbv(0)
            }
        }
        // SAFETY: OSXSAVE is set, so XSAVE exists.
        let enabled = unsafe { xcr0() };
        enabled & (0b11 << 17) == 0b11 << 17
    }

    /// Asks Linux for the tile registers; the answer holds for all threads of the process.
    #[cfg(target_os = "linux")]
    fn amx_allowed() -> bool {
        const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
        const XFEATURE_XTILEDATA: libc::c_long = 18;
        // SAFETY: this request takes two integers and touches no memory of ours.
        unsafe {
            libc::syscall(
                libc::SYS_arch_prctl,
                ARCH_REQ_XCOMP_PERM,
                XFEATURE_XTILEDATA,
            ) == 0
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn amx_allowed() -> bool {
        false
    }
}

#[cfg(target_arch = "aarch64")]
mod machine {
    use super::{Cpu, Isa};
    use std::arch::is_aarch64_feature_detected as has;

    pub fn levels() -> Vec<Cpu> {
        if !has!("neon") {
            return Vec::new();
        }
        vec![Cpu {
            isa: Isa::Neon,
            dotprod: has!("dotprod"),
            i8mm: has!("i8mm"),
            ..Cpu::SCALAR
        }]
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod machine {
    pub fn levels() -> Vec<super::Cpu> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn levels_ascend_from_scalar() {
        let levels = Cpu::available();
        assert_eq!(levels[0].isa, Isa::Scalar);
        assert!(levels.windows(2).all(|w| w[0].isa < w[1].isa));
        for cpu in &levels {
            assert_eq!(Cpu::choose(Some(cpu.name())).unwrap(), *cpu);
            assert!(!cpu.bf16 || cpu.isa >= Isa::Avx512);
        }
        assert_eq!(Cpu::choose(None).unwrap(), *levels.last().unwrap());
        assert_eq!(Cpu::choose(Some("")).unwrap(), *levels.last().unwrap());
    }

    #[test]
    fn every_level_that_this_machine_has_is_used() {
        let detected = machine::levels();
        assert_eq!(Cpu::available()[1..], detected[..], "a self-check failed");
    }

    #[test]
    fn a_level_that_fails_its_check_is_not_used_nor_any_above() {
        let of = |isa| Cpu { isa, ..Cpu::SCALAR };
        let levels = vec![of(Isa::Avx2), of(Isa::Avx512), of(Isa::Amx)];
        let left = |failing: Isa| -> Vec<Isa> {
            let passing = Cpu::passing(levels.clone(), |cpu| cpu.isa != failing);
            passing.iter().map(|c| c.isa).collect()
        };
        assert_eq!(left(Isa::Avx512), [Isa::Scalar, Isa::Avx2]);
        assert_eq!(left(Isa::Avx2), [Isa::Scalar]);
        assert_eq!(left(Isa::Amx), [Isa::Scalar, Isa::Avx2, Isa::Avx512]);
        assert_eq!(left(Isa::Scalar).len(), 4);
    }

    #[test]
    fn a_narrower_level_has_less_and_is_no_other() {
        for cpu in Cpu::available() {
            let count = |c: &Cpu| {
                let has = [c.bf16, c.vbmi, c.avx_vnni, c.dotprod, c.i8mm];
                has.into_iter().filter(|b| *b).count()
            };
            let mut most = count(&cpu);
            for narrower in cpu.narrower() {
                assert!(narrower.isa == cpu.isa && count(&narrower) < most);
                most = count(&narrower);
            }
        }
    }

    #[test]
    fn wishes_that_cannot_be_met_name_what_there_is() {
        let text = Cpu::choose(Some("sse9")).unwrap_err().to_string();
        assert!(text.contains("sse9") && text.contains("scalar"), "{text}");
        let foreign = if cfg!(target_arch = "aarch64") {
            "avx2"
        } else {
            "neon"
        };
        let text = Cpu::choose(Some(foreign)).unwrap_err().to_string();
        assert!(text.contains(foreign) && text.contains("lacks"), "{text}");
    }
}
