//! How a line of the access log looks (spec/waypoint.md 6.3): the field's command operators, in a text or as JSON. Pure.

mod operator;

use std::borrow::Cow;
use std::io::Write as _;

use http::HeaderName;
use mesh_xds::messages::waypoint::HeaderValue as Label;

pub use self::operator::{Operator, Shown, expression_looks};
use super::told::Looks;
use super::view::View;

/// What a line is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Format {
    shape: Shape,
    /// An empty value is an empty text (or no key), not `-` (or null).
    omit_empty: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum Shape {
    Text(Vec<Piece>),
    Json(Vec<(String, Vec<Piece>)>),
}

#[derive(Clone, Debug, PartialEq)]
enum Piece {
    Literal(String),
    /// With the most characters that are shown of it.
    Value(Operator, Option<usize>),
}

/// The line that the field's users read and parse.
pub const TEXT: &str = concat!(
    "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% %RESPONSE_FLAGS% ",
    "%RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% ",
    "%DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" ",
    "\"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% ",
    "%DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n"
);

/// The same as JSON.
pub const JSON: [(&str, &str); 24] = [
    ("start_time", "%START_TIME%"),
    ("route_name", "%ROUTE_NAME%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    ("connection_termination_details", "%CONNECTION_TERMINATION_DETAILS%"),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("duration", "%DURATION%"),
    ("upstream_service_time", "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%"),
    ("x_forwarded_for", "%REQ(X-FORWARDED-FOR)%"),
    ("user_agent", "%REQ(USER-AGENT)%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("authority", "%REQ(:AUTHORITY)%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER_RAW%"),
    ("upstream_local_address", "%UPSTREAM_LOCAL_ADDRESS%"),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    ("upstream_transport_failure_reason", "%UPSTREAM_TRANSPORT_FAILURE_REASON%"),
];

/// A value of a peer is shown to this length where the format gives none: the longest path and user agent that are worth
/// a log's room.
const VALUE_CHARS_MAX: usize = 4096;
/// Of a format: a page of text.
const FORMAT_BYTES_MAX: usize = 16 * 1024;
const KEYS_MAX: usize = 128;

impl Format {
    /// A text; empty: the standard one. Its line end is added where it is missing.
    ///
    /// # Errors
    /// What of it is no operator that is known.
    pub fn text(format: &str, omit_empty: bool) -> Result<Format, String> {
        let format = if format.is_empty() { TEXT } else { format };
        let mut pieces = pieces(format)?;
        if !format.ends_with('\n') {
            pieces.push(Piece::Literal("\n".to_owned()));
        }
        Ok(Format { shape: Shape::Text(pieces), omit_empty })
    }

    /// A JSON object in the order of the labels; of one label without a name, or none: the standard one.
    ///
    /// # Errors
    /// As `text`; also two labels of one name.
    pub fn json(labels: &[Label], omit_empty: bool) -> Result<Format, String> {
        let standard = labels.iter().all(|label| label.name.is_empty());
        let labels: Vec<(&str, &str)> = match standard {
            true => JSON.to_vec(),
            false => labels.iter().map(|label| (&*label.name, &*label.value)).collect(),
        };
        if labels.len() > KEYS_MAX {
            return Err(format!("a line may have {KEYS_MAX} keys; this has {}", labels.len()));
        }
        let mut keys: Vec<(String, Vec<Piece>)> = Vec::with_capacity(labels.len());
        for (name, format) in labels {
            if keys.iter().any(|(known, _)| known == name) {
                return Err(format!("the key {name:?} is there twice"));
            }
            keys.push((name.to_owned(), pieces(format)?));
        }
        Ok(Format { shape: Shape::Json(keys), omit_empty })
    }

    /// What it looks at is added.
    pub fn looks(&self, looks: &mut Looks) {
        // Nearly all of what is in a line comes with the head, the time among it.
        looks.head = true;
        let pieces: Vec<&Piece> = match &self.shape {
            Shape::Text(pieces) => pieces.iter().collect(),
            Shape::Json(keys) => keys.iter().flat_map(|(_, pieces)| pieces).collect(),
        };
        for piece in pieces {
            if let Piece::Value(operator, _) = piece {
                operator.looks(looks);
            }
        }
    }

    /// Writes the line, with its end.
    pub fn write(&self, out: &mut Vec<u8>, view: &View<'_>) {
        match &self.shape {
            Shape::Text(pieces) => text(out, pieces, view, if self.omit_empty { "" } else { "-" }),
            Shape::Json(keys) => self.object(out, keys, view),
        }
    }

    fn object(&self, out: &mut Vec<u8>, keys: &[(String, Vec<Piece>)], view: &View<'_>) {
        out.push(b'{');
        let mut first = true;
        for (key, pieces) in keys {
            let single = match pieces.as_slice() {
                [Piece::Value(operator, most)] => Some(clipped(operator.value(view), *most)),
                _ => None,
            };
            if self.omit_empty && matches!(single, Some(Shown::Nothing)) {
                continue;
            }
            if !std::mem::take(&mut first) {
                out.push(b',');
            }
            quoted(out, key);
            out.push(b':');
            match single {
                Some(Shown::Nothing) => out.extend_from_slice(b"null"),
                Some(Shown::Number(number)) => {
                    let _ = write!(out, "{number}");
                }
                Some(Shown::Text(text)) => quoted(out, &text),
                None => {
                    let mut whole = Vec::new();
                    joined(&mut whole, pieces, view, if self.omit_empty { "" } else { "-" }, |out, text| {
                        out.extend_from_slice(text.as_bytes());
                    });
                    quoted(out, &String::from_utf8_lossy(&whole));
                }
            }
        }
        out.extend_from_slice(b"}\n");
    }
}

fn text(out: &mut Vec<u8>, pieces: &[Piece], view: &View<'_>, empty: &str) {
    joined(out, pieces, view, empty, escaped);
}

fn joined(out: &mut Vec<u8>, pieces: &[Piece], view: &View<'_>, empty: &str, put: fn(&mut Vec<u8>, &str)) {
    for piece in pieces {
        match piece {
            Piece::Literal(literal) => out.extend_from_slice(literal.as_bytes()),
            Piece::Value(operator, most) => match clipped(operator.value(view), *most) {
                Shown::Nothing => out.extend_from_slice(empty.as_bytes()),
                Shown::Number(number) => {
                    let _ = write!(out, "{number}");
                }
                Shown::Text(text) => put(out, &text),
            },
        }
    }
}

fn clipped(shown: Shown<'_>, most: Option<usize>) -> Shown<'_> {
    let most = most.unwrap_or(VALUE_CHARS_MAX);
    match shown {
        // A text has at least as many bytes as characters.
        Shown::Text(text) if text.len() > most => match text.char_indices().nth(most) {
            Some((end, _)) => Shown::Text(Cow::Owned(text[..end].to_owned())),
            None => Shown::Text(text),
        },
        shown => shown,
    }
}

/// A peer's words may end neither the line nor the quotes that they stand in (spec/waypoint.md 9).
fn escaped(out: &mut Vec<u8>, text: &str) {
    let plain = |c: char| !c.is_control() && c != '"' && c != '\\';
    if text.chars().all(plain) {
        return out.extend_from_slice(text.as_bytes());
    }
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                let _ = write!(out, "\\{c}");
            }
            c if plain(c) => {
                let _ = write!(out, "{c}");
            }
            c => {
                let _ = write!(out, "{}", c.escape_default());
            }
        }
    }
}

