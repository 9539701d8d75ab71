//! Tokens in the shape of Kubernetes' bound service-account tokens: making them (a machine without Kubernetes) and
//! checking them with the public key alone.
//!
//! The algorithm is ES256, pinned by the verifier and never read from the token; time is an argument.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rcgen::{KeyPair, PublicKeyData};
use serde::{Deserialize, Serialize};
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::clock::unix_seconds;
use crate::pem;

/// The audience of calls to the controller (spec/controlplane.md 3.3).
pub const AUDIENCE: &str = "istio-ca";
/// The longest life of a token that we make: a stolen one is of no use an hour later.
pub const MAX_LIFE: Duration = Duration::from_secs(3600);
/// How far the clock of who made a token may be ahead of ours.
const CLOCK_SKEW_SECONDS: u64 = 10;
/// Kubernetes' tokens are one to two kilobytes.
const MAX_TOKEN_BYTES: usize = 16 << 10;
/// The longest name of a Kubernetes object.
const MAX_NAME_BYTES: usize = 253;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRef {
    pub name: String,
    pub uid: String,
}

/// Whom a token speaks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    pub namespace: String,
    pub service_account: ObjectRef,
    pub pod: Option<ObjectRef>,
    pub node: Option<ObjectRef>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Vec<String>,
    exp: u64,
    iat: u64,
    nbf: u64,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Kubernetes,
}

#[derive(Debug, Serialize, Deserialize)]
struct Kubernetes {
    namespace: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node: Option<ObjectRef>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pod: Option<ObjectRef>,
    serviceaccount: ObjectRef,
}

/// Why a token is not believed. The texts hold nothing of the token itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadToken {
    #[error("the token is longer than {MAX_TOKEN_BYTES} bytes")]
    TooLong,
    #[error("this is no token: expected three base64url parts with dots between")]
    Malformed,
    #[error("the token's algorithm is not ES256")]
    Algorithm,
    #[error("the token's header demands something that is not supported (crit)")]
    Critical,
    #[error("the token's signature is wrong: it was not made with the key of this mesh")]
    Signature,
    #[error("the token's claims are not those of a bound service-account token: {0}")]
    Claims(String),
    #[error("the token is from another issuer")]
    Issuer,
    #[error("the token is for another audience than {0:?}")]
    Audience(String),
    #[error("the token expired {0} s ago")]
    Expired(u64),
    #[error("the token is valid only in {0} s; compare the clocks")]
    NotYet(u64),
    #[error("the token's subject is not system:serviceaccount:NAMESPACE:NAME, or contradicts its other claims")]
    Subject,
}

#[derive(Debug, thiserror::Error)]
pub enum BadKey {
    #[error("cannot read the token key: {0}")]
    Unreadable(String),
    #[error("the token key is not an ECDSA P-256 key")]
    WrongKind,
}

/// Makes tokens.
pub struct Minter {
    pair: KeyPair,
    key: EncodingKey,
    issuer: String,
}

impl std::fmt::Debug for Minter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Minter").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

impl Minter {
    /// With a new key.
    pub fn generate(issuer: &str) -> Result<Minter, BadKey> {
        let pair = KeyPair::generate().map_err(|err| BadKey::Unreadable(err.to_string()))?;
        Minter::with(pair, issuer)
    }

    pub fn from_private_pem(text: &str, issuer: &str) -> Result<Minter, BadKey> {
        let key = pem::private_key(text.as_bytes()).map_err(|err| BadKey::Unreadable(err.to_string()))?;
        let pair = KeyPair::try_from(&key).map_err(|err| BadKey::Unreadable(err.to_string()))?;
        Minter::with(pair, issuer)
    }

    fn with(pair: KeyPair, issuer: &str) -> Result<Minter, BadKey> {
        if pair.algorithm() != &rcgen::PKCS_ECDSA_P256_SHA256 {
            return Err(BadKey::WrongKind);
        }
        Ok(Minter { key: EncodingKey::from_ec_der(pair.serialized_der()), pair, issuer: issuer.to_owned() })
    }

