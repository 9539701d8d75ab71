//! A client that stays with one endpoint: the token that says so, in a cookie or a header (spec/waypoint.md 2.6). Time and chance
//! are arguments, but for the key that a process makes for itself.
//!
//! The token is sealed, so it shows a client no address, and a client cannot make one. Any replica of the waypoint opens
//! what another has sealed.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use mesh_model::address::NamespacedHostname;
use mesh_xds::messages::waypoint::{Session, SessionKind};

use crate::choose::BackendKey;
use crate::edit;
use crate::facts::Rejection;

/// Characters of a token that we look at: names of a service, a subset and an endpoint have less than 1 KiB.
pub const TOKEN_CHARS_MAX: usize = 2048;
/// Cookies of that name in one request that are tried: a client may have some of other paths.
const COOKIES_MAX: usize = 8;
/// A token that may idle is made anew after this part of the time that it may.
const RENEWALS: u32 = 10;
/// The first byte of what is sealed. A later form has another.
const FORM: u8 = 1;

/// What tokens are sealed with.
#[derive(Clone, Default)]
pub struct Keys(Arc<[LessSafeKey]>);

/// What a good token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub backend: BackendKey,
    /// `choose::Endpoint::id`.
    pub endpoint: String,
    pub began: SystemTime,
    pub used: SystemTime,
}

impl Keys {
    /// The first seals, each opens: so a secret can be replaced.
    pub fn of_secrets(secrets: &[String]) -> Keys {
        Keys(secrets.iter().map(|secret| key(&[b"isthmus session ", secret.as_bytes()].concat())).collect())
    }

    /// Of this process alone, of chance: no other replica opens what it seals.
    pub fn of_process() -> Keys {
        let mut secret = [0; 32];
        // Without chance nothing is sealed, and so nothing is opened.
        match aws_lc_rs::rand::fill(&mut secret) {
            Ok(()) => Keys(Arc::new([key(&secret)])),
            Err(_) => Keys::default(),
        }
    }
}

fn key(secret: &[u8]) -> LessSafeKey {
    let bytes = digest(&SHA256, secret);
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, bytes.as_ref()).expect("a digest has the length of a key"))
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} keys", self.0.len())
    }
}

impl Held {
    /// The backend of the session among those of a rule. It is as good as gone at weight 0; any other weight is beaten.
    pub fn among<'b>(&self, backends: &'b [edit::Backend]) -> Option<&'b edit::Backend> {
        backends.iter().find(|backend| backend.weight > 0 && backend.invalid.is_none() && backend.key == self.backend)
    }
}

/// Whether the names can stand in a header: what is configured must not write another one (spec/waypoint.md 9).
pub fn check(session: &Session) -> Result<(), Rejection> {
    HeaderName::try_from(session.name.as_str())
        .map_err(|_| Rejection::new("UnsupportedValue", format!("{:?} is no name of a cookie or a header", session.name)))?;
    if session.path.bytes().any(|c| c == b';' || c == b',' || !c.is_ascii_graphic()) {
        return Err(Rejection::new("UnsupportedValue", format!("{:?} is no path of a cookie", session.path)));
    }
    Ok(())
}

/// The session that a request belongs to; `None`: none, or one that is over, or that nobody of us has made.
pub fn open(session: &Session, headers: &HeaderMap, keys: &Keys, now: SystemTime) -> Option<Held> {
    let tokens: Vec<&str> = match session.kind() {
        SessionKind::Header => headers.get(session.name.as_str()).and_then(|value| value.to_str().ok()).into_iter().collect(),
        SessionKind::Cookie => cookies(headers, &session.name).take(COOKIES_MAX).collect(),
    };
    tokens.into_iter().filter_map(|token| unseal(token, &session.name, keys)).find(|held| held.lasts(session, now))
}