fn quoted(out: &mut Vec<u8>, text: &str) {
    // Strings always serialize, and a Vec always takes them.
    let _ = serde_json::to_writer(out, text);
}

/// Splits a format into what stands there and what is put in.
fn pieces(format: &str) -> Result<Vec<Piece>, String> {
    if format.len() > FORMAT_BYTES_MAX {
        return Err(format!("a format may have {FORMAT_BYTES_MAX} bytes; this has {}", format.len()));
    }
    let mut pieces = Vec::new();
    let mut rest = format;
    let mut literal = String::new();
    while let Some((before, after)) = rest.split_once('%') {
        literal.push_str(before);
        if let Some(after) = after.strip_prefix('%') {
            literal.push('%');
            rest = after;
            continue;
        }
        if !literal.is_empty() {
            pieces.push(Piece::Literal(std::mem::take(&mut literal)));
        }
        let (name, argument, most, after) = command(after)?;
        pieces.push(Piece::Value(Operator::parse(name, argument)?, most));
        rest = after;
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        pieces.push(Piece::Literal(literal));
    }
    Ok(pieces)
}

type Command<'f> = (&'f str, Option<&'f str>, Option<usize>, &'f str);

/// After a `%`: `NAME`, `NAME(argument)`, either with `:length`, then `%`.
fn command(text: &str) -> Result<Command<'_>, String> {
    let name_end = text.find(|c: char| !c.is_ascii_uppercase() && !c.is_ascii_digit() && c != '_').unwrap_or(text.len());
    let (name, mut rest) = text.split_at(name_end);
    let open = || format!("%{} does not end with %", text.chars().take(40).collect::<String>());
    let mut argument = None;
    if let Some(inner) = rest.strip_prefix('(') {
        // An argument may hold parentheses and percent signs: it ends with the one that is followed by the end.
        let end = inner.match_indices(')').find(|(index, _)| inner[index + 1..].starts_with(['%', ':']));
        let (end, _) = end.ok_or_else(open)?;
        argument = Some(&inner[..end]);
        rest = &inner[end + 1..];
    }
    let mut most = None;
    if let Some(length) = rest.strip_prefix(':') {
        let (digits, after) = length.split_once('%').ok_or_else(open)?;
        most = Some(digits.parse().map_err(|_| format!("%{name}%: {digits:?} is no length"))?);
        return Ok((name, argument, most, after));
    }
    let after = rest.strip_prefix('%').ok_or_else(open)?;
    Ok((name, argument, most, after))
}

/// The name of a header in an operator.
fn header_name(name: &str) -> Result<HeaderName, String> {
    HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| format!("{name:?} is no name of a header"))
}
