//! The sockets of the gossip links: WebSocket frames in and out, nothing of the protocol.
//!
//! Where the pool has a secret, both sides prove it before the node's task hears of a link, and the frames of the link are
//! encrypted (`admission`, `handshake`, `noise`): what is below sees them decrypted.
//!
//! Each link has a reader, which decodes and checks frames before the node's task sees them, and a writer with a small
//! queue. At most one batch of ops and one of presence are in the queue (the replica sends the next when this one is flushed), so a
//! bound on messages bounds the bytes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Sink, SinkExt, Stream, StreamExt, future::ready};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::mpsc,
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{
        self,
        client::IntoClientRequest,
        handshake::client::{Request, Response},
        protocol::{Role, WebSocketConfig},
    },
};
use tokio_util::{either::Either, task::TaskTracker};

use super::{
    Meters,
    admission::{Admission, Door, NotAdmitted, Offer, Proof, REFUSAL},
    handshake::{Dialler, HANDSHAKE, Unproved},
    handshake_rate::Handshakes,
    next_link,
    node_key::NodeKey,
    noise::{Session, sealed_len},
    secret::{Key, PoolSecret},
    trust::Trust,
};
use crate::{
    op::{NodeId, PublicKey},
    replica::{Endpoint, Event, LinkId, LinkKeys, is_local},
    wire::{self, FRAME_BYTES_MAX, Hello, Message},
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
/// Most URLs of which is kept what was said of them; past that all may be said again.
const COMPLAINTS_MAX: usize = 1_024;

/// By what a node and its peers know each other.
pub struct Credentials {
    /// The pool's secret, or that there is none.
    pub secret: PoolSecret,
    /// The node's secret key; if there is none, it gets one of this process alone.
    pub node_key: Option<NodeKey>,
    /// The authorities that vouch for nodes at `https` URLs.
    pub trust: Trust,
    /// Whether the rate of handshakes is limited. It is not where a test drives a node without a network.
    pub limits_handshakes: bool,
}

impl Credentials {
    /// Of a node with a secret key of this process alone.
    pub fn of_process(secret: PoolSecret, trust: Trust) -> Credentials {
        Credentials { secret, node_key: None, trust, limits_handshakes: true }
    }

    /// Of a node in a pool without a secret.
    pub fn none() -> Credentials {
        Credentials::of_process(PoolSecret::none(), Trust::of_system())
    }
}

/// How connections are made: TCP, or a simulated network in tests.
pub trait Network: Send + Sync + 'static {
    /// A byte stream to a peer.
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Connects to `host:port`.
    fn connect(&self, authority: &str) -> impl Future<Output = io::Result<Self::Io>> + Send;

    /// The addresses, each with the port, of the name in `host:port`; none if the host is an address itself.
    fn resolve(&self, _authority: &str) -> impl Future<Output = io::Result<Option<Vec<String>>>> + Send {
        ready(Ok(None))
    }
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

    async fn resolve(&self, authority: &str) -> io::Result<Option<Vec<String>>> {
        if authority.parse::<SocketAddr>().is_ok() {
            return Ok(None);
        }
        let addresses: BTreeSet<SocketAddr> = tokio::net::lookup_host(authority).await?.collect();
        Ok(Some(addresses.iter().map(SocketAddr::to_string).collect()))
    }
}

/// A WebSocket as binary frames: incoming until it closes, outgoing.
trait Transport: Stream<Item = Result<Bytes, String>> + Sink<Bytes, Error = String> + Unpin + Send + 'static {}

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
    Opened(LinkId, Option<Endpoint>, Option<LinkKeys>, mpsc::Sender<Outgoing>),
    Event(Event),
}

/// What a dial has led to.
enum Reached<T> {
    /// A node, and what it has proved.
    Node(T, Option<Proved>),
    /// The addresses of a name.
    Name(Vec<String>),
}

/// What the two ends of a link have proved: the pool's secret, as a key, and their static keys.
struct Proved {
    secret: Key,
    keys: LinkKeys,
}

impl Proved {
    /// Of a proof, whose session encrypts the frames.
    fn of(proof: Proof) -> (Option<Proved>, Option<Session>) {
        proof.map(|(secret, session)| (Proved { secret, keys: session.keys() }, session)).unzip()
    }
}

/// Makes links and runs them.
#[derive(Clone)]
pub(super) struct Links {
    inputs: mpsc::Sender<LinkInput>,
    counter: Arc<AtomicU64>,
    meters: Arc<Meters>,
    running: TaskTracker,
    door: Door,
    trust: Trust,
    /// By its URL, why a node could not be linked to over TLS: it is said once.
    complaints: Arc<Mutex<BTreeMap<String, String>>>,
}

