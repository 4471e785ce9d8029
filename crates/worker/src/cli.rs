//! The worker's command line: what a person needs to see in a list of processes, and to find the gateway. The
//! gateway sends all other options in its greeting ([`WorkerOptions`](protocol::options::WorkerOptions)).

use std::path::PathBuf;

use clap::Parser;

/// Runs one model on MLX for a gateway.
///
/// The gateway starts it and speaks to it over shared memory; it ends when the gateway does.
#[derive(Clone, Debug, Parser)]
#[command(name = "kr-worker", version)]
pub struct Cli {
    /// Local socket on which the gateway waits for this worker.
    #[arg(long, value_name = "PATH", required_unless_present = "list_models")]
    socket: Option<PathBuf>,

    /// Name or digest of the model in the artifact store.
    #[arg(long, value_name = "NAME", required_unless_present = "list_models")]
    model: Option<String>,

    /// Print the models of the artifact store as JSON and exit.
    #[arg(long, conflicts_with_all = ["socket", "model"])]
    list_models: bool,

    /// Artifact store; the user's default one if not given.
    #[arg(long, value_name = "DIR", env = "KR_CACHE_DIR")]
    store: Option<PathBuf>,
}

/// What a command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// Run a model for a gateway.
    Serve(Serve),
    /// Print the models of a store.
    ListModels {
        /// Artifact store; `None`: the user's default one.
        store: Option<PathBuf>,
    },
}

/// Which model to run, and for whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Serve {
    /// Local socket on which the gateway waits.
    pub socket: PathBuf,
    /// Name or digest of the model in the artifact store.
    pub model: String,
    /// Artifact store; `None`: the user's default one.
    pub store: Option<PathBuf>,
}

impl From<Cli> for Task {
    fn from(Cli { socket, model, list_models: _, store }: Cli) -> Self {
        match (socket, model) {
            (Some(socket), Some(model)) => Self::Serve(Serve { socket, model, store }),
            // The parser lets neither be missing otherwise.
            _ => Self::ListModels { store },
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn task(arguments: &[&str]) -> Option<Task> {
        let arguments = ["kr-worker", "--store=s"].iter().chain(arguments);
        Cli::try_parse_from(arguments).ok().map(Task::from)
    }

    #[test]
    fn it_serves_one_model_or_lists_all() {
        let store = Some(PathBuf::from("s"));
        let serve = Serve { socket: "x".into(), model: "-m".into(), store: store.clone() };
        assert_eq!(task(&["--socket", "x", "--model=-m"]), Some(Task::Serve(serve)));
        assert_eq!(task(&["--list-models"]), Some(Task::ListModels { store }));
        for wrong in [
            &[][..],
            &["--socket", "x"],
            &["--model", "m"],
            &["--list-models", "--model", "m"],
            &["--list-models", "--socket", "x"],
        ] {
            assert_eq!(task(wrong), None, "{wrong:?}");
        }
    }
}
