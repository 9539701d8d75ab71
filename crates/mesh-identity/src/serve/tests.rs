use super::*;
use std::net::{IpAddr, SocketAddr};

use parking_lot::Mutex;
use rustls_pki_types::PrivateKeyDer;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tonic::transport::Server;

use crate::authority::{Authority, GrpcAuthority, Mode, SignFailure};
use crate::channel::{
    Address, CallHeaders, ChannelTls, HandshakeLimits, RootSource, ServingTls, TokenSource, connect, incoming, tcp,
};
use crate::clock::Clock;
use crate::credential::Credential;
use crate::csr;
use crate::sign::{Ca, Lifetimes, ROOT_LIFE};
use crate::testing::{DAY, HOUR, HandClock, id};
use crate::tls::KeyExchange;

/// A controller that knows two tokens, and remembers what it was asked.
struct Desk {
    ca: Ca,
    clock: Arc<HandClock>,
    seen: Mutex<Vec<(Shown, String)>>,
}

impl Issuing for Desk {
    type Caller = &'static str;

    async fn authenticate(&self, shown: &Shown) -> Result<&'static str, Refused> {
        match (&shown.connection.identity, shown.bearer.as_ref().map(|bearer| bearer.0.as_str())) {
            (Some(_), _) => Ok("workload"),
            (None, Some("node-token")) => Ok("node"),
            (None, Some("pod-token")) => Ok("workload"),
            (None, _) => Err(Refused("no credential that is known".to_owned())),
        }
    }

    async fn authorize(&self, caller: &&'static str, impersonated: Option<&str>) -> Result<SpiffeId, Refused> {
        match (*caller, impersonated) {
            (_, None) => Ok(id("shop", "own")),
            ("node", Some(wish)) => wish.parse().map_err(|_| Refused("no identity".to_owned())),
            (_, Some(_)) => Err(Refused("not a node".to_owned())),
        }
    }

    async fn sign(&self, csr: &str, identity: &SpiffeId, life: Duration) -> Result<Issued, CannotSign> {
        self.ca.issue(csr, identity, life, self.clock.now())
    }

    fn answered(&self, shown: &Shown, outcome: &Outcome) {
        let what = match outcome {
            Outcome::Issued(issued) => format!("issued {}", issued.identity),
            Outcome::Unauthenticated(why) => format!("unauthenticated: {why}"),
            Outcome::NotAllowed { impersonated, why } => format!("not allowed {impersonated:?}: {why}"),
            Outcome::BadMetadata => "bad metadata".to_owned(),
            Outcome::NotSigned { why, .. } => format!("not signed: {why}"),
        };
        self.seen.lock().push((shown.clone(), what));
    }
}

/// A controller on a port of the loopback.
struct Bench {
    desk: Arc<Desk>,
    tls: Arc<ServingTls>,
    address: SocketAddr,
}

fn ca(clock: &HandClock) -> Ca {
    Ca::self_signed("td", ROOT_LIFE, Lifetimes::default(), clock.now()).unwrap()
}

async fn bench() -> Bench {
    let clock = HandClock::new();
    let ca = ca(&clock);
    let serving = ca.serving(&["istiod.test".into()], DAY, clock.now()).unwrap();
    let tls = Arc::new(ServingTls::new(serving.chain, &serving.key, ca.roots(), KeyExchange::Standard, clock.clone()).unwrap());
    let desk = Arc::new(Desk { ca, clock, seen: Mutex::default() });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let limits = HandshakeLimits { in_all: 128, per_address: 4 };
    let connections = incoming(listener, tls.clone(), limits);
    tokio::spawn(Server::builder().serve_with_incoming(CaService::new(desk.clone()), connections));
    Bench { desk, tls, address }
}

impl Bench {
    fn roots(&self) -> RootSource {
        RootSource::Pem(self.desk.ca.root_bundle())
    }

    fn channel(&self, roots: RootSource, host: &str, alternative: Option<&str>) -> tonic::transport::Channel {
        let clock = self.desk.clock.clone();
        let tls = ChannelTls::new(roots, host, alternative, KeyExchange::Standard, clock).unwrap();
        let address = Address { host: self.address.ip().to_string(), port: self.address.port() };
        connect(&address, Arc::new(tls), tcp).unwrap()
    }

    fn authority(&self, token: &str, mode: Mode) -> GrpcAuthority {
        let more = [("X-Extra".to_owned(), "7".to_owned())];
        let headers = CallHeaders::new(TokenSource::Static(token.to_owned()), "Kubernetes", &more).unwrap();
        GrpcAuthority::new(self.channel(self.roots(), "istiod.test", None), headers, mode)
    }

