use super::*;

mod between;

use std::time::SystemTime;

use rcgen::{ExtendedKeyUsagePurpose, SanType};
use rustls::{AlertDescription, ClientConnection, NamedGroup, ServerConnection};
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use crate::testing::{DAY, HandClock, Leaf, Signer, id, start, uri, valid};

const CART: &str = "spiffe://td/ns/shop/sa/cart";

fn tls(clock: Arc<HandClock>) -> Tls {
    Tls::new(KeyExchange::Standard, clock, Revocations::disabled())
}

fn plain() -> Tls {
    tls(HandClock::new())
}

fn named(text: &str) -> Vec<SanType> {
    vec![uri(text)]
}

/// What each end says of a handshake with these two credentials.
async fn meet(tls: &Tls, client: &Credential, server: &Credential, expected: &[SpiffeId]) -> (String, String) {
    let (near, far) = duplex(64 << 10);
    let dial = async {
        let mut secured = match tls.connect(near, client, expected).await {
            Ok(secured) => secured,
            Err(err) => return err.to_string(),
        };
        // A client learns only from the first read that its certificate was refused (RFC 8446 4.4.2.4).
        let mut byte = [0];
        match secured.stream.read_exact(&mut byte).await {
            Ok(_) => format!("peer {}", secured.peer),
            Err(err) => format!("then: {err}"),
        }
    };
    let accept = async {
        match tls.accept(far, server).await {
            Ok(mut secured) => {
                let _ = secured.stream.write_all(b"!").await; // the other end may have hung up
                let _ = secured.stream.flush().await;
                format!("peer {}", secured.peer)
            }
            Err(err) => err.to_string(),
        }
    };
    tokio::join!(dial, accept)
}

fn check(what: &str, got: &str, expect: &str) {
    assert!(got.contains(expect), "{what}: expected {expect:?}, got {got:?}");
}

#[tokio::test]
async fn two_workloads_of_one_mesh_meet() {
    let root = Signer::root("a");
    let (cart, web) = (root.credential(&id("shop", "cart"), 7), root.credential(&id("shop", "web"), 8));
    let (dialled, accepted) = meet(&plain(), &cart, &web, &[id("shop", "other"), id("shop", "web")]).await;
    assert_eq!(dialled, "peer spiffe://td/ns/shop/sa/web");
    assert_eq!(accepted, "peer spiffe://td/ns/shop/sa/cart");
}

// T-01, V-24, V-25, spec/dataplane.md 1.2: the server's rule
#[tokio::test]
async fn the_server_takes_only_clients_of_its_trust_domain() {
    let (root, other) = (Signer::root("a"), Signer::root("a"));
    let below = root.intermediate("b", 2);
    let server = root.credential(&id("shop", "web"), 8);
    let roots = std::slice::from_ref(&root.root);
    let make = |names: Vec<SanType>, change: fn(&mut rcgen::CertificateParams)| root.leaf(names, 7, change);
    let rows: Vec<(&str, Leaf, &str)> = vec![
        ("good", make(named(CART), |_| {}), "peer spiffe://td/ns/shop/sa/cart"),
        ("through an intermediate", below.leaf(named(CART), 7, |_| {}), "peer spiffe://td/ns/shop/sa/cart"),
        ("other authority of the same name", other.leaf(named(CART), 7, |_| {}), "InvalidSignature"),
        ("other authority", Signer::root("b").leaf(named(CART), 7, |_| {}), "UnknownIssuer"),
        ("other trust domain", make(named("spiffe://td2/ns/shop/sa/cart"), |_| {}), "of another trust domain than ours, \"td\""),
        ("expired", make(named(CART), |params| valid(params, start() - DAY, start() - DAY / 24)), "Expired"),
        ("not yet valid", make(named(CART), |params| valid(params, start() + DAY / 24, start() + DAY)), "NotValidYet"),
        ("for servers only", make(named(CART), |params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        }), "InvalidPurpose"),
        ("foreign and own name", make([named("spiffe://td2/ns/shop/sa/cart"), named(CART)].concat(), |_| {}), "several URI names"),
        ("own and foreign name", make([named(CART), named("spiffe://td2/ns/shop/sa/cart")].concat(), |_| {}), "several URI names"),
        ("no identity", make(named("https://example.org/"), |_| {}), "names no identity of this mesh"),
        ("an authority as leaf", make(named(CART), |params| {
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        }), "CaUsedAsEndEntity"),
    ];
    for (what, leaf, expect) in rows {
        let client = leaf.credential(&id("shop", "cart"), roots);
        let (dialled, accepted) = meet(&plain(), &client, &server, &[id("shop", "web")]).await;
        check(what, &accepted, expect);
        let fine = accepted.starts_with("peer");
        assert_eq!(dialled.starts_with("peer"), fine, "{what}: the client saw {dialled:?}");
    }
}

