//! gRPC between our programs and the controller, over our TLS: the client's channel and the controller's listener.
//!
//! tonic is built without TLS features. The client verifies the controller by name against a root file that is read
//! again at every dial; the controller takes client certificates but does not demand them.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::stream::FuturesUnordered;
use futures_util::{Stream, StreamExt};
use http::Uri;
use hyper_util::rt::TokioIo;
use mesh_model::identity::SpiffeId;
use parking_lot::Mutex;
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};
use tonic::metadata::{Ascii, MetadataKey, MetadataMap, MetadataValue};
use tonic::transport::{Channel, Endpoint};

use crate::clock::{Clock, TlsTime};
use crate::known::{Known, Peer};
use crate::pem;
use crate::tls::{ALPN_H2, Always, HANDSHAKE_TIMEOUT, KeyExchange, TlsFailure, never_resume, peer_identity, provider};
use crate::verify::{NamedServer, OptionalClient, Roots};

mod token;
pub use token::TokenSource;

/// What API servers offer to a webhook (RFC 7301).
const ALPN_HTTP1: &[u8] = b"http/1.1";
/// Dialling the controller, TLS included (spec/controlplane.md 2.4).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// HTTP/2 pings find a controller that vanished without a word; also while idle.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// A token is one to two kilobytes; a header line of more would be refused by the server anyway.
const MAX_TOKEN_BYTES: usize = 16 << 10;
/// Where distributions keep the roots of public authorities; the first that exists is taken for `SYSTEM`.
pub(crate) const SYSTEM_BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
];

/// Which roots the controller is verified with: `XDS_ROOT_CA`, `CA_ROOT_CA` (spec/dataplane.md 9.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootSource {
    /// Read at every dial; the last good content stays in force while it cannot be read.
    File(PathBuf),
    /// The store of the operating system.
    System,
    Pem(String),
}

impl FromStr for RootSource {
    type Err = std::convert::Infallible;

