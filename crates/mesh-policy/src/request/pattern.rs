//! One value of a policy, and what it matches.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use mesh_model::identity::SpiffeId;

use super::Token;
use crate::policy::{ServiceAccountMatch, StringMatch};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    Text(StringMatch),
    /// There is a value, be it empty.
    Present,
    /// These pieces in this order, with anything between two of them.
    Glob(Vec<Arc<str>>),
    Path(Template),
    Range(IpNet),
    Port(u16),
    Account(ServiceAccountMatch),
    Token { issuer: StringMatch, subject: StringMatch },
    /// Well written, and no request is like this.
    Never,
}

/// A path by its segments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    pub segments: Vec<Segment>,
    /// `{**}` at the end: any more segments, or none.
    pub open: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    Literal(Arc<str>),
    /// `{*}`: exactly one, and not an empty one.
    One,
}

/// What a pattern is compared with.
#[derive(Clone)]
pub(super) enum Value<'a> {
    Text(Cow<'a, [u8]>),
    Address(IpAddr),
    Port(u16),
    Identity(&'a SpiffeId),
    Token(Token<'a>),
}

impl Pattern {
    pub(super) fn matches(&self, value: &Value<'_>) -> bool {
        match (self, value) {
            (Pattern::Text(wanted), Value::Text(is)) => wanted.matches_bytes(is),
            (Pattern::Present, Value::Text(_)) => true,
            (Pattern::Glob(pieces), Value::Text(is)) => glob(pieces, is),
            (Pattern::Path(template), Value::Text(is)) => template.matches(is),
            (Pattern::Range(range), Value::Address(is)) => range.contains(is),
            (Pattern::Port(wanted), Value::Port(is)) => wanted == is,
            (Pattern::Account(wanted), Value::Identity(is)) => wanted.matches(is),
            (Pattern::Token { issuer, subject }, Value::Token(is)) => issuer.matches(is.issuer) && subject.matches(is.subject),
            _ => false,
        }
    }

    /// Whether a pattern for paths says something of parameters (`;x=1`).
    pub(super) fn names_parameters(&self) -> bool {
        match self {
            Pattern::Text(StringMatch::Exact(text) | StringMatch::Prefix(text) | StringMatch::Suffix(text)) => text.contains(';'),
            Pattern::Path(template) => template.segments.iter().any(|segment| matches!(segment, Segment::Literal(text) if text.contains(';'))),
            _ => false,
        }
    }
}

impl Template {
    fn matches(&self, path: &[u8]) -> bool {
        let mut rest = path.split(|byte| *byte == b'/');
        let fits = |wanted: &Segment, is: &[u8]| match wanted {
            Segment::Literal(text) => text.as_bytes() == is,
            Segment::One => !is.is_empty(),
        };
        self.segments.iter().all(|wanted| rest.next().is_some_and(|is| fits(wanted, is))) && (self.open || rest.next().is_none())
    }
}

/// The first piece begins the text, the last one ends it; those between are found one after the other.
fn glob(pieces: &[Arc<str>], text: &[u8]) -> bool {
    let ([first, middle @ .., last], true) = (pieces, pieces.len() > 1) else {
        return pieces.first().is_some_and(|only| only.as_bytes() == text);
    };
    let Some(text) = text.strip_prefix(first.as_bytes()) else { return false };
    let Some(mut text) = text.strip_suffix(last.as_bytes()) else { return false };
    for piece in middle.iter().filter(|piece| !piece.is_empty()) {
        let Some(at) = text.windows(piece.len()).position(|window| window == piece.as_bytes()) else { return false };
        text = &text[at + piece.len()..];
    }
    true
}
