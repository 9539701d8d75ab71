use std::net::IpAddr;

use mesh_model::directory::Directory;
use mesh_model::workload::{TunnelProtocol, Uid};
use mesh_xds::messages::waypoint as wire;
use prost::Message;

use super::*;

const FILE: &str = "\
# the mesh of an afternoon
type: ServicePort
name: shop/web:80
spec: {host: {namespace: shop, hostname: web}, port: 80, protocol: HTTP1}
---
type: HttpRoute
name: shop/web
spec:
  parent: {host: {namespace: shop, hostname: web}}
  backends:
  - {weight: 1, backend: {host: {namespace: shop, hostname: web}, port: 80}}
---
type: Service
name: web
spec: {namespace: shop, hostname: web, vips: [10.96.0.1, net/10.96.0.2], ports: {80: 8080}}
---
type: Workload
name: cluster//Pod/shop/web-1
spec:
  namespace: shop
  serviceAccount: web
  workloadIps: [10.0.0.7]
  protocol: HBONE
  services: {shop/web: {80: 8080}}
";

#[test]
fn a_file_is_resources_and_addresses() {
    let file = File::parse("f.yaml", FILE).unwrap();
    let names: Vec<(&str, &str, usize)> =
        file.resources.iter().map(|((kind, name), content)| (short(kind), name.as_str(), content.line)).collect();
    assert_eq!(names, [("HttpRoute", "shop/web", 6), ("ServicePort", "shop/web:80", 1)]);
    let content = &file.resources[&(wire::HTTP_ROUTE, "shop/web".to_owned())].bytes;
    assert_eq!(wire::HttpRoute::decode(content.as_slice()).unwrap().backends.len(), 1);
    let mut directory = Directory::new();
    for change in file.changes_from(&File::default()) {
        directory.apply(change);
    }
    let workload = directory.workload(&Uid::new("cluster//Pod/shop/web-1")).unwrap();
    assert_eq!(workload.identity().to_string(), "spiffe://cluster.local/ns/shop/sa/web");
    assert_eq!((workload.tunnel_protocol, &*workload.name), (TunnelProtocol::Hbone, "web-1"));
    let service = directory.services_named("web").next().unwrap();
    assert_eq!(directory.endpoints(service).count(), 1);
    assert_eq!(service.vips[1], mesh_model::address::NetworkAddress::new("net", IpAddr::from([10, 96, 0, 2])));
    // What is not in the next one goes.
    let fewer =
        File::parse("f.yaml", "type: Service\nname: web\nspec: {namespace: shop, hostname: web, ports: {80: 1}}").unwrap();
    for change in fewer.changes_from(&file) {
        directory.apply(change);
    }
    assert_eq!((directory.workload_count(), directory.service_count()), (0, 1));
    assert_eq!(File::parse("f.yaml", "").unwrap(), File::default());
    assert_eq!(File::parse("f.yaml", "---\n# nothing\n---\n").unwrap(), File::default());
}

#[test]
fn every_type_can_stand_in_a_file() {
    for type_url in wire::ALL {
        let file = File::parse("f.yaml", &format!("type: {}\nname: a", short(type_url))).unwrap();
        assert!(file.resources.contains_key(&(type_url, "a".to_owned())), "{type_url}");
    }
}

#[test]
fn a_fault_is_told_with_its_line() {
    for (text, line, word) in [
        ("type: HttpRoute\nname: a\nspec:\n  parnet: {}\n", 4, "parnet"),
        (
            "type: HttpRoute\nname: a\n---\ntype: HttpRoute\nname: b\nspec:\n  matches:\n  - path: {kind: GLOB, value: /}\n",
            8,
            "GLOB",
        ),
        ("type: HttpRuote\nname: a\n", 1, "HttpRuote"),
        ("# first\n---\ntype: HttpRoute\nname: a\n---\ntype: HttpRoute\nname: a\n", 6, "twice"),
        ("type: Workload\nname: a\nspec:\n  workloadIps: [x]\n", 4, ""),
        ("type: Workload\nname: a\nspec:\n  workloadIp: [10.0.0.1]\n", 4, "workloadIp"),
        ("type: Service\nname: a\n", 1, "hostname"),
        ("name: a\n", 1, "type"),
        ("type: [\n", 1, ""),
        ("just words\n", 1, ""),
    ] {
        let error = File::parse("f.yaml", text).unwrap_err();
        assert_eq!((error.file.as_str(), error.line), ("f.yaml", line), "{text}: {error}");
        assert!(error.why.contains(word), "{text}: {error}");
    }
}

/// Both ends of a file in force.
#[tokio::test(start_paused = true)]
async fn a_changed_file_is_in_force_and_a_broken_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("waypoint.yaml");
    std::fs::write(&path, FILE).unwrap();
    let (store, mut settings) = crate::settings::store(None);
    let (writer, mut world) = mesh_xds::world::world();
    let follow = follow::Follow::begin(&path, store, Some(writer)).await.unwrap();
    let web = mesh_model::address::NamespacedHostname::new("shop", "web");
    assert!(settings.see().service(&web, 80).is_some_and(|view| view.routes("any").is_some()));
    assert_eq!(world.see().directory.workload_count(), 1);
    let following = tokio::spawn(follow.run());
    std::fs::write(&path, format!("{FILE}---\ntype: HttpRoute\n")).unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    assert!(!settings.has_changed(), "a broken file changes nothing");
    std::fs::write(&path, FILE.replace("HTTP1", "GRPC").replace("port: 80, protocol", "port: 81, protocol")).unwrap();
    settings.changed().await;
    assert!(settings.see().service(&web, 80).is_none());
    assert!(settings.load().service(&web, 81).is_some());
    following.abort();
    // Where addresses come from elsewhere, a file with addresses is refused.
    let (store, _) = crate::settings::store(None);
    let refused = follow::Follow::begin(&path, store, None).await.map(|_| ()).unwrap_err();
    assert!(refused.to_string().contains("control plane"), "{refused}");
}