impl Links {
    pub(super) fn new(inputs: mpsc::Sender<LinkInput>, meters: Arc<Meters>, credentials: Credentials) -> Links {
        let Credentials { secret, node_key, trust, limits_handshakes } = credentials;
        let door = Door::new(secret, node_key, Handshakes::new(limits_handshakes));
        let (counter, running) = (Arc::new(AtomicU64::new(1)), TaskTracker::new());
        Links { inputs, counter, meters, running, door, trust, complaints: Arc::default() }
    }

    /// Goes on with the static key of this id, and returns its public half; none where the pool has no secret.
    pub(super) fn go_by(&self, node: NodeId) -> Option<PublicKey> {
        self.door.go_by(node)
    }

    /// How many messages wait for the node's task, and how many may.
    pub(super) fn queue(&self) -> (usize, usize) {
        super::queue(&self.inputs)
    }

    /// Lets a peer that opens a link `from` its address go on to the proof, or says why not.
    pub(super) fn admit(&self, offer: Offer, from: Option<IpAddr>) -> Result<Admission, NotAdmitted> {
        self.door.admit(offer, from).inspect_err(|_| self.meters.links_refused.count())
    }

    /// Dials a place and runs the link until it ends. A name that is yet to be looked up is looked up, and no more.
    pub(super) async fn dial(&self, network: &impl Network, endpoint: Endpoint) {
        let connected = match timeout(DIAL_TIMEOUT, self.reach(network, &endpoint)).await {
            Ok(connected) => connected,
            Err(_) => Err("no answer in time".into()),
        };
        let event = match connected {
            Ok(Reached::Node(transport, proved)) => {
                let place = endpoint.address.clone().map_or_else(|| endpoint.url.clone(), |at| format!("http://{at}"));
                let host =
                    Address::parse(&place).filter(|_| !is_local(&place)).map(|address| address.host().to_string());
                return self.run(transport, proved, Some(endpoint), host).await;
            }
            Ok(Reached::Name(addresses)) => Event::Resolved(endpoint.url, addresses),
            Err(why) => {
                tracing::debug!(%endpoint, why, "dial failed");
                Event::DialFailed(endpoint, why)
            }
        };
        // The task is gone only when the node has stopped.
        let _ = self.inputs.send(LinkInput::Event(event)).await;
    }

    async fn reach<N: Network>(
        &self,
        network: &N,
        endpoint: &Endpoint,
    ) -> Result<Reached<impl Transport + use<N>>, String> {
        let url = &endpoint.url;
        let address = Address::parse(url).ok_or_else(|| format!("{url} is not of the form http://host:port"))?;
        let (name, place) = (&address.authority, endpoint.address.as_ref());
        if place.is_none() {
            let found = network.resolve(name).await.map_err(|error| format!("its name has no address: {error}"))?;
            if let Some(addresses) = found {
                return Ok(Reached::Name(addresses));
            }
        }
        let (transport, proved) = self.connect(network, url, &address, place.unwrap_or(name)).await?;
        Ok(Reached::Node(transport, proved))
    }

    /// Connects to a node, over TLS if its URL says so, and opens a link.
    async fn connect<N: Network>(
        &self,
        network: &N,
        url: &str,
        address: &Address,
        place: &str,
    ) -> Result<(impl Transport + use<N>, Option<Proved>), String> {
        let stream = network.connect(place).await.map_err(|error| error.to_string())?;
        let stream = if address.is_secure {
            let secured = self.trust.secure(stream, address.host(), url).await;
            Either::Right(secured.inspect_err(|why| self.complain(url, why))?)
        } else {
            Either::Left(stream)
        };
        link(stream, &address.authority, url, &self.door).await
    }

    /// Says what an operator must see to: once, and not at every dial.
    fn complain(&self, url: &str, why: &str) {
        // Nothing panics while it is held.
        let mut complaints = self.complaints.lock().unwrap_or_else(PoisonError::into_inner);
        if complaints.len() >= COMPLAINTS_MAX {
            complaints.clear();
        }
        if complaints.insert(url.into(), why.into()).as_deref() != Some(why) {
            tracing::warn!(url, why, "no link");
        }
    }

