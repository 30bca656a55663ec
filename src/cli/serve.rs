//! `lamplight serve` and `lamplight demo`: nodes, their listeners, and a graceful end.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use clap::Args;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    Failure,
    access::{AccessArgs, Opened},
    catching_up,
    data::{self, Data, Keeping, Mark, Sync},
    descriptors,
    evict_after::EvictAfter,
    ids::Ids,
    leaving,
    limits::LimitArgs,
    logging::LogArgs,
    secret::SecretArgs,
    size::Size,
};
use crate::{
    api::{self, Access, Api, Limits, MemoryBudget, Site},
    node::{Credentials, Node, PoolSecret, Tcp, Trust, join_url, key_span, node_url, usual_memory_max},
    op::NodeId,
    replica::{Config, Replica, Retention, Standing},
    storage::Layout,
};

/// Where a node listens, and its clients ask, when nothing else is said.
pub const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7171);

/// Where a node keeps its data when nothing else is said.
const DATA: &str = "lamplight-data";

/// Flags of `serve`.
#[derive(Args, Debug)]
pub struct ServeArgs {
    /// Address to listen on. One that other machines reach needs --tokens or --jwt-key, or --insecure.
    #[arg(long, env = "LAMPLIGHT_LISTEN", default_value_t = LISTEN)]
    listen: SocketAddr,
    /// URL at which other nodes reach this one; made from the listen address if left out.
    #[arg(long, env = "LAMPLIGHT_ADVERTISE", value_name = "URL")]
    advertise: Option<String>,
    /// A node to join through; may be given several times, as https:// where it speaks TLS. Where a name has several addresses,
    /// each is a node to link with, except the node's own; dns+http:// says the same openly. Without it the node founds a pool of
    /// its own.
    #[arg(long, env = "LAMPLIGHT_JOIN", value_name = "URL", value_delimiter = ',')]
    join: Vec<String>,
    /// Found the pool when none of the join targets leads to one. All nodes may carry it: one of them founds.
    #[arg(long, env = "LAMPLIGHT_FOUND")]
    found: bool,
    /// Found the pool, like --found, but only once so many nodes have greeted each other, this one among them: until then none
    /// of them is ready, and none can found a pool apart.
    #[arg(long, env = "LAMPLIGHT_FOUND_WITH", value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    found_with: Option<u16>,
    /// Name of the pool: the one to found, and the only one to join.
    #[arg(long, env = "LAMPLIGHT_POOL", value_name = "NAME")]
    pool: Option<String>,
    /// Name of this node, for people.
    #[arg(long, env = "LAMPLIGHT_NAME", value_name = "NAME")]
    name: Option<String>,
    /// Directory of the journal, from which a node that was stopped or killed goes on; lamplight-data if left out. One process a
    /// directory.
    #[arg(long, env = "LAMPLIGHT_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
    /// Keep the data in memory only: a node that stops comes back as a newcomer. If --data is given, the node keeps only its ids
    /// there: the next one that starts there takes its place in the pool, so that finality does not wait for it.
    #[arg(long, env = "LAMPLIGHT_MEMORY")]
    memory: bool,
    /// When a write is acknowledged.
    #[arg(long, env = "LAMPLIGHT_SYNC", value_name = "WHEN", value_enum, default_value_t)]
    sync: Sync,
    /// How many operations stay in the log once they are final, as far as --retain-bytes lets them: for those who look
    /// back (history, the log, old cursors) and for peers who have fallen behind, who else get all documents anew. Each
    /// costs its length and some 60 bytes of memory. What is not final always stays.
    #[arg(long, env = "LAMPLIGHT_RETAIN_OPS", value_name = "N", default_value_t = Retention::default().ops)]
    retain_ops: usize,
    /// How many bytes of final operations stay in the log, as far as --retain-ops lets them: in bytes, or with KiB, MiB
    /// or GiB. They are in memory and in each snapshot of the journal.
    #[arg(long, env = "LAMPLIGHT_RETAIN_BYTES", value_name = "SIZE", default_value_t = Size(Retention::default().bytes as u64))]
    retain_bytes: Size,
    /// How much the journal grows, beyond twice its last snapshot, before a new snapshot of the data takes the place of
    /// what is in it: in bytes, or with KiB, MiB or GiB. Less makes a shorter journal and a quicker start, and more to
    /// write, for each snapshot holds all documents: with 0 about as much again as all else, or twice that where documents
    /// are only added.
    #[arg(long, env = "LAMPLIGHT_SNAPSHOT_BYTES", value_name = "SIZE", default_value_t = Size(Layout::default().snapshot_bytes))]
    snapshot_bytes: Size,
    /// Leave the pool when told to stop: once another member holds all that the node has, it retires, so that finality does
    /// not wait for it, and ends once a peer holds that, all within five seconds. Where no other member holds all that it
    /// has it does not retire, and says so. For nodes that come and go: started with --join it comes back as a newcomer,
    /// whatever its data directory holds.
    #[arg(long, env = "LAMPLIGHT_LEAVE")]
    leave: bool,
    /// Evict members that no remaining member has heard for so long (as 30s, 10m, 4h or 7d), so that finality goes on without them. Only
    /// where those who hear each other are a majority. One that comes back after that joins again as another, with
    /// what only it had, so its data is safe as long as its disk is. Off unless it is given; all nodes should carry the same.
    #[arg(long, env = "LAMPLIGHT_EVICT_AFTER", value_name = "DURATION")]
    evict_after: Option<EvictAfter>,
    #[command(flatten)]
    pub(super) log: LogArgs,
    #[command(flatten)]
    secret: SecretArgs,
    #[command(flatten)]
    access: AccessArgs,
    #[command(flatten)]
    limits: LimitArgs,
}