// T-01
#[tokio::test]
async fn a_self_signed_client_is_refused() {
    let root = Signer::root("a");
    let server = root.credential(&id("shop", "web"), 8);
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.subject_alt_names = named(CART);
    valid(&mut params, start() - DAY, start() + DAY);
    let chain = vec![params.self_signed(&key).unwrap().der().clone()];
    let client = Leaf { chain, key: key.into() }.credential(&id("shop", "cart"), std::slice::from_ref(&root.root));
    let (_, accepted) = meet(&plain(), &client, &server, &[id("shop", "web")]).await;
    check("self-signed", &accepted, "UnknownIssuer");
}

// T-01
#[tokio::test]
async fn a_client_without_certificate_is_refused() {
    let root = Signer::root("a");
    let server = root.credential(&id("shop", "web"), 8);
    let tls = plain();
    let mut anonymous = (*tls.client_config(&root.credential(&id("shop", "cart"), 7), &[id("shop", "web")])).clone();
    anonymous.client_auth_cert_resolver = Arc::new(Nothing);
    let (near, far) = duplex(64 << 10);
    let connector = TlsConnector::from(Arc::new(anonymous));
    let (_, accepted) = tokio::join!(connector.connect(unspoken_name(), near), tls.accept(far, &server));
    check("anonymous", &accepted.unwrap_err().to_string(), "peer sent no certificates");
}

#[derive(Debug)]
struct Nothing;

impl ResolvesClientCert for Nothing {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

// T-61, spec/dataplane.md 1.2: the client's rule
#[tokio::test]
async fn the_client_takes_only_whom_it_expects() {
    let (root, other) = (Signer::root("a"), Signer::root("a"));
    let client = root.credential(&id("shop", "cart"), 7);
    let roots = std::slice::from_ref(&root.root);
    let web = "spiffe://td/ns/shop/sa/web";
    let foreign = SpiffeId::new("td2", "shop", "web");
    let rows: Vec<(&str, Leaf, Vec<SpiffeId>, &str)> = vec![
        ("exact", root.leaf(named(web), 8, |_| {}), vec![id("shop", "web")], "peer spiffe://td/ns/shop/sa/web"),
        ("not the one", root.leaf(named(web), 8, |_| {}), vec![id("shop", "cart")],
            "the peer is spiffe://td/ns/shop/sa/web, expected spiffe://td/ns/shop/sa/cart"),
        ("none of several", root.leaf(named(web), 8, |_| {}), vec![id("shop", "a"), id("shop", "b")],
            "expected one of spiffe://td/ns/shop/sa/a, spiffe://td/ns/shop/sa/b"),
        ("nobody expected", root.leaf(named(web), 8, |_| {}), vec![], "nobody is expected at the far end"),
        ("a prefix is not it", root.leaf(named("spiffe://td/ns/shop/sa/web2"), 8, |_| {}), vec![id("shop", "web")], "the peer is"),
        ("other authority of the same name", other.leaf(named(web), 8, |_| {}), vec![id("shop", "web")], "InvalidSignature"),
        ("expired", root.leaf(named(web), 8, |params| valid(params, start() - DAY, start() - DAY / 24)), vec![id("shop", "web")], "Expired"),
        ("for clients only", root.leaf(named(web), 8, |params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        }), vec![id("shop", "web")], "InvalidPurpose"),
        ("two names", root.leaf([named(web), named(web)].concat(), 8, |_| {}), vec![id("shop", "web")], "several URI names"),
        // The server then refuses the client, which is of another domain than its own.
        ("expected of another domain", root.leaf(named("spiffe://td2/ns/shop/sa/web"), 8, |_| {}), vec![foreign.clone()], "then:"),
    ];
    for (what, leaf, expected, expect) in rows {
        let identity = if what == "expected of another domain" { foreign.clone() } else { id("shop", "web") };
        let server = leaf.credential(&identity, roots);
        let (dialled, _) = meet(&plain(), &client, &server, &expected).await;
        check(what, &dialled, expect);
    }
}

