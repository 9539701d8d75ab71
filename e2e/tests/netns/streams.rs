//! Bodies through the waypoint that are larger than anything it may keep, and ends that are slow: what it holds stays
//! bounded, bytes stay what they were, and nobody else waits.

use std::io::{Error, Read as _, Result as IoResult, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use isthmus::lab::process::ProcessId;

use super::app::Server;
use super::gate::{GATE, ONE, at, forget_peak, peak, process, resident};
use super::mesh::{Mesh, SOON, until};
use super::web::{Client, Exchange, Web, get, serve};
use e2e::{Check, checks};

pub fn checks() -> Vec<Check<Mesh>> {
    checks![
        large_bodies_pass_with_flat_memory,
        who_does_not_read_holds_little_and_nobody_up,
        bytes_pass_one_by_one,
        trickles_pass_as_they_come,
    ]
}

/// Each way in a usual run; `ISTHMUS_E2E_SIZE=full` sends 10 GB.
const BODY: u64 = 256 << 20;
const BODY_FULL: u64 = 10_000_000_000;
/// What one stream may add to the waypoint's memory, whatever its length: windows of 1 MiB towards the client and 4 MiB
/// towards the server (`stream_window_max`), in both directions, what TLS and the allocator keep of each, and room.
const GROWTH_MAX: u64 = 32 << 20;
/// Who asks for much and does not read it.
const LAZY: usize = 20;
const LAZY_BODY: u64 = 10 << 20;
/// The same windows of each of them.
const LAZY_GROWTH_MAX: u64 = LAZY as u64 * (6 << 20);
/// Nothing moves any more when nothing has for so long.
const STILL: Duration = Duration::from_millis(400);

/// Bytes by their place in a body: the number of each block, and then the same again.
struct Pattern {
    block: Vec<u8>,
    at: u64,
}

const BLOCK: u64 = 64 << 10;

impl Pattern {
    fn new() -> Pattern {
        Pattern { block: vec![b'.'; BLOCK as usize], at: 0 }
    }

    /// The block that the place is in, and how far in.
    fn here(&mut self) -> &[u8] {
        let (number, within) = (self.at / BLOCK, (self.at % BLOCK) as usize);
        self.block[..8].copy_from_slice(&number.to_be_bytes());
        &self.block[within..]
    }

    fn send(&mut self, to: &mut impl Write, end: u64, sent: &AtomicU64) -> IoResult<()> {
        while self.at < end {
            let left = end - self.at;
            let bytes = self.here();
            let count = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            to.write_all(&bytes[..count])?;
            self.at += count as u64;
            sent.store(self.at, Ordering::SeqCst);
        }
        Ok(())
    }

    fn check(&mut self, mut piece: &[u8]) -> IoResult<()> {
        while !piece.is_empty() {
            let place = self.at;
            let expected = self.here();
            let count = expected.len().min(piece.len());
            if piece[..count] != expected[..count] {
                return Err(Error::other(format!("other bytes after {place}")));
            }
            self.at += count as u64;
            piece = &piece[count..];
        }
        Ok(())
    }
}

/// GET /N is answered with N bytes, POST with how many came.
fn bodies(mesh: &Mesh, sent: Arc<AtomicU64>) -> Result<Web> {
    serve(mesh, &mesh.pod("right"), 7080, move |exchange: &mut Exchange| {
        let mut pattern = Pattern::new();
        if exchange.method() == "POST" {
            exchange.body(|piece| pattern.check(piece))?;
            return exchange.say(200, &pattern.at.to_string());
        }
        let length = exchange.path().trim_start_matches('/').parse().map_err(Error::other)?;
        write!(exchange.stream, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n")?;
        let own = AtomicU64::new(0);
        let mut counted = Counted { to: &mut exchange.stream, sent: &sent };
        pattern.send(&mut counted, length, &own)
    })
}

/// Counts what a socket took.
struct Counted<'a, W> {
    to: &'a mut W,
    sent: &'a AtomicU64,
}

impl<W: Write> Write for Counted<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> IoResult<usize> {
        let count = self.to.write(bytes)?;
        self.sent.fetch_add(count as u64, Ordering::SeqCst);
        Ok(count)
    }

    fn flush(&mut self) -> IoResult<()> {
        self.to.flush()
    }
}

fn gate(mesh: &Mesh) -> Result<ProcessId> {
    process(mesh, GATE).context("the waypoint runs")
}

/// How much more memory the waypoint had at most while `work` was done.
fn grown(mesh: &Mesh, work: impl FnOnce() -> Result<()>) -> Result<u64> {
    let gate = gate(mesh)?;
    forget_peak(gate)?;
    let before = resident(gate)?;
    work()?;
    ensure!(process(mesh, GATE).is_some_and(|now| now == gate), "the waypoint was started again");
    Ok(peak(gate)?.saturating_sub(before))
}

fn large_bodies_pass_with_flat_memory(mesh: &Mesh) -> Result<()> {
    let length = if e2e::is_full() { BODY_FULL } else { BODY };
    let _server = bodies(mesh, Arc::default())?;
    let mut client = Client::dial(mesh, "client", at(ONE, 80))?;
    // Connections and their buffers are there before anything is measured.
    client.get("/1000000")?;
    let began = Instant::now();
    let down = grown(mesh, || {
        client.ask("GET", &format!("/{length}"), "")?;
        let head = client.head()?;
        let mut pattern = Pattern::new();
        client.body(&head, |piece| pattern.check(piece))?;
        ensure!(pattern.at == length, "{} of {length} bytes came", pattern.at);
        Ok(())
    })?;
    let middle = Instant::now();
    let up = grown(mesh, || {
        client.ask("POST", "/", &format!("content-length: {length}\r\n"))?;
        Pattern::new().send(&mut client.stream, length, &AtomicU64::new(0))?;
        let answer = client.answer()?;
        ensure!(answer.text() == length.to_string(), "{} of {length} bytes came", answer.text());
        Ok(())
    })?;
    let speed = |time: Duration| length as f64 / 1e6 / time.as_secs_f64();
    println!(
        "  {} MB down at {:.0} MB/s and up at {:.0} MB/s; the waypoint's memory grew by {} and {} KiB",
        length / 1_000_000,
        speed(middle - began),
        speed(middle.elapsed()),
        down >> 10,
        up >> 10
    );
    ensure!(down.max(up) < GROWTH_MAX, "the waypoint's memory grew by {} MiB", down.max(up) >> 20);
    Ok(())
}

