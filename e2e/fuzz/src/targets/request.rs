//! What comes with a CONNECT, and what an operator's port is asked.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use mesh_hbone::baggage::BAGGAGE as BAGGAGE_HEADER;
use mesh_hbone::forwarded::{self, FORWARDED as FORWARDED_HEADER};
use mesh_hbone::traceparent::{TRACEPARENT as TRACEPARENT_HEADER, TraceParent};
use mesh_hbone::{Baggage, ConnectHead};
use mesh_model::fixture;
use mesh_model::identity::SpiffeId;
use mesh_net::proxy_header::ProxyHeader;
use mesh_runtime::Drain;
use mesh_runtime::admin::{Answer, Limits, Peer, Routes, converse};
use mesh_telemetry::traffic::Party;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use ztunnel::admit::{Arrival, Host, admit};

use crate::input::Input;
use crate::{Target, saw, saw_text};

fn texts(of: &[&str]) -> Vec<Vec<u8>> {
    of.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// A header with a line of its own for each line of the input, as far as these may stand in a header.
fn headers(name: &'static str, bytes: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in bytes.split(|byte| *byte == b'\n') {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(HeaderName::from_static(name), value);
        }
    }
    headers
}

pub const AUTHORITY: Target = Target {
    name: "authority",
    check: |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return };
        let head = match text.parse::<ConnectHead>() {
            Ok(head) => head,
            Err(why) => return saw_text(&why.to_string()),
        };
        saw((matches!(head, ConnectHead::Host { .. }), text.contains('['), text.len() / 32));
        assert_ne!(head.port(), 0);
        assert_eq!(head.to_string().parse::<ConnectHead>().as_ref(), Ok(&head), "printed and read again");
        match &head {
            // The library's own reader is the oracle: nothing but an address is taken for one.
            ConnectHead::Address(address) => {
                let plain = text.parse::<SocketAddr>().expect("another reader finds no address");
                assert_eq!((plain.ip().to_canonical(), plain.port()), (address.ip(), address.port()));
                assert_eq!(address.ip(), address.ip().to_canonical(), "one address has one spelling");
            }
            ConnectHead::Host { name, .. } => {
                assert!(name.parse::<IpAddr>().is_err() && name.len() <= 253 && text.starts_with(name.as_str()));
            }
        }
    },
    seeds: || {
        texts(&[
            "10.0.0.1:80", "[fd00::1]:8080", "[::ffff:10.0.0.1]:443", "web.shop.svc.cluster.local:80", "*.test:1", "1.2.3:4", "0x7f000001:1",
            "[fe80::1%eth0]:80", "a:65535", "a:0", "a:+80",
        ])
    },
    words: &["[", "]", ":", "::ffff:", "%eth0", "127.0.0.1", "65536", "0", ".", "@"],
};

pub const BAGGAGE: Target = Target {
    name: "baggage",
    check: |bytes| {
        let told = Baggage::parse(&headers(BAGGAGE_HEADER, bytes));
        saw((told.cluster.is_some(), told.namespace.is_some(), told.workload_kind.map(|kind| kind as u8), told.service.is_some()));
        let fields = |of: &Baggage| {
            [&of.cluster, &of.namespace, &of.workload_name, &of.service, &of.revision, &of.region, &of.zone].map(Option::clone)
        };
        let long: usize = fields(&told).iter().flatten().map(String::len).sum();
        assert!(long <= bytes.len(), "more was read than was sent");
        let emitted = told.emit();
        let again = Baggage::parse(&headers(BAGGAGE_HEADER, emitted.as_bytes()));
        for (first, second) in fields(&told).into_iter().zip(fields(&again)) {
            // What has no place in the format is left out, whole.
            assert!(first == second || second.is_none(), "{first:?} came back as {second:?}");
        }
        assert_eq!(again.emit(), emitted, "emitted, read and emitted");
        let proved = SpiffeId::new("td", "proved", "account");
        if let Party::Told(derived) = ztunnel::baggage::party(&told, &proved) {
            assert_eq!(&*derived.namespace, "proved", "a peer's namespace is what it proved");
        }
    },
    seeds: || {
        texts(&[
            "k8s.cluster.name=c,k8s.namespace.name=n,k8s.deployment.name=d,service.name=s,service.version=v,cloud.region=r,cloud.availability_zone=z",
            "k8s.pod.name=p\nk8s.job.name=j,k8s.cronjob.name=c", "", "a=b=c,,=",
        ])
    },
    words: &["k8s.cluster.name=", "k8s.namespace.name=", "k8s.deployment.name=", "k8s.pod.name=", "service.name=", "service.version=", ",", "=", "\n"],
};

