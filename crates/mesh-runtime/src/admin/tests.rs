use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::*;

fn routes() -> (Arc<Routes>, Arc<AtomicUsize>) {
    let changed = Arc::new(AtomicUsize::new(0));
    let count = changed.clone();
    let routes = Routes::new()
        .get("/show", |ask| async move { Answer::ok(format!("level={}\n", ask.query.first("level").unwrap_or("-"))) })
        .any("/metrics", |_| async { Answer::ok("# EOF\n") })
        .post("/change", "usage: POST /change\n", move |_| {
            count.fetch_add(1, Ordering::Relaxed);
            async { Answer::ok("changed\n") }
        });
    (Arc::new(routes), changed)
}

fn ask(peer: Peer, method: Method, path: &str, headers: &[(&'static str, &'static str)]) -> Ask {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(*name, HeaderValue::from_static(value));
    }
    Ask { peer, method, path: path.to_owned(), query: Query::default(), headers: map, body: Bytes::new() }
}

fn tcp(ip: &str) -> Peer {
    Peer::Tcp(format!("{ip}:40000").parse().unwrap())
}

// T-20, design decision 16
#[tokio::test]
async fn only_the_machines_own_operator_may_change_something() {
    let (routes, changed) = routes();
    let cases = [
        (tcp("127.0.0.1"), vec![("host", "localhost:15000")], 200),
        (tcp("127.0.0.1"), vec![("host", "127.0.0.1")], 200),
        (tcp("[::1]"), vec![("host", "[::1]:15000")], 200),
        (tcp("[::ffff:127.0.0.1]"), vec![("host", "LOCALHOST")], 200),
        (Peer::Unix, vec![], 200),
        (Peer::Unix, vec![("origin", "null")], 403),
        (tcp("127.0.0.1"), vec![], 403),
        (tcp("127.0.0.1"), vec![("host", "evil.example:15000")], 403),
        (tcp("127.0.0.1"), vec![("host", "localhost.evil.example")], 403),
        (tcp("127.0.0.1"), vec![("host", "localhost"), ("host", "evil.example")], 403),
        (tcp("127.0.0.1"), vec![("host", "localhost"), ("origin", "http://localhost")], 403),
        (tcp("10.0.0.7"), vec![("host", "localhost")], 403),
        (tcp("[fd00::7]"), vec![("host", "localhost")], 403),
    ];
    for (peer, headers, status) in cases {
        let answer = routes.answer(ask(peer, Method::POST, "/change", &headers)).await;
        assert_eq!(answer.status.as_u16(), status, "{peer:?} {headers:?}");
    }
    assert_eq!(changed.load(Ordering::Relaxed), 5, "a refused request changed something");
}

#[tokio::test]
async fn the_table_says_what_is_answered() {
    let (routes, _) = routes();
    for (method, path, status, body) in [
        (Method::GET, "/show", 200, "level=-\n"),
        (Method::POST, "/show", 405, "only GET is supported\n"),
        (Method::GET, "/change", 405, "usage: POST /change\n"),
        (Method::DELETE, "/metrics", 200, "# EOF\n"),
        (Method::GET, "/nothing", 404, "not found\n"),
        (Method::GET, "/show/", 404, "not found\n"),
    ] {
        let answer = routes.answer(ask(tcp("10.0.0.7"), method.clone(), path, &[])).await;
        assert_eq!((answer.status.as_u16(), &answer.body[..]), (status, body.as_bytes()), "{method} {path}");
    }
    assert_eq!(routes.paths(), ["/change", "/metrics", "/show"]);
}

#[test]
fn a_query_is_decoded_and_nonsense_stays_as_it_is() {
    let query = |text| Query::parse(text).0.into_iter().map(|(a, b)| format!("{a}:{b}")).collect::<Vec<_>>().join(" ");
    for (text, want) in [
        ("", ""),
        ("reset", "reset:"),
        ("level=access%3Ddebug,info&reset", "level:access=debug,info reset:"),
        ("a=1+2&&b=%zz%4", "a:1 2 b:%zz%4"),
        ("a=b=c", "a:b=c"),
        ("a=%ff", "a:\u{fffd}"),
    ] {
        assert_eq!(query(text), want, "{text}");
    }
}

async fn listening() -> (SocketAddr, Drain) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, drain) = (listener.local_addr().unwrap(), Drain::new());
    let limits = Limits { connections: 2, header_time: Duration::from_millis(300), ..Limits::DEFAULT };
    tokio::spawn(serve_tcp(listener, routes().0, limits, drain.clone()));
    (address, drain)
}

async fn say(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A server that closes over unread bytes resets; what it said before counts.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn serves_over_tcp_and_drops_who_is_slow_or_too_large() {
    let (address, drain) = listening().await;
    let answer = say(address, "GET /show?level=debug HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nlevel=debug\n"), "{answer}");
    let large = format!("GET /show HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(64 * 1024));
    assert!(say(address, &large).await.starts_with("HTTP/1.1 431 "));
    assert_eq!(say(address, "GET /sho").await.find("HTTP/1.1 200"), None, "an unfinished header was answered");
    let body = format!(
        "POST /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 100000\r\n\r\n{}",
        "z".repeat(100_000)
    );
    assert!(say(address, &body).await.starts_with("HTTP/1.1 413 "));
    assert_eq!(drain.shutdown(Duration::from_secs(5)).await, crate::Drained::Clean);
    assert!(TcpStream::connect(address).await.is_err(), "the listener outlived the drain");
}

#[tokio::test]
async fn slow_clients_take_turns_instead_of_piling_up() {
    let (address, _drain) = listening().await;
    let mut silent = Vec::new();
    for _ in 0..6 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    // Two at a time, each 300 ms at most: the seventh is answered after them, and no more than two are ever held.
    let answer = say(address, "GET /show HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn serves_over_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let (routes, changed) = routes();
    let drain = Drain::new();
    tokio::spawn(serve_unix(UnixListener::bind(&path).unwrap(), routes, Limits::DEFAULT, drain.clone()));
    let mut stream = UnixStream::connect(&path).await.unwrap();
    stream.write_all(b"POST /change HTTP/1.1\r\nhost: whatever\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && changed.load(Ordering::Relaxed) == 1, "{answer}");
}

#[tokio::test]
async fn readiness_follows_the_guards() {
    let ready = crate::Ready::new();
    let routes = readiness(ready.clone());
    let state = async || {
        let answer = routes.answer(ask(tcp("10.0.0.1"), Method::GET, "/healthz/ready", &[])).await;
        (answer.status.as_u16(), String::from_utf8(answer.body.to_vec()).unwrap())
    };
    let guard = ready.block("proxy");
    assert_eq!(state().await, (500, "not ready, pending: proxy\n".to_owned()));
    drop(guard);
    assert_eq!(state().await, (200, "ready\n".to_owned()));
}