// F-34, V-08
fn who_does_not_read_holds_little_and_nobody_up(mesh: &Mesh) -> Result<()> {
    let sent: Arc<AtomicU64> = Arc::default();
    let _server = bodies(mesh, sent.clone())?;
    get(mesh, "client", at(ONE, 80), "/1000000")?;
    sent.store(0, Ordering::SeqCst);
    let mut lazy = Vec::new();
    let growth = grown(mesh, || {
        for _ in 0..LAZY {
            let mut client = Client::dial(mesh, "client", at(ONE, 80))?;
            client.ask("GET", &format!("/{LAZY_BODY}"), "")?;
            lazy.push(client);
        }
        stands_still(&sent)?;
        // Another one, by the same waypoint and node daemons, is served as always.
        let began = Instant::now();
        let answer = get(mesh, "other", at(ONE, 80), "/1000")?;
        ensure!(answer.body.len() == 1000 && began.elapsed() < Duration::from_secs(1), "another client waited for {:?}", began.elapsed());
        Ok(())
    })?;
    let held = sent.load(Ordering::SeqCst);
    println!("  {LAZY} clients that read nothing: {} MiB are on their way, the waypoint's memory grew by {} MiB", held >> 20, growth >> 20);
    ensure!(held < LAZY as u64 * LAZY_BODY, "nothing held the server up: {held} bytes");
    ensure!(growth < LAZY_GROWTH_MAX, "the waypoint's memory grew by {} MiB", growth >> 20);
    // Whoever reads at last gets all of it.
    for mut client in lazy {
        let head = client.head()?;
        let mut pattern = Pattern::new();
        client.body(&head, |piece| pattern.check(piece))?;
        ensure!(pattern.at == LAZY_BODY);
    }
    Ok(())
}

/// Waits until a number is above zero and has not changed for `STILL`.
fn stands_still(number: &AtomicU64) -> Result<()> {
    let (mut last, mut since) = (0, Instant::now());
    until(SOON * 3, "nothing moves any more", || {
        let now = number.load(Ordering::SeqCst);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        (now > 0 && since.elapsed() > STILL).then_some(())
    })
}

/// A byte at a time each way: the next is sent when the one before has arrived, so that nobody may wait for more.
fn bytes_pass_one_by_one(mesh: &Mesh) -> Result<()> {
    const BYTES: usize = 200;
    let _server = serve(mesh, &mesh.pod("right"), 7080, |exchange: &mut Exchange| {
        let mut back = exchange.stream.try_clone()?;
        write!(back, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")?;
        exchange.body(|piece| {
            write!(back, "{:x}\r\n", piece.len())?;
            back.write_all(piece)?;
            write!(back, "\r\n")
        })?;
        write!(back, "0\r\n\r\n")
    })?;
    let mut client = Client::dial(mesh, "client", at(ONE, 80))?;
    client.ask("POST", "/", "transfer-encoding: chunked\r\n")?;
    let head = client.head().context("the answer begins while the request goes on")?;
    let mut speaker = client.stream.try_clone()?;
    let mut heard = 0;
    let mut say = |number: usize| match number {
        BYTES => speaker.write_all(b"0\r\n\r\n"),
        _ => speaker.write_all(b"1\r\nx\r\n"),
    };
    say(0)?;
    client.body(&head, |piece| {
        heard += piece.len();
        say(heard)
    })?;
    ensure!(heard == BYTES, "{heard} of {BYTES} bytes came back");
    Ok(())
}

/// A client that writes its request, head and body, as slowly as it can, and a server that answers so.
fn trickles_pass_as_they_come(mesh: &Mesh) -> Result<()> {
    let server = Server::start(mesh, &mesh.pod("right"), 7084, |conversation| {
        let mut byte = [0; 1];
        while conversation.read(&mut byte)? > 0 {
            conversation.stream.write_all(&byte)?;
        }
        Ok(())
    })?;
    let mut stream = super::app::dial(mesh, &mesh.pod("client"), at(ONE, 84))?;
    let text = b"GET /not/http HTTP/1.1\r\n";
    for (number, byte) in text.iter().enumerate() {
        stream.write_all(&[*byte])?;
        let mut back = [0; 1];
        stream.read_exact(&mut back).with_context(|| format!("byte {number} of an opaque stream"))?;
        ensure!(back[0] == *byte);
    }
    ensure!(server.received() == text.len() as u64);
    // The head of a request in pieces, each of which has arrived at the waypoint's node before the next.
    let _web = serve(mesh, &mesh.pod("right"), 7080, |exchange: &mut Exchange| exchange.say(200, "whole"))?;
    let mut client = Client::dial(mesh, "client", at(ONE, 80))?;
    for byte in format!("GET / HTTP/1.1\r\nhost: one\r\nx-long: {}\r\n\r\n", "y".repeat(64)).bytes() {
        client.stream.write_all(&[byte])?;
    }
    let answer = client.answer()?;
    ensure!(answer.status == 200 && answer.text() == "whole", "{} {}", answer.status, answer.text());
    Ok(())
}
