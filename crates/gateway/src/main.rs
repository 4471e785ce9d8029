//! `kr-gateway`: reads its settings, binds its port, loads its models, serves until a signal.

use std::{
    io::{self, Write},
    net::SocketAddr,
    process::ExitCode,
};

use anyhow::Context;
use clap::Parser;
use futures_util::future::try_join_all;
use gateway::{
    assembly,
    cli::Flags,
    config::Config,
    fleet::{ModelError, Models},
    http,
    shutdown::{Signals, shut_down},
};
use tokio::{net::TcpListener, sync::watch};
use tracing::{error, info};

fn main() -> ExitCode {
    let flags = Flags::parse();
    let format = flags.log_format.unwrap_or_default();
    let started =
        telemetry::while_starting(format, || start(&flags).inspect_err(|error| error!("{error:#}")));
    let Ok((config, _telemetry)) = started else { return ExitCode::FAILURE };
    let run = || tokio::runtime::Runtime::new().context("can't start the runtime")?.block_on(serve(config));
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Reads the settings, and begins to log and to trace as they say.
fn start(flags: &Flags) -> anyhow::Result<(Config, telemetry::Guard)> {
    let config = Config::load(flags)?;
    let telemetry = telemetry::init("kr-gateway", &config.telemetry)?;
    Ok((config, telemetry))
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let mut signals = Signals::listen().context("can't listen for signals")?;
    let (listener, address) = bind(&config).await?;
    let app = assembly::assemble(&config)?;

    // From here on /livez answers, and /readyz shows how far the workers are.
    let (stop, mut stopped) = watch::channel(false);
    let stopped = async move {
        // An error means that `stop` is gone, which is a reason to stop, too.
        let _ = stopped.wait_for(|stopped| *stopped).await;
    };
    let server = tokio::spawn(http::server::serve(listener, app.clone(), stopped));

    let signal = tokio::select! {
        loaded = try_join_all(config.models.iter().map(|model| load_first(&app.models, model))) => {
            loaded?;
            announce(address, config.models.first().map_or("", String::as_str))?;
            signals.next().await
        }
        signal = signals.next() => signal,
    };
    info!(signal, "shutting down");
    let server = async {
        if let Err(error) = server.await {
            error!(%error, "the HTTP server failed");
        }
    };
    shut_down(&app, server, stop, config.server.drain_timeout, &mut signals).await;
    Ok(())
}

/// Loads a model of the command line. A failure ends the gateway, but an administrator may have unloaded the model.
async fn load_first(models: &Models, model: &str) -> Result<(), ModelError> {
    match models.load(model, None).await {
        Ok(_) | Err(ModelError::Unloaded(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

async fn bind(config: &Config) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let (host, port) = (config.server.host.as_str(), config.server.port);
    let listener = TcpListener::bind((host, port)).await.with_context(|| {
        format!(
            "can't listen on {host}:{port}; choose another address with --host or another port with --port"
        )
    })?;
    let address = listener.local_addr().context("the listening socket has no address")?;
    Ok((listener, address))
}

/// Stdout has the one line that scripts wait for; the rest is for people.
#[allow(clippy::print_stdout)]
fn announce(address: SocketAddr, model: &str) -> anyhow::Result<()> {
    println!("ready http://{address}");
    io::stdout().flush().context("can't write to stdout")?;
    let body = serde_json::json!({"model": model, "messages": [{"role": "user", "content": "Hello"}]});
    eprintln!(
        "try: curl http://{address}/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'"
    );
    Ok(())
}
