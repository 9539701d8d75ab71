use mesh_xds::messages::waypoint as wire;
use prost::Message;

use super::*;
use crate::settings::Store;

fn host(name: &str) -> NamespacedHostname {
    NamespacedHostname::new("shop", name)
}

fn target(name: &str) -> Target {
    Target::Service { key: host(name), port: 80 }
}

struct Desk {
    store: Store,
    settings: Watched<Settings>,
    permits: Permits,
}

impl Desk {
    fn new() -> Desk {
        let (store, settings) = crate::settings::store(None);
        let permits = Permits::new(settings.clone());
        let mut desk = Desk { store, settings, permits };
        for name in ["web", "other"] {
            let host = wire::Host { namespace: "shop".into(), hostname: name.into() };
            desk.put(wire::SERVICE_PORT, name, &wire::ServicePort { host: Some(host), port: 80, ..Default::default() });
        }
        tokio::spawn(desk.permits.clone().watch());
        desk
    }

    fn put(&mut self, type_url: &str, name: &str, message: &impl Message) {
        self.store.take(type_url, name, Some(&message.encode_to_vec())).unwrap();
        self.store.publish();
    }

    fn policy(&mut self, service: &str) {
        let host = wire::Host { namespace: "shop".into(), hostname: service.into() };
        let target = wire::TargetKind::Service(wire::ServiceTarget { host: Some(host), ..Default::default() });
        self.put(wire::AUTHZ_POLICY, service, &wire::AuthzPolicy { targets: vec![wire::Target { kind: Some(target) }], ..Default::default() });
    }

    fn law(&self, name: &str) -> Law {
        Law::of(&self.settings.load(), &Under::of(&target(name), None)).unwrap()
    }

    fn enter(&self, name: &str) -> Permit {
        self.permits.enter(Under::of(&target(name), None), self.law(name))
    }
}

/// Paused time passes only when nobody has anything to do.
async fn is_quiet(permit: &mut Permit) -> bool {
    tokio::time::timeout(std::time::Duration::from_secs(1), permit.changed()).await.is_err()
}

#[tokio::test(start_paused = true)]
async fn a_change_wakes_those_whom_it_concerns() {
    let mut desk = Desk::new();
    let (mut web, mut other) = (desk.enter("web"), desk.enter("other"));
    assert!(is_quiet(&mut web).await);
    desk.policy("web");
    assert_eq!(web.changed().await.policies.authz.len(), 1);
    assert!(is_quiet(&mut web).await && is_quiet(&mut other).await);
    // Which trust domains are the mesh's is a part of every verdict.
    desk.put(wire::MESH_SETTINGS, "mesh", &wire::MeshSettings { trust_domain: "other".into(), ..Default::default() });
    web.changed().await;
    other.changed().await;
}

#[tokio::test(start_paused = true)]
async fn no_change_falls_between_a_verdict_and_its_permit() {
    let mut desk = Desk::new();
    let early = desk.law("web");
    desk.policy("web");
    let mut first = desk.permits.enter(Under::of(&target("web"), None), early.clone());
    assert_eq!(first.changed().await.policies.authz.len(), 1);
    let mut second = desk.permits.enter(Under::of(&target("web"), None), early);
    second.changed().await;
    assert!(is_quiet(&mut first).await && is_quiet(&mut second).await);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_binding_is_no_new_law_and_connections_hear_of_it() {
    let mut desk = Desk::new();
    let mut stream = desk.enter("web");
    let (web, other) = (desk.permits.bound(&target("web")), desk.permits.bound(&target("other")));
    desk.store.take(wire::SERVICE_PORT, "web", None).unwrap();
    desk.store.publish();
    web.unbound.cancelled().await;
    assert!(!other.unbound.is_cancelled() && is_quiet(&mut stream).await);
    assert!(desk.permits.bound(&target("web")).unbound.is_cancelled(), "and those that come later, too");
    let bound = wire::ServicePort { host: Some(wire::Host { namespace: "shop".into(), hostname: "web".into() }), port: 80, ..Default::default() };
    desk.put(wire::SERVICE_PORT, "web", &bound);
    desk.policy("web");
    stream.changed().await;
    assert!(!desk.permits.bound(&target("web")).unbound.is_cancelled());
    drop((stream, web, other));
    assert!(desk.permits.is_empty());
    assert!(desk.permits.book.lock().is_empty(), "nothing is kept of those who have left");
}
