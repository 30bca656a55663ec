//! The sockets of the gossip links: WebSocket frames in and out, nothing of the protocol.
//!
//! Each link has a reader, which decodes and checks frames before the node's task sees them, and a writer with a small
//! queue. At most one batch of ops and one of presence are in the queue (the replica sends the next when this one is flushed), so a
//! bound on messages bounds the bytes.

use std::{
    fmt, io,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::mpsc,
    time::timeout,
};
use tokio_tungstenite::{
    client_async_with_config,
    tungstenite::{self, protocol::WebSocketConfig},
};
use tokio_util::task::TaskTracker;

use super::{Meters, next_link};
use crate::{
    replica::{Event, LinkId},
    wire::{self, FRAME_BYTES_MAX, Message},
};

/// Messages that wait to be written. One is a batch at most, and one about presence; the others are hellos, heads and beats, one
/// a second. A peer that leaves this many unread hangs, and its link is closed.
const OUTGOING_MAX: usize = 64;
/// How long a connection may take to come about.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one message may take to be written; a peer that reads slower than this is cut off and repaired later.
const WRITE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a closing link may take to write what it was given.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// How connections are made: TCP, or a simulated network in tests.
pub trait Network: Send + Sync + 'static {
    /// A byte stream to a peer.
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Connects to `host:port`.
    fn connect(&self, authority: &str) -> impl Future<Output = io::Result<Self::Io>> + Send;
}

/// The network of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tcp;

impl Network for Tcp {
    type Io = TcpStream;

    async fn connect(&self, authority: &str) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(authority).await?;
        // A batch is one write, and an op alone must not wait for the next.
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// A WebSocket as binary frames: incoming until it closes, outgoing.
pub trait Transport:
    Stream<Item = Result<Bytes, String>> + Sink<Bytes, Error = String> + Unpin + Send + 'static
{
}

impl<T> Transport for T where
    T: Stream<Item = Result<Bytes, String>> + Sink<Bytes, Error = String> + Unpin + Send + 'static
{
}

/// What a link's writer is given.
#[derive(Debug)]
pub(super) enum Outgoing {
    Message(Message),
    Close,
}

/// What links tell the node's task.
pub(super) enum LinkInput {
    Opened(LinkId, Option<String>, mpsc::Sender<Outgoing>),
    Event(Event),
}

/// Makes links and runs them.
#[derive(Clone)]
pub(super) struct Links {
    inputs: mpsc::Sender<LinkInput>,
    counter: Arc<AtomicU64>,
    meters: Arc<Meters>,
    running: TaskTracker,
}

impl Links {
    pub(super) fn new(inputs: mpsc::Sender<LinkInput>, meters: Arc<Meters>) -> Links {
        Links { inputs, counter: Arc::new(AtomicU64::new(1)), meters, running: TaskTracker::new() }
    }

    /// How many messages wait for the node's task, and how many may.
    pub(super) fn queue(&self) -> (usize, usize) {
        super::queue(&self.inputs)
    }

    /// Dials a node and runs the link until it ends.
    pub(super) async fn dial(&self, network: &impl Network, url: String) {
        let connected = match timeout(DIAL_TIMEOUT, connect(network, &url)).await {
            Ok(connected) => connected,
            Err(_) => Err("no answer in time".into()),
        };
        match connected {
            Ok(transport) => self.run(transport, Some(url)).await,
            Err(why) => {
                tracing::debug!(url, why, "dial failed");
                // The task is gone only when the node has stopped.
                let _ = self.inputs.send(LinkInput::Event(Event::DialFailed(url, why))).await;
            }
        }
    }

    /// Runs a link until it ends.
    pub(super) async fn run(&self, transport: impl Transport, dialled: Option<String>) {
        let link = next_link(&self.counter);
        let _open = self.meters.links.enter();
        let (outgoing, queue) = mpsc::channel(OUTGOING_MAX);
        if self.inputs.send(LinkInput::Opened(link, dialled, outgoing)).await.is_err() {
            return;
        }
        let (sink, stream) = transport.split();
        let write = self.running.track_future(write(sink, queue, link, self));
        let ended = tokio::select! {
            why = read(stream, link, self) => why,
            why = write => why,
        };
        tracing::debug!(link = link.0, why = ended, "link ended");
        let _ = self.inputs.send(LinkInput::Event(Event::Closed(link))).await;
    }

