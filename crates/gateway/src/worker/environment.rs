//! What a worker gets of the gateway's environment. It reads files that others made, so it gets nothing secret: not the
//! admin key, not the tokens of hubs and clouds. Names of secrets can't be listed, so the harmless ones are.

use std::{env, ffi::OsString};

/// What programs need to find their files, their user and their language.
const NAMES: &[&str] = &[
    "COLORTERM",
    "HOME",
    "LANG",
    "LANGUAGE",
    "LOGNAME",
    "NO_COLOR",
    "PATH",
    "SHELL",
    "TEMP",
    "TERM",
    "TMP",
    "TMPDIR",
    "TZ",
    "USER",
];

/// What tunes this program, the loader, MLX and what is below it, and the tools that look into processes.
const PREFIXES: &[&str] = &[
    "ASAN_",
    "CUDA_",
    "DYLD_",
    "GLIBC_",
    "GOMP_",
    "KMP_",
    "KR_",
    "LC_",
    "LD_",
    "LLVM_",
    "LSAN_",
    "MALLOC_",
    "METAL_",
    "MLX_",
    "MTL_",
    "Malloc",
    "NVIDIA_",
    "OMP_",
    "OPENBLAS_",
    "RUST_",
    "TSAN_",
    "UBSAN_",
    "VECLIB_",
    "XDG_",
];

/// Parts of names of secrets, should one begin like the harmless ones.
const SECRET: &[&str] = &["KEY", "TOKEN", "SECRET", "PASS", "CREDENTIAL"];

/// The variables of this process that a worker gets.
pub(super) fn for_worker() -> impl Iterator<Item = (OsString, OsString)> {
    env::vars_os().filter(|(name, _)| name.to_str().is_some_and(is_harmless))
}

fn is_harmless(name: &str) -> bool {
    let known = NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    known && !SECRET.iter().any(|part| name.contains(part))
}

#[cfg(test)]
mod tests {
    use super::is_harmless;

    #[test]
    fn secrets_stay_and_what_a_worker_needs_passes() {
        for secret in [
            "KR_ADMIN_KEY",
            "KR_API_KEYS",
            "KR_API_KEY",
            "HF_TOKEN",
            "HUGGING_FACE_HUB_TOKEN",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_ACCESS_KEY_ID",
            "OPENAI_API_KEY",
            "GITHUB_TOKEN",
            "DATABASE_URL",
            "HTTPS_PROXY",
            "SSH_AUTH_SOCK",
            "KR_HUB_TOKEN",
            "MLX_SECRET",
            "PGPASSWORD",
            "XDG_PASSWORD",
            "",
            "path",
        ] {
            assert!(!is_harmless(secret), "{secret}");
        }
        for needed in [
            "PATH",
            "HOME",
            "TMPDIR",
            "LANG",
            "LC_ALL",
            "LD_LIBRARY_PATH",
            "DYLD_LIBRARY_PATH",
            "KR_CACHE_DIR",
            "MLX_METAL_PATH",
            "RUST_LOG",
            "RUST_BACKTRACE",
            "XDG_CACHE_HOME",
            "XDG_RUNTIME_DIR",
            "OMP_NUM_THREADS",
        ] {
            assert!(is_harmless(needed), "{needed}");
        }
    }
}
