//! Names, TLS and proxies outside of the mesh, over a simulated network with a name server in it and real TLS.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;

use hickory_proto::op::{Message, OpCode, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{RData, Record, RecordType};
use mesh_dns::Resolv;
use mesh_identity::authority::LocalAuthority;
use mesh_identity::clock::Clock;
use mesh_identity::sign::{Ca, Lifetimes};
use mesh_net::net::{Accept, Datagrams};
use mesh_sim::clock::SimClock;
use mesh_sim::fabric::Fabric;
use mesh_xds::messages::waypoint::{ForwardProxy, TlsClient, TlsMode};
use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::AsyncReadExt;
use tokio_rustls::TlsAcceptor;

use super::*;

const YEARS: Duration = Duration::from_secs(3600 * 24 * 3650);

struct Scene {
    fabric: Fabric,
    connector: Connector,
    zone: Arc<Mutex<HashMap<String, Vec<Ipv4Addr>>>>,
}

fn out(last: u8) -> IpAddr {
    [198, 51, 100, last].into()
}

fn mesh(last: u8) -> IpAddr {
    [10, 0, 0, last].into()
}

async fn scene() -> Scene {
    let fabric = Fabric::new(1);
    fabric.add_pod("c", mesh(9));
    fabric.add_pod("dns", mesh(53));
    let zone: Arc<Mutex<HashMap<String, Vec<Ipv4Addr>>>> = Arc::default();
    let (socket, known) = (fabric.daemon(mesh(53)).bind_datagrams(SocketAddr::new(mesh(53), 53)).await.unwrap(), zone.clone());
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let reply = answer(&buffer[..length], &known.lock());
            socket.send_to(&reply, from).await.unwrap();
        }
    });
    let clock = Arc::new(SimClock::start());
    let ca = Arc::new(Ca::self_signed("cluster.local", YEARS, Lifetimes { default: YEARS, max: YEARS }, clock.now()).unwrap());
    let clock: Arc<dyn Clock> = clock;
    let credentials = Credentials::new(Arc::new(LocalAuthority::new(ca, clock.clone())), clock.clone(), Duration::from_secs(3600), 1);
    let tls = Tls::new(Default::default(), clock, mesh_identity::Revocations::disabled());
    let own = Own { identity: SpiffeId::new("cluster.local", "shop", "wp"), network: "".into(), addresses: [mesh(9)].into() };
    let sources = Sources::Servers(Resolv { servers: vec![SocketAddr::new(mesh(53), 53)], search: Vec::new() });
    let connector = Connector::new(own, fabric.daemon(mesh(9)), sources, tls, credentials, Limits::default());
    Scene { fabric, connector, zone }
}

fn answer(packet: &[u8], zone: &HashMap<String, Vec<Ipv4Addr>>) -> Vec<u8> {
    let question = Message::from_vec(packet).unwrap();
    let query = question.queries[0].clone();
    let mut reply = Message::response(question.metadata.id, OpCode::Query);
    reply.add_query(query.clone());
    match zone.get(query.name().to_ascii().trim_end_matches('.')) {
        None => reply.metadata.response_code = ResponseCode::NXDomain,
        Some(ips) if query.query_type() == RecordType::A => {
            reply.add_answers(ips.iter().map(|ip| Record::from_rdata(query.name().clone(), 30, RData::A(A(*ip)))));
        }
        Some(_) => {}
    }
    reply.to_vec().unwrap()
}

impl Scene {
    fn name(&self, name: &str, ips: &[IpAddr]) {
        let v4 = |ip: &IpAddr| match ip {
            IpAddr::V4(ip) => *ip,
            IpAddr::V6(_) => unreachable!("the names of these tests have none"),
        };
        self.zone.lock().insert(name.to_owned(), ips.iter().map(v4).collect());
    }

    /// A server that says its own address.
    async fn greets(&self, ip: IpAddr, port: u16) {
        self.serve(ip, port, move |mut io| async move { io.write_all(ip.to_string().as_bytes()).await.is_ok() }).await;
    }

    async fn serve<F, Fut>(&self, ip: IpAddr, port: u16, serve: F)
    where
        F: Fn(BoxIo) -> Fut + Send + 'static,
        Fut: Future<Output = bool> + Send + 'static,
    {
        self.fabric.add_pod("out", ip);
        let mut listener = self.fabric.daemon(ip).listen(SocketAddr::new(ip, port)).await.unwrap();
        tokio::spawn(async move {
            while let Ok(accepted) = listener.accept().await {
                tokio::spawn(serve(Box::new(accepted.stream)));
            }
        });
    }

    async fn hears(&self, to: &Endpoint) -> Result<String, ConnectError> {
        let mut io = self.connector.open(to).await?;
        let mut heard = Vec::new();
        // A server that only speaks may end without TLS's farewell.
        let _ = io.read_to_end(&mut heard).await;
        Ok(String::from_utf8(heard).unwrap())
    }
}

