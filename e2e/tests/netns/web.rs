//! HTTP/1.1 of this process, small enough to be sure of: servers in a pod that do what a check wants them to do, and the
//! client that asks them. Bodies have a length or are chunked; whatever else comes is an error.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Result as IoResult, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use isthmus::lab::netns;
use isthmus::lab::state::PodState;

use super::app::{Conversation, PATIENCE, Server, dial};
use super::mesh::Mesh;

/// A head that is longer is a fault of what is tested.
const HEAD_MAX: usize = 64 << 10;
/// Failures that a load keeps the words of.
const WORDS_KEPT: usize = 8;

/// The first line and the fields of a request or an answer.
#[derive(Clone, Debug, Default)]
pub struct Head {
    pub first: String,
    pub fields: Vec<(String, String)>,
}

impl Head {
    /// None: the connection ended before it began.
    fn read(input: &mut impl BufRead) -> IoResult<Option<Head>> {
        let mut head = Head::default();
        let mut bytes = 0;
        loop {
            let mut line = String::new();
            let count = input.by_ref().take(HEAD_MAX as u64).read_line(&mut line)?;
            bytes += count;
            let text = line.trim_end_matches(['\r', '\n']);
            match (count, head.first.is_empty()) {
                (0, true) => return Ok(None),
                (0, false) => return Err(ErrorKind::UnexpectedEof.into()),
                _ if bytes > HEAD_MAX => return Err(wrong("a head that is too long")),
                (_, true) => head.first = text.to_owned(),
                (_, false) if text.is_empty() => return Ok(Some(head)),
                (_, false) => {
                    let (name, value) = text.split_once(':').ok_or_else(|| wrong("a line without a colon"))?;
                    head.fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
                }
            }
        }
    }

    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn word(&self, number: usize) -> &str {
        self.first.split(' ').nth(number).unwrap_or_default()
    }

    fn is_last(&self) -> bool {
        self.field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }

    /// What follows it, piece by piece.
    fn body(&self, input: &mut impl BufRead, mut piece: impl FnMut(&[u8]) -> IoResult<()>) -> IoResult<()> {
        if self.field("transfer-encoding").is_none() {
            let length = self.field("content-length").map_or(Ok(0), str::parse).map_err(|_| wrong("a length that is none"))?;
            return pieces(input, length, &mut piece);
        }
        loop {
            let mut line = String::new();
            input.read_line(&mut line)?;
            let length = u64::from_str_radix(line.trim(), 16).map_err(|_| wrong("a chunk without its length"))?;
            pieces(input, length, &mut piece)?;
            let mut end = String::new();
            input.read_line(&mut end)?;
            if !end.trim().is_empty() {
                return Err(wrong("a chunk that does not end"));
            }
            if length == 0 {
                return Ok(());
            }
        }
    }
}

fn wrong(what: &str) -> Error {
    Error::new(ErrorKind::InvalidData, what.to_owned())
}

