//! The relay over memory (every order of ends, resets and stalls) and over real TCP (what the kernel makes of them).

use std::cell::Cell;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::memory::{Memory, pair};

#[derive(Default)]
struct Counted {
    forward: Cell<u64>,
    backward: Cell<u64>,
}

impl Meter for &Counted {
    fn forward(&self, bytes: u64) {
        self.forward.set(self.forward.get() + bytes);
    }
    fn backward(&self, bytes: u64) {
        self.backward.set(self.backward.get() + bytes);
    }
}

/// client <-> (near | relay | far) <-> server
struct Line {
    client: Memory,
    near: Memory,
    far: Memory,
    server: Memory,
}

fn line(room: usize) -> Line {
    let (client, near) = pair(room);
    let (far, server) = pair(room);
    Line { client, near, far, server }
}

fn kind(result: io::Result<usize>) -> io::ErrorKind {
    result.expect_err("an error").kind()
}

#[tokio::test(start_paused = true)]
async fn bytes_and_ends_pass_both_ways() {
    // F-32: each direction ends by itself, the other goes on.
    for client_ends_first in [true, false] {
        let Line { mut client, mut near, mut far, mut server } = line(64);
        let meter = Counted::default();
        let relaying = async { relay(&mut near, &mut far, &&meter).await };
        let talking = async {
            let (early, late) = if client_ends_first { (&mut client, &mut server) } else { (&mut server, &mut client) };
            early.write_all(b"question").await.unwrap();
            early.shutdown().await.unwrap();
            let mut got = Vec::new();
            late.read_to_end(&mut got).await.unwrap();
            assert_eq!(got, b"question");
            tokio::time::sleep(Duration::from_secs(600)).await; // an answer may take its time
            late.write_all(b"the answer").await.unwrap();
            late.shutdown().await.unwrap();
            got.clear();
            early.read_to_end(&mut got).await.unwrap();
            assert_eq!(got, b"the answer");
        };
        let (relayed, ()) = tokio::join!(relaying, talking);
        assert!(matches!(relayed.end, End::Finished), "{relayed:?}");
        let (there, back) = if client_ends_first { (8, 10) } else { (10, 8) };
        assert_eq!((relayed.forward, relayed.backward), (there, back));
        assert_eq!((meter.forward.get(), meter.backward.get()), (there, back));
    }
}

#[tokio::test]
async fn a_reset_is_passed_on_and_is_never_an_end() {
    // F-33
    for by in [Side::First, Side::Second] {
        let Line { mut client, mut near, mut far, mut server } = line(64);
        let (resets, sees) = if by == Side::First { (&mut client, &mut server) } else { (&mut server, &mut client) };
        resets.write_all(b"half of a mess").await.unwrap();
        resets.reset();
        let relayed = relay(&mut near, &mut far, &()).await;
        assert!(matches!(relayed.end, End::Reset(side) if side == by), "{relayed:?}");
        assert_eq!(kind(sees.read(&mut [0; 64]).await), io::ErrorKind::ConnectionReset);
    }
}

#[tokio::test]
async fn a_reader_that_left_resets_the_writer() {
    let Line { mut client, mut near, mut far, server } = line(64);
    drop(server);
    client.write_all(b"to nobody").await.unwrap();
    let relayed = relay(&mut near, &mut far, &()).await;
    assert!(matches!(relayed.end, End::Reset(Side::Second)), "{relayed:?}");
    assert_eq!(relayed.forward, 0, "bytes that nobody took are not counted");
    assert_eq!(kind(client.read(&mut [0; 64]).await), io::ErrorKind::ConnectionReset);
}

