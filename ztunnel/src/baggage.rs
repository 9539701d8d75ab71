//! What is told to peers about a workload, and what peers tell, as facts for labels; neither where the operator does not
//! want it (`ENABLE_RESPONSE_BAGGAGE`). Pure.

use std::sync::Arc;

use http::HeaderMap;
use mesh_hbone::Baggage;
use mesh_hbone::baggage::{BAGGAGE, WorkloadKind};
use mesh_model::identity::SpiffeId;
use mesh_model::workload::{Workload, WorkloadType};
use mesh_telemetry::labels::Derived;
use mesh_telemetry::traffic::Party;

/// The baggage that describes this workload (spec/dataplane.md 1.3).
pub fn of(workload: &Workload) -> Baggage {
    let said = |text: &Arc<str>| (!text.is_empty()).then(|| text.to_string());
    let kind = match workload.workload_type {
        WorkloadType::Deployment => WorkloadKind::Deployment,
        WorkloadType::CronJob => WorkloadKind::CronJob,
        WorkloadType::Pod => WorkloadKind::Pod,
        WorkloadType::Job => WorkloadKind::Job,
    };
    Baggage {
        cluster: said(&workload.cluster_id),
        namespace: said(&workload.namespace),
        workload_kind: Some(kind),
        workload_name: said(&workload.workload_name),
        service: said(&workload.canonical_name),
        revision: said(&workload.canonical_revision),
        region: said(&workload.locality.region),
        zone: said(&workload.locality.zone),
    }
}

/// The headers of an answer that opens a tunnel to this workload.
pub fn answer(wanted: bool, me: &Workload) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if wanted {
        headers.insert(BAGGAGE, of(me).emit());
    }
    headers
}

/// Who a peer says it is in the headers of its request.
pub fn heard(wanted: bool, headers: &HeaderMap, identity: &SpiffeId) -> Party {
    if wanted { party(&Baggage::parse(headers), identity) } else { Party::Unknown }
}

/// A peer by its own words. Its namespace is taken from its certificate: that part it has proven.
pub fn party(told: &Baggage, identity: &SpiffeId) -> Party {
    if *told == Baggage::default() {
        return Party::Unknown;
    }
    let text = |said: &Option<String>| -> Arc<str> { said.as_deref().unwrap_or_default().into() };
    Party::Told(Arc::new(Derived {
        workload_name: text(&told.workload_name),
        namespace: identity.namespace.clone(),
        canonical_name: text(&told.service),
        canonical_revision: text(&told.revision),
        cluster: text(&told.cluster),
        region: text(&told.region),
        zone: text(&told.zone),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    // Z-008
    #[test]
    fn what_we_tell_can_be_read() {
        let mut workload = Workload::named("u", "shop", "cart-7c");
        workload.workload_name = "cart".into();
        workload.canonical_name = "cart".into();
        workload.canonical_revision = "v2".into();
        let emitted = of(&workload).emit();
        assert_eq!(
            emitted,
            "k8s.cluster.name=Kubernetes,k8s.namespace.name=shop,k8s.deployment.name=cart,service.name=cart,service.version=v2"
        );
        let mut headers = HeaderMap::new();
        headers.insert(BAGGAGE, emitted);
        assert_eq!(Baggage::parse(&headers), of(&workload));
    }

    // Z-075
    #[test]
    fn an_answer_tells_of_the_workload_unless_that_is_switched_off() {
        let mut workload = Workload::named("u", "shop", "cart-7c");
        workload.workload_name = "cart".into();
        assert_eq!(Baggage::parse(&answer(true, &workload)), of(&workload));
        assert!(answer(false, &workload).is_empty());
    }

    // Z-076
    #[test]
    fn a_peers_words_are_heard_unless_that_is_switched_off() {
        let peer = SpiffeId::new("cluster.local", "shop", "cart");
        let mut headers = HeaderMap::new();
        headers.insert(BAGGAGE, http::HeaderValue::from_static("k8s.deployment.name=cart,service.name=cart"));
        let Party::Told(derived) = heard(true, &headers, &peer) else { panic!("no facts") };
        assert_eq!((&*derived.workload_name, &*derived.canonical_name), ("cart", "cart"));
        assert!(matches!(heard(false, &headers, &peer), Party::Unknown));
        assert!(matches!(heard(true, &HeaderMap::new(), &peer), Party::Unknown), "and silence says nothing");
    }

    // T-16
    #[test]
    fn a_peer_cannot_tell_another_namespace_than_it_proved() {
        let told = Baggage { namespace: Some("bank".into()), service: Some("vault".into()), ..Baggage::default() };
        let Party::Told(derived) = party(&told, &SpiffeId::new("cluster.local", "shop", "evil")) else { panic!("no facts") };
        assert_eq!(&*derived.namespace, "shop");
    }
}