/// The header that the answer gets, if the client does not have a good token already. `nonce`: of chance.
#[allow(clippy::too_many_arguments, reason = "a pure function of everything that a token says")]
pub fn answer(
    session: &Session,
    held: Option<&Held>,
    backend: &BackendKey,
    endpoint: &str,
    secure: bool,
    keys: &Keys,
    now: SystemTime,
    nonce: [u8; NONCE_LEN],
) -> Option<(HeaderName, HeaderValue)> {
    let same = held.filter(|held| held.backend == *backend && held.endpoint == endpoint);
    if same.is_some_and(|held| !held.is_due(session, now)) {
        return None;
    }
    let began = same.map_or(now, |held| held.began);
    let held = Held { backend: backend.clone(), endpoint: endpoint.to_owned(), began, used: now };
    let token = seal(&held, &session.name, keys, nonce)?;
    match session.kind() {
        SessionKind::Header => Some((HeaderName::try_from(session.name.as_str()).ok()?, HeaderValue::try_from(token).ok()?)),
        SessionKind::Cookie => {
            let path = if session.path.is_empty() { "/" } else { &session.path };
            let mut cookie = format!("{}={token}; Path={path}; HttpOnly; SameSite=Strict", session.name);
            if session.permanent && session.absolute_timeout_ms != 0 {
                let spent = now.duration_since(began).unwrap_or_default();
                let left = Duration::from_millis(session.absolute_timeout_ms).saturating_sub(spent);
                cookie.push_str(&format!("; Max-Age={}", left.as_secs()));
            }
            if secure {
                cookie.push_str("; Secure");
            }
            Some((header::SET_COOKIE, HeaderValue::try_from(cookie).ok()?))
        }
    }
}

impl Held {
    fn lasts(&self, session: &Session, now: SystemTime) -> bool {
        // A clock that is behind the one of the replica that sealed it counts as the same moment.
        let within = |since: SystemTime, limit: u64| {
            limit == 0 || now.duration_since(since).unwrap_or_default() < Duration::from_millis(limit)
        };
        within(self.began, session.absolute_timeout_ms) && within(self.used, session.idle_timeout_ms)
    }

    /// Whether the client must be given a token with a later time of use.
    fn is_due(&self, session: &Session, now: SystemTime) -> bool {
        let idle = Duration::from_millis(session.idle_timeout_ms);
        !idle.is_zero() && now.duration_since(self.used).unwrap_or_default() >= idle / RENEWALS
    }
}

fn cookies<'h>(headers: &'h HeaderMap, name: &'h str) -> impl Iterator<Item = &'h str> {
    let lines = headers.get_all(header::COOKIE).into_iter().filter_map(|line| line.to_str().ok());
    let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.filter(move |(key, _)| *key == name).map(|(_, value)| value.trim_matches('"'))
}

/// `name` is bound into the token, so that one of another session is none of this.
fn seal(held: &Held, name: &str, keys: &Keys, nonce: [u8; NONCE_LEN]) -> Option<String> {
    let key = keys.0.first()?;
    let mut text = vec![FORM];
    for time in [held.began, held.used] {
        let millis = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        text.extend_from_slice(&u64::try_from(millis).unwrap_or(u64::MAX).to_be_bytes());
    }
    text.extend_from_slice(&held.backend.port.to_be_bytes());
    let names = [&*held.backend.host.namespace, &*held.backend.host.hostname, &*held.backend.subset, &*held.endpoint];
    text.extend_from_slice(names.join("\0").as_bytes());
    key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(name.as_bytes()), &mut text).ok()?;
    let token = BASE64_URL_SAFE_NO_PAD.encode([&nonce[..], &text].concat());
    (token.len() <= TOKEN_CHARS_MAX).then_some(token)
}

fn unseal(token: &str, name: &str, keys: &Keys) -> Option<Held> {
    if token.len() > TOKEN_CHARS_MAX {
        return None;
    }
    let sealed = BASE64_URL_SAFE_NO_PAD.decode(token).ok()?;
    let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LEN>()?;
    keys.0.iter().find_map(|key| {
        let mut text = sealed.to_vec();
        let text = key.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(name.as_bytes()), &mut text).ok()?;
        read(text)
    })
}

