//! Another path, another host (spec/waypoint.md 2.4, 5.1).

use std::borrow::Cow;

use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderValue, Uri, header};
use mesh_xds::messages::waypoint::{self as wire, PathEditKind};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use regex::Regex;

use super::{Answer, Site};
use crate::facts::Rejection;
use crate::route::text;

/// Bytes of a path that a pattern made. A request's own is bounded where it is read.
pub const PATH_BYTES_MAX: usize = 16 * 1024;

/// What may not stand in a path as it is, beside what is not ASCII. `%` is left: what is configured is already escaped.
const UNSAFE: &AsciiSet =
    &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'<').add(b'>').add(b'\\').add(b'^').add(b'`').add(b'{').add(b'|').add(b'}');

#[derive(Clone, Debug)]
pub struct Rewrite {
    authority: Option<Box<str>>,
    path: Option<PathEdit>,
}

#[derive(Clone, Debug)]
pub enum PathEdit {
    Full(Box<str>),
    /// In the place of whole elements, without the slash at its end.
    Elements(Box<str>),
    /// In the place of the matched text.
    Text(Box<str>),
    Pattern {
        pattern: Regex,
        substitution: Box<str>,
    },
}

impl Rewrite {
    pub fn compile(wire: &wire::Rewrite) -> Result<Rewrite, Rejection> {
        let hostname = (!wire.hostname.is_empty()).then_some(wire.hostname.as_str());
        Ok(Rewrite {
            authority: hostname.map(authority).transpose()?,
            path: wire.path.as_ref().map(PathEdit::compile).transpose()?,
        })
    }

    #[allow(
        clippy::result_large_err,
        reason = "an answer is what many rules are for, no rarity: it is moved, once for a request"
    )]
    pub fn apply(&self, parts: &mut Parts, site: &Site<'_>) -> Result<(), Answer> {
        if let Some(edit) = &self.path {
            let path = edit.apply(parts.uri.path(), site);
            set_path(parts, &path)?;
        }
        if let Some(authority) = &self.authority {
            set_authority(&mut parts.headers, authority);
        }
        Ok(())
    }
}

impl PathEdit {
    pub fn compile(wire: &wire::PathEdit) -> Result<PathEdit, Rejection> {
        let kind =
            wire.kind.as_ref().ok_or_else(|| Rejection::new("UnsupportedValue", "a rewrite of the path that says no path"))?;
        let escaped = |text: &str| -> Result<Box<str>, Rejection> {
            if text.len() > PATH_BYTES_MAX {
                return Err(Rejection::new("UnsupportedValue", format!("a path of more than {PATH_BYTES_MAX} bytes")));
            }
            Ok(utf8_percent_encode(text, UNSAFE).to_string().into())
        };
        Ok(match kind {
            PathEditKind::Full(path) => PathEdit::Full(escaped(path)?),
            PathEditKind::Prefix(path) => PathEdit::Elements(escaped(path.trim_end_matches('/'))?),
            PathEditKind::PrefixString(path) => PathEdit::Text(escaped(path)?),
            PathEditKind::Regex(edit) => {
                escaped(&edit.substitution)?;
                PathEdit::Pattern {
                    pattern: text::anywhere(&edit.pattern)?,
                    substitution: substitution(&edit.substitution).into(),
                }
            }
        })
    }

    /// The new path for this one; it begins with `/`.
    pub fn apply(&self, path: &str, site: &Site<'_>) -> String {
        // No rule: as if it were for every path.
        let matched = || site.matched.map_or(Some("/"), |matched| matched.matcher().matched_of(path));
        let new = match self {
            PathEdit::Full(new) => Cow::Borrowed(&**new),
            PathEdit::Elements(new) => match matched() {
                // Where the elements end there is a slash, or nothing.
                Some(matched) => Cow::Owned(format!("{new}{}", &path[matched.trim_end_matches('/').len()..])),
                None => Cow::Borrowed(path),
            },
            PathEdit::Text(new) => match matched() {
                Some(matched) => Cow::Owned(format!("{new}{}", &path[matched.len()..])),
                None => Cow::Borrowed(path),
            },
            PathEdit::Pattern { pattern, substitution } => pattern.replace_all(path, &**substitution),
        };
        if new.starts_with('/') { new.into_owned() } else { format!("/{new}") }
    }
}

/// `\1` of the field's syntax becomes `${1}` of the crate's; the rest is made fit for a path.
fn substitution(text: &str) -> String {
    let mut made = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '$' => made.push_str("$$"),
            '\\' => match chars.next() {
                Some(digit) if digit.is_ascii_digit() => made.push_str(&format!("${{{digit}}}")),
                Some(other) => made.extend(utf8_percent_encode(other.encode_utf8(&mut [0; 4]), UNSAFE)),
                None => {}
            },
            c => made.extend(utf8_percent_encode(c.encode_utf8(&mut [0; 4]), UNSAFE)),
        }
    }
    made
}

/// Puts the path in the place of the request's; the query stays.
#[allow(clippy::result_large_err, reason = "an answer is what many rules are for, no rarity: it is moved, once for a request")]
fn set_path(parts: &mut Parts, path: &str) -> Result<(), Answer> {
    if path.len() > PATH_BYTES_MAX {
        return Err(Answer::invalid("the rewritten path is too long"));
    }
    let target: PathAndQuery = with_query(path, parts.uri.query())
        .parse()
        .map_err(|_| Answer::invalid("the rewritten path cannot stand in a request"))?;
    let mut uri = parts.uri.clone().into_parts();
    uri.path_and_query = Some(target);
    parts.uri = Uri::from_parts(uri).map_err(|_| Answer::invalid("the rewritten path cannot stand in a request"))?;
    Ok(())
}

/// A path that brings a query of its own keeps it in front of the request's.
pub fn with_query<'p>(path: &'p str, query: Option<&str>) -> Cow<'p, str> {
    match query {
        Some(query) => Cow::Owned(format!("{path}{}{query}", if path.contains('?') { '&' } else { '?' })),
        None => Cow::Borrowed(path),
    }
}

/// An authority that can stand in a request.
pub fn authority(text: &str) -> Result<Box<str>, Rejection> {
    let readable = text.parse::<Authority>().ok().filter(|authority| !authority.as_str().contains('@'));
    readable
        .map(|authority| authority.as_str().into())
        .ok_or_else(|| Rejection::new("UnsupportedValue", format!("{text:?} is no host")))
}

/// Whom the request is for. After hygiene `Host` says so in every version of HTTP, and nothing else does.
pub fn set_authority(headers: &mut HeaderMap, authority: &str) {
    if let Ok(host) = HeaderValue::from_str(authority) {
        headers.insert(header::HOST, host);
    }
}
