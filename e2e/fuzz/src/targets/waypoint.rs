//! What a client sends to a waypoint: heads, paths, first bytes, tokens; and what a controller tells it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Version, header};
use mesh_model::address::NamespacedHostname;
use mesh_model::identity::SpiffeId;
use mesh_xds::messages::waypoint::{self as wire, EscapedSlash, JwtPolicy, JwtRule, PathNormalization, PortProtocol};
use prost::Message as _;
use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use waypoint::call::{CallError, Caller, Limits, Reply, To, Version as Spoken};
use waypoint::detect::hello::{self, Read};
use waypoint::detect::sniff::{Protocol, Sniffed, sniff};
use waypoint::facts::{Arrival, Target as For};
use waypoint::hygiene::path::{self, canonical};
use waypoint::hygiene::{self, Manner, clean};
use waypoint::jwt::{self, Keys, Outcome};
use waypoint::settings;

use crate::input::Input;
use crate::{Target, saw, saw_text};

fn texts(of: &[&str]) -> Vec<Vec<u8>> {
    of.iter().map(|text| text.as_bytes().to_vec()).collect()
}

fn arrival() -> Arrival {
    let client = SocketAddr::from(([10, 0, 0, 1], 4711));
    Arrival {
        identity: SpiffeId::new("td", "shop", "client"),
        peer: client,
        source: client,
        source_workload: None,
        dialled: None,
        target: For::Service { key: NamespacedHostname::new("shop", "web.shop.svc.cluster.local"), port: 80 },
        hops: 0,
    }
}

/// `METHOD target` and lines of headers, as far as HTTP's own types take them; the first byte chooses the version.
fn head(bytes: &[u8]) -> Option<http::request::Parts> {
    let mut input = Input(bytes);
    let version = *input.choice(&[Version::HTTP_11, Version::HTTP_2, Version::HTTP_10]);
    let mut lines = input.0.split(|byte| *byte == b'\n');
    let mut first = lines.next()?.splitn(2, |byte| *byte == b' ');
    let (method, target) = (first.next()?, first.next()?);
    let mut request = Request::builder().version(version).method(method).uri(target).body(()).ok()?;
    for line in lines {
        let (name, value) = line.split_at(line.iter().position(|byte| *byte == b':')?);
        let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value[1..].trim_ascii())) else { continue };
        request.headers_mut().append(name, value);
    }
    Some(request.into_parts().0)
}

pub const HEAD: Target = Target {
    name: "waypoint_head",
    check: |bytes| {
        let Some(mut parts) = head(bytes) else { return };
        let arrival = arrival();
        let manner = Manner { append_client_ip: false, http10: true, ..Manner::default() };
        let cleaned = |parts: &mut http::request::Parts| clean(parts, &arrival, PortProtocol::Http1, &manner, &mut SmallRng::seed_from_u64(1));
        let found = match cleaned(&mut parts) {
            Ok(found) => found,
            Err(hygiene::Turned::Refused(reason)) => return saw_text(&reason.words().details),
            Err(hygiene::Turned::Redirect(_)) => return saw("redirected"),
        };
        saw((found.kind as u8, found.grpc, found.expects_continue, parts.headers.len(), parts.uri.path().contains('%')));
        assert_eq!(found.remote, arrival.source.ip(), "nobody writes who he is");
        assert_eq!(parts.headers.get_all(header::HOST).iter().count(), 1);
        let host = parts.headers[header::HOST].to_str().expect("a name");
        assert!(!host.is_empty() && !host.contains(['/', '@', '?', '#', ',', ' ', '\\']), "{host:?}");
        for (name, value) in &parts.headers {
            let ours = ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "http2-settings", "forwarded", "x-forwarded-client-cert"];
            assert!(!ours.contains(&name.as_str()) && !name.as_str().starts_with("x-envoy-"), "{name} goes on");
            assert!(*name != header::TE || value == "trailers");
        }
        let path = parts.uri.path();
        assert!(path == "*" || path.starts_with('/') && !path.split('/').any(|segment| segment == "." || segment == ".."), "{path:?}");
        if parts.headers.len() > hygiene::HEADERS_MAX {
            return; // it came with as many as it may, and got ours beside: nobody cleans it once more
        }
        let (target, headers) = (parts.uri.clone(), parts.headers.clone());
        let again = cleaned(&mut parts).expect("what was cleaned is clean");
        assert_eq!((again.remote, &parts.uri, &parts.headers), (found.remote, &target, &headers));
    },
    seeds: || {
        texts(&[
            "\0GET /a/../b?c HTTP/1.1\nhost: web\nconnection: close, x-a\nx-a: 1\nte: trailers",
            "\0GET http://web:80/ \nhost: WEB\nx-envoy-a: 1\nforwarded: for=1",
            "\x01POST http://web/a.B/C\ncontent-type: application/grpc\ngrpc-timeout: 5S\ncookie: a\ncookie: b",
            "\0GET /\nhost: web\nconnection: upgrade\nupgrade: websocket\nexpect: 100-continue",
            "\x02OPTIONS *\nhost: [::1]:80\ntransfer-encoding: chunked\nx-forwarded-for: 1.2.3.4",
            "\0CONNECT web:80\nhost: web:80",
        ])
    },
    words: &["host: ", "connection: ", "transfer-encoding: chunked", "\n", "http://", "/../", "%2e", "%2F", ";", "x-envoy-", "te: trailers", "CONNECT ", "*", "\\"],
};

