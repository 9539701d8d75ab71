//! A packet socket on the wire between the nodes. Reads one port of the wire's bridge, so every frame that passes
//! between that node and another is seen once, as it is on the cable.

use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{LinkAddr, recvfrom};
use socket2::{Domain, Protocol, Socket, Type};

use super::evidence::Evidence;
use crate::lab::netns;

/// ETH_P_ALL: every protocol. The kernel wants it in network byte order.
const EVERY_PROTOCOL: u16 = 0x0003;
/// Frames wait here while we look at others; with less, a burst of bulk traffic is lost.
const BUFFER: usize = 32 << 20;
/// A frame on a virtual cable is as large as the sender's segmentation makes it.
const FRAME_MAX: usize = 128 << 10;
/// How often the reader looks whether it is to end.
const LOOK_UP: Duration = Duration::from_millis(50);

/// A running capture.
#[derive(Debug)]
pub struct Wire {
    evidence: Arc<Mutex<Evidence>>,
    end: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl Wire {
    /// Listens at `port` in namespace `name`. When this returns, nothing that is sent from now on is missed.
    pub fn tap(name: &str, port: &str, words: &[&'static str]) -> anyhow::Result<Wire> {
        let port = port.to_owned();
        let (socket, index) = netns::within(&netns::path(name), move || open(&port))??;
        let evidence = Arc::new(Mutex::new(Evidence::looking_for(words)));
        let end = Arc::new(AtomicBool::new(false));
        let (into, stop) = (evidence.clone(), end.clone());
        let (ready, wait) = mpsc::channel();
        let reader = std::thread::spawn(move || {
            let _ = ready.send(());
            read(&socket, index, &into, &stop);
        });
        let _ = wait.recv();
        Ok(Wire { evidence, end, reader: Some(reader) })
    }

    /// What was seen until now.
    pub fn evidence(&self) -> Evidence {
        self.evidence.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

fn open(port: &str) -> anyhow::Result<(Socket, usize)> {
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(i32::from(EVERY_PROTOCOL.to_be())))).context("cannot open a packet socket on the wire")?;
    socket.set_recv_buffer_size(BUFFER)?;
    socket.set_read_timeout(Some(LOOK_UP))?;
    let index = if_nametoindex(port).with_context(|| format!("the wire has no port {port}"))?;
    Ok((socket, index as usize))
}

fn read(socket: &Socket, index: usize, into: &Mutex<Evidence>, end: &AtomicBool) {
    let mut frame = vec![0; FRAME_MAX];
    while !end.load(Ordering::Relaxed) {
        match recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut frame) {
            Ok((length, Some(from))) if from.ifindex() == index => into.lock().unwrap_or_else(PoisonError::into_inner).take(&frame[..length.min(FRAME_MAX)]),
            // Another port, or the time to look up.
            Ok(_) | Err(nix::Error::EAGAIN | nix::Error::EINTR) => {}
            Err(_) => return,
        }
    }
}