    /// PKCS#8; to be kept in a file of mode 0600.
    pub fn private_pem(&self) -> String {
        self.pair.serialize_pem()
    }

    /// What verifiers need.
    pub fn public_pem(&self) -> String {
        self.pair.public_key_pem()
    }

    /// The same as a set of JSON Web Keys (RFC 7517, RFC 7518 6.2), as those want it who verify tokens of end users.
    pub fn public_jwks(&self) -> String {
        // An uncompressed point: 4, x, y.
        let point = self.pair.public_key_raw();
        let [x, y] = [point.get(1..33), point.get(33..65)].map(|part| URL_SAFE_NO_PAD.encode(part.unwrap_or_default()));
        format!(r#"{{"keys":[{{"kty":"EC","crv":"P-256","alg":"ES256","use":"sig","x":"{x}","y":"{y}"}}]}}"#)
    }

    /// A token for `subject` with the given audience; `life` is cut to `MAX_LIFE`.
    pub fn mint(&self, subject: &Subject, audience: &str, life: Duration, now: SystemTime) -> Result<String, BadToken> {
        let issued = unix_seconds(now);
        let claims = Claims {
            iss: self.issuer.clone(),
            sub: format!("system:serviceaccount:{}:{}", subject.namespace, subject.service_account.name),
            aud: vec![audience.to_owned()],
            exp: issued.saturating_add(life.min(MAX_LIFE).as_secs()),
            iat: issued,
            nbf: issued,
            kubernetes: Kubernetes {
                namespace: subject.namespace.clone(),
                node: subject.node.clone(),
                pod: subject.pod.clone(),
                serviceaccount: subject.service_account.clone(),
            },
        };
        check_subject(&claims)?;
        jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims, &self.key)
            .map_err(|err| BadToken::Claims(err.to_string()))
    }
}

/// Checks tokens.
pub struct Verifier {
    key: DecodingKey,
    issuer: String,
    audience: String,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier").field("issuer", &self.issuer).field("audience", &self.audience).finish_non_exhaustive()
    }
}

impl Verifier {
    /// `public_pem`: SubjectPublicKeyInfo of a P-256 key, as `Minter::public_pem` gives it.
    pub fn new(public_pem: &str, issuer: &str, audience: &str) -> Result<Verifier, BadKey> {
        let unreadable = |err: String| BadKey::Unreadable(err);
        let (_, block) = x509_parser::pem::parse_x509_pem(public_pem.as_bytes()).map_err(|err| unreadable(err.to_string()))?;
        let known = rcgen::SubjectPublicKeyInfo::from_der(&block.contents).map_err(|err| unreadable(err.to_string()))?;
        if known.algorithm() != &rcgen::PKCS_ECDSA_P256_SHA256 {
            return Err(BadKey::WrongKind);
        }
        let (_, info) = SubjectPublicKeyInfo::from_der(&block.contents).map_err(|err| unreadable(err.to_string()))?;
        let key = DecodingKey::from_ec_der(&info.subject_public_key.data);
        Ok(Verifier { key, issuer: issuer.to_owned(), audience: audience.to_owned() })
    }

    pub fn verify(&self, token: &str, now: SystemTime) -> Result<Subject, BadToken> {
        self.verify_until(token, now).map(|(subject, _)| subject)
    }

