//! `cargo xtask docs`: the documents that programs print, so that they say what the code does.
//!
//! To add one: write an example that prints it, and name both in [`EXAMPLES`].

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, bail};

use crate::{
    binaries::{self, Program},
    process, setup,
    workspace::Workspace,
};

/// Documents, and the example of a crate that prints each. Examples share a folder, so their names differ.
const EXAMPLES: &[(&str, &str)] = &[
    ("docs/configuration.md", "configuration"),
    ("docs/metrics.md", "metrics"),
    ("docs/errors.md", "errors"),
];

/// The document of the programs' command lines.
const COMMAND_LINES: &str = "docs/cli.md";

/// The programs in it.
const PROGRAMS: &[&str] = &["kr-gateway", "cache-tool", "kr-worker"];

/// Width of a program's help, in characters.
const COLUMNS: &str = "100";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Change nothing; fail if a document is not what would be written.
    #[arg(long)]
    check: bool,
}

/// A document as it should be.
struct Document {
    /// From the workspace's root.
    path: &'static str,
    text: String,
}

/// Builds the programs that print, and writes or checks all documents.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    setup::run(workspace)?;
    if args.check {
        return check_all(workspace);
    }
    let documents = print_all(workspace)?;
    for document in &documents {
        if differs(&workspace.root, document).is_some() {
            let path = workspace.root.join(document.path);
            fs::write(&path, &document.text).with_context(|| format!("cannot write {}", path.display()))?;
            eprintln!("docs: {} is new", document.path);
        }
    }
    Ok(())
}

/// Builds what prints, and fails if a document is not what it should be.
pub(crate) fn check_all(workspace: &Workspace) -> Result<()> {
    check(&workspace.root, &print_all(workspace)?)
}

fn print_all(workspace: &Workspace) -> Result<Vec<Document>> {
    // All of the workspace in one call, as `test` builds it: apart, cargo would build dependencies again with other features.
    let built = binaries::build_all(workspace, &["build", "--workspace", "--bins", "--examples"])?;
    let mut documents = Vec::new();
    for &(path, example) in EXAMPLES {
        let text = process::output(Command::new(built.find(Program::Example, example)?))?;
        documents.push(Document { path, text });
    }
    let mut text =
        "# Command lines\n\nWritten by `cargo xtask docs` from the programs' own help.\n".to_owned();
    for &name in PROGRAMS {
        let program = built.find(Program::Binary, name)?;
        let help = help(&program, &[])?;
        text += &section("##", name, &help);
        for command in commands(&help) {
            text += &section("###", &format!("{name} {command}"), &self::help(&program, &[command])?);
        }
    }
    documents.push(Document { path: COMMAND_LINES, text });
    Ok(documents)
}

/// What `program` says of itself, or of one of its commands.
fn help(program: &Path, command: &[&str]) -> Result<String> {
    let mut asked = Command::new(program);
    asked.args(command).arg("--help").env("COLUMNS", COLUMNS);
    // Help shows the values of variables that stand for flags.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("KR_") {
            asked.env_remove(name);
        }
    }
    process::output(asked)
}

/// Names of the commands that `help` lists, but for `help` itself.
fn commands(help: &str) -> Vec<&str> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    // Descriptions that go on in another line are indented further.
    let listed = lines.take_while(|line| !line.is_empty());
    let names = listed.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help").collect()
}

fn section(level: &str, title: &str, help: &str) -> String {
    let lines: Vec<&str> = help.trim_end().lines().map(str::trim_end).collect();
    format!("\n{level} {title}\n\n```text\n{}\n```\n", lines.join("\n"))
}

fn check(root: &Path, documents: &[Document]) -> Result<()> {
    let wrong = documents.iter().filter_map(|document| {
        let line = differs(root, document)?;
        Some(format!("{}:{line}: is not what the code says", document.path))
    });
    let wrong: Vec<String> = wrong.collect();
    if wrong.is_empty() {
        return Ok(());
    }
    bail!("{}\n`cargo xtask docs` writes it again", wrong.join("\n"))
}

/// The first line in which the file differs from what it should be, from 1; a file that is missing does in its first.
fn differs(root: &Path, document: &Document) -> Option<usize> {
    let found = fs::read_to_string(root.join(document.path)).unwrap_or_default();
    if found == document.text {
        return None;
    }
    let same = found.lines().zip(document.text.lines()).take_while(|(a, b)| a == b).count();
    Some(same + 1)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_from_help() {
        let help = "Does it.\n\nUsage: x <COMMAND>\n\nCommands:\n  pull    Get a model,\n            whole\n  list    Show\n  help    Help\n\n\
                    Options:\n  -h, --help\n";
        assert_eq!(commands(help), ["pull", "list"]);
        assert!(commands("Usage: x\n\nOptions:\n  -h, --help\n").is_empty());
    }

    #[test]
    fn help_stands_in_a_block_without_spaces_at_the_ends_of_lines() {
        assert_eq!(section("##", "x", "a  \n\nb\n\n"), "\n## x\n\n```text\na\n\nb\n```\n");
    }

    #[test]
    fn a_document_that_differs_is_named_with_its_line() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("a.md"), "one\ntwo\n").unwrap();
        let document = |path, text: &str| Document { path, text: text.to_owned() };
        check(root.path(), &[document("a.md", "one\ntwo\n")]).unwrap();
        let wrong = [document("a.md", "one\n2\n"), document("b.md", "new\n")];
        let error = check(root.path(), &wrong).unwrap_err().to_string();
        assert!(error.contains("a.md:2: ") && error.contains("b.md:1: "), "{error}");
        // A line too many or too few is a difference as well.
        assert!(check(root.path(), &[document("a.md", "one\ntwo\nthree\n")]).is_err());
        assert!(check(root.path(), &[document("a.md", "one\ntwo")]).is_err());
    }
}
