//! Rules about source files.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use proc_macro2::{Delimiter, TokenStream, TokenTree};

use super::{Finding, errors, relative};

/// A file that is longer cannot be held in the head: it has more than one subject.
const MAX_LINES: usize = 400;
/// Files that may be longer, each with the reason.
const LONGER: &[(&str, &str)] = &[];

/// Where `unsafe` may stand; everything else is plain Rust.
const UNSAFE: &[&str] = &[
    "crates/protocol/src/shm", // the ring's cells and the mapping they are in
    "crates/mlx-ext",          // MLX's C interface
    "crates/test-support/src/allocations.rs", // an allocator that counts, for tests
];

/// Reads every source file below `root` and checks it.
pub(super) fn check_all(root: &Path) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for path in files(root)? {
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        findings.extend(check(relative(&path, root)?, &text));
    }
    Ok(findings)
}

/// All `.rs`, `.cpp` and `.h` files; not those of hidden folders and build folders.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if path.is_dir() {
            // Cargo marks its target folders with this file.
            if !name.starts_with('.') && !path.join("CACHEDIR.TAG").exists() {
                found.extend(files(&path)?);
            }
        } else if [".rs", ".cpp", ".h"].iter().any(|ending| name.ends_with(ending)) {
            found.push(path);
        }
    }
    Ok(found)
}

/// What is wrong in one file.
fn check(file: &Path, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let lines = text.lines().count();
    if lines > MAX_LINES && !LONGER.iter().any(|(path, _)| file == Path::new(path)) {
        let message = format!(
            "{lines} lines; split the file by subject, or move its tests to a file of their own (at most {MAX_LINES}, exceptions with their reason in xtask/src/tidy/source.rs)"
        );
        findings.push(Finding::new(file, MAX_LINES + 1, message));
    }
    if file.extension().is_some_and(|it| it == "rs") {
        // What is not Rust, the compiler reports.
        if let Ok(tokens) = text.parse() {
            check_tokens(file, tokens, &mut findings);
        }
        findings.extend(errors::check(file, text));
    }
    findings
}

/// What is wrong in Rust's tokens: those of macros are looked at as well, comments and literals are not.
fn check_tokens(file: &Path, tokens: TokenStream, findings: &mut Vec<Finding>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    for (at, token) in tokens.iter().enumerate() {
        match token {
            TokenTree::Ident(word) if word == "unsafe" && !UNSAFE.iter().any(|it| file.starts_with(it)) => {
                let message =
                    "`unsafe` here; do it safely, or behind a safe function of protocol::shm or mlx-ext";
                findings.push(Finding::new(file, word.span().start().line, message));
            }
            TokenTree::Group(group) => {
                let is_attribute = at > 0
                    && matches!(&tokens[at - 1], TokenTree::Punct(it) if it.as_char() == '#')
                    && group.delimiter() == Delimiter::Bracket;
                let mut inside = group.stream().into_iter();
                if is_attribute && matches!(inside.next(), Some(TokenTree::Ident(it)) if it == "ignore") {
                    let message = "an ignored test proves nothing; make it run or remove it";
                    findings.push(Finding::new(file, group.span_open().start().line, message));
                }
                check_tokens(file, group.stream(), findings);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(file: &str, text: &str) -> Vec<(usize, String)> {
        check(Path::new(file), text).into_iter().map(|finding| (finding.line, finding.message)).collect()
    }

    #[test]
    fn unsafe_is_for_a_few_files() {
        let text = "\nfn f() { unsafe { g() } }\n";
        assert_eq!(messages("crates/gateway/src/worker/link.rs", text).len(), 1);
        assert_eq!(messages("crates/gateway/src/worker/link.rs", text)[0].0, 2);
        assert!(messages("crates/protocol/src/shm/ring.rs", text).is_empty());
        assert_eq!(messages("crates/protocol/src/shmem.rs", text).len(), 1);
    }

    #[test]
    fn words_in_comments_strings_and_longer_words_are_fine() {
        let text = "// unsafe\n#![deny(unsafe_code)]\nconst X: &str = \"unsafe #[ignore]\";\n";
        assert!(messages("e2e/src/lib.rs", text).is_empty());
    }

    #[test]
    fn ignored_tests_and_unsafe_macros_are_found() {
        let text =
            "#[test]\n#[ignore = \"slow\"]\nfn f() {\n    m! { x(unsafe { y }) }\n}\n#[ignore]\nfn g() {}\n";
        let found = messages("e2e/src/lib.rs", text);
        assert_eq!(found.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [2, 4, 6]);
    }

    #[test]
    fn the_line_limit_counts_all_kinds_of_source() {
        assert!(messages("a.cpp", &"x\n".repeat(MAX_LINES)).is_empty());
        assert_eq!(messages("a.cpp", &"x\n".repeat(MAX_LINES + 1))[0].0, MAX_LINES + 1);
    }
}
