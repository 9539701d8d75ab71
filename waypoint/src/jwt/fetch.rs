//! Fetching an issuer's keys: the set itself, or first the issuer's description that says where the set is.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, HOST, LOCATION};
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use serde_json::Value;
use tokio::time::Instant;

use super::jwks::Jwks;
use super::rule::Remote;
use super::url::Url;
use crate::call::{Caller, Limits, Reply, To, Version};

/// Sets of keys are a few kilobytes (spec/waypoint.md 9).
const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// Within one host: from one path to another, and from there.
const REDIRECTS_MAX: usize = 3;

/// The keys, and for how long their publisher says they are good.
pub async fn keys(caller: &dyn Caller, remote: &Remote, timeout: Duration) -> Result<(Jwks, Option<Duration>), String> {
    let deadline = Instant::now() + timeout;
    let url = match remote {
        Remote::Keys(url) => url.clone(),
        Remote::Discovery { issuer, description } => described(&get(caller, description, deadline).await?.body, issuer).map_err(|why| format!("{description}: {why}"))?,
    };
    let reply = get(caller, &url, deadline).await?;
    let keys = Jwks::fetched(&reply.body).map_err(|why| format!("{url}: the answer {why}"))?;
    Ok((keys, max_age(&reply.headers)))
}

async fn get(caller: &dyn Caller, url: &Url, deadline: Instant) -> Result<Reply, String> {
    let mut url = url.clone();
    for _ in 0..=REDIRECTS_MAX {
        let reply = get_one(caller, &url, deadline).await.map_err(|why| format!("{url}: {why}"))?;
        match reply.status {
            StatusCode::OK => return Ok(reply),
            status if status.is_redirection() => {
                let location = reply.headers.get(LOCATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
                url = url.redirected(location).map_err(|why| format!("{url}: the redirect {why}"))?;
            }
            status => return Err(format!("{url}: HTTP status {}", status.as_u16())),
        }
    }
    Err(format!("{url}: more than {REDIRECTS_MAX} redirects"))
}

async fn get_one(caller: &dyn Caller, url: &Url, deadline: Instant) -> Result<Reply, String> {
    let mut request = Request::new(Bytes::new());
    *request.uri_mut() = url.uri().clone();
    request.headers_mut().insert(HOST, HeaderValue::from_str(url.authority()).map_err(|error| error.to_string())?);
    request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json"));
    let to = To::Url { tls: url.tls, host: &url.host, port: url.port };
    let limits = Limits { timeout: deadline.saturating_duration_since(Instant::now()), max_body: ANSWER_BYTES_MAX };
    caller.call(to, Version::Http1, request, limits).await.map_err(|error| error.to_string())
}

/// The description must be of this issuer, else one issuer could vouch for another (OpenID Connect Discovery 1.0, 4.3).
fn described(description: &[u8], issuer: &str) -> Result<Url, String> {
    let description: Value = serde_json::from_slice(description).map_err(|_| "the answer is not JSON")?;
    let text = |name: &str| description.get(name).and_then(Value::as_str).unwrap_or_default();
    if text("issuer") != issuer {
        return Err(format!("it describes the issuer {:?}", text("issuer").chars().take(200).collect::<String>()));
    }
    let keys = text("jwks_uri");
    Url::read(keys).map_err(|why| format!("jwks_uri {:?} {why}", keys.chars().take(200).collect::<String>()))
}

fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let mut directives = values.flat_map(|value| value.split(',')).map(|directive| directive.trim().to_ascii_lowercase());
    directives.find_map(|directive| match directive.as_str() {
        "no-store" | "no-cache" => Some(Duration::ZERO),
        _ => directive.strip_prefix("max-age=")?.trim_matches('"').parse().ok().map(Duration::from_secs),
    })
}