fn read(text: &[u8]) -> Option<Held> {
    let (form, text) = text.split_first()?;
    let (began, text) = text.split_first_chunk()?;
    let (used, text) = text.split_first_chunk()?;
    let (port, text) = text.split_first_chunk()?;
    let mut names = std::str::from_utf8(text).ok()?.split('\0');
    let time = |millis: &[u8; 8]| UNIX_EPOCH.checked_add(Duration::from_millis(u64::from_be_bytes(*millis)));
    let (namespace, hostname, subset, endpoint) = (names.next()?, names.next()?, names.next()?, names.next()?);
    if *form != FORM || names.next().is_some() {
        return None;
    }
    Some(Held {
        backend: BackendKey {
            host: NamespacedHostname::new(namespace, hostname),
            port: u16::from_be_bytes(*port),
            subset: subset.into(),
        },
        endpoint: endpoint.to_owned(),
        began: time(began)?,
        used: time(used)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "session";

    fn session(kind: SessionKind) -> Session {
        Session { kind: kind as i32, name: NAME.into(), ..Session::default() }
    }

    fn key(host: &str) -> BackendKey {
        BackendKey { host: NamespacedHostname::new("shop", host), port: 80, subset: "v1".into() }
    }

    fn keys(secrets: &[&str]) -> Keys {
        Keys::of_secrets(&secrets.iter().map(|secret| (*secret).to_owned()).collect::<Vec<_>>())
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
    }

    /// The answer's header as the client's next request.
    fn returned(kind: SessionKind, answer: Option<(HeaderName, HeaderValue)>) -> HeaderMap {
        let (name, value) = answer.unwrap();
        let mut headers = HeaderMap::new();
        match kind {
            SessionKind::Header => headers.insert(name, value),
            SessionKind::Cookie => {
                let cookie = value.to_str().unwrap().split(';').next().unwrap();
                headers.insert(header::COOKIE, format!("a=b; {cookie}; c=d").try_into().unwrap())
            }
        };
        headers
    }

    fn first(session: &Session, keys: &Keys) -> HeaderMap {
        returned(session.kind(), answer(session, None, &key("web"), "pod-1", false, keys, at(0), [7; 12]))
    }

    #[test]
    fn what_one_replica_seals_another_opens() {
        for kind in [SessionKind::Cookie, SessionKind::Header] {
            let session = session(kind);
            let headers = first(&session, &keys(&["one"]));
            let shown = format!("{headers:?}");
            assert!(!shown.contains("pod-1") && !shown.contains("web"), "{shown}");
            let held = open(&session, &headers, &keys(&["one"]), at(5)).unwrap();
            assert_eq!(held, Held { backend: key("web"), endpoint: "pod-1".into(), began: at(0), used: at(0) });
            assert_eq!(answer(&session, Some(&held), &key("web"), "pod-1", false, &keys(&["one"]), at(5), [8; 12]), None);
            // A new secret in front: the old one opens still.
            assert!(open(&session, &headers, &keys(&["two", "one"]), at(5)).is_some());
        }
    }

    #[test]
    fn what_we_did_not_seal_is_no_session() {
        let cookie = session(SessionKind::Cookie);
        let good = first(&cookie, &keys(&["one"]));
        assert!(open(&cookie, &good, &keys(&["two"]), at(0)).is_none(), "another secret");
        assert!(open(&cookie, &good, &Keys::of_process(), at(0)).is_none());
        assert!(open(&Session { name: "other".into(), ..cookie.clone() }, &good, &keys(&["one"]), at(0)).is_none());
        let good = first(&session(SessionKind::Header), &keys(&["one"]));
        let token = good[NAME].to_str().unwrap().to_owned();
        for at_byte in 0..token.len() {
            let mut forged = token.clone().into_bytes();
            forged[at_byte] = if forged[at_byte] == b'A' { b'B' } else { b'A' };
            let mut headers = HeaderMap::new();
            headers.insert(NAME, HeaderValue::from_bytes(&forged).unwrap());
            assert!(open(&session(SessionKind::Header), &headers, &keys(&["one"]), at(0)).is_none(), "byte {at_byte}");
        }
        // A token of another session cannot be renamed.
        let mut renamed = HeaderMap::new();
        renamed.insert("other", HeaderValue::try_from(token).unwrap());
        assert!(
            open(&Session { name: "other".into(), ..session(SessionKind::Header) }, &renamed, &keys(&["one"]), at(0)).is_none()
        );
        for short in ["", "AAAA", "====", "é"] {
            let mut headers = HeaderMap::new();
            headers.insert(NAME, HeaderValue::from_bytes(short.as_bytes()).unwrap());
            assert!(open(&session(SessionKind::Header), &headers, &keys(&["one"]), at(0)).is_none(), "{short}");
        }
    }

    #[test]
    fn a_session_ends_by_its_age_or_for_want_of_use() {
        let absolute = Session { absolute_timeout_ms: 10_000, ..session(SessionKind::Cookie) };
        let headers = first(&absolute, &keys(&["one"]));
        for (seconds, lasts) in [(0, true), (9, true), (10, false)] {
            assert_eq!(open(&absolute, &headers, &keys(&["one"]), at(seconds)).is_some(), lasts, "{seconds} s");
        }
        let idle = Session { idle_timeout_ms: 10_000, ..session(SessionKind::Cookie) };
        let headers = first(&idle, &keys(&["one"]));
        assert!(open(&idle, &headers, &keys(&["one"]), at(10)).is_none());
        let held = open(&idle, &headers, &keys(&["one"]), at(9)).unwrap();
        let renewed = returned(
            SessionKind::Cookie,
            answer(&idle, Some(&held), &key("web"), "pod-1", false, &keys(&["one"]), at(9), [9; 12]),
        );
        let held = open(&idle, &renewed, &keys(&["one"]), at(18)).unwrap();
        assert_eq!((held.began, held.used), (at(0), at(9)), "renewal does not make it younger");
        let soon = Held { used: at(18), ..held };
        assert_eq!(answer(&idle, Some(&soon), &key("web"), "pod-1", false, &keys(&["one"]), at(18), [9; 12]), None);
    }

    #[test]
    fn a_cookie_says_how_long_and_to_whom() {
        let text = |session: &Session, held: Option<&Held>, secure, now| {
            let (_, value) = answer(session, held, &key("web"), "pod-2", secure, &keys(&["one"]), now, [7; 12]).unwrap();
            value.to_str().unwrap().split_once(';').unwrap().1.to_owned()
        };
        let plain = session(SessionKind::Cookie);
        assert_eq!(text(&plain, None, false, at(0)), " Path=/; HttpOnly; SameSite=Strict");
        let kept = Session { path: "/cart".into(), permanent: true, absolute_timeout_ms: 60_000, ..plain.clone() };
        assert_eq!(text(&kept, None, true, at(0)), " Path=/cart; HttpOnly; SameSite=Strict; Max-Age=60; Secure");
        // Its endpoint is gone: a new session at another.
        let gone = Held { backend: key("web"), endpoint: "pod-1".into(), began: at(0), used: at(0) };
        assert_eq!(text(&kept, Some(&gone), false, at(30)), " Path=/cart; HttpOnly; SameSite=Strict; Max-Age=60");
    }

    #[test]
    fn a_name_or_a_path_cannot_write_another_header() {
        let named =
            |name: &str, path: &str| check(&Session { path: path.into(), ..Session { name: name.into(), ..Session::default() } });
        for (name, path, good) in [
            ("a", "/x", true),
            ("a", "", true),
            ("", "/", false),
            ("a;b", "/", false),
            ("a\r\nb", "/", false),
            ("a", "/; Secure", false),
            ("a", "/\r\n", false),
        ] {
            assert_eq!(named(name, path).is_ok(), good, "{name:?} {path:?}");
        }
    }

    #[test]
    fn a_session_beats_weights_but_not_weight_0() {
        let backend = |weight| edit::Backend { key: key("web"), weight, filters: edit::Filters::default(), invalid: None };
        let held = Held { backend: key("web"), endpoint: "pod-1".into(), began: at(0), used: at(0) };
        assert!(held.among(&[backend(1)]).is_some());
        assert!(held.among(&[backend(0)]).is_none());
        assert!(Held { backend: key("other"), ..held }.among(&[backend(1)]).is_none());
    }
}