    fn last(&self) -> (Shown, String) {
        self.desk.seen.lock().pop().expect("a call was answered")
    }
}

async fn ask(authority: &impl Authority, identity: &SpiffeId) -> Result<Vec<String>, SignFailure> {
    authority.sign(csr::request(identity).unwrap().csr, identity, HOUR).await
}

fn code(result: Result<Vec<String>, SignFailure>) -> Code {
    match result {
        Err(SignFailure::Refused { code, .. }) => code,
        other => panic!("{other:?}"),
    }
}

// Z-028, spec/controlplane.md 3.1, 3.2
#[tokio::test]
async fn a_node_gets_a_certificate_for_its_workload() {
    let bench = bench().await;
    let identity = id("shop", "cart");
    let request = csr::request(&identity).unwrap();
    let authority = bench.authority(" node-token\n", Mode::Shared);
    let answer = authority.sign(request.csr, &identity, HOUR).await.unwrap();
    let credential = Credential::from_answer(&identity, request.key, &answer, bench.desk.clock.now()).unwrap();
    assert_eq!(credential.not_after(), bench.desk.clock.now() + HOUR);
    let (shown, what) = bench.last();
    assert_eq!(what, "issued spiffe://td/ns/shop/sa/cart");
    assert_eq!(shown.bearer, Some(Bearer("node-token".to_owned())), "white space is cut off");
    assert_eq!(shown.cluster.as_deref(), Some("Kubernetes"));
    assert_eq!(shown.connection.from.map(|from| from.ip()), Some(IpAddr::from([127, 0, 0, 1])));
    assert!(!format!("{shown:?}").contains("node-token"));
}

// Dedicated mode names nobody: the certificate is for the caller itself.
#[tokio::test]
async fn without_impersonation_the_certificate_is_the_callers_own() {
    let bench = bench().await;
    ask(&bench.authority("pod-token", Mode::Dedicated), &id("shop", "cart")).await.unwrap();
    assert_eq!(bench.last().1, "issued spiffe://td/ns/shop/sa/own");
}

// Z-267: what the token proves is asked for without naming anybody, all else by name.
#[tokio::test]
async fn a_daemon_asks_for_its_own_certificate_as_itself() {
    let bench = bench().await;
    let own = id("shop", "own");
    let daemon = bench.authority("node-token", Mode::Shared).whose_own_is(Some(own.clone()));
    ask(&daemon, &id("shop", "cart")).await.unwrap();
    assert_eq!(bench.last().1, "issued spiffe://td/ns/shop/sa/cart");
    let another = bench.authority("pod-token", Mode::Shared).whose_own_is(Some(own.clone()));
    ask(&another, &own).await.unwrap();
    assert_eq!(bench.last().1, "issued spiffe://td/ns/shop/sa/own", "this caller may not name anybody, and did not");
}

// V-30, V-31, spec/controlplane.md 3.4: what a refused caller learns
#[tokio::test]
async fn refusals_have_their_codes_and_are_opaque() {
    let bench = bench().await;
    let cart = id("shop", "cart");
    for token in ["", "wrong"] {
        let headers = if token.is_empty() { TokenSource::None } else { TokenSource::Static(token.to_owned()) };
        let headers = CallHeaders::new(headers, "", &[]).unwrap();
        let authority = GrpcAuthority::new(bench.channel(bench.roots(), "istiod.test", None), headers, Mode::Shared);
        let err = ask(&authority, &cart).await.unwrap_err();
        assert_eq!(err.to_string(), format!("the certificate authority refused with {}: request authenticate failure", Code::Unauthenticated));
        assert_eq!(bench.last().1, "unauthenticated: no credential that is known");
    }
    assert_eq!(code(ask(&bench.authority("pod-token", Mode::Shared), &cart).await), Code::Unauthenticated);
    assert_eq!(bench.last().1, "not allowed Some(\"spiffe://td/ns/shop/sa/cart\"): not a node");
    let authority = bench.authority("node-token", Mode::Shared);
    assert_eq!(code(authority.sign("no csr".to_owned(), &cart, HOUR).await), Code::InvalidArgument);
    let csr = csr::request(&cart).unwrap().csr;
    assert_eq!(code(authority.sign(csr.clone(), &cart, 91 * DAY).await), Code::InvalidArgument);
    bench.desk.clock.set(bench.desk.clock.now() + HOUR);
    assert_eq!(code(authority.sign("x".repeat(MAX_REQUEST_BYTES), &cart, HOUR).await), Code::OutOfRange, "too long to be read");
}

