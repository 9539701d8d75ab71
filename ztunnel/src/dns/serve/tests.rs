use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use mesh_model::fixture::{self, Fixture};
use mesh_net::linux::HostNet;
use mesh_net::sockopt::Options;
use mesh_policy::PolicySet;
use mesh_runtime::Drained;
use tokio::net::{TcpStream, UdpSocket};

use super::*;

fn mesh() -> Fixture {
    let many: Vec<String> = (1..200).map(|n| format!("10.2.0.{n}")).collect();
    fixture::parse(&format!(
        "node a: client 10.0.0.1 sa=ns1/client\nservice a.ns1 10.10.10.10 80\nservice many.ns1 {} 80\n",
        many.join(",")
    ))
    .unwrap()
}

struct Proxy {
    udp: SocketAddr,
    tcp: SocketAddr,
    drain: Drain,
    recorder: Recorder,
}

/// A proxy on this machine's loopback for the pod `name`, with these servers behind it.
async fn proxy(name: &str, servers: Vec<SocketAddr>, limits: Limits) -> Proxy {
    let recorder = Recorder::new(mesh_telemetry::recorder::Limits::DEFAULT);
    let settings = Settings {
        net: HostNet::new(Options::default()),
        own: OwnWorkload { node: Some("a".into()), namespace: "ns1".into(), service_account: "client".into(), name: name.into() },
        naming: Naming { cluster_domain: "cluster.local".into(), search: None, preferred_namespace: None, ipv6: true },
        world: Watched::constant(World::new(mesh().directory, PolicySet::default())),
        servers,
        recorder: recorder.clone(),
        limits,
    };
    let server = Server::bind(settings, &["127.0.0.1:0".parse().unwrap(), "[::1]:0".parse().unwrap()]).await.unwrap();
    let (udp, tcp) = server.addresses();
    let drain = Drain::new();
    server.start(&drain);
    Proxy { udp: udp[0], tcp: tcp[0], drain, recorder }
}

fn question(name: &str, kind: RecordType, id: u16) -> Vec<u8> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

async fn by_udp(proxy: &Proxy, packet: &[u8]) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(packet, proxy.udp).await.unwrap();
    let mut buffer = [0; 4096];
    let (length, _) = socket.recv_from(&mut buffer).await.unwrap();
    Message::from_vec(&buffer[..length]).unwrap()
}

async fn by_tcp(stream: &mut TcpStream, packet: &[u8]) -> Message {
    stream.write_all(&framed(packet)).await.unwrap();
    let length = stream.read_u16().await.unwrap();
    let mut reply = vec![0; usize::from(length)];
    stream.read_exact(&mut reply).await.unwrap();
    Message::from_vec(&reply).unwrap()
}

fn addresses(message: &Message) -> Vec<String> {
    message.answers.iter().filter_map(|record| record.data.ip_addr()).map(|ip| ip.to_string()).collect()
}

fn value(recorder: &Recorder, name: &str, labels: &str) -> u64 {
    let text = String::from_utf8(recorder.render(std::time::Instant::now())).unwrap();
    let line = text.lines().find(|line| line.starts_with(&format!("{name}{{")) && line.contains(labels));
    line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
}

/// A server that answers every question with 192.0.2.1, and counts them.
async fn world_dns() -> (SocketAddr, Arc<Mutex<u32>>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (address, count) = (socket.local_addr().unwrap(), Arc::new(Mutex::new(0)));
    let counted = count.clone();
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let asked = Message::from_vec(&buffer[..length]).unwrap();
            let mut reply = Message::response(asked.metadata.id, OpCode::Query);
            reply.add_query(asked.queries[0].clone());
            reply.add_answer(Record::from_rdata(asked.queries[0].name().clone(), 60, RData::A(A::new(192, 0, 2, 1))));
            *counted.lock() += 1;
            socket.send_to(&reply.to_vec().unwrap(), from).await.unwrap();
        }
    });
    (address, count)
}

