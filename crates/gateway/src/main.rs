//! `kr-gateway`: reads its settings, binds its port, loads the models that are named, serves until a signal or an
//! administrator ends it.

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
    cli::{Cli, Command, Flags},
    config::{self, Config, Loaded},
    fleet::{ModelError, Models},
    http,
    reload::Reloader,
    runtime,
    shutdown::{Signals, shut_down},
};
use telemetry::LogFilter;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tracing::{error, info, warn};

fn main() -> ExitCode {
    let Cli { command, flags } = Cli::parse();
    let ended = match command {
        Some(Command::CheckConfig(flags)) => check(&flags),
        None => run(flags),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(()) => ExitCode::FAILURE,
    }
}

/// Stdout has what would be used, stderr what is wrong.
#[allow(clippy::print_stdout, clippy::print_stderr)]
fn check(flags: &Flags) -> Result<(), ()> {
    match config::check(flags) {
        Ok(text) => {
            print!("{text}");
            Ok(())
        }
        Err(error) => {
            eprintln!("error: {:#}", anyhow::Error::new(error));
            Err(())
        }
    }
}

fn run(flags: Flags) -> Result<(), ()> {
    let format = flags.log_format.unwrap_or_default();
    let started =
        telemetry::while_starting(format, || start(&flags).inspect_err(|error| error!("{error:#}")));
    let (Loaded { config, warnings, .. }, telemetry) = started.map_err(drop)?;
    for warning in warnings {
        warn!("{warning}");
    }
    let log = telemetry.log_filter();
    let run = || {
        let runtime = runtime::start(config.server.threads).context("can't start the server's threads")?;
        runtime.block_on(serve(flags, config, log))
    };
    run().map_err(|error| error!("{error:#}"))
}

/// Reads the settings, and begins to log and to trace as they say.
fn start(flags: &Flags) -> anyhow::Result<(Loaded, telemetry::Guard)> {
    let loaded = Config::load(flags)?;
    let telemetry = telemetry::init("kr-gateway", &loaded.config.telemetry)?;
    Ok((loaded, telemetry))
}

async fn serve(flags: Flags, config: Config, log: LogFilter) -> anyhow::Result<()> {
    let mut signals = Signals::listen().context("can't listen for signals")?;
    let hangup = signal(SignalKind::hangup()).context("can't listen for signals")?;
    let (listener, address) = bind(&config).await?;
    let app = assembly::assemble(&config)?;
    tokio::spawn(Reloader::new(flags, config.clone(), app.clone(), log).run(hangup));

    // From here on /livez answers, and /readyz shows how far the workers are.
    let (stop, mut stopped) = watch::channel(false);
    let stopped = async move {
        // An error means that `stop` is gone, which is a reason to stop, too.
        let _ = stopped.wait_for(|stopped| *stopped).await;
    };
    let server = tokio::spawn(http::server::serve(listener, app.clone(), stopped));

    let reason = tokio::select! {
        loaded = try_join_all(config.models.iter().map(|model| load_first(&app.models, model))) => {
            loaded?;
            announce(address, &config)?;
            signals.stop(&app).await
        }
        reason = signals.stop(&app) => reason,
    };
    info!(reason, "shutting down");
    let server = async {
        if let Err(error) = server.await {
            error!(%error, "the HTTP server failed");
        }
    };
    shut_down(&app, server, stop, app.drain_timeout(), &mut signals).await;
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
fn announce(address: SocketAddr, config: &Config) -> anyhow::Result<()> {
    let scheme = if config.server.tls.is_some() { "https" } else { "http" };
    println!("ready {scheme}://{address}");
    io::stdout().flush().context("can't write to stdout")?;
    let Some(model) = config.models.first() else {
        eprintln!(
            "try: curl {scheme}://{address}/v1/models lists the models; the first request for one loads it"
        );
        return Ok(());
    };
    let body = serde_json::json!({"model": model, "messages": [{"role": "user", "content": "Hello"}]});
    let key = if config.server.api_keys.is_empty() { "" } else { " -H 'Authorization: Bearer KEY'" };
    eprintln!(
        "try: curl {scheme}://{address}/v1/chat/completions{key} -H 'Content-Type: application/json' -d '{body}'"
    );
    Ok(())
}
