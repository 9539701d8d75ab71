//! Whether a request is what a match asks for (spec/waypoint.md 2.2, 5.1). All that is given must hold.

use http::{HeaderMap, HeaderName};
use mesh_xds::messages::waypoint::{HttpMatch, KeyMatch, PathKind};
use percent_encoding::percent_decode_str;
use regex::Regex;

use super::text::{Text, whole};
use crate::facts::{Claims, Head, Rejection};

/// Conditions on one list of a match: Gateway API allows 16 (spec/waypoint.md 2.1); with room for VirtualServices.
pub const CONDITIONS_MAX: usize = 64;
/// Characters of a path in a match (spec/waypoint.md 2.1).
pub const PATH_CHARS_MAX: usize = 1024;

/// How a name in `headers` says that a claim of the verified token is meant (spec/waypoint.md 5.1).
const CLAIM: &str = "@request.auth.claims";

#[derive(Clone, Debug)]
pub struct Matcher {
    pub(super) path: Path,
    pub(super) method: Option<Text>,
    pub(super) headers: Vec<HeaderMatch>,
    pub(super) query: Vec<QueryMatch>,
    pub(super) grpc: Option<Grpc>,
    pub(super) scheme: Option<Text>,
    pub(super) authority: Option<Text>,
    pub(super) source_namespace: Option<Box<str>>,
    pub(super) port: Option<u16>,
}

#[derive(Clone, Debug)]
pub enum Path {
    Any,
    Exact {
        path: Box<str>,
        ignore_case: bool,
    },
    /// Whole elements. Without the slash at its end; empty: all of them.
    Elements {
        prefix: Box<str>,
        ignore_case: bool,
    },
    /// Any text that begins so.
    Text {
        prefix: Box<str>,
        ignore_case: bool,
    },
    Pattern {
        pattern: Regex,
        chars: usize,
    },
}

#[derive(Clone, Debug)]
pub struct HeaderMatch {
    pub(super) key: HeaderKey,
    pub(super) value: Text,
    pub(super) invert: bool,
}

#[derive(Clone, Debug)]
pub(super) enum HeaderKey {
    Name(HeaderName),
    /// `Host` and `:authority`: what the request is for, in whichever version of HTTP.
    Authority,
    Claim(Vec<Box<str>>),
}

#[derive(Clone, Debug)]
pub struct QueryMatch {
    pub(super) name: Box<str>,
    pub(super) value: Text,
    pub(super) invert: bool,
}

/// Of a path `/{service}/{method}`.
#[derive(Clone, Debug)]
pub(super) struct Grpc {
    pub service: Option<Text>,
    pub method: Option<Text>,
    pub service_chars: usize,
    pub method_chars: usize,
}

impl Matcher {
    /// Every request.
    pub fn any() -> Matcher {
        Matcher {
            path: Path::Any,
            method: None,
            headers: Vec::new(),
            query: Vec::new(),
            grpc: None,
            scheme: None,
            authority: None,
            source_namespace: None,
            port: None,
        }
    }

    pub fn compile(wire: &HttpMatch) -> Result<Matcher, Rejection> {
        let text = |wire: &Option<_>| wire.as_ref().map(Text::compile).transpose();
        let port =
            u16::try_from(wire.port).map_err(|_| Rejection::new("UnsupportedValue", format!("port {} of a match", wire.port)))?;
        Ok(Matcher {
            path: Path::compile(wire)?,
            method: text(&wire.method)?,
            headers: once_each(&wire.headers, HeaderMatch::compile, |known, new| known.key.same(&new.key))?,
            query: once_each(&wire.query, QueryMatch::compile, |known, new| known.name == new.name)?,
            grpc: wire.grpc.as_ref().map(Grpc::compile).transpose()?,
            scheme: text(&wire.scheme)?,
            authority: text(&wire.authority)?,
            source_namespace: (!wire.source_namespace.is_empty()).then(|| wire.source_namespace.as_str().into()),
            port: (port != 0).then_some(port),
        })
    }

    pub fn matches(&self, head: &Head<'_>) -> bool {
        self.path.matches(head.path) && self.matches_beside_path(head)
    }

    /// The rest, where the path was found to match.
    pub(super) fn matches_beside_path(&self, head: &Head<'_>) -> bool {
        self.method.as_ref().is_none_or(|method| method.matches(head.method.as_str()))
            && self.grpc.as_ref().is_none_or(|grpc| grpc.matches(head.path))
            && self.port.is_none_or(|port| port == head.arrival.target.port())
            && self.source_namespace.as_ref().is_none_or(|namespace| **namespace == *head.arrival.identity.namespace)
            && self.scheme.as_ref().is_none_or(|scheme| scheme.matches(head.scheme))
            && self.authority.as_ref().is_none_or(|authority| authority.matches(head.authority))
            && self.headers.iter().all(|wanted| wanted.matches(head))
            && self.query.iter().all(|wanted| wanted.matches(head.query.unwrap_or_default()))
    }

