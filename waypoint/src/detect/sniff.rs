//! Pure: what is spoken, from the first bytes of a client (spec/waypoint.md 1.3). Says so as soon as it can be known, and
//! asks for more as long as it cannot; the caller bounds the wait.

use super::hello::{self, ClientHello, Read};

/// What a stream speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
    /// Opaque, with what its client said first.
    Tls(ClientHello),
    Opaque,
}

/// What the bytes so far say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sniffed {
    More,
    Is(Protocol),
}

/// HTTP/2 with prior knowledge begins with this (RFC 9113 3.4). The part before the blank line decides.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const PREFACE_DECIDES: usize = 14;
/// The longest method that anybody has registered has 17 letters; twice that is no method any more.
const METHOD_MAX: usize = 32;
/// Of a request line that has been sound so far, this much is enough to believe it: what its target is allowed to be in the
/// end is for HTTP to say.
const LINE_MAX: usize = 4 * 1024;
const FIRST_OF_TLS: u8 = 0x16;

/// Anything that a client may begin with.
pub fn sniff(bytes: &[u8]) -> Sniffed {
    match bytes.first() {
        None => Sniffed::More,
        Some(&FIRST_OF_TLS) => tls(bytes),
        Some(_) => match version(bytes) {
            Some(Protocol::Http1) => line(bytes),
            Some(protocol) => Sniffed::Is(protocol),
            None => Sniffed::More,
        },
    }
}

/// TLS or nothing that is known.
pub fn tls(bytes: &[u8]) -> Sniffed {
    match hello::read(bytes) {
        Read::More => Sniffed::More,
        Read::Hello(hello) => Sniffed::Is(Protocol::Tls(hello)),
        Read::No => Sniffed::Is(Protocol::Opaque),
    }
}

/// Which HTTP, where it is known to be HTTP.
pub fn http(bytes: &[u8]) -> Sniffed {
    version(bytes).map_or(Sniffed::More, Sniffed::Is)
}

/// `None` while the bytes could become the preface.
fn version(bytes: &[u8]) -> Option<Protocol> {
    let length = bytes.len().min(PREFACE_DECIDES);
    if bytes[..length] != PREFACE[..length] {
        return Some(Protocol::Http1);
    }
    (length == PREFACE_DECIDES).then_some(Protocol::Http2)
}

/// A request line, `method SP target SP HTTP/1.x`, or what still may become one (RFC 9112 3).
fn line(bytes: &[u8]) -> Sniffed {
    const NO: Sniffed = Sniffed::Is(Protocol::Opaque);
    const YES: Sniffed = Sniffed::Is(Protocol::Http1);
    let Some(method) = bytes.iter().position(|byte| !is_tchar(*byte)) else {
        return if bytes.len() > METHOD_MAX { NO } else { Sniffed::More };
    };
    if method == 0 || method > METHOD_MAX || bytes[method] != b' ' {
        return NO;
    }
    let target = &bytes[method + 1..];
    let Some(end) = target.iter().position(|byte| !byte.is_ascii_graphic()) else {
        return if target.len() > LINE_MAX { YES } else { Sniffed::More };
    };
    if end == 0 || target[end] != b' ' {
        return NO;
    }
    let version = &target[end + 1..];
    // Version 1.x and the end of the line, which may be a bare LF.
    for (at, expected) in b"HTTP/1.".iter().enumerate() {
        match version.get(at) {
            None => return Sniffed::More,
            Some(byte) if byte != expected => return NO,
            Some(_) => {}
        }
    }
    match (version.get(7), version.get(8)) {
        (Some(digit), _) if !digit.is_ascii_digit() => NO,
        (Some(_), Some(b'\r' | b'\n')) => YES,
        (Some(_), Some(_)) => NO,
        _ => Sniffed::More,
    }
}

/// RFC 9110 5.6.2.
fn is_tchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests;
