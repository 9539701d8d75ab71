//! What objects say they are about: parents of routes, hosts. Pure, and before anybody asks whether those exist.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::objects::route::{ParentReference, parents as references};
use crate::objects::*;

/// The Services and ServiceEntries that a route names as its parents.
pub fn parents(object: &Object) -> BTreeSet<ObjectKey> {
    let own = &object.meta().namespace;
    references(object).iter().filter_map(|reference| parent(reference, own)).collect()
}

/// What a reference of a route in a namespace means; `None`: a parent of another kind, which is not looked at here.
pub fn parent(reference: &ParentReference, own: &Arc<str>) -> Option<ObjectKey> {
    let kind = match (reference.group.as_deref().unwrap_or(route::GROUP), reference.kind.as_deref().unwrap_or("Gateway")) {
        ("" | "core", "Service") => Kind::Service,
        ("networking.istio.io", "ServiceEntry") => Kind::ServiceEntry,
        _ => return None,
    };
    let namespace = reference.namespace.clone().filter(|namespace| !namespace.is_empty()).unwrap_or_else(|| own.clone());
    Some(ObjectKey { kind, name: NsName { namespace, name: reference.name.clone() } })
}

/// A host without a dot is the name of a Service of the object's own namespace.
pub fn full_host(host: &Arc<str>, namespace: &str, domain: &str) -> Arc<str> {
    if host.contains('.') || &**host == "*" { host.to_ascii_lowercase().into() } else { format!("{host}.{namespace}.svc.{domain}").into() }
}

/// The host itself and every wildcard that covers it, the most specific first.
pub fn covering(host: &str) -> impl Iterator<Item = Arc<str>> {
    let rest = host.match_indices('.').map(|(at, _)| Arc::from(format!("*{}", &host[at..])));
    std::iter::once(Arc::from(host)).chain(rest).chain([Arc::from("*")])
}
