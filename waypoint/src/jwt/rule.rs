//! A rule as it is applied: which issuer, whose keys, where its tokens stand, and what is told of them. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use mesh_xds::messages::waypoint::JwtRule;

use super::jwks::Jwks;
use super::url::Url;

/// For a fetch of keys, where the rule says nothing.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);
/// These are lists in all but form.
const SPACE_DELIMITED: [&str; 2] = ["scope", "permission"];

#[derive(Clone, Debug)]
pub struct Rule {
    pub issuer: Arc<str>,
    pub audiences: Vec<String>,
    pub keys: Source,
    pub places: Vec<Place>,
    pub payload_header: Option<HeaderName>,
    pub forward_token: bool,
    /// Header, and the path to the claim.
    pub claim_headers: Vec<(HeaderName, Vec<String>)>,
    pub space_delimited: BTreeSet<String>,
    pub timeout: Duration,
}

/// Whose keys verify.
#[derive(Clone, Debug)]
pub enum Source {
    Inline(Arc<Jwks>),
    Remote(Remote),
    /// The rule does not say it in a way that can be read: no token is good.
    Nowhere,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Remote {
    /// A set of keys.
    Keys(Url),
    /// The issuer's own description, which says where its keys are (OpenID Connect Discovery 1.0).
    Discovery { issuer: Arc<str>, description: Url },
}

/// Where a token may stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Header { name: HeaderName, prefix: String },
    Parameter(String),
    Cookie(String),
}

impl Rule {
    /// The rule, and what is wrong with it.
    pub fn read(wire: &JwtRule) -> (Rule, Vec<String>) {
        let mut wrong = Vec::new();
        let header = |field: &str, name: &str, wrong: &mut Vec<String>| {
            let read = HeaderName::try_from(name);
            read.inspect_err(|_| wrong.push(format!("{field}: {name:?} is not the name of a header"))).ok()
        };
        if wire.issuer.is_empty() {
            wrong.push("issuer: is empty: no token is good".to_owned());
        }
        let keys = keys(wire).unwrap_or_else(|why| {
            wrong.push(format!("{why}: no token is good"));
            Source::Nowhere
        });
        let mut places: Vec<Place> = Vec::new();
        for from in &wire.from_headers {
            let name = header("fromHeaders", &from.name, &mut wrong);
            places.extend(name.map(|name| Place::Header { name, prefix: from.prefix.clone() }));
        }
        places.extend(wire.from_params.iter().cloned().map(Place::Parameter));
        places.extend(wire.from_cookies.iter().cloned().map(Place::Cookie));
        if wire.from_headers.is_empty() && wire.from_params.is_empty() && wire.from_cookies.is_empty() {
            places = default_places();
        }
        let payload = Some(&wire.output_payload_to_header).filter(|name| !name.is_empty());
        let payload_header = payload.and_then(|name| header("outputPayloadToHeader", name, &mut wrong));
        let mut claim_headers = Vec::new();
        for output in &wire.output_claims {
            let path: Vec<String> = output.claim.split('.').map(str::to_owned).collect();
            let name = header("outputClaimToHeaders", &output.header, &mut wrong);
            claim_headers.extend(name.map(|name| (name, path)));
        }
        let rule = Rule {
            issuer: wire.issuer.as_str().into(),
            audiences: wire.audiences.clone(),
            keys,
            places,
            payload_header,
            forward_token: wire.forward_original_token,
            claim_headers,
            space_delimited: SPACE_DELIMITED.into_iter().map(str::to_owned).chain(wire.space_delimited_claims.iter().cloned()).collect(),
            timeout: if wire.timeout_ms == 0 { TIMEOUT_DEFAULT } else { Duration::from_millis(wire.timeout_ms) },
        };
        (rule, wrong)
    }

    /// Headers that only this proxy may write: a client's are taken away.
    pub fn outputs(&self) -> impl Iterator<Item = &HeaderName> {
        self.payload_header.iter().chain(self.claim_headers.iter().map(|(name, _)| name))
    }
}

/// Where the rule says nothing (RFC 6750 2.1, 2.3).
fn default_places() -> Vec<Place> {
    vec![
        Place::Header { name: http::header::AUTHORIZATION, prefix: "Bearer ".to_owned() },
        Place::Parameter("access_token".to_owned()),
    ]
}

fn keys(wire: &JwtRule) -> Result<Source, String> {
    if !wire.jwks.is_empty() {
        let read = Jwks::inline(wire.jwks.as_bytes()).map_err(|why| format!("jwks: {why}"))?;
        return Ok(Source::Inline(Arc::new(read)));
    }
    if !wire.jwks_uri.is_empty() {
        let url = Url::read(&wire.jwks_uri).map_err(|why| format!("jwksUri: {:?} {why}", wire.jwks_uri))?;
        return Ok(Source::Remote(Remote::Keys(url)));
    }
    let description = format!("{}/.well-known/openid-configuration", wire.issuer.trim_end_matches('/'));
    let description = Url::read(&description).map_err(|why| format!("issuer: there is no jwks and no jwksUri, and {:?} {why}", wire.issuer))?;
    Ok(Source::Remote(Remote::Discovery { issuer: wire.issuer.as_str().into(), description }))
}