    /// Runs a link that a peer opens `from` its address, if that is known, until it ends; the node's task hears of it once the
    /// peer has proved what it must.
    pub(super) async fn accept<Io>(
        &self,
        admission: Admission,
        from: Option<IpAddr>,
        opening: impl Future<Output = Result<Io, String>>,
    ) where
        Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        match self.door.pass(admission, opening).await {
            Ok((io, proof)) => {
                let (proved, session) = Proved::of(proof);
                let socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(websocket())).await;
                let host = from.map(|ip| ip.to_canonical()).filter(|ip| !ip.is_loopback()).map(|ip| ip.to_string());
                self.run(frames(socket, session), proved, None, host).await;
            }
            Err(why) => {
                self.meters.links_refused.count();
                tracing::debug!(why, "a peer that dialled got no link");
            }
        }
    }

    /// Runs a link until it ends, or until the secret that it was proved with is accepted no more. `host` is where the peer is
    /// seen, if it is on another machine.
    async fn run(
        &self,
        transport: impl Transport,
        proved: Option<Proved>,
        dialled: Option<Endpoint>,
        host: Option<String>,
    ) {
        let (secret, keys) = proved.map(|proved| (proved.secret, proved.keys)).unzip();
        let link = next_link(&self.counter);
        let _open = self.meters.links.enter();
        let (outgoing, queue) = mpsc::channel(OUTGOING_MAX);
        if self.inputs.send(LinkInput::Opened(link, dialled, keys, outgoing)).await.is_err() {
            return;
        }
        let (sink, stream) = transport.split();
        let write = self.running.track_future(write(sink, queue, link, self));
        let ended = tokio::select! {
            why = read(stream, link, host, self) => why,
            why = write => why,
            () = self.outdated(secret) => "its pool secret is accepted no more".into(),
        };
        tracing::debug!(link = link.0, why = ended, "link ended");
        let _ = self.inputs.send(LinkInput::Event(Event::Closed(link))).await;
    }

    /// Waits until this key is accepted no more; for ever, if the link was proved by none.
    async fn outdated(&self, key: Option<Key>) {
        match key {
            Some(key) => self.door.secret().dropped(&key).await,
            None => std::future::pending().await,
        }
    }

    /// Waits until the links have written what they were given.
    pub(super) async fn drained(&self) {
        self.running.close();
        // A link that does not take it in time ends with the process.
        let _ = timeout(CLOSE_TIMEOUT, self.running.wait()).await;
    }
}