#[tokio::test(start_paused = true)]
async fn a_half_closed_connection_is_bounded() {
    // F-32: the total life of a half-closed connection is bounded.
    let Line { mut client, mut near, mut far, server } = line(64);
    client.shutdown().await.unwrap();
    let started = Instant::now();
    let relayed = relay(&mut near, &mut far, &()).await;
    assert!(matches!(relayed.end, End::HalfClosedTooLong(Side::Second)), "{relayed:?}");
    assert_eq!(started.elapsed(), HALF_CLOSED_MAX);
    drop(server);
}

#[tokio::test(start_paused = true)]
async fn a_reset_behind_a_clean_end_is_noticed() {
    let Line { mut client, mut near, mut far, mut server } = line(64);
    client.shutdown().await.unwrap();
    let breaking = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        client.reset();
    };
    let (relayed, ()) = tokio::join!(relay(&mut near, &mut far, &()), breaking);
    assert!(matches!(relayed.end, End::Reset(Side::First)), "{relayed:?}");
    let _end = server.read(&mut [0; 8]).await;
    assert_eq!(server.write(b"x").await.expect_err("reset").kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test(start_paused = true)]
async fn a_stalled_reader_stalls_its_writer() {
    // F-34: what is under way is the two sockets' own room and one chunk, and then every byte is right.
    let Line { mut client, mut near, mut far, mut server } = line(1000);
    let sent: Vec<u8> = (0..100_000u32).map(|n| (n * 7 % 251) as u8).collect();
    let written = Cell::new(0);
    let writing = async {
        for piece in sent.chunks(100) {
            client.write_all(piece).await.unwrap();
            written.set(written.get() + piece.len());
        }
        client.shutdown().await.unwrap();
    };
    let reading = async {
        tokio::time::sleep(Duration::from_secs(300)).await;
        assert!(written.get() <= 3 * 1000 + 100, "{} bytes were taken from the writer", written.get());
        let mut got = Vec::new();
        server.read_to_end(&mut got).await.unwrap();
        server.shutdown().await.unwrap();
        got
    };
    let (relayed, (), got) = tokio::join!(relay(&mut near, &mut far, &()), writing, reading);
    assert!(matches!(relayed.end, End::Finished), "{relayed:?}");
    assert_eq!(got, sent);
}

#[tokio::test]
async fn a_busy_direction_does_not_starve_the_thread() {
    let Line { mut client, mut near, mut far, mut server } = line(16 << 20);
    client.write_all(&vec![1; 16 << 20]).await.unwrap();
    client.shutdown().await.unwrap();
    server.shutdown().await.unwrap();
    let mut relaying = Box::pin(relay(&mut near, &mut far, &()));
    let mut polls = 0;
    let relayed = poll_fn(|cx| {
        polls += 1;
        relaying.as_mut().poll(cx)
    })
    .await;
    assert_eq!(relayed.forward, 16 << 20);
    assert!((2..1000).contains(&polls), "{polls} polls for 16 MiB");
}

// Z-012
#[test]
fn reads_grow_for_bulk_and_shrink_for_talk() {
    let mut ask = SMALL_BYTES;
    let grown: Vec<usize> = (0..5)
        .map(|_| {
            ask = next_ask(ask, ask);
            ask
        })
        .collect();
    assert_eq!(grown, [16 << 10, 64 << 10, 256 << 10, 256 << 10, 256 << 10]);
    assert_eq!(next_ask(256 << 10, 100 << 10), 256 << 10);
    assert_eq!(next_ask(256 << 10, 1), 128 << 10);
    assert_eq!(next_ask(SMALL_BYTES, 1), SMALL_BYTES);
}

#[test]
fn a_waiting_relay_is_small() {
    let Line { mut near, mut far, .. } = line(1);
    let size = std::mem::size_of_val(&relay(&mut near, &mut far, &()));
    assert!(size <= 512, "{size} bytes for each relayed connection");
}

/// (the client's socket, the relay's end of it)
async fn connected() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (ours, theirs) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (ours.unwrap(), theirs.unwrap().0)
}

