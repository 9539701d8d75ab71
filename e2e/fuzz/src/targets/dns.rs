//! Names: what a pod asks, the proxy that answers it, and the file that says whom it asks in turn.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use mesh_dns::Resolv;
use mesh_model::directory::OwnWorkload;
use mesh_model::fixture;
use mesh_model::service::Service;
use mesh_net::linux::HostNet;
use mesh_net::sockopt::Options;
use mesh_policy::PolicySet;
use mesh_runtime::{Drain, Watched};
use mesh_telemetry::recorder::{Limits as Series, Recorder};
use mesh_xds::world::World;
use ztunnel::dns::answer::{Local, Naming};
use ztunnel::dns::message::{Read, Transport, read};
use ztunnel::dns::serve::Settings;
use ztunnel::dns::{Limits, Server};

use crate::input::Input;
use crate::{Target, saw};

fn question(name: &str, kind: RecordType, id: u16) -> Vec<u8> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).expect("a name"), kind));
    message.to_vec().expect("a question")
}

fn questions() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = [("a.shop.", RecordType::A), ("a.shop.svc.cluster.local.", RecordType::AAAA), ("example.org.", RecordType::TXT)]
        .into_iter()
        .map(|(name, kind)| question(name, kind, 7))
        .collect();
    // A name that points at itself, one that points at the next, and one whose label is longer than the packet.
    all.push(b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\xc0\x0c\0\x01\0\x01".to_vec());
    all.push(b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\x01a\xc0\x10\xc0\x0e\0\x01\0\x01".to_vec());
    all.push(b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\x3fa\0\x01\0\x01".to_vec());
    // With EDNS (RFC 6891).
    all.push([&question("a.shop.", RecordType::A, 9)[..10], b"\0\x01\x01a\x04shop\0\0\x01\0\x01\0\0\x29\x10\0\0\0\x80\0\0\0"].concat());
    all
}

const WORDS: &[&str] = &["\u{1}a\u{4}shop\0", "\u{3}svc\u{7}cluster\u{5}local\0", "\0\u{1}\0\u{1}", "\0\u{1c}\0\u{1}", "\0\0)\u{10}\0\0\0\0\0\0\0"];

/// What holds for every packet that we answer a packet with.
fn answers(packet: &[u8], answer: &[u8]) -> Option<Message> {
    assert!(answer.len() >= 12 && answer[2] & 0x80 != 0, "an answer is marked as one");
    assert_eq!(answer[..2], packet[..2], "it has the question's number");
    Some(Message::from_vec(answer).expect("an answer of ours can be read"))
}

pub const MESSAGE: Target = Target {
    name: "dns_message",
    check: |bytes| {
        let mut input = Input(bytes);
        let count = usize::from(input.byte());
        let packet = input.0;
        match read(packet) {
            Read::Nothing => assert!(packet.len() < 12),
            Read::Refused(answer) => {
                let answer = answers(packet, &answer);
                saw(answer.as_ref().map(|answer| u16::from(answer.metadata.response_code)));
                let answer = answer.expect("it was read");
                assert!(answer.answers.is_empty() && answer.queries.is_empty(), "a refusal reflects nothing");
            }
            Read::Asked(asked) => {
                saw((asked.type_name(), asked.name().is_some(), asked.edns().is_some(), asked.family().is_some()));
                let refusal = answers(packet, &asked.failure(ResponseCode::ServFail)).expect("it was read");
                assert_eq!(refusal.queries, [asked.query().clone()], "the question is repeated");
                let alias_of = (count % 3 == 0).then_some(count % 5);
                let addresses: Vec<IpAddr> = (0..count).map(|number| IpAddr::from([10, 0, 0, number as u8])).collect();
                let service = Arc::new(Service::named("shop", "a.shop.svc.cluster.local"));
                let local = Local { service, addresses: addresses.clone(), alias_of };
                for transport in [Transport::Udp, Transport::Tcp] {
                    let answer = asked.local(&local, transport);
                    assert!(answer.len() <= asked.room(transport).max(512), "{} bytes where {} fit", answer.len(), asked.room(transport));
                    let answer = answers(packet, &answer).expect("it was read");
                    let told = answer.answers.iter().filter(|record| record.data.ip_addr().is_some()).count();
                    assert!(told == addresses.len() || answer.metadata.truncation, "{told} of {count} addresses, and nothing is said");
                }
            }
        }
    },
    seeds: || questions().into_iter().flat_map(|packet| [3u8, 200].map(|count| [&[count][..], &packet].concat())).collect(),
    words: WORDS,
};

/// A proxy on the loopback, for as long as the thread lives.
struct Proxy {
    runtime: tokio::runtime::Runtime,
    client: UdpSocket,
    number: u16,
}

impl Proxy {
    fn start() -> Proxy {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let mesh = fixture::parse("node a: client 10.0.0.1 sa=shop/client\nservice a.shop 10.10.10.10 80\n").expect("a mesh");
        let at = runtime.block_on(async {
            let own = OwnWorkload { node: Some("a".into()), namespace: "shop".into(), service_account: "client".into(), name: "client".into() };
            let settings = Settings {
                net: HostNet::new(Options::default()),
                own,
                naming: Naming { cluster_domain: "cluster.local".into(), search: None, preferred_namespace: None, ipv6: true },
                world: Watched::constant(World::new(mesh.directory, PolicySet::default())),
                // Nobody listens there: what is not ours fails at once.
                servers: vec![SocketAddr::from(([127, 0, 0, 1], 9))],
                recorder: Recorder::new(Series::DEFAULT),
                limits: Limits { per_second: u32::MAX, ..Limits::DEFAULT },
            };
            let server = Server::bind(settings, &["127.0.0.1:0".parse().expect("an address")]).await.expect("a port of the loopback");
            let (udp, _) = server.addresses();
            server.start(&Drain::new());
            udp[0]
        });
        let client = UdpSocket::bind("127.0.0.1:0").and_then(|client| client.connect(at).map(|()| client)).expect("a socket");
        client.set_nonblocking(true).expect("a socket of ours");
        Proxy { runtime, client, number: 0 }
    }

    /// Sends both packets, and gives the server time until the answer to the second is there.
    fn ask(&mut self, packet: &[u8]) {
        self.number = self.number.wrapping_add(1);
        let sound = question("a.shop.", RecordType::A, self.number);
        let _ = self.client.send(packet); // too long for UDP: nothing was asked
        self.client.send(&sound).expect("the server listens");
        let mut buffer = [0; 65_536];
        let client = &self.client;
        let answered = self.runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(5), async {
                loop {
                    tokio::task::yield_now().await;
                    let Ok(length) = client.recv(&mut buffer) else {
                        tokio::time::sleep(Duration::from_micros(50)).await;
                        continue;
                    };
                    let answer = &buffer[..length];
                    if answer[..2] == sound[..2] && Message::from_vec(answer).is_ok_and(|answer| !answer.answers.is_empty()) {
                        return;
                    }
                    saw(("reply", answer.get(3).copied()));
                    assert!(answer.len() >= 12 && answer[2] & 0x80 != 0, "what comes is an answer");
                }
            })
            .await
        });
        assert!(answered.is_ok(), "after this packet the server answers no more");
    }
}

