//! MLX's own memory: what its arrays take, and what it keeps of those that are gone.

use mlx_rs::{error::Exception, memory};

/// Bytes that MLX has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MlxMemory {
    /// In arrays. Those over mapped files are not counted, nor are the CPU's keys and values.
    pub active: u64,
    /// Freed, and kept for later arrays.
    pub cache: u64,
}

/// What MLX has now. Any thread may ask.
///
/// # Errors
/// MLX does not say.
pub fn mlx_memory() -> Result<MlxMemory, Exception> {
    Ok(MlxMemory { active: memory::active_memory()? as u64, cache: memory::cache_memory()? as u64 })
}

/// MLX keeps at most so many bytes of freed memory. Without a limit it keeps, on a GPU, all that a long prompt ever
/// needed. On a CPU it gives everything back at once, whatever the limit.
///
/// # Errors
/// MLX does not take it.
pub fn set_cache_limit(bytes: u64) -> Result<(), Exception> {
    memory::set_cache_limit(usize::try_from(bytes).unwrap_or(usize::MAX)).map(drop)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use mlx_rs::{Array, transforms::eval};

    use super::*;

    #[test]
    fn arrays_count_while_they_live_and_the_cache_keeps_to_its_limit() {
        const BYTES: u64 = 64 << 20;
        crate::init().unwrap();
        set_cache_limit(BYTES / 4).unwrap();
        let array = Array::ones::<f32>(&[16 << 20]).unwrap();
        eval([&array]).unwrap();
        let with = mlx_memory().unwrap();
        // Other tests have small arrays.
        assert!(with.active >= BYTES, "{with:?}");
        drop(array);
        let after = mlx_memory().unwrap();
        assert!(after.active < BYTES && after.cache <= BYTES / 4, "{after:?}");
    }
}
