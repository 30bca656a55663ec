//! What is counted for a connection's memory: the bytes that are read from it, and the answers that it has not taken.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::{
    Error,
    body::{Body, Bytes, HttpBody},
    response::{IntoResponse, Response},
};
use hyper::body::{Frame, Incoming, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    memory::{ConnectionMemory, FREE_BYTES, Reservation},
    shares::Bounds,
};

/// Most bytes that are read at once: what was read beyond the end of a request is as long at the most.
const READ_BYTES_MAX: usize = 16 << 10;
/// Pieces of streams that are no longer than this do not count: of those that wait, the HTTP server takes 16 at once.
const SMALL_PIECE_BYTES: usize = 512;

/// A connection whose incoming bytes count.
pub struct Counted<Io> {
    io: Io,
    /// None once they are counted elsewhere.
    memory: Option<ConnectionMemory>,
}

impl<Io> Counted<Io> {
    /// Counts what is read.
    pub fn new(io: Io, memory: ConnectionMemory) -> Counted<Io> {
        Counted { io, memory: Some(memory) }
    }

    /// Counts nothing from now on: what is within is counted once it is decrypted.
    pub fn end_count(&mut self) {
        self.memory.take().inspect(ConnectionMemory::handed_over);
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for Counted<Io> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.memory.as_ref().is_some_and(|memory| !memory.counts_incoming()) {
            self.memory = None;
        }
        let before = into.filled().len();
        if self.memory.is_none() || into.remaining() <= READ_BYTES_MAX {
            ready!(Pin::new(&mut self.io).poll_read(context, into))?;
        } else {
            let mut part = ReadBuf::new(into.initialize_unfilled_to(READ_BYTES_MAX));
            ready!(Pin::new(&mut self.io).poll_read(context, &mut part))?;
            let read = part.filled().len();
            into.advance(read);
        }
        let read = into.filled().len() - before;
        Poll::Ready(self.memory.as_ref().map_or(Ok(()), |memory| memory.read(read)))
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Counted<Io> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

/// The body of a request. What was handed over is counted by what reads it, and is not half a request any more.
pub struct RequestBody {
    body: Incoming,
    memory: ConnectionMemory,
}

impl RequestBody {
    /// The body of a request whose head is here.
    pub fn new(body: Incoming, memory: ConnectionMemory) -> RequestBody {
        memory.head_came();
        RequestBody { body, memory }
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        self.memory.handed_over();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The response, counted until the connection has taken it; or the refusal, where there is no room for it within bounds.
pub fn answer(memory: &ConnectionMemory, bounds: Bounds, response: Response) -> Response {
    let size = response.body().size_hint().exact().map(|size| usize::try_from(size).unwrap_or(usize::MAX));
    let whole = match size {
        Some(size) if size <= FREE_BYTES => {
            memory.answered();
            return response;
        }
        Some(size) => memory.answer(size, bounds).map(Some),
        None => {
            memory.answered();
            Ok(None)
        }
    };
    match whole {
        Ok(whole) => response.map(|body| Body::new(CountedBody { body, memory: memory.clone(), whole })),
        Err(problem) => problem.into_response(),
    }
}

/// The body of a response.
struct CountedBody {
    body: Body,
    memory: ConnectionMemory,
    /// What is reserved for a body of known size and has not been sent. Of others each piece counts when it is made.
    whole: Option<Reservation>,
}

impl CountedBody {
    fn count(&mut self, piece: Bytes) -> Result<Bytes, Error> {
        if piece.len() <= SMALL_PIECE_BYTES {
            return Ok(piece);
        }
        let reservation = match &mut self.whole {
            Some(whole) => whole.split(piece.len()),
            None => {
                self.memory.reserve(piece.len()).map_err(|problem| Error::new(OverBudget(problem.detail().into())))?
            }
        };
        Ok(Bytes::from_owner(Piece { piece, _reservation: reservation }))
    }
}

/// A piece of a body. The server drops it once the connection has taken it.
struct Piece {
    piece: Bytes,
    _reservation: Reservation,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.piece
    }
}

impl HttpBody for CountedBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = match ready!(Pin::new(&mut self.body).poll_frame(context)) {
            Some(Ok(frame)) => frame,
            end => return Poll::Ready(end),
        };
        Poll::Ready(Some(match frame.into_data() {
            Ok(piece) => self.count(piece).map(Frame::data),
            Err(other) => Ok(other),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Why a stream is broken off.
#[derive(Debug)]
struct OverBudget(Box<str>);

impl std::fmt::Display for OverBudget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for OverBudget {}
