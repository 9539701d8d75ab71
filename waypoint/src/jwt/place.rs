//! Where in a request tokens stand, and the request without one. Pure.

use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};
use percent_encoding::percent_decode_str;

use super::rule::Place;
use super::{Edits, Parts};

/// The first token in this place. An empty one is none.
pub fn find(place: &Place, parts: Parts<'_>) -> Option<String> {
    let token = match place {
        Place::Header { name, prefix } => {
            // A value that is no text cannot be a token, and is not a request without one either.
            let value = String::from_utf8_lossy(parts.headers.get(name)?.as_bytes()).into_owned();
            value.strip_prefix(prefix.as_str())?.trim().to_owned()
        }
        Place::Parameter(wanted) => {
            let value = parameters(parts.query?).find_map(|(name, value)| (decoded(name) == *wanted).then_some(value))?;
            decoded(value)
        }
        Place::Cookie(wanted) => cookies(parts.headers).find_map(|(name, value)| (name == wanted).then(|| value.trim_matches('"').to_owned()))?,
    };
    (!token.is_empty()).then_some(token)
}

/// Takes the token away.
pub fn strip(place: &Place, parts: Parts<'_>, edits: &mut Edits) {
    match place {
        Place::Header { name, .. } => edits.remove.push(name.clone()),
        Place::Parameter(wanted) => {
            let query = parts.query.unwrap_or_default();
            let others: Vec<&str> = query.split('&').filter(|pair| decoded(pair.split('=').next().unwrap_or_default()) != *wanted).collect();
            edits.query = Some((!others.is_empty()).then(|| others.join("&")));
        }
        Place::Cookie(wanted) => {
            let others: Vec<String> = cookies(parts.headers).filter(|(name, _)| name != wanted).map(|(name, value)| format!("{name}={value}")).collect();
            edits.remove.push(COOKIE);
            let rest = HeaderValue::from_str(&others.join("; ")).ok().filter(|rest| !rest.is_empty());
            edits.set.extend(rest.map(|rest| (COOKIE, rest)));
        }
    }
}

fn parameters(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

/// As a form writes it: a blank may be a plus.
fn decoded(text: &str) -> String {
    percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()
}

fn cookies(headers: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    let values = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='))
}
