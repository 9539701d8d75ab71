//! What the rules say of a request: the first that verifies a token decides; a token that none verifies is refused; none at
//! all is no user (spec/waypoint.md 4.6). Pure: keys that are lacking are asked for.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderName, HeaderValue};
use serde_json::Value;

use super::jwks::Jwks;
use super::rule::{Place, Remote, Rule, Source};
use super::token::{Bad, Unproven, fits};
use super::{Edits, Outcome, Parts, Refused, Verified, place};

#[derive(Debug)]
pub enum Step {
    Done(Outcome),
    /// And then again.
    Need(Need),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    pub keys: Remote,
    pub timeout: Duration,
    /// There are keys, and none that the token names.
    pub anew: bool,
}

/// What is known of an issuer's keys.
#[derive(Clone, Debug)]
pub enum Known {
    /// Not asked yet.
    Nothing,
    Failed,
    Keys {
        keys: Arc<Jwks>,
        /// They were fetched for this request, or others may not be fetched now.
        last: bool,
    },
}

pub fn judge<'r>(rules: impl IntoIterator<Item = &'r Rule>, parts: Parts<'_>, known: &dyn Fn(&Remote) -> Known, now: SystemTime) -> Step {
    let mut worst: Option<Bad> = None;
    for rule in rules {
        for place in &rule.places {
            let Some(token) = place::find(place, parts) else { continue };
            let verified = fits(&token, rule, now).map(|token| prove(token, rule, known));
            let bad = match verified {
                Ok(Proven::Yes(token)) => return Step::Done(Outcome::Verified(Box::new(verified_by(rule, place, token, parts)))),
                Ok(Proven::Need(need)) => return Step::Need(need),
                Ok(Proven::No(bad)) | Err(bad) => bad,
            };
            worst = worst.max(Some(bad));
        }
    }
    Step::Done(worst.map_or(Outcome::None, |bad| Outcome::Refused(refused(bad, parts.authority))))
}

enum Proven<'t> {
    Yes(Unproven<'t>),
    No(Bad),
    Need(Need),
}

fn prove<'t>(token: Unproven<'t>, rule: &Rule, known: &dyn Fn(&Remote) -> Known) -> Proven<'t> {
    let need = |keys: &Remote, anew| Proven::Need(Need { keys: keys.clone(), timeout: rule.timeout, anew });
    let (proven, remote) = match &rule.keys {
        Source::Inline(keys) => (token.prove(keys), None),
        Source::Nowhere => (Err(Bad::NoKeys), None),
        Source::Remote(remote) => match known(remote) {
            Known::Nothing => return need(remote, false),
            Known::Failed => (Err(Bad::NoKeys), None),
            Known::Keys { keys, last } => (token.prove(&keys), Some(remote).filter(|_| !last)),
        },
    };
    match (proven, remote) {
        (Ok(()), _) => Proven::Yes(token),
        (Err(Bad::UnknownKey), Some(remote)) => need(remote, true),
        (Err(bad), _) => Proven::No(bad),
    }
}

fn verified_by(rule: &Rule, at: &Place, token: Unproven<'_>, parts: Parts<'_>) -> Verified {
    let mut edits = Edits::default();
    if !rule.forward_token {
        place::strip(at, parts, &mut edits);
    }
    let payload = HeaderValue::from_str(token.payload_text).ok();
    edits.set.extend(rule.payload_header.clone().zip(payload));
    let claims = token.claims(rule);
    edits.set.extend(rule.claim_headers.iter().filter_map(|(name, path)| claim_header(name, path, &claims.payload)));
    Verified { claims, edits }
}

/// Text, whole numbers and truth values; whatever else a claim is, it is not told.
fn claim_header(name: &HeaderName, path: &[String], payload: &Value) -> Option<(HeaderName, HeaderValue)> {
    let text = match path.iter().try_fold(payload, |at, part| at.get(part))? {
        Value::String(text) => text.clone(),
        Value::Bool(truth) => truth.to_string(),
        Value::Number(number) if !number.is_f64() => number.to_string(),
        _ => return None,
    };
    // A text that would break out of its header is not told either.
    Some((name.clone(), HeaderValue::from_bytes(text.as_bytes()).ok()?))
}

fn refused(bad: Bad, authority: &str) -> Refused {
    // The realm is what the client asked for, where that can stand in quotes.
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-_:[]".contains(c);
    let realm = if authority.chars().all(plain) { authority } else { "" };
    let www_authenticate = format!("Bearer realm=\"{realm}\", error=\"invalid_token\"");
    Refused {
        status: http::StatusCode::UNAUTHORIZED,
        text: bad.text(),
        www_authenticate: HeaderValue::try_from(www_authenticate).unwrap_or(HeaderValue::from_static("Bearer error=\"invalid_token\"")),
        details: format!("jwt_authn_access_denied{{{}}}", bad.text().replace(' ', "_")),
    }
}
