//! A plain read and a plain copy: the fastest that so many bytes can come from memory, and go back.

use std::hint::black_box;

/// Words that a thread reads in one go.
const PART: usize = 64 << 10;

/// Reads everything once, with as many threads as the kernels have.
pub(crate) fn read(data: &[&[u32]]) {
    let parts: Vec<&[u32]> = data.iter().flat_map(|words| words.chunks(PART)).collect();
    let threads = mlx_ext::cpu::threads().max(1);
    std::thread::scope(|scope| {
        for share in parts.chunks(parts.len().div_ceil(threads).max(1)) {
            scope.spawn(move || black_box(share.iter().map(|words| sum(words)).fold(0, u32::wrapping_add)));
        }
    });
}

/// Copies everything once, with as many threads as the kernels have. `to` is as long as `from`.
pub(crate) fn copy(from: &[u32], to: &mut [u32]) {
    let share = from.len().div_ceil(mlx_ext::cpu::threads().max(1)).max(1);
    std::thread::scope(|scope| {
        for (from, to) in from.chunks(share).zip(to.chunks_mut(share)) {
            scope.spawn(move || to.copy_from_slice(from));
        }
    });
}

/// With the widest loads that every CPU of our AVX2 kernels has.
#[cfg(target_arch = "x86_64")]
fn sum(words: &[u32]) -> u32 {
    #[target_feature(enable = "avx2")]
    fn with_avx2(words: &[u32]) -> u32 {
        add_all(words)
    }
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the CPU has AVX2.
        unsafe { with_avx2(words) }
    } else {
        add_all(words)
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn sum(words: &[u32]) -> u32 {
    add_all(words)
}

/// One addition for each vector of words; the compiler makes the vectors.
#[inline(always)]
fn add_all(words: &[u32]) -> u32 {
    words.iter().copied().fold(0, u32::wrapping_add)
}
