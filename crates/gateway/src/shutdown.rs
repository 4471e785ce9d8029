//! From the first signal, or an administrator's order, to the exit.
//!
//! ```text
//! stop ─► no new requests, /readyz 503 ─► streams end ─► workers drain ─► exit 0
//!                                              │ time is up, or a second signal
//!                                              └─► they end with an error event ─┘
//! ```

use std::{future::Future, io, time::Duration};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    time::timeout,
};
use tracing::{info, warn};

use crate::http::App;

/// SIGINT and SIGTERM, which end the gateway.
#[derive(Debug)]
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// From now on, the two no longer end the process. Needs a runtime.
    pub fn listen() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for a reason to stop: either of them, or an administrator's order to `app`. Returns its name.
    pub async fn stop(&mut self, app: &App) -> &'static str {
        tokio::select! {
            name = self.next() => name,
            () = app.stop_requested() => "POST /admin/drain",
        }
    }

    /// Waits for the next of either, and returns its name.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}

/// Time for the last events to reach their clients once streams were ended by force.
const FLUSH: Duration = Duration::from_secs(2);

/// Ends everything in order. `stop` makes `server` take no more connections and end when the open
/// ones are done.
pub async fn shut_down(
    app: &App,
    server: impl Future<Output = ()>,
    stop: watch::Sender<bool>,
    drain_timeout: Duration,
    signals: &mut Signals,
) {
    app.admission.close();
    app.models.close();
    stop.send_replace(true);
    let mut server = std::pin::pin!(server);
    info!("streams may go on for {drain_timeout:?}; a second signal ends them at once");
    let forced = tokio::select! {
        () = &mut server => None,
        () = tokio::time::sleep(drain_timeout) => Some("the time for them is up"),
        name = signals.next() => Some(name),
    };
    if let Some(why) = forced {
        warn!(why, "ending the streams that are left");
        for link in app.registry.links() {
            link.fail_all("the server is shutting down");
        }
        // Idle connections may stay open for longer; they are not waited for.
        let _ = timeout(FLUSH, server).await;
    }
    app.models.drain().await;
}
