//! The two ends of HBONE, fed by a far end that says anything: as raw bytes, or cut into frames that at least look right.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use mesh_hbone::{Baggage, ConnectRequest, Limits, Stop, TraceParent, dial, forwarded, serve};
use mesh_net::duplex::Duplex as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{sleep, timeout};

use crate::input::Input;
use crate::{Target, saw, saw_text};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// HEADERS of stream 1 with CONNECT to 10.0.0.1:80, without indexing (RFC 7541 6.2.2).
const CONNECT: &[u8] = b"\0\x07:method\x07CONNECT\0\x0a:authority\x0b10.0.0.1:80";
/// Of any run: everything has a limit below it, but for a connection on which both sides are content.
const LIFE: Duration = Duration::from_secs(3600);

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// What the far end says, from the input's first byte on: raw, or frames whose lengths are right.
fn said(bytes: &[u8], preface: &[u8]) -> Vec<u8> {
    let mut input = Input(bytes);
    match input.byte() % 4 {
        0 => return input.0.to_vec(),
        1 => return [preface, input.0].concat(),
        _ => {}
    }
    let mut all = [preface, &frame(4, 0, 0, &[])].concat();
    while !input.is_empty() {
        let (kind, flags, stream) = (input.byte() % 11, input.byte(), u32::from(input.byte() % 8));
        all.extend(frame(kind, flags, stream, input.block()));
    }
    all
}

/// The input of a framed run.
fn framed(frames: &[(u8, u8, u8, &[u8])]) -> Vec<u8> {
    let mut all = vec![2];
    for (kind, flags, stream, payload) in frames {
        all.extend([*kind, *flags, *stream]);
        all.extend((payload.len() as u16).to_be_bytes());
        all.extend(*payload);
    }
    all
}

/// Runs on a clock that jumps to the next timer.
fn block_on(run: impl Future<Output = ()>) {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    }
    RUNTIME.with(|runtime| runtime.block_on(async { timeout(LIFE, run).await.expect("an end within an hour") }));
}

