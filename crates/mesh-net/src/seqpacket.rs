//! Unix sockets that keep packets apart and carry descriptors (SOCK_SEQPACKET, SCM_RIGHTS).

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, getsockopt, recvmsg, sendmsg, sockopt};
use nix::sys::stat::{Mode, fchmod};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::unix::AsyncFd;

/// The most descriptors that Linux puts in one packet (SCM_MAX_FD). Room for all of them: what does not fit would be
/// lost track of instead of closed.
const DESCRIPTORS_MAX: usize = 253;

/// One end of a connection.
#[derive(Debug)]
pub struct SeqPacket(AsyncFd<Socket>);

/// A listening socket.
#[derive(Debug)]
pub struct SeqListener(AsyncFd<Socket>);

/// What one receive brought.
#[derive(Debug)]
pub struct Packet {
    /// Bytes in the buffer; 0 is the far end's end.
    pub length: usize,
    /// The packet was longer than the buffer, the rest is lost.
    pub truncated: bool,
    pub descriptors: Vec<OwnedFd>,
}

impl SeqPacket {
    /// Connects to a listening socket's path.
    ///
    /// # Errors
    /// Those of `connect`, with the path in the text.
    pub fn connect(path: &Path) -> io::Result<SeqPacket> {
        let connected = || {
            let socket = Socket::new(Domain::UNIX, Type::SEQPACKET.cloexec(), None)?;
            socket.set_nonblocking(true)?; // a full backlog is an error to try again later, not a reason to block
            socket.connect(&SockAddr::unix(path)?)?;
            Ok(SeqPacket(register(socket)?))
        };
        connected().map_err(|e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display())))
    }

    /// Two connected ends.
    ///
    /// # Errors
    /// Those of `socketpair`.
    pub fn pair() -> io::Result<(SeqPacket, SeqPacket)> {
        let (a, b) = Socket::pair(Domain::UNIX, Type::SEQPACKET.nonblocking().cloexec(), None)?;
        Ok((SeqPacket(register(a)?), SeqPacket(register(b)?)))
    }

    /// Sends one packet, with a copy of one descriptor if given.
    ///
    /// # Errors
    /// Those of `sendmsg`; `BrokenPipe` when the far end is gone.
    pub async fn send(&self, bytes: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let raw: Vec<RawFd> = descriptor.iter().map(AsRawFd::as_raw_fd).collect();
        self.send_raw(bytes, &raw).await
    }

    /// [`Self::send`] with any number of descriptors: what a test of a wrong peer needs.
    ///
    /// # Errors
    /// Those of `sendmsg`.
    pub async fn send_with(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        self.send_raw(bytes, &raw).await
    }

    async fn send_raw(&self, bytes: &[u8], raw: &[RawFd]) -> io::Result<()> {
        let rights = [ControlMessage::ScmRights(raw)];
        let rights = if raw.is_empty() { &[][..] } else { &rights[..] };
        let iov = [IoSlice::new(bytes)];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let send = |socket: &Socket| Ok(sendmsg::<()>(socket.as_raw_fd(), &iov, rights, flags, None)?);
        self.0.async_io(tokio::io::Interest::WRITABLE, send).await.map(drop)
    }

    /// The next packet. Descriptors that came are owned by the answer: dropped with it, closed.
    ///
    /// # Errors
    /// Those of `recvmsg`; `ConnectionReset` when the far end left unread packets behind.
    pub async fn recv(&self, buffer: &mut [u8]) -> io::Result<Packet> {
        self.0.async_io(tokio::io::Interest::READABLE, |socket| receive(socket, buffer)).await
    }

    /// The user that the far end belonged to when it connected.
    ///
    /// # Errors
    /// Those of `getsockopt`.
    pub fn peer_uid(&self) -> io::Result<u32> {
        Ok(getsockopt(self.0.get_ref(), sockopt::PeerCredentials)?.uid())
    }
}

fn receive(socket: &Socket, buffer: &mut [u8]) -> io::Result<Packet> {
    let mut control = nix::cmsg_space!([RawFd; DESCRIPTORS_MAX]);
    let mut iov = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut iov, Some(&mut control), flags)?;
    let mut descriptors = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = control {
            descriptors.extend(raw.into_iter().map(adopt));
        }
    }
    let truncated = message.flags.contains(MsgFlags::MSG_TRUNC);
    Ok(Packet { length: message.bytes, truncated, descriptors })
}

/// Lets the runtime watch a socket.
#[allow(unsafe_code)]
pub(crate) fn register(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    // SAFETY: a `Socket` owns its descriptor, always names the same one and closes it only when it is dropped, which
    // is after AsyncFd has deregistered it. JUSTIFICATION: tokio has no safe constructor for descriptors of any kind.
    unsafe { AsyncFd::register(socket) }.map_err(io::Error::from)
}

/// Takes ownership of a descriptor that `recvmsg` has just brought.
#[allow(unsafe_code)]
fn adopt(raw: RawFd) -> OwnedFd {
    // SAFETY: the kernel made `raw` for this process in the recvmsg call that our only caller has just returned from;
    // the control message is read once, so nobody else owns it. JUSTIFICATION: nix hands out raw numbers; without
    // ownership an error on the way would leak descriptors.
    unsafe { OwnedFd::from_raw_fd(raw) }
}

impl SeqListener {
    /// Listens at `path` with file mode 0600, replacing a socket that an earlier process left there. A missing folder
    /// is made with mode 0700.
    ///
    /// # Errors
    /// Those of the calls, with the path in the text; `AlreadyExists` when something other than a socket is there;
    /// `PermissionDenied` when everybody may write to the folder.
    pub fn bind(path: &Path) -> io::Result<SeqListener> {
        bind(path).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))
    }

    /// The next connection.
    ///
    /// # Errors
    /// Those of `accept`.
    pub async fn accept(&self) -> io::Result<SeqPacket> {
        let socket = self.0.async_io(tokio::io::Interest::READABLE, |socket| Ok(socket.accept()?.0)).await?;
        socket.set_nonblocking(true)?;
        Ok(SeqPacket(register(socket)?))
    }
}

fn bind(path: &Path) -> io::Result<SeqListener> {
    if let Some(folder) = path.parent().filter(|f| !f.as_os_str().is_empty()) {
        if !folder.exists() {
            std::fs::create_dir_all(folder)?;
            std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700))?;
        } else if std::fs::metadata(folder)?.mode() & 0o1002 == 0o002 {
            let text = format!("everybody may write to the folder {}: refuse to listen there", folder.display());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
    }
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => std::fs::remove_file(path)?,
        Ok(_) => return Err(io::Error::new(io::ErrorKind::AlreadyExists, "something that is not a socket is in the way")),
        Err(_) => {}
    }
    let socket = Socket::new(Domain::UNIX, Type::SEQPACKET.nonblocking().cloexec(), None)?;
    fchmod(&socket, Mode::from_bits_truncate(0o600))?; // before bind: the file never exists with a wider mode
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(16)?; // one daemon, two while one replaces the other
    Ok(SeqListener(register(socket)?))
}

#[cfg(test)]
mod tests;
