use std::collections::BTreeSet;

use mesh_model::address::NamespacedHostname;
use mesh_model::workload::PolicyKey;

use super::*;

fn waypoint() -> GatewayDestination {
    GatewayDestination::Hostname(NamespacedHostname::new("shop", "wp.shop.svc.cluster.local"))
}

/// One of each refusal, with its log text, its stage and what a peer is answered.
#[test]
fn every_refusal_has_its_text() {
    let to: SocketAddr = "10.0.0.2:80".parse().unwrap();
    let deny = || Because::DeniedBy(PolicyKey::new("shop/no"));
    let method = Malformed::Method(http::Method::GET);
    let authority = Malformed::Authority { authority: "x".into(), why: mesh_hbone::connect::BadAuthority::NoPort };
    for (refusal, stage, status, text) in [
        (Refusal::SelfCall { to }, "resolve", Some(503), "attempted recursive call to ourselves: 10.0.0.2:80"),
        (
            Refusal::UnknownOwnWorkload { pod: "shop/w".into() },
            "capture",
            Some(503),
            "failed to fetch information about local workload: shop/w",
        ),
        (
            Refusal::UnknownWaypoint { waypoint: waypoint(), port: 15008 },
            "resolve",
            None,
            "unknown waypoint: shop/wp.shop.svc.cluster.local:15008",
        ),
        (
            Refusal::UnknownNetworkGateway { gateway: waypoint(), port: 15008 },
            "resolve",
            None,
            "unknown network gateway: shop/wp.shop.svc.cluster.local:15008",
        ),
        (Refusal::NoHealthyUpstream { to }, "resolve", None, "no healthy upstream: 10.0.0.2:80"),
        (Refusal::NoRoute { workload: Uid::new("u") }, "resolve", None, "no valid routing destination for workload: u"),
        (Refusal::NoServiceForAddress { to }, "resolve", None, "no service for target address: 10.0.0.2:80"),
        (Refusal::CrossNetwork { network: "far".into() }, "resolve", None, "the destination is in another network: \"far\""),
        (Refusal::NameUnresolved { hostname: "db.test".into() }, "resolve", None, "no ip addresses were resolved for db.test"),
        (Refusal::TooManyRounds { to }, "resolve", None, "the destination could not be learned: 10.0.0.2:80"),
        (Refusal::Malformed(method), "resolve", Some(400), "expected method CONNECT, got GET"),
        (Refusal::Malformed(authority), "resolve", Some(400), "invalid CONNECT address \"x\": it has no port"),
        (
            Refusal::IpMismatch { asked: to, own: "10.0.0.3".parse().unwrap() },
            "resolve",
            Some(400),
            "ip mismatch: 10.0.0.2 != 10.0.0.3",
        ),
        (Refusal::NotServed { to }, "resolve", Some(400), "only the daemon's metrics are served here, not 10.0.0.2:80"),
        (
            Refusal::UnknownHostname { hostname: "a.test".into() },
            "resolve",
            Some(503),
            "no service or workload for hostname a.test",
        ),
        (
            Refusal::UnresolvedPort { hostname: "a.test".into(), port: 80 },
            "resolve",
            Some(503),
            "requested service a.test:80 found, but cannot resolve port",
        ),
        (
            Refusal::NoVip { hostname: "a.test".into() },
            "resolve",
            Some(503),
            "requested service a.test found, but has no IP addresses",
        ),
        (
            Refusal::Denied(deny()),
            "authorize",
            Some(401),
            "connection closed due to policy rejection: explicitly denied by: shop/no",
        ),
        (Refusal::PermitLost(deny()), "relay", None, "connection closed due to policy change: explicitly denied by: shop/no"),
        (Refusal::Revoked, "relay", None, "connection closed: peer certificate revoked by CRL"),
        (
            Refusal::Stale { age: Duration::from_secs(90_000) },
            "authorize",
            Some(503),
            "connection closed because what this node knows of the mesh is too old: last heard of the mesh 90000 s ago",
        ),
        (Refusal::TooManyConnections { limit: 7 }, "capture", Some(503), "the pod has too many connections: the limit is 7"),
        (Refusal::Draining, "capture", Some(503), "connection closed due to connection drain"),
    ] {
        let words = refusal.reason().words();
        assert_eq!(refusal.to_string(), text);
        assert!(text.starts_with(words.stem), "{text} starts with {}", words.stem);
        assert_eq!(refusal.stage().as_str(), stage, "{text}");
        assert_eq!(words.status, status, "{text}");
        assert_eq!(Closed::from(refusal).to_string(), text);
    }
}