// Z-178, F-12: old root, both, new root
#[tokio::test]
async fn in_a_root_rotation_there_is_no_step_without_shared_trust() {
    let (old, new) = (Signer::root("a"), Signer::root("a"));
    let roots = [old.root.clone(), new.root.clone()];
    let make = |signer: &Signer, account: &str, roots: &[CertificateDer<'static>]| {
        signer.leaf(named(&format!("spiffe://td/ns/shop/sa/{account}")), 7, |_| {}).credential(&id("shop", account), roots)
    };
    let stages = |account| [
        make(&old, account, &roots[..1]), // before
        make(&old, account, &roots),      // the bundle has both
        make(&new, account, &roots),      // the new key signs
        make(&new, account, &roots[1..]), // the old root is gone
    ];
    let (clients, servers) = (stages("cart"), stages("web"));
    for (a, client) in clients.iter().enumerate() {
        for (b, server) in servers.iter().enumerate() {
            let (dialled, accepted) = meet(&plain(), client, server, &[id("shop", "web")]).await;
            let fine = dialled.starts_with("peer") && accepted.starts_with("peer");
            assert_eq!(fine, a.abs_diff(b) <= 1, "stages {a} and {b}: {dialled} / {accepted}");
        }
    }
}

// F-10: time is the clock's that was passed in
#[tokio::test]
async fn certificates_expire_by_our_clock() {
    let root = Signer::root("a");
    let (cart, web) = (root.credential(&id("shop", "cart"), 7), root.credential(&id("shop", "web"), 8));
    let clock = HandClock::new();
    let tls = tls(clock.clone());
    for (time, fine) in [(start(), true), (start() + DAY, true), (start() + DAY + DAY / 24, false), (SystemTime::UNIX_EPOCH, false)] {
        clock.set(time);
        let (dialled, _) = meet(&tls, &cart, &web, &[id("shop", "web")]).await;
        assert_eq!(dialled.starts_with("peer"), fine, "{dialled}");
    }
}

/// Runs a client configuration against a server configuration without a network.
fn run(client: Arc<ClientConfig>, server: Arc<ServerConfig>) -> Result<(ClientConnection, ServerConnection), rustls::Error> {
    let mut client = ClientConnection::new(client, unspoken_name())?;
    let mut server = ServerConnection::new(server)?;
    for _ in 0..8 {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        let mut wire = wire.as_slice();
        while !wire.is_empty() {
            server.read_tls(&mut wire).unwrap();
            server.process_new_packets()?;
        }
        let mut wire = Vec::new();
        server.write_tls(&mut wire).unwrap();
        let mut wire = wire.as_slice();
        while !wire.is_empty() {
            client.read_tls(&mut wire).unwrap();
            client.process_new_packets()?;
        }
    }
    Ok((client, server))
}

fn pair(root: &Signer) -> (Credential, Credential) {
    (root.credential(&id("shop", "cart"), 7), root.credential(&id("shop", "web"), 8))
}

// spec/dataplane.md 1.2, T-61
#[test]
fn alpn_is_h2_or_absent() {
    let root = Signer::root("a");
    let (cart, web) = pair(&root);
    let tls = plain();
    let meet = |offer: &[&str]| {
        let mut config = (*tls.client_config(&cart, &[id("shop", "web")])).clone();
        config.alpn_protocols = offer.iter().map(|name| name.as_bytes().to_vec()).collect();
        run(Arc::new(config), tls.server_config(&web)).map(|(_, server)| server.alpn_protocol().map(<[u8]>::to_vec))
    };
    assert_eq!(meet(&["h2"]), Ok(Some(ALPN_H2.to_vec())));
    assert_eq!(meet(&["http/1.1", "h2"]), Ok(Some(ALPN_H2.to_vec())));
    assert_eq!(meet(&[]), Ok(None));
    assert_eq!(meet(&["http/1.1"]), Err(rustls::Error::NoApplicationProtocol));
}

