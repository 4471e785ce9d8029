//! The most multiply-adds a second: loops over registers, without any memory.

use std::time::Instant;

/// Independent chains of instructions: more than any of these CPUs needs to hide their latency, and few enough for the
/// registers.
const CHAINS: usize = 12;
/// Instructions of each chain in one measurement.
const ROUNDS: usize = 4_000_000;
const REPETITIONS: usize = 8;

/// What an instruction can do at most.
pub(crate) struct Peak {
    pub(crate) instruction: &'static str,
    /// Multiply-adds a second of all threads.
    pub(crate) rate: f64,
}

/// Of the instruction with which the kernels multiply quantized weights; `None` for the portable ones.
pub(crate) fn integer() -> Option<Peak> {
    match mlx_ext::cpu::instructions() {
        // SAFETY: the kernels are those of AVX2, which they only are on a CPU that has it.
        #[cfg(target_arch = "x86_64")]
        "avx2" => Some(measure("vpmaddwd, 256 bits", 16, || unsafe { x86::madd_256() })),
        // SAFETY: as above, for AVX-512 with VNNI.
        #[cfg(target_arch = "x86_64")]
        "avx512" | "avx512vbmi" => Some(measure("vpdpwssd, 512 bits", 32, || unsafe { x86::dot_512() })),
        #[cfg(target_arch = "aarch64")]
        "neon" => Some(measure("smlal, 128 bits", 4, arm::multiply_add_long)),
        _ => None,
    }
}

/// Of the fused multiply-add of floats.
pub(crate) fn float() -> Option<Peak> {
    match mlx_ext::cpu::instructions() {
        // SAFETY: as in `integer`; the kernels need FMA beside AVX2.
        #[cfg(target_arch = "x86_64")]
        "avx2" => Some(measure("vfmadd, 256 bits", 8, || unsafe { x86::fma_256() })),
        // SAFETY: as in `integer`.
        #[cfg(target_arch = "x86_64")]
        "avx512" | "avx512vbmi" => Some(measure("vfmadd, 512 bits", 16, || unsafe { x86::fma_512() })),
        #[cfg(target_arch = "aarch64")]
        "neon" => Some(measure("fmla, 128 bits", 4, arm::fused_multiply_add)),
        _ => None,
    }
}

/// `products`: of one instruction.
fn measure(instruction: &'static str, products: usize, chains: impl Fn() + Sync) -> Peak {
    let threads = mlx_ext::cpu::threads();
    let once = || {
        let started = Instant::now();
        std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(&chains))));
        started.elapsed().as_secs_f64()
    };
    let best = (0..REPETITIONS).map(|_| once()).fold(f64::MAX, f64::min);
    Peak { instruction, rate: (threads * products * CHAINS * ROUNDS) as f64 / best }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::{arch::x86_64::*, hint::black_box};

    use super::{CHAINS, ROUNDS};

    #[target_feature(enable = "avx2")]
    pub(super) fn madd_256() {
        let factor = _mm256_set1_epi16(black_box(3));
        let mut chains = [_mm256_set1_epi16(black_box(5)); CHAINS];
        for _ in 0..ROUNDS {
            for chain in &mut chains {
                *chain = _mm256_madd_epi16(*chain, factor);
            }
        }
        black_box(chains);
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn fma_256() {
        let (factor, added) = (_mm256_set1_ps(black_box(0.5)), _mm256_set1_ps(black_box(1.0)));
        let mut chains = [_mm256_set1_ps(black_box(2.0)); CHAINS];
        for _ in 0..ROUNDS {
            for chain in &mut chains {
                *chain = _mm256_fmadd_ps(*chain, factor, added);
            }
        }
        black_box(chains);
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(super) fn dot_512() {
        let (a, b) = (_mm512_set1_epi32(black_box(3)), _mm512_set1_epi32(black_box(7)));
        let mut chains = [_mm512_set1_epi32(black_box(5)); CHAINS];
        for _ in 0..ROUNDS {
            for chain in &mut chains {
                *chain = _mm512_dpwssd_epi32(*chain, a, b);
            }
        }
        black_box(chains);
    }

    #[target_feature(enable = "avx512f")]
    pub(super) fn fma_512() {
        let (factor, added) = (_mm512_set1_ps(black_box(0.5)), _mm512_set1_ps(black_box(1.0)));
        let mut chains = [_mm512_set1_ps(black_box(2.0)); CHAINS];
        for _ in 0..ROUNDS {
            for chain in &mut chains {
                *chain = _mm512_fmadd_ps(*chain, factor, added);
            }
        }
        black_box(chains);
    }
}

#[cfg(target_arch = "aarch64")]
mod arm {
    use std::{arch::aarch64::*, hint::black_box};

    use super::{CHAINS, ROUNDS};

    pub(super) fn multiply_add_long() {
        // SAFETY: every 64-bit Arm CPU has NEON.
        unsafe {
            let (a, b) = (vdup_n_s16(black_box(3)), vdup_n_s16(black_box(7)));
            let mut chains = [vdupq_n_s32(black_box(5)); CHAINS];
            for _ in 0..ROUNDS {
                for chain in &mut chains {
                    *chain = vmlal_s16(*chain, a, b);
                }
            }
            black_box(chains);
        }
    }

    pub(super) fn fused_multiply_add() {
        // SAFETY: every 64-bit Arm CPU has NEON.
        unsafe {
            let (factor, added) = (vdupq_n_f32(black_box(0.5)), vdupq_n_f32(black_box(1.0)));
            let mut chains = [vdupq_n_f32(black_box(2.0)); CHAINS];
            for _ in 0..ROUNDS {
                for chain in &mut chains {
                    *chain = vfmaq_f32(added, *chain, factor);
                }
            }
            black_box(chains);
        }
    }
}