    /// What of the path a rewrite of the matched text replaces. None: the path has been rewritten since, and has nothing
    /// of it any more.
    pub fn matched_of<'p>(&self, path: &'p str) -> Option<&'p str> {
        match &self.path {
            Path::Elements { prefix, .. } | Path::Text { prefix, .. } if self.path.matches(path) => path.get(..prefix.len()),
            Path::Elements { .. } | Path::Text { .. } => None,
            Path::Any => Some(path.get(..1).unwrap_or(path)),
            Path::Exact { .. } | Path::Pattern { .. } => Some(path),
        }
    }
}

impl Path {
    fn compile(wire: &HttpMatch) -> Result<Path, Rejection> {
        let Some(path) = &wire.path else { return Ok(Path::Any) };
        let ignore_case = path.ignore_case;
        let kind = PathKind::try_from(path.kind)
            .map_err(|_| Rejection::new("UnsupportedValue", format!("{} is no kind of path", path.kind)))?;
        if path.value.chars().count() > PATH_CHARS_MAX {
            return Err(Rejection::new("UnsupportedValue", format!("a path of more than {PATH_CHARS_MAX} characters")));
        }
        if kind != PathKind::Regex && kind != PathKind::PrefixString && !path.value.starts_with('/') {
            return Err(Rejection::new("UnsupportedValue", format!("the path {:?} does not begin with /", path.value)));
        }
        Ok(match kind {
            PathKind::Exact => Path::Exact { path: path.value.as_str().into(), ignore_case },
            PathKind::PrefixSegment => Path::Elements { prefix: path.value.trim_end_matches('/').into(), ignore_case },
            PathKind::PrefixString => Path::Text { prefix: path.value.as_str().into(), ignore_case },
            PathKind::Regex => Path::Pattern { pattern: whole(&path.value, ignore_case)?, chars: path.value.chars().count() },
        })
    }

    pub(super) fn matches(&self, path: &str) -> bool {
        match self {
            Path::Any => true,
            Path::Exact { path: wanted, ignore_case: false } => path == &**wanted,
            Path::Exact { path: wanted, ignore_case: true } => path.eq_ignore_ascii_case(wanted),
            Path::Elements { prefix, ignore_case } => {
                begins(path, prefix, *ignore_case) && (path.len() == prefix.len() || path.as_bytes()[prefix.len()] == b'/')
            }
            Path::Text { prefix, ignore_case } => begins(path, prefix, *ignore_case),
            Path::Pattern { pattern, .. } => pattern.is_match(path),
        }
    }
}

fn begins(path: &str, prefix: &str, ignore_case: bool) -> bool {
    let Some(head) = path.as_bytes().get(..prefix.len()) else { return false };
    if ignore_case { head.eq_ignore_ascii_case(prefix.as_bytes()) } else { head == prefix.as_bytes() }
}

/// Of several conditions on one name only the first counts (spec/waypoint.md 2.2).
fn once_each<T>(
    wire: &[KeyMatch],
    compile: impl Fn(&KeyMatch) -> Result<T, Rejection>,
    same: impl Fn(&T, &T) -> bool,
) -> Result<Vec<T>, Rejection> {
    if wire.len() > CONDITIONS_MAX {
        return Err(Rejection::new("UnsupportedValue", format!("more than {CONDITIONS_MAX} conditions in one match")));
    }
    let mut kept: Vec<T> = Vec::new();
    for one in wire {
        let one = compile(one)?;
        if !kept.iter().any(|known| same(known, &one)) {
            kept.push(one);
        }
    }
    Ok(kept)
}

fn value_of(wire: &KeyMatch) -> Result<Text, Rejection> {
    let without = || Rejection::new("UnsupportedValue", format!("the condition on {:?} has no value", wire.name));
    Text::compile(wire.value.as_ref().ok_or_else(without)?)
}

impl HeaderMatch {
    fn compile(wire: &KeyMatch) -> Result<HeaderMatch, Rejection> {
        Ok(HeaderMatch { key: HeaderKey::compile(&wire.name)?, value: value_of(wire)?, invert: wire.invert })
    }

    pub(super) fn matches(&self, head: &Head<'_>) -> bool {
        let holds = match &self.key {
            HeaderKey::Name(name) => any_value(&self.value, head.headers, name),
            HeaderKey::Authority => self.value.matches(head.authority),
            HeaderKey::Claim(at) => head.claims.is_some_and(|claims| claim_matches(&self.value, claims, at)),
        };
        holds != self.invert
    }
}

