//! A token, and what must hold of it beside its signature (RFC 7519). Pure.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::jwks::{Algorithm, Jwks, Signed};
use super::rule::Rule;
use crate::facts::Claims;

/// Larger tokens are no tokens: one is parsed before anything of it is proven (spec/waypoint.md 9).
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// How far the clocks of issuer and proxy may be apart.
const SKEW_SECONDS: f64 = 60.0;

/// Why a token is not good. Of several the greatest is told: it came furthest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bad {
    Issuer,
    TooLong,
    Form,
    Algorithm,
    Expired,
    NotYet,
    Audience,
    NoKeys,
    UnknownKey,
    Signature,
}

impl Bad {
    /// For the client: the words that people search for (spec/waypoint.md 1.7).
    pub fn text(self) -> &'static str {
        match self {
            Bad::Issuer => "Jwt issuer is not configured",
            Bad::TooLong | Bad::Form => "Jwt is not in the form of Header.Payload.Signature with an expected content",
            Bad::Algorithm => "Jwt verification fails: the algorithm is not allowed",
            Bad::Expired => "Jwt is expired",
            Bad::NotYet => "Jwt not yet valid",
            Bad::Audience => "Audiences in Jwt are not allowed",
            Bad::NoKeys => "Jwks remote fetch is failed",
            Bad::UnknownKey => "Jwt verification fails: no key fits",
            Bad::Signature => "Jwt verification fails",
        }
    }
}

/// A token that may be good: what it says fits a rule; nothing of it is proven.
#[derive(Debug)]
pub struct Unproven<'t> {
    algorithm: Algorithm,
    key: Option<String>,
    signed: &'t str,
    signature: Vec<u8>,
    payload: Value,
    /// As it stands in the token.
    pub payload_text: &'t str,
}

/// What can be said of a token without a key. Nothing is fetched for one that fails here.
pub fn fits<'t>(token: &'t str, rule: &Rule, now: SystemTime) -> Result<Unproven<'t>, Bad> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(Bad::TooLong);
    }
    let (signed, signature) = token.rsplit_once('.').ok_or(Bad::Form)?;
    let (header, payload_text) = signed.split_once('.').ok_or(Bad::Form)?;
    let bytes = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| Bad::Form);
    let json = |part: &str| serde_json::from_slice::<Value>(&bytes(part)?).map_err(|_| Bad::Form);
    let (header, payload) = (json(header)?, json(payload_text)?);
    if !header.is_object() || !payload.is_object() {
        return Err(Bad::Form);
    }
    // What the issuer holds critical is not understood here (RFC 7515 4.1.11).
    if header.get("crit").is_some() {
        return Err(Bad::Form);
    }
    let text = |of: &Value, name: &str| match of.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(Bad::Form),
    };
    let key = text(&header, "kid")?;
    let algorithm = text(&header, "alg")?.ok_or(Bad::Form)?;
    if text(&payload, "iss")?.as_deref() != Some(&*rule.issuer) || rule.issuer.is_empty() {
        return Err(Bad::Issuer);
    }
    let algorithm = Algorithm::of_name(&algorithm).ok_or(Bad::Algorithm)?;
    text(&payload, "sub")?;
    check_time(&payload, now)?;
    let audiences = audiences(&payload)?;
    if !rule.audiences.is_empty() && !audiences.iter().any(|audience| rule.audiences.contains(audience)) {
        return Err(Bad::Audience);
    }
    Ok(Unproven { algorithm, key, signed, signature: bytes(signature)?, payload, payload_text })
}

impl Unproven<'_> {
    pub fn prove(&self, keys: &Jwks) -> Result<(), Bad> {
        match keys.verify(self.algorithm, self.key.as_deref(), self.signed.as_bytes(), &self.signature) {
            Signed::Yes => Ok(()),
            Signed::No => Err(Bad::Signature),
            Signed::NoSuchKey => Err(Bad::UnknownKey),
        }
    }

    /// Once proven.
    pub fn claims(self, rule: &Rule) -> Claims {
        let Unproven { mut payload, .. } = self;
        let text = |name: &str| payload.get(name).and_then(Value::as_str).map(Arc::<str>::from);
        let (issuer, subject, presenter) = (text("iss").unwrap_or_default(), text("sub"), text("azp"));
        let audiences = audiences(&payload).unwrap_or_default().into_iter().map(Arc::from).collect();
        for name in &rule.space_delimited {
            if let Some(Value::String(list)) = payload.get(name) {
                payload[name] = list.split(' ').filter(|one| !one.is_empty()).map(Value::from).collect();
            }
        }
        Claims { issuer, subject, audiences, presenter, payload }
    }
}

fn check_time(payload: &Value, now: SystemTime) -> Result<(), Bad> {
    let number = |name: &str| match payload.get(name) {
        None => Ok(None),
        Some(value) => value.as_f64().map(Some).ok_or(Bad::Form),
    };
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    if number("exp")?.is_some_and(|end| now >= end + SKEW_SECONDS) {
        return Err(Bad::Expired);
    }
    if number("nbf")?.is_some_and(|start| now + SKEW_SECONDS < start) {
        return Err(Bad::NotYet);
    }
    Ok(())
}

/// One text, or a list of nothing else.
fn audiences(payload: &Value) -> Result<Vec<String>, Bad> {
    match payload.get("aud") {
        None => Ok(Vec::new()),
        Some(Value::String(one)) => Ok(vec![one.clone()]),
        Some(Value::Array(list)) => list.iter().map(|one| one.as_str().map(str::to_owned).ok_or(Bad::Form)).collect(),
        Some(_) => Err(Bad::Form),
    }
}
