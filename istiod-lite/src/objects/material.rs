//! What users keep for TLS: authorities in ConfigMaps, certificates with their keys in Secrets. Of both only the entries
//! that are read here are held.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1;

use super::core::Refused;
use super::meta::{Meta, NsName};
use super::Kind;

/// Authorities, in PEM.
pub const AUTHORITIES: &str = "ca.crt";
const REVOKED: &str = "ca.crl";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
/// Where the field keeps the same in a Secret of type Opaque.
const OLDER: [(&str, &str); 3] = [("cert", CERTIFICATE), ("key", KEY), ("cacert", AUTHORITIES)];

/// A hundred authorities or more; a Secret may have four times as much in all, and every waypoint that needs it is told it.
const ENTRY_BYTES_MAX: usize = 256 << 10;

/// A Secret as far as TLS needs it. Its contents are shown nowhere.
#[derive(Clone, PartialEq)]
pub struct Secret {
    pub meta: Meta,
    /// Or why the Secret cannot be read.
    pub entries: Result<Entries, Arc<str>>,
}

#[derive(Clone, Default, PartialEq)]
pub struct Entries {
    pub certificate: Option<Arc<str>>,
    pub key: Option<Arc<str>>,
    pub authorities: Option<Arc<str>>,
    pub revoked: Option<Arc<str>>,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret {} {:?}", self.meta.ns_name(), self.entries)
    }
}

impl fmt::Debug for Entries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let has = [&self.certificate, &self.key, &self.authorities, &self.revoked].map(Option::is_some);
        write!(f, "certificate, key, authorities, revoked: {has:?}")
    }
}

impl Secret {
    pub fn take(object: v1::Secret) -> Result<Secret, Refused> {
        let coded = object.data.unwrap_or_default().into_iter().map(|(name, bytes)| (name, bytes.0));
        let plain = object.string_data.unwrap_or_default().into_iter().map(|(name, text)| (name, text.into_bytes()));
        let data: BTreeMap<String, Vec<u8>> = coded.chain(plain).collect();
        Ok(Secret { meta: Meta::of(Kind::Secret, object.metadata)?, entries: entries(data) })
    }

    /// One that is there and cannot be read.
    pub fn unreadable(name: &NsName, why: &str) -> Secret {
        Secret { meta: named(name), entries: Err(why.into()) }
    }

    /// Whether a Secret is one for TLS; others are nobody's business here.
    pub fn is_for_tls<'a>(mut entries: impl Iterator<Item = &'a str>) -> bool {
        entries.any(|name| [CERTIFICATE, KEY, AUTHORITIES].contains(&name) || OLDER.iter().any(|(older, _)| *older == name))
    }
}

fn entries(mut data: BTreeMap<String, Vec<u8>>) -> Result<Entries, Arc<str>> {
    for (older, name) in OLDER {
        if let Some(bytes) = data.remove(older) {
            data.entry(name.to_owned()).or_insert(bytes);
        }
    }
    let mut entry = |name: &str| match data.remove(name) {
        Some(bytes) => text(name, bytes).map(Some),
        None => Ok(None),
    };
    Ok(Entries { certificate: entry(CERTIFICATE)?, key: entry(KEY)?, authorities: entry(AUTHORITIES)?, revoked: entry(REVOKED)? })
}

/// An entry as the text that it is to be.
pub fn text(name: &str, bytes: Vec<u8>) -> Result<Arc<str>, Arc<str>> {
    if bytes.len() > ENTRY_BYTES_MAX {
        return Err(format!("{name} has {} bytes, and at most {ENTRY_BYTES_MAX} are read", bytes.len()).into());
    }
    String::from_utf8(bytes).map(Arc::from).map_err(|_| format!("{name} is no text").into())
}

/// The metadata of an object of which nothing is known but its name.
pub fn named(name: &NsName) -> Meta {
    Meta { namespace: name.namespace.clone(), name: name.name.clone(), ..Meta::default() }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    fn secret(data: &[(&str, &[u8])]) -> Secret {
        let data = data.iter().map(|(name, bytes)| ((*name).to_owned(), ByteString(bytes.to_vec()))).collect();
        let mut object = v1::Secret { data: Some(data), ..v1::Secret::default() };
        object.metadata.name = Some("s".into());
        Secret::take(object).unwrap()
    }

    #[test]
    fn entries_of_a_secret_by_either_name() {
        let standard = secret(&[("tls.crt", b"c"), ("tls.key", b"k"), ("ca.crt", b"a"), ("password", b"p")]);
        let older = secret(&[("cert", b"c"), ("key", b"k"), ("cacert", b"a")]);
        assert_eq!(standard.entries, older.entries);
        let both = secret(&[("cert", b"old"), ("tls.crt", b"c")]);
        assert_eq!(both.entries.as_ref().ok().and_then(|entries| entries.certificate.as_deref()), Some("c"));
        assert!(!format!("{:?}", secret(&[("tls.key", b"KEY")])).contains("KEY"));
    }

    #[test]
    fn what_cannot_be_text_or_is_too_large_is_said() {
        let why = |bytes: &[u8]| secret(&[("tls.crt", bytes)]).entries.err();
        assert_eq!(why(&[0xff]).as_deref(), Some("tls.crt is no text"));
        assert!(why(&vec![b'a'; ENTRY_BYTES_MAX + 1]).is_some_and(|why| why.contains("at most 262144")));
        assert_eq!(why(&vec![b'a'; ENTRY_BYTES_MAX]), None);
    }
}
