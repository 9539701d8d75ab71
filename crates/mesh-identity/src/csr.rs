//! The certificate signing request: a fresh key and one name.

use mesh_model::identity::SpiffeId;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// A request and the key that it was made with. The key never leaves the node.
pub struct Request {
    /// PKCS#10 as PEM: empty subject, one critical SAN extension with the one SPIFFE URI (spec/dataplane.md 10).
    pub csr: String,
    pub(crate) key: PrivateKeyDer<'static>,
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request").field("csr", &self.csr).finish_non_exhaustive()
    }
}

#[derive(Debug, thiserror::Error)]
#[error("cannot make a certificate request for {identity}: {reason}")]
pub struct CannotAsk {
    pub identity: SpiffeId,
    pub reason: String,
}

/// Makes an ECDSA P-256 key and the request for it. Each request has its own key, so a renewal also renews the key.
pub fn request(identity: &SpiffeId) -> Result<Request, CannotAsk> {
    build(identity).map_err(|err| CannotAsk { identity: identity.clone(), reason: err.to_string() })
}

fn build(identity: &SpiffeId) -> Result<Request, rcgen::Error> {
    let key = KeyPair::generate()?; // P-256 with SHA-256 is what it generates
    let mut params = CertificateParams::default();
    // Strict authorities demand a critical SAN when the subject is empty (RFC 5280 4.1.2.6); rcgen marks it so.
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(identity.to_string().try_into()?)];
    let csr = params.serialize_request(&key)?.pem()?;
    Ok(Request { csr, key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use x509_parser::certification_request::X509CertificationRequest;
    use x509_parser::extensions::{GeneralName, ParsedExtension};
    use x509_parser::prelude::FromDer;

    // Z-188
    #[test]
    fn a_request_has_an_empty_subject_and_one_critical_uri() {
        let id = SpiffeId::new("td", "shop", "cart");
        let made = request(&id).unwrap();
        let (_, block) = x509_parser::pem::parse_x509_pem(made.csr.as_bytes()).unwrap();
        let (_, csr) = X509CertificationRequest::from_der(&block.contents).unwrap();
        csr.verify_signature().unwrap();
        let asked = &csr.certification_request_info;
        assert_eq!(asked.subject.iter().count(), 0);
        assert_eq!(asked.subject_pki.subject_public_key.data.len(), 65, "an uncompressed P-256 point");
        let extensions: Vec<_> = asked.iter_attributes().flat_map(|attribute| match attribute.parsed_attribute() {
            x509_parser::cri_attributes::ParsedCriAttribute::ExtensionRequest(asked) => asked.extensions.clone(),
            other => panic!("unexpected attribute {other:?}"),
        }).collect();
        assert_eq!(extensions.len(), 1);
        assert!(extensions[0].critical);
        let ParsedExtension::SubjectAlternativeName(names) = extensions[0].parsed_extension() else { panic!("no SAN") };
        assert_eq!(names.general_names, vec![GeneralName::URI("spiffe://td/ns/shop/sa/cart")]);
    }

    // T-50
    #[test]
    fn the_key_is_fresh_and_never_printed() {
        let id = SpiffeId::new("td", "shop", "cart");
        let (a, b) = (request(&id).unwrap(), request(&id).unwrap());
        assert_ne!(a.key.secret_der(), b.key.secret_der());
        assert!(!a.csr.contains("PRIVATE"));
        assert!(!format!("{a:?}").contains("key:"));
    }
}