    /// `SYSTEM`, a PEM text, or else the path of a file.
    fn from_str(text: &str) -> Result<RootSource, Self::Err> {
        Ok(match text {
            "SYSTEM" => RootSource::System,
            pem if pem.contains("-----BEGIN") => RootSource::Pem(pem.to_owned()),
            path => RootSource::File(path.into()),
        })
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ChannelFailure {
    #[error("{0:?} is no address of a controller: expected https://HOST:PORT")]
    BadAddress(String),
    #[error("{0:?} is neither a DNS name nor an IP address")]
    BadName(String),
    #[error("cannot read the roots for the controller from {path}: {cause}")]
    RootsUnreadable { path: String, cause: io::Error },
    #[error("the roots for the controller, from {from}, hold no usable certificate: {cause}")]
    NoRoots { from: String, cause: String },
    #[error("cannot connect to {address}: {cause}")]
    Dial { address: String, cause: io::Error },
    #[error(transparent)]
    Tls(#[from] TlsFailure),
}

/// The client's side of TLS to one controller.
#[derive(Debug)]
pub struct ChannelTls {
    source: RootSource,
    names: Vec<ServerName<'static>>,
    key_exchange: KeyExchange,
    clock: Arc<dyn Clock>,
    last_good: Mutex<Option<LastGood>>,
}

#[derive(Debug, Clone)]
struct LastGood {
    bundle: Vec<u8>,
    config: Arc<ClientConfig>,
}

impl ChannelTls {
    /// `host` is what the certificate must name; `alternative` (`ALT_XDS_HOSTNAME`, `ALT_CA_HOSTNAME`) is as good.
    pub fn new(
        source: RootSource,
        host: &str,
        alternative: Option<&str>,
        key_exchange: KeyExchange,
        clock: Arc<dyn Clock>,
    ) -> Result<ChannelTls, ChannelFailure> {
        let name = |text: &str| {
            let bare = text.trim_start_matches('[').trim_end_matches(']');
            ServerName::try_from(bare.to_owned()).map_err(|_| ChannelFailure::BadName(text.to_owned()))
        };
        let names = std::iter::once(host).chain(alternative).map(name).collect::<Result<_, _>>()?;
        Ok(ChannelTls { source, names, key_exchange, clock, last_good: Mutex::new(None) })
    }

    /// The configuration for a dial now. Made again only when the roots changed.
    pub async fn config(&self) -> Result<Arc<ClientConfig>, ChannelFailure> {
        let known = self.last_good.lock().clone();
        let bundle = match (self.bundle().await, &known) {
            (Ok(bundle), _) => bundle,
            (Err(err), Some(known)) => {
                tracing::warn!(error = %err, "the last good roots stay in force");
                return Ok(known.config.clone());
            }
            (Err(err), None) => return Err(err),
        };
        match (self.build(&bundle), known) {
            (_, Some(known)) if known.bundle == bundle => Ok(known.config),
            (Ok(config), _) => {
                *self.last_good.lock() = Some(LastGood { bundle, config: config.clone() });
                Ok(config)
            }
            (Err(err), Some(known)) => {
                tracing::warn!(error = %err, "the last good roots stay in force");
                Ok(known.config)
            }
            (Err(err), None) => Err(err),
        }
    }

    async fn bundle(&self) -> Result<Vec<u8>, ChannelFailure> {
        let read = |path: PathBuf| async move {
            let unreadable = |cause| ChannelFailure::RootsUnreadable { path: path.display().to_string(), cause };
            tokio::fs::read(&path).await.map_err(unreadable)
        };
        match &self.source {
            RootSource::Pem(text) => Ok(text.clone().into_bytes()),
            RootSource::File(path) => read(path.clone()).await,
            RootSource::System => {
                let found = SYSTEM_BUNDLES.iter().find(|path| std::path::Path::new(path).exists());
                read(found.unwrap_or(&SYSTEM_BUNDLES[0]).into()).await
            }
        }
    }

    fn build(&self, bundle: &[u8]) -> Result<Arc<ClientConfig>, ChannelFailure> {
        let provider = provider(self.key_exchange);
        let verifier = NamedServer {
            roots: self.roots(bundle)?,
            names: self.names.clone(),
            algorithms: provider.signature_verification_algorithms,
        };
        let mut config = ClientConfig::builder_with_details(provider, Arc::new(TlsTime(self.clock.clone())))
            .with_protocol_versions(&[&TLS13])
            .expect("the provider has TLS 1.3 suites")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        config.alpn_protocols = vec![ALPN_H2.to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Arc::new(config))
    }

    fn roots(&self, bundle: &[u8]) -> Result<Roots, ChannelFailure> {
        let no_roots = |cause: String| ChannelFailure::NoRoots { from: self.origin(), cause };
        let certificates = pem::certificates(bundle).map_err(|err| no_roots(err.to_string()))?;
        let roots = match self.source {
            // The store of the system holds certificates of all ages and kinds; ours must be right.
            RootSource::System => Roots::readable(&certificates),
            RootSource::File(_) | RootSource::Pem(_) => Roots::new(&certificates).map_err(|err| no_roots(err.to_string()))?,
        };
        if roots.is_empty() { Err(no_roots("there is no certificate in it".to_owned())) } else { Ok(roots) }
    }

    fn origin(&self) -> String {
        match &self.source {
            RootSource::File(path) => path.display().to_string(),
            RootSource::System => "the store of the system".to_owned(),
            RootSource::Pem(_) => "the configuration".to_owned(),
        }
    }

    /// TLS over an open stream to the controller.
    pub async fn secure<IO>(&self, io: IO) -> Result<client::TlsStream<IO>, ChannelFailure>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let config = self.config().await?;
        let handshake = TlsConnector::from(config).connect(self.names[0].clone(), io);
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
            Ok(done) => Ok(done.map_err(TlsFailure::from_io)?),
            Err(_elapsed) => Err(TlsFailure::TimedOut(HANDSHAKE_TIMEOUT).into()),
        }
    }
}

/// A parsed controller address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub host: String,
    pub port: u16,
}

impl FromStr for Address {
    type Err = ChannelFailure;