impl HeaderKey {
    fn compile(name: &str) -> Result<HeaderKey, Rejection> {
        if let Some(claim) = name.strip_prefix(CLAIM) {
            let at: Vec<Box<str>> = match claim.strip_prefix('.') {
                Some(dotted) => dotted.split('.').map(Into::into).collect(),
                None => claim.split(['[', ']']).filter(|part| !part.is_empty()).map(Into::into).collect(),
            };
            if at.is_empty() || at.iter().any(|part| part.is_empty()) {
                return Err(Rejection::new("UnsupportedValue", format!("{name:?} names no claim")));
            }
            return Ok(HeaderKey::Claim(at));
        }
        if name.eq_ignore_ascii_case("host") || name == ":authority" {
            return Ok(HeaderKey::Authority);
        }
        let name = HeaderName::try_from(name)
            .map_err(|_| Rejection::new("UnsupportedValue", format!("{name:?} is no name of a header")))?;
        Ok(HeaderKey::Name(name))
    }

    fn same(&self, other: &HeaderKey) -> bool {
        match (self, other) {
            (HeaderKey::Name(one), HeaderKey::Name(other)) => one == other,
            (HeaderKey::Claim(one), HeaderKey::Claim(other)) => one == other,
            (one, other) => std::mem::discriminant(one) == std::mem::discriminant(other),
        }
    }
}

/// Any line of the header, or all of them joined (spec/waypoint.md 2.2).
fn any_value(wanted: &Text, headers: &HeaderMap, name: &HeaderName) -> bool {
    let mut lines = headers.get_all(name).iter();
    let Some(first) = lines.next() else { return false };
    if wanted.matches_bytes(first.as_bytes()) {
        return true;
    }
    let mut joined = Vec::new();
    for line in lines {
        if wanted.matches_bytes(line.as_bytes()) {
            return true;
        }
        if joined.is_empty() {
            joined.extend_from_slice(first.as_bytes());
        }
        joined.push(b',');
        joined.extend_from_slice(line.as_bytes());
    }
    !joined.is_empty() && wanted.matches_bytes(&joined)
}

/// The claim, or one entry of it where it is a list.
fn claim_matches(wanted: &Text, claims: &Claims, at: &[Box<str>]) -> bool {
    let Some(value) = at.iter().try_fold(&claims.payload, |within, part| within.get(&**part)) else { return false };
    let one = |value: &serde_json::Value| match value {
        serde_json::Value::String(text) => wanted.matches(text),
        serde_json::Value::Bool(_) | serde_json::Value::Number(_) => wanted.matches(&value.to_string()),
        _ => false,
    };
    match value {
        serde_json::Value::Array(entries) => entries.iter().any(one),
        value => one(value),
    }
}

impl QueryMatch {
    fn compile(wire: &KeyMatch) -> Result<QueryMatch, Rejection> {
        if wire.name.is_empty() {
            return Err(Rejection::new("UnsupportedValue", "a condition on a query parameter without a name"));
        }
        Ok(QueryMatch { name: wire.name.as_str().into(), value: value_of(wire)?, invert: wire.invert })
    }

    /// The first parameter of that name counts (spec/waypoint.md 2.2).
    pub(super) fn matches(&self, query: &str) -> bool {
        let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let first = pairs.into_iter().find(|(name, _)| percent_decode_str(name).eq(self.name.bytes()));
        let holds = first.is_some_and(|(_, value)| {
            let value: std::borrow::Cow<'_, [u8]> = percent_decode_str(value).into();
            self.value.matches_bytes(&value)
        });
        holds != self.invert
    }
}

impl Grpc {
    fn compile(wire: &mesh_xds::messages::waypoint::GrpcMatch) -> Result<Grpc, Rejection> {
        use mesh_xds::messages::waypoint::{StrMatch, StrMatchKind};
        let chars = |wire: &Option<StrMatch>| match wire.as_ref().and_then(|wire| wire.kind.as_ref()) {
            Some(
                StrMatchKind::Exact(text) | StrMatchKind::Prefix(text) | StrMatchKind::Suffix(text) | StrMatchKind::Regex(text),
            ) => text.chars().count(),
            Some(StrMatchKind::Present(_)) | None => 0,
        };
        Ok(Grpc {
            service: wire.service.as_ref().map(Text::compile).transpose()?,
            method: wire.method.as_ref().map(Text::compile).transpose()?,
            service_chars: chars(&wire.service),
            method_chars: chars(&wire.method),
        })
    }

    pub(super) fn matches(&self, path: &str) -> bool {
        let Some((service, method)) = path.strip_prefix('/').and_then(|path| path.split_once('/')) else { return false };
        !method.contains('/')
            && self.service.as_ref().is_none_or(|wanted| wanted.matches(service))
            && self.method.as_ref().is_none_or(|wanted| wanted.matches(method))
    }
}
