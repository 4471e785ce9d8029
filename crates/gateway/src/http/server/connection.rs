//! One connection, from its first byte to its last.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::{
    Router as Routes,
    body::Body,
    extract::{ConnectInfo, Request},
    response::Response,
};
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_rustls::rustls::ServerConfig;
use tower::ServiceExt;
use tracing::debug;

use super::{
    activity::{Activity, Expired, Phase},
    places::Place,
    refusal,
    socket::Socket,
    transport::{HandshakeError, Transport},
};
use crate::{
    config::Connections,
    http::{error::ApiError, unread::close},
};

/// What a connection needs to know.
pub(super) struct Connection {
    pub(super) limits: Connections,
    /// `None`: HTTP without TLS.
    pub(super) tls: Option<Arc<ServerConfig>>,
    pub(super) peer: SocketAddr,
    pub(super) place: Place,
    pub(super) stopping: watch::Receiver<bool>,
}

/// About the most bytes of an answer that hyper keeps for a client that does not read. A header has to fit in as many.
const MAX_BUFFER: usize = 128 << 10;

/// Why a connection ended.
enum End {
    /// hyper is done with it.
    Done(hyper::Result<()>),
    /// A limit passed.
    Expired(Expired),
    /// It was idle when its place was needed, or when the gateway was to stop.
    GivenUp,
}

type Answer = Pin<Box<dyn Future<Output = Result<hyper::Response<Watched>, Infallible>> + Send>>;

impl Connection {
    /// Serves it until it ends, and lets its client read the last answer.
    pub(super) async fn run(mut self, tcp: TcpStream, routes: Routes) {
        let Some(transport) = self.open(tcp).await else { return };
        let Self { limits, peer, place, mut stopping, .. } = self;
        let activity = Arc::clone(&place.activity);
        let socket = TokioIo::new(Socket::new(transport, Arc::clone(&activity), limits.max_header_bytes));
        let caller = Peer { address: peer, is_extra: place.is_extra };
        let too_slow = ApiError::SlowConsumer(limits.slow_consumer_timeout);
        let service = service_fn(|request| answer(request, &routes, &activity, caller));
        let mut hyper = builder(&limits).serve_connection(socket, service);
        let end = {
            let mut stop = pin!(stopping.wait_for(|stop| *stop));
            let mut evicted = pin!(activity.evicted.notified());
            let mut timer = pin!(sleep_until(Instant::now()));
            let mut is_stopping = false;
            poll_fn(|cx| {
                if !is_stopping && stop.as_mut().poll(cx).is_ready() {
                    is_stopping = true;
                    Pin::new(&mut hyper).graceful_shutdown();
                }
                if let Poll::Ready(result) = hyper.poll_without_shutdown(cx) {
                    return Poll::Ready(End::Done(result));
                }
                let waits = matches!(activity.phase().0, Phase::Idle | Phase::Head);
                if evicted.as_mut().poll(cx).is_ready() || (is_stopping && waits) {
                    return Poll::Ready(End::GivenUp);
                }
                loop {
                    let expired = ready!(expire(&activity, &limits, timer.as_mut(), cx));
                    if expired == Expired::Reading && activity.give_stream_up(&too_slow) {
                        debug!("a client did not read its stream, which was ended");
                        continue;
                    }
                    return Poll::Ready(End::Expired(expired));
                }
            })
            .await
        };
        let socket = hyper.into_parts().io.into_inner();
        finish(socket, end, &activity).await;
        drop(place);
    }

