//! The HTTP server: axum's router behind hyper, with the limits that `axum::serve` does not set.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{Router, extract::Request, response::Response, serve::Listener};
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};
use tower::{Service, ServiceExt};

use super::Tls;

/// Connections at once; further ones wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 16_384;
/// How long a client may take to send its request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest request head, in bytes; past it the answer is 431 with a problem, and past twice as much hyper's own 431,
/// which has no body.
pub(super) const HEAD_BYTES_MAX: usize = 64 << 10;
/// How long answers may take to finish once the server is told to stop.
const FAREWELL: Duration = Duration::from_secs(5);

/// What a connection holds while it lasts. A WebSocket outlives the request that it began as, and takes a clone of this
/// along from the request's extensions: so it goes on being counted, and the server waits for its farewell.
#[derive(Clone, Debug)]
pub struct Hold {
    _permit: Arc<OwnedSemaphorePermit>,
    _running: TaskTrackerToken,
}

/// Serves in clear until `stop` is cancelled, then lets answers finish.
pub async fn serve<L>(listener: L, router: Router, stop: CancellationToken)
where
    L: Listener,
{
    serve_with(listener, router, None, stop).await;
}

/// The same, over TLS if that is there: then nobody is answered in clear.
pub async fn serve_with<L>(mut listener: L, router: Router, tls: Option<Tls>, stop: CancellationToken)
where
    L: Listener,
{
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let connections = TaskTracker::new();
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { break };
        let (io, _) = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        let hold = Hold { _permit: Arc::new(permit), _running: connections.token() };
        let service = TowerToHyperService::new(router.clone().map_request(move |mut request: Request<_>| {
            request.extensions_mut().insert(hold.clone());
            request
        }));
        let (stop, tls) = (stop.clone(), tls.clone());
        connections.spawn(async move {
            let Some(tls) = tls else { return talk(io, service, stop).await };
            // A task of each connection, so that a slow handshake keeps nobody else waiting.
            let secured = tokio::select! {
                secured = tls.accept(io) => secured,
                () = stop.cancelled() => return,
            };
            match secured {
                Ok(io) => talk(io, service, stop).await,
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
async fn talk<Io, S>(io: Io, service: TowerToHyperService<S>, stop: CancellationToken)
where
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
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
