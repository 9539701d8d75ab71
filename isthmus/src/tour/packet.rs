//! Reading a frame from the wire: Ethernet, IPv4 or IPv6, TCP. Pure. Anything else, or anything cut short, is none.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What a frame says at the TCP layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub sequence: u32,
    /// SYN: of whoever opens the connection, and of whoever answers that.
    pub begins: bool,
    /// SYN without ACK: the very first segment of a connection.
    pub opens: bool,
    pub payload: &'a [u8],
}

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const TCP: u8 = 6;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// The TCP segment of an Ethernet frame, if it holds one.
pub fn segment(frame: &[u8]) -> Option<Segment<'_>> {
    let kind = u16::from_be_bytes([*frame.get(12)?, *frame.get(13)?]);
    let packet = frame.get(14..)?;
    let (from, to, tcp) = match kind {
        IPV4 => ipv4(packet)?,
        IPV6 => ipv6(packet)?,
        _ => return None,
    };
    let port = |at: usize| Some(u16::from_be_bytes([*tcp.get(at)?, *tcp.get(at + 1)?]));
    let sequence = u32::from_be_bytes(tcp.get(4..8)?.try_into().ok()?);
    let header = usize::from(tcp.get(12)? >> 4) * 4;
    Some(Segment {
        from: SocketAddr::new(from, port(0)?),
        to: SocketAddr::new(to, port(2)?),
        sequence,
        begins: tcp.get(13)? & SYN != 0,
        opens: tcp.get(13)? & (SYN | ACK) == SYN,
        payload: tcp.get(header..)?,
    })
}

fn ipv4(packet: &[u8]) -> Option<(IpAddr, IpAddr, &[u8])> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    // Short frames are padded; the packet's own length says where it ends. Zero: the kernel left it to the hardware.
    let total = usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]));
    let packet = if total == 0 { packet } else { packet.get(..total.min(packet.len()))? };
    let address = |at: usize| Some(IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?)));
    (*packet.get(9)? == TCP).then_some((address(12)?, address(16)?, packet.get(header..)?))
}

fn ipv6(packet: &[u8]) -> Option<(IpAddr, IpAddr, &[u8])> {
    let address = |at: usize| Some(IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?)));
    (*packet.get(6)? == TCP).then_some((address(8)?, address(24)?, packet.get(40..)?))
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A frame as it would be on the wire.
    pub fn frame(from: &str, to: &str, sequence: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
        let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
        let mut tcp = Vec::new();
        tcp.extend(from.port().to_be_bytes());
        tcp.extend(to.port().to_be_bytes());
        tcp.extend(sequence.to_be_bytes());
        tcp.extend([0, 0, 0, 0, 0x50, flags, 0, 0, 0, 0, 0, 0]);
        tcp.extend(payload);
        let mut frame = vec![0; 12];
        match (from.ip(), to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                frame.extend([8, 0, 0x45, 0]);
                frame.extend((20 + tcp.len() as u16).to_be_bytes());
                frame.extend([0, 0, 0, 0, 64, TCP, 0, 0]);
                frame.extend(from.octets());
                frame.extend(to.octets());
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                frame.extend((tcp.len() as u16).to_be_bytes());
                frame.extend([TCP, 64]);
                frame.extend(from.octets());
                frame.extend(to.octets());
            }
            _ => unreachable!("both ends are of one family"),
        }
        frame.extend(tcp);
        frame
    }

    #[test]
    fn both_families_are_read_and_padding_is_not_payload() {
        for (from, to) in [("10.0.0.1:80", "10.0.0.2:15008"), ("[fd10::1]:80", "[fd10::2]:15008")] {
            let mut bytes = frame(from, to, 7, 0x18, b"hello");
            if from.starts_with("10.") {
                bytes.extend([0; 6]);
            }
            let found = segment(&bytes).unwrap();
            assert_eq!((found.from.to_string().as_str(), found.to.to_string().as_str()), (from, to));
            assert_eq!((found.sequence, found.begins, found.payload), (7, false, b"hello".as_slice()));
        }
    }

    #[test]
    fn frames_that_are_cut_anywhere_are_no_segment_and_no_panic() {
        for whole in [frame("10.0.0.1:80", "10.0.0.2:1", 7, 2, b"x"), frame("[fd10::1]:80", "[fd10::2]:1", 7, 2, b"x")] {
            for cut in 0..whole.len() - 1 {
                assert!(segment(&whole[..cut]).is_none_or(|found| found.payload.is_empty()), "cut at {cut}");
            }
        }
    }
}
