//! Peers that speak HBONE to harm, over real TLS, against the limits of the waypoint's listener (spec/reliability.md T-11).
//! The frames by kind are tested where they are counted, in `mesh-hbone`; here, that what is counted there is counted here.

use mesh_net::net::Source;

use super::*;
use crate::testing::frames::*;

/// A connection of the client's node that nobody has spoken HTTP/2 on.
async fn connection(way: &Way) -> impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static {
    let (credentials, tls) = identity(&way.ca, &way.clock);
    let credential = credentials.get(&id("client")).await.unwrap();
    let stream = way.fabric.daemon(ip(1)).dial(SocketAddr::new(ip(9), 15008), Source::Any).await.unwrap();
    tls.connect(stream, &credential, &[id("wp")]).await.unwrap().stream
}

fn connect(to: &str) -> Vec<u8> {
    [header(":method", "CONNECT"), header(":authority", to)].concat()
}

/// Others are served, and of the attacker nothing is left.
async fn is_well(way: &Way, name: &str) {
    let mut tunnel = way.open("10.96.0.1:80").await.unwrap();
    tunnel.write_all(b"GET / HTTP/1.1\r\nhost: web.shop\r\nconnection: close\r\n\r\n").await.unwrap();
    assert!(said(&mut tunnel).await.starts_with("HTTP/1.1 200 OK"), "{name}");
    drop(tunnel);
    for _ in 0..100 {
        if way.proxy.streams.available_permits() == 1000 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{name}: {} streams are left", 1000 - way.proxy.streams.available_permits());
}

// T-11; V-01, V-02, V-04, V-05, V-07 at the waypoint's own listener
#[tokio::test(start_paused = true)]
async fn floods_end_the_connection_and_nothing_else() {
    let open = |i: u32| frame(HEADERS, END_HEADERS, stream_id(i), &connect("10.96.0.1:80"));
    type Attack<'a> = (&'a str, Box<dyn Fn(u32) -> Vec<u8> + 'a>);
    let first = |then: Vec<u8>| move |i: u32| if i == 0 { open(0) } else { then.clone() };
    let attacks: Vec<Attack<'_>> = vec![
        ("rapid reset", Box::new(|i| [open(i), frame(RST_STREAM, 0, stream_id(i), &CANCEL.to_be_bytes())].concat())),
        ("made to reset", Box::new(|i| [open(i), frame(WINDOW_UPDATE, 0, stream_id(i), &[0; 4])].concat())),
        ("CONTINUATION", Box::new(|i| if i == 0 { frame(HEADERS, 0, 1, &connect("10.96.0.1:80")) } else { frame(CONTINUATION, 0, 1, &header("x", "y")) })),
        ("empty DATA", Box::new(first(frame(DATA, 0, 1, &[])))),
        ("PING", Box::new(first(frame(PING, 0, 0, &[0; 8])))),
        ("SETTINGS", Box::new(first(frame(SETTINGS, 0, 0, &[])))),
        ("PRIORITY", Box::new(first(frame(PRIORITY, 0, 3, &[0, 0, 0, 0, 1])))),
    ];
    for (name, piece) in attacks {
        let way = Way::new().await;
        // A record of TLS for many of them: one for each would take most of the time.
        let (sent, code) = flood(connection(&way).await, 1000, |i| (0..50).flat_map(|k| piece(50 * i + k)).collect()).await;
        assert!(50 * sent < 20_000, "{name}: {} went through", 50 * sent);
        assert!(code.is_none_or(|code| code != NO_ERROR), "{name}: {code:?}");
        is_well(&way, name).await;
    }
}

// T-13: as many tunnels as there is room for, and no more
#[tokio::test(start_paused = true)]
async fn the_proxy_carries_so_many_tunnels_in_all() {
    let way = Way::new().await;
    let mut raw = Raw::client(connection(&way).await).await;
    let refused = way.open("10.96.0.1:80").await.unwrap();
    // The proxy of these tests has room for 1,000, of which one is taken.
    for i in 0..STREAMS_PER_CONNECTION + 10 {
        raw.send(HEADERS, END_HEADERS, stream_id(i), &connect("10.96.0.1:80")).await.unwrap();
    }
    let (mut accepted, mut unavailable) = (0, 0);
    while let Ok(Some(answer)) = tokio::time::timeout(Duration::from_secs(1), raw.next()).await {
        match answer.kind {
            // 0x88 is `:status: 200`.
            HEADERS if answer.payload[0] == 0x88 => accepted += 1,
            HEADERS => unavailable += 1,
            _ => {}
        }
    }
    // Those above are told at once, so the connection's own limit is not reached.
    assert_eq!((accepted, unavailable), (999, STREAMS_PER_CONNECTION + 10 - 999));
    drop((raw, refused));
    is_well(&way, "many tunnels").await;
}

// V-11: what comes before the answer reaches nobody unless the answer is 200
#[tokio::test(start_paused = true)]
async fn early_bytes_of_a_refused_tunnel_reach_nobody() {
    let way = Way::new().await;
    for (to, status) in [("10.96.0.2:80", "403"), ("10.0.0.3:8080", "403"), ("10.96.0.1:82", "404"), ("nobody.test:80", "404")] {
        let mut raw = Raw::client(connection(&way).await).await;
        let early = b"GET /early HTTP/1.1\r\nhost: web.shop\r\n\r\n";
        raw.io_write(&[frame(HEADERS, END_HEADERS, 1, &connect(to)), frame(DATA, 0, 1, early)].concat()).await;
        let answer = raw.until(HEADERS).await;
        // `:status` is the eighth entry of the table; these are not among those with a value, but for 404.
        let said = if answer.payload[0] == 0x8d { "404" } else { "403" };
        assert_eq!((said, answer.payload[0] == 0x88), (status, false), "{to}: {answer:?}");
    }
    assert_eq!(way.asked.load(Ordering::SeqCst), 0);
    // Of one that is accepted they are its beginning.
    let mut raw = Raw::client(connection(&way).await).await;
    let early = b"GET /early HTTP/1.1\r\nhost: web.shop\r\n\r\n";
    raw.io_write(&[frame(HEADERS, END_HEADERS, 1, &connect("10.96.0.1:80")), frame(DATA, 0, 1, early)].concat()).await;
    let answer = raw.until(DATA).await;
    assert!(String::from_utf8_lossy(&answer.payload).starts_with("HTTP/1.1 200 OK"), "{answer:?}");
}

// V-10
#[tokio::test(start_paused = true)]
async fn odd_requests_for_tunnels_open_none() {
    let all = [(":method", "CONNECT"), (":scheme", "http"), (":authority", "10.96.0.1:80"), (":path", "/"), (":protocol", "websocket")];
    let way = Way::new().await;
    for set in (0u32..32).filter(|set| *set != 0b00101) {
        let chosen: Vec<u8> = all.iter().enumerate().filter(|(i, _)| set & (1 << i) != 0).flat_map(|(_, (n, v))| header(n, v)).collect();
        let mut raw = Raw::client(connection(&way).await).await;
        raw.io_write(&frame(HEADERS, END_HEADERS, 1, &chosen)).await;
        while let Ok(Some(answer)) = tokio::time::timeout(Duration::from_secs(1), raw.next()).await {
            assert!(answer.kind != HEADERS || answer.payload[0] != 0x88, "{set:05b}: {answer:?}");
        }
    }
    is_well(&way, "pseudo headers").await;
}