/// Flags of `demo`.
#[derive(Args, Debug)]
pub struct DemoArgs {
    /// Port of the first node; the others take the next two.
    #[arg(long, default_value_t = 7171)]
    port: u16,
    #[command(flatten)]
    pub(super) log: LogArgs,
}

/// Runs a node until it is told to stop; `give_back` is for when memory is short.
pub async fn serve(args: ServeArgs, give_back: fn()) -> Result<(), Failure> {
    let secret = args.secret.load()?;
    let listener = bind(args.listen).await?;
    let bound = listener.local_addr().map_err(|error| Failure::new(error.to_string()))?;
    let url = match &args.advertise {
        Some(url) => known("--advertise", url)?,
        None => url_of(args.access.scheme(), bound),
    };
    let ids = if args.memory { data::ids(args.data.as_deref()) } else { Ids::new() };
    let config = Config {
        node: ids.own[0],
        name: args.name.unwrap_or_else(|| format!("node-{}", bound.port())),
        urls: vec![url.clone()],
        found: args.found || args.found_with.is_some() || args.join.is_empty(),
        found_with: args.found_with.map_or(1, usize::from),
        join: args.join.iter().map(|url| target(url)).collect::<Result<_, _>>()?,
        pool: args.pool,
        seed: fastrand::u64(..),
        retention: Retention {
            ops: args.retain_ops,
            bytes: usize::try_from(args.retain_bytes.0).unwrap_or(usize::MAX),
        },
        evict_after_ms: args.evict_after.map(EvictAfter::ms),
        key_span: key_span(args.limits.memory_max()),
    };
    let opened = args.access.open(bound, &config.urls, secret.is_set())?;
    let (limits, memory_max) = (args.limits.limits(), args.limits.memory_max());
    let keeping = Keeping { sync: args.sync, keyed: secret.is_set(), snapshot_bytes: args.snapshot_bytes.0 };
    let stop = stop_on_signal()?;
    let (replica, data) = if args.memory {
        (Replica::new(config).with_ids(ids.had.iter().copied(), ids.own[1..].to_vec()), None)
    } else {
        let dir = args.data.unwrap_or_else(|| DATA.into());
        let opened = tokio::task::spawn_blocking(move || data::open(&dir, keeping, config)).await;
        let (replica, data) = opened.map_err(|panic| Failure::new(panic.to_string()))??;
        (replica, Some(data))
    };
    let kept = data.as_ref().map_or("in memory only".into(), |data| data.dir().display().to_string());
    tracing::info!(node = %replica.node(), name = replica.config().name, url, data = kept, pool_secret = secret.is_set(), "serving");
    let door = Door { opened, secret, limits, memory_max, give_back, leaves: args.leave };
    let ended = run(listener, replica, data, door, stop).await;
    // Until here no other process takes the node's place.
    drop(ids);
    ended
}

/// Runs three linked nodes until told to stop.
pub async fn demo(args: DemoArgs, give_back: fn()) -> Result<(), Failure> {
    let stop = stop_on_signal()?;
    let mut nodes = tokio::task::JoinSet::new();
    let first = format!("http://127.0.0.1:{}", args.port);
    let access = demo_access(args.port)?;
    for (index, name) in ["ada", "ben", "cleo"].into_iter().enumerate() {
        let listener = bind(SocketAddr::new(IpAddr::from([127, 0, 0, 1]), args.port + index as u16)).await?;
        let config = Config {
            node: NodeId(Uuid::new_v4()),
            name: name.into(),
            urls: vec![format!("http://127.0.0.1:{}", args.port + index as u16)],
            found: index == 0,
            found_with: 1,
            join: if index == 0 { Vec::new() } else { vec![first.clone()] },
            pool: Some("demo".into()),
            seed: fastrand::u64(..),
            retention: Retention::default(),
            evict_after_ms: None,
            key_span: key_span(usual_memory_max()),
        };
        let opened = Opened { access: access.clone(), tls: None, trust: Trust::of_system() };
        let memory_max = usual_memory_max();
        let limits = Limits { memory: MemoryBudget::of_ceiling(memory_max), ..Limits::default() };
        let door = Door { opened, secret: PoolSecret::none(), limits, memory_max, give_back, leaves: false };
        nodes.spawn(run(listener, Replica::new(config), None, door, stop.clone()));
    }
    println!("Three nodes are running. Open {first}/?side and cut one of them off. Ctrl-C ends them.");
    nodes.join_all().await.into_iter().collect()
}

