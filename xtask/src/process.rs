//! Starting other programs, with errors that say which one failed and how.

use std::{
    process::{Command, ExitStatus, Output, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::{Context, Result, bail};

/// Runs `command` with the terminal's output; an exit code other than 0 is an error.
pub(crate) fn run(mut command: Command) -> Result<()> {
    let status = command.status().with_context(|| cannot_start(&command))?;
    check(&command, status)
}

/// Runs `command` and returns what it printed; a failure's error carries its error output.
pub(crate) fn output(mut command: Command) -> Result<String> {
    let Output { status, stdout, stderr } =
        command.stdin(Stdio::null()).output().with_context(|| cannot_start(&command))?;
    if !status.success() {
        bail!("`{}` failed ({status}):\n{}", display(&command), String::from_utf8_lossy(&stderr).trim_end());
    }
    String::from_utf8(stdout)
        .with_context(|| format!("`{}` printed something other than UTF-8", display(&command)))
}

/// Like [`output`], but what the command says on its error output is shown at once.
pub(crate) fn output_with_progress(mut command: Command) -> Result<String> {
    let Output { status, stdout, .. } =
        command.stderr(Stdio::inherit()).output().with_context(|| cannot_start(&command))?;
    check(&command, status)?;
    String::from_utf8(stdout)
        .with_context(|| format!("`{}` printed something other than UTF-8", display(&command)))
}

/// Runs `commands`, one a core, quietly. `done` is told of each that succeeded; the first error stops the rest.
pub(crate) fn output_all(commands: Vec<Command>, done: impl Fn() + Sync) -> Result<()> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let count = commands.len();
    let queue = Mutex::new(commands.into_iter());
    let failed = AtomicBool::new(false);
    let work = || -> Result<()> {
        while !failed.load(Ordering::Relaxed) {
            let Some(command) = queue.lock().ok().and_then(|mut queue| queue.next()) else { break };
            output(command).inspect_err(|_| failed.store(true, Ordering::Relaxed))?;
            done();
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..cores.min(count)).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| match worker.join() {
            Ok(result) => result,
            Err(_) => bail!("a thread that runs commands panicked"),
        })
    })
}

/// Whether `command` starts and exits with 0, its output thrown away.
pub(crate) fn succeeds(mut command: Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn check(command: &Command, status: ExitStatus) -> Result<()> {
    if status.success() {
        return Ok(());
    }
    bail!("`{}` failed ({status})", display(command))
}

fn cannot_start(command: &Command) -> String {
    format!("cannot start `{}`", command.get_program().to_string_lossy())
}

/// The command as one can type it.
pub(crate) fn display(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| shell_word(&word.to_string_lossy())).collect::<Vec<_>>().join(" ")
}

/// `word` in quotes if a shell would otherwise read it as something else.
fn shell_word(word: &str) -> String {
    let plain = |character: char| character.is_alphanumeric() || "-_./=:,+@%".contains(character);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn of_many_commands_all_run_and_one_failure_is_an_error() {
        let shell = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            command
        };
        let done = AtomicUsize::new(0);
        let count = || {
            done.fetch_add(1, Ordering::Relaxed);
        };
        output_all((0..20).map(|_| shell("true")).collect(), count).unwrap();
        assert_eq!(done.load(Ordering::Relaxed), 20);
        let error = output_all(vec![shell("true"), shell("echo broken >&2; exit 3")], || {}).unwrap_err();
        assert!(format!("{error:#}").contains("broken"), "{error:#}");
    }

    #[test]
    fn a_shown_command_can_be_pasted() {
        let mut command = Command::new("/opt/my tools/cc");
        command.args(["-o", "it's", "$ORIGIN", ""]);
        assert_eq!(display(&command), r"'/opt/my tools/cc' -o 'it'\''s' '$ORIGIN' ''");
    }
}