fn pieces(input: &mut impl BufRead, mut left: u64, piece: &mut impl FnMut(&[u8]) -> IoResult<()>) -> IoResult<()> {
    while left > 0 {
        let known = input.fill_buf()?;
        if known.is_empty() {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let count = known.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        piece(&known[..count])?;
        input.consume(count);
        left -= count as u64;
    }
    Ok(())
}

/// A request at a server, and the way to answer it.
pub struct Exchange {
    pub head: Head,
    pub from: SocketAddr,
    pub stream: TcpStream,
    input: BufReader<TcpStream>,
}

impl Exchange {
    pub fn method(&self) -> &str {
        self.head.word(0)
    }

    pub fn path(&self) -> &str {
        self.head.word(1)
    }

    pub fn body(&mut self, piece: impl FnMut(&[u8]) -> IoResult<()>) -> IoResult<()> {
        self.head.body(&mut self.input, piece)
    }

    /// The whole answer.
    pub fn say(&mut self, status: u16, body: &str) -> IoResult<()> {
        write!(self.stream, "HTTP/1.1 {status} Said\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    }
}

/// A server. Dropped, it ends as a program does: its connections end too, those that a waypoint keeps for later among them.
pub struct Web {
    open: Arc<Mutex<BTreeMap<u64, TcpStream>>>,
    _server: Server,
}

impl Drop for Web {
    fn drop(&mut self) {
        let open = std::mem::take(&mut *self.open.lock().unwrap_or_else(PoisonError::into_inner));
        for stream in open.into_values() {
            // One that has ended by itself is as well.
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

/// Serves on both families in a pod. An error of `answer` ends the connection; so does the client's wish.
pub fn serve(
    mesh: &Mesh,
    pod: &PodState,
    port: u16,
    answer: impl Fn(&mut Exchange) -> IoResult<()> + Send + Sync + 'static,
) -> Result<Web> {
    let (open, numbers) = (Arc::<Mutex<BTreeMap<u64, TcpStream>>>::default(), AtomicU64::new(0));
    let known = open.clone();
    let server = Server::start(mesh, pod, port, move |conversation| {
        let number = numbers.fetch_add(1, Ordering::SeqCst);
        known.lock().unwrap_or_else(PoisonError::into_inner).insert(number, conversation.stream.try_clone()?);
        let served = converse(conversation, &answer);
        known.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
        served
    })?;
    Ok(Web { open, _server: server })
}

fn converse(conversation: &Conversation, answer: &impl Fn(&mut Exchange) -> IoResult<()>) -> IoResult<()> {
    conversation.stream.set_nodelay(true)?;
    let input = BufReader::with_capacity(128 << 10, conversation.stream.try_clone()?);
    let mut exchange = Exchange { head: Head::default(), from: conversation.from, stream: conversation.stream.try_clone()?, input };
    while let Some(head) = Head::read(&mut exchange.input)? {
        exchange.head = head;
        answer(&mut exchange)?;
        if exchange.head.is_last() {
            break;
        }
    }
    Ok(())
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A connection for one request after the other.
pub struct Client {
    pub stream: TcpStream,
    input: BufReader<TcpStream>,
    host: String,
    /// The last answer said that it was the last.
    is_over: bool,
}

impl Client {
    pub fn dial(mesh: &Mesh, from: &str, to: SocketAddr) -> Result<Client> {
        Ok(Client::over(dial(mesh, &mesh.pod(from), to)?, to)?)
    }

    fn over(stream: TcpStream, to: SocketAddr) -> IoResult<Client> {
        let input = BufReader::with_capacity(128 << 10, stream.try_clone()?);
        Ok(Client { stream, input, host: to.to_string(), is_over: false })
    }

    /// Asks, without waiting for the answer; `fields` end with CRLF each.
    pub fn ask(&mut self, method: &str, path: &str, fields: &str) -> IoResult<()> {
        let request = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\n{fields}\r\n", self.host);
        self.stream.write_all(request.as_bytes())
    }

    /// The head of the next answer.
    pub fn head(&mut self) -> IoResult<Head> {
        let head = Head::read(&mut self.input)?.ok_or(ErrorKind::UnexpectedEof)?;
        self.is_over |= head.is_last();
        Ok(head)
    }

    /// What follows a head that was read.
    pub fn body(&mut self, head: &Head, piece: impl FnMut(&[u8]) -> IoResult<()>) -> IoResult<()> {
        head.body(&mut self.input, piece)
    }

    pub fn answer(&mut self) -> IoResult<Answer> {
        let head = self.head()?;
        let mut body = Vec::new();
        self.body(&head, |piece| {
            body.extend_from_slice(piece);
            Ok(())
        })?;
        let status = head.word(1).parse().map_err(|_| wrong("an answer without a status"))?;
        Ok(Answer { status, body })
    }

    pub fn get(&mut self, path: &str) -> IoResult<Answer> {
        self.ask("GET", path, "")?;
        self.answer()
    }

    pub fn post(&mut self, path: &str, body: &str) -> IoResult<Answer> {
        self.ask("POST", path, &format!("content-length: {}\r\n", body.len()))?;
        self.stream.write_all(body.as_bytes())?;
        self.answer()
    }

    /// Whether it can be asked again: the other side has not said, or shown, that this was all.
    pub fn is_open(&mut self) -> bool {
        if self.is_over || self.stream.set_nonblocking(true).is_err() {
            return false;
        }
        let seen = self.stream.peek(&mut [0]);
        let waits = matches!(&seen, Err(error) if error.kind() == ErrorKind::WouldBlock);
        self.stream.set_nonblocking(false).is_ok() && waits
    }
}

/// One request on a connection of its own.
pub fn get(mesh: &Mesh, from: &str, to: SocketAddr, path: &str) -> Result<Answer> {
    Client::dial(mesh, from, to)?.get(path).with_context(|| format!("GET {path} at {to}"))
}

/// How the connections of a load are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// A request each.
    Fresh,
    /// One request after the other, until the other side ends it.
    Kept,
}

/// What came of a load.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub statuses: BTreeMap<u16, usize>,
    /// Requests that got no answer.
    pub broken: usize,
    /// The first of them, in words.
    pub words: Vec<String>,
    pub longest: Duration,
}

impl Tally {
    pub fn made(&self) -> usize {
        self.broken + self.statuses.values().sum::<usize>()
    }

    pub fn of(&self, status: u16) -> usize {
        self.statuses.get(&status).copied().unwrap_or(0)
    }

    fn add(&mut self, outcome: Result<u16, String>, took: Duration) {
        self.longest = self.longest.max(took);
        match outcome {
            Ok(status) => *self.statuses.entry(status).or_default() += 1,
            Err(words) => {
                self.broken += 1;
                if self.words.len() < WORDS_KEPT {
                    self.words.push(words);
                }
            }
        }
    }

    fn join(mut self, other: Tally) -> Tally {
        other.statuses.into_iter().for_each(|(status, count)| *self.statuses.entry(status).or_default() += count);
        self.broken += other.broken;
        self.words.extend(other.words);
        self.longest = self.longest.max(other.longest);
        self
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} requests, answers {:?}, {} without one, longest {:.2} s {:?}", self.made(), self.statuses, self.broken, self.longest.as_secs_f32(), self.words)
    }
}

/// Requests from a pod, as fast as they are answered, on some connections at a time.
pub struct Load {
    stop: Arc<AtomicBool>,
    made: Arc<AtomicUsize>,
    threads: Vec<std::thread::JoinHandle<Tally>>,
}

impl Load {
    /// Until it is ended. Each path is asked by `at_a_time` connections.
    pub fn begin(mesh: &Mesh, from: &str, to: SocketAddr, paths: &[&str], how: Use, at_a_time: usize) -> Load {
        Load::start(mesh, from, to, paths, how, at_a_time, usize::MAX)
    }

    /// Until so many were made by all connections together.
    pub fn of(mesh: &Mesh, from: &str, to: SocketAddr, path: &str, at_a_time: usize, count: usize) -> Tally {
        let mut load = Load::start(mesh, from, to, &[path], Use::Kept, at_a_time, count);
        load.join()
    }

    fn start(mesh: &Mesh, from: &str, to: SocketAddr, paths: &[&str], how: Use, at_a_time: usize, count: usize) -> Load {
        let (stop, made) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let place = netns::path(&mesh.pod(from).netns);
        let connections = paths.iter().flat_map(|path| std::iter::repeat_n((*path).to_owned(), at_a_time));
        let threads = connections.map(|path| {
            let (stop, made, place) = (stop.clone(), made.clone(), place.clone());
            std::thread::spawn(move || {
                let (mut tally, mut kept) = (Tally::default(), None);
                while !stop.load(Ordering::SeqCst) && made.fetch_add(1, Ordering::SeqCst) < count {
                    let began = Instant::now();
                    let outcome = request(&place, to, &path, how, &mut kept);
                    tally.add(outcome, began.elapsed());
                }
                tally
            })
        });
        Load { threads: threads.collect(), stop, made }
    }

    /// Requests that were begun.
    pub fn made(&self) -> usize {
        self.made.load(Ordering::SeqCst)
    }

    pub fn end(mut self) -> Tally {
        self.stop.store(true, Ordering::SeqCst);
        self.join()
    }

    fn join(&mut self) -> Tally {
        self.threads.drain(..).filter_map(|thread| thread.join().ok()).fold(Tally::default(), Tally::join)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

fn request(place: &std::path::Path, to: SocketAddr, path: &str, how: Use, kept: &mut Option<Client>) -> Result<u16, String> {
    let mut client = match kept.take().and_then(|mut client| client.is_open().then_some(client)) {
        Some(client) => client,
        None => connect(place, to).map_err(|error| format!("connect: {error}"))?,
    };
    let fields = if how == Use::Fresh { "connection: close\r\n" } else { "" };
    let answer = client.ask("GET", path, fields).and_then(|()| client.answer()).map_err(|error| format!("{path}: {error}"))?;
    *kept = (how == Use::Kept).then_some(client);
    Ok(answer.status)
}

fn connect(place: &std::path::Path, to: SocketAddr) -> IoResult<Client> {
    let stream = netns::within(place, move || TcpStream::connect_timeout(&to, PATIENCE)).map_err(Error::other)??;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Client::over(stream, to)
}
