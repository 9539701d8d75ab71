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

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

    // spec/controlplane.md 3.1: the numbers of the fields are the contract
    #[test]
    fn messages_have_the_bytes_of_the_contract() {
        let metadata = Some(one_string("K", "v".to_owned()));
        let request = IstioCertificateRequest { csr: "c".to_owned(), validity_duration: 86_400, metadata };
        let bytes = request.encode_to_vec();
        let expect = b"\x0a\x01c\x18\x80\xa3\x05\x22\x0a\x0a\x08\x0a\x01K\x12\x03\x1a\x01v";
        assert_eq!(bytes, expect);
        assert_eq!(IstioCertificateRequest::decode(bytes.as_slice()).unwrap(), request);
        assert_eq!(string_of(request.metadata.as_ref(), "K"), Ok(Some("v")));
        assert_eq!(string_of(request.metadata.as_ref(), "k"), Ok(None));
        let answer = IstioCertificateResponse { cert_chain: vec!["a".to_owned(), "b".to_owned()] };
        assert_eq!(answer.encode_to_vec(), b"\x0a\x01a\x0a\x01b");
    }

    #[test]
    fn mutated_requests_never_panic() {
        let metadata = Some(one_string(IMPERSONATED_IDENTITY, "spiffe://td/ns/a/sa/b".to_owned()));
        let request = IstioCertificateRequest { csr: "c".repeat(100), validity_duration: 86_400, metadata };
        crate::testing::mutations(&request.encode_to_vec(), 5000, |bytes| {
            if let Ok(read) = IstioCertificateRequest::decode(bytes) {
                let _ = string_of(read.metadata.as_ref(), IMPERSONATED_IDENTITY);
            }
        });
        // Lists in lists in lists: the decoder ends at its own depth.
        let deep = (0..5000).fold(Vec::new(), |within: Vec<u8>, _| {
            let mut field = vec![0x32];
            prost::encode_length_delimiter(within.len(), &mut field).unwrap();
            field.extend(within);
            let mut list = vec![0x0a];
            prost::encode_length_delimiter(field.len(), &mut list).unwrap();
            list.extend(field);
            list
        });
        assert!(prost_types::ListValue::decode(deep.as_slice()).is_err());
    }
}
