//! A place between two nodes where bytes can be held up, and links cut.

#![allow(dead_code, missing_docs, clippy::unwrap_used)]

use std::sync::Arc;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// Passes on what a node on a port says to those who dial the proxy, as far as it is allowed to; what they say passes
/// freely. At first nobody is answered.
pub struct Proxy {
    port: u16,
    flow: Arc<watch::Sender<Flow>>,
}

#[derive(Clone, Copy, Default)]
struct Flow {
    allowed: u64,
    passed: u64,
    /// How often all links were cut.
    cuts: u64,
}

impl Proxy {
    pub async fn start(to: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let flow = Arc::new(watch::Sender::new(Flow::default()));
        let through = Arc::clone(&flow);
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                tokio::spawn(pass(client, to, Arc::clone(&through)));
            }
        });
        Proxy { port, flow }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Lets so many bytes more pass.
    pub fn allow(&self, bytes: u64) {
        self.flow.send_modify(|flow| flow.allowed = flow.passed.saturating_add(bytes));
    }

    /// How many bytes have passed.
    pub fn passed(&self) -> u64 {
        self.flow.borrow().passed
    }

    /// Waits until all that was allowed has passed.
    pub async fn used_up(&self) {
        self.flow.subscribe().wait_for(|flow| flow.passed == flow.allowed).await.unwrap();
    }

    /// Cuts all links.
    pub fn cut(&self) {
        self.flow.send_modify(|flow| flow.cuts += 1);
    }
}

async fn pass(client: TcpStream, to: u16, flow: Arc<watch::Sender<Flow>>) {
    // A node that is gone answers nobody.
    let Ok(server) = TcpStream::connect(("127.0.0.1", to)).await else { return };
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let (mut watched, cuts) = (flow.subscribe(), flow.borrow().cuts);
    let back = async {
        let mut buffer = vec![0; 16 << 10];
        let mut allowed = flow.subscribe();
        loop {
            let free = *allowed.wait_for(|flow| flow.passed < flow.allowed).await.unwrap();
            let room = usize::try_from(free.allowed - free.passed).unwrap_or(usize::MAX).min(buffer.len());
            let Ok(read @ 1..) = from_server.read(&mut buffer[..room]).await else { return };
            // What another link has used up meanwhile is little.
            flow.send_modify(|flow| flow.passed = (flow.passed + read as u64).min(flow.allowed));
            if to_client.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    };
    let forth = async {
        // Whichever side ends it, it has ended.
        let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
    };
    tokio::select! {
        () = back => {}
        () = forth => {}
        _ = watched.wait_for(|flow| flow.cuts > cuts) => {}
    }
}