    /// As `verify`, and until when it holds: what a token allowed to begin ends with it.
    pub fn verify_until(&self, token: &str, now: SystemTime) -> Result<(Subject, SystemTime), BadToken> {
        let claims = self.signed_claims(token)?;
        self.check(&claims, unix_seconds(now))?;
        let expires = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(claims.exp)).unwrap_or(now);
        let subject = Subject {
            namespace: claims.kubernetes.namespace,
            service_account: claims.kubernetes.serviceaccount,
            pod: claims.kubernetes.pod,
            node: claims.kubernetes.node,
        };
        Ok((subject, expires))
    }

    fn signed_claims(&self, token: &str) -> Result<Claims, BadToken> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(BadToken::TooLong);
        }
        if token.split('.').count() != 3 {
            return Err(BadToken::Malformed);
        }
        // An algorithm that the library does not know, `none` among them, does not even parse.
        let header = jsonwebtoken::decode_header(token).map_err(header_error)?;
        if header.alg != Algorithm::ES256 {
            return Err(BadToken::Algorithm);
        }
        if header.crit.is_some() {
            return Err(BadToken::Critical);
        }
        let mut only_signature = Validation::new(Algorithm::ES256);
        only_signature.required_spec_claims.clear();
        only_signature.validate_exp = false; // by our clock, below
        only_signature.validate_aud = false;
        let decoded = jsonwebtoken::decode::<Claims>(token, &self.key, &only_signature).map_err(decode_error)?;
        Ok(decoded.claims)
    }

    fn check(&self, claims: &Claims, now: u64) -> Result<(), BadToken> {
        if claims.iss != self.issuer {
            return Err(BadToken::Issuer);
        }
        if !claims.aud.contains(&self.audience) {
            return Err(BadToken::Audience(self.audience.clone()));
        }
        if claims.exp <= now {
            return Err(BadToken::Expired(now - claims.exp));
        }
        let start = claims.nbf.max(claims.iat);
        if start > now.saturating_add(CLOCK_SKEW_SECONDS) {
            return Err(BadToken::NotYet(start - now));
        }
        if claims.exp.saturating_sub(claims.iat) > MAX_LIFE.as_secs() {
            return Err(BadToken::Claims("it lives longer than tokens of this mesh do".to_owned()));
        }
        check_subject(claims)
    }
}

/// The end that a token claims for itself, unverified: worth something only once somebody else has verified the token,
/// as an API server does that does not tell the end.
pub fn claimed_end(token: &str) -> Option<SystemTime> {
    #[derive(Deserialize)]
    struct End {
        exp: u64,
    }
    let End { exp } = jsonwebtoken::dangerous::insecure_decode_claims(token).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(exp))
}

/// The subject must say the same as the Kubernetes claims, and every name must be one that an object can have.
fn check_subject(claims: &Claims) -> Result<(), BadToken> {
    let parts: Vec<&str> = claims.sub.split(':').collect();
    let &["system", "serviceaccount", namespace, account] = parts.as_slice() else { return Err(BadToken::Subject) };
    let told = &claims.kubernetes;
    if told.namespace != namespace || told.serviceaccount.name != account {
        return Err(BadToken::Subject);
    }
    let bound = [&told.pod, &told.node].into_iter().flatten().map(|object| object.name.as_str());
    let mut names = [namespace, account].into_iter().chain(bound);
    if names.all(is_object_name) { Ok(()) } else { Err(BadToken::Subject) }
}

/// A DNS subdomain as of RFC 1123.
fn is_object_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
    !name.is_empty() && name.len() <= MAX_NAME_BYTES && name.bytes().all(fits) && !name.contains("..")
}

fn header_error(err: jsonwebtoken::errors::Error) -> BadToken {
    match err.kind() {
        jsonwebtoken::errors::ErrorKind::Json(_) => BadToken::Algorithm,
        _ => BadToken::Malformed,
    }
}

fn decode_error(err: jsonwebtoken::errors::Error) -> BadToken {
    use jsonwebtoken::errors::ErrorKind;
    match err.kind() {
        ErrorKind::InvalidSignature => BadToken::Signature,
        ErrorKind::InvalidAlgorithm => BadToken::Algorithm,
        // serde's own text would quote the claim.
        ErrorKind::Json(cause) => BadToken::Claims(format!("one is missing or of another type, column {}", cause.column())),
        ErrorKind::Base64(_) | ErrorKind::Utf8(_) | ErrorKind::InvalidToken => BadToken::Malformed,
        _ => BadToken::Claims("they cannot be read".to_owned()),
    }
}

#[cfg(test)]
mod tests;
