//! Pure: one path for one resource. What comes out is judged and is what is forwarded, so that an endpoint finds nothing
//! in it that policy did not see (spec/waypoint.md 9).
//!
//! | mode | does |
//! |---|---|
//! | `BASE` | `\` is `/`; escapes of unreserved characters are decoded, the others written in capitals; dot segments removed |
//! | `MERGE_SLASHES` | and several slashes are one |
//! | `DECODE_AND_MERGE_SLASHES` | and `%2F`, `%5C` are slashes before that |
//! | `NONE` | nothing |
//!
//! Parameters (`;x=1`) and escaped slashes stay: what they mean differs between endpoints, and a DENY hears each meaning
//! (`mesh-policy`, `request/readings.rs`). Only a dot segment that hides behind one of them is refused: it would lead out of
//! what an ALLOW names.
//! A fragment never gets here: the parser of targets cuts it off, for us and for the endpoint.

use std::borrow::Cow;

use mesh_xds::messages::waypoint::{EscapedSlash, PathNormalization};

use crate::error::Malformed;

/// What is to be done about a path that is not taken as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turned {
    Refused(Malformed),
    /// The client is sent to this path, where it says what it means.
    Redirect(String),
}

impl From<Malformed> for Turned {
    fn from(what: Malformed) -> Turned {
        Turned::Refused(what)
    }
}

/// # Errors
/// A path that no two endpoints read alike.
pub fn canonical(path: &str, mode: PathNormalization, slashes: EscapedSlash) -> Result<Cow<'_, str>, Turned> {
    let bytes = path.as_bytes();
    let escaped = bytes.contains(&b'%');
    if escaped {
        check_escapes(bytes, mode)?;
        if slashes != EscapedSlash::Keep && has_escaped_slash(bytes) {
            return Err(match slashes {
                EscapedSlash::UnescapeAndRedirect => Turned::Redirect(rewrite(bytes, PathNormalization::DecodeAndMergeSlashes)?),
                EscapedSlash::Keep | EscapedSlash::Reject => Malformed::EscapedSlash.into(),
            });
        }
    }
    if mode == PathNormalization::None || !(escaped || needs_work(bytes, mode)) {
        return Ok(Cow::Borrowed(path));
    }
    Ok(Cow::Owned(rewrite(bytes, mode)?))
}

/// Nearly all paths need nothing, and are not copied.
fn needs_work(bytes: &[u8], mode: PathNormalization) -> bool {
    let merges = mode != PathNormalization::Base;
    bytes.contains(&b'\\') || bytes.windows(2).any(|pair| pair == b"/." || (merges && pair == b"//"))
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// The byte that an escape at `at` stands for.
fn escape(bytes: &[u8], at: usize) -> Option<u8> {
    match bytes.get(at..at + 3)? {
        [b'%', high, low] => Some(hex(*high)? << 4 | hex(*low)?),
        _ => None,
    }
}

fn check_escapes(bytes: &[u8], mode: PathNormalization) -> Result<(), Malformed> {
    for at in (0..bytes.len()).filter(|at| bytes[*at] == b'%') {
        match escape(bytes, at) {
            Some(0) => return Err(Malformed::PathNul),
            None if mode == PathNormalization::None => {}
            None => return Err(Malformed::PathEscape),
            // Longer than a character needs: a way to write `/` or `a` that only careless decoders read.
            Some(first) if mode != PathNormalization::None && is_overlong(first, escape(bytes, at + 3)) => {
                return Err(Malformed::PathEscape);
            }
            Some(_) => {}
        }
    }
    Ok(())
}

fn is_overlong(first: u8, second: Option<u8>) -> bool {
    matches!((first, second), (0xC0 | 0xC1, Some(0x80..=0xBF)) | (0xE0, Some(0x80..=0x9F)) | (0xF0, Some(0x80..=0x8F)))
}

fn has_escaped_slash(bytes: &[u8]) -> bool {
    (0..bytes.len()).any(|at| matches!(escape(bytes, at), Some(b'/' | b'\\')))
}

fn rewrite(bytes: &[u8], mode: PathNormalization) -> Result<String, Malformed> {
    let decoded = decode(bytes, mode == PathNormalization::DecodeAndMergeSlashes);
    let undotted = remove_dot_segments(&decoded)?;
    let path = if mode == PathNormalization::Base { undotted } else { merge_slashes(&undotted) };
    String::from_utf8(path).map_err(|_| Malformed::PathEscape)
}

fn decode(bytes: &[u8], slashes: bool) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match escape(bytes, at) {
            Some(byte) => {
                match byte {
                    b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => decoded.push(byte),
                    b'/' | b'\\' if slashes => decoded.push(b'/'),
                    _ => decoded.extend([b'%', bytes[at + 1].to_ascii_uppercase(), bytes[at + 2].to_ascii_uppercase()]),
                }
                at += 3;
            }
            None => {
                decoded.push(if bytes[at] == b'\\' { b'/' } else { bytes[at] });
                at += 1;
            }
        }
    }
    decoded
}

/// RFC 3986 5.2.4, for a path that begins with a slash.
fn remove_dot_segments(path: &[u8]) -> Result<Vec<u8>, Malformed> {
    let mut kept: Vec<u8> = Vec::with_capacity(path.len());
    let mut segments = path.split(|byte| *byte == b'/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        if hides_dots(segment) {
            return Err(Malformed::PathEscape);
        }
        match segment {
            b"." => {}
            b".." => {
                let cut = kept.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
                kept.truncate(cut);
            }
            _ => {
                kept.push(b'/');
                kept.extend_from_slice(segment);
                continue;
            }
        }
        // A dot segment at the end names the folder.
        if last {
            kept.push(b'/');
        }
    }
    if kept.is_empty() {
        kept.push(b'/');
    }
    Ok(kept)
}

/// `..;x`, `a%2F..`: a dot segment for an endpoint that cuts parameters off or decodes slashes, and none for the others.
fn hides_dots(segment: &[u8]) -> bool {
    let is_dots = |name: &[u8]| matches!(name, b"." | b"..");
    let name = |part: &[u8]| part.iter().position(|byte| *byte == b';').unwrap_or(part.len());
    let mut parts = Vec::new();
    let mut rest = segment;
    while let Some(at) = rest.windows(3).position(|three| matches!(three, b"%2F" | b"%5C")) {
        parts.push(&rest[..at]);
        rest = &rest[at + 3..];
    }
    parts.push(rest);
    !is_dots(segment) && parts.iter().any(|part| is_dots(&part[..name(part)]))
}

fn merge_slashes(path: &[u8]) -> Vec<u8> {
    let mut merged = Vec::with_capacity(path.len());
    for byte in path {
        if !(*byte == b'/' && merged.last() == Some(&b'/')) {
            merged.push(*byte);
        }
    }
    merged
}

#[cfg(test)]
mod tests;
