//! What the machine can do at best: peaks of the dot-product instructions and the read stream by size.
use candle_vllm_kernels::cpu::Compute;
use std::hint::black_box;

/// Prints the limits of the level in use, on all its threads.
pub fn print(cx: &Compute) {
    #[cfg(target_arch = "x86_64")]
    peaks(cx);
    for mib in [1, 2, 4, 16, 64, 128, 512] {
        let words = (mib << 20) / 8;
        let data = vec![1u64; words];
        let threads = cx.pool.threads();
        let passes = (1024 / mib).max(2);
        let seconds = best(cx, || {
            cx.pool.run(&|t| {
                for _ in 0..passes {
                    black_box(sum(black_box(
                        &data[t * words / threads..(t + 1) * words / threads],
                    )));
                }
            });
        });
        println!(
            "read {mib:4} MiB: {:6.1} GB/s",
            (passes * words * 8) as f64 / seconds / 1e9
        );
    }
}

/// Peaks of the dot-product instructions.
#[cfg(target_arch = "x86_64")]
fn peaks(cx: &Compute) {
    use candle_vllm_kernels::cpu::Isa;
    let tile = 2.0 * 16.0 * 16.0 * 4.0;
    if cx.cpu.isa() == Isa::Avx2 {
        // SAFETY: the level has AVX2 and FMA, here and below.
        report(cx, "vpmaddubsw and vpaddw", 64.0 * 12.0, |n| unsafe {
            x86::bytes(n)
        });
        // SAFETY: as above.
        report(cx, "vpmaddwd and vpaddd", 32.0 * 12.0, |n| unsafe {
            x86::words(n)
        });
        // SAFETY: as above.
        report(cx, "fma f32", 16.0 * 12.0, |n| unsafe { x86::fma_ymm(n) });
    }
    if cx.cpu.isa() >= Isa::Avx512 {
        // SAFETY: the level has AVX-512 VNNI.
        report_best(
            cx,
            "dpbusd (VNNI)",
            128.0,
            [&|n| unsafe { x86::vnni::<false>(n) }, &|n| unsafe {
                x86::vnni::<true>(n)
            }],
        );
        // SAFETY: as above.
        report_best(
            cx,
            "fma f32",
            32.0,
            [&|n| unsafe { x86::fma::<false>(n) }, &|n| unsafe {
                x86::fma::<true>(n)
            }],
        );
    }
    if cx.cpu.bf16() {
        // SAFETY: the level has AVX512_BF16.
        report_best(
            cx,
            "vdpbf16ps",
            64.0,
            [&|n| unsafe { x86::bf16::<false>(n) }, &|n| unsafe {
                x86::bf16::<true>(n)
            }],
        );
    }
    if cx.cpu.isa() < Isa::Amx {
        return;
    }
    // SAFETY: the level has AMX, here and below.
    report(cx, "AMX int8, K 64", tile * 64.0, |n| unsafe {
        x86::tiles::<64>(n)
    });
    // SAFETY: as above.
    report(cx, "AMX int8, K 32", tile * 32.0, |n| unsafe {
        x86::tiles::<32>(n)
    });
    // SAFETY: as above.
    report(cx, "AMX bf16, K 32", tile * 32.0, |n| unsafe {
        x86::tiles_bf16(n)
    });
    // SAFETY: as above.
    report(
        cx,
        "AMX int8, K 32, loads, zero and store",
        tile * 16.0,
        |n| unsafe { x86::round_trip::<32>(n) },
    );
}

/// The best of several runs, in seconds.
fn best(cx: &Compute, f: impl Fn()) -> f64 {
    let run = |_| {
        let start = crate::now(cx);
        f();
        crate::now(cx) - start
    };
    (0..7).map(run).fold(f64::MAX, f64::min)
}

/// The faster of the ways to do 24 instructions of `operations` each.
#[cfg(target_arch = "x86_64")]
fn report_best(cx: &Compute, name: &str, operations: f64, ways: [&(dyn Fn(usize) + Sync); 2]) {
    let seconds = ways.map(|way| best(cx, || cx.pool.run(&|_| way(TIMES))));
    print_rate(name, operations * 24.0, seconds[0].min(seconds[1]));
}

#[cfg(target_arch = "x86_64")]
fn report(cx: &Compute, name: &str, operations: f64, f: impl Fn(usize) + Sync) {
    print_rate(name, operations, best(cx, || cx.pool.run(&|_| f(TIMES))));
}

/// Rounds of a measurement.
#[cfg(target_arch = "x86_64")]
const TIMES: usize = 200_000;

