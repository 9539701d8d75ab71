//! Pure: what a TLS client says first (RFC 8446 4.1.2, RFC 5246 7.4.1.2): the server name it asks for, and the protocols
//! that it offers. Read from the bytes as they come, over as many records as it takes; nothing is answered.

/// The longest ClientHello that is looked into. Post-quantum key shares make them two KiB long; this is one TLS record.
pub const LONGEST: usize = 16 * 1024;

/// What a ClientHello says.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ClientHello {
    /// In lower case.
    pub server_name: Option<String>,
    pub alpn: Vec<Vec<u8>>,
}

/// What the bytes so far are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// It may be one; the rest is to come.
    More,
    Hello(ClientHello),
    /// It is none, or none that anybody could read.
    No,
}

/// A record's type, and a handshake message's.
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
/// Extensions (RFC 6066 3, RFC 7301 3.1).
const SERVER_NAME: u16 = 0;
const APPLICATION_PROTOCOLS: u16 = 16;

/// Reads as far as there are bytes.
pub fn read(bytes: &[u8]) -> Read {
    let message = match message(bytes) {
        Ok(Some(message)) => message,
        Ok(None) => return Read::More,
        Err(NoHello) => return Read::No,
    };
    match hello(&message) {
        Some(hello) => Read::Hello(hello),
        None => Read::No,
    }
}

struct NoHello;

/// The handshake message, put together from its records; `None` while it is not complete.
fn message(mut bytes: &[u8]) -> Result<Option<Vec<u8>>, NoHello> {
    let mut message = Vec::new();
    loop {
        let need = match message[..] {
            [kind, ..] if kind != CLIENT_HELLO => return Err(NoHello),
            [_, high, middle, low, ..] => 4 + (usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low)),
            _ => 4,
        };
        if need > LONGEST {
            return Err(NoHello);
        }
        if message.len() >= need && need > 4 {
            message.truncate(need);
            return Ok(Some(message));
        }
        let header: &[u8] = bytes.get(..5).unwrap_or(bytes);
        let plausible = [|kind: u8| kind == HANDSHAKE, |major: u8| major == 3, |minor: u8| minor <= 4];
        if header.iter().zip(plausible).any(|(byte, holds)| !holds(*byte)) {
            return Err(NoHello);
        }
        let &[_, _, _, high, low] = header else { return Ok(None) };
        let length = usize::from(high) << 8 | usize::from(low);
        // An empty record of this type is forbidden (RFC 8446 5.1), and one could come for ever.
        if length == 0 || length > LONGEST {
            return Err(NoHello);
        }
        let content = &bytes[5..];
        let Some(whole) = content.get(..length) else {
            // The first byte tells whether waiting for the rest is worth it.
            let first = message.first().or(content.first());
            return if first.is_some_and(|kind| *kind != CLIENT_HELLO) { Err(NoHello) } else { Ok(None) };
        };
        message.extend_from_slice(whole);
        bytes = &content[length..];
    }
}

fn hello(message: &[u8]) -> Option<ClientHello> {
    let mut rest = Bytes(message.get(4..)?);
    rest.take(2 + 32)?; // version, random
    rest.within8()?; // session id
    rest.within16()?; // cipher suites
    rest.within8()?; // compression methods
    let mut hello = ClientHello::default();
    if rest.0.is_empty() {
        return Some(hello);
    }
    let mut extensions = rest.within16()?;
    while !extensions.0.is_empty() {
        let (kind, mut content) = (extensions.number16()?, extensions.within16()?);
        match kind {
            SERVER_NAME => hello.server_name = server_name(&mut content)?,
            APPLICATION_PROTOCOLS => hello.alpn = protocols(&mut content)?,
            _ => {}
        }
    }
    Some(hello)
}

/// The first name of type host name; there may be no second (RFC 6066 3).
fn server_name(content: &mut Bytes<'_>) -> Option<Option<String>> {
    let mut names = content.within16()?;
    while !names.0.is_empty() {
        let kind = names.take(1)?[0];
        let name = names.within16()?.0;
        if kind == 0 {
            let sound = !name.is_empty() && name.len() <= 253 && name.iter().all(|byte| byte.is_ascii_graphic());
            return sound.then(|| Some(String::from_utf8_lossy(name).trim_end_matches('.').to_ascii_lowercase()));
        }
    }
    Some(None)
}

fn protocols(content: &mut Bytes<'_>) -> Option<Vec<Vec<u8>>> {
    let mut list = content.within16()?;
    let mut protocols = Vec::new();
    while !list.0.is_empty() {
        protocols.push(list.within8()?.0.to_vec());
    }
    Some(protocols)
}

/// What is left to read.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn number16(&mut self) -> Option<u16> {
        self.take(2).map(|two| u16::from_be_bytes([two[0], two[1]]))
    }

    fn within8(&mut self) -> Option<Bytes<'a>> {
        let length = self.take(1)?[0];
        self.take(length.into()).map(Bytes)
    }

    fn within16(&mut self) -> Option<Bytes<'a>> {
        let length = self.number16()?;
        self.take(length.into()).map(Bytes)
    }
}
