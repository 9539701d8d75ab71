//! `SpiffeId`: the name a workload proves with its certificate (`spiffe://TD/ns/NS/sa/SA`).
//!
//! Parsing is strict: anything else is not an identity of this mesh (spec/dataplane.md 1.2).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Trust domain that is meant when the control plane sends none (spec/dataplane.md 1.2).
pub const DEFAULT_TRUST_DOMAIN: &str = "cluster.local";
/// Service account that is meant when the control plane sends none.
pub const DEFAULT_SERVICE_ACCOUNT: &str = "default";

/// One workload identity. Cheap to clone; ordered, so that maps of identities are deterministic.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    pub trust_domain: Arc<str>,
    pub namespace: Arc<str>,
    pub service_account: Arc<str>,
}

/// Why a string is not an identity of this mesh.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an identity of this mesh: expected spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT")]
pub struct NotAnIdentity(pub String);

impl SpiffeId {
    pub fn new(trust_domain: &str, namespace: &str, service_account: &str) -> SpiffeId {
        SpiffeId { trust_domain: trust_domain.into(), namespace: namespace.into(), service_account: service_account.into() }
    }

    /// The form that policy compares: without `spiffe://` (spec/dataplane.md 6.3).
    pub fn principal(&self) -> String {
        format!("{}/ns/{}/sa/{}", self.trust_domain, self.namespace, self.service_account)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/ns/{}/sa/{}", self.trust_domain, self.namespace, self.service_account)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for SpiffeId {
    type Err = NotAnIdentity;

    fn from_str(text: &str) -> Result<SpiffeId, NotAnIdentity> {
        let refuse = || NotAnIdentity(text.chars().take(256).collect());
        let rest = text.strip_prefix("spiffe://").ok_or_else(refuse)?;
        let parts: Vec<&str> = rest.split('/').collect();
        let &[trust_domain, "ns", namespace, "sa", service_account] = parts.as_slice() else {
            return Err(refuse());
        };
        // Control characters and blanks never occur in names that Kubernetes accepts; refusing them here keeps
        // them out of logs, metric labels and header values.
        let sound = |part: &str| !part.is_empty() && part.chars().all(|c| !c.is_control() && !c.is_whitespace());
        if ![trust_domain, namespace, service_account].into_iter().all(sound) {
            return Err(refuse());
        }
        Ok(SpiffeId::new(trust_domain, namespace, service_account))
    }
}

impl serde::Serialize for SpiffeId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for SpiffeId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<SpiffeId, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Z-043
    #[test]
    fn only_the_strict_form_is_an_identity() {
        let id: SpiffeId = "spiffe://td/ns/shop/sa/cart".parse().unwrap();
        assert_eq!(id, SpiffeId::new("td", "shop", "cart"));
        assert_eq!(id.to_string(), "spiffe://td/ns/shop/sa/cart");
        assert_eq!(id.principal(), "td/ns/shop/sa/cart");
        for bad in [
            "",
            "spiffe://",
            "spiffe://td",
            "td/ns/shop/sa/cart",
            "http://td/ns/shop/sa/cart",
            "spiffe://td/ns/shop/sa/cart/x",
            "spiffe://td/ns//sa/cart",
            "spiffe:///ns/shop/sa/cart",
            "spiffe://td/ns/shop/sa/",
            "spiffe://td/sa/shop/ns/cart",
            "spiffe://td/ns/shop/SA/cart",
            "SPIFFE://td/ns/shop/sa/cart",
            "spiffe://td/ns/sh op/sa/cart",
            "spiffe://td/ns/shop/sa/c\n",
        ] {
            assert!(bad.parse::<SpiffeId>().is_err(), "{bad:?} was accepted");
        }
    }
}
