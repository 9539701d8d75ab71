//! The PROXY protocol header that an application behind a tunnel or a proxy is told its client by (spec/dataplane.md 1.11;
//! haproxy.org proxy-protocol.txt 2.1, 2.2). Bytes only.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

/// What the application is told about a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyHeader {
    /// The TCP peer of the tunnel.
    pub source: SocketAddr,
    /// What the peer asked for.
    pub destination: SocketAddr,
    /// What the peer proved, as a SPIFFE URI; none for plaintext.
    pub identity: Option<Arc<str>>,
    /// The service name that the peer asked for, when it asked by name: the address alone does not tell two services
    /// with one VIP apart.
    pub hostname: Option<Arc<str>>,
}

/// Twelve bytes that no other protocol begins with.
const SIGNATURE: [u8; 12] = [0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a];
/// Version 2, command PROXY.
const VERSION_AND_COMMAND: u8 = 0x21;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;
/// The source's SPIFFE URI, as the field numbers it.
const TLV_IDENTITY: u8 = 0xd0;
/// The service's hostname. The number is reserved for this in the field; readers skip what they do not know.
const TLV_HOSTNAME: u8 = 0xd1;
/// A SPIFFE id has at most 2,048 bytes (SPIFFE-ID 2.3), a hostname far fewer. With both, the header stays far below the
/// 65,535 bytes that its length field can say.
const VALUE_LENGTH_MAX: usize = 2_048;

impl ProxyHeader {
    /// Version 2, as it goes before the first byte of the application. One family holds both addresses: when they
    /// differ, the IPv4 one is written as IPv4-mapped IPv6.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(128);
        let family = match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                body.extend(source.octets());
                body.extend(destination.octets());
                TCP_OVER_IPV4
            }
            (source, destination) => {
                body.extend(mapped(source).octets());
                body.extend(mapped(destination).octets());
                TCP_OVER_IPV6
            }
        };
        body.extend(self.source.port().to_be_bytes());
        body.extend(self.destination.port().to_be_bytes());
        if let Some(identity) = &self.identity {
            push_value(&mut body, TLV_IDENTITY, identity);
        }
        if let Some(hostname) = &self.hostname {
            push_value(&mut body, TLV_HOSTNAME, hostname);
        }

        let length = u16::try_from(body.len()).expect("two addresses, two ports and two values of at most 2,048 bytes");
        let mut header = Vec::with_capacity(SIGNATURE.len() + 4 + body.len());
        header.extend(SIGNATURE);
        header.extend([VERSION_AND_COMMAND, family]);
        header.extend(length.to_be_bytes());
        header.extend(body);
        header
    }

    /// Version 1: a line of text, which has room for the addresses alone.
    pub fn to_text(&self) -> String {
        let (family, source, destination) = match (self.source.ip(), self.destination.ip()) {
            (source @ IpAddr::V4(_), destination @ IpAddr::V4(_)) => ("TCP4", source, destination),
            (source, destination) => ("TCP6", mapped(source).into(), mapped(destination).into()),
        };
        format!("PROXY {family} {source} {destination} {} {}\r\n", self.source.port(), self.destination.port())
    }
}

fn mapped(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

/// A value that is too long is left out: the application then sees a client without this fact, which allows less.
fn push_value(body: &mut Vec<u8>, kind: u8, value: &str) {
    let Some(length) = u16::try_from(value.len()).ok().filter(|_| value.len() <= VALUE_LENGTH_MAX) else { return };
    body.push(kind);
    body.extend(length.to_be_bytes());
    body.extend(value.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(source: &str, destination: &str) -> ProxyHeader {
        ProxyHeader { source: source.parse().unwrap(), destination: destination.parse().unwrap(), identity: None, hostname: None }
    }

    /// What follows the signature.
    fn after_signature(header: &ProxyHeader) -> Vec<u8> {
        let bytes = header.to_bytes();
        assert_eq!(bytes[..12], *b"\r\n\r\n\0\r\nQUIT\n");
        bytes[12..].to_vec()
    }

    // Z-256: the bytes that a sandwiched waypoint reads.
    #[test]
    fn ipv4_with_an_identity() {
        let header =
            ProxyHeader { identity: Some("spiffe://td/ns/n/sa/a".into()), ..header("10.0.0.1:40000", "10.96.0.1:80") };
        let mut expected = vec![0x21, 0x11, 0, 12 + 3 + 21];
        expected.extend([10, 0, 0, 1, 10, 96, 0, 1, 0x9c, 0x40, 0, 80]);
        expected.extend([0xd0, 0, 21]);
        expected.extend(b"spiffe://td/ns/n/sa/a");
        assert_eq!(after_signature(&header), expected);
    }

    #[test]
    fn ipv6_without_an_identity() {
        let mut expected = vec![0x21, 0x21, 0, 36];
        expected.extend("fd00::1".parse::<Ipv6Addr>().unwrap().octets());
        expected.extend("fd00::2".parse::<Ipv6Addr>().unwrap().octets());
        expected.extend([0, 1, 0, 2]);
        assert_eq!(after_signature(&header("[fd00::1]:1", "[fd00::2]:2")), expected);
    }

    #[test]
    fn two_families_are_written_as_one() {
        let bytes = after_signature(&header("10.0.0.1:1", "[fd00::2]:2"));
        assert_eq!(bytes[..4], [0x21, 0x21, 0, 36]);
        assert_eq!(bytes[4..20], "::ffff:10.0.0.1".parse::<Ipv6Addr>().unwrap().octets());
    }

    #[test]
    fn version_1_is_a_line() {
        assert_eq!(header("10.0.0.1:40000", "10.96.0.1:80").to_text(), "PROXY TCP4 10.0.0.1 10.96.0.1 40000 80\r\n");
        assert_eq!(header("10.0.0.1:1", "[fd00::2]:2").to_text(), "PROXY TCP6 ::ffff:10.0.0.1 fd00::2 1 2\r\n");
    }

    #[test]
    fn a_name_that_was_asked_for_follows_the_identity() {
        let header = ProxyHeader { hostname: Some("a.test".into()), ..header("10.0.0.1:1", "10.0.0.2:2") };
        assert_eq!(after_signature(&header)[16..], [0xd1, 0, 6, b'a', b'.', b't', b'e', b's', b't']);
    }

    #[test]
    fn a_value_that_is_too_long_is_left_out() {
        let header =
            ProxyHeader { identity: Some("n".repeat(70_000).into()), ..header("10.0.0.1:1", "10.0.0.2:2") };
        assert_eq!(after_signature(&header)[..4], [0x21, 0x11, 0, 12]);
    }
}
