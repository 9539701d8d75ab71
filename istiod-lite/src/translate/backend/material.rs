//! Authorities and certificates that users keep in ConfigMaps and Secrets (spec/waypoint.md 2.10, 5.7). What cannot be had
//! is an error, never less proof than was asked for.

use std::sync::Arc;

use mesh_identity::outside::{Outside, Trust};
use mesh_xds::messages::waypoint::TlsClient;

use crate::objects::destination_rule::ClientTls;
use crate::objects::route::LocalReference;
use crate::objects::{Kind, NsName, ObjectKey};
use crate::translate::Lens;

/// Why an authority cannot be used: the reason of a condition, and in words.
pub type Wrong = (&'static str, String);

/// Whose Secrets count.
#[derive(Clone, Copy)]
pub struct Credentials<'a> {
    pub lens: &'a Lens<'a>,
    /// The namespace of the waypoints that are told. `None`: of nobody's.
    pub namespace: Option<&'a Arc<str>>,
}

/// The PEM of all authorities that can be used, and what is wrong with the others.
pub fn authorities(lens: &Lens<'_>, namespace: &Arc<str>, references: &[LocalReference]) -> (String, Vec<Wrong>) {
    let mut all = String::new();
    let mut wrong = Vec::new();
    for reference in references {
        match authority(lens, namespace, reference) {
            Ok(pem) => {
                all.push_str(pem.trim_end());
                all.push('\n');
            }
            Err(why) => wrong.push(why),
        }
    }
    (all, wrong)
}

fn authority<'a>(lens: &Lens<'a>, namespace: &Arc<str>, reference: &LocalReference) -> Result<&'a str, Wrong> {
    let LocalReference { group, kind, name, .. } = reference;
    if !matches!((&**group, &**kind), ("" | "core", "ConfigMap")) {
        let group = if group.is_empty() { String::new() } else { format!("{group}/") };
        return Err(("InvalidKind", format!("{group}{kind} {name}: authorities are kept in ConfigMaps")));
    }
    let key = ObjectKey { kind: Kind::ConfigMap, name: NsName { namespace: namespace.clone(), name: name.clone() } };
    let invalid = |why: &str| ("InvalidCACertificateRef", format!("{key}: {why}"));
    let map = lens.config_map(&key.name).ok_or_else(|| invalid("does not exist"))?;
    let text = map.authorities.as_ref().map_err(|why| invalid(why))?;
    let text = text.as_deref().ok_or_else(|| invalid("has no entry ca.crt"))?;
    check(Some(text), "", None).map_err(|why| invalid(&why))?;
    Ok(text)
}

/// As the proxy will use it: what it could not use is said here, where the user looks.
fn check(authorities: Option<&str>, revoked: &str, client: Option<(&str, &str)>) -> Result<(), String> {
    let trust = Trust { server_name: None, names: &[], roots_pem: authorities, crl_pem: revoked, skip_verify: authorities.is_none(), client };
    Outside::new(&trust).map(drop).map_err(|why| why.to_string())
}

impl Credentials<'_> {
    /// Puts what a DestinationRule's `credentialName` means into the message: authorities, and with `mutual` the certificate
    /// that is shown.
    ///
    /// # Errors
    /// What cannot be had.
    pub fn fill(&self, asked: &ClientTls, mutual: bool, message: &mut TlsClient) -> Result<(), String> {
        let name = &asked.credential_name;
        let Some(namespace) = self.namespace else { return Err(format!("tls.credentialName {name:?} is looked for in the namespace of a waypoint, and this is for all of them")) };
        let key = ObjectKey { kind: Kind::Secret, name: NsName { namespace: namespace.clone(), name: name.clone() } };
        let wrong = |why: &str| format!("tls.credentialName: {key}: {why}");
        let secret = self.lens.secret(&key.name).ok_or_else(|| wrong("does not exist"))?;
        let entries = secret.entries.as_ref().map_err(|why| wrong(why))?;
        let authorities = entries.authorities.as_deref();
        if authorities.is_none() && !mutual {
            // It is what the Secret is named for.
            return Err(wrong("has no entry ca.crt"));
        }
        let client = match (mutual, &entries.certificate, &entries.key) {
            (false, ..) => None,
            (true, Some(certificate), Some(key)) => Some((&**certificate, &**key)),
            (true, None, _) => return Err(wrong("has no entry tls.crt")),
            (true, _, None) => return Err(wrong("has no entry tls.key")),
        };
        let revoked = entries.revoked.as_deref().unwrap_or_default();
        check(authorities, revoked, client).map_err(|why| wrong(&why))?;
        message.ca_pem = authorities.unwrap_or_default().to_owned();
        message.crl_pem = revoked.to_owned();
        if let Some((certificate, key)) = client {
            (message.cert_pem, message.key_pem) = (certificate.to_owned(), key.to_owned());
        }
        Ok(())
    }
}