// V-23, T-62
#[test]
fn no_session_can_be_resumed() {
    let root = Signer::root("a");
    let (cart, web) = pair(&root);
    let tls = plain();
    let mut config = (*tls.client_config(&cart, &[id("shop", "web")])).clone();
    config.resumption = Resumption::in_memory_sessions(8); // a client that would like to
    config.enable_early_data = true;
    let config = Arc::new(config);
    for _ in 0..3 {
        let (client, server) = run(config.clone(), tls.server_config(&web)).unwrap();
        assert_eq!(client.tls13_tickets_received(), 0);
        assert_eq!(client.handshake_kind(), Some(rustls::HandshakeKind::Full));
        assert_eq!(server.handshake_kind(), Some(rustls::HandshakeKind::Full));
        assert!(!client.is_early_data_accepted());
    }
    let ours = tls.client_config(&cart, &[id("shop", "web")]);
    assert!(!ours.enable_early_data);
    assert!(!tls.server_config(&web).ticketer.enabled());
}

// spec/dataplane.md 1.2, T-63
#[test]
fn the_hello_shows_no_name_and_only_what_we_speak() {
    let root = Signer::root("a");
    let (cart, _) = pair(&root);
    let mut client = ClientConnection::new(plain().client_config(&cart, &[id("shop", "web")]), unspoken_name()).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    assert!(!hello.windows(4).any(|bytes| bytes == b"shop"));
    let mut acceptor = rustls::server::Acceptor::default();
    acceptor.read_tls(&mut hello.as_slice()).unwrap();
    let accepted = acceptor.accept().unwrap().unwrap();
    let hello = accepted.client_hello();
    assert_eq!(hello.server_name(), None);
    assert_eq!(hello.alpn().unwrap().collect::<Vec<_>>(), [b"h2"]);
    let suites: Vec<u16> = hello.cipher_suites().iter().map(|suite| u16::from(*suite)).collect();
    assert_eq!(suites, [0x1301, 0x1302], "AES-128-GCM, AES-256-GCM");
    let groups = hello.named_groups().unwrap();
    assert_eq!(groups, [NamedGroup::X25519, NamedGroup::secp256r1, NamedGroup::secp384r1, NamedGroup::X25519MLKEM768]);
}

// COMPLIANCE_POLICY=pqc
#[test]
fn post_quantum_key_exchange_is_used_when_one_end_demands_it() {
    let root = Signer::root("a");
    let (cart, web) = pair(&root);
    let of = |kind| Tls::new(kind, HandClock::new(), Revocations::disabled());
    let (standard, quantum) = (of(KeyExchange::Standard), of(KeyExchange::PostQuantumOnly));
    for (client, server, expect) in [
        (&standard, &standard, NamedGroup::X25519),
        (&standard, &quantum, NamedGroup::X25519MLKEM768),
        (&quantum, &standard, NamedGroup::X25519MLKEM768),
        (&quantum, &quantum, NamedGroup::X25519MLKEM768),
    ] {
        let (cart, web) = (client.client_config(&cart, &[id("shop", "web")]), server.build_server_config(&web));
        let (client, _) = run(cart, web).unwrap();
        assert_eq!(client.negotiated_key_exchange_group().unwrap().name(), expect);
    }
    let mut classic = (*standard.client_config(&cart, &[id("shop", "web")])).clone();
    let x25519 = vec![aws_lc_rs::kx_group::X25519];
    classic.crypto_provider_mut_for_test(x25519);
    assert!(run(Arc::new(classic), quantum.build_server_config(&web)).is_err());
}