#[cfg(target_arch = "x86_64")]
fn print_rate(name: &str, operations: f64, seconds: f64) {
    let each = operations * TIMES as f64 / seconds / 1e9;
    println!(
        "{name:40} {each:8.1} GOPS a core, {:6.2} ns a round",
        seconds / TIMES as f64 * 1e9
    );
}

fn sum(data: &[u64]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx512f") {
        // SAFETY: the instruction set is there.
        return unsafe { x86::sum(data) };
    }
    data.iter().fold(0, |a, b| a ^ b)
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::asm;
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx512f")]
    pub unsafe fn sum(data: &[u64]) -> u64 {
        let mut acc = [_mm512_setzero_si512(); 4];
        for c in data.chunks_exact(32) {
            for (i, acc) in acc.iter_mut().enumerate() {
                // SAFETY: 32 words a chunk; a prefetch of any address is harmless.
                unsafe {
                    let at = c.as_ptr().add(8 * i);
                    _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(512).cast());
                    *acc = _mm512_xor_si512(*acc, _mm512_loadu_si512(at.cast()));
                }
            }
        }
        let a = _mm512_xor_si512(acc[0], acc[1]);
        _mm512_reduce_or_epi64(_mm512_xor_si512(a, _mm512_xor_si512(acc[2], acc[3]))) as u64
    }

    macro_rules! twelve {
        ($name:ident, $features:literal, [$($step:expr),* $(,)?]) => {
            /// Twelve sums a round, each by the instructions given for it.
            #[target_feature(enable = $features)]
            pub unsafe fn $name(n: usize) {
                // SAFETY: registers only.
                unsafe {
                    asm!(
                        "2:", $($step,)* "dec {n}", "jnz 2b",
                        n = inout(reg) n => _,
                        out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _, out("ymm4") _, out("ymm5") _,
                        out("ymm6") _, out("ymm7") _, out("ymm8") _, out("ymm9") _, out("ymm10") _, out("ymm11") _,
                        out("ymm12") _, out("ymm13") _, out("ymm14") _, out("ymm15") _,
                    );
                }
            }
        };
    }
    macro_rules! product_and_sum {
        ($product:literal, $sum:literal, $to:literal) => {
            concat!(
                $product,
                " ymm12, ymm13, ymm14\n",
                $sum,
                " ",
                $to,
                ", ",
                $to,
                ", ymm12"
            )
        };
    }
    macro_rules! products {
        ($name:ident, $product:literal, $sum:literal) => {
            twelve!(
                $name,
                "avx2",
                [
                    product_and_sum!($product, $sum, "ymm0"),
                    product_and_sum!($product, $sum, "ymm1"),
                    product_and_sum!($product, $sum, "ymm2"),
                    product_and_sum!($product, $sum, "ymm3"),
                    product_and_sum!($product, $sum, "ymm4"),
                    product_and_sum!($product, $sum, "ymm5"),
                    product_and_sum!($product, $sum, "ymm6"),
                    product_and_sum!($product, $sum, "ymm7"),
                    product_and_sum!($product, $sum, "ymm8"),
                    product_and_sum!($product, $sum, "ymm9"),
                    product_and_sum!($product, $sum, "ymm10"),
                    product_and_sum!($product, $sum, "ymm11"),
                ]
            );
        };
    }
    products!(bytes, "vpmaddubsw", "vpaddw");
    products!(words, "vpmaddwd", "vpaddd");
    twelve!(
        fma_ymm,
        "avx2,fma",
        [
            "vfmadd231ps ymm0, ymm13, ymm14",
            "vfmadd231ps ymm1, ymm13, ymm14",
            "vfmadd231ps ymm2, ymm13, ymm14",
            "vfmadd231ps ymm3, ymm13, ymm14",
            "vfmadd231ps ymm4, ymm13, ymm14",
            "vfmadd231ps ymm5, ymm13, ymm14",
            "vfmadd231ps ymm6, ymm13, ymm14",
            "vfmadd231ps ymm7, ymm13, ymm14",
            "vfmadd231ps ymm8, ymm13, ymm14",
            "vfmadd231ps ymm9, ymm13, ymm14",
            "vfmadd231ps ymm10, ymm13, ymm14",
            "vfmadd231ps ymm11, ymm13, ymm14",
        ]
    );

    /// Twenty-four independent sums, more than any processor needs to keep its units busy.
    macro_rules! sums {
        ($n:expr, $memory:expr, $instruction:literal, $operand:literal) => {
            asm!(
                ".irp i,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25",
                "vpxord zmm\\i, zmm\\i, zmm\\i",
                ".endr",
                "2:",
                ".irp i,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23",
                concat!($instruction, " zmm\\i, zmm24, ", $operand),
                ".endr",
                "dec {n}", "jnz 2b",
                "/* {m} */",
                n = inout(reg) $n => _, m = in(reg) $memory,
                out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _, out("zmm4") _, out("zmm5") _,
                out("zmm6") _, out("zmm7") _, out("zmm8") _, out("zmm9") _, out("zmm10") _, out("zmm11") _,
                out("zmm12") _, out("zmm13") _, out("zmm14") _, out("zmm15") _, out("zmm16") _, out("zmm17") _,
                out("zmm18") _, out("zmm19") _, out("zmm20") _, out("zmm21") _, out("zmm22") _, out("zmm23") _,
                out("zmm24") _, out("zmm25") _,
            )
        };
    }
    macro_rules! rounds {
        ($name:ident, $features:literal, $instruction:literal) => {
            /// Operands in registers, or (`MEMORY`) one broadcast from memory, as kernels have it: the faster is the limit.
            #[target_feature(enable = $features)]
            pub unsafe fn $name<const MEMORY: bool>(n: usize) {
                let memory = [0u32; 1];
                // SAFETY: registers, and a word of `memory`.
                unsafe {
                    if MEMORY {
                        sums!(n, memory.as_ptr(), $instruction, "dword ptr [{m}]{{1to16}}");
                    } else {
                        sums!(n, memory.as_ptr(), $instruction, "zmm25");
                    }
                }
            }
        };
    }
    rounds!(vnni, "avx512f,avx512vnni", "vpdpbusd");
    rounds!(fma, "avx512f", "vfmadd231ps");
    rounds!(bf16, "avx512f,avx512bf16", "vdpbf16ps");

    /// Four C tiles of 16 x 64 bytes, A of 16 x K bytes, B of K / 4 x 64 bytes.
    unsafe fn configure<const K: usize>() {
        let mut config = [0u8; 64];
        config[0] = 1;
        for i in 0..8 {
            let (rows, bytes) = match i {
                4 | 6 => (16, K),
                5 | 7 => (K / 4, 64),
                _ => (16, 64),
            };
            config[16 + 2 * i] = bytes as u8;
            config[48 + i] = rows as u8;
        }
        // SAFETY: the tile unit is there.
        unsafe { asm!("ldtilecfg [{}]", in(reg) config.as_ptr()) };
    }

    macro_rules! tiles {
        ($n:expr, $instruction:literal) => {
            asm!(
                "2:",
                concat!($instruction, " tmm0, tmm4, tmm5"),
                concat!($instruction, " tmm1, tmm4, tmm5"),
                concat!($instruction, " tmm2, tmm6, tmm7"),
                concat!($instruction, " tmm3, tmm6, tmm7"),
                "dec {n}", "jnz 2b",
                n = inout(reg) $n => _,
            )
        };
    }

    /// Four products a round.
    pub unsafe fn tiles<const K: usize>(n: usize) {
        // SAFETY: the tile unit is there and configured.
        unsafe {
            configure::<K>();
            tiles!(n, "tdpbssd");
            asm!("tilerelease");
        }
    }

    /// Four products a round.
    pub unsafe fn tiles_bf16(n: usize) {
        // SAFETY: as above.
        unsafe {
            configure::<64>();
            tiles!(n, "tdpbf16ps");
            asm!("tilerelease");
        }
    }

    /// Zero, load, multiply and store one tile.
    pub unsafe fn round_trip<const K: usize>(n: usize) {
        #[repr(align(64))]
        struct Memory([u8; 4096]);
        let mut memory = Memory([0; 4096]);
        // SAFETY: the tile unit is there and configured; all tiles lie within `memory`.
        unsafe {
            configure::<K>();
            asm!(
                "2:",
                "tilezero tmm0", "tileloadd tmm4, [{m} + {k}]", "tileloadd tmm5, [{m} + {s} + 1024]",
                "tdpbssd tmm0, tmm4, tmm5", "tilestored [{m} + {s} + 2048], tmm0",
                "tilezero tmm1", "tileloadd tmm6, [{m} + {k}]", "tileloadd tmm7, [{m} + {s} + 1024]",
                "tdpbssd tmm1, tmm6, tmm7", "tilestored [{m} + {s} + 3072], tmm1",
                "dec {n}", "jnz 2b",
                n = inout(reg) n => _,
                m = in(reg) memory.0.as_mut_ptr(),
                k = in(reg) K,
                s = in(reg) 64usize,
            );
            asm!("tilerelease");
        }
    }
}