fn to(name: &str, port: u16) -> Endpoint {
    Endpoint { connect_timeout: Duration::from_secs(5), ..Endpoint::of_name(name.into(), port) }
}

#[tokio::test(start_paused = true)]
async fn all_addresses_of_a_name_are_used_and_those_that_are_down_cost_nobody_a_connection() {
    let scene = scene().await;
    for last in [1, 2] {
        scene.greets(out(last), 443).await;
    }
    // Nothing listens there.
    scene.fabric.add_pod("out", out(3));
    scene.name("db.test", &[out(3), out(1), out(2)]);
    let mut heard: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..60 {
        *heard.entry(scene.hears(&to("db.test", 443)).await.unwrap()).or_default() += 1;
    }
    assert!(heard.len() == 2 && heard.values().all(|times| *times > 10), "{heard:?}");
    let in_order = Endpoint { spread: false, ..to("db.test", 443) };
    for _ in 0..10 {
        assert_eq!(scene.hears(&in_order).await.unwrap(), out(1).to_string(), "the first that answers");
    }
    scene.name("down.test", &[out(3)]);
    assert!(scene.hears(&to("down.test", 443)).await.is_err());
    let unknown = scene.hears(&to("nobody.test", 443)).await.unwrap_err();
    assert_eq!((unknown.kind, &*unknown.message), (Kind::Name, "there is no name nobody.test"));
}

#[tokio::test(start_paused = true)]
async fn where_a_name_has_moved_new_connections_follow_when_its_life_is_over() {
    let scene = scene().await;
    for last in [1, 2] {
        scene.greets(out(last), 443).await;
    }
    scene.name("db.test", &[out(1)]);
    assert_eq!(scene.hears(&to("db.test", 443)).await.unwrap(), out(1).to_string());
    scene.name("db.test", &[out(2)]);
    assert_eq!(scene.hears(&to("db.test", 443)).await.unwrap(), out(1).to_string());
    tokio::time::advance(Duration::from_secs(31)).await;
    assert_eq!(scene.hears(&to("db.test", 443)).await.unwrap(), out(2).to_string());
}

// V-28: whatever a name resolves to, and whoever wrote the address down.
#[tokio::test(start_paused = true)]
async fn nobody_is_sent_to_this_machine_or_to_what_only_it_may_ask() {
    let scene = scene().await;
    let forbidden: Vec<IpAddr> = ["127.0.0.1", "169.254.169.254", "0.0.0.0", "10.0.0.9", "240.240.0.1"].map(|ip| ip.parse().unwrap()).into();
    for ip in &forbidden {
        scene.name("evil.test", &[*ip]);
        let (named, written) = (to("evil.test", 80), Endpoint::of_address(SocketAddr::new(*ip, 80)));
        for endpoint in [named, written] {
            let why = scene.hears(&endpoint).await.unwrap_err();
            assert!(why.kind == Kind::Other && why.message.contains("nobody is sent there") && why.message.contains(&ip.to_string()), "{why}");
        }
        tokio::time::advance(Duration::from_secs(31)).await;
    }
    scene.greets(out(1), 80).await;
    scene.name("mixed.test", &[forbidden[0], out(1), forbidden[1]]);
    for _ in 0..20 {
        assert_eq!(scene.hears(&to("mixed.test", 80)).await.unwrap(), out(1).to_string());
    }
}

/// An authority, and servers and clients of it.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn leaf(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        (CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.0).unwrap(), key)
    }

    /// A server that says which name it was asked for and what was agreed on; of clients it may want a certificate.
    fn server(&self, name: &str, clients: bool) -> TlsAcceptor {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
        let builder = match clients {
            false => builder.with_no_client_auth(),
            true => {
                let mut roots = RootCertStore::empty();
                roots.add(self.0.der().clone()).unwrap();
                builder.with_client_cert_verifier(WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build().unwrap())
            }
        };
        let (leaf, key) = self.leaf(name);
        let mut config = builder.with_single_cert(vec![leaf.der().clone()], key.serialize_der().try_into().unwrap()).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }
}

async fn introduced(acceptor: &TlsAcceptor, io: BoxIo) -> Option<tokio_rustls::server::TlsStream<BoxIo>> {
    let mut stream = acceptor.accept(io).await.ok()?;
    let state = stream.get_ref().1;
    let said = format!("{:?} {:?} {};", state.server_name(), state.alpn_protocol().map(String::from_utf8_lossy), state.peer_certificates().is_some());
    stream.write_all(said.as_bytes()).await.ok()?;
    Some(stream)
}

