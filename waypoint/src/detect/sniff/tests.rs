use proptest::prelude::*;

use super::*;

/// A ClientHello as bytes: records of at most `record` bytes.
pub(crate) fn client_hello(server_name: Option<&str>, alpn: &[&[u8]], record: usize) -> Vec<u8> {
    let mut extensions = Vec::new();
    let mut extension = |kind: u16, content: &[u8]| {
        extensions.extend(kind.to_be_bytes());
        extensions.extend((content.len() as u16).to_be_bytes());
        extensions.extend(content);
    };
    if let Some(name) = server_name {
        let mut entry = vec![0];
        entry.extend((name.len() as u16).to_be_bytes());
        entry.extend(name.as_bytes());
        extension(0, &[&(entry.len() as u16).to_be_bytes()[..], &entry].concat());
    }
    let list: Vec<u8> = alpn.iter().flat_map(|protocol| [&[protocol.len() as u8][..], protocol].concat()).collect();
    if !list.is_empty() {
        extension(16, &[&(list.len() as u16).to_be_bytes()[..], &list].concat());
    }
    extension(43, &[2, 3, 4]);
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.push(0);
    body.extend([0, 2, 0x13, 1, 1, 0]);
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    let mut message = vec![1];
    message.extend(&(body.len() as u32).to_be_bytes()[1..]);
    message.extend(body);
    let of_record = |piece: &[u8]| [&[22, 3, 1][..], &(piece.len() as u16).to_be_bytes(), piece].concat();
    message.chunks(record).flat_map(of_record).collect()
}

fn hello(name: &str, alpn: &[&[u8]]) -> Protocol {
    Protocol::Tls(ClientHello { server_name: Some(name.into()), alpn: alpn.iter().map(|one| one.to_vec()).collect() })
}

/// What is said of each beginning, up to the first answer: at which length, and what.
fn decided(bytes: &[u8]) -> (usize, Option<Protocol>) {
    for length in 0..=bytes.len() {
        if let Sniffed::Is(protocol) = sniff(&bytes[..length]) {
            return (length, Some(protocol));
        }
    }
    (bytes.len(), None)
}

// spec/waypoint.md 11 row 3: byte by byte
#[test]
fn each_protocol_is_known_as_soon_as_it_can_be() {
    use Protocol::{Http1, Http2, Opaque};
    let long = format!("GET /{} HTTP/1.1\r\n", "a".repeat(60_000));
    let table: &[(&[u8], usize, Option<Protocol>)] = &[
        (b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", 15, Some(Http1)),
        (b"GET / HTTP/1.0\n", 15, Some(Http1)),
        (b"POST http://a.b/c?d HTTP/1.1\r\n", 29, Some(Http1)),
        (b"CONNECT a:443 HTTP/1.1\r\n", 23, Some(Http1)),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 14, Some(Http2)),
        (b"PRI * HTTP/1.1\r\n", 15, Some(Http1)),
        (long.as_bytes(), 4 + LINE_MAX + 1, Some(Http1)),
        (b"PRIORITY ", 9, None),
        (b"GET / HTTP/2.0\r\n", 12, Some(Opaque)),
        (b"GET / FTP/1.1\r\n", 7, Some(Opaque)),
        (b"GET /\r\n", 6, Some(Opaque)),
        (b"GET  / HTTP/1.1\r\n", 5, Some(Opaque)),
        (b"EHLO mail.test\r\n", 15, Some(Opaque)),
        (b"SSH-2.0-OpenSSH_9\r\n", 18, Some(Opaque)),
        (b"\x00\x00\x00\x08\x04\xd2\x16\x2f", 1, Some(Opaque)),
        (b"abcdefghijklmnopqrstuvwxyzabcdefghijklm", METHOD_MAX + 1, Some(Opaque)),
        (b"", 0, None),
        (b"\x16\x03\x01", 3, None),
        (b"\x16\x05", 2, Some(Opaque)),
        (b"\x16\x03\x01\x00\x05\x02", 6, Some(Opaque)),
        (b"\x16\x03\x01\x00\x00", 5, Some(Opaque)),
    ];
    for (bytes, length, protocol) in table {
        assert_eq!(decided(bytes), (*length, protocol.clone()), "{:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(40)]));
    }
}

#[test]
fn a_client_hello_tells_its_server_name_over_any_number_of_records() {
    for record in [1, 3, 64, 16_000] {
        let bytes = client_hello(Some("Web.Shop.Test"), &[b"h2", b"http/1.1"], record);
        assert_eq!(decided(&bytes), (bytes.len(), Some(hello("web.shop.test", &[b"h2", b"http/1.1"]))), "records of {record}");
    }
    let nameless = client_hello(None, &[], 16_000);
    assert_eq!(sniff(&nameless), Sniffed::Is(Protocol::Tls(ClientHello::default())));
    let followed = [client_hello(Some("a"), &[], 16_000), b"more".to_vec()].concat();
    assert_eq!(sniff(&followed), Sniffed::Is(hello("a", &[])));
    let broken = client_hello(Some("a b"), &[], 16_000);
    assert_eq!(sniff(&broken), Sniffed::Is(Protocol::Opaque), "a name that no host has");
    let endless = [22, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff];
    assert_eq!(sniff(&endless), Sniffed::More, "its first record is not complete");
    let endless = [&endless[..], &[0; 0x4000]].concat();
    assert_eq!(sniff(&endless), Sniffed::Is(Protocol::Opaque), "longer than anybody's");
}

proptest! {
    #[test]
    fn nothing_that_a_client_sends_panics_or_is_asked_for_without_end(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = (sniff(&bytes), tls(&bytes), http(&bytes));
    }

    #[test]
    fn a_hello_that_is_damaged_panics_nobody(at in 0usize..200, byte: u8, cut in 0usize..200) {
        let mut bytes = client_hello(Some("web.shop.test"), &[b"h2"], 50);
        let length = bytes.len();
        bytes[at % length] = byte;
        bytes.truncate(length - cut % length);
        let _ = sniff(&bytes);
    }

    /// More bytes never turn one answer into another, except that a hello may be followed by anything.
    #[test]
    fn what_was_said_of_a_beginning_holds(method in "[A-Z]{1,8}", target in "/[a-z/?=]{0,20}", rest: Vec<u8>) {
        let mut bytes = format!("{method} {target} HTTP/1.1\r\n").into_bytes();
        bytes.extend(rest);
        let (at, said) = decided(&bytes);
        prop_assert_eq!(said, Some(Protocol::Http1));
        for length in at..bytes.len() {
            prop_assert_eq!(sniff(&bytes[..length]), Sniffed::Is(Protocol::Http1));
        }
    }

    /// Whatever comes, 40 KiB of it are enough to know.
    #[test]
    fn a_decision_comes(first in proptest::collection::vec(any::<u8>(), 1..20), filler: u8) {
        let mut bytes = first;
        bytes.resize(40 * 1024, filler);
        prop_assert_ne!(sniff(&bytes), Sniffed::More);
    }
}
