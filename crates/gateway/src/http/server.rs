//! Accepts connections and serves them until told to stop.
//!
//! ```text
//! accept ─► a place? ─► TLS? ─► hyper over a watched socket ─► routes
//!             │ all taken: the longest idle connection gives its place up
//!             └ none is idle: health checks are answered, all else is 503
//! ```
//!
//! `axum::serve` has neither time limits nor a bound on connections.

mod activity;
mod connection;
mod descriptors;
mod places;
mod refusal;
mod socket;
mod transport;

use std::{future::Future, io, pin::pin, sync::Arc, time::Duration};

use rustix::net::sockopt::set_socket_send_buffer_size;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};
use tracing::{info, warn};

use self::{
    connection::Connection,
    places::{Bounds, Places},
};
use super::{app::App, router::routes};

/// Bytes that the operating system keeps of what a client has not read: more than a thousand tokens. Left alone, Linux lets them
/// grow to 4 MiB a connection, and a generation runs minutes ahead of a client that has stopped reading.
const SEND_BUFFER: usize = 256 << 10;

/// After the system refused a connection for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves `app` on `listener` until `stopped` resolves and the requests of that moment are answered.
pub async fn serve(listener: TcpListener, app: App, stopped: impl Future<Output = ()>) {
    let fitting = descriptors::raise_limit();
    let places = Arc::new(Places::default());
    let routes = routes(app.clone());
    let (stop, stopping) = watch::channel(false);
    let mut tasks = JoinSet::new();
    let mut stopped = pin!(stopped);
    loop {
        let accepted = tokio::select! {
            () = &mut stopped => break,
            Some(_) = tasks.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let (tcp, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                pause(&error, &places).await;
                continue;
            }
        };
        prepare(&tcp);
        // Without a place the connection is closed at once: there are far too many.
        let limits = app.connections();
        let Some(place) = places.take(peer.ip(), Bounds::of(&limits, fitting)) else { continue };
        let tls = app.tls().map(|tls| tls.server());
        let connection = Connection { limits, tls, peer, place, stopping: stopping.clone() };
        tasks.spawn(connection.run(tcp, routes.clone()));
    }
    drop(listener);
    stop.send_replace(true);
    while tasks.join_next().await.is_some() {}
}

/// A connection that failed before it was accepted is the client's business; a lack of descriptors is ours.
async fn pause(error: &io::Error, places: &Places) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    if matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
        return;
    }
    warn!(%error, "a connection could not be accepted");
    places.evict_idle();
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

/// A token is a small packet that must not wait for the next one, and a client that stops reading must soon be noticed.
fn prepare(tcp: &TcpStream) {
    if let Err(error) = tcp.set_nodelay(true) {
        info!(%error, "TCP_NODELAY can't be set");
    }
    if let Err(error) = set_socket_send_buffer_size(tcp, SEND_BUFFER) {
        info!(%error, "SO_SNDBUF can't be set");
    }
}
