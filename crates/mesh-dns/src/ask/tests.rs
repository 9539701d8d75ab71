use std::sync::Arc;

use hickory_proto::op::{MessageType, OpCode, Query};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use mesh_net::linux::HostNet;
use mesh_net::sockopt::Options;
use tokio::net::{TcpListener, UdpSocket};

use super::*;

fn question() -> Vec<u8> {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii("Www.example.com.").unwrap(), RecordType::A));
    message.to_vec().unwrap()
}

fn net() -> HostNet {
    HostNet::new(Options::default())
}

/// An answer with one address to a question, as a server would make it.
fn answer(question: &[u8], code: ResponseCode) -> Vec<u8> {
    let asked = Message::from_vec(question).unwrap();
    let mut message = Message::response(asked.metadata.id, OpCode::Query);
    message.metadata.response_code = code;
    message.add_query(asked.queries[0].clone());
    if code == ResponseCode::NoError {
        message.add_answer(Record::from_rdata(asked.queries[0].name().clone(), 60, RData::A(A::new(192, 0, 2, 1))));
    }
    message.to_vec().unwrap()
}

/// A server on this machine's loopback that answers each question with the packets that `behave` makes of it.
async fn server(behave: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            for reply in behave(&buffer[..length]) {
                socket.send_to(&reply, from).await.unwrap();
            }
        }
    });
    address
}

fn silent(_: &[u8]) -> Vec<Vec<u8>> {
    Vec::new()
}

// Z-014, Z-022
#[tokio::test]
async fn a_servers_answer_is_passed_on() {
    let good = server(|question| vec![answer(question, ResponseCode::NoError)]).await;
    let reply = Upstream::new(vec![good]).ask(&net(), &question(), 4242, Transport::Udp).await.unwrap();
    assert_eq!(reply.message.metadata.id, 4242, "the server saw a number of ours");
    assert_eq!(reply.message.answers[0].data.ip_addr(), Some("192.0.2.1".parse().unwrap()));
    assert_eq!(renumbered(&reply.packet, 7)[..2], [0, 7]);
}

// Z-015
#[tokio::test]
async fn no_such_name_is_an_answer_and_a_failure_is_none() {
    for (code, passed) in [(ResponseCode::NXDomain, true), (ResponseCode::ServFail, false), (ResponseCode::Refused, false)] {
        let one = server(move |question| vec![answer(question, code)]).await;
        let outcome = Upstream::new(vec![one]).ask(&net(), &question(), 1, Transport::Udp).await;
        match outcome {
            Ok(reply) => assert!(passed && reply.message.metadata.response_code == code),
            Err(why) => assert!(!passed && why.to_string().contains("answered"), "{why}"),
        }
    }
}

// F-50
#[tokio::test]
async fn the_second_server_answers_when_the_first_fails_or_is_silent_and_is_asked_first_from_then_on() {
    let broken = server(|question| vec![answer(question, ResponseCode::ServFail)]).await;
    let good = server(|question| vec![answer(question, ResponseCode::NoError)]).await;
    let dead = server(silent).await;
    for first in [broken, dead] {
        let upstream = Upstream::new(vec![first, good]);
        assert!(upstream.ask(&net(), &question(), 1, Transport::Udp).await.is_ok());
        let begun = Instant::now();
        assert!(upstream.ask(&net(), &question(), 2, Transport::Udp).await.is_ok());
        assert!(begun.elapsed() < HEDGE, "the server that answered is not asked first");
    }
}

// F-50, V-67: lies are not believed, and do no harm.
#[tokio::test]
async fn packets_that_do_not_answer_the_question_are_not_looked_at() {
    let liar = server(|question| {
        let mut other_number = answer(question, ResponseCode::NoError);
        other_number[1] ^= 1;
        let mut other_name = answer(question, ResponseCode::NoError);
        other_name[13] = b'x';
        let mut echo = question.to_vec();
        echo[3] = 0;
        vec![Vec::new(), vec![0; 5], vec![0xff; 100], other_number, other_name, echo, answer(question, ResponseCode::NoError)]
    })
    .await;
    let reply = Upstream::new(vec![liar]).ask(&net(), &question(), 99, Transport::Udp).await.unwrap();
    assert_eq!(reply.message.answers.len(), 1);
    let garbler = server(|question| {
        let mut cut = answer(question, ResponseCode::NoError);
        cut.truncate(cut.len() - 3);
        vec![cut]
    })
    .await;
    let why = Upstream::new(vec![garbler]).ask(&net(), &question(), 99, Transport::Udp).await.unwrap_err();
    assert!(matches!(why, Failed::Garbage(_)), "{why}");
}

#[tokio::test]
async fn nobody_to_ask_is_told_at_once() {
    let why = Upstream::new(Vec::new()).ask(&net(), &question(), 1, Transport::Udp).await.unwrap_err();
    assert!(matches!(why, Failed::NoServers));
}

#[tokio::test(start_paused = true)]
async fn silence_ends_after_the_time_that_clients_wait() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let dead = server(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        Vec::new()
    })
    .await;
    let begun = Instant::now();
    let why = Upstream::new(vec![dead]).ask(&net(), &question(), 1, Transport::Udp).await.unwrap_err();
    assert!(matches!(why, Failed::TimedOut), "{why}");
    assert_eq!(begun.elapsed(), TOTAL);
    assert!(asked.load(Ordering::Relaxed) <= MOST_TRIES);
}

#[tokio::test]
async fn over_tcp_the_answer_comes_whole_and_a_broken_server_is_passed_over() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let good = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let length = stream.read_u16().await.unwrap();
            let mut packet = vec![0; usize::from(length)];
            stream.read_exact(&mut packet).await.unwrap();
            stream.write_all(&framed(&answer(&packet, ResponseCode::NoError))).await.unwrap();
        }
    });
    // bound and not listening: refuses, and nobody else is given the port meanwhile
    let kept = tokio::net::TcpSocket::new_v4().unwrap();
    kept.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let closed = kept.local_addr().unwrap();
    let upstream = Upstream::new(vec![closed, good]);
    assert_eq!(upstream.ask(&net(), &question(), 5, Transport::Tcp).await.unwrap().message.answers.len(), 1);
    let why = Upstream::new(vec![closed]).ask(&net(), &question(), 5, Transport::Tcp).await.unwrap_err();
    assert!(matches!(why, Failed::Unreachable(..)), "{why}");
}

proptest::proptest! {
    #[test]
    fn any_packet_is_compared_without_harm(packet in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
        proptest::prop_assert!(!answers(&packet, &question()) || packet.len() >= 12);
        proptest::prop_assert!(!answers(&question(), &packet) || packet[..2] == question()[..2]);
        let _ = read("127.0.0.1:53".parse().unwrap(), &question(), packet);
    }
}
