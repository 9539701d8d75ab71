//! Tests of `stream`.

use std::future::poll_fn;
use std::time::Duration;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::limits::Limits;
use crate::testing::*;

const BUFFER: usize = 64 << 10;

/// Bytes whose order shows.
fn numbered(length: usize) -> Bytes {
    (0..length).map(|i| (i / 251 + i) as u8).collect()
}

// F-32, interop 13.12
#[tokio::test(start_paused = true)]
async fn each_direction_ends_on_its_own() {
    for client_first in [true, false] {
        let (mut client, mut server, _served) = tunnel_pair(Limits::default(), BUFFER).await;
        let (first, second) = if client_first { (&mut client, &mut server) } else { (&mut server, &mut client) };
        write(first, "question").await.unwrap();
        finish(first).await.unwrap();
        assert_eq!(read_to_end(second).await.unwrap(), b"question");
        tokio::time::sleep(Duration::from_secs(10)).await;
        write(second, numbered(1 << 20).slice(..100_000)).await.unwrap();
        finish(second).await.unwrap();
        assert_eq!(read_to_end(first).await.unwrap(), numbered(100_000));
        finish(first).await.unwrap();
        let error = write(first, "more").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}

/// What the reader of the other end sees after the first end did `act`.
async fn seen_after(server_acts: bool, act: impl AsyncFnOnce(Tunnel)) -> (io::Result<Vec<u8>>, io::ErrorKind) {
    let (client, server, _served) = tunnel_pair(Limits::default(), BUFFER).await;
    let (actor, mut other) = if server_acts { (server, client) } else { (client, server) };
    act(actor).await;
    let broken = poll_fn(|cx| other.poll_broken(cx)).await;
    (read_to_end(&mut other).await, broken.kind())
}

// F-33: a reset is a reset, never an end
#[tokio::test(start_paused = true)]
async fn a_reset_arrives_as_a_reset() {
    for server_acts in [false, true] {
        let (read, broken) = seen_after(server_acts, async |mut tunnel| {
            write(&mut tunnel, "half a mess").await.unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
            tunnel.reset();
        })
        .await;
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(broken, io::ErrorKind::ConnectionReset);
    }
}

// F-33
#[tokio::test(start_paused = true)]
async fn a_dropped_tunnel_that_has_not_ended_is_reset() {
    for server_acts in [false, true] {
        let (read, broken) = seen_after(server_acts, async |tunnel| drop(tunnel)).await;
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(broken, io::ErrorKind::ConnectionReset);
    }
}

// F-33: with its own direction ended, what it still had to read is lost, and the writer must know
#[tokio::test(start_paused = true)]
async fn a_tunnel_dropped_after_its_own_end_resets_the_other_direction() {
    for server_acts in [false, true] {
        let (read, broken) = seen_after(server_acts, async |mut tunnel| {
            finish(&mut tunnel).await.unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
        })
        .await;
        assert_eq!(read.unwrap(), b"", "the end had come");
        assert_eq!(broken, io::ErrorKind::ConnectionReset);
    }
}

/// A tunnel of ours to a raw server, which has accepted stream 1.
async fn to_raw() -> (Tunnel, Raw) {
    let (near, far) = tokio::io::duplex(4 << 20);
    let request = request();
    let limits = Limits::default();
    let (opened, raw) = tokio::join!(crate::dial::open_alone(near, &limits, &request), async {
        let mut raw = Raw::server(far, &[]).await;
        raw.until(HEADERS).await;
        raw.accept(1).await.unwrap();
        raw
    });
    (opened.unwrap().0, raw)
}

// spec/dataplane.md 1.8: peers of the family say NO_ERROR when they need no more of ours, after their end
#[tokio::test(start_paused = true)]
async fn after_the_end_a_reset_does_not_take_the_end_back() {
    for code in [NO_ERROR, CANCEL] {
        let (mut tunnel, mut raw) = to_raw().await;
        raw.send(DATA, END_STREAM, 1, b"all").await.unwrap();
        raw.send(RST_STREAM, 0, 1, &code.to_be_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(read_to_end(&mut tunnel).await.unwrap(), b"all");
        assert_eq!(write(&mut tunnel, "x").await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }
}

// F-33
#[tokio::test(start_paused = true)]
async fn a_reset_without_an_end_is_an_error_whatever_its_reason() {
    for code in [NO_ERROR, CANCEL, PROTOCOL_ERROR, REFUSED_STREAM, ENHANCE_YOUR_CALM] {
        let (mut tunnel, mut raw) = to_raw().await;
        raw.send(DATA, 0, 1, b"a part").await.unwrap();
        raw.send(RST_STREAM, 0, 1, &code.to_be_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(read(&mut tunnel).await.unwrap().unwrap(), "a part", "what came before it is not lost");
        assert_eq!(read(&mut tunnel).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(finish(&mut tunnel).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }
}

#[tokio::test(start_paused = true)]
async fn a_broken_connection_is_an_error_and_no_end() {
    let (mut tunnel, mut raw) = to_raw().await;
    raw.send(DATA, 0, 1, b"a part").await.unwrap();
    drop(raw);
    assert_eq!(read(&mut tunnel).await.unwrap().unwrap(), "a part");
    assert_eq!(read(&mut tunnel).await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}

#[tokio::test(start_paused = true)]
async fn our_reset_says_cancel_and_our_end_says_end() {
    let (mut tunnel, mut raw) = to_raw().await;
    finish(&mut tunnel).await.unwrap();
    let end = raw.until(DATA).await;
    assert_eq!((end.flags, end.payload.len()), (END_STREAM, 0));
    tunnel.reset();
    assert_eq!(raw.until(RST_STREAM).await.code(), CANCEL);
}

// Z-099, V-08: what the peer's window does not take stays with the writer
#[tokio::test(start_paused = true)]
async fn a_writer_gets_no_more_room_than_the_peer_gives() {
    let (mut tunnel, mut raw) = to_raw().await;
    assert_eq!(write_until_full(&mut tunnel, numbered(1 << 20)).await, 65_535);
    let mut arrived = 0;
    while arrived < 65_535 {
        arrived += raw.until(DATA).await.payload.len();
    }
    raw.send(WINDOW_UPDATE, 0, 1, &1000u32.to_be_bytes()).await.unwrap();
    raw.send(WINDOW_UPDATE, 0, 0, &1000u32.to_be_bytes()).await.unwrap();
    assert_eq!(write_until_full(&mut tunnel, numbered(1 << 20)).await, 1000);
}

// F-34
#[tokio::test(start_paused = true)]
async fn a_reader_that_stops_holds_one_window_and_gets_everything_later() {
    let limits = Limits::default();
    let (mut client, mut server, _served) = tunnel_pair(limits.clone(), BUFFER).await;
    let all = numbered(3 << 20);
    let taken = write_until_full(&mut server, all.clone()).await;
    assert!(taken <= limits.stream_window as usize, "{taken} bytes went ahead of the reader");
    tokio::time::sleep(Duration::from_secs(300)).await;
    let (rest, wrote) = (all.slice(taken..), &mut server);
    let (sent, received) = tokio::join!(
        async move {
            write(wrote, rest).await.unwrap();
            finish(wrote).await
        },
        read_to_end(&mut client)
    );
    sent.unwrap();
    assert!(received.unwrap() == all, "bytes changed on the way");
}

// Interop 13.9: a frame as large as we announce is accepted where the window has room for it
#[tokio::test(start_paused = true)]
async fn a_frame_of_a_mebibyte_is_accepted() {
    let limits = Limits { stream_window: 2 << 20, ..Limits::default() };
    let (io, mut served) = serving(limits, 4 << 20);
    let mut raw = Raw::client(io).await;
    raw.until(SETTINGS).await;
    raw.connect(1).await.unwrap();
    let mut tunnel = served.connect().await.accept(http::HeaderMap::new()).unwrap();
    let payload = numbered(1 << 20);
    raw.send(DATA, END_STREAM, 1, &payload).await.unwrap();
    assert!(read_to_end(&mut tunnel).await.unwrap() == payload);
}

#[tokio::test(start_paused = true)]
async fn the_windows_grow_with_the_traffic_and_the_peer_is_told() {
    let (mut tunnel, mut raw) = to_raw().await;
    let mut stream_window = 256i64 << 10;
    let mut sent = 0;
    // The raw peer fills every window at once and answers each PING after that: a long path.
    let (grown, _) = tokio::join!(
        async {
            loop {
                while stream_window >= 16_384 {
                    raw.send(DATA, 0, 1, &[7; 16_384]).await.unwrap();
                    (stream_window, sent) = (stream_window - 16_384, sent + 16_384);
                }
                let frame = raw.next().await.unwrap();
                match (frame.kind, frame.flags) {
                    (WINDOW_UPDATE, _) if frame.stream == 1 => {
                        stream_window += i64::from(u32::from_be_bytes(frame.payload[..4].try_into().unwrap()));
                    }
                    (PING, 0) => raw.send(PING, ACK, 0, &frame.payload).await.unwrap(),
                    (SETTINGS, 0) => {
                        raw.send(SETTINGS, ACK, 0, &[]).await.unwrap();
                        if let [0, 4, a, b, c, d] = frame.payload[..] {
                            return u32::from_be_bytes([a, b, c, d]);
                        }
                    }
                    _ => {}
                }
            }
        },
        async {
            // Reads in pace; ends when the peer is done with it.
            for _ in 0..40 {
                tokio::time::sleep(Duration::from_millis(20)).await;
                for _ in 0..16 {
                    if tokio::time::timeout(Duration::from_millis(1), read(&mut tunnel)).await.is_err() {
                        break;
                    }
                }
            }
        }
    );
    assert_eq!(grown, 512 << 10, "after {sent} bytes");
}

#[tokio::test(start_paused = true)]
async fn it_reads_and_writes_as_any_byte_stream() {
    let (mut client, mut server, _served) = tunnel_pair(Limits::default(), BUFFER).await;
    let all = numbered(300_000);
    let sent = all.clone();
    let (_, received) = tokio::join!(
        async move {
            let slices: Vec<_> = sent.chunks(1000).map(IoSlice::new).collect();
            let wrote = client.write_vectored(&slices).await.unwrap();
            assert!(wrote > 1000, "slices are gathered");
            client.write_all(&sent[wrote..]).await.unwrap();
            client.shutdown().await.unwrap();
            client
        },
        async {
            let mut received = Vec::new();
            server.read_to_end(&mut received).await.unwrap();
            received
        }
    );
    assert!(received == all);
}

#[tokio::test(start_paused = true)]
async fn a_reader_may_take_less_than_a_chunk() {
    let (mut client, mut server, _served) = tunnel_pair(Limits::default(), BUFFER).await;
    write(&mut client, "abcdef").await.unwrap();
    let mut two = [0; 2];
    server.read_exact(&mut two).await.unwrap();
    let next = poll_fn(|cx| server.poll_read_chunk(cx, 3)).await.unwrap().unwrap();
    assert_eq!((&two, &next[..]), (b"ab", &b"cde"[..]));
    assert_eq!(read(&mut server).await.unwrap().unwrap(), "f");
}

// F-33: also while nothing is being read or written there
#[tokio::test(start_paused = true)]
async fn a_relay_passes_a_reset_on_that_comes_after_the_end() {
    let (mut tunnel, mut raw) = to_raw().await;
    let (mut app, mut near) = mesh_net::memory::pair(1024);
    let relaying = tokio::spawn(async move { mesh_net::relay::relay(&mut near, &mut tunnel, &()).await });
    raw.send(DATA, END_STREAM, 1, b"all").await.unwrap();
    let mut received = Vec::new();
    app.read_to_end(&mut received).await.unwrap();
    assert_eq!(received, b"all");
    let start = tokio::time::Instant::now();
    raw.send(RST_STREAM, 0, 1, &NO_ERROR.to_be_bytes()).await.unwrap();
    let relayed = relaying.await.unwrap();
    assert!(matches!(relayed.end, mesh_net::relay::End::Reset(mesh_net::relay::Side::Second)), "{relayed:?}");
    assert!(start.elapsed() < Duration::from_secs(1));
    assert!(app.write_all(b"more").await.is_err());
}

#[tokio::test(start_paused = true)]
async fn limits_that_http2_does_not_allow_are_moved_into_its_range() {
    let least = Limits {
        stream_window: 0,
        stream_window_max: 0,
        connection_window: 0,
        frame_size: 0,
        streams_served: 0,
        send_buffer_served: 0,
        send_buffer_dialled: 0,
        streams_per_connection: 0,
        connections_per_key: 0,
        ..Limits::default()
    };
    let most = Limits {
        stream_window: u32::MAX,
        stream_window_max: u32::MAX,
        connection_window: u32::MAX,
        frame_size: u32::MAX,
        send_buffer_served: usize::MAX,
        send_buffer_dialled: usize::MAX,
        ..Limits::default()
    };
    for limits in [least, most] {
        let (mut client, mut server, _served) = tunnel_pair(limits, BUFFER).await;
        let (sent, received) = tokio::join!(
            async {
                write(&mut client, numbered(1000)).await.unwrap();
                finish(&mut client).await
            },
            read_to_end(&mut server)
        );
        sent.unwrap();
        assert!(received.unwrap() == numbered(1000));
    }
}

/// What an idle tunnel costs of ours beside h2's stream.
#[test]
fn a_tunnel_is_small() {
    assert!(size_of::<Tunnel>() <= 160, "{} bytes", size_of::<Tunnel>());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn bytes_arrive_in_order_however_they_are_cut(
        writes in prop::collection::vec(1usize..100_000, 1..20),
        reads in prop::collection::vec(1usize..70_000, 1..10),
        window in 1u32..200_000,
        // h2 writes its greeting before it reads, at both ends: a pipe that holds neither's would stall, and no socket is so small.
        buffer in 64usize..100_000,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let (sent, received) = runtime.block_on(async move {
            let limits = Limits { stream_window: window, ..Limits::default() };
            let (mut client, mut server, _served) = tunnel_pair(limits, buffer).await;
            let all = numbered(writes.iter().sum());
            let mut rest = all.clone();
            let (_, received) = tokio::join!(
                async {
                    for length in writes {
                        write(&mut client, rest.split_to(length)).await.unwrap();
                    }
                    finish(&mut client).await.unwrap();
                },
                async {
                    let mut received = Vec::new();
                    for max in reads.iter().cycle() {
                        match poll_fn(|cx| server.poll_read_chunk(cx, *max)).await.unwrap() {
                            Some(chunk) => received.extend(chunk),
                            None => break,
                        }
                    }
                    received
                }
            );
            (all, received)
        });
        prop_assert!(sent == received);
    }
}