/// Lets in everybody, and the pages of each of the three nodes show the others in frames, by both names of this machine.
fn demo_access(port: u16) -> Result<Access, Failure> {
    let mut site = Site::default();
    for host in ["127.0.0.1", "localhost"] {
        (0..3).try_for_each(|n| site.add_origin(&format!("http://{host}:{}", port + n))).map_err(Failure::new)?;
    }
    Access::open(None, Vec::new(), site).map_err(Failure::new)
}

/// How clients and peers come in, and whether the node leaves its pool with the last of them.
struct Door {
    opened: Opened,
    secret: PoolSecret,
    limits: Limits,
    memory_max: Option<u64>,
    give_back: fn(),
    leaves: bool,
}

/// Serves a node on a listener; then clients get their answers, peers what they lack, and links are told.
async fn run(
    listener: TcpListener,
    replica: Replica,
    data: Option<Data>,
    door: Door,
    stop: CancellationToken,
) -> Result<(), Failure> {
    descriptors::raise(door.limits.connections);
    let name = replica.config().name.clone();
    let node_key = data.as_ref().and_then(Data::key);
    let (store, mark) = data.map(Data::into_parts).unzip();
    let mark = Arc::new(mark.flatten());
    let settled = Arc::clone(&mark);
    let Opened { access, tls, trust } = door.opened;
    let credentials = Credentials { node_key, ..Credentials::of_process(door.secret, trust) };
    let node = Node::guarded(replica, store, Tcp, credentials);
    if let Some(max) = door.memory_max {
        node.bound_memory(max, door.give_back);
    }
    let (mut published, starting) = (node.published(), node.clone());
    let readiness = tokio::spawn(async move {
        let ready = tokio::select! {
            ready = published.wait_for(|published| published.standing == Standing::Member) => ready.is_ok(),
            never = catching_up::show(&starting) => match never {},
        };
        // A node that stops before it is ready has nothing to say.
        if ready {
            tracing::info!(name, "ready: it takes reads and writes");
            // What is published is stored: the node's id too.
            if let Some(Err(error)) = settled.as_ref().as_ref().map(Mark::settle) {
                tracing::warn!(%error, "cannot note that the node is well: its next start may give it another id");
            }
        }
    });
    let (failing, stopping) = (node.clone(), stop.clone());
    tokio::spawn(async move {
        if failing.stopped().await.is_err() {
            stopping.cancel();
        }
    });
    let api = Api::new(node.clone(), stop.clone()).guarded(access).limited(door.limits.clone());
    let listener = axum::serve::ListenerExt::tap_io(listener, |io| drop(io.set_nodelay(true)));
    api::serve_with(listener, api::router(api), tls, door.limits, stop).await;
    if door.leaves {
        leaving::leave(&node).await;
    }
    node.stop().await.map_err(|why| Failure::new(format!("the node has stopped: {why}")))?;
    readiness.abort();
    // Else the mark might be made again behind its removal.
    let _ = readiness.await;
    let cleared = mark.as_ref().as_ref().map_or(Ok(()), Mark::clear);
    cleared
        .map_err(|error| Failure::new(format!("cannot note in the data directory that the node ended well: {error}")))
}

async fn bind(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| {
        Failure::new(format!("cannot listen on {address}: {error}. Choose another address with --listen"))
    })
}

fn known(flag: &str, url: &str) -> Result<String, Failure> {
    let form = "http://host:port, or https://host:port where the node there speaks TLS";
    node_url(url).ok_or_else(|| Failure::usage(format!("{flag}: {url:?} is not of the form {form}")))
}

fn target(url: &str) -> Result<String, Failure> {
    join_url(url).map_or_else(|| known("--join", url), Ok)
}

fn url_of(scheme: &str, bound: SocketAddr) -> String {
    if !bound.ip().is_unspecified() {
        return format!("{scheme}://{bound}");
    }
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_else(|_| "localhost".into());
    format!("{scheme}://{}:{}", host.trim(), bound.port())
}

fn stop_on_signal() -> Result<CancellationToken, Failure> {
    let unavailable = |error: std::io::Error| Failure::new(format!("signals cannot be received: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(unavailable)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(unavailable)?;
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        stopping.cancel();
    });
    Ok(stop)
}
