//! Netlink messages (netlink(7)): building and reading them are pure functions; a question with its answer, and a socket
//! that hears of changes, are all that talks to the kernel. Both speak of the calling thread's network namespace.

use std::io;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, socket};
use socket2::Socket;
use tokio::io::unix::AsyncFd;

use crate::seqpacket::register;

/// Length, kind, flags, sequence, port.
const HEAD: usize = 16;
/// The kernel fills a dump's datagrams up to 32 KiB when the receiver has room for them.
const RECEIVE_BYTES: usize = 32 * 1024;

pub const REQUEST: u16 = libc::NLM_F_REQUEST as u16;
pub const ACKNOWLEDGE: u16 = libc::NLM_F_ACK as u16;
pub const DUMP: u16 = libc::NLM_F_DUMP as u16;

/// A message with this body. Sequence and port stay 0: one question, one answer.
pub fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD + body.len());
    bytes.extend(((HEAD + body.len()) as u32).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend(body);
    bytes
}

/// Kind and body of each message of a datagram; what is cut short ends them.
pub fn messages(mut datagram: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(datagram.get(..4)?.try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes(datagram.get(4..6)?.try_into().ok()?);
        let body = datagram.get(HEAD..length)?;
        datagram = datagram.get(aligned(length)..).unwrap_or_default();
        Some((kind, body))
    })
}

/// Kind and content of each attribute; what is cut short ends them.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?);
        let content = bytes.get(4..length)?;
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
        Some((kind, content))
    })
}

/// An attribute that is a 32-bit number.
pub fn attribute(kind: u16, value: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..2].copy_from_slice(&8u16.to_ne_bytes());
    bytes[2..4].copy_from_slice(&kind.to_ne_bytes());
    bytes[4..].copy_from_slice(&value.to_ne_bytes());
    bytes
}

fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

/// What an NLMSG_ERROR or NLMSG_DONE says: 0 is success, an error is negative.
fn outcome(body: &[u8]) -> Option<Result<(), Errno>> {
    let number = i32::from_ne_bytes(body.get(..4)?.try_into().ok()?);
    Some(if number == 0 { Ok(()) } else { Err(Errno::from_raw(number.saturating_neg())) })
}

/// Sends one message that asks for an acknowledgement and waits for it; the kernel answers at once.
///
/// # Errors
/// The kernel's answer.
pub fn ask(protocol: SockProtocol, message: &[u8]) -> Result<(), Errno> {
    dump(protocol, message, |_, _| {})
}

/// Sends one message and hands on every message of the answer, until the kernel says that this was all.
///
/// # Errors
/// The kernel's answer.
pub fn dump(protocol: SockProtocol, message: &[u8], mut each: impl FnMut(u16, &[u8])) -> Result<(), Errno> {
    let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
    send(socket.as_raw_fd(), message, MsgFlags::empty())?;
    let mut buffer = vec![0; RECEIVE_BYTES];
    loop {
        let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        for (kind, body) in messages(&buffer[..length]) {
            match i32::from(kind) {
                libc::NLMSG_ERROR | libc::NLMSG_DONE => return outcome(body).unwrap_or(Err(Errno::EBADMSG)),
                _ => each(kind, body),
            }
        }
        if length == 0 {
            return Err(Errno::EBADMSG);
        }
    }
}

/// Hears that something changed in the namespace in which it was opened; what, is to be looked up.
#[derive(Debug)]
pub struct Monitor(AsyncFd<Socket>);

impl Monitor {
    /// Opens it in the calling thread's namespace; to be used within a runtime. `groups` is a mask: bit n-1 for group n.
    ///
    /// # Errors
    /// `PermissionDenied` without CAP_NET_ADMIN there, for protocols that want it.
    pub fn open(protocol: SockProtocol, groups: u32) -> io::Result<Monitor> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
        Ok(Monitor(register(socket.into())?))
    }

    /// Until something changed. All that is queued then counts as one change; so does a queue that overflowed.
    /// Cancel-safe.
    ///
    /// # Errors
    /// Those of `recv`; the monitor is of no more use then.
    pub async fn changed(&self) -> io::Result<()> {
        loop {
            let mut ready = self.0.readable().await?;
            let mut heard = false;
            let emptied = ready.try_io(|socket| {
                let mut buffer = [0; 4096]; // the content is not looked at
                loop {
                    match recv(socket.get_ref().as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                        Ok(_) | Err(Errno::ENOBUFS) => heard = true,
                        Err(error) => return Err::<(), io::Error>(error.into()),
                    }
                }
            });
            match emptied {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(error),
                Err(_would_block) if heard => return Ok(()),
                Err(_would_block) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_attributes_are_read_back() {
        let datagram = [message(20, REQUEST, &attribute(7, 99)), message(3, 0, &[1, 2, 3, 4])].concat();
        let read: Vec<_> = messages(&datagram).collect();
        assert_eq!(read, [(20, &attribute(7, 99)[..]), (3, &[1, 2, 3, 4][..])]);
        assert_eq!(attributes(read[0].1).collect::<Vec<_>>(), [(7, &99u32.to_ne_bytes()[..])]);
    }

    #[test]
    fn what_is_cut_short_ends_them() {
        let whole = message(20, 0, &attribute(7, 99));
        for length in 0..whole.len() {
            assert_eq!(messages(&whole[..length]).count(), 0, "{length}");
        }
        for bytes in [&[][..], &[0, 0, 0, 0], &[3, 0, 1, 0, 0, 0], &[255, 255, 1, 0, 0]] {
            assert_eq!(attributes(bytes).count(), 0, "{bytes:?}");
        }
        let mut endless = whole.clone();
        endless[..4].copy_from_slice(&0u32.to_ne_bytes());
        assert_eq!(messages(&endless).count(), 0, "a length of nothing");
    }

    #[test]
    fn an_outcome_is_an_error_number_or_nothing() {
        assert_eq!(outcome(&0i32.to_ne_bytes()), Some(Ok(())));
        assert_eq!(outcome(&(-17i32).to_ne_bytes()), Some(Err(Errno::EEXIST)));
        assert_eq!(outcome(&i32::MIN.to_ne_bytes()), Some(Err(Errno::UnknownErrno)));
        assert_eq!(outcome(&[0, 0]), None);
    }
}
