//! `cache-tool completions`.

use clap::Command;
use clap_complete::Shell;

use crate::output::print_script;

/// Print a completion script for a shell.
///
/// Example: cache-tool completions bash > ~/.local/share/bash-completion/completions/cache-tool
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// For which shell
    shell: Shell,
}

/// Prints the script for the whole command line, which is `command`.
pub(crate) fn run(args: &Args, mut command: Command) -> anyhow::Result<()> {
    // Into memory first: a reader that went away is no error.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "cache-tool", &mut script);
    print_script(String::from_utf8_lossy(&script).trim_end())
}