async fn read<R>(mut stream: R, link: LinkId, host: Option<String>, links: &Links) -> String
where
    R: Stream<Item = Result<Bytes, String>> + Unpin,
{
    while let Some(frame) = stream.next().await {
        let event = match frame {
            Ok(bytes) => {
                links.meters.received_bytes.add(bytes.len() as u64);
                match wire::decode(&bytes) {
                    Ok(Message::Hello(hello)) => Event::Heard(link, Message::Hello(as_seen(hello, host.as_deref()))),
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

/// A peer on another machine that says it is reached at an address of its own machine is reached, if at all, where it is seen.
fn as_seen(mut hello: Hello, host: Option<&str>) -> Hello {
    let Some(host) = host else { return hello };
    for url in hello.urls.iter_mut().filter(|url| is_local(url)) {
        let Some(Address { authority, is_secure }) = Address::parse(url) else { continue };
        let (scheme, port) =
            (if is_secure { "https" } else { "http" }, authority.rsplit_once(':').map_or("", |it| it.1));
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_string() };
        *url = format!("{scheme}://{host}:{port}");
    }
    hello
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

/// Opens a link on a connection, and proves the pool's secret if there is one.
async fn link<Io>(
    stream: Io,
    authority: &str,
    url: &str,
    door: &Door,
) -> Result<(impl Transport + use<Io>, Option<Proved>), String>
where
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    // TLS, if any, is below: this is only where the request's Host comes from.
    let mut request = format!("ws://{authority}/v1/gossip").into_client_request().map_err(shown)?;
    let Some(secret) = door.secret().first() else {
        let (socket, _) = open(request, stream, url).await?;
        return Ok((frames(socket, None), None));
    };
    let handshake = door.key().and_then(|key| Dialler::new(&key)).map_err(shown)?;
    request.headers_mut().insert(HANDSHAKE, handshake.header().parse().map_err(shown)?);
    let (socket, answer) = open(request, stream, url).await?;
    let theirs = answer.headers().get(HANDSHAKE).and_then(|value| value.to_str().ok());
    let theirs = theirs.ok_or_else(|| format!("{url} proves no pool secret: {GIVE_IT_ONE}"))?;
    // Nobody has said anything behind the heads yet, so no bytes are lost between these two.
    let mut stream = socket.into_inner();
    let session = handshake.prove(&mut stream, theirs, &secret).await.map_err(|why| match why {
        Unproved::OtherSecret => {
            format!("the pool secret of {url} is another: check --pool-secret-file of this node and of that one")
        }
        why => why.to_string(),
    })?;
    let socket = WebSocketStream::from_raw_socket(stream, Role::Client, Some(websocket())).await;
    let (proved, session) = Proved::of(Some((secret, session)));
    Ok((frames(socket, session), proved))
}

/// What to do about a node that has no secret where this one has.
const GIVE_IT_ONE: &str = "start it with --pool-secret-file";

/// Opens a WebSocket, or says why that cannot be.
async fn open<Io>(request: Request, stream: Io, url: &str) -> Result<(WebSocketStream<Io>, Response), String>
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    let offers = request.headers().contains_key(HANDSHAKE);
    client_async_with_config(request, stream, Some(websocket())).await.map_err(|error| {
        let tungstenite::Error::Http(answer) = &error else { return error.to_string() };
        let word = answer.headers().get(REFUSAL).and_then(|word| word.to_str().ok());
        match word.and_then(NotAdmitted::of_word) {
            // Versions up to 5 do not know the header of this handshake, and take the node for one without a secret.
            Some(NotAdmitted::SecretNeeded) if offers => other_version(url),
            Some(NotAdmitted::OtherVersion) => other_version(url),
            Some(NotAdmitted::SecretNeeded) => format!(
                "{url} links only to nodes that know its pool secret, and this one has none: start this one with \
                 --pool-secret-file"
            ),
            Some(NotAdmitted::TooMany) => {
                format!("{url} answers no more handshakes just now, for too many were begun: it is dialled again")
            }
            Some(NotAdmitted::NoSecret) => format!("{url} has no pool secret: {GIVE_IT_ONE}"),
            _ => error.to_string(),
        }
    })
}

fn other_version(url: &str) -> String {
    format!("{url} speaks another version of the handshake between nodes: update the older of the two")
}

fn websocket() -> WebSocketConfig {
    let mut config = WebSocketConfig::default();
    config.read_buffer_size = 64 << 10;
    config.max_message_size = Some(sealed_len(FRAME_BYTES_MAX));
    config.max_frame_size = Some(sealed_len(FRAME_BYTES_MAX));
    config.max_write_buffer_size = 2 * FRAME_BYTES_MAX;
    config
}

/// A WebSocket as binary frames, which are encrypted on the way if there is a session.
fn frames<Io>(socket: WebSocketStream<Io>, session: Option<Session>) -> impl Transport + use<Io>
where
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    // One state for both directions. Nothing waits while it is held.
    let incoming = session.map(|session| Arc::new(Mutex::new(session)));
    let outgoing = incoming.clone();
    let opened = socket.filter_map(move |message| {
        ready(match message {
            Ok(tungstenite::Message::Binary(bytes)) => Some(match &incoming {
                Some(session) => {
                    let frame = session.lock().unwrap_or_else(PoisonError::into_inner).open(&bytes);
                    frame.ok_or_else(|| "a frame that its peer has not sealed".to_string())
                }
                None => Ok(bytes),
            }),
            // Text is no frame of ours, and decoding nothing says so. Where frames are sealed, nobody is told anything for it.
            Ok(tungstenite::Message::Text(_)) if incoming.is_some() => Some(Err("a text, which is not sealed".into())),
            Ok(tungstenite::Message::Text(_)) => Some(Ok(Bytes::new())),
            // Pings are answered by the library.
            Ok(_) => None,
            Err(error) => Some(Err(shown(error))),
        })
    });
    let both = opened.with(move |frame: Bytes| {
        let frame = match &outgoing {
            Some(session) => session.lock().unwrap_or_else(PoisonError::into_inner).seal(&frame),
            None => frame,
        };
        ready(Ok::<_, tungstenite::Error>(tungstenite::Message::Binary(frame)))
    });
    both.sink_map_err(shown)
}

/// Where a node's URL leads.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Address {
    /// `host:port`.
    authority: String,
    /// Whether TLS is spoken there.
    is_secure: bool,
}

/// A node's URL as nodes know it: one that begins with `ws` or `wss` is spelt with `http` or `https`. None if it leads to
/// no node.
pub fn node_url(text: &str) -> Option<String> {
    let text = text.trim_end_matches('/');
    let url = text.strip_prefix("ws").filter(|rest| rest.starts_with("://") || rest.starts_with("s://"));
    let url = url.map_or_else(|| text.to_string(), |rest| format!("http{rest}"));
    Address::parse(&url).map(|_| url)
}

/// The URL in a join list as nodes know it. One that begins with `dns+` says that its name may have several addresses, each of
/// them a node to link with, which holds for every name.
pub fn join_url(text: &str) -> Option<String> {
    node_url(text.strip_prefix("dns+").unwrap_or(text))
}

impl Address {
    /// Of `http://host:port`, or `https://host` with a port or 443; none of anything else.
    fn parse(url: &str) -> Option<Address> {
        let secure = url.strip_prefix("https://");
        let rest = secure.or_else(|| url.strip_prefix("http://"))?.trim_end_matches('/');
        if rest.contains(['/', '?', '#', '@', ' ']) {
            return None;
        }
        let port = |port: &str| port.parse::<u16>().is_ok();
        let named = rest.rsplit_once(':').filter(|(_, end)| port(end)).map(|(host, _)| host);
        let host = named.or_else(|| secure.map(|_| rest))?;
        let is_host = !host.is_empty() && (!host.contains(':') || host.starts_with('[') && host.ends_with(']'));
        let authority = if named.is_some() { rest.to_string() } else { format!("{rest}:443") };
        is_host.then_some(Address { authority, is_secure: secure.is_some() })
    }

    /// The host alone, an IPv6 address without brackets.
    fn host(&self) -> &str {
        let host = self.authority.rsplit_once(':').map_or(&*self.authority, |(host, _)| host);
        host.trim_matches(['[', ']'])
    }
}

fn shown(error: impl fmt::Display) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loopback_address_of_another_machine_is_read_as_where_that_machine_is_seen() {
        let hello =
            |url: &str| Hello { urls: vec![url.to_string()], ..Hello::newcomer(NodeId(uuid::Uuid::nil()), "", None) };
        for (url, host, seen) in [
            ("http://127.0.0.1:7171", Some("10.0.0.7"), "http://10.0.0.7:7171"),
            ("https://[::1]:7171", Some("fe80::7"), "https://[fe80::7]:7171"),
            ("http://0.0.0.0:7172", Some("b.example"), "http://b.example:7172"),
            ("http://127.0.0.1:7171", None, "http://127.0.0.1:7171"),
            ("http://c.example:7171", Some("10.0.0.7"), "http://c.example:7171"),
        ] {
            assert_eq!(as_seen(hello(url), host).urls, [seen], "{url}");
        }
    }

    #[test]
    fn an_address_is_http_with_a_port_or_https() {
        let check = |url, expected: Option<(&str, &str, bool)>| {
            let address = Address::parse(url);
            let parts = address.as_ref().map(|address| (&*address.authority, address.host(), address.is_secure));
            assert_eq!(parts, expected, "{url}");
        };
        check("http://a:7171", Some(("a:7171", "a", false)));
        check("http://[::1]:7171/", Some(("[::1]:7171", "::1", false)));
        check("https://a.example:7171", Some(("a.example:7171", "a.example", true)));
        check("https://a.example", Some(("a.example:443", "a.example", true)));
        check("https://[::1]", Some(("[::1]:443", "::1", true)));
        for bad in [
            "",
            "a:1",
            "http://a",
            "http://",
            "http://:1",
            "https://",
            "https://a/b",
            "https://u@a",
            "https://a:x",
            "wss://a:1",
            "https://::1",
        ] {
            check(bad, None);
        }
        for (url, spelt) in [("wss://a:1/", "https://a:1"), ("ws://a:1", "http://a:1"), ("http://a:1", "http://a:1")] {
            assert_eq!(node_url(url).as_deref(), Some(spelt));
        }
        assert_eq!((node_url("ws"), node_url("wsx://a:1"), node_url("a:1")), (None, None, None));
        assert_eq!((node_url("dns+http://a:1"), node_url("dns+a:1")), (None, None));
        for (url, spelt) in
            [("dns+http://a:1", "http://a:1"), ("dns+https://a", "https://a"), ("http://a:1", "http://a:1")]
        {
            assert_eq!(join_url(url).as_deref(), Some(spelt));
        }
    }

    #[tokio::test]
    async fn a_name_is_looked_up_and_an_address_is_not() {
        let resolved = async |authority| Tcp.resolve(authority).await.map(|found| found.is_some());
        for authority in ["127.0.0.1:1", "[::1]:1"] {
            assert!(!resolved(authority).await.expect("no look-up"), "{authority}");
        }
        let addresses = Tcp.resolve("localhost:7171").await.expect("it is in every hosts file").expect("it is a name");
        assert!(addresses.contains(&"127.0.0.1:7171".to_string()), "{addresses:?}");
    }
}