pub const FORWARDED: Target = Target {
    name: "forwarded",
    check: |bytes| {
        let told = headers(FORWARDED_HEADER, bytes);
        if let Some(host) = forwarded::host(&told) {
            let line = told[FORWARDED_HEADER].to_str().expect("the host was read from it");
            assert!(!host.is_empty() && line.contains(host));
            saw((host.starts_with('"'), line.contains(';'), host.len() / 16));
            let source = SocketAddr::from(([10, 0, 0, 1], 1));
            let mut emitted = HeaderMap::new();
            emitted.insert(FORWARDED_HEADER, forwarded::emit(source, Some(host)));
            let again = forwarded::host(&emitted);
            assert!(again == Some(host) || again.is_none(), "{host:?} came back as {again:?}");
        }
        let network = headers(forwarded::X_FORWARDED_NETWORK, bytes);
        if let Some(value) = network.get(forwarded::X_FORWARDED_NETWORK).and_then(|value| value.to_str().ok()) {
            assert!(!forwarded::from_other_network(&network, value), "a network is not another than itself");
        }
    },
    seeds: || texts(&["for=\"10.0.0.1:80\";host=web.shop.svc", "host=\"a\"; for=x", "by=1;host=", "for=1\nhost=b"]),
    words: &["host=", "for=", ";", "\"", " "],
};

pub const TRACEPARENT: Target = Target {
    name: "traceparent",
    check: |bytes| {
        let told = headers(TRACEPARENT_HEADER, bytes);
        let Some(parent) = TraceParent::parse(&told) else { return saw(bytes.split(|byte| *byte == b'-').count().min(6)) };
        saw(100);
        let first = told[TRACEPARENT_HEADER].to_str().expect("it was read");
        assert_eq!(first.len(), 55);
        assert!(parent.to_string().eq_ignore_ascii_case(first), "{parent} was {first}");
    },
    seeds: || texts(&["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", &format!("00-{}", "0".repeat(52)), "-".repeat(55).as_str()]),
    words: &["00-", "-", "ffffffff", "+"],
};

/// A directory with what may be asked for, and the pod that is asked.
fn mesh() -> fixture::Fixture {
    let text = "node a: web 10.0.0.1,fd00::1 sa=shop/web\n\
                node b: other 10.0.0.2 sa=shop/other\n\
                service web.shop 10.96.0.1 80->8080 : web\n\
                service other.shop 10.96.0.2 80->8080 : other\n";
    fixture::parse(text).expect("the fixture is sound")
}

pub const DECISION: Target = Target {
    name: "connect_decision",
    check: |bytes| {
        thread_local! { static MESH: fixture::Fixture = mesh(); }
        let mut input = Input(bytes);
        let ip: [IpAddr; 2] = [[10, 0, 0, 1].into(), "fd00::1".parse().expect("an address")];
        let local = *input.choice(&ip);
        let (authority, host, network) = (input.text(), input.text(), input.text());
        let Ok(authority) = authority.parse::<ConnectHead>() else { return };
        MESH.with(|mesh| {
            let me = &*mesh.workload("web");
            let ours = Arc::from("");
            let own_ports = [15001, 15006, 15008];
            let host_of = Host { me, network: &ours, own_ports: &own_ports, tunnel_over_loopback: true, only_port: None };
            let identity = SpiffeId::new("td", "shop", "client");
            let arrival = Arrival {
                local,
                peer: SocketAddr::from(([10, 0, 0, 9], 40_000)),
                identity: Some(&identity),
                authority: &authority,
                forwarded_host: (!host.is_empty()).then_some(&*host),
                from_network: (!network.is_empty()).then_some(&*network),
            };
            match admit(&mesh.directory, &host_of, &arrival) {
                Ok(admission) => {
                    saw((admission.service.is_some(), admission.through_gateway, matches!(authority, ConnectHead::Host { .. })));
                    assert_eq!((admission.dial.ip(), admission.judged.ip()), (local, local), "{authority} leads elsewhere");
                    assert!(!own_ports.contains(&admission.dial.port()) && admission.dial.port() != 0, "{authority}");
                    if let ConnectHead::Address(asked) = &authority {
                        assert!(ip.contains(&asked.ip()), "{authority} is not this pod's");
                    }
                    let service = admission.service.map(|service| service.hostname.to_string());
                    assert!(service.is_none_or(|name| name.starts_with("web.")), "a service of another");
                }
                Err(refusal) => saw(refusal.reason().words().code),
            }
        });
    },
    seeds: || {
        let all = [
            "10.0.0.1:80\0", "10.0.0.2:80\0", "web.shop.svc.cluster.local:80\0web.shop.svc.cluster.local\0far", "[fd00::1]:15008\0", "10.96.0.1:80\0",
            "other.shop.svc.cluster.local:80\0",
        ];
        all.iter().flat_map(|text| [0, 1].map(|first| [&[first], text.as_bytes()].concat())).collect()
    },
    words: &["10.0.0.1", "10.0.0.2", "10.96.0.1", "[fd00::1]", ":80", ":15008", ":8080", "web.shop.svc.cluster.local", "\0"],
};