// Z-016, Z-239
#[tokio::test]
async fn names_of_the_mesh_are_answered_here_and_others_are_passed_on_once() {
    let (server, passed_on) = world_dns().await;
    let proxy = proxy("client", vec![server], Limits::DEFAULT).await;
    let local = by_udp(&proxy, &question("a.ns1.svc.cluster.local.", RecordType::A, 1)).await;
    assert_eq!((addresses(&local), local.metadata.authoritative), (vec!["10.10.10.10".to_owned()], true));
    assert_eq!(*passed_on.lock(), 0);
    for id in [2, 3] {
        let outside = by_udp(&proxy, &question("www.example.com.", RecordType::A, id)).await;
        assert_eq!((addresses(&outside), outside.metadata.id), (vec!["192.0.2.1".to_owned()], id));
    }
    assert_eq!(*passed_on.lock(), 1, "the second answer came from the cache");
    by_udp(&proxy, &question("a.ns1.svc.cluster.local.", RecordType::TXT, 4)).await;
    assert_eq!(*passed_on.lock(), 2, "a type that is not ours is passed on even for names that are");
    let labels = |kind| format!("request_query_type=\"{kind}\",request_protocol=\"udp\",source_canonical_service=\"client\"");
    assert_eq!(value(&proxy.recorder, "istio_dns_requests_total", &labels("a")), 3);
    assert_eq!(value(&proxy.recorder, "istio_dns_upstream_requests_total", &labels("a")), 1);
    assert_eq!(value(&proxy.recorder, "istio_dns_upstream_requests_total", &labels("txt")), 1);
    assert_eq!(value(&proxy.recorder, "istio_dns_upstream_failures_total", &labels("a")), 0);
    assert_eq!(value(&proxy.recorder, "istio_dns_upstream_request_duration_seconds_count", &labels("a")), 1);
}

// Z-024
#[tokio::test]
async fn a_long_answer_is_cut_over_udp_and_whole_over_tcp() {
    let proxy = proxy("client", Vec::new(), Limits::DEFAULT).await;
    let packet = question("many.ns1.svc.cluster.local.", RecordType::A, 1);
    let cut = by_udp(&proxy, &packet).await;
    assert!(cut.metadata.truncation && cut.answers.len() < 199);
    let mut stream = TcpStream::connect(proxy.tcp).await.unwrap();
    for _ in 0..2 {
        let whole = by_tcp(&mut stream, &packet).await;
        assert_eq!((whole.metadata.truncation, whole.answers.len()), (false, 199));
    }
    assert_eq!(value(&proxy.recorder, "istio_dns_requests_total", "request_protocol=\"tcp\""), 2);
}

#[tokio::test]
async fn failures_have_their_codes() {
    let known = proxy("client", Vec::new(), Limits::DEFAULT).await;
    let nowhere = by_udp(&known, &question("www.example.com.", RecordType::A, 1)).await;
    assert_eq!(nowhere.metadata.response_code, ResponseCode::ServFail, "no server to ask");
    assert_eq!(value(&known.recorder, "istio_dns_upstream_failures_total", "request_query_type=\"a\""), 1);
    let absent = by_udp(&known, &question("a.ns1.svc.cluster.local.", RecordType::AAAA, 1)).await;
    assert_eq!((absent.metadata.response_code, absent.answers.len()), (ResponseCode::NoError, 0));
    let unknown = proxy("nobody", Vec::new(), Limits::DEFAULT).await;
    let refused = by_udp(&unknown, &question("a.ns1.svc.cluster.local.", RecordType::A, 1)).await;
    assert_eq!(refused.metadata.response_code, ResponseCode::ServFail, "who asks is not known");
    assert_eq!(value(&unknown.recorder, "istio_dns_requests_total", "source_canonical_service=\"unknown\""), 1);
}

// T-15
#[tokio::test]
async fn whoever_asks_too_much_is_refused() {
    let proxy = proxy("client", Vec::new(), Limits { per_second: 3, ..Limits::DEFAULT }).await;
    let mut codes = Vec::new();
    for id in 0..5 {
        codes.push(by_udp(&proxy, &question("a.ns1.svc.cluster.local.", RecordType::A, id)).await.metadata.response_code);
    }
    assert_eq!(codes[..3], [ResponseCode::NoError; 3]);
    assert!(codes.contains(&ResponseCode::Refused), "{codes:?}");
}

#[tokio::test]
async fn garbage_harms_nobody_and_the_drain_ends_it() {
    let proxy = proxy("client", Vec::new(), Limits::DEFAULT).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for garbage in [&[][..], &[0; 3], &[0xff; 500], &[0; 12]] {
        socket.send_to(garbage, proxy.udp).await.unwrap();
    }
    let mut stream = TcpStream::connect(proxy.tcp).await.unwrap();
    stream.write_all(&[0, 3, 1, 2, 3]).await.unwrap();
    assert!(stream.read_u16().await.is_err(), "a message without a header ends the connection");
    let still = by_udp(&proxy, &question("a.ns1.svc.cluster.local.", RecordType::A, 9)).await;
    assert_eq!(addresses(&still), ["10.10.10.10"]);
    let mut idle = TcpStream::connect(proxy.tcp).await.unwrap();
    assert_eq!(by_tcp(&mut idle, &question("a.", RecordType::A, 1)).await.answers.len(), 1);
    assert_eq!(proxy.drain.shutdown(Duration::from_secs(5)).await, Drained::Clean);
    assert!(idle.read_u16().await.is_err());
}