#[tokio::test]
async fn tcp_half_close_is_byte_exact() {
    // F-32
    let (mut client, mut near) = connected().await;
    let (mut far, mut server) = connected().await;
    let relaying = tokio::spawn(async move { relay(&mut near, &mut far, &()).await });
    let sent: Vec<u8> = (0..3_000_000u32).map(|n| (n % 253) as u8).collect();
    let expected = sent.clone();
    let answering = tokio::spawn(async move {
        let mut got = Vec::new();
        server.read_to_end(&mut got).await.unwrap();
        server.write_all(&got).await.unwrap();
    });
    client.write_all(&sent).await.unwrap();
    client.shutdown().await.unwrap();
    let mut back = Vec::new();
    client.read_to_end(&mut back).await.unwrap();
    assert!(back == expected, "{} of {} bytes came back", back.len(), expected.len());
    answering.await.unwrap();
    let relayed = relaying.await.unwrap();
    assert!(matches!(relayed.end, End::Finished), "{relayed:?}");
    assert_eq!((relayed.forward, relayed.backward), (3_000_000, 3_000_000));
}

/// Writes `count` pieces of sizes drawn from `seed`, then ends; and reads what the far end writes, to its end.
async fn talk(stream: TcpStream, seed: u32, count: u32) -> (Vec<u8>, Vec<u8>) {
    let (mut read, mut write) = stream.into_split();
    let writing = async move {
        let (mut sent, mut state) = (Vec::new(), seed);
        for _ in 0..count {
            // A linear congruence (Numerical Recipes): sizes from a byte to 128 KiB, small ones as often as large ones.
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let size = 1 + (state >> 15) as usize % (1 << (state >> 8 & 0xf).clamp(1, 17));
            let piece: Vec<u8> = (0..size).map(|n| (n as u32 ^ state) as u8).collect();
            write.write_all(&piece).await.unwrap();
            sent.extend(piece);
        }
        write.shutdown().await.unwrap();
        sent
    };
    let reading = async move {
        let mut got = Vec::new();
        read.read_to_end(&mut got).await.unwrap();
        got
    };
    tokio::join!(writing, reading)
}

// Z-013
#[tokio::test]
async fn pieces_of_any_size_arrive_whole_both_ways_at_once() {
    for seed in 1..=8 {
        let (client, mut near) = connected().await;
        let (mut far, server) = connected().await;
        let relaying = tokio::spawn(async move { relay(&mut near, &mut far, &()).await });
        let ((asked, answer), (replied, question)) = tokio::join!(talk(client, seed, 300), talk(server, seed + 100, 200));
        assert!(asked == question, "seed {seed}: {} of {} bytes there", question.len(), asked.len());
        assert!(replied == answer, "seed {seed}: {} of {} bytes back", answer.len(), replied.len());
        let relayed = relaying.await.unwrap();
        assert_eq!((relayed.forward, relayed.backward), (asked.len() as u64, replied.len() as u64));
    }
}

#[tokio::test]
async fn tcp_reset_arrives_as_reset_every_time() {
    // F-33: 100 % of 1,000, from either end, after bytes that look like a complete answer.
    for round in 0..1000 {
        let (client, mut near) = connected().await;
        let (mut far, server) = connected().await;
        let (mut resets, mut sees) = if round % 2 == 0 { (client, server) } else { (server, client) };
        resets.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        let relaying = tokio::spawn(async move {
            let relayed = relay(&mut near, &mut far, &()).await;
            drop((near, far));
            relayed
        });
        let mut head = [0; 19];
        sees.read_exact(&mut head).await.unwrap();
        resets.set_zero_linger().unwrap();
        drop(resets);
        assert_eq!(kind(sees.read(&mut head).await), io::ErrorKind::ConnectionReset, "round {round}");
        let by = if round % 2 == 0 { Side::First } else { Side::Second };
        assert!(matches!(relaying.await.unwrap().end, End::Reset(side) if side == by));
    }
}
