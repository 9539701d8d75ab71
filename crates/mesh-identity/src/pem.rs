//! PEM text to DER certificates and back. Bounded: a bundle comes from a peer or from a file that others may write.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// The largest bundle we read: ten times the system store of a Linux distribution is not a trust bundle.
pub const MAX_BUNDLE_BYTES: usize = 4 << 20;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadPem {
    #[error("PEM text is {0} bytes long; at most {MAX_BUNDLE_BYTES} are read")]
    TooLong(usize),
    #[error("PEM text cannot be read: {0}")]
    Broken(String),
}

/// All certificates of a text, in order. A text without any gives an empty list; other PEM sections are skipped.
pub fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, BadPem> {
    if text.len() > MAX_BUNDLE_BYTES {
        return Err(BadPem::TooLong(text.len()));
    }
    CertificateDer::pem_slice_iter(text)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|err| BadPem::Broken(err.to_string()))
}

/// The first private key of a text (PKCS#8, PKCS#1 or SEC1).
pub fn private_key(text: &[u8]) -> Result<PrivateKeyDer<'static>, BadPem> {
    if text.len() > MAX_BUNDLE_BYTES {
        return Err(BadPem::TooLong(text.len()));
    }
    PrivateKeyDer::from_pem_slice(text).map_err(|err| BadPem::Broken(err.to_string()))
}

/// One certificate as PEM with a trailing newline, the form of an element of the CA's answer.
pub fn encode(certificate: &CertificateDer<'_>) -> String {
    section("CERTIFICATE", certificate)
}

pub(crate) fn section(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    // RFC 7468 section 2: lines of 64 characters.
    for line in body.as_bytes().chunks(64) {
        text.extend(line.iter().map(|&byte| char::from(byte)));
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}
