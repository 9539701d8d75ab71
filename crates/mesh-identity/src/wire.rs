//! The messages of `istio.v1.auth` (spec/controlplane.md 3.1), written by hand. They stay inside this crate.

#[derive(Clone, PartialEq, prost::Message)]
pub struct IstioCertificateRequest {
    /// PKCS#10 as PEM.
    #[prost(string, tag = "1")]
    pub csr: String,
    /// Seconds.
    #[prost(int64, tag = "3")]
    pub validity_duration: i64,
    #[prost(message, optional, tag = "4")]
    pub metadata: Option<prost_types::Struct>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct IstioCertificateResponse {
    /// Leaf, intermediates, and last the root bundle.
    #[prost(string, repeated, tag = "1")]
    pub cert_chain: Vec<String>,
}

pub const SERVICE: &str = "istio.v1.auth.IstioCertificateService";
pub const CREATE_CERTIFICATE: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";
/// The metadata key by which a node asks on behalf of one of its workloads.
pub const IMPERSONATED_IDENTITY: &str = "ImpersonatedIdentity";

/// Metadata with one string.
pub fn one_string(key: &str, value: String) -> prost_types::Struct {
    let value = prost_types::Value { kind: Some(prost_types::value::Kind::StringValue(value)) };
    prost_types::Struct { fields: [(key.to_owned(), value)].into() }
}

/// The string under `key`, or `Err` when it is there but is no string.
pub fn string_of<'a>(metadata: Option<&'a prost_types::Struct>, key: &str) -> Result<Option<&'a str>, ()> {
    let Some(value) = metadata.and_then(|metadata| metadata.fields.get(key)) else { return Ok(None) };
    match &value.kind {
        Some(prost_types::value::Kind::StringValue(text)) => Ok(Some(text)),
        _ => Err(()),
    }
}