// spec/waypoint.md 1.9: SIMPLE, MUTUAL, the name that is sent, the names that are believed.
#[tokio::test]
async fn tls_is_begun_as_the_policy_says_or_nothing_is_said() {
    let scene = scene().await;
    let (ours, other) = (Authority::new(), Authority::new());
    for (last, clients) in [(1, false), (2, true)] {
        let acceptor = ours.server("db.test", clients);
        scene.serve(out(last), 443, move |io| {
            let acceptor = acceptor.clone();
            async move {
                let Some(mut stream) = introduced(&acceptor, io).await else { return false };
                stream.shutdown().await.is_ok()
            }
        })
        .await;
    }
    scene.name("db.test", &[out(1)]);
    scene.name("mutual.test", &[out(2)]);
    let simple = || TlsClient { mode: TlsMode::Simple as i32, ca_pem: ours.0.pem(), ..TlsClient::default() };
    let (leaf, key) = ours.leaf("client.test");
    let mutual = TlsClient { mode: TlsMode::Mutual as i32, cert_pem: leaf.pem(), key_pem: key.serialize_pem(), server_name: "db.test".into(), ..simple() };
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    for (what, name, wire, alpn, expected) in [
        ("the host", "db.test", simple(), Alpn::Http1, Some("Some(\"db.test\") Some(\"http/1.1\") false;")),
        ("h2", "db.test", simple(), Alpn::Http2, Some("Some(\"db.test\") Some(\"h2\") false;")),
        ("another authority", "db.test", TlsClient { ca_pem: other.0.pem(), ..simple() }, Alpn::Http1, None),
        ("another name", "db.test", TlsClient { server_name: "web.test".into(), ..simple() }, Alpn::Http1, None),
        ("another name, believed", "db.test", TlsClient { server_name: "web.test".into(), subject_alt_names: names(&["x.test", "db.test"]), ..simple() }, Alpn::None, Some("Some(\"web.test\") None false;")),
        ("a name that it does not have", "db.test", TlsClient { subject_alt_names: names(&["x.test"]), ..simple() }, Alpn::Http1, None),
        ("mutual", "mutual.test", mutual.clone(), Alpn::Http2, Some("Some(\"db.test\") Some(\"h2\") true;")),
    ] {
        let tls = Some(OriginTo { origin: Origin::compile(&wire), host: name.into(), alpn });
        let heard = scene.hears(&Endpoint { tls, ..to(name, 443) }).await;
        match expected {
            Some(said) => assert_eq!(heard.as_deref(), Ok(said), "{what}"),
            None => assert_eq!(heard.unwrap_err().kind, Kind::Tls, "{what}"),
        }
    }
    // Without a certificate the server has nothing to say to us.
    let tls = Some(OriginTo { origin: Origin::compile(&TlsClient { server_name: "db.test".into(), ..simple() }), host: "mutual.test".into(), alpn: Alpn::Http1 });
    assert_ne!(scene.hears(&Endpoint { tls, ..to("mutual.test", 443) }).await.unwrap_or_default(), "Some(\"db.test\") Some(\"http/1.1\") true;");
}

// DestinationRule `tunnel`: TLS is spoken with the proxy, which is the host of the rule; the rest is the far end's.
#[tokio::test]
async fn a_proxy_outside_carries_connections_on_and_is_spoken_to_as_its_policy_says() {
    let scene = scene().await;
    let ours = Authority::new();
    let acceptor = ours.server("proxy.test", false);
    scene.serve(out(1), 3128, move |io| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(mut stream) = acceptor.accept(io).await else { return false };
            let expected = b"CONNECT far.test:443 HTTP/1.1\r\nHost: far.test:443\r\n\r\n";
            let mut asked = vec![0; expected.len()];
            if stream.read_exact(&mut asked).await.is_err() || asked != expected {
                return false;
            }
            let _ = stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\nhello from afar").await;
            stream.shutdown().await.is_ok()
        }
    })
    .await;
    scene.name("proxy.test", &[out(1)]);
    let wire = TlsClient { mode: TlsMode::Simple as i32, ca_pem: ours.0.pem(), ..TlsClient::default() };
    let through = |host: &str| Some(Forward::compile(&ForwardProxy { target_host: host.into(), target_port: 443, post: false }));
    let tls = Some(OriginTo { origin: Origin::compile(&wire), host: "proxy.test".into(), alpn: Alpn::None });
    let endpoint = Endpoint { tls, ..to("proxy.test", 3128) };
    assert_eq!(scene.hears(&Endpoint { through: through("far.test"), ..endpoint.clone() }).await.as_deref(), Ok("hello from afar"));
    let refused = scene.hears(&Endpoint { through: through("elsewhere.test"), ..endpoint.clone() }).await.unwrap_err();
    assert!(refused.message.contains("elsewhere.test:443"), "{refused}");
    assert!(scene.hears(&Endpoint { through: through(""), ..endpoint }).await.is_err(), "nothing goes past it");
}
