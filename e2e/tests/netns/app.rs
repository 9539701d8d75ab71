//! Applications of this process inside a pod's network: servers that count what reaches them, clients that show how a
//! connection ends. Real sockets on the real kernel; nothing in them knows of the mesh.

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use anyhow::{Context, Result};
use isthmus::lab::state::PodState;
use nix::sys::socket::{Shutdown, setsockopt, shutdown, sockopt};

use crate::netns::mesh::{MARKER, Mesh};

/// A socket of a check never waits longer.
pub const PATIENCE: Duration = Duration::from_secs(12);

/// A listening application. Dropped, it stops.
pub struct Server {
    pub accepted: Arc<AtomicUsize>,
    pub received: Arc<AtomicU64>,
    listener: OwnedFd,
}

/// What a server does with a connection.
pub type Serve = dyn Fn(&mut Conversation) -> std::io::Result<()> + Send + Sync;

/// A connection at a server, and who is said to be at the other end.
pub struct Conversation {
    pub stream: TcpStream,
    pub from: SocketAddr,
    received: Arc<AtomicU64>,
}

impl Conversation {
    pub fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let count = self.stream.read(into)?;
        self.received.fetch_add(count as u64, Ordering::SeqCst);
        Ok(count)
    }
}

impl Server {
    /// Listens on both families.
    pub fn start(
        mesh: &Mesh,
        pod: &PodState,
        port: u16,
        serve: impl Fn(&mut Conversation) -> std::io::Result<()> + Send + Sync + 'static,
    ) -> Result<Server> {
        Server::bind(mesh, &pod.netns, SocketAddr::new("::".parse::<IpAddr>()?, port), serve)
    }

    pub fn bind(
        mesh: &Mesh,
        netns: &str,
        at: SocketAddr,
        serve: impl Fn(&mut Conversation) -> std::io::Result<()> + Send + Sync + 'static,
    ) -> Result<Server> {
        let listener = mesh.within(netns, move || TcpListener::bind(at))?.with_context(|| format!("cannot listen at {at}"))?;
        // The usual backlog is too short for a thousand clients at once.
        nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(4096)?)?;
        let server = Server { accepted: Arc::default(), received: Arc::default(), listener: listener.try_clone()?.into() };
        let (accepted, received) = (server.accepted.clone(), server.received.clone());
        let serve: Arc<Serve> = Arc::new(serve);
        std::thread::spawn(move || {
            while let Ok((stream, from)) = listener.accept() {
                accepted.fetch_add(1, Ordering::SeqCst);
                let _ = stream.set_read_timeout(Some(Duration::from_secs(120)));
                let mut conversation = Conversation {
                    stream,
                    from: SocketAddr::new(from.ip().to_canonical(), from.port()),
                    received: received.clone(),
                };
                let serve = serve.clone();
                // The end of a conversation is judged by the client.
                std::thread::spawn(move || serve(&mut conversation));
            }
        });
        Ok(server)
    }

    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    pub fn received(&self) -> u64 {
        self.received.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = shutdown(self.listener.as_raw_fd(), Shutdown::Both);
    }
}

/// Says back what it hears, as it hears it, until the client has said all.
pub fn echo(conversation: &mut Conversation) -> std::io::Result<()> {
    let mut buffer = [0; 16384];
    loop {
        match conversation.read(&mut buffer)? {
            0 => return Ok(()),
            count => conversation.stream.write_all(&buffer[..count])?,
        }
    }
}

/// Says nothing until the client has said all, then says all of it back.
pub fn echo_at_end(conversation: &mut Conversation) -> std::io::Result<()> {
    let mut all = Vec::new();
    let mut buffer = [0; 16384];
    loop {
        match conversation.read(&mut buffer)? {
            0 => return conversation.stream.write_all(&all),
            count => all.extend_from_slice(&buffer[..count]),
        }
    }
}

/// Says who is there, first, and then echoes.
pub fn greet(conversation: &mut Conversation) -> std::io::Result<()> {
    let line = format!("{}\n", conversation.from.ip());
    conversation.stream.write_all(line.as_bytes())?;
    echo(conversation)
}

/// Whom a server of [`greet`] takes the client for, and a word over the same connection.
pub fn greeted(mut stream: TcpStream) -> Result<String> {
    let mut line = String::new();
    BufReader::new(stream.try_clone()?).read_line(&mut line)?;
    ask(&mut stream, MARKER)?;
    Ok(line.trim().to_owned())
}

/// Connects from a pod.
pub fn dial(mesh: &Mesh, pod: &PodState, to: SocketAddr) -> Result<TcpStream> {
    dial_in(mesh, &pod.netns, to)
}

pub fn dial_in(mesh: &Mesh, netns: &str, to: SocketAddr) -> Result<TcpStream> {
    let stream =
        mesh.within(netns, move || TcpStream::connect_timeout(&to, PATIENCE))?.with_context(|| format!("connect to {to}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// One word and its echo.
pub fn ask(stream: &mut TcpStream, word: &str) -> Result<()> {
    stream.write_all(word.as_bytes())?;
    let mut answer = vec![0; word.len()];
    stream.read_exact(&mut answer)?;
    anyhow::ensure!(answer == word.as_bytes(), "another answer: {:?}", String::from_utf8_lossy(&answer));
    Ok(())
}

/// The next close sends RST.
pub fn reset_at_close(stream: &TcpStream) -> Result<()> {
    Ok(setsockopt(stream, sockopt::Linger, &libc_linger())?)
}

fn libc_linger() -> nix::libc::linger {
    nix::libc::linger { l_onoff: 1, l_linger: 0 }
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// FIN: the other side says that this was all.
    Finished,
    /// RST.
    Reset,
    /// It has not ended in the time that a check waits.
    Open,
}

/// Reads to the end; what came and how it ended.
pub fn to_end(stream: &mut TcpStream) -> (Vec<u8>, End) {
    let mut all = Vec::new();
    let end = match stream.read_to_end(&mut all) {
        Ok(_) => End::Finished,
        Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => End::Open,
        Err(_) => End::Reset,
    };
    (all, end)
}

/// Watches a connection from another thread and tells how it ends.
pub fn watch(stream: TcpStream) -> mpsc::Receiver<(std::time::Instant, End)> {
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        let mut stream = stream;
        let (_, end) = to_end(&mut stream);
        let _ = tell.send((std::time::Instant::now(), end));
    });
    told
}
