//! The HTTP server: axum's router behind hyper, with the limits that `axum::serve` does not set.

use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{Router, extract::Request, response::Response, serve::Listener};
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};
use tower::{Service, ServiceExt};

use super::{
    ConnectionMemory, Limits, Tls,
    counted::{Counted, RequestBody},
    crowd::{Beyond, Crowd, Seat},
    patience::{Patient, Thrift},
    rates::Caller,
};
use crate::node::Whence;

/// How long a client may take for what it is to be refused for.
const ASIDE_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest request head, in bytes; past it the answer is 431 with a problem, and past twice as much hyper's own 431,
/// which has no body.
pub(super) const HEAD_BYTES_MAX: usize = 64 << 10;
/// What TLS keeps of what it has encrypted and the system has not taken yet, in bytes: one record.
const TLS_BUFFER_BYTES: usize = 16 << 10;
/// How long answers may take to finish once the server is told to stop.
const FAREWELL: Duration = Duration::from_secs(5);

/// What a connection holds while it lasts. A WebSocket outlives the request that it began as, and takes a clone of this
/// along from the request's extensions: so it goes on being counted, and the server waits for its farewell.
#[derive(Clone, Debug)]
pub struct Hold(Arc<Held>);

#[derive(Debug)]
struct Held {
    seat: Seat,
    thrift: Thrift,
    memory: ConnectionMemory,
    is_secure: bool,
    _running: TaskTrackerToken,
}

impl Hold {
    /// Where the connection comes from.
    pub fn whence(&self) -> Whence {
        self.0.seat.whence
    }

    /// What is sent from now on is a feed: the system is to buffer little of it.
    pub fn feeds(&self) {
        self.0.thrift.begin();
    }

    /// The memory that it makes the node hold.
    pub fn memory(&self) -> ConnectionMemory {
        self.0.memory.clone()
    }

    /// Whether it is over TLS.
    pub fn is_secure(&self) -> bool {
        self.0.is_secure
    }

    /// The limit of connections that it is beyond, if it is to be refused.
    pub fn beyond(&self) -> Option<Beyond> {
        self.0.seat.beyond
    }
}

/// Where a connection comes from.
#[derive(Clone, Copy, Debug)]
pub struct PeerAddress(pub IpAddr);

/// Serves in clear, within the default limits, until `stop` is cancelled, then lets answers finish.
pub async fn serve<L>(listener: L, router: Router, stop: CancellationToken)
where
    L: Listener<Addr = SocketAddr>,
{
    serve_with(listener, router, None, Limits::default(), stop).await;
}

/// The same, over TLS if that is there (then nobody is answered in clear), and within other limits.
pub async fn serve_with<L>(mut listener: L, router: Router, tls: Option<Tls>, limits: Limits, stop: CancellationToken)
where
    L: Listener<Addr = SocketAddr>,
{
    let crowd = Crowd::new(&limits);
    let connections = TaskTracker::new();
    loop {
        let (io, address) = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        let Some(seat) = crowd.enter(Whence::of(address.ip())) else { continue };
        let head_timeout = match seat.beyond {
            None => limits.head_timeout,
            Some(_) => limits.head_timeout.min(ASIDE_TIMEOUT),
        };
        let thrift = Thrift::default();
        let memory = ConnectionMemory::new(limits.memory.clone(), Caller::Address(seat.whence));
        let io = Counted::new(Patient::new(io, limits.write_timeout, thrift.clone()), memory.clone());
        let hold = Hold(Arc::new(Held {
            seat,
            thrift,
            memory: memory.clone(),
            is_secure: tls.is_some(),
            _running: connections.token(),
        }));
        let service = TowerToHyperService::new(router.clone().map_request(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(hold.clone());
            request.extensions_mut().insert(PeerAddress(address.ip()));
            request.map(|body| RequestBody::new(body, hold.memory()))
        }));
        let (stop, tls) = (stop.clone(), tls.clone());
        connections.spawn(async move {
            let Some(tls) = tls else { return talk(io, service, head_timeout, stop).await };
            // A task of each connection, so that a slow handshake keeps nobody else waiting.
            let secured = tokio::select! {
                secured = tls.accept(io, head_timeout) => secured,
                () = stop.cancelled() => return,
            };
            match secured {
                Ok(mut io) => {
                    let (encrypted, tls) = io.get_mut();
                    encrypted.end_count();
                    tls.set_buffer_limit(Some(TLS_BUFFER_BYTES));
                    talk(Counted::new(io, memory), service, head_timeout, stop).await;
                }
                Err(error) => tracing::debug!(%error, "no TLS came about"),
            }
        });
    }
    drop(listener);
    connections.close();
    if timeout(FAREWELL, connections.wait()).await.is_err() {
        tracing::warn!("some clients did not take their answers in time");
    }
}

/// Answers the requests of a connection until it ends.
async fn talk<Io, S>(io: Io, service: TowerToHyperService<S>, head_timeout: Duration, stop: CancellationToken)
where
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head_timeout)
        .max_buf_size(2 * HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}
