//! A real name server of a few lines on this machine's loopback, whose zone a test changes.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use hickory_proto::op::{Message, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA};
use hickory_proto::rr::{RData, Record, RecordType};
use mesh_net::linux::HostNet;
use mesh_net::sockopt::Options;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::time::advance;

use super::*;

#[derive(Clone, Copy, PartialEq)]
enum Mood {
    Answers,
    Fails,
    /// Nothing about IPv6.
    Half,
    /// Over UDP only the beginning.
    Cuts,
}

struct Server {
    zone: Mutex<HashMap<String, (u32, Vec<IpAddr>)>>,
    mood: Mutex<Mood>,
    asked: AtomicUsize,
}

impl Server {
    async fn start(zone: &[(&str, u32, &[&str])]) -> (Arc<Server>, Names) {
        let server = Arc::new(Server { zone: Mutex::default(), mood: Mutex::new(Mood::Answers), asked: AtomicUsize::new(0) });
        zone.iter().for_each(|(name, ttl, ips)| server.says(name, *ttl, ips));
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let listener = TcpListener::bind(address).await.unwrap();
        let udp = server.clone();
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                if let Some(reply) = udp.reply(&buffer[..length], true) {
                    socket.send_to(&reply, from).await.unwrap();
                }
            }
        });
        let tcp = server.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let length = stream.read_u16().await.unwrap();
                let mut packet = vec![0; usize::from(length)];
                stream.read_exact(&mut packet).await.unwrap();
                if let Some(reply) = tcp.reply(&packet, false) {
                    stream.write_all(&crate::ask::framed(&reply)).await.unwrap();
                }
            }
        });
        (server, names(address))
    }

    fn says(&self, name: &str, ttl: u32, ips: &[&str]) {
        self.zone.lock().insert(name.to_owned(), (ttl, ips.iter().map(|ip| ip.parse().unwrap()).collect()));
    }

    fn is(&self, mood: Mood) {
        *self.mood.lock() = mood;
    }

    /// Questions since the last look.
    fn asked(&self) -> usize {
        self.asked.swap(0, Ordering::SeqCst)
    }

    fn reply(&self, packet: &[u8], udp: bool) -> Option<Vec<u8>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let (question, mood) = (Message::from_vec(packet).unwrap(), *self.mood.lock());
        let query = question.queries[0].clone();
        if mood == Mood::Half && query.query_type() == RecordType::AAAA {
            return None;
        }
        let mut reply = Message::response(question.metadata.id, OpCode::Query);
        reply.add_query(query.clone());
        let known = self.zone.lock().get(query.name().to_ascii().trim_end_matches('.')).cloned();
        match (mood, known) {
            (Mood::Fails, _) => reply.metadata.response_code = ResponseCode::ServFail,
            (_, None) => reply.metadata.response_code = ResponseCode::NXDomain,
            (_, Some((ttl, ips))) => {
                for ip in ips {
                    let data = match (ip, query.query_type()) {
                        (IpAddr::V4(ip), RecordType::A) => RData::A(A(ip)),
                        (IpAddr::V6(ip), RecordType::AAAA) => RData::AAAA(AAAA(ip)),
                        _ => continue,
                    };
                    reply.add_answer(Record::from_rdata(query.name().clone(), ttl, data));
                }
                if mood == Mood::Cuts && udp {
                    reply.metadata.truncation = true;
                    reply.answers.truncate(1);
                }
            }
        }
        Some(reply.to_vec().unwrap())
    }
}

fn names(server: SocketAddr) -> Names {
    let resolv = Resolv { servers: vec![server], search: vec!["shop.example".into()] };
    Names::new(HostNet::new(Options::default()), Sources::Servers(resolv))
}

async fn addresses(names: &Names, name: &str) -> Result<String, String> {
    let found = names.resolve(name).await.map_err(|why| why.to_string())?;
    Ok(found.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" "))
}

#[tokio::test(start_paused = true)]
async fn an_answer_holds_as_long_as_it_says() {
    let (server, names) = Server::start(&[("db.example", 30, &["10.0.0.2", "10.0.0.1"])]).await;
    assert_eq!(addresses(&names, "DB.example.").await.as_deref(), Ok("10.0.0.2 10.0.0.1"), "in the server's order");
    assert_eq!(server.asked(), 2);
    server.says("db.example", 0, &["10.0.0.3"]);
    advance(Duration::from_secs(29)).await;
    assert_eq!((addresses(&names, "db.example").await.as_deref(), server.asked()), (Ok("10.0.0.2 10.0.0.1"), 0));
    advance(Duration::from_secs(2)).await;
    assert_eq!((addresses(&names, "db.example").await.as_deref(), server.asked()), (Ok("10.0.0.3"), 2));
    // A life of 0 is one of 5 s.
    assert_eq!((addresses(&names, "db.example").await.as_deref(), server.asked()), (Ok("10.0.0.3"), 0));
    advance(Duration::from_secs(6)).await;
    assert_eq!((addresses(&names, "db.example").await.as_deref(), server.asked()), (Ok("10.0.0.3"), 2));
}

