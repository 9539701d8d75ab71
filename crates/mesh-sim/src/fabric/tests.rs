use std::net::{IpAddr, SocketAddr};

use mesh_net::net::{Accept, Net, Source};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 1, 1));

fn at(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip, port)
}

fn any(port: u16) -> SocketAddr {
    at(Ipv6Addr::UNSPECIFIED.into(), port)
}

fn two_nodes() -> Fabric {
    let fabric = Fabric::new(1);
    fabric.add_pod("a", CLIENT);
    fabric.add_pod("b", SERVER);
    fabric
}

#[tokio::test(start_paused = true)]
async fn an_enrolled_client_is_captured_and_its_daemon_is_not() {
    let fabric = two_nodes();
    fabric.enrol(CLIENT, true);
    let mut captured = fabric.daemon(CLIENT).listen(any(15001)).await.unwrap();
    let mut server = fabric.application(SERVER).listen(any(80)).await.unwrap();

    let _stream = fabric.application(CLIENT).dial(at(SERVER, 80), Source::Any).await.unwrap();
    let accepted = captured.accept().await.unwrap();
    assert_eq!((accepted.to, accepted.from.ip()), (at(SERVER, 80), CLIENT));

    let _stream = fabric.daemon(CLIENT).dial(at(SERVER, 80), Source::Any).await.unwrap();
    assert_eq!(server.accept().await.unwrap().from.ip(), CLIENT);
}

#[tokio::test(start_paused = true)]
async fn plain_text_to_an_enrolled_server_is_captured_and_hbone_is_not() {
    let fabric = two_nodes();
    fabric.enrol(SERVER, true);
    let mut plain = fabric.daemon(SERVER).listen(any(15006)).await.unwrap();
    let mut hbone = fabric.daemon(SERVER).listen(any(15008)).await.unwrap();
    let _stream = fabric.application(CLIENT).dial(at(SERVER, 80), Source::Any).await.unwrap();
    assert_eq!(plain.accept().await.unwrap().to, at(SERVER, 80));
    let _stream = fabric.application(CLIENT).dial(at(SERVER, 15008), Source::Any).await.unwrap();
    assert_eq!(hbone.accept().await.unwrap().to, at(SERVER, 15008));
}

#[tokio::test(start_paused = true)]
async fn bytes_cross_a_cable_and_a_reset_cuts_it() {
    let fabric = two_nodes();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = seen.clone();
    fabric.tap(Arc::new(move |chunk| sink.lock().extend_from_slice(chunk)));
    let mut server = fabric.application(SERVER).listen(any(80)).await.unwrap();
    let mut near = fabric.application(CLIENT).dial(at(SERVER, 80), Source::Any).await.unwrap();
    let mut far = server.accept().await.unwrap().stream;
    near.write_all(b"marker").await.unwrap();
    let mut buffer = [0; 6];
    far.read_exact(&mut buffer).await.unwrap();
    assert_eq!((&buffer, &seen.lock()[..]), (b"marker", &b"marker"[..]));

    fabric.link("a", "b", State::Reset);
    assert_eq!(near.read(&mut buffer).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    let refused = fabric.application(CLIENT).dial(at(SERVER, 80), Source::Any).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
}

#[tokio::test(start_paused = true)]
async fn a_held_link_times_a_dial_out_and_delays_bytes() {
    let fabric = two_nodes();
    let mut server = fabric.application(SERVER).listen(any(80)).await.unwrap();
    let mut near = fabric.application(CLIENT).dial(at(SERVER, 80), Source::Any).await.unwrap();
    let mut far = server.accept().await.unwrap().stream;
    fabric.link("a", "b", State::Held);
    let refused = fabric.application(CLIENT).dial(at(SERVER, 80), Source::Any).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::TimedOut);
    near.write_all(b"late").await.unwrap();
    let healing = fabric.clone();
    let begun = tokio::time::Instant::now();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(30)).await;
        healing.link("a", "b", State::Whole);
    });
    let mut buffer = [0; 4];
    far.read_exact(&mut buffer).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(30));
}

#[tokio::test(start_paused = true)]
async fn half_close_crosses_a_cable() {
    let fabric = two_nodes();
    let mut server = fabric.application(SERVER).listen(any(80)).await.unwrap();
    let mut near = fabric.application(CLIENT).dial(at(SERVER, 80), Source::Any).await.unwrap();
    let mut far = server.accept().await.unwrap().stream;
    near.write_all(b"ask").await.unwrap();
    near.shutdown().await.unwrap();
    let mut asked = Vec::new();
    far.read_to_end(&mut asked).await.unwrap();
    far.write_all(b"answer").await.unwrap();
    far.shutdown().await.unwrap();
    let mut answer = Vec::new();
    near.read_to_end(&mut answer).await.unwrap();
    assert_eq!((asked.as_slice(), answer.as_slice()), (&b"ask"[..], &b"answer"[..]));
}
