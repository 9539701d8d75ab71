//! A packet socket on the wire between the nodes. Reads one port of the wire's bridge, so every frame that passes
//! between that node and another is seen once, as it is on the cable.

use std::io::IoSliceMut;
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{ControlMessageOwned, LinkAddr, MsgFlags, recvmsg, setsockopt, sockopt};
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

/// A running capture, and what is made of it.
#[derive(Debug)]
pub struct Wire<E = Evidence> {
    seen: Arc<Mutex<E>>,
    missed: Arc<AtomicU32>,
    end: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl Wire {
    /// Listens at `port` in namespace `name`. When this returns, nothing that is sent from now on is missed.
    pub fn tap(name: &str, port: &str, words: &[&'static str]) -> anyhow::Result<Wire> {
        Wire::watch(name, port, Evidence::looking_for(words), Evidence::take)
    }

    /// What was seen until now.
    pub fn evidence(&self) -> Evidence {
        self.look(|seen| seen.clone())
    }
}

impl<E: Send + 'static> Wire<E> {
    /// The same, with somebody else to take each frame.
    pub fn watch(name: &str, port: &str, seen: E, take: impl FnMut(&mut E, &[u8]) + Send + 'static) -> anyhow::Result<Wire<E>> {
        let port = port.to_owned();
        let (socket, index) = netns::within(&netns::path(name), move || open(&port))??;
        let (seen, missed, end) = (Arc::new(Mutex::new(seen)), Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
        let (into, lost, stop) = (seen.clone(), missed.clone(), end.clone());
        let (ready, wait) = mpsc::channel();
        let reader = std::thread::spawn(move || {
            let _ = ready.send(());
            read(&socket, index, &into, take, &lost, &stop);
        });
        let _ = wait.recv();
        Ok(Wire { seen, missed, end, reader: Some(reader) })
    }

    /// Frames wait while this looks.
    pub fn look<T>(&self, look: impl FnOnce(&mut E) -> T) -> T {
        look(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Frames that came faster than they were read, as the kernel counts them.
    pub fn missed(&self) -> u32 {
        self.missed.load(Ordering::Relaxed)
    }
}

impl<E> Drop for Wire<E> {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

fn open(port: &str) -> anyhow::Result<(Socket, usize)> {
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(i32::from(EVERY_PROTOCOL.to_be())))).context("cannot open a packet socket on the wire")?;
    // By force: the machine's limit for everybody is a few hundred frames.
    setsockopt(&socket, sockopt::RcvBufForce, &BUFFER)?;
    setsockopt(&socket, sockopt::RxqOvfl, &1)?;
    socket.set_read_timeout(Some(LOOK_UP))?;
    let index = if_nametoindex(port).with_context(|| format!("the wire has no port {port}"))?;
    Ok((socket, index as usize))
}

fn read<E>(socket: &Socket, index: usize, into: &Mutex<E>, mut take: impl FnMut(&mut E, &[u8]), missed: &AtomicU32, end: &AtomicBool) {
    let mut frame = vec![0; FRAME_MAX];
    let mut beside = nix::cmsg_space!(u32);
    while !end.load(Ordering::Relaxed) {
        let mut parts = [IoSliceMut::new(&mut frame)];
        let (length, from) = match recvmsg::<LinkAddr>(socket.as_raw_fd(), &mut parts, Some(&mut beside), MsgFlags::empty()) {
            Ok(got) => {
                let lost = got.cmsgs().into_iter().flatten().find_map(|one| if let ControlMessageOwned::RxqOvfl(lost) = one { Some(lost) } else { None });
                if let Some(lost) = lost {
                    missed.store(lost, Ordering::Relaxed);
                }
                (got.bytes, got.address.map(|from| from.ifindex()))
            }
            // The time to look up.
            Err(nix::Error::EAGAIN | nix::Error::EINTR) => continue,
            Err(_) => return,
        };
        // Else it is another port of the switch.
        if from == Some(index) {
            take(&mut into.lock().unwrap_or_else(PoisonError::into_inner), &frame[..length.min(FRAME_MAX)]);
        }
    }
}
