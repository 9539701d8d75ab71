//! A set of keys (RFC 7517), and whether one of them made a signature (RFC 7518). Pure.

use aws_lc_rs::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use aws_lc_rs::{hmac, signature::VerificationAlgorithm};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

/// Keys of a set that are looked at: a token without `kid` is tried with each that fits.
const KEYS_MAX: usize = 100;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jwks {
    keys: Vec<Key>,
}

#[derive(Clone, PartialEq, Eq)]
struct Key {
    id: Option<String>,
    algorithm: Option<Algorithm>,
    material: Material,
}

#[derive(Clone, PartialEq, Eq)]
enum Material {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    /// An uncompressed point.
    Ec { curve: Curve, point: Vec<u8> },
    Ed25519(Vec<u8>),
    /// A secret that the operator wrote down; never fetched.
    Secret(Vec<u8>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Curve {
    P256,
    P384,
    P521,
}

/// Those that are accepted. `none` is not among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    Es512,
    EdDsa,
    Hs256,
    Hs384,
    Hs512,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signed {
    Yes,
    /// There is a key for it, and the signature is not that key's.
    No,
    /// None of the keys can have made it.
    NoSuchKey,
}

impl Algorithm {
    pub fn of_name(name: &str) -> Option<Algorithm> {
        Some(match name {
            "RS256" => Algorithm::Rs256,
            "RS384" => Algorithm::Rs384,
            "RS512" => Algorithm::Rs512,
            "PS256" => Algorithm::Ps256,
            "PS384" => Algorithm::Ps384,
            "PS512" => Algorithm::Ps512,
            "ES256" => Algorithm::Es256,
            "ES384" => Algorithm::Es384,
            "ES512" => Algorithm::Es512,
            "EdDSA" => Algorithm::EdDsa,
            "HS256" => Algorithm::Hs256,
            "HS384" => Algorithm::Hs384,
            "HS512" => Algorithm::Hs512,
            _ => return None,
        })
    }
}

impl Jwks {
    /// As an operator wrote it: secrets too.
    pub fn inline(text: &[u8]) -> Result<Jwks, String> {
        Jwks::read(text, true)
    }

    /// As somebody publishes it: a secret that is published is none.
    pub fn fetched(text: &[u8]) -> Result<Jwks, String> {
        Jwks::read(text, false)
    }

    fn read(text: &[u8], secrets: bool) -> Result<Jwks, String> {
        let set: Value = serde_json::from_slice(text).map_err(|error| format!("is not JSON (line {}, column {})", error.line(), error.column()))?;
        let keys = set.get("keys").and_then(Value::as_array).ok_or("holds no list of keys")?;
        let keys: Vec<Key> = keys.iter().filter_map(Key::read).filter(|key| secrets || !matches!(key.material, Material::Secret(_))).take(KEYS_MAX).collect();
        if keys.is_empty() { Err("holds no key that can be used".to_owned()) } else { Ok(Jwks { keys }) }
    }

    /// `id`: the token's `kid`. A key without one may be any.
    pub fn verify(&self, algorithm: Algorithm, id: Option<&str>, message: &[u8], signature: &[u8]) -> Signed {
        let named = |key: &&Key| match (id, &key.id) {
            (Some(wanted), Some(is)) => wanted == is,
            _ => true,
        };
        let fits = |key: &&Key| key.algorithm.is_none_or(|only| only == algorithm) && key.material.fits(algorithm);
        let mut fitting = self.keys.iter().filter(named).filter(fits).peekable();
        if fitting.peek().is_none() {
            return Signed::NoSuchKey;
        }
        if fitting.any(|key| key.material.made(algorithm, message, signature)) { Signed::Yes } else { Signed::No }
    }
}

impl Key {
    /// None: not a key for signatures, or of a kind that is not known; others of its set may be good.
    fn read(wire: &Value) -> Option<Key> {
        let text = |name: &str| wire.get(name).and_then(Value::as_str);
        let bytes = |name: &str| URL_SAFE_NO_PAD.decode(text(name)?.trim_end_matches('=')).ok().filter(|bytes| !bytes.is_empty());
        if text("use").is_some_and(|usage| usage != "sig") {
            return None;
        }
        if let Some(operations) = wire.get("key_ops").and_then(Value::as_array)
            && !operations.iter().any(|operation| operation == "verify")
        {
            return None;
        }
        let algorithm = match text("alg") {
            Some(name) => Some(Algorithm::of_name(name)?),
            None => None,
        };
        let material = match text("kty")? {
            "RSA" => Material::Rsa { n: bytes("n")?, e: bytes("e")? },
            "EC" => {
                let (curve, length) = match text("crv")? {
                    "P-256" => (Curve::P256, 32),
                    "P-384" => (Curve::P384, 48),
                    "P-521" => (Curve::P521, 66),
                    _ => return None,
                };
                let (x, y) = (bytes("x")?, bytes("y")?);
                if x.len() != length || y.len() != length {
                    return None;
                }
                Material::Ec { curve, point: [&[4][..], &x, &y].concat() }
            }
            "OKP" if text("crv") == Some("Ed25519") => Material::Ed25519(bytes("x")?),
            "oct" => Material::Secret(bytes("k")?),
            _ => return None,
        };
        Some(Key { id: text("kid").map(str::to_owned), algorithm, material })
    }
}

impl Material {
    /// The key decides which algorithms it may be used with, the token only which of these.
    fn fits(&self, algorithm: Algorithm) -> bool {
        use Algorithm as A;
        match self {
            Material::Rsa { .. } => matches!(algorithm, A::Rs256 | A::Rs384 | A::Rs512 | A::Ps256 | A::Ps384 | A::Ps512),
            Material::Ec { curve: Curve::P256, .. } => algorithm == A::Es256,
            Material::Ec { curve: Curve::P384, .. } => algorithm == A::Es384,
            Material::Ec { curve: Curve::P521, .. } => algorithm == A::Es512,
            Material::Ed25519(_) => algorithm == A::EdDsa,
            Material::Secret(_) => matches!(algorithm, A::Hs256 | A::Hs384 | A::Hs512),
        }
    }

    fn made(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        use Algorithm as A;
        let rsa = |parameters| {
            let Material::Rsa { n, e } = self else { return false };
            RsaPublicKeyComponents { n, e }.verify(parameters, message, signature).is_ok()
        };
        let point = |parameters: &'static dyn VerificationAlgorithm| {
            let (Material::Ec { point: key, .. } | Material::Ed25519(key)) = self else { return false };
            UnparsedPublicKey::new(parameters, key).verify(message, signature).is_ok()
        };
        let mac = |parameters| {
            let Material::Secret(secret) = self else { return false };
            hmac::verify(&hmac::Key::new(parameters, secret), message, signature).is_ok()
        };
        match algorithm {
            A::Rs256 => rsa(&signature::RSA_PKCS1_2048_8192_SHA256),
            A::Rs384 => rsa(&signature::RSA_PKCS1_2048_8192_SHA384),
            A::Rs512 => rsa(&signature::RSA_PKCS1_2048_8192_SHA512),
            A::Ps256 => rsa(&signature::RSA_PSS_2048_8192_SHA256),
            A::Ps384 => rsa(&signature::RSA_PSS_2048_8192_SHA384),
            A::Ps512 => rsa(&signature::RSA_PSS_2048_8192_SHA512),
            A::Es256 => point(&signature::ECDSA_P256_SHA256_FIXED),
            A::Es384 => point(&signature::ECDSA_P384_SHA384_FIXED),
            A::Es512 => point(&signature::ECDSA_P521_SHA512_FIXED),
            A::EdDsa => point(&signature::ED25519),
            A::Hs256 => mac(hmac::HMAC_SHA256),
            A::Hs384 => mac(hmac::HMAC_SHA384),
            A::Hs512 => mac(hmac::HMAC_SHA512),
        }
    }
}

/// Without its secret.
impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("id", &self.id).field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}
