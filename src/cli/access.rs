//! `serve`'s flags of who may ask the node what, and the refusal to be open to a network by mistake.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;

use super::Failure;
use crate::{
    api::{self, Access, Site, Tls},
    node::Trust,
};

/// Who may ask a node what; docs/security.md tells more.
#[derive(Args, Debug)]
#[command(next_help_heading = "Security (docs/security.md)")]
pub struct AccessArgs {
    /// File of the tokens that clients show, as JSON: {"tokens":[{"name","role","collections","sha256"}…]}. It is read
    /// again when it changes. Without it and without --jwt-key nobody is asked for a token.
    #[arg(long, env = "LAMPLIGHT_TOKENS", value_name = "FILE")]
    tokens: Option<PathBuf>,
    /// File of a key that JWTs may be signed with: an Ed25519 public key in PEM, or a secret of at least 32 bytes (HS256). May be given several times; each is read again when it changes.
    #[arg(long, env = "LAMPLIGHT_JWT_KEY", value_name = "FILE", value_delimiter = ',')]
    jwt_key: Vec<PathBuf>,
    /// The origin of other pages (scheme, host and port, also with the scheme of an app) that may read, write and open a WebSocket here; may be given
    /// several times. Without it only pages of this node may.
    #[arg(long, env = "LAMPLIGHT_ALLOW_ORIGIN", value_name = "URL", value_delimiter = ',')]
    allow_origin: Vec<String>,
    /// Another name by which browsers and programs may ask this node; may be given several times. *.svc.cluster.local allows
    /// all names below svc.cluster.local, one part or more before it, but not that name itself. The node answers to any
    /// address, to localhost, to the host of --advertise, and to requests with a valid token anyway.
    #[arg(long, env = "LAMPLIGHT_ALLOW_HOST", value_name = "HOST", value_delimiter = ',')]
    allow_host: Vec<String>,
    /// Listen on an address other than loopback though anybody who reaches it may read and write everything: for networks on
    /// which nobody else is.
    #[arg(long, env = "LAMPLIGHT_INSECURE")]
    insecure: bool,
    /// Certificates to speak TLS with, in PEM, the node's own first; read again when they change. Without them it speaks
    /// HTTP in clear.
    #[arg(long, env = "LAMPLIGHT_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The key of the first of these certificates, in PEM.
    #[arg(long, env = "LAMPLIGHT_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Certificates of the authorities that vouch for nodes at https:// URLs, in PEM; read again when they change. Those of the
    /// system if left out.
    #[arg(long, env = "LAMPLIGHT_TLS_CA", value_name = "FILE")]
    tls_ca: Option<PathBuf>,
}

/// How clients and peers come in, and whom the node believes when it dials.
pub struct Opened {
    /// Who may ask what.
    pub access: Access,
    /// What the listener proves itself with, if it speaks TLS.
    pub tls: Option<Tls>,
    /// Who vouches for nodes that are dialled over TLS.
    pub trust: Trust,
}

/// What keeps strangers out of a node.
struct Secrets {
    /// Clients must show tokens.
    clients: bool,
    /// Peers must prove the pool secret.
    peers: bool,
}

impl AccessArgs {
    /// With which scheme the node is asked.
    pub fn scheme(&self) -> &'static str {
        if self.tls_cert.is_some() { "https" } else { "http" }
    }

    /// Reads the files, and follows their changes. `urls` are those at which others reach the node; `peers` says whether it
    /// asks peers for the pool secret.
    pub fn open(self, listen: SocketAddr, urls: &[String], peers: bool) -> Result<Opened, Failure> {
        let secrets = Secrets { clients: self.tokens.is_some() || !self.jwt_key.is_empty(), peers };
        if !self.insecure {
            check_exposure(listen, &secrets)?;
        } else if check_exposure(listen, &secrets).is_err() {
            tracing::warn!(%listen, "--insecure: anybody who reaches this address may read and write everything");
        }
        if !is_loopback(listen) && secrets.clients && self.tls_cert.is_none() {
            tracing::warn!(%listen, "tokens come in clear: --tls-cert and --tls-key, or a proxy that speaks TLS, hide them");
        }
        let mut site = Site::default();
        for host in &self.allow_host {
            site.allow_host(host).map_err(|why| Failure::usage(format!("--allow-host: {why}")))?;
        }
        for url in urls {
            site.add_host(url).map_err(|why| Failure::usage(format!("--advertise: {why}")))?;
        }
        for origin in &self.allow_origin {
            site.add_origin(origin).map_err(|why| Failure::usage(format!("--allow-origin: {why}")))?;
        }
        // A configuration file may name one of them; flags cannot.
        if self.tls_cert.is_some() != self.tls_key.is_some() {
            return Err(Failure::usage(
                "--tls-cert and --tls-key go together: name both, or neither for HTTP in clear",
            ));
        }
        let tls = self.tls_cert.zip(self.tls_key).map(|(certificates, key)| Tls::open(certificates, key)).transpose();
        let tls = tls.map_err(|why| Failure::new(format!("--tls-cert and --tls-key: {why}")))?;
        let trust = self.tls_ca.map_or_else(|| Ok(Trust::of_system()), api::trust);
        let trust = trust.map_err(|why| Failure::new(format!("--tls-ca: {why}")))?;
        let access = Access::open(self.tokens, self.jwt_key, site);
        let access = access.map_err(|why| Failure::new(format!("--tokens or --jwt-key: {why}")))?;
        Ok(Opened { access, tls, trust })
    }
}

/// Refuses to listen where others are, with nothing that keeps them out.
fn check_exposure(listen: SocketAddr, secrets: &Secrets) -> Result<(), Failure> {
    if is_loopback(listen) || secrets.clients && secrets.peers {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "{listen} can be reached from other machines, and this node would let everybody read and write everything. Three \
         ways out: give it secrets (--tokens FILE or --jwt-key FILE for clients, and --pool-secret-file FILE for its peers; \
         docs/security.md); or listen on 127.0.0.1, behind a \
         proxy that speaks TLS and asks for a password; or say --insecure, on a network where nobody else is"
    )))
}

fn is_loopback(listen: SocketAddr) -> bool {
    listen.ip().to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_open_without_secrets() {
        let check = |listen: &str, both, expected| {
            let checked = check_exposure(listen.parse().unwrap(), &Secrets { clients: both, peers: both });
            assert_eq!(checked.is_ok(), expected, "{listen} {both}");
            let half = check_exposure(listen.parse().unwrap(), &Secrets { clients: both, peers: false });
            assert_eq!(half.is_ok(), expected && !(both && listen != "127.0.0.1:7171"), "{listen}, peers unasked");
        };
        for listen in ["127.0.0.1:7171", "127.1.2.3:1", "[::1]:7171", "[::ffff:127.0.0.1]:7171"] {
            check(listen, false, true);
        }
        for listen in ["0.0.0.0:7171", "[::]:7171", "10.0.0.1:7171", "192.168.1.1:7171", "[fe80::1]:7171"] {
            check(listen, false, false);
            check(listen, true, true);
        }
        let Err(failure) = check_exposure("0.0.0.0:7171".parse().unwrap(), &Secrets { clients: false, peers: false })
        else {
            panic!()
        };
        for way in ["--tokens", "--pool-secret-file", "127.0.0.1", "TLS", "--insecure"] {
            assert!(failure.message.contains(way), "{}", failure.message);
        }
        assert_eq!(failure.code, 2);
    }
}
