//! A request that becomes a stream of bytes: a WebSocket, or a tunnel through a proxy of the application's
//! (spec/waypoint.md 1.7). It stays HTTP until the endpoint has agreed.

use http::header::{CONNECTION, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{HeaderMap, Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use base64::Engine as _;
use rand::Rng;
use tokio::io::copy_bidirectional;
use tokio_util::io::InspectReader;

use crate::body::Body;
use crate::hygiene::Kind;

const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");
const SEC_WEBSOCKET_VERSION: HeaderName = HeaderName::from_static("sec-websocket-version");

/// Makes of a request that asks for an upgrade the one that an endpoint of HTTP/1.1 is asked with.
pub fn ask(kind: Kind, headers: &mut HeaderMap, chance: &mut impl Rng) {
    match kind {
        Kind::Plain | Kind::Connect => return,
        Kind::WebSocket => {}
        // HTTP/2 has no key: it needs no proof that the peer speaks the protocol (RFC 8441 5).
        Kind::ExtendedConnect => {
            let key = base64::engine::general_purpose::STANDARD.encode(chance.random::<[u8; 16]>());
            headers.insert(SEC_WEBSOCKET_KEY, HeaderValue::try_from(key).expect("base64"));
            headers.entry(SEC_WEBSOCKET_VERSION).or_insert(HeaderValue::from_static("13"));
        }
    }
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, WEBSOCKET);
}

/// What an endpoint's answer to it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agreed {
    /// From here on bytes.
    Yes,
    /// An ordinary answer.
    No,
    /// An upgrade that nobody asked for, or to something else.
    Nonsense,
}

pub fn agreed(kind: Kind, status: StatusCode, headers: &HeaderMap) -> Agreed {
    let switching = status == StatusCode::SWITCHING_PROTOCOLS;
    match kind {
        Kind::Connect if status.is_success() => Agreed::Yes,
        Kind::WebSocket | Kind::ExtendedConnect if switching => {
            match headers.get(UPGRADE).is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket")) {
                true => Agreed::Yes,
                false => Agreed::Nonsense,
            }
        }
        _ if switching => Agreed::Nonsense,
        // To a client of HTTP/2 a success says that the socket is open, which it is not.
        Kind::ExtendedConnect if status.is_success() => Agreed::Nonsense,
        _ => Agreed::No,
    }
}

/// What the client is told when its endpoint has agreed; `response` has been cleaned already.
pub fn tell(kind: Kind, response: &mut Response<Body>) {
    match kind {
        Kind::WebSocket => {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
            response.headers_mut().insert(UPGRADE, WEBSOCKET);
        }
        Kind::ExtendedConnect => {
            *response.status_mut() = StatusCode::OK;
            response.headers_mut().remove(SEC_WEBSOCKET_ACCEPT);
        }
        Kind::Plain | Kind::Connect => {}
    }
}

/// Carries the bytes both ways until both ends are done, or one breaks; `up` and `down` see what passes from and to the
/// client.
pub async fn carry(client: OnUpgrade, endpoint: OnUpgrade, up: impl FnMut(&[u8]) + Unpin, down: impl FnMut(&[u8]) + Unpin) {
    let Ok((client, endpoint)) = futures_util::future::try_join(client, endpoint).await else { return };
    let mut client = InspectReader::new(TokioIo::new(client), up);
    let mut endpoint = InspectReader::new(TokioIo::new(endpoint), down);
    // However it ends, it ends for both.
    let _ = copy_bidirectional(&mut client, &mut endpoint).await;
}
