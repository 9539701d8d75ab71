//! Set, add, remove: in this order (spec/waypoint.md 2.4).

use http::{HeaderMap, HeaderName, HeaderValue, header};
use mesh_xds::messages::waypoint as wire;

use super::rewrite;
use crate::facts::Rejection;

/// Names in one list: Gateway API allows 16 (spec/waypoint.md 2.1); with room for VirtualServices.
pub const EDITS_MAX: usize = 64;
/// Bytes of a value (spec/waypoint.md 2.1).
pub const VALUE_BYTES_MAX: usize = 4096;

/// What delimits messages is written by whoever sends them, never by a rule: else a rule could split a message in two
/// (spec/waypoint.md 9).
const FRAMING: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "transfer-encoding",
    "content-length",
    "upgrade",
    "te",
    "trailer",
    "http2-settings",
];

#[derive(Clone, Debug, Default)]
pub struct HeaderEdit {
    set: Vec<(HeaderName, HeaderValue)>,
    add: Vec<(HeaderName, HeaderValue)>,
    remove: Vec<HeaderName>,
    /// Whom the request is for; of a request only.
    authority: Option<Box<str>>,
}

impl HeaderEdit {
    pub fn compile(wire: &wire::HeaderEdit) -> Result<HeaderEdit, Rejection> {
        if wire.set.len().max(wire.add.len()).max(wire.remove.len()) > EDITS_MAX {
            return Err(Rejection::new("UnsupportedValue", format!("more than {EDITS_MAX} headers in one list")));
        }
        let mut edit = HeaderEdit::default();
        for (list, to) in [(&wire.set, &mut edit.set), (&wire.add, &mut edit.add)] {
            for entry in list {
                if is_authority(&entry.name) {
                    edit.authority = Some(rewrite::authority(&entry.value)?);
                } else {
                    to.push((written(&entry.name)?, value(entry)?));
                }
            }
        }
        for name in &wire.remove {
            if is_authority(name) {
                return Err(Rejection::new("UnsupportedValue", "a request without a host is none: it can be set, not removed"));
            }
            edit.remove.push(name_of(name)?);
        }
        Ok(edit)
    }

    pub fn apply(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
        for name in &self.remove {
            headers.remove(name);
        }
        if let Some(authority) = &self.authority {
            rewrite::set_authority(headers, authority);
        }
    }
}

fn is_authority(name: &str) -> bool {
    name.eq_ignore_ascii_case(header::HOST.as_str()) || name == ":authority"
}

fn name_of(name: &str) -> Result<HeaderName, Rejection> {
    HeaderName::try_from(name).map_err(|_| Rejection::new("UnsupportedValue", format!("{name:?} is no name of a header")))
}

fn written(name: &str) -> Result<HeaderName, Rejection> {
    let name = name_of(name)?;
    if FRAMING.contains(&name.as_str()) {
        return Err(Rejection::new("UnsupportedValue", format!("{name} belongs to the connection and cannot be set by a rule")));
    }
    Ok(name)
}

fn value(entry: &wire::HeaderValue) -> Result<HeaderValue, Rejection> {
    let wrong = |why: &str| Rejection::new("UnsupportedValue", format!("the value of {}: {why}", entry.name));
    if entry.value.len() > VALUE_BYTES_MAX {
        return Err(wrong("more than 4096 bytes"));
    }
    HeaderValue::try_from(entry.value.as_str()).map_err(|_| wrong("control characters have no place in a header"))
}
