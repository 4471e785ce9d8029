//! The commands that a document shows.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A fenced block of commands.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Block {
    /// Line of its fence, from 1.
    pub(crate) line: usize,
    pub(crate) script: String,
}

/// A here-document that hands a block to Python.
const PYTHON: (&str, &str) = ("python3 - <<'PYTHON'\n", "PYTHON\n");

/// What is fenced with `sh`, and what is fenced with `python` as a command that runs it.
pub(crate) fn blocks(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    // With how its script ends; without, it does not run.
    let mut open: Option<(Block, Option<&str>)> = None;
    for (index, line) in text.lines().enumerate() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(language)) => {
                assert!(!language.is_empty(), "line {}: a fence says what is in it", index + 1);
                let (begin, end) = match language {
                    "sh" | "bash" | "shell" | "console" => ("", Some("")),
                    "python" => (PYTHON.0, Some(PYTHON.1)),
                    _ => ("", None),
                };
                open = Some((Block { line: index + 1, script: begin.to_owned() }, end));
            }
            (Some(_), Some(_)) => {
                if let Some((mut block, Some(end))) = open.take() {
                    block.script += end;
                    blocks.push(block);
                }
            }
            (Some((block, _)), None) => {
                block.script += line;
                block.script += "\n";
            }
            (None, None) => {}
        }
    }
    assert_eq!(open, None, "a fence is never closed");
    blocks
}

/// What stands in backticks within a line and begins with one of `programs`. Commands with a placeholder are left out.
pub(crate) fn inline<'a>(text: &'a str, programs: &[&str]) -> Vec<&'a str> {
    let outside_fences = text.split("```").step_by(2);
    let spans = outside_fences.flat_map(|part| part.split('`').skip(1).step_by(2));
    spans
        .filter(|span| programs.iter().any(|program| span.starts_with(&format!("{program} "))))
        .filter(|span| !span.contains(['<', '…', '|', '\n']))
        .collect()
}

/// Every Markdown file of the repository, relative to its root.
pub(crate) fn documents(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                // Build folders carry this file.
                let skipped = name.starts_with('.') && name != ".github";
                if !skipped && !path.join("CACHEDIR.TAG").exists() {
                    folders.push(path);
                }
            } else if name.ends_with(".md") {
                found.push(path.strip_prefix(root).unwrap().to_path_buf());
            }
        }
    }
    found.sort();
    found
}

#[test]
fn blocks_and_inline_commands_are_found() {
    let text =
        "a\n```sh\nls # it\npwd\n```\n```text\nno\n```\nRun `cache-tool list` or `cache-tool`, `x <y>`.\n";
    assert_eq!(blocks(text), [Block { line: 2, script: "ls # it\npwd\n".into() }]);
    let python = Block { line: 1, script: "python3 - <<'PYTHON'\nprint(1)\nPYTHON\n".into() };
    assert_eq!(blocks("```python\nprint(1)\n```\n"), [python]);
    assert_eq!(inline(text, &["cache-tool", "x"]), ["cache-tool list"]);
}