pub const SERVER: Target = Target {
    name: "hbone_server",
    check: |bytes| {
        let said = said(bytes, PREFACE);
        block_on(async move {
            let (mut near, far) = tokio::io::duplex(16 << 10);
            let limits = Limits { streams_served: 4, ..Limits::default() };
            let (open, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
            let tasks = Arc::new(AtomicUsize::new(0));
            let (counted, peak, running) = (open.clone(), most.clone(), tasks.clone());
            let stop = Stop::default();
            let serving = serve(far, &limits, &stop, move |arrived| {
                let mut connect = match arrived {
                    Ok(connect) => connect,
                    Err(malformed) => return saw_text(&malformed.to_string()),
                };
                assert_ne!(connect.head().port(), 0);
                let headers = connect.headers().clone();
                saw((Baggage::parse(&headers) == Baggage::default(), TraceParent::parse(&headers).is_some(), forwarded::host(&headers).is_some()));
                peak.fetch_max(counted.fetch_add(1, Relaxed) + 1, Relaxed);
                let (counted, running) = (counted.clone(), running.clone());
                running.fetch_add(1, Relaxed);
                tokio::spawn(async move {
                    if connect.head().port() % 2 == 1 {
                        connect.refuse(StatusCode::FORBIDDEN);
                    } else if let Ok(mut tunnel) = connect.accept(HeaderMap::new()) {
                        while let Ok(Some(mut chunk)) = std::future::poll_fn(|cx| tunnel.poll_read_chunk(cx, 4096)).await {
                            saw(("echo", chunk.len() / 64));
                            if std::future::poll_fn(|cx| tunnel.poll_write_chunk(cx, &mut chunk)).await.is_err() {
                                break;
                            }
                        }
                        let _ = std::future::poll_fn(|cx| tunnel.poll_finish(cx)).await;
                    }
                    drop(connect);
                    counted.fetch_sub(1, Relaxed);
                    running.fetch_sub(1, Relaxed);
                });
            });
            let asking = async {
                let _ = near.write_all(&said).await; // whoever has heard enough hangs up
                let _ = near.shutdown().await;
                let mut answers = Vec::new();
                let _ = near.read_to_end(&mut answers).await;
                answers
            };
            let (served, answers) = tokio::join!(serving, asking);
            match served {
                Ok(()) => saw("ok"),
                Err(why) => saw_text(&why.to_string()),
            }
            assert!(answers.len() < 1 << 20, "{} bytes answer {}", answers.len(), said.len());
            assert!(most.load(Relaxed) <= 4, "{} requests were answered at a time", most.load(Relaxed));
            // What was handed out ends with the connection.
            for _ in 0..64 {
                if tasks.load(Relaxed) == 0 {
                    return;
                }
                sleep(Duration::from_millis(1)).await;
            }
            panic!("{} tunnels outlive their connection", tasks.load(Relaxed));
        });
    },
    seeds: || {
        let long = vec![b'x'; 300];
        vec![
            [&[1][..], &frame(4, 0, 0, &[]), &frame(1, 4, 1, CONNECT), &frame(0, 1, 1, b"hello")].concat(),
            framed(&[(1, 4, 1, CONNECT), (0, 0, 1, b"hello"), (0, 1, 1, b""), (6, 0, 0, &[0; 8])]),
            framed(&[(1, 4, 1, CONNECT), (3, 0, 1, &[0, 0, 0, 8]), (1, 4, 3, CONNECT), (8, 0, 0, &[0, 0, 1, 0])]),
            framed(&[(1, 0, 1, CONNECT), (9, 0, 1, b"\0\x07baggage\x05a=b,c"), (9, 4, 1, b""), (0, 8, 1, &long)]),
            framed(&[(4, 0, 0, &[0, 4, 0, 0, 0, 1]), (1, 4, 1, CONNECT), (0, 0, 1, &long), (7, 0, 0, &[0; 8])]),
            framed(&[(1, 4, 1, CONNECT), (1, 4, 3, CONNECT), (1, 4, 5, CONNECT), (1, 4, 7, CONNECT), (1, 4, 1, CONNECT)]),
            b"\0GET / HTTP/1.1\r\n\r\n".to_vec(),
        ]
    },
    words: &["\0\x07:method\x07CONNECT", "\0\x0a:authority\x0b10.0.0.1:81", "\0\x07baggage\x01a", "\0\x0btraceparent\x0200", "\0\x05:path\x01/", "\0\x09:protocol\x01a"],
};

pub const CLIENT: Target = Target {
    name: "hbone_client",
    check: |bytes| {
        let said = said(bytes, b"");
        block_on(async move {
            let (near, mut far) = tokio::io::duplex(16 << 10);
            let request = ConnectRequest::new(SocketAddr::from(([10, 0, 0, 1], 80)));
            let limits = Limits::default();
            let opening = async {
                let opened = dial::open_alone(near, &limits, &request).await;
                match opened {
                    Ok((mut tunnel, answer)) => {
                        assert_eq!(answer.status, StatusCode::OK);
                        let mut read = 0;
                        while let Ok(Some(chunk)) = std::future::poll_fn(|cx| tunnel.poll_read_chunk(cx, 4096)).await {
                            read += chunk.len();
                        }
                        saw(("read", read / 64));
                        assert!(read <= said.len(), "{read} bytes came of {}", said.len());
                    }
                    Err(why) => saw_text(&why.to_string()),
                }
            };
            let answering = async {
                let _ = far.write_all(&said).await;
                let _ = far.shutdown().await;
                let mut heard = Vec::new();
                let _ = far.read_to_end(&mut heard).await;
                assert!(heard.len() < 1 << 20, "{} bytes answer {}", heard.len(), said.len());
            };
            tokio::join!(opening, answering);
        });
    },
    seeds: || {
        vec![
            framed(&[(1, 4, 1, &[0x88]), (0, 0, 1, b"hello"), (0, 1, 1, b"")]),
            framed(&[(1, 4, 1, b"\x88\0\x07baggage\x05a=b,c"), (3, 0, 1, &[0, 0, 0, 8])]),
            framed(&[(1, 5, 1, b"\0\x07:status\x03401")]),
            framed(&[(4, 0, 0, &[0, 3, 0, 0, 0, 0]), (7, 0, 0, &[0; 8])]),
            framed(&[(4, 1, 0, b""), (6, 0, 0, &[0; 8]), (3, 0, 1, &[0, 0, 0, 7])]),
            [&[0][..], &frame(4, 0, 0, &[]), &frame(1, 4, 1, &[0x88]), &frame(0, 1, 1, b"hi")].concat(),
        ]
    },
    words: &["\0\x07:status\x03200", "\0\x07:status\x03503", "\0\x07baggage\x01a"],
};