pub const SERVER: Target = Target {
    name: "dns_server",
    check: |bytes| {
        thread_local! { static PROXY: std::cell::RefCell<Option<Proxy>> = const { std::cell::RefCell::new(None) }; }
        PROXY.with_borrow_mut(|proxy| proxy.get_or_insert_with(Proxy::start).ask(bytes));
    },
    seeds: questions,
    words: WORDS,
};

pub const RESOLV: Target = Target {
    name: "resolv_conf",
    check: |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let resolv = Resolv::parse(&text);
        saw((resolv.servers.len(), resolv.search.len().min(4), resolv.servers.iter().any(SocketAddr::is_ipv6)));
        assert!(resolv.servers.len() <= 3 && resolv.search.len() <= 32);
        assert!(resolv.servers.iter().all(|server| server.port() == 53 && server.ip() == server.ip().to_canonical()));
        // Written as it was read, it reads the same.
        let servers: String = resolv.servers.iter().map(|server| format!("nameserver {}\n", written(server))).collect();
        let again = Resolv::parse(&format!("{servers}search {}\n", resolv.search.join(" ")));
        assert_eq!(again, resolv);
    },
    seeds: || vec![b"nameserver 10.0.0.1\nsearch a.b C.D.\noptions ndots:5\nnameserver fe80::1%2\n".to_vec(), b"domain x ; y\nnameserver ::ffff:1.2.3.4".to_vec()],
    words: &["nameserver ", "search ", "domain ", "%1", "#", ";", "\n", "fe80::1"],
};

fn written(server: &SocketAddr) -> String {
    match server {
        SocketAddr::V6(server) if server.scope_id() != 0 => format!("{}%{}", server.ip(), server.scope_id()),
        server => server.ip().to_string(),
    }
}

