//! A connection that ends when its client takes nothing of what it is sent for too long.
//!
//! An answer, or a feed, waits in the connection until its reader takes it; one that never does would hold it for ever. This
//! covers all that is written to a connection. Where a client's WebSocket is concerned, `ws` also asks that each frame is
//! taken in time.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// A connection and how long it may take nothing.
pub struct Patient<Io> {
    io: Io,
    patience: Duration,
    /// Runs while something waits to be taken.
    running: Option<Pin<Box<Sleep>>>,
}

impl<Io> Patient<Io> {
    /// A connection that may take nothing for so long.
    pub fn new(io: Io, patience: Duration) -> Patient<Io> {
        Patient { io, patience, running: None }
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

impl<Io: AsyncWrite + Unpin> AsyncWrite for Patient<Io> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(context, bytes);
        self.mind(written, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
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
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_is_given_up_and_who_takes_a_little_is_not() {
        let (mut far, near) = duplex(4);
        let mut near = Patient::new(near, Duration::from_secs(20));
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
}
