//! The end of a waypoint whose clients go on (spec/waypoint.md 11 row 19, spec/reliability.md F-45, F-46): another instance is
//! there, and what is open has its time.

use tokio::time::{Instant as Now, sleep};

use super::*;
use crate::config::End;

/// Until nodes have heard that the old instance is not ready any more.
const HEARD: Duration = Duration::from_secs(2);
const END: End = End { notice: Duration::from_secs(5), deadline: Duration::from_secs(25) };

/// Two instances; the second one takes over.
struct Pair {
    way: Way,
    second: Pool<()>,
    _closed: CancellationToken,
    told: Option<Now>,
}

impl Pair {
    async fn new() -> Pair {
        let mut way = Way::new().await;
        // What is HTTP there is declared, so that either version can be spoken to it.
        let port = wire::ServicePort { host: Some(host("late")), port: 80, protocol: PortProtocol::Http1 as i32, ..Default::default() };
        put(&mut way.store, wire::SERVICE_PORT, "shop/late:80", &port);
        way.store.publish();
        let at = SocketAddr::new(ip(8), 15008);
        way.fabric.add_pod("d", at.ip());
        let own = Own { addresses: [at.ip()].into(), ..own() };
        let net = way.fabric.daemon(at.ip());
        let proxy = waypoint_of(own, &way.ca, &way.clock, &net, way.proxy.world.clone(), way.proxy.settings.clone());
        let closed = CancellationToken::new();
        tokio::spawn(listen::listen::<SimNet>(proxy, net.listen(at).await.unwrap(), closed.clone()));
        let second = node(&way.ca, &way.clock, &way.fabric, at);
        Pair { way, second, _closed: closed, told: None }
    }

    /// The signal comes.
    fn ends(&mut self) -> tokio::task::JoinHandle<Drained> {
        self.told = Some(Now::now());
        let (proxy, closed) = (self.way.proxy.clone(), self.way.closed.clone());
        tokio::spawn(async move { proxy.end(&closed, END).await })
    }

    /// A tunnel as the client's node opens it now.
    async fn open(&self, to: &str) -> Tunnel {
        let heard = self.told.is_some_and(|told| told.elapsed() >= HEARD);
        let pool = if heard { &self.second } else { &self.way.client };
        pool.open(&(), &ConnectRequest { to: to.parse().unwrap(), headers: HeaderMap::new() }).await.unwrap().0
    }
}

/// A client that keeps its connection for as long as the answers let it.
#[derive(Default)]
struct Keeps(Option<hyper::client::conn::http1::SendRequest<Full<Bytes>>>);

impl Keeps {
    async fn ask(&mut self, pair: &Pair) -> http::StatusCode {
        let mut client = match self.0.take() {
            Some(client) => client,
            None => {
                let (client, connection) = hyper::client::conn::http1::handshake(TokioIo::new(pair.open("10.96.0.4:80").await)).await.unwrap();
                tokio::spawn(connection);
                client
            }
        };
        let request = http::Request::get("/").header("host", "late").body(Full::default()).unwrap();
        let response = client.send_request(request).await.unwrap();
        let (last, status) = (response.headers().contains_key("connection"), response.status());
        http_body_util::BodyExt::collect(response.into_body()).await.unwrap();
        self.0 = Some(client).filter(|_| !last);
        status
    }
}

/// As browsers and gRPC: another connection when the one says GOAWAY.
#[derive(Default)]
struct Multiplexes(Option<hyper::client::conn::http2::SendRequest<Full<Bytes>>>);

impl Multiplexes {
    async fn ask(&mut self, pair: &Pair) -> http::StatusCode {
        loop {
            match self.once(pair).await {
                Ok(status) => return status,
                // It was not sent: the GOAWAY was there before.
                Err(error) => assert!(error.is_canceled(), "{error}"),
            }
        }
    }

    async fn once(&mut self, pair: &Pair) -> hyper::Result<http::StatusCode> {
        let client = match self.0.take().filter(|client| !client.is_closed()) {
            Some(client) => client,
            None => {
                let io = TokioIo::new(pair.open("10.96.0.4:80").await);
                let (client, connection) = hyper::client::conn::http2::handshake(hyper_util::rt::TokioExecutor::new(), io).await.unwrap();
                tokio::spawn(connection);
                client
            }
        };
        let request = http::Request::get("http://late/").body(Full::default()).unwrap();
        let status = client.clone().send_request(request).await?.status();
        self.0 = Some(client);
        Ok(status)
    }
}

async fn pings(io: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin)) {
    io.write_all(b"\0").await.unwrap();
    io.read_exact(&mut [0; 1]).await.unwrap();
}

async fn is_cut(io: &mut (impl AsyncReadExt + Unpin)) -> bool {
    !matches!(io.read(&mut [0; 1]).await, Ok(1..))
}

// F-45, F-46
#[tokio::test(start_paused = true)]
async fn a_rollout_loses_no_request_and_what_is_open_has_its_time() {
    let mut pair = Pair::new().await;
    let (mut keeps, mut multiplexes) = (Keeps::default(), Multiplexes::default());
    let mut bytes = pair.open("10.96.0.1:80").await;
    let ask = "GET / HTTP/1.1\r\nhost: late\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: k\r\nsec-websocket-version: 13\r\n\r\n";
    let mut socket = pair.open("10.96.0.4:80").await;
    socket.write_all(ask.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        socket.read_buf(&mut head).await.unwrap();
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "));
    let mut ended = None;
    let mut turn = 0;
    while pair.told.is_none_or(|told| told.elapsed() < Duration::from_secs(21)) {
        if turn == 20 {
            ended = Some(pair.ends());
        }
        assert_eq!(keeps.ask(&pair).await, 200, "{turn}");
        assert_eq!(multiplexes.ask(&pair).await, 200, "{turn}");
        let mut fresh = Keeps::default();
        assert_eq!(fresh.ask(&pair).await, 200, "{turn}");
        turn += 1;
        pings(&mut bytes).await;
        pings(&mut socket).await;
        sleep(Duration::from_millis(50)).await;
    }
    let ended = ended.unwrap();
    assert!(turn > 100 && !ended.is_finished(), "streams hold up the end");
    assert!(is_cut(&mut bytes).await && is_cut(&mut socket).await);
    assert_eq!(pair.told.unwrap().elapsed().as_secs(), 25, "when the time is over");
    assert!(matches!(ended.await.unwrap(), Drained::Forced { .. }));
    assert_eq!(keeps.ask(&pair).await, 200);
}

// F-46: without anything that stays open the end comes as soon as the notice is over.
#[tokio::test(start_paused = true)]
async fn connections_that_are_idle_hold_up_nothing() {
    let mut pair = Pair::new().await;
    let (mut keeps, mut multiplexes) = (Keeps::default(), Multiplexes::default());
    assert_eq!((keeps.ask(&pair).await, multiplexes.ask(&pair).await), (http::StatusCode::OK, http::StatusCode::OK));
    assert_eq!(pair.ends().await.unwrap(), Drained::Clean);
    assert_eq!(pair.told.unwrap().elapsed().as_secs(), 5);
}
