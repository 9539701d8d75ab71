//! spec/controlplane.md 4.9.

use expect_test::expect;

use super::{check, events, printed, translation};

fn service(spec: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{namespace: shop, name: web}}\nspec: {{{spec}}}\n---\n")
}

fn entry(namespace: &str, name: &str, more: &str, spec: &str) -> String {
    format!("apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{namespace: {namespace}, name: {name}, {more}}}\nspec: {{{spec}}}\n---\n")
}

#[test]
fn addresses_and_families() {
    check(&service("clusterIP: 10.96.0.1"), expect![[r#"
        service shop/web.shop.svc.cluster.local vips(/10.96.0.1) canonical
    "#]]);
    check(&service("clusterIP: None, clusterIPs: [None], ipFamilies: [IPv4]"), expect![[r#"
        service shop/web.shop.svc.cluster.local vips() V4Only canonical
    "#]]);
    check(&service("clusterIPs: [10.96.0.1, \"fd00::1\"], ipFamilies: [IPv4, IPv6]"), expect![[r#"
        service shop/web.shop.svc.cluster.local vips(/10.96.0.1 /fd00::1) Dual canonical
    "#]]);
    check(&service("clusterIP: \"fd00::1\", ipFamilies: [IPv6]"), expect![[r#"
        service shop/web.shop.svc.cluster.local vips(/fd00::1) V6Only canonical
    "#]]);
    check(&service("type: ExternalName, externalName: example.com"), expect![[r#"
        Service shop/web: note: type ExternalName is not published: it has no address of its own
    "#]]);
}

#[test]
fn what_is_spoken_at_a_port() {
    check(
        &service(
            "ports: [{name: http, port: 1}, {name: http-x, port: 2}, {name: HTTP2-x, port: 3}, {name: grpc, port: 4}, {name: grpc-web, port: 5}, \
             {name: https, port: 6}, {name: tls-x, port: 7}, {name: tcp, port: 8}, {name: mysql, port: 3306}, {name: mongo, port: 9}, {port: 25}, \
             {name: x, port: 10, appProtocol: kubernetes.io/h2c}, {name: y, port: 11, appProtocol: kubernetes.io/ws}, {name: z, port: 12, appProtocol: kubernetes.io/wss}, \
             {name: http, port: 13, appProtocol: tcp-any}, {name: http-udp, port: 14, protocol: UDP}, {name: httpx, port: 15}]",
        ),
        expect![[r#"
            service shop/web.shop.svc.cluster.local vips() 1->1:Http11 2->2:Http11 3->3:Http2 4->4:Grpc 5->5:? 6->6:Tls 7->7:Tls 8->8:Tcp 9->9:? 10->10:Http2 11->11:Http11 12->12:Tls 13->13:Tcp 14->14:? 15->15:? 25->25:Tcp 3306->3306:Tcp canonical
        "#]],
    );
}

#[test]
fn named_targets_are_looked_up_at_the_endpoint() {
    check(&service("ports: [{name: a, port: 80, targetPort: web}, {name: b, port: 81, targetPort: 8081}, {name: c, port: 82}]"), expect![[r#"
        service shop/web.shop.svc.cluster.local vips() 80->0:? 81->8081:? 82->82:? canonical
    "#]]);
}

/// 4.9.4, in order of precedence.
#[test]
fn preferences() {
    let annotated = |value: &str, spec: &str| service(spec).replace("name: web}", &format!("name: web, annotations: {{networking.istio.io/traffic-distribution: {value}}}}}"));
    let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, annotations: {networking.istio.io/traffic-distribution: PreferClose}}\n---\n";
    check(&service("internalTrafficPolicy: Local, trafficDistribution: PreferClose"), expect![[r#"
        service shop/web.shop.svc.cluster.local vips() canonical Strict[Node]
    "#]]);
    check(&annotated("PreferClose", "trafficDistribution: PreferSameNode"), expect![[r#"
        service shop/web.shop.svc.cluster.local vips() canonical Failover[Network, Region, Zone, Subzone, Node]
    "#]]);
    check(&annotated("preferSAMEzone", ""), expect![[r#"
        service shop/web.shop.svc.cluster.local vips() canonical Failover[Network, Region, Zone]
    "#]]);
    check(&annotated("PreferClose", "trafficDistribution: Nonsense"), expect![[r#"
        service shop/web.shop.svc.cluster.local vips() canonical Failover[Network, Region, Zone]
        Service shop/web: note: spec.trafficDistribution "Nonsense" is not known
    "#]]);
    check(&[namespace.into(), service("")].concat(), expect![[r#"
        service shop/web.shop.svc.cluster.local vips() canonical Failover[Network, Region, Zone]
    "#]]);
    check(&[namespace.into(), annotated("Any", "")].concat(), expect![[r#"
        service shop/web.shop.svc.cluster.local vips() canonical
    "#]]);
    check(&[namespace.into(), annotated("Nonsense", "")].concat(), expect![[r#"
        service shop/web.shop.svc.cluster.local vips() canonical
        Service shop/web: note: annotation networking.istio.io/traffic-distribution=Nonsense is not known; it is read as Any
    "#]]);
}

// pitfall 25: one service that publishes what is not ready must not open all others
#[test]
fn a_health_policy_is_of_one_service() {
    let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, annotations: {networking.istio.io/traffic-distribution: PreferClose}}\n---\n";
    let other = service("").replace("name: web", "name: other");
    check(&[namespace.into(), service("publishNotReadyAddresses: true"), other].concat(), expect![[r#"
        service shop/other.shop.svc.cluster.local vips() canonical Failover[Network, Region, Zone]
        service shop/web.shop.svc.cluster.local vips() canonical Failover[Network, Region, Zone] allow-all
    "#]]);
}

#[test]
fn unhonoured_fields_are_said() {
    check(&service("sessionAffinity: ClientIP, externalIPs: [1.2.3.4]"), expect![[r#"
        service shop/web.shop.svc.cluster.local vips() canonical
        Service shop/web: note: spec.externalIPs is not honoured: the mesh knows the service by its cluster IPs only
        Service shop/web: note: spec.sessionAffinity is not honoured: each connection chooses anew
    "#]]);
    check(&entry("shop", "e", "", "hosts: [x.example], addresses: [10.0.0.1, nonsense], exportTo: [\".\"], location: MESH_EXTERNAL, resolution: ODD, ports: [{name: big, number: 70000}, {name: t, number: 1, targetPort: 99999}]"), expect![[r#"
        service shop/x.example vips(/10.0.0.1) 1->1:? canonical
        ServiceEntry shop/e: note: spec.addresses: "nonsense" is neither an IP address nor a range of them
        ServiceEntry shop/e: note: spec.exportTo is not honoured: the host is visible to the whole mesh
        ServiceEntry shop/e: note: spec.location has no effect: whether an endpoint is in the mesh is told by the endpoint
        ServiceEntry shop/e: note: spec.ports: 70000 is not a port, so "big" is left out
        ServiceEntry shop/e: note: spec.ports: targetPort of "t" is not a port; 1 is used
        ServiceEntry shop/e: note: spec.resolution "ODD" is not known; it is read as STATIC
    "#]]);
}

/// 4.9.2.
#[test]
fn service_entries() {
    check(
        &entry(
            "shop",
            "e",
            "",
            "hosts: [a.example, b.example], addresses: [10.9.0.1, 10.8.3.7/16, \"fd00::/64\", 10.7.7.7/32], resolution: STATIC, subjectAltNames: [\"spiffe://td/ns/x/sa/y\"], \
             ports: [{name: a, number: 80, protocol: http}, {name: b, number: 443, protocol: TLS, targetPort: 8443}, {name: c, number: 53, protocol: UDP}, {name: d, number: 54, protocol: GRPC-WEB}]",
        ),
        expect![[r#"
            service shop/a.example vips(/10.9.0.1 /10.7.7.7 /10.8.0.0/16 /fd00::/64) 53->53:? 54->54:? 80->80:Http11 443->8443:Tls canonical sans["spiffe://td/ns/x/sa/y"]
            service shop/b.example vips(/10.9.0.1 /10.7.7.7 /10.8.0.0/16 /fd00::/64) 53->53:? 54->54:? 80->80:Http11 443->8443:Tls canonical sans["spiffe://td/ns/x/sa/y"]
        "#]],
    );
    check(&entry("shop", "e", "", "hosts: [a.example], addresses: [10.9.0.1], resolution: NONE"), expect![[r#"
        service shop/a.example vips(/10.9.0.1) canonical Passthrough[] allow-all
    "#]]);
    check(&entry("shop", "e", "", "hosts: [\"*.example\"], addresses: [10.9.0.1], resolution: DYNAMIC_DNS"), expect![[r#"
        service shop/*.example vips(/10.9.0.1) canonical
        workload Kubernetes/networking.istio.io/ServiceEntry/shop/e/*.example host=*.example sa=default name=e [shop/*.example ]
        ServiceEntry shop/e: istio.io/WaypointMissing=True NoWaypointForWildcardService: host *.example can be told apart only by a waypoint
    "#]]);
    check(&entry("shop", "e", "annotations: {istio.io/connect-strategy: RACE_FIRST_TCP_CONNECT}", "hosts: [a.example], addresses: [10.9.0.1], resolution: DNS"), expect![[r#"
        service shop/a.example vips(/10.9.0.1) canonical
        workload Kubernetes/networking.istio.io/ServiceEntry/shop/e/a.example host=a.example sa=default name=e [shop/a.example ]
        ServiceEntry shop/e: istio.io/WaypointMissing=True NoWaypointForRacingConnectStrategy: istio.io/connect-strategy is honoured by waypoints only
    "#]]);
}

// 4.9.3, pitfall 24: who has a name is decided by age, then by name
#[test]
fn one_hostname_several_times() {
    let spec = "hosts: [web.shop.svc.cluster.local], addresses: [10.9.0.1], resolution: DNS";
    let at = |time: &str| format!("creationTimestamp: \"2026-01-01T00:00:0{time}Z\"");
    let own = entry("shop", "own", "", spec);
    check(&[service("clusterIP: 10.96.0.1"), own.clone()].concat(), expect![[r#"
        service shop/web.shop.svc.cluster.local vips(/10.96.0.1) canonical
        ServiceEntry shop/own: note: host web.shop.svc.cluster.local is not published: Service shop/web has this name in the namespace
    "#]]);
    check(&[entry("shop", "b", &at("1"), spec), entry("shop", "a", &at("2"), spec)].concat(), expect![[r#"
        service shop/web.shop.svc.cluster.local vips(/10.9.0.1) canonical
        workload Kubernetes/networking.istio.io/ServiceEntry/shop/b/web.shop.svc.cluster.local host=web.shop.svc.cluster.local sa=default name=b [shop/web.shop.svc.cluster.local ]
        ServiceEntry shop/a: note: host web.shop.svc.cluster.local is not published: ServiceEntry shop/b has this name in the namespace
    "#]]);
    check(&[entry("shop", "b", "", spec), entry("shop", "a", "", spec)].concat(), expect![[r#"
        service shop/web.shop.svc.cluster.local vips(/10.9.0.1) canonical
        workload Kubernetes/networking.istio.io/ServiceEntry/shop/a/web.shop.svc.cluster.local host=web.shop.svc.cluster.local sa=default name=a [shop/web.shop.svc.cluster.local ]
        ServiceEntry shop/b: note: host web.shop.svc.cluster.local is not published: ServiceEntry shop/a has this name in the namespace
    "#]]);
    check(&[service("clusterIP: 10.96.0.1"), entry("other", "foreign", "", spec)].concat(), expect![[r#"
        service other/web.shop.svc.cluster.local vips(/10.9.0.1)
        service shop/web.shop.svc.cluster.local vips(/10.96.0.1) canonical
        workload Kubernetes/networking.istio.io/ServiceEntry/other/foreign/web.shop.svc.cluster.local host=web.shop.svc.cluster.local sa=default name=foreign [other/web.shop.svc.cluster.local ]
    "#]]);
    let spec = "hosts: [x.example], addresses: [10.9.0.1], resolution: DNS";
    check(&[entry("one", "a", &at("2"), spec), entry("two", "a", &at("1"), spec)].concat(), expect![[r#"
        service one/x.example vips(/10.9.0.1)
        service two/x.example vips(/10.9.0.1) canonical
        workload Kubernetes/networking.istio.io/ServiceEntry/one/a/x.example host=x.example sa=default name=a [one/x.example ]
        workload Kubernetes/networking.istio.io/ServiceEntry/two/a/x.example host=x.example sa=default name=a [two/x.example ]
    "#]]);
}

#[test]
fn a_loser_takes_over_when_the_winner_goes() {
    let spec = "hosts: [x.example], addresses: [10.9.0.1], resolution: DNS";
    let mut translation = translation();
    translation.apply(events(&[entry("shop", "a", "", spec), entry("shop", "b", "", spec)].concat()));
    translation.apply([crate::cluster::Event::Deleted(crate::objects::ObjectKey::new(crate::objects::Kind::ServiceEntry, "shop", "a"))]);
    expect![[r#"
        service shop/x.example vips(/10.9.0.1) canonical
        workload Kubernetes/networking.istio.io/ServiceEntry/shop/b/x.example host=x.example sa=default name=b [shop/x.example ]
    "#]].assert_eq(&printed(&translation));
}

// Found by the property of `incremental`: nobody claims the old name any more, so nobody's index led to it.
#[test]
fn a_hostname_that_nobody_claims_any_more_is_gone() {
    let with = |host: &str| entry("shop", "a", "", &format!("hosts: [{host}], addresses: [10.9.0.1], resolution: NONE"));
    let mut translation = translation();
    translation.apply(events(&with("x.example")));
    translation.apply(events(&with("y.example")));
    expect![[r#"
        service shop/y.example vips(/10.9.0.1) canonical Passthrough[] allow-all
    "#]]
    .assert_eq(&printed(&translation));
}

#[test]
fn objects_of_another_revision_belong_to_another_controller() {
    check(&entry("shop", "a", "labels: {istio.io/rev: canary}", "hosts: [x.example], resolution: DNS"), expect![[""]]);
    check(&entry("shop", "a", "labels: {istio.io/rev: default}", "hosts: [x.example], addresses: [10.0.0.1], resolution: NONE"), expect![[r#"
        service shop/x.example vips(/10.0.0.1) canonical Passthrough[] allow-all
    "#]]);
}
