//! The programs set-up needs, looked for all at once before anything is made.

use std::{env, process::Command};

use anyhow::{Context, Result, bail};

use crate::process;

/// The tools found.
pub(crate) struct Tools {
    /// The C++ compiler's command, with the arguments `$CXX` may hold.
    compiler: Vec<String>,
    /// The first line of its `--version`.
    pub(crate) compiler_version: String,
}

impl Tools {
    /// A command that starts the C++ compiler.
    pub(crate) fn compiler(&self) -> Command {
        command_of(&self.compiler)
    }
}

/// A command that starts the C++ compiler, if there is one.
pub(crate) fn compiler() -> Option<Command> {
    find_compiler().as_deref().map(command_of)
}

fn command_of(words: &[String]) -> Command {
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    command
}

/// Finds the tools, or says in one message what is missing and how to get it.
pub(crate) fn check() -> Result<Tools> {
    let compiler = find_compiler();
    let python = works("python3", &["--version"]);
    let pip = python && works("python3", &["-m", "pip", "--version"]);

    let mut missing = Vec::new();
    if compiler.is_none() {
        missing.push(Missing { what: "a C++ compiler (c++, g++ or $CXX)", debian: "g++", fedora: "gcc-c++" });
    }
    if !python {
        missing.push(Missing { what: "python3", debian: "python3", fedora: "python3" });
    }
    if !pip {
        missing.push(Missing { what: "pip (python3 -m pip)", debian: "python3-pip", fedora: "python3-pip" });
    }
    let Some(compiler) = compiler.filter(|_| missing.is_empty()) else {
        bail!("{}", explain(&missing));
    };
    let mut version = Command::new(&compiler[0]);
    version.args(&compiler[1..]).arg("--version");
    let version = process::output(version)?;
    let compiler_version =
        version.lines().next().context("the C++ compiler does not say its version")?.to_owned();
    Ok(Tools { compiler, compiler_version })
}

/// `$CXX` if it is set, even if it does not work: the user asked for that one.
fn find_compiler() -> Option<Vec<String>> {
    let candidates = match env::var("CXX") {
        Ok(chosen) if !chosen.trim().is_empty() => vec![chosen],
        _ => vec!["c++".to_owned(), "g++".to_owned(), "clang++".to_owned()],
    };
    candidates
        .iter()
        .map(|candidate| candidate.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .find(|words| {
            let arguments: Vec<&str> = words[1..].iter().map(String::as_str).chain(["--version"]).collect();
            works(&words[0], &arguments)
        })
}

/// Something that is not on this machine, and the packages that bring it.
struct Missing {
    what: &'static str,
    debian: &'static str,
    fedora: &'static str,
}

fn explain(missing: &[Missing]) -> String {
    let list =
        |name: fn(&Missing) -> &str, separator| missing.iter().map(name).collect::<Vec<_>>().join(separator);
    format!(
        "set-up needs, and this machine lacks: {}\n  Debian, Ubuntu:  sudo apt install {}\n  Fedora:          sudo dnf install {}\nNothing was changed.",
        list(|it| it.what, ", "),
        list(|it| it.debian, " "),
        list(|it| it.fedora, " "),
    )
}

fn works(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments);
    process::succeeds(command)
}
