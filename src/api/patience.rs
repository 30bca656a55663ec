//! A connection that ends when its client takes nothing of what it is sent for too long.
//!
//! An answer, or a feed, waits in the connection until its reader takes it; one that never does would hold it for ever. This
//! covers all that is written to a connection. Where a client's WebSocket is concerned, `ws` also asks that each frame is
//! taken in time.
//!
//! What the system buffers for a connection is memory too, megabytes of it, and filling it is work that nobody has asked for.
//! So for a feed it buffers little ([`Thrift`]): one that is not read is stuck soon, and costs nothing from then on.

use std::{
    any::Any,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use rustix::net::sockopt::set_socket_send_buffer_size;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};

/// What the system buffers for a feed, in bytes; it counts twice as much, for what it keeps beside them. More than a megabyte
/// a second gets through with that where an answer takes a tenth of one.
const FEED_BUFFER: usize = 128 << 10;

/// Whether the system is to buffer little for a connection.
#[derive(Clone, Debug, Default)]
pub struct Thrift(Arc<AtomicBool>);

impl Thrift {
    /// From now on it is.
    pub fn begin(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A connection and how long it may take nothing.
pub struct Patient<Io> {
    io: Io,
    patience: Duration,
    /// None once it is kept.
    thrift: Option<Thrift>,
    /// Runs while something waits to be taken.
    running: Option<Pin<Box<Sleep>>>,
}

impl<Io: 'static> Patient<Io> {
    /// A connection that may take nothing for so long.
    pub fn new(io: Io, patience: Duration, thrift: Thrift) -> Patient<Io> {
        Patient { io, patience, thrift: Some(thrift), running: None }
    }

    fn be_thrifty(&mut self) {
        if self.thrift.as_ref().is_some_and(|Thrift(thrift)| thrift.load(Ordering::Relaxed)) {
            self.thrift = None;
            // Tests have other connections than those of the system.
            if let Some(socket) = (&self.io as &dyn Any).downcast_ref::<TcpStream>()
                && let Err(error) = set_socket_send_buffer_size(socket, FEED_BUFFER)
            {
                tracing::debug!(%error, "the system buffers as much as it likes");
            }
        }
    }

    fn mind<T>(&mut self, written: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.running = None;
            return written;
        }
        let patience = self.patience;
        let running = self.running.get_or_insert_with(|| Box::pin(sleep(patience)));
        ready!(running.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for Patient<Io> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, into)
    }
}

impl<Io: AsyncWrite + Unpin + 'static> AsyncWrite for Patient<Io> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.be_thrifty();
        let written = Pin::new(&mut self.io).poll_write(context, bytes);
        self.mind(written, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.be_thrifty();
        let written = Pin::new(&mut self.io).poll_write_vectored(context, slices);
        self.mind(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(context);
        self.mind(flushed, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.io).poll_shutdown(context);
        self.mind(shut, context)
    }
}

#[cfg(test)]
mod tests {
    use rustix::net::sockopt::socket_send_buffer_size;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, duplex},
        net::TcpListener,
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_is_given_up_and_who_takes_a_little_is_not() {
        let (mut far, near) = duplex(4);
        let mut near = Patient::new(near, Duration::from_secs(20), Thrift::default());
        let reader = tokio::spawn(async move {
            for _ in 0..4 {
                sleep(Duration::from_secs(19)).await;
                far.read_exact(&mut [0; 2]).await.unwrap();
            }
            far
        });
        near.write_all(&[7; 12]).await.unwrap();
        let _far = reader.await.unwrap();
        assert_eq!(near.write_all(&[7; 1]).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
    #[tokio::test]
    async fn the_system_buffers_little_for_a_feed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let thrift = Thrift::default();
        let mut near = Patient::new(listener.accept().await.unwrap().0, Duration::from_secs(1), thrift.clone());
        near.write_all(b"an answer").await.unwrap();
        let before = socket_send_buffer_size(&near.io).unwrap();
        thrift.begin();
        near.write_all(b"a feed").await.unwrap();
        let after = socket_send_buffer_size(&near.io).unwrap();
        assert!(after <= 2 * FEED_BUFFER && after != before, "{before}, {after}");
    }
}