#[test]
fn every_fault_has_its_text_and_flag() {
    let io = || io::Error::from(io::ErrorKind::ConnectionRefused);
    let ten = Duration::from_secs(10);
    let status = http::StatusCode::UNAUTHORIZED;
    for (fault, flags, text) in [
        (Fault::Bind(io()), "CONNECT", "failed to bind to address: connection refused"),
        (Fault::Application(io()), "CONNECT", "connection failed: connection refused"),
        (Fault::Io(io()), "CONNECT", "io error: connection refused"),
        (Fault::ServerTls("no certificate".into()), "TLS_FAILURE", "tls handshake error: no certificate"),
        (Fault::TlsSetup("bad key".into()), "TLS_FAILURE", "tls error: bad key"),
        (Fault::Identity("away".into()), "IDENTITY_ERROR", "identity error: away"),
        (Fault::Open(OpenError::Dial(Arc::new(io()))), "CONNECT", "io error: connection refused"),
        (
            Fault::Open(OpenError::ConnectTimeout { after: ten }),
            "NETWORK_POLICY",
            "connection timed out, maybe a NetworkPolicy is blocking HBONE port 15008 (waited 10s)",
        ),
        (Fault::Open(OpenError::Handshake("x".into())), "H2_HANDSHAKE_FAILURE", "http2 handshake failed: x"),
        (Fault::Open(OpenError::Status(status)), "CONNECT", "http status: 401"),
        (Fault::Open(OpenError::ResponseTimeout { after: ten }), "CONNECT", "no answer to CONNECT within 10s"),
        (Fault::Open(OpenError::Draining), "CONNECT", "pool draining"),
        (
            Fault::Serve(ServeError::HandshakeTimeout { after: ten }),
            "H2_HANDSHAKE_FAILURE",
            "http2 handshake failed: nothing complete within 10s",
        ),
        (Fault::HandshakeTimeout { after: ten }, "TLS_FAILURE", "no complete handshake within 10000 ms"),
        (Fault::Dns("SERVFAIL".into()), "CONNECT", "name resolution failed: SERVFAIL"),
        (Fault::Disconnected { side: Side::Upstream }, "CONNECT", "destination disconnected before all data was written"),
        (Fault::Reset { side: Side::Downstream }, "CONNECT", "connection reset by the client"),
        (Fault::DrainTimeout, "CONNECT", "connection failed to drain within the timeout"),
    ] {
        let words = fault.reason().words();
        assert!(text.contains(words.stem), "{text} holds {}", words.stem);
        assert_eq!(words.flags.as_str(), flags, "{text}");
        let failure = Failure { stage: Stage::Tunnel, side: Side::Upstream, fault };
        assert_eq!(Closed::from(failure).to_string(), text);
    }
}

#[test]
fn a_code_names_one_reason_and_is_a_label_value() {
    let codes: BTreeSet<&str> = Reason::ALL.iter().map(|reason| reason.words().code).collect();
    assert_eq!(codes.len(), Reason::ALL.len(), "two reasons share a code");
    let reasons: BTreeSet<Reason> = Reason::ALL.into_iter().collect();
    assert_eq!(reasons.len(), Reason::ALL.len(), "a reason stands twice in the list");
    assert_eq!(Reason::ALL.last(), Some(&Reason::DrainTimeout));
    assert_eq!(Reason::DrainTimeout as usize + 1, Reason::ALL.len(), "a reason is missing in the list");
    for reason in Reason::ALL {
        let words = reason.words();
        assert!(words.code.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'), "{}", words.code);
        assert!(words.sentence.ends_with('.') && words.advice.ends_with('.'), "{}", words.code);
        assert_ne!(words.flags, ResponseFlags::None, "{}", words.code);
        assert!(matches!(words.status, None | Some(400 | 401 | 503)), "{}", words.code);
    }
}

// Policy says the same word in the verdict, in the refusal and in `GET /why`.
#[test]
fn a_verdict_and_its_refusal_share_a_code() {
    let key = || PolicyKey::new("shop/p");
    for because in [
        Because::DeniedBy(key()),
        Because::MayBeDeniedBy(key()),
        Because::NoneAllowed { malformed: None },
        Because::NoneAllowed { malformed: Some(key()) },
        Because::UnknownPolicy(key()),
        Because::UnreadablePolicy(key()),
        Because::NotSynced,
    ] {
        assert_eq!(Refusal::Denied(because.clone()).reason().words().code, because.code());
        assert!(!because.is_allowed());
    }
}

/// `UPDATE=1 cargo test -p ztunnel error` writes the page anew.
#[test]
fn the_page_about_reasons_is_up_to_date() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reasons.md");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, page()).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page(), "docs/reasons.md is not what the reasons are: run `UPDATE=1 cargo test -p ztunnel error`");
}
