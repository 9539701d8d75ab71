use mesh_model::change::Change;
use mesh_model::fixture;
use mesh_xds::messages::waypoint as wire;
use prost::Message;

use super::*;
use crate::settings::Store;

const WORLD: &str = "
node b: server 10.0.0.2 sa=shop/server
service web.shop 10.96.0.1 80->8080,81->8081 : server
service other.shop 10.96.0.2 80->8080 : server
";

fn host(name: &str) -> NamespacedHostname {
    NamespacedHostname::new("shop", &format!("{name}.shop.svc.cluster.local"))
}

fn wire_host(name: &str) -> wire::Host {
    wire::Host { namespace: "shop".into(), hostname: host(name).hostname.to_string() }
}

struct Desk {
    store: Store,
    directory: Directory,
    now: Instant,
}

impl Desk {
    fn new() -> Desk {
        let own = wire::GatewayTarget { namespace: "shop".into(), name: "wp".into() };
        Desk { store: crate::settings::store(Some(own)).0, directory: fixture::parse(WORLD).unwrap().directory, now: Instant::now() }
    }

    fn put(&mut self, type_url: &str, name: &str, message: &impl Message) {
        self.store.take(type_url, name, Some(&message.encode_to_vec())).unwrap();
    }

    /// One line: `bind`, `unbind`, `deny`, `allow` what; `forget` a policy; `provider`; `gone`; `wait` seconds; `,` joins what
    /// is published at once.
    fn play(&mut self, line: &str) {
        for what in line.split(',') {
            match what.split_whitespace().collect::<Vec<_>>()[..] {
                ["bind", name] => {
                    let port = wire::ServicePort { host: Some(wire_host(name)), port: 80, ..Default::default() };
                    self.put(wire::SERVICE_PORT, name, &port);
                }
                ["unbind", name] => self.store.take(wire::SERVICE_PORT, name, None).unwrap(),
                ["deny", place] => {
                    let kind = match place {
                        "gateway" => wire::TargetKind::Gateway(wire::GatewayTarget { namespace: "shop".into(), name: "wp".into() }),
                        name => wire::TargetKind::Service(wire::ServiceTarget { host: Some(wire_host(name)), ..Default::default() }),
                    };
                    let targets = vec![wire::Target { kind: Some(kind) }];
                    let rules = vec![wire::AuthzRule::default()];
                    let policy = wire::AuthzPolicy { targets, action: wire::AuthzAction::Deny as i32, rules, ..Default::default() };
                    self.put(wire::AUTHZ_POLICY, place, &policy);
                }
                ["forget", place] => self.store.take(wire::AUTHZ_POLICY, place, None).unwrap(),
                // It names no backend, which is wrong and not what this is about.
                ["provider"] => _ = self.store.take(wire::EXT_AUTHZ_PROVIDER, "p", Some(&wire::ExtAuthzProvider::default().encode_to_vec())),
                ["gone"] => drop(self.directory.apply(Change::Remove("shop/web.shop.svc.cluster.local".into()))),
                ["wait", seconds] => self.now += Duration::from_secs(seconds.parse().unwrap()),
                _ => panic!("{what}"),
            }
        }
        self.store.publish_at(self.now);
    }

    /// `Bound`, `Parting` with the number of its policies, ...
    fn stands(&self, name: &str, port: u16) -> String {
        match self.store.settings().binding(&self.directory, &host(name), port, self.now) {
            Binding::Bound(view) => format!("bound {}", view.policies(None).authz.len()),
            Binding::Parting(before, view) => {
                assert!(before.parting.is_empty(), "a snapshot holds no chain of older ones");
                format!("parting {}", view.policies(None).authz.len())
            }
            Binding::Expected => "expected".into(),
            Binding::No => "no".into(),
        }
    }
}

// spec/waypoint.md 11 row 24
#[test]
fn what_is_served_before_and_after_it_is_bound() {
    let table: &[(&[&str], &str)] = &[
        (&[], "expected"),
        (&["bind web"], "bound 0"),
        (&["bind web", "unbind web"], "parting 0"),
        (&["bind web", "unbind web", "wait 4"], "parting 0"),
        (&["bind web", "unbind web", "wait 5"], "expected"),
        (&["bind web", "unbind web", "bind web"], "bound 0"),
        (&["bind web", "unbind web", "wait 3", "bind web", "unbind web", "wait 3"], "parting 0"),
        // With its policies, which go when it goes.
        (&["deny web", "bind web", "unbind web", "forget web"], "parting 1"),
        (&["deny web", "deny gateway", "bind web", "unbind web", "forget web"], "parting 2"),
        (&["deny web, bind web", "unbind web, forget web"], "parting 1"),
        // A policy that came since wins, and one that may have allowed and went.
        (&["bind web", "unbind web", "deny web"], "expected"),
        (&["bind web", "unbind web", "deny gateway"], "expected"),
        (&["bind web", "unbind web, deny web"], "expected"),
        (&["deny gateway", "bind web", "unbind web", "forget gateway"], "expected"),
        (&["bind web", "unbind web", "provider"], "expected"),
        // What is another's changes nothing.
        (&["bind web, bind other", "unbind web", "deny other"], "parting 0"),
        // A service that is gone wins, and is waited for by nobody.
        (&["bind web", "unbind web", "gone"], "no"),
        (&["gone"], "no"),
    ];
    for (lines, expected) in table {
        let mut desk = Desk::new();
        lines.iter().for_each(|line| desk.play(line));
        assert_eq!(desk.stands("web", 80), *expected, "{lines:?}");
    }
}

#[test]
fn only_ports_that_the_service_has_are_waited_for() {
    let mut desk = Desk::new();
    desk.play("bind web");
    for (name, port, expected) in [("web", 81, "expected"), ("web", 82, "no"), ("other", 80, "expected"), ("nobody", 80, "no")] {
        assert_eq!(desk.stands(name, port), expected, "{name}:{port}");
    }
}
