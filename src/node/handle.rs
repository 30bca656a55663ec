//! The handle by which the rest of the program reaches the node's task.
//!
//! It asks, and waits for the answer; nothing is decided here.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    Client, LINK_INPUTS_MAX, Look, Meters, Network, Published, REQUESTS_MAX, Reading, Request, Showing, Task,
    WAITING_MAX, Waiting,
    admission::{Admission, NotAdmitted, Offer},
    journal::Journal,
    link::{Credentials, Links},
    merging::merge_texts,
    queue,
    turns::Places,
};
use crate::{
    document::prose::Updates,
    op::{DocKey, NodeId},
    replica::{Config, Draft, Event, Now, Outbox, Presence, Receipt, Refused, Replica, Unshared},
    storage::Store,
};

/// How often peers are asked what they hold, while somebody waits for that.
pub const ASK_EVERY: Duration = Duration::from_millis(500);

/// Handle to a running node. Cheap to clone.
#[derive(Clone)]
pub struct Node(Arc<Handle>);

struct Handle {
    run: Uuid,
    requests: mpsc::Sender<(Client, Waiting)>,
    places: Places,
    published: watch::Receiver<Published>,
    presence_end: watch::Receiver<u64>,
    links: Links,
    meters: Arc<Meters>,
    stopping: CancellationToken,
    stopped: watch::Receiver<Option<Result<(), String>>>,
}

/// The node has stopped, or is about to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped;

impl Node {
    /// Starts a node that keeps its data in memory only and dials through `network`.
    pub fn start(config: Config, network: impl Network) -> Node {
        Node::resume(Replica::new(config), None, network)
    }

    /// Goes on with a replica, and with the journal that it came from, in a pool without a secret.
    pub fn resume(replica: Replica, store: Option<Store>, network: impl Network) -> Node {
        Node::guarded(replica, store, network, Credentials::none())
    }

    /// The same, which links only to nodes that know the pool's secret, if that has one, and at `https` URLs only to those
    /// that an authority vouches for.
    pub fn guarded(replica: Replica, store: Option<Store>, network: impl Network, credentials: Credentials) -> Node {
        let (requests, request_inbox) = mpsc::channel(REQUESTS_MAX);
        let (link_inputs, link_inbox) = mpsc::channel(LINK_INPUTS_MAX);
        let latest = Published::of(&replica);
        let (publisher, published) = watch::channel(latest.clone());
        let (presence_publisher, presence_end) = watch::channel(replica.presence().end());
        let (stopping, (stopper, stopped)) = (CancellationToken::new(), watch::channel(None));
        let meters = Arc::new(Meters::new(store.as_ref()));
        let links = Links::new(link_inputs, Arc::clone(&meters), credentials);
        // Peers may dial before the task runs.
        let _ = links.go_by(replica.node());
        let task = Task {
            replica,
            journal: Journal::new(store),
            outbox: Outbox::default(),
            told: false,
            network: Arc::new(network),
            links: links.clone(),
            goes_by: None,
            meters: Arc::clone(&meters),
            outgoing: BTreeMap::new(),
            receipts: Vec::new(),
            waiting: BTreeMap::new(),
            next_ticket: 0,
            latest,
            publisher,
            presence_publisher,
            slice_end: 0,
            shared_looked: None,
            shared_said: None,
            snapshot_asked: None,
            started: Instant::now(),
            stopping: stopping.clone(),
        };
        tokio::spawn(async move { stopper.send(Some(task.run(request_inbox, link_inbox).await)) });
        let run = Uuid::new_v4();
        let node = Node(Arc::new(Handle {
            run,
            requests,
            places: Places::default(),
            published,
            presence_end,
            links,
            meters,
            stopping,
            stopped,
        }));
        tokio::spawn(merge_texts(node.downgrade(), node.stopping()));
        node
    }

    /// Something that is the node for as long as somebody else has it.
    fn downgrade(&self) -> impl Fn() -> Option<Node> + Send + use<> {
        let handle = Arc::downgrade(&self.0);
        move || handle.upgrade().map(Node)
    }

    /// Its id.
    pub fn id(&self) -> NodeId {
        self.0.published.borrow().node
    }