/// A second reader of PROXY version 2, as its text says (haproxy.org, proxy-protocol.txt 2.2): addresses and TLVs.
fn read_proxy(bytes: &[u8]) -> (SocketAddr, SocketAddr, Vec<(u8, Vec<u8>)>) {
    assert_eq!(&bytes[..13], b"\r\n\r\n\0\r\nQUIT\n\x21", "the signature, and version 2 with PROXY");
    let length = usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    assert_eq!(bytes.len(), 16 + length, "the length is that of the rest");
    let wide = match bytes[13] {
        0x11 => 4,
        0x21 => 16,
        other => panic!("family and protocol {other:#x}"),
    };
    let ip = |at: usize| -> IpAddr {
        let octets = &bytes[at..at + wide];
        <[u8; 4]>::try_from(octets).map(IpAddr::from).unwrap_or_else(|_| <[u8; 16]>::try_from(octets).expect("4 or 16").into())
    };
    let port = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let ports = 16 + 2 * wide;
    let source = SocketAddr::new(ip(16), port(ports));
    let destination = SocketAddr::new(ip(16 + wide), port(ports + 2));
    let (mut rest, mut values) = (&bytes[ports + 4..], Vec::new());
    while let [kind, high, low, after @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        values.push((*kind, after[..length].to_vec()));
        rest = &after[length..];
    }
    assert!(rest.is_empty(), "{} bytes are left over", rest.len());
    (source, destination, values)
}

pub const PROXY: Target = Target {
    name: "proxy_header",
    check: |bytes| {
        let mut input = Input(bytes);
        let addresses = ["10.0.0.1:80", "[fd00::1]:65535", "[::ffff:10.0.0.3]:1"].map(|text| text.parse::<SocketAddr>().expect("an address"));
        let (source, destination) = (*input.choice(&addresses), *input.choice(&addresses));
        let identity = input.text().parse::<SpiffeId>().ok().map(|identity| identity.to_string());
        let hostname = Some(input.text()).filter(|name| !name.is_empty());
        let header = ProxyHeader { source, destination, identity: identity.as_deref().map(Into::into), hostname: hostname.as_deref().map(Into::into) };
        let (from, to, values) = read_proxy(&header.to_bytes());
        let plain = |address: SocketAddr| (address.ip().to_canonical(), address.port());
        assert_eq!((plain(from), plain(to)), (plain(source), plain(destination)));
        let wanted: Vec<Vec<u8>> =
            [identity, hostname].into_iter().flatten().map(String::into_bytes).collect();
        saw((values.len(), from.is_ipv4(), wanted.len()));
        assert!(values.iter().all(|(_, value)| wanted.contains(value)), "a value that nobody gave");
    },
    seeds: || vec![b"\0\0spiffe://td/ns/a/sa/b\0web.shop".to_vec(), b"\x01\x02spiffe://td/ns/a/sa/b\0".to_vec()],
    words: &["spiffe://", "/ns/", "/sa/"],
};

pub const ADMIN: Target = Target {
    name: "admin_http",
    check: |bytes| {
        thread_local! {
            static RUNTIME: tokio::runtime::Runtime =
                tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
        }
        let routes = Routes::new()
            .get("/show", |ask| async move { Answer::ok(format!("{:?}", ask.query)) })
            .post("/change", "usage: POST /change\n", |_| async { Answer::ok("the thing was changed") });
        let answers = RUNTIME.with(|runtime| {
            runtime.block_on(async {
                let (mut near, far) = tokio::io::duplex(64 << 10);
                let peer = Peer::Tcp(SocketAddr::from(([10, 0, 0, 7], 1)));
                let drain = Drain::new();
                let serving = tokio::time::timeout(Duration::from_secs(3600), converse(far, peer, Arc::new(routes), Limits::DEFAULT, &drain));
                let asking = async {
                    let _ = near.write_all(bytes).await; // a server that has heard enough hangs up
                    let _ = near.shutdown().await;
                    let mut answers = Vec::new();
                    let _ = near.read_to_end(&mut answers).await;
                    answers
                };
                let (served, answers) = tokio::join!(serving, asking);
                assert!(served.is_ok(), "a client that has gone is waited for");
                answers
            })
        });
        assert!(answers.is_empty() || answers.starts_with(b"HTTP/1."), "{}", answers.escape_ascii());
        assert!(answers.len() <= 64 * 1024 + bytes.len() * 64, "{} bytes answer {}", answers.len(), bytes.len());
        // The peer is no loopback: whatever it sends, it changes nothing.
        assert!(!answers.windows(21).any(|window| window == b"the thing was changed"), "a stranger changed something");
        saw((answers.get(9..12).map(<[u8]>::to_vec), answers.windows(7).filter(|window| window == b"HTTP/1.").count().min(4)));
    },
    seeds: || {
        texts(&[
            "GET /show?a=b&c=%41+ HTTP/1.1\r\nhost: localhost\r\n\r\n",
            "POST /change HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\nab",
            "POST /change HTTP/1.1\r\nhost: 127.0.0.1\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\nGET /show HTTP/1.0\r\n\r\n",
        ])
    },
    words: &["GET ", "POST ", "HEAD ", "/show", "/change", " HTTP/1.1\r\n", "host: ", "localhost", "content-length: ", "transfer-encoding: chunked", "\r\n", "\r\n\r\n", "%"],
};