pub const PATH: Target = Target {
    name: "waypoint_path",
    check: |bytes| {
        let mut input = Input(bytes);
        let mode = *input.choice(PathNormalization::ALL);
        let slashes = *input.choice(&[EscapedSlash::Keep, EscapedSlash::Reject, EscapedSlash::UnescapeAndRedirect]);
        let path = format!("/{}", String::from_utf8_lossy(input.0));
        let said = match canonical(&path, mode, slashes) {
            Ok(said) => said.into_owned(),
            Err(path::Turned::Refused(what)) => return saw_text(what.word()),
            Err(path::Turned::Redirect(to)) => to,
        };
        saw((mode as i32, said.len() == path.len(), said.contains("//"), said.contains('%')));
        assert!(said.starts_with('/'));
        if mode == PathNormalization::None {
            return;
        }
        assert_eq!(canonical(&said, mode, slashes).as_deref(), Ok(&*said), "{path:?} once and twice");
        assert!(!said.contains('\\'), "{said:?}");
        // However an endpoint decodes it: no segment leads up, with its parameters or without.
        let plain: Vec<u8> = said.replace("%2F", "/").replace("%5C", "/").into_bytes();
        let leads_up = |segment: &[u8]| matches!(segment.split(|byte| *byte == b';').next(), Some(b"." | b".."));
        assert!(!plain.split(|byte| *byte == b'/').any(leads_up), "{path:?} is {said:?}");
        if mode != PathNormalization::Base {
            assert!(!said.contains("//"), "{said:?}");
        }
    },
    seeds: || texts(&["\0\0a/b", "\x01\0a/./../%2e%2e/b", "\x02\0a//b%2f%2F", "\x03\x02a%5c..%5cb;x=1/..;/c", "\x01\x01caf%C3%A9%00"]),
    words: &["/", "//", "..", ".", "%2e", "%2E", "%2f", "%5C", "\\", ";", "%25", "%00", "%c0%af", "%"],
};

pub const FIRST: Target = Target {
    name: "waypoint_first_bytes",
    check: |bytes| {
        let whole = sniff(bytes);
        saw(match &whole {
            Sniffed::More => 0,
            Sniffed::Is(Protocol::Http1) => 1,
            Sniffed::Is(Protocol::Http2) => 2,
            Sniffed::Is(Protocol::Tls(hello)) => 3 + usize::from(hello.server_name.is_some()) + 2 * hello.alpn.len().min(4),
            Sniffed::Is(Protocol::Opaque) => 20,
        });
        // Once it is known it stays so, however the bytes come.
        let mut known = false;
        for end in 0..=bytes.len().min(600) {
            match sniff(&bytes[..end]) {
                Sniffed::More => assert!(!known, "known, and unknown with a byte more"),
                decided => {
                    known = true;
                    assert_eq!(decided, whole, "{end} of {} bytes decide otherwise", bytes.len());
                }
            }
        }
        if let Read::Hello(hello) = hello::read(bytes) {
            let name = hello.server_name.unwrap_or_default();
            assert!(name.len() <= bytes.len() && !name.contains(char::is_uppercase), "{name:?}");
        }
    },
    seeds: || {
        let mut hello = vec![22, 3, 1, 0, 69, 1, 0, 0, 65, 3, 3];
        hello.extend([7; 32]);
        hello.extend([0, 0, 2, 0x13, 1, 1, 0, 0, 22]);
        hello.extend([0, 0, 0, 8, 0, 6, 0, 0, 3, b'a', b'.', b'b']);
        hello.extend([0, 16, 0, 5, 0, 3, 2, b'h', b'2', 0]);
        let mut seeds = texts(&["GET / HTTP/1.1\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\0\x01\x02", "POST /a HTTP/1.0\n"]);
        seeds.push(hello);
        seeds
    },
    words: &["GET ", " HTTP/1.1\r\n", "PRI * HTTP/2.0\r\n", "\x16\x03\x01", "h2", "\0"],
};