    /// `https://HOST:PORT`, or `HOST:PORT`, which means the same. Plain http is refused: tokens travel here.
    fn from_str(text: &str) -> Result<Address, ChannelFailure> {
        let bad = || ChannelFailure::BadAddress(text.to_owned());
        let rest = match text.split_once("://") {
            Some(("https", rest)) => rest,
            Some(_) => return Err(bad()),
            None => text,
        };
        let uri: Uri = format!("https://{}", rest.trim_end_matches('/')).parse().map_err(|_| bad())?;
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(bad)?.to_owned();
        let port = uri.port_u16().unwrap_or(443);
        // Neither user information nor a port that is no number may be left over.
        let whole = uri.authority().map(|authority| authority.as_str());
        let read = whole == Some(&host) || whole == Some(&format!("{host}:{port}"));
        if !read || uri.path() != "/" || uri.query().is_some() {
            return Err(bad());
        }
        Ok(Address { host, port })
    }
}

/// A lazy channel: it dials at the first call, and again after the connection was lost.
///
/// `dial` opens the transport (`tcp` outside of simulations).
pub fn connect<D, F, IO>(address: &Address, tls: Arc<ChannelTls>, dial: D) -> Result<Channel, ChannelFailure>
where
    D: Fn(Address) -> F + Clone + Send + 'static,
    F: Future<Output = io::Result<IO>> + Send,
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let text = format!("https://{}:{}", address.host, address.port);
    let endpoint = Endpoint::from_shared(text.clone())
        .map_err(|_| ChannelFailure::BadAddress(text.clone()))?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true);
    let address = address.clone();
    let connector = tower::service_fn(move |_: Uri| {
        let (address, tls, dial) = (address.clone(), tls.clone(), dial.clone());
        async move {
            let io = dial(address).await.map_err(|cause| ChannelFailure::Dial { address: text_of(&tls), cause })?;
            Ok::<_, ChannelFailure>(TokioIo::new(tls.secure(io).await?))
        }
    });
    Ok(endpoint.connect_with_connector_lazy(connector))
}

fn text_of(tls: &ChannelTls) -> String {
    tls.names[0].to_str().into_owned()
}

/// Opens a TCP connection.
pub async fn tcp(address: Address) -> io::Result<TcpStream> {
    let host = address.host.trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((host, address.port)).await?;
    stream.set_nodelay(true)?; // requests are small and someone waits for each
    Ok(stream)
}

/// What goes along with each call to the controller.
#[derive(Debug, Clone)]
pub struct CallHeaders {
    token: TokenSource,
    fixed: Vec<(MetadataKey<Ascii>, MetadataValue<Ascii>)>,
}

#[derive(Debug, thiserror::Error)]
pub enum BadHeaders {
    #[error("{name:?} with the configured value is no valid header")]
    Header { name: String },
    #[error("cannot read the token from {path}: {cause}")]
    TokenUnreadable { path: String, cause: io::Error },
    #[error("the token in {path} is empty, too long or holds characters that no token has")]
    BadToken { path: String },
}

impl CallHeaders {
    /// `cluster` becomes `clusterid`; `more` are the configured `CA_HEADER_*` or `XDS_HEADER_*`, without the prefix.
    pub fn new(token: TokenSource, cluster: &str, more: &[(String, String)]) -> Result<CallHeaders, BadHeaders> {
        let fixed = |(name, value): (&str, &str)| {
            let bad = || BadHeaders::Header { name: name.to_owned() };
            let key = MetadataKey::from_bytes(name.to_ascii_lowercase().as_bytes()).map_err(|_| bad())?;
            Ok((key, value.parse().map_err(|_| bad())?))
        };
        let cluster = (!cluster.is_empty()).then_some(("clusterid", cluster));
        let more = more.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        Ok(CallHeaders { token, fixed: cluster.into_iter().chain(more).map(fixed).collect::<Result<_, _>>()? })
    }

    /// The metadata of one call; the token file is read now.
    pub async fn metadata(&self) -> Result<MetadataMap, BadHeaders> {
        let mut metadata = MetadataMap::new();
        for (key, value) in &self.fixed {
            metadata.insert(key.clone(), value.clone());
        }
        if let Some(token) = self.bearer().await? {
            metadata.insert("authorization", token);
        }
        Ok(metadata)
    }

