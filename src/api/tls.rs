//! TLS on the listener, by rustls, and whom the node believes when it dials. Certificates and keys are read again when they
//! change, for connections from then on; clients show tokens, not certificates.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::watched::{self, Watched};
use crate::node::{Trust, tls_client};

/// What a listener proves itself with.
#[derive(Clone, Debug)]
pub struct Tls(Arc<Watched<ServerConfig>>);

impl Tls {
    /// Reads a chain of certificates and the key of the first, both in PEM, and follows their changes; must be called within
    /// a runtime.
    pub fn open(certificates: PathBuf, key: PathBuf) -> Result<Tls, String> {
        Ok(Tls(Arc::new(Watched::open(vec![certificates, key], |paths, _| config(paths))?)))
    }

    /// Agrees upon keys with a client, which may take so long for it.
    pub(super) async fn accept<Io>(&self, io: Io, within: Duration) -> io::Result<TlsStream<Io>>
    where
        Io: AsyncRead + AsyncWrite + Unpin,
    {
        let accepting = TlsAcceptor::from(self.0.now()).accept(io);
        timeout(within, accepting).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

/// The authorities in a file of certificates in PEM, which vouch for nodes at `https` URLs; its changes are followed. Must
/// be called within a runtime.
pub fn trust(authorities: PathBuf) -> Result<Trust, String> {
    let held = Watched::open(vec![authorities], |paths, _| believing(paths))?;
    Ok(Trust::new(move || held.now()))
}

fn believing(paths: &[PathBuf]) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    for path in paths {
        let wrong = |why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
        for certificate in CertificateDer::pem_slice_iter(&watched::read(path)?) {
            let certificate = certificate.map_err(|error| wrong(&error))?;
            roots.add(certificate).map_err(|error| wrong(&error))?;
        }
        if roots.is_empty() {
            return Err(wrong(&"there is no certificate in PEM in it"));
        }
    }
    Ok(tls_client(roots))
}

fn config(paths: &[PathBuf]) -> Result<ServerConfig, String> {
    let [certificates, key] = paths else { return Err("a certificate and its key are needed".into()) };
    let wrong = |path: &PathBuf, why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
    let chain = CertificateDer::pem_slice_iter(&watched::read(certificates)?).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| wrong(certificates, &error))?;
    if chain.is_empty() {
        return Err(wrong(certificates, &"there is no certificate in PEM in it"));
    }
    let secret = PrivateKeyDer::from_pem_slice(&watched::read(key)?).map_err(|error| wrong(key, &error))?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_no_client_auth()
        .with_single_cert(chain, secret);
    let mut config = config.map_err(|error| wrong(key, &error))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
