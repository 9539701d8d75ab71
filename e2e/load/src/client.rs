//! One connection of the load: a single request, one of many, or one that is held. What ends it other than planned is the
//! error, with the stage at which it happened.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::answer::{self, Answer};

/// Who waits longer than this for a connection or an answer has given up.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// What went wrong, in words that tell the stage: "connect: Connection refused".
pub type Why = String;

/// Who is asked, and what is said beside the path.
#[derive(Clone, Debug)]
pub struct To {
    /// HOST:PORT
    pub at: String,
    /// Lines of a head, each with its end.
    pub headers: String,
}

impl To {
    /// With headers as `name: value`.
    pub fn new(at: String, headers: &[String]) -> To {
        To { at, headers: headers.iter().map(|header| format!("{header}\r\n")).collect() }
    }
}

async fn in_time<T>(stage: &str, work: impl Future<Output = std::io::Result<T>>) -> Result<T, Why> {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(format!("{stage}: {error}")),
        Err(_) => Err(format!("{stage}: nothing within {} s", PATIENCE.as_secs())),
    }
}

pub async fn connect(at: &str) -> Result<TcpStream, Why> {
    let mut places = in_time("resolve", tokio::net::lookup_host(at)).await?;
    let place = places.next().ok_or("resolve: no address")?;
    let stream = in_time("connect", TcpStream::connect(place)).await?;
    stream.set_nodelay(true).map_err(|error| format!("connect: {error}"))?;
    Ok(stream)
}

/// A request on a connection of its own, to its end: the server closes it, and a reset after the answer is a failure too.
pub async fn fresh(to: &To, path: &str) -> Result<Answer, Why> {
    let mut stream = connect(&to.at).await?;
    let from = stream.local_addr();
    let asked = ask_once(&mut stream, to, path).await;
    // By its port it is found again in a capture and in the logs of whoever carried it.
    asked.map_err(|why| from.map_or_else(|_| why.clone(), |from| format!("{why} (from {from})")))
}

async fn ask_once(stream: &mut TcpStream, to: &To, path: &str) -> Result<Answer, Why> {
    send(stream, to, path, "close").await?;
    let mut bytes = Vec::new();
    let answer = read(stream, &mut bytes).await?;
    in_time("end", stream.read_to_end(&mut bytes)).await?;
    if bytes.is_empty() { Ok(answer) } else { Err(format!("end: {} bytes after the answer", bytes.len())) }
}

async fn send(stream: &mut TcpStream, to: &To, path: &str, connection: &str) -> Result<(), Why> {
    let request = format!("GET {path} HTTP/1.1\r\nhost: {}\r\nconnection: {connection}\r\n{}\r\n", to.at, to.headers);
    in_time("send", stream.write_all(request.as_bytes())).await
}

/// The next answer; what comes after it stays in `bytes`.
async fn read(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Result<Answer, Why> {
    loop {
        if let Some((answer, taken)) = answer::read(bytes).map_err(|why| format!("answer: {why}"))? {
            bytes.drain(..taken);
            return Ok(answer);
        }
        if in_time("answer", stream.read_buf(bytes)).await? == 0 {
            return Err("answer: the connection ended before it".into());
        }
    }
}

/// A connection for one request after the other.
pub struct Kept {
    stream: TcpStream,
    bytes: Vec<u8>,
    to: To,
}

impl Kept {
    pub async fn open(to: &To) -> Result<Kept, Why> {
        Ok(Kept { stream: connect(&to.at).await?, bytes: Vec::new(), to: to.clone() })
    }

    pub async fn ask(&mut self, path: &str) -> Result<Answer, Why> {
        send(&mut self.stream, &self.to, path, "keep-alive").await?;
        read(&mut self.stream, &mut self.bytes).await
    }

    /// Waits, and hears at once when the connection ends meanwhile.
    pub async fn rest(&mut self, pause: Duration) -> Result<(), Why> {
        rest(&mut self.stream, pause).await
    }
}

/// A connection that is held: blocks go there and have to come back as they are.
pub struct Held {
    stream: TcpStream,
    number: u32,
    sent: u64,
}

/// A block names its connection and its place, so that one that is lost, doubled, swapped or another connection's shows.
const BLOCK: usize = 1024;

fn block(number: u32, at: u64) -> [u8; BLOCK] {
    let name = format!("{number:08x}.{at:016x}.");
    let mut block = [0; BLOCK];
    for (into, from) in block.iter_mut().zip(name.bytes().cycle()) {
        *into = from;
    }
    block
}

impl Held {
    pub async fn open(at: &str, number: u32) -> Result<Held, Why> {
        Ok(Held { stream: connect(at).await?, number, sent: 0 })
    }

    pub async fn echo(&mut self) -> Result<(), Why> {
        let block = block(self.number, self.sent);
        self.sent += 1;
        in_time("send", self.stream.write_all(&block)).await?;
        let mut echo = [0; BLOCK];
        in_time("echo", self.stream.read_exact(&mut echo)).await?;
        if echo == block { Ok(()) } else { Err(format!("echo: another block came: {:?}", String::from_utf8_lossy(&echo[..26]))) }
    }

    pub async fn rest(&mut self, pause: Duration) -> Result<(), Why> {
        rest(&mut self.stream, pause).await
    }
}

async fn rest(stream: &mut TcpStream, pause: Duration) -> Result<(), Why> {
    match tokio::time::timeout(pause, stream.read(&mut [0; 1])).await {
        Err(_) => Ok(()),
        Ok(Ok(0)) => Err("idle: the other side ended it".into()),
        Ok(Ok(_)) => Err("idle: bytes that nobody asked for".into()),
        Ok(Err(error)) => Err(format!("idle: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_differ_by_connection_and_by_place() {
        assert_eq!(block(1, 2), block(1, 2));
        assert_ne!(block(1, 2), block(2, 1));
        assert_ne!(block(1, 2), block(1, 3));
        assert_eq!(&block(1, 2)[..26], b"00000001.0000000000000002.");
    }
}