trait WithGroups {
    fn crypto_provider_mut_for_test(&mut self, groups: Vec<&'static dyn rustls::crypto::SupportedKxGroup>);
}

impl WithGroups for ClientConfig {
    fn crypto_provider_mut_for_test(&mut self, groups: Vec<&'static dyn rustls::crypto::SupportedKxGroup>) {
        let provider = CryptoProvider { kx_groups: groups, ..(**self.crypto_provider()).clone() };
        let mut fresh = ClientConfig::builder_with_details(Arc::new(provider), self.time_provider.clone())
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        fresh.alpn_protocols = self.alpn_protocols.clone();
        *self = fresh;
    }
}

// T-61: a hello of TLS 1.2, which rustls cannot make any more
#[test]
fn tls_1_2_is_answered_with_an_alert() {
    let root = Signer::root("a");
    let (_, web) = pair(&root);
    let body = [
        &[3, 3][..],               // client_version: TLS 1.2
        &[7; 32],                  // random
        &[0],                      // no session id
        &[0, 2, 0xc0, 0x2b],       // ECDHE-ECDSA-AES128-GCM-SHA256
        &[1, 0],                   // no compression
        &[0, 24],                  // extensions
        &[0, 10, 0, 4, 0, 2, 0, 29], // groups: X25519
        &[0, 13, 0, 4, 0, 2, 4, 3],  // signatures: ECDSA P-256
        &[0, 11, 0, 2, 1, 0],        // point formats
        &[0, 23],                    // cut off below: extended master secret
    ]
    .concat();
    let mut body = body;
    body.extend([0, 0]); // length of the last extension
    let length = u16::try_from(body.len()).unwrap();
    let extensions = u16::try_from(body.len() - 2 - 32 - 1 - 4 - 2 - 2).unwrap();
    let position = 2 + 32 + 1 + 4 + 2;
    body[position..position + 2].copy_from_slice(&extensions.to_be_bytes());
    let mut hello = vec![0x16, 3, 1];
    hello.extend((length + 4).to_be_bytes());
    hello.extend([1, 0]);
    hello.extend(length.to_be_bytes());
    hello.extend(body);

    let mut server = ServerConnection::new(plain().server_config(&web)).unwrap();
    server.read_tls(&mut hello.as_slice()).unwrap();
    let err = server.process_new_packets().unwrap_err();
    assert!(matches!(err, rustls::Error::PeerIncompatible(_)), "{err:?}");
    let mut answer = Vec::new();
    server.write_tls(&mut answer).unwrap();
    let alert = AlertDescription::from(*answer.last().unwrap());
    assert_eq!(alert, AlertDescription::ProtocolVersion);
}

// V-21: cut a hello at every byte
#[test]
fn a_fragmented_hello_is_no_trouble() {
    let root = Signer::root("a");
    let (cart, web) = pair(&root);
    let tls = plain();
    let mut client = ClientConnection::new(tls.client_config(&cart, &[id("shop", "web")]), unspoken_name()).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    for cut in 0..=hello.len() {
        let mut server = ServerConnection::new(tls.server_config(&web)).unwrap();
        for mut part in [&hello[..cut], &hello[cut..]] {
            while !part.is_empty() {
                server.read_tls(&mut part).unwrap();
                server.process_new_packets().unwrap();
            }
        }
        assert!(server.wants_write(), "cut at {cut}: no answer");
    }
}

// Garbage instead of a hello ends the handshake with an error, for every first byte and some lengths.
#[test]
fn garbage_ends_the_handshake() {
    let root = Signer::root("a");
    let (_, web) = pair(&root);
    let tls = plain();
    for first in 0..=255u8 {
        let mut server = ServerConnection::new(tls.server_config(&web)).unwrap();
        let mut bytes = &[&[first][..], &[0x41; 600]].concat()[..];
        let mut refused = false;
        while !bytes.is_empty() && !refused {
            server.read_tls(&mut bytes).unwrap();
            refused = server.process_new_packets().is_err();
        }
        assert!(refused, "{first:#x} was taken for the start of a record");
    }
}

// Weakness 32 of spec/dataplane.md 11
#[test]
fn a_server_configuration_is_built_once_per_credential() {
    let root = Signer::root("a");
    let tls = plain();
    let (before, after) = (root.credential(&id("shop", "web"), 8), root.credential(&id("shop", "web"), 9));
    assert!(Arc::ptr_eq(&tls.server_config(&before), &tls.server_config(&before)));
    assert!(!Arc::ptr_eq(&tls.server_config(&before), &tls.server_config(&after)));
}

// T-09
#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_dropped_after_five_seconds() {
    let root = Signer::root("a");
    let (cart, web) = pair(&root);
    let began = tokio::time::Instant::now();
    let (_near, far) = duplex(1024);
    assert!(matches!(plain().accept(far, &web).await, Err(TlsFailure::TimedOut(_))));
    assert_eq!(began.elapsed(), HANDSHAKE_TIMEOUT);
    let (near, _far) = duplex(1024);
    let patient = plain().with_handshake_timeout(Duration::from_secs(1));
    assert!(matches!(patient.connect(near, &cart, &[]).await, Err(TlsFailure::TimedOut(_))));
    assert_eq!(began.elapsed(), HANDSHAKE_TIMEOUT + Duration::from_secs(1));
}