    /// Names this run of the node: places in its changes are good for no other.
    pub fn run(&self) -> Uuid {
        self.0.run
    }

    /// Issues an op, when it is the client's turn.
    pub async fn submit(&self, client: Client, draft: Draft) -> Result<Result<Receipt, Refused>, Stopped> {
        self.hand_in(client, draft).await?.await.map_err(|_| Stopped)
    }

    /// Hands a draft in, whose answer comes later: what is handed in for one client, one after the other, is issued in this order.
    /// No answer comes if the node stops before.
    pub async fn hand_in(
        &self,
        client: Client,
        draft: Draft,
    ) -> Result<oneshot::Receiver<Result<Receipt, Refused>>, Stopped> {
        let (answer, answered) = oneshot::channel();
        let place = self.0.places.take(client).await;
        let waiting = Waiting { request: Request::Submit(draft, answer), place };
        self.0.requests.send((client, waiting)).await.map_err(|_| Stopped)?;
        Ok(answered)
    }

    async fn request(&self, request: Request) -> Result<(), Stopped> {
        let waiting = Waiting { request, place: None };
        self.0.requests.send((Client::READS, waiting)).await.map_err(|_| Stopped)
    }

    /// Runs `reading` on the replica between two events. It must be short: the whole node waits for it.
    pub async fn read<T, F>(&self, reading: F) -> Result<T, Stopped>
    where
        T: Send + 'static,
        F: FnOnce(&Replica, Now) -> T + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let reading: Reading = Box::new(move |replica, now| {
            let value = reading(replica, now);
            Box::new(move || drop(answer.send(value)))
        });
        self.request(Request::Read(reading)).await?;
        answered.await.map_err(|_| Stopped)
    }

    /// Shows a client of this node in a room, or takes it away. It waits for no disk, for nothing of it is stored.
    pub async fn present(
        &self,
        room: String,
        client: String,
        state: Option<String>,
    ) -> Result<Result<(), Refused>, Stopped> {
        let (answer, answered) = oneshot::channel();
        let showing = Showing { room, client, state };
        self.request(Request::Present(showing, answer)).await?;
        answered.await.map_err(|_| Stopped)
    }

    /// Looks at what clients show of themselves, between two events. It must be short. Unlike [`Node::read`] it waits for no disk.
    pub async fn presence<T, F>(&self, reading: F) -> Result<T, Stopped>
    where
        T: Send + 'static,
        F: FnOnce(&Presence) -> T + Send + 'static,
    {
        self.look(move |replica, _| reading(replica.presence())).await
    }

    /// The same, at anything: for figures about the node. What it sees of the data may not be stored yet, and is not to be
    /// told as such.
    pub async fn look<T, F>(&self, reading: F) -> Result<T, Stopped>
    where
        T: Send + 'static,
        F: FnOnce(&Replica, Now) -> T + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let look: Look = Box::new(move |replica, now| drop(answer.send(reading(replica, now))));
        self.request(Request::Look(look)).await?;
        answered.await.map_err(|_| Stopped)
    }

    /// What it has counted.
    pub fn meters(&self) -> &Meters {
        &self.0.meters
    }

    /// What waits for its task, and for its disk: the name of the queue, how many are in it, and how many may be.
    pub fn queues(&self) -> [(&'static str, usize, usize); 3] {
        let ((requests, requests_max), (heard, heard_max)) = (queue(&self.0.requests), self.0.links.queue());
        let outbox = self.0.meters.outbox.read() as usize;
        [("requests", requests, requests_max), ("heard", heard, heard_max), ("outbox", outbox, WAITING_MAX)]
    }

    /// The place behind the newest change of what clients show. It is no part of [`Published`]: whoever waits for documents is
    /// not woken by every hand that moves.
    pub fn presence_end(&self) -> watch::Receiver<u64> {
        self.0.presence_end.clone()
    }

    /// Names a place to join, or to link to.
    pub async fn join(&self, url: String) -> Result<(), Stopped> {
        self.request(Request::Command(Event::Join(url))).await
    }

    /// Cuts the links, or joins them again.
    pub async fn cut(&self, cut: bool) -> Result<(), Stopped> {
        self.request(Request::Command(Event::Cut(cut))).await
    }

    /// Says that somebody waits until everything up to a time is final.
    pub async fn hurry(&self, time: u64) -> Result<(), Stopped> {
        self.request(Request::Command(Event::Hurry(time))).await
    }

    /// Asks the linked peers whether they hold this node's ops up to this seq. Each answers once it has stored what it was
    /// sent; [`Published::held`] tells of answers, and [`Replica::holders`] what they come to.
    pub async fn ask(&self, seq: u64) -> Result<(), Stopped> {
        self.request(Request::Command(Event::Ask(seq))).await
    }

    /// Waits until another member holds all that this node has issued, what it has to issue again included; at most for so
    /// long. Returns what no other member holds then.
    pub async fn share(&self, most: Duration) -> Result<Unshared, Stopped> {
        let (end, mut published) = (Instant::now() + most, self.published());
        loop {
            let look = |replica: &Replica, _: Now| {
                let issued = replica.log().head(replica.node()).seq;
                (replica.unshared(), issued, replica.counters().held)
            };
            let (unshared, issued, held) = self.read(look).await?;
            let left = end.saturating_duration_since(Instant::now());
            if unshared.is_nothing() || left.is_zero() {
                return Ok(unshared);
            }
            self.ask(issued).await?;
            tokio::select! {
                answered = published.wait_for(|news| news.held != held) => drop(answered.map_err(|_| Stopped)?),
                // What is issued again, and a link that has come about since, is asked for anew.
                () = sleep(left.min(ASK_EVERY)) => {}
            }
        }
    }

    /// Says that somebody reads what the documents were at a time: for a while, the log keeps what comes after it.
    pub async fn pin(&self, time: u64) -> Result<(), Stopped> {
        self.request(Request::Command(Event::Pin(time))).await
    }

    /// Says that memory is short, or no longer: while it is, what is kept only for those who look back goes.
    pub(super) async fn tighten(&self, tight: bool) -> Result<(), Stopped> {
        self.request(Request::Command(Event::Tight(tight))).await
    }

    /// Hands in what updates of a text were merged to.
    pub(super) async fn hand_in_merged(
        &self,
        doc: DocKey<'static>,
        updates: Updates,
        merged: Option<Vec<u8>>,
    ) -> Result<(), Stopped> {
        self.request(Request::Command(Event::Merged { doc, updates, merged })).await
    }

    /// Lets a peer that opens a link go on to the proof of the pool's secret, or says why not. `offer` is its handshake, and
    /// `from` its address, if it is known.
    pub fn admit(&self, offer: Offer, from: Option<IpAddr>) -> Result<Admission, NotAdmitted> {
        self.0.links.admit(offer, from)
    }

    /// Runs a link that an admitted peer opens, until it ends. The connection is that of the WebSocket, of which nothing
    /// is read yet; `from` is the peer's address, if it is known.
    pub async fn accept<Io>(
        &self,
        admission: Admission,
        from: Option<IpAddr>,
        opening: impl Future<Output = Result<Io, String>>,
    ) where
        Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        self.0.links.accept(admission, from, opening).await;
    }

    pub(super) fn stopping(&self) -> CancellationToken {
        self.0.stopping.clone()
    }

    /// What the node tells everyone; changes after each turn in which something changed.
    pub fn published(&self) -> watch::Receiver<Published> {
        self.0.published.clone()
    }

    /// What the node told everyone last.
    pub fn latest(&self) -> Published {
        self.0.published.borrow().clone()
    }

    /// Stops the node once its peers hold what it holds, or after five seconds. Says what went wrong if its disk failed.
    pub async fn stop(&self) -> Result<(), String> {
        self.0.stopping.cancel();
        self.stopped().await
    }

    /// Waits until the node has stopped, because it was told to or because its disk failed.
    pub async fn stopped(&self) -> Result<(), String> {
        let mut stopped = self.0.stopped.clone();
        let ended = stopped.wait_for(Option::is_some).await.map(|ended| ended.clone());
        ended.ok().flatten().unwrap_or_else(|| Err("the node's task has ended".into()))
    }
}
