//! `Net` on Linux: sockets of the process's own namespace ([`HostNet`]) or of a pod's ([`PodNet`]).

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use socket2::Socket;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::net::{Accept, Accepted, Datagrams, Net, Source, canonical};
use crate::netns::Netns;
use crate::sockopt::{self, Options};

/// The network namespace that this process runs in.
#[derive(Clone, Debug)]
pub struct HostNet(Arc<Place>);

/// A pod's network namespace. Sockets are made inside it, by a synchronous step that returns the thread at once, and
/// bear the pod's mark; a socket stays in the namespace it was made in.
#[derive(Clone, Debug)]
pub struct PodNet(Arc<Place>);

#[derive(Debug)]
struct Place {
    /// The namespace to enter, and the one to come back to; `None` when it is our own.
    within: Option<Within>,
    options: Options,
    /// A source that could not be had was reported: once per place, not once per connection.
    spoofing_failed: AtomicBool,
}

#[derive(Clone, Debug)]
struct Within {
    pod: Netns,
    home: Netns,
}

impl HostNet {
    pub fn new(options: Options) -> HostNet {
        HostNet(Arc::new(Place { within: None, options, spoofing_failed: AtomicBool::new(false) }))
    }
}

impl PodNet {
    /// `home` is the namespace of this process's threads ([`Netns::current`] at start).
    ///
    /// # Errors
    /// When `pod` cannot be entered: `PermissionDenied`, or `InvalidInput` when it is no network namespace.
    pub fn new(pod: Netns, home: Netns, options: Options) -> io::Result<PodNet> {
        pod.run(&home, || Ok(()))?;
        let within = Some(Within { pod, home });
        Ok(PodNet(Arc::new(Place { within, options, spoofing_failed: AtomicBool::new(false) })))
    }

    /// The mark that exempts this pod's daemon from capture.
    pub fn mark(&self) -> Option<u32> {
        self.0.options.mark
    }

    /// Looks at the pod's namespace, or changes something in it. Synchronous: see [`Netns::run`].
    ///
    /// # Errors
    /// Those of entering it, and of `inside`.
    pub fn within<T>(&self, inside: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.0.run(inside)
    }
}

impl Place {
    fn between_nodes(&self, dead_after: Duration) -> Arc<Place> {
        let options = self.options.between_nodes(dead_after);
        Arc::new(Place { within: self.within.clone(), options, spoofing_failed: AtomicBool::new(false) })
    }

    fn run<T>(&self, make: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        match &self.within {
            Some(within) => within.pod.run(&within.home, make),
            None => make(),
        }
    }

    fn listen(&self, at: SocketAddr) -> io::Result<Listener> {
        let socket = self.run(|| sockopt::listener(at, &self.options))?;
        let inner = TcpListener::from_std(socket.into())?;
        let local = inner.local_addr()?;
        Ok(Listener { inner, local })
    }

    async fn dial(&self, to: SocketAddr, from: Source) -> io::Result<TcpStream> {
        let to = canonical(to);
        let (socket, unspoofed) = self.run(|| sockopt::dialer(to, from, &self.options))?;
        if let Some(error) = unspoofed
            && !self.spoofing_failed.swap(true, Relaxed)
        {
            tracing::warn!(%error, ?from, %to, "cannot keep the source address of clients, the application sees this pod's");
        }
        match timeout(self.options.connect_timeout, connect(socket, to)).await {
            Ok(connected) => connected,
            Err(_) => {
                let text = format!("no answer from {to} in {:?}", self.options.connect_timeout);
                Err(io::Error::new(io::ErrorKind::TimedOut, text))
            }
        }
    }

    fn bind_datagrams(&self, at: SocketAddr) -> io::Result<UdpSockets> {
        let socket: Socket = self.run(|| sockopt::datagrams(at, &self.options))?;
        let inner = UdpSocket::from_std(socket.into())?;
        let local = inner.local_addr()?;
        Ok(UdpSockets { inner, local })
    }
}

/// A peer in the same namespace has often answered within the call: then there is nothing to wait for.
async fn connect(socket: Socket, to: SocketAddr) -> io::Result<TcpStream> {
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let connected = socket.peer_addr().is_ok();
    let stream = TcpStream::from_std(socket.into())?;
    if !connected {
        stream.writable().await?; // or broken
        if let Some(error) = stream.take_error()? {
            return Err(error);
        }
    }
    Ok(stream)
}

macro_rules! net_of_place {
    ($name:ident) => {
        impl Net for $name {
            type Stream = TcpStream;
            type Listener = Listener;
            type Datagrams = UdpSockets;

            fn between_nodes(&self, dead_after: Duration) -> Self {
                $name(self.0.between_nodes(dead_after))
            }

            async fn listen(&self, at: SocketAddr) -> io::Result<Listener> {
                self.0.listen(at)
            }

            fn dial(&self, to: SocketAddr, from: Source) -> impl Future<Output = io::Result<TcpStream>> + Send {
                self.0.dial(to, from)
            }

            async fn bind_datagrams(&self, at: SocketAddr) -> io::Result<UdpSockets> {
                self.0.bind_datagrams(at)
            }
        }
    };
}

net_of_place!(HostNet);
net_of_place!(PodNet);

/// A listening TCP socket.
#[derive(Debug)]
pub struct Listener {
    inner: TcpListener,
    local: SocketAddr,
}

impl Accept for Listener {
    type Stream = TcpStream;

    async fn accept(&mut self) -> io::Result<Accepted<TcpStream>> {
        let (stream, from) = self.inner.accept().await?;
        let local = canonical(stream.local_addr()?);
        let to = sockopt::original_destination(&stream, local);
        Ok(Accepted { from: canonical(from), to, local, stream })
    }

    fn local_addr(&self) -> SocketAddr {
        self.local
    }
}

/// A UDP socket.
#[derive(Debug)]
pub struct UdpSockets {
    inner: UdpSocket,
    local: SocketAddr,
}

impl Datagrams for UdpSockets {
    async fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let (length, from) = self.inner.recv_from(buffer).await?;
        Ok((length, canonical(from)))
    }

    async fn send_to(&self, datagram: &[u8], to: SocketAddr) -> io::Result<()> {
        self.inner.send_to(datagram, to).await.map(drop)
    }

    // The kernel gives a connected socket what its peer sends and nothing else, and passes it over among those that share
    // the port. Nobody but sockets of this address sends from this address.
    fn retire(&self) -> io::Result<()> {
        socket2::SockRef::from(&self.inner).connect(&self.local.into())
    }

    fn local_addr(&self) -> SocketAddr {
        self.local
    }
}

#[cfg(test)]
mod tests;
