//! The controller's accept loop under callers that mean harm, and without descriptors: alone in its test program, since
//! the limit is the whole process's.
#![allow(clippy::unwrap_used)] // helpers of tests fail like tests

use std::fs::File;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use mesh_identity::channel::{ChannelTls, HandshakeLimits, RootSource, ServingTls, incoming};
use mesh_identity::clock::Clock;
use mesh_identity::sign::{Ca, ROOT_LIFE};
use mesh_identity::{KeyExchange, SystemClock};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

const SOON: Duration = Duration::from_secs(1);

/// A whole handshake, and a byte from the server.
async fn is_served(at: SocketAddr, tls: &ChannelTls) -> Result<(), String> {
    let meeting = async {
        let stream = TcpStream::connect(at).await.map_err(|error| error.to_string())?;
        let mut secured = tls.secure(stream).await.map_err(|error| error.to_string())?;
        secured.read_exact(&mut [0]).await.map_err(|error| error.to_string())
    };
    timeout(SOON, meeting).await.map_err(|_| "not within a second".to_owned())?.map(drop)
}

// V-14: what goes wrong with one connection, or with all of them for a while, never ends the accepting.
#[tokio::test]
async fn nothing_ends_the_accepting() {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let ca = Ca::self_signed("td", ROOT_LIFE, Default::default(), clock.now()).unwrap();
    let serving = ca.serving(&["istiod.test".into()], Duration::from_secs(3600), clock.now()).unwrap();
    let server = ServingTls::new(serving.chain, &serving.key, ca.roots(), KeyExchange::Standard, clock.clone()).unwrap();
    let client = ChannelTls::new(RootSource::Pem(ca.root_bundle()), "istiod.test", None, KeyExchange::Standard, clock).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut accepted = std::pin::pin!(incoming(listener, Arc::new(server), HandshakeLimits::default()));
        while let Some(Ok(mut stream)) = accepted.next().await {
            tokio::spawn(async move {
                let _ = stream.write_all(b"!").await;
                let _ = stream.shutdown().await;
            });
        }
    });
    is_served(at, &client).await.expect("a good client, first of all");

    // Reset before anybody accepted, reset after some bytes, bytes that are no TLS, and an end in the middle.
    for words in [&b""[..], b"\x16\x03\x01", b"GET / HTTP/1.1\r\n\r\n", &[0xff; 600], b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"] {
        for resets in [true, false] {
            for _ in 0..50 {
                let mut stream = TcpStream::connect(at).await.unwrap();
                let _ = stream.write_all(words).await;
                if resets {
                    stream.set_zero_linger().unwrap();
                }
            }
            is_served(at, &client).await.unwrap_or_else(|why| panic!("after {words:?}, resets {resets}: {why}"));
        }
    }

    // No descriptor is left for a while, and somebody waits to be accepted.
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 100, hard).unwrap();
    let mut held = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        held.push(file);
    }
    drop(held.pop());
    let waiting = TcpStream::connect(at).await.unwrap(); // takes the one that is left
    assert!(File::open("/dev/null").is_err());
    sleep(Duration::from_secs(3)).await; // the time without descriptors
    drop((held, waiting));
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    is_served(at, &client).await.expect("served within a second after descriptors are there again");
}