async fn raw(bench: &Bench, path: &'static str, metadata: Option<prost_types::Struct>) -> Result<Vec<String>, Status> {
    let mut grpc = tonic::client::Grpc::new(bench.channel(bench.roots(), "istiod.test", None));
    let csr = csr::request(&id("shop", "cart")).unwrap().csr;
    let mut request = Request::new(wire::IstioCertificateRequest { csr, validity_duration: -5, metadata });
    request.metadata_mut().insert("authorization", "Bearer node-token".parse().unwrap());
    grpc.ready().await.unwrap();
    let codec = ProstCodec::<wire::IstioCertificateRequest, wire::IstioCertificateResponse>::default();
    let path = http::uri::PathAndQuery::from_static(path);
    grpc.unary(request, path, codec).await.map(|answer| answer.into_inner().cert_chain)
}

#[tokio::test]
async fn odd_requests_are_refused_or_read_as_the_contract_says() {
    let bench = bench().await;
    let status = raw(&bench, "/istio.v1.auth.IstioCertificateService/Other", None).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    let number = prost_types::Value { kind: Some(prost_types::value::Kind::NumberValue(7.0)) };
    let metadata = prost_types::Struct { fields: [(wire::IMPERSONATED_IDENTITY.to_owned(), number)].into() };
    let status = raw(&bench, wire::CREATE_CERTIFICATE, Some(metadata)).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    // A negative duration means the default; foreign metadata is no impersonation.
    let foreign = wire::one_string("CertSigner", "x".to_owned());
    let answer = raw(&bench, wire::CREATE_CERTIFICATE, Some(foreign)).await.unwrap();
    let leaf = crate::pem::certificates(answer[0].as_bytes()).unwrap();
    let (_, to) = crate::credential::dates(&leaf[0]).unwrap();
    assert_eq!(to, bench.desk.clock.now() + DAY);
}

// spec/controlplane.md 2.4: the controller is verified by name and root
#[tokio::test]
async fn the_controller_must_have_the_name_and_the_root() {
    let bench = bench().await;
    let headers = || CallHeaders::new(TokenSource::Static("node-token".to_owned()), "", &[]).unwrap();
    let stranger = RootSource::Pem(ca(&bench.desk.clock).root_bundle());
    let rows = [
        (bench.roots(), "istiod.test", None, "fine"),
        (bench.roots(), "other.test", Some("istiod.test"), "fine"),
        (bench.roots(), "other.test", None, "for none of the names other.test"),
        (bench.roots(), "127.0.0.1", None, "for none of the names 127.0.0.1"),
        (stranger, "istiod.test", None, "not trusted"),
        (RootSource::Pem("-----BEGIN nothing".to_owned()), "istiod.test", None, "hold no usable certificate"),
        (RootSource::Pem("text".to_owned()), "istiod.test", None, "there is no certificate in it"),
        (RootSource::File("/nonexistent/root.pem".into()), "istiod.test", None, "/nonexistent/root.pem"),
    ];
    for (roots, host, alternative, expect) in rows {
        let authority = GrpcAuthority::new(bench.channel(roots, host, alternative), headers(), Mode::Shared);
        match ask(&authority, &id("shop", "cart")).await {
            Ok(_) => assert_eq!(expect, "fine", "{host}"),
            Err(SignFailure::Unreachable(why)) => assert!(why.contains(expect), "{host}: expected {expect:?}, got {why:?}"),
            Err(other) => panic!("{host}: {other}"),
        }
    }
}

// Z-029, Z-181, Z-182, Z-183
#[tokio::test]
async fn the_root_file_is_read_at_every_dial_and_the_last_good_one_stays() {
    let bench = bench().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("root-cert.pem");
    std::fs::write(&path, ca(&bench.desk.clock).root_bundle()).unwrap();
    let file = RootSource::File(path.clone());
    let tls = ChannelTls::new(file, "istiod.test", None, KeyExchange::Standard, bench.desk.clock.clone()).unwrap();
    let dial = || async { tls.secure(TcpStream::connect(bench.address).await.unwrap()).await };
    assert!(dial().await.unwrap_err().to_string().contains("not trusted"));
    let before = tls.config().await.unwrap();
    assert!(Arc::ptr_eq(&before, &tls.config().await.unwrap()), "an unchanged file is not parsed again");
    std::fs::write(&path, bench.desk.ca.root_bundle()).unwrap();
    dial().await.unwrap();
    for broken in ["", "-----BEGIN CERTIFICATE-----\nx"] {
        std::fs::write(&path, broken).unwrap();
        dial().await.unwrap();
    }
    std::fs::remove_file(&path).unwrap();
    dial().await.unwrap();
}