    /// Agrees on TLS, if the server has it. `None`: the connection has ended.
    async fn open(&mut self, tcp: TcpStream) -> Option<Transport> {
        let activity = Arc::clone(&self.place.activity);
        let Some(tls) = self.tls.take() else { return Some(Transport::plain(tcp, activity)) };
        // It may be given up for another connection, and has as much time as a header.
        activity.enter(Phase::Head);
        let deadline = Instant::now() + self.limits.header_timeout;
        let opened = tokio::select! {
            // In a place of its own: connections without TLS need not have room for it.
            opened = Box::pin(Transport::tls(tcp, Arc::clone(&activity), tls)) => opened,
            () = sleep_until(deadline) => return None,
            () = activity.evicted.notified() => return None,
            // An error means that the server is gone.
            _ = self.stopping.wait_for(|stop| *stop) => return None,
        };
        // All of the handshake is written, or nothing more will be.
        activity.flushed();
        activity.enter(Phase::Idle);
        match opened {
            Ok(transport) => Some(transport),
            Err(HandshakeError::NotTls(transport)) => {
                let refuse = Socket::new(transport, Arc::clone(&activity), self.limits.max_header_bytes)
                    .refuse(&ApiError::NotTls);
                tokio::select! {
                    () = refuse => {}
                    () = activity.evicted.notified() => {}
                }
                None
            }
            Err(HandshakeError::Failed(error)) => {
                debug!(%error, peer = %self.peer, "no TLS");
                None
            }
        }
    }
}

/// The time limits are ours. Vectored writes would keep the socket from seeing an answer in one piece.
fn builder(limits: &Connections) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .header_read_timeout(None)
        .writev(false)
        .max_header_size(limits.max_header_bytes)
        .max_buf_size(MAX_BUFFER.max(limits.max_header_bytes));
    // Naming hyper's own default would cost an allocation for each request.
    if limits.max_headers != HYPER_MAX_HEADERS {
        builder.max_headers(limits.max_headers);
    }
    builder
}

const HYPER_MAX_HEADERS: usize = 100;

/// Who is at the other end.
#[derive(Clone, Copy)]
struct Peer {
    address: SocketAddr,
    is_extra: bool,
}

/// Resolves when a limit has passed. The activity changes only while the connection is polled, so looking at it after
/// each poll misses nothing.
fn expire(
    activity: &Activity,
    limits: &Connections,
    mut timer: Pin<&mut tokio::time::Sleep>,
    cx: &mut Context<'_>,
) -> Poll<Expired> {
    loop {
        if let Some(expired) = activity.expired(limits) {
            return Poll::Ready(expired);
        }
        let Some(deadline) = activity.deadline(limits) else { return Poll::Pending };
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        ready!(timer.as_mut().poll(cx));
    }
}

async fn finish(socket: Socket, end: End, activity: &Activity) {
    // While it lingers it may be given up like any idle one.
    activity.enter(Phase::Idle);
    let close = async {
        match end {
            End::Done(result) => {
                if let Err(error) = result {
                    debug!(%error, "a connection ended early");
                }
                socket.close().await;
            }
            End::Expired(Expired::Head) => socket.refuse(&ApiError::HeaderTimeout).await,
            End::Expired(Expired::Reading) => {
                debug!("a client did not read its answer");
                socket.abort();
            }
            End::Expired(Expired::Idle) | End::GivenUp => drop(socket),
        }
    };
    tokio::select! {
        () = close => {}
        () = activity.evicted.notified() => {}
    }
}

/// Passes a request on, and keeps the activity up to date.
fn answer(mut request: Request<Incoming>, routes: &Routes, activity: &Arc<Activity>, peer: Peer) -> Answer {
    request.extensions_mut().insert(ConnectInfo(peer.address));
    activity.enter(if request.body().is_end_stream() { Phase::Answering } else { Phase::Body });
    let watch = |body, part| Watched { body, part, activity: Arc::clone(activity) };
    let request = request.map(|body| Body::new(watch(Body::new(body), Part::Request)));
    let activity = Arc::clone(activity);
    let respond = move |mut response: Response| {
        activity.answering(response.extensions_mut().remove());
        response.map(|body| Watched { body, part: Part::Response, activity })
    };
    if peer.is_extra && !refusal::is_health_check(&request) {
        return Box::pin(async move { Ok(respond(close(refusal::no_place(request.headers()).await))) });
    }
    let routes = routes.clone();
    Box::pin(async move { routes.oneshot(request).await.map(respond) })
}

/// A body whose end the activity is told.
struct Watched {
    body: Body,
    part: Part,
    activity: Arc<Activity>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Request,
    Response,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if self.part == Part::Request && (frame.is_none() || self.body.is_end_stream()) {
            self.activity.body_ended();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        match self.part {
            // It will not be read any more: the answer is what the connection is about from now on.
            Part::Request => self.activity.body_ended(),
            Part::Response => self.activity.enter(Phase::Idle),
        }
    }
}