    /// Waits until the links have written what they were given.
    pub(super) async fn drained(&self) {
        self.running.close();
        // A link that does not take it in time ends with the process.
        let _ = timeout(CLOSE_TIMEOUT, self.running.wait()).await;
    }
}

async fn read<R>(mut stream: R, link: LinkId, links: &Links) -> String
where
    R: Stream<Item = Result<Bytes, String>> + Unpin,
{
    while let Some(frame) = stream.next().await {
        let event = match frame {
            Ok(bytes) => {
                links.meters.received_bytes.add(bytes.len() as u64);
                match wire::decode(&bytes) {
                    Ok(message) => Event::Heard(link, message),
                    Err(error) => Event::Broken(link, error),
                }
            }
            Err(why) => return why,
        };
        if links.inputs.send(LinkInput::Event(event)).await.is_err() {
            return "the node has stopped".into();
        }
    }
    "closed by the peer".into()
}

async fn write<W>(mut sink: W, mut queue: mpsc::Receiver<Outgoing>, link: LinkId, links: &Links) -> String
where
    W: Sink<Bytes, Error = String> + Unpin,
{
    while let Some(Outgoing::Message(message)) = queue.recv().await {
        let left = match message {
            Message::Presence(_) => Some(Event::Shown(link)),
            _ => message.is_batch().then_some(Event::Flushed(link)),
        };
        let frame = Bytes::from(wire::encode(&message));
        let bytes = frame.len() as u64;
        match timeout(WRITE_TIMEOUT, sink.send(frame)).await {
            Ok(Ok(())) => links.meters.sent_bytes.add(bytes),
            Ok(Err(why)) => return why,
            Err(_) => return "the peer does not read".into(),
        }
        if let Some(event) = left
            && links.inputs.send(LinkInput::Event(event)).await.is_err()
        {
            return "the node has stopped".into();
        }
    }
    let _ = timeout(CLOSE_TIMEOUT, sink.close()).await;
    "closed by this node".into()
}

async fn connect<N: Network>(network: &N, url: &str) -> Result<impl Transport, String> {
    let authority = authority(url).ok_or_else(|| format!("{url} is not of the form http://host:port"))?;
    let stream = network.connect(authority).await.map_err(|error| error.to_string())?;
    let mut config = WebSocketConfig::default();
    config.read_buffer_size = 64 << 10;
    config.max_message_size = Some(FRAME_BYTES_MAX);
    config.max_frame_size = Some(FRAME_BYTES_MAX);
    config.max_write_buffer_size = 2 * FRAME_BYTES_MAX;
    let request = format!("ws://{authority}/v1/gossip");
    let (socket, _) = client_async_with_config(request, stream, Some(config)).await.map_err(shown)?;
    let frames = socket.filter_map(|message| async {
        match message {
            Ok(tungstenite::Message::Binary(bytes)) => Some(Ok(bytes)),
            // Pings are answered by the library; text is no frame of ours, and decoding nothing says so.
            Ok(tungstenite::Message::Text(_)) => Some(Ok(Bytes::new())),
            Ok(_) => None,
            Err(error) => Some(Err(shown(error))),
        }
    });
    let frames = frames.with(|bytes: Bytes| async { Ok::<_, tungstenite::Error>(tungstenite::Message::Binary(bytes)) });
    Ok(Box::pin(frames.sink_map_err(shown)))
}

/// The `host:port` of a node's URL.
pub fn authority(url: &str) -> Option<&str> {
    let authority = url.strip_prefix("http://")?.trim_end_matches('/');
    let (host, port) = authority.rsplit_once(':')?;
    let valid = !host.is_empty() && port.parse::<u16>().is_ok() && !authority.contains(['/', '?', '#', '@', ' ']);
    valid.then_some(authority)
}

fn shown(error: impl fmt::Display) -> String {
    error.to_string()
}