    async fn bearer(&self) -> Result<Option<MetadataValue<Ascii>>, BadHeaders> {
        let (text, path) = match &self.token {
            TokenSource::None => return Ok(None),
            TokenSource::Static(text) => (text.clone(), "the configuration".to_owned()),
            TokenSource::File(path) => {
                let shown = path.display().to_string();
                let read = tokio::fs::read_to_string(path).await;
                (read.map_err(|cause| BadHeaders::TokenUnreadable { path: shown.clone(), cause })?, shown)
            }
        };
        let token = text.trim();
        let sound = !token.is_empty() && token.len() <= MAX_TOKEN_BYTES && token.bytes().all(|byte| byte.is_ascii_graphic());
        let value = sound.then(|| format!("Bearer {token}").parse::<MetadataValue<Ascii>>().ok()).flatten();
        let mut value = value.ok_or(BadHeaders::BadToken { path })?;
        value.set_sensitive(true); // keeps it out of debug output and of the HPACK table
        Ok(Some(value))
    }
}

/// The controller's side of TLS: replaced as a whole when its certificate or roots change.
#[derive(Debug)]
pub struct ServingTls {
    config: ArcSwap<Serving>,
    key_exchange: KeyExchange,
    clock: Arc<dyn Clock>,
}

/// One certificate, for two kinds of ports.
#[derive(Debug)]
struct Serving {
    h2: Arc<ServerConfig>,
    http1: Arc<ServerConfig>,
}

/// What is spoken over a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    /// gRPC.
    H2,
    /// API servers call webhooks with HTTP/1.1 and nothing else.
    Http1,
}

impl ServingTls {
    /// `client_roots` verify certificates of clients that show one.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: &PrivateKeyDer<'static>,
        client_roots: &[CertificateDer<'_>],
        key_exchange: KeyExchange,
        clock: Arc<dyn Clock>,
    ) -> Result<ServingTls, rustls::Error> {
        let config = serving_config(chain, key, client_roots, key_exchange, clock.clone())?;
        Ok(ServingTls { config: ArcSwap::from_pointee(config), key_exchange, clock })
    }

    /// For connections from now on; those that exist go on. On error the old certificate stays.
    pub fn replace(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: &PrivateKeyDer<'static>,
        client_roots: &[CertificateDer<'_>],
    ) -> Result<(), rustls::Error> {
        self.config.store(Arc::new(serving_config(chain, key, client_roots, self.key_exchange, self.clock.clone())?));
        Ok(())
    }

    /// TLS over an accepted stream, within the handshake's time.
    pub async fn accept<IO>(&self, io: IO) -> Result<Served<IO>, TlsFailure>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        self.accept_for(Protocol::H2, io).await
    }

    async fn accept_for<IO>(&self, protocol: Protocol, io: IO) -> Result<Served<IO>, TlsFailure>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let serving = self.config.load_full();
        let config = match protocol {
            Protocol::H2 => serving.h2.clone(),
            Protocol::Http1 => serving.http1.clone(),
        };
        let handshake = TlsAcceptor::from(config).accept(io);
        let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
            Ok(done) => done.map_err(TlsFailure::from_io)?,
            Err(_elapsed) => return Err(TlsFailure::TimedOut(HANDSHAKE_TIMEOUT)),
        };
        let identity = peer_identity(stream.get_ref().1);
        Ok(Known { stream, peer: Caller { identity, from: None } })
    }
}

fn serving_config(
    chain: Vec<CertificateDer<'static>>,
    key: &PrivateKeyDer<'static>,
    client_roots: &[CertificateDer<'_>],
    key_exchange: KeyExchange,
    clock: Arc<dyn Clock>,
) -> Result<Serving, rustls::Error> {
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(key)?;
    let certified = CertifiedKey::new(chain, key);
    certified.keys_match()?;
    let provider = provider(key_exchange);
    let roots = Roots::new(client_roots).map_err(|err| rustls::Error::General(format!("roots for clients: {err}")))?;
    let verifier = OptionalClient { roots, algorithms: provider.signature_verification_algorithms };
    let mut config = ServerConfig::builder_with_details(provider, Arc::new(TlsTime(clock)))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(Always(Arc::new(certified))));
    never_resume(&mut config);
    let speaking = |protocol: &[u8]| {
        let mut config = config.clone();
        config.alpn_protocols = vec![protocol.to_vec()];
        Arc::new(config)
    };
    Ok(Serving { h2: speaking(ALPN_H2), http1: speaking(ALPN_HTTP1) })
}