#[tokio::test(start_paused = true)]
async fn no_such_name_is_kept_too_and_failures_leave_the_last_answer() {
    let (server, names) = Server::start(&[("db.example", 30, &["10.0.0.1", "fd00::1"])]).await;
    for asked in [2, 0] {
        assert_eq!(addresses(&names, "nobody.example").await.unwrap_err(), "there is no name nobody.example");
        assert_eq!(server.asked(), asked);
    }
    assert_eq!(addresses(&names, "db.example").await.map(|found| found.len()), Ok("10.0.0.1 fd00::1".len()));
    server.is(Mood::Fails);
    server.asked();
    advance(Duration::from_secs(31)).await;
    for more in [true, false] {
        assert_eq!(addresses(&names, "db.example").await.map(|found| found.len()), Ok("10.0.0.1 fd00::1".len()));
        assert_eq!(server.asked() > 0, more, "after a failure nobody asks for a while");
    }
    let why = addresses(&names, "new.example").await.unwrap_err();
    assert!(why.starts_with("new.example: ") && why.contains("answered"), "{why}");
    server.is(Mood::Answers);
    server.says("db.example", 30, &["10.0.0.9"]);
    advance(Duration::from_secs(6)).await;
    assert_eq!(addresses(&names, "db.example").await.as_deref(), Ok("10.0.0.9"));
}

#[tokio::test]
async fn a_family_that_is_not_answered_delays_nobody_and_is_asked_for_again_soon() {
    let (server, names) = Server::start(&[("db.example", 3600, &["10.0.0.1", "fd00::1"])]).await;
    server.is(Mood::Half);
    let begun = std::time::Instant::now();
    assert_eq!(addresses(&names, "db.example").await.as_deref(), Ok("10.0.0.1"));
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    let (_, life) = together("x", Ok(Found::Addresses { addresses: vec![[10, 0, 0, 1].into()], life: Duration::from_secs(3600) }), None);
    assert_eq!(life, HALF_LIFE);
}

#[tokio::test]
async fn what_does_not_fit_a_datagram_comes_over_tcp() {
    let many: Vec<String> = (1..=30).map(|n| format!("10.0.0.{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let (server, names) = Server::start(&[("db.example", 60, &many)]).await;
    server.is(Mood::Cuts);
    assert_eq!(names.resolve("db.example").await.unwrap().len(), 30);
}

#[tokio::test]
async fn a_short_name_is_searched_and_one_with_a_dot_is_meant_in_full() {
    let (_server, names) = Server::start(&[("db.shop.example", 60, &["10.0.0.1"]), ("web", 60, &["10.0.0.2"])]).await;
    assert_eq!(addresses(&names, "db").await.as_deref(), Ok("10.0.0.1"));
    assert_eq!(addresses(&names, "web").await.as_deref(), Ok("10.0.0.2"));
    assert!(addresses(&names, "db.shop").await.is_err());
    assert_eq!(addresses(&names, "10.9.9.9").await.as_deref(), Ok("10.9.9.9"));
    for nonsense in ["", "a..b", "ex ample..com"] {
        assert!(names.resolve(nonsense).await.is_err(), "{nonsense:?}");
    }
}

#[tokio::test]
async fn many_who_want_one_name_ask_once() {
    let (server, names) = Server::start(&[("db.example", 60, &["10.0.0.1"])]).await;
    let all = futures_util::future::join_all((0..50).map(|_| names.resolve("db.example"))).await;
    assert!(all.iter().all(Result::is_ok));
    assert_eq!((server.asked(), names.asking.lock().len()), (2, 0));
}

#[tokio::test]
async fn whoever_leaves_early_leaves_nothing_behind_for_ever() {
    let (server, names) = Server::start(&[]).await;
    server.is(Mood::Half);
    for n in 0..NAMES_MAX + 10 {
        // Polled once, and left.
        let name = format!("n{n}.example");
        let mut asking = Box::pin(names.resolve(&name));
        assert!(futures_util::poll!(&mut asking).is_pending());
    }
    assert!(names.asking.lock().len() <= NAMES_MAX);
}
