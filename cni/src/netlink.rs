//! The routing rule and the route that a captured pod needs: what bears the return mark is delivered locally
//! (spec/dataplane.md 2.2). Messages are built by pure functions; [`send`] is the only system call.

use std::io;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, socket};

use crate::redirect::RETURN_MARK;

/// Before the main table (32766), like the field's.
const PRIORITY: u32 = 32764;
const TABLE: u8 = 100;
/// The index of `lo` in every namespace.
const LOOPBACK_INDEX: u32 = 1;

/// Which of the two families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Add,
    Remove,
}

/// Adds or removes rule and route for a family, in the calling thread's namespace. Adding what is there, and removing
/// what is not, succeed.
///
/// # Errors
/// Those of netlink, with what was being changed in the text.
pub fn change(family: Family, change: Change) -> io::Result<()> {
    for (what, message) in [("route", route(family, change)), ("rule", rule(family, change))] {
        match (change, send(&message)) {
            (_, Ok(())) | (Change::Add, Err(Errno::EEXIST)) | (Change::Remove, Err(Errno::ENOENT | Errno::ESRCH)) => {}
            (_, Err(errno)) => {
                let text = format!("cannot {} the {family:?} {what} of table {TABLE}: {errno}", change.verb());
                return Err(io::Error::new(io::Error::from(errno).kind(), text));
            }
        }
    }
    Ok(())
}

/// `ip route … local default dev lo table 100`
fn route(family: Family, change: Change) -> Vec<u8> {
    const LOCAL: u8 = 2; // RTN_LOCAL
    const STATIC: u8 = 4; // RTPROT_STATIC
    const SCOPE_HOST: u8 = 254;
    let kind = if change == Change::Add { libc::RTM_NEWROUTE } else { libc::RTM_DELROUTE };
    let head = [family.number(), 0, 0, 0, TABLE, STATIC, SCOPE_HOST, LOCAL, 0, 0, 0, 0];
    message(kind, change, &head, &[(libc::RTA_OIF, LOOPBACK_INDEX)])
}

/// `ip rule … pref 32764 fwmark 0x111 lookup 100`
fn rule(family: Family, change: Change) -> Vec<u8> {
    const TO_TABLE: u8 = 1; // FR_ACT_TO_TBL
    const FRA_PRIORITY: u16 = 6;
    const FRA_FWMARK: u16 = 10;
    const FRA_FWMASK: u16 = 16;
    let kind = if change == Change::Add { libc::RTM_NEWRULE } else { libc::RTM_DELRULE };
    let head = [family.number(), 0, 0, 0, TABLE, 0, 0, TO_TABLE, 0, 0, 0, 0];
    message(kind, change, &head, &[(FRA_PRIORITY, PRIORITY), (FRA_FWMARK, RETURN_MARK), (FRA_FWMASK, u32::MAX)])
}

/// A message with 32-bit attributes, as rtnetlink(7) lays it out.
fn message(kind: u16, change: Change, head: &[u8; 12], attributes: &[(u16, u32)]) -> Vec<u8> {
    let create = if change == Change::Add { libc::NLM_F_CREATE | libc::NLM_F_EXCL } else { 0 };
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK | create) as u16;
    let length = 16 + head.len() + attributes.len() * 8;
    let mut bytes = Vec::with_capacity(length);
    bytes.extend((length as u32).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]); // sequence and port: one question, one answer
    bytes.extend(head);
    for (name, value) in attributes {
        bytes.extend(8u16.to_ne_bytes());
        bytes.extend(name.to_ne_bytes());
        bytes.extend(value.to_ne_bytes());
    }
    bytes
}

/// Sends one message and waits for the kernel's acknowledgement, which is immediate.
fn send(message: &[u8]) -> Result<(), Errno> {
    let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    nix::sys::socket::send(socket.as_raw_fd(), message, MsgFlags::empty())?;
    let mut answer = [0; 1024];
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    match acknowledged(&answer[..length]) {
        Some(0) => Ok(()),
        Some(error) => Err(Errno::from_raw(-error)),
        None => Err(Errno::EBADMSG),
    }
}

/// The error number (negative, 0 for success) of an NLMSG_ERROR answer.
fn acknowledged(answer: &[u8]) -> Option<i32> {
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    let error = i32::from_ne_bytes(answer.get(16..20)?.try_into().ok()?);
    (i32::from(kind) == libc::NLMSG_ERROR).then_some(error)
}

impl Change {
    fn verb(self) -> &'static str {
        match self {
            Change::Add => "add",
            Change::Remove => "remove",
        }
    }
}

impl Family {
    fn number(self) -> u8 {
        match self {
            Family::V4 => libc::AF_INET as u8,
            Family::V6 => libc::AF_INET6 as u8,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_an_error_number_or_nothing() {
        let mut answer = [0; 36];
        answer[4..6].copy_from_slice(&2u16.to_ne_bytes());
        answer[16..20].copy_from_slice(&(-17i32).to_ne_bytes());
        assert_eq!(acknowledged(&answer), Some(-17));
        assert_eq!(acknowledged(&answer[..18]), None, "cut short");
        answer[4..6].copy_from_slice(&3u16.to_ne_bytes());
        assert_eq!(acknowledged(&answer), None, "another kind of message");
    }

    #[test]
    fn lengths_are_right() {
        for message in [route(Family::V4, Change::Add), rule(Family::V6, Change::Remove)] {
            assert_eq!(u32::from_ne_bytes(message[..4].try_into().unwrap()) as usize, message.len());
        }
    }
}