/// Who is at the far end of a connection to the controller; in the extensions of every request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller {
    /// Proved by a client certificate of our roots.
    pub identity: Option<SpiffeId>,
    pub from: Option<SocketAddr>,
}

impl Peer for Caller {}

/// A connection that the controller accepted.
pub type Served<IO> = Known<server::TlsStream<IO>, Caller>;

impl<IO> Served<IO> {
    pub fn from(&self) -> Option<SocketAddr> {
        self.peer.from
    }
}

impl<IO> tonic::transport::server::Connected for Served<IO> {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.peer.clone()
    }
}

/// What strangers may occupy before they have proved anything (T-09).
#[derive(Debug, Clone, Copy)]
pub struct HandshakeLimits {
    pub in_all: usize,
    pub per_address: usize,
}

impl Default for HandshakeLimits {
    /// A thousand nodes that reconnect at once fit; one address cannot take more than a small part.
    fn default() -> HandshakeLimits {
        HandshakeLimits { in_all: 4096, per_address: 64 }
    }
}

/// Pause after an error of accept, such as running out of descriptors, so that the loop does not spin (F-17).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts for ever and yields finished handshakes, for `tonic::transport::Server::serve_with_incoming_shutdown`.
/// Handshakes run side by side: a slow one delays nobody.
pub fn incoming(
    listener: TcpListener,
    tls: Arc<ServingTls>,
    limits: HandshakeLimits,
) -> impl Stream<Item = io::Result<Served<TcpStream>>> {
    accepting(listener, tls, limits, Protocol::H2).map(Ok)
}

/// The same for a port that speaks HTTP/1.1.
pub fn incoming_http1(listener: TcpListener, tls: Arc<ServingTls>, limits: HandshakeLimits) -> impl Stream<Item = Served<TcpStream>> {
    accepting(listener, tls, limits, Protocol::Http1)
}

fn accepting(listener: TcpListener, tls: Arc<ServingTls>, limits: HandshakeLimits, protocol: Protocol) -> impl Stream<Item = Served<TcpStream>> {
    let state = Incoming { listener, tls, limits, protocol, pending: FuturesUnordered::new(), by_address: HashMap::new() };
    futures_util::stream::unfold(state, |mut state| async move {
        let served = state.next().await;
        Some((served, state))
    })
}

type Pending = Pin<Box<dyn Future<Output = (SocketAddr, Result<Served<TcpStream>, TlsFailure>)> + Send>>;

struct Incoming {
    listener: TcpListener,
    tls: Arc<ServingTls>,
    limits: HandshakeLimits,
    protocol: Protocol,
    pending: FuturesUnordered<Pending>,
    by_address: HashMap<IpAddr, usize>,
}

impl Incoming {
    async fn next(&mut self) -> Served<TcpStream> {
        loop {
            tokio::select! {
                biased;
                Some((from, done)) = self.pending.next() => {
                    self.leave(from.ip());
                    match done {
                        Ok(served) => return served,
                        Err(err) => tracing::debug!(%from, error = %err, "no TLS connection to the controller"),
                    }
                }
                accepted = self.listener.accept(), if self.pending.len() < self.limits.in_all => match accepted {
                    Ok((stream, from)) => self.begin(stream, from),
                    Err(err) => {
                        tracing::warn!(error = %err, "cannot accept connections to the controller");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    }

    fn begin(&mut self, stream: TcpStream, from: SocketAddr) {
        let others = self.by_address.entry(from.ip()).or_default();
        if *others >= self.limits.per_address {
            tracing::debug!(%from, limit = self.limits.per_address, "too many unfinished handshakes from one address");
            return;
        }
        *others += 1;
        let (tls, protocol) = (self.tls.clone(), self.protocol);
        self.pending.push(Box::pin(async move {
            let _ = stream.set_nodelay(true); // only a matter of speed
            let mut served = tls.accept_for(protocol, stream).await;
            if let Ok(served) = &mut served {
                served.peer.from = Some(from);
            }
            (from, served)
        }));
    }

    fn leave(&mut self, address: IpAddr) {
        if let Some(others) = self.by_address.get_mut(&address) {
            *others -= 1;
            if *others == 0 {
                self.by_address.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests;