// spec/dataplane.md 10: token file, read for every call
#[tokio::test]
async fn the_token_file_is_read_for_every_call() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    let headers = CallHeaders::new(TokenSource::File(path.clone()), "c1", &[]).unwrap();
    assert!(headers.metadata().await.unwrap_err().to_string().contains("cannot read the token"));
    for (text, expect) in [("one\n", "Bearer one"), ("\ttwo ", "Bearer two")] {
        std::fs::write(&path, text).unwrap();
        let metadata = headers.metadata().await.unwrap();
        assert_eq!(metadata.get("authorization").unwrap(), expect);
        assert_eq!(metadata.get("clusterid").unwrap(), "c1");
        assert!(!format!("{metadata:?}").contains(expect), "the token is not printed");
    }
    for bad in ["", " \n", "a b", "a\nb", "t\u{f6}ken", &"x".repeat(20_000)] {
        std::fs::write(&path, bad).unwrap();
        assert!(headers.metadata().await.unwrap_err().to_string().contains("token in "), "{bad:.20}");
    }
    assert!(CallHeaders::new(TokenSource::None, "", &[("bad name".into(), "x".into())]).is_err());
    assert!(CallHeaders::new(TokenSource::None, "", &[("x".into(), "a\nb".into())]).is_err());
    assert_eq!(format!("{:?}", TokenSource::Static("secret".into())), "Static(hidden)");
}

// A replaced certificate of the controller serves the next connection.
#[tokio::test]
async fn the_controllers_certificate_can_be_replaced() {
    let bench = bench().await;
    let next = ca(&bench.desk.clock);
    let serving = next.serving(&["istiod.test".into()], DAY, bench.desk.clock.now()).unwrap();
    bench.tls.replace(serving.chain.clone(), &serving.key, next.roots()).unwrap();
    let clock = bench.desk.clock.clone();
    let of = |roots: String| ChannelTls::new(RootSource::Pem(roots), "istiod.test", None, KeyExchange::Standard, clock.clone()).unwrap();
    let dial = |tls: ChannelTls| async move { tls.secure(TcpStream::connect(bench.address).await.unwrap()).await };
    assert!(dial(of(bench.desk.ca.root_bundle())).await.is_err());
    assert!(dial(of(next.root_bundle())).await.is_ok());
    let other: PrivateKeyDer<'static> = rcgen::KeyPair::generate().unwrap().into();
    assert!(bench.tls.replace(serving.chain, &other, next.roots()).is_err());
    assert!(dial(of(next.root_bundle())).await.is_ok(), "a pair that does not fit changes nothing");
}

// spec/controlplane.md 3.3 step 1: a client certificate is an identity; a bad one ends the connection
#[tokio::test]
async fn a_client_certificate_is_optional_but_must_be_good() {
    let bench = bench().await;
    let now = bench.desk.clock.now();
    for (ca, fine) in [(&bench.desk.ca, true), (&ca(&bench.desk.clock), false)] {
        let request = csr::request(&id("shop", "gateway")).unwrap();
        let answer = ca.issue(&request.csr, &id("shop", "gateway"), HOUR, now).unwrap().chain;
        let credential = Credential::from_answer(&id("shop", "gateway"), request.key, &answer, now).unwrap();
        let tls = ChannelTls::new(bench.roots(), "istiod.test", None, KeyExchange::Standard, bench.desk.clock.clone()).unwrap();
        let mut config = (*tls.config().await.unwrap()).clone();
        config.client_auth_cert_resolver = Arc::new(crate::tls::Always(credential.key.clone()));
        let (near, far) = tokio::io::duplex(64 << 10);
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let name = "istiod.test".try_into().unwrap();
        let (_, served) = tokio::join!(connector.connect(name, near), bench.tls.accept(far));
        match served {
            Ok(served) => {
                assert!(fine);
                let caller = tonic::transport::server::Connected::connect_info(&served);
                assert_eq!(caller.identity, Some(id("shop", "gateway")));
            }
            Err(err) => assert!(!fine, "{err}"),
        }
    }
}

// T-09: strangers that never finish their handshake
#[tokio::test]
async fn silent_connections_do_not_keep_others_out() {
    let bench = bench().await;
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(TcpStream::connect(bench.address).await.unwrap());
    }
    // The fifth and later ones of that address were dropped at once.
    for stream in silent.iter().skip(4) {
        let mut byte = [0];
        stream.readable().await.unwrap();
        assert!(matches!(stream.try_read(&mut byte), Ok(0) | Err(_)));
    }
    let tls = ChannelTls::new(bench.roots(), "istiod.test", None, KeyExchange::Standard, bench.desk.clock.clone()).unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    tls.secure(socket.connect(bench.address).await.unwrap()).await.unwrap();
    drop(silent);
}
