//! Where the nodes of a test keep their data and listen, while processes come and go there.

#![allow(dead_code, missing_docs, clippy::unwrap_used)]

use std::{collections::BTreeSet, net::TcpListener, path::PathBuf};

use hyper::StatusCode;

use crate::processes::{Http, Process};

pub const NODES: usize = 3;

/// Where a node of the test is, whatever process it is just now.
#[derive(Clone)]
pub struct Place {
    pub name: String,
    pub port: u16,
    pub dir: PathBuf,
    pub join: Vec<String>,
    pub more: &'static [&'static str],
}

impl Place {
    pub fn all(test: &str) -> Vec<Place> {
        Place::some(test, NODES)
    }

    pub fn some(test: &str, nodes: usize) -> Vec<Place> {
        let root = std::env::temp_dir().join(format!("lamplight-{test}-{}", std::process::id()));
        // Held until all are chosen, or two could be the same.
        let listeners: Vec<TcpListener> = (0..nodes).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ports: Vec<u16> = listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
        let url = |index: usize| format!("http://127.0.0.1:{}", ports[index]);
        let place = |index: usize| Place {
            name: format!("n{index}"),
            port: ports[index],
            dir: root.join(format!("n{index}")),
            join: (0..nodes).filter(|other| index > 0 && *other != index).map(url).collect(),
            more: &[],
        };
        (0..nodes).map(place).collect()
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The first of these nodes, which needs no other.
    pub fn alone(test: &str) -> Place {
        Place::all(test).remove(0)
    }

    pub fn start(&self) -> Process {
        let (listen, dir) = (format!("127.0.0.1:{}", self.port), self.dir.to_str().unwrap().to_string());
        let mut args = vec!["--listen", &*listen, "--data", &*dir, "--name", &*self.name];
        self.join.iter().for_each(|url| args.extend(["--join", url]));
        args.extend(self.more);
        Process::serve(&args)
    }

    /// How many segments of its journal were cut off.
    pub fn segments_cut(&self) -> u64 {
        let names =
            std::fs::read_dir(&self.dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let first = names.filter_map(|name| name.strip_prefix("journal-")?.parse::<u64>().ok()).min();
        first.unwrap() - 1
    }

    /// Flips a bit in the first segment of its journal: at this byte, or in the midst of what it holds.
    pub fn flip(&self, at: Option<usize>) {
        let path = self.dir.join("journal-00000001");
        let mut bytes = std::fs::read(&path).unwrap();
        let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        bytes[at.unwrap_or(end / 2)] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    }

    /// Takes the directories of the whole test away.
    pub fn remove(&self) {
        std::fs::remove_dir_all(self.dir.parent().unwrap()).unwrap();
    }
}

/// Runs the program, which must end with this code, and gives what it says.
pub fn program(args: &[&str], code: i32) -> String {
    let ran = std::process::Command::new(env!("CARGO_BIN_EXE_lamplight")).args(args).output().unwrap();
    let said = format!("{}{}", String::from_utf8(ran.stdout).unwrap(), String::from_utf8(ran.stderr).unwrap());
    assert_eq!(ran.status.code(), Some(code), "{args:?}: {said}");
    said
}

/// Writes so many documents through one node, and gives their ids.
pub async fn put_many(http: &Http, place: &Place, prefix: &str, count: usize) -> BTreeSet<String> {
    let ids: Vec<String> = (0..count).map(|n| format!("{prefix}-{}-{n}", place.name)).collect();
    let mut writers = tokio::task::JoinSet::new();
    for ids in ids.chunks(count.div_ceil(16)).map(<[String]>::to_vec) {
        let (http, url) = (http.clone(), place.url());
        writers.spawn(async move {
            for id in ids {
                let status = http.put(&format!("{url}/v1/docs/kept/{id}"), "{\"n\":1}").await;
                assert_eq!(status, StatusCode::CREATED);
            }
        });
    }
    writers.join_all().await;
    ids.into_iter().collect()
}

pub async fn id_of(http: &Http, node: &Process) -> String {
    http.json(&format!("{}/v1/pool", node.url)).await["node"].as_str().unwrap().to_string()
}
