//! TLS of the links that this node dials: whose word counts for who a node at an `https` URL is.
//!
//! A certificate says that the node is the one of its URL, and hides the link. That it is of the pool is what the pool's
//! secret proves, inside, the same way as in clear.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Gives the configuration in force.
type Source = dyn Fn() -> Arc<ClientConfig> + Send + Sync;

/// The authorities that vouch for nodes.
#[derive(Clone)]
pub struct Trust(Arc<Source>);

impl Trust {
    /// Those of a configuration that is asked for at each dial, for it may change.
    pub fn new(source: impl Fn() -> Arc<ClientConfig> + Send + Sync + 'static) -> Trust {
        Trust(Arc::new(source))
    }

    /// Those of the system, read when the first link is secured.
    pub fn of_system() -> Trust {
        let held = OnceLock::new();
        Trust::new(move || Arc::clone(held.get_or_init(|| Arc::new(tls_client(system_roots())))))
    }

    /// Makes a stream to a host secure, or says why not and what to do.
    pub(super) async fn secure<Io>(&self, io: Io, host: &str, url: &str) -> Result<TlsStream<Io>, String>
    where
        Io: AsyncRead + AsyncWrite + Unpin,
    {
        let name = ServerName::try_from(host.to_string()).map_err(|_| format!("{url} names no host"))?;
        TlsConnector::from((self.0)()).connect(name, io).await.map_err(|error| {
            format!(
                "no TLS with {url} came about: {error}. Its certificate (--tls-cert there) must be for {host}, and from an \
                 authority that this system knows or that is in --tls-ca FILE of this node; and it must speak TLS"
            )
        })
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Trust")
    }
}

/// The authorities that the system trusts. What cannot be read of them is left out.
pub fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

/// A client that believes these authorities, and shows no certificate of its own.
pub fn tls_client(roots: RootCertStore) -> ClientConfig {
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has what TLS 1.2 and 1.3 need")
        .with_root_certificates(roots)
        .with_no_client_auth()
}