#[tokio::test]
async fn a_peer_that_hangs_up_is_an_io_failure() {
    let root = Signer::root("a");
    let (_, web) = pair(&root);
    let (near, far) = duplex(1024);
    drop(near);
    assert!(matches!(plain().accept(far, &web).await, Err(TlsFailure::Io(_))));
}

/// Feeds raw bytes to a server that accepts, and tells how it ended.
async fn feed(bytes: &[u8]) -> Result<(), TlsFailure> {
    let root = Signer::root("a");
    let (_, web) = pair(&root);
    let (mut near, far) = duplex(1 << 20);
    near.write_all(bytes).await.unwrap();
    let accepted = plain().accept(far, &web).await.map(|_| ());
    drop(near);
    accepted
}

fn record(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap().to_be_bytes();
    [&[kind, 3, 3][..], &length, body].concat()
}

// V-20: records that have no place in a handshake
#[tokio::test(start_paused = true)]
async fn odd_records_end_the_handshake() {
    let rows: [(&str, Vec<u8>); 8] = [
        ("close_notify", record(21, &[1, 0])),
        ("a fatal alert", record(21, &[2, 40])),
        ("a flood of warnings", record(21, &[1, 90]).repeat(10_000)),
        ("a flood of empty handshake records", record(22, &[]).repeat(10_000)),
        ("a flood of empty data records", record(23, &[]).repeat(10_000)),
        ("data", record(23, b"GET / HTTP/1.1\r\n\r\n")),
        ("heartbeat", record(24, &[1, 0x40, 0])),
        ("change of cipher without end", record(20, &[1]).repeat(10_000)),
    ];
    for (what, bytes) in rows {
        let began = std::time::Instant::now();
        assert!(feed(&bytes).await.is_err(), "{what}");
        assert!(began.elapsed() < Duration::from_secs(2), "{what} took {:?}", began.elapsed());
    }
}

// V-20: 100,000 key updates cost bounded time and no memory
#[test]
fn a_flood_of_key_updates_is_bounded() {
    let root = Signer::root("a");
    let (cart, web) = pair(&root);
    let tls = plain();
    let (mut client, mut server) = run(tls.client_config(&cart, &[id("shop", "web")]), tls.server_config(&web)).unwrap();
    let began = std::time::Instant::now();
    let mut refused = None;
    for _ in 0..100_000 {
        client.refresh_traffic_keys().unwrap();
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut wire.as_slice()).unwrap();
        if let Err(err) = server.process_new_packets() {
            refused = Some(err);
            break;
        }
    }
    let mut answer = Vec::new();
    while server.wants_write() {
        server.write_tls(&mut answer).unwrap();
    }
    assert!(answer.len() < 4096, "{} bytes wait to be sent", answer.len());
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}, {refused:?}", began.elapsed());
}

// Every damaged hello ends in an answer, an alert or a wish for more, never in a panic.
#[test]
fn mutated_hellos_never_panic() {
    let root = Signer::root("a");
    let (cart, web) = pair(&root);
    let tls = plain();
    let mut client = ClientConnection::new(tls.client_config(&cart, &[id("shop", "web")]), unspoken_name()).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    crate::testing::mutations(&hello, 3000, |bytes| {
        let mut server = ServerConnection::new(tls.server_config(&web)).unwrap();
        let mut bytes = bytes;
        while !bytes.is_empty() && server.read_tls(&mut bytes).is_ok() && server.process_new_packets().is_ok() {}
        assert!(server.is_handshaking());
    });
}