pub const RESOURCE: Target = Target {
    name: "waypoint_resource",
    check: |bytes| {
        let mut input = Input(bytes);
        let (mut store, _settings) = settings::store(None);
        let mut held = BTreeSet::new();
        while !input.is_empty() {
            let type_url = *input.choice(&wire::ALL);
            let name = input.choice(&["shop/a", "shop/b", "c", ""]).to_string();
            let resource = input.block();
            match store.take(type_url, &name, Some(resource)) {
                Ok(()) => saw((type_url, "whole")),
                Err(problem) => {
                    saw((type_url, problem.state as i32));
                    saw_text(&problem.rejection.to_string());
                }
            }
            held.insert((type_url, name));
        }
        store.publish();
        // Whatever they were, they can be taken back.
        for (type_url, name) in held {
            store.take(type_url, &name, None).expect("the end of a resource is never wrong");
        }
        store.publish();
        assert_eq!(store.resources().count(), 0, "something is left");
    },
    seeds: || {
        let host = || Some(wire::Host { namespace: "shop".into(), hostname: "web.shop.svc.cluster.local".into() });
        let port = wire::ServicePort { host: host(), port: 80, ..Default::default() };
        let route = wire::HttpRoute { parent: Some(wire::ParentRef { host: host(), port: 80 }), ..Default::default() };
        let rules = vec![wire::AuthzRule { to: vec![wire::AuthzOperation { paths: vec!["/admin".into()], ..Default::default() }], ..Default::default() }];
        let policy = wire::AuthzPolicy { rules, action: wire::AuthzAction::Deny as i32, ..Default::default() };
        let one = |type_url: &str, bytes: Vec<u8>| {
            let at = wire::ALL.iter().position(|of| *of == type_url).expect("it is one of them");
            let length = u16::try_from(bytes.len()).expect("short").to_be_bytes();
            [vec![at as u8, 0], length.to_vec(), bytes].concat()
        };
        let all = [
            one(wire::SERVICE_PORT, port.encode_to_vec()),
            one(wire::HTTP_ROUTE, route.encode_to_vec()),
            one(wire::AUTHZ_POLICY, policy.encode_to_vec()),
            one(wire::JWT_POLICY, tokens().encode_to_vec()),
        ];
        let mut seeds = all.to_vec();
        seeds.push(all.concat());
        seeds
    },
    words: &["shop", "web.shop.svc.cluster.local", "/admin", "*", "{**}", "(a+)+$", "\x08\x01", "\x0a\x04"],
};

/// A token of the issuer below, and the only one.
const TOKEN_TEXT: &str = "eyJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJpIiwic3ViIjoiYm9iIn0.9dA81Uo6CAejkKBs_bDSXNv7YN32xr49xu_tqXdO0KI";

fn tokens() -> JwtPolicy {
    let rule = JwtRule { issuer: "i".into(), jwks: r#"{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}"#.into(), ..Default::default() };
    JwtPolicy { rules: vec![rule], ..Default::default() }
}

struct Nobody;

impl Caller for Nobody {
    fn call<'a>(&'a self, _: To<'a>, _: Spoken, _: Request<Bytes>, _: Limits) -> BoxFuture<'a, Result<Reply, CallError>> {
        panic!("a token makes us ask somebody, and the keys are here")
    }
}

pub const TOKEN: Target = Target {
    name: "waypoint_token",
    check: |bytes| {
        static KEYS: LazyLock<(Keys, Arc<jwt::Policy>)> = LazyLock::new(|| {
            let (policy, wrong) = jwt::compile(&tokens());
            assert!(wrong.is_none(), "{wrong:?}");
            (Keys::new(Arc::new(Nobody)), Arc::new(policy))
        });
        let mut headers = HeaderMap::new();
        let text = [b"Bearer ", bytes].concat();
        let Ok(value) = HeaderValue::from_bytes(&text) else { return };
        headers.insert(header::AUTHORIZATION, value);
        let parts = jwt::Parts { headers: &headers, query: None, authority: "web" };
        let outcome = KEYS.0.authenticate(std::slice::from_ref(&KEYS.1), parts).now_or_never().expect("nobody is waited for");
        match outcome {
            Outcome::None => saw("none"),
            Outcome::Refused(refused) => {
                assert_eq!(refused.status.as_u16(), 401);
                saw_text(&refused.details);
            }
            Outcome::Verified(verified) => {
                assert_eq!(bytes.trim_ascii(), TOKEN_TEXT.as_bytes(), "another token is believed: {:?}", verified.claims);
                saw("verified");
            }
        }
    },
    seeds: || {
        let plain = TOKEN_TEXT.split('.').take(2).collect::<Vec<_>>().join(".");
        // `alg` none, and one that is no key's.
        texts(&[TOKEN_TEXT, &format!("{plain}."), "eyJhbGciOiJub25lIn0.eyJpc3MiOiJpIn0.", "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJpIiwic3ViIjoiYm9iIn0.AAAA", "a.b.c", ""])
    },
    words: &[".", "eyJhbGciOiJub25lIn0", "eyJpc3MiOiJpIn0", "=", "-", "_", " "],
};
