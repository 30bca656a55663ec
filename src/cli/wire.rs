//! Connections of client commands: TCP, and TLS over it for `https://` URLs; and what they show a node of their user.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read},
    path::Path,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use clap::{
    Arg,
    builder::TypedValueParser,
    error::{Error, ErrorKind},
};
use hyper::{Uri, header::HeaderValue};
use hyper_util::{
    client::legacy::connect::{Connected, Connection, HttpConnector},
    rt::TokioIo,
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tower::Service;

use super::client::Base;
use crate::node::{system_roots, tls_client};

/// Bytes read of a file with a token: more than any that a node takes.
const TOKEN_FILE_BYTES_MAX: u64 = 16 << 10;

/// A token, as it stands in a header. It is never shown.
#[derive(Clone, Debug)]
pub struct Token(HeaderValue);

/// Reads a token, and does not repeat it if it is none.
#[derive(Clone, Debug)]
pub struct TokenParser;

impl TypedValueParser for TokenParser {
    type Value = Token;

    fn parse_ref(&self, command: &clap::Command, _: Option<&Arg>, value: &OsStr) -> Result<Token, Error> {
        value.to_str().and_then(Token::of).ok_or_else(|| {
            let words = "the token (--token or LAMPLIGHT_TOKEN) is empty, or has characters other than visible ASCII\n";
            Error::raw(ErrorKind::ValueValidation, words).with_cmd(command)
        })
    }
}

impl Token {
    /// Reads a file with nothing but a token in it, in which a line end behind it does not count.
    pub fn read(path: &str) -> Result<Token, String> {
        let mut text = String::new();
        let read = File::open(path).and_then(|file| file.take(TOKEN_FILE_BYTES_MAX).read_to_string(&mut text));
        read.map_err(|error| error.to_string())?;
        Token::of(&text).ok_or_else(|| "there is no token in it, or more than that".into())
    }

    fn of(text: &str) -> Option<Token> {
        let text = Some(text.trim()).filter(|text| !text.is_empty())?;
        let mut header = HeaderValue::from_str(&format!("Bearer {text}")).ok()?;
        header.set_sensitive(true);
        Some(Token(header))
    }
}

/// Authorities whose word counts for who a node is.
#[derive(Clone, Debug)]
pub struct Roots(Arc<RootCertStore>);

impl Roots {
    /// Reads a file of certificates in PEM.
    pub fn read(path: &str) -> Result<Roots, String> {
        let read = CertificateDer::pem_file_iter(Path::new(path)).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let certificates = read.map_err(|error| error.to_string())?;
        let mut store = RootCertStore::empty();
        for certificate in certificates {
            store.add(certificate).map_err(|error| error.to_string())?;
        }
        if store.is_empty() { Err("there is no certificate in PEM in it".into()) } else { Ok(Roots(Arc::new(store))) }
    }
}

/// How a command speaks to nodes.
#[derive(Clone, Debug, Default)]
pub struct Means {
    token: Option<Token>,
    roots: Option<Roots>,
    /// Made for the first `https://` URL: to read the system's certificates takes some milliseconds.
    tls: Arc<OnceLock<Arc<ClientConfig>>>,
}

impl Means {
    /// With a token, and with authorities other than the system's.
    pub fn new(token: Option<Token>, roots: Option<Roots>) -> Means {
        Means { token, roots, tls: Arc::default() }
    }

    /// What stands in `Authorization`.
    pub fn authorization(&self) -> Option<HeaderValue> {
        self.token.as_ref().map(|Token(header)| header.clone())
    }

    /// A connection to a node.
    pub async fn dial(&self, base: &Base) -> io::Result<Wire> {
        let stream = TcpStream::connect(base.authority()).await?;
        stream.set_nodelay(true)?;
        if base.is_secure() { self.secure(stream, base.host()).await } else { Ok(Wire::Plain(stream)) }
    }

    async fn secure(&self, stream: TcpStream, host: &str) -> io::Result<Wire> {
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_string()).map_err(io::Error::other)?;
        let config = Arc::clone(self.tls.get_or_init(|| Arc::new(self.config())));
        let connected = TlsConnector::from(config).connect(name, stream).await;
        let stream = connected.map_err(|error| {
            io::Error::other(format!(
                "no TLS came about: {error}. The node's certificate must be for {host}, from an authority that this system knows, \
                 or from that of --ca FILE"
            ))
        })?;
        Ok(Wire::Secure(Box::new(stream)))
    }

    fn config(&self) -> ClientConfig {
        tls_client(self.roots.as_ref().map_or_else(system_roots, |Roots(roots)| roots.as_ref().clone()))
    }
}

/// A connection.
#[derive(Debug)]
pub enum Wire {
    /// In clear.
    Plain(TcpStream),
    /// Over TLS.
    Secure(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Wire::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Wire::Secure(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Wire::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Wire::Secure(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Wire::Plain(stream) => Pin::new(stream).poll_flush(context),
            Wire::Secure(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Wire::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Wire::Secure(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

impl Connection for Wire {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

/// Makes the connections of hyper-util's pooled client.
#[derive(Clone, Debug)]
pub struct Connector {
    /// To TCP ports.
    pub tcp: HttpConnector,
    /// And TLS over them.
    pub means: Means,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Wire>;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<TokioIo<Wire>, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.tcp.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (connecting, means) = (self.tcp.call(uri.clone()), self.means.clone());
        Box::pin(async move {
            let stream = connecting.await?.into_inner();
            let secure = uri.scheme_str() == Some("https");
            let host = uri.host().unwrap_or_default();
            Ok(TokioIo::new(if secure { means.secure(stream, host).await? } else { Wire::Plain(stream) }))
        })
    }
}
