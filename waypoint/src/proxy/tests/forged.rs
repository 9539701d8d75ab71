//! What a peer says of itself beside its certificate (spec/reliability.md T-16, T-40).

use super::*;

fn forged() -> HeaderMap {
    let said = [
        ("baggage", "k8s.cluster.name=west,k8s.namespace.name=bank,k8s.deployment.name=vault,service.name=vault"),
        ("forwarded", "for=\"10.0.0.2:1\";host=vault.bank.svc.cluster.local"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("x-forwarded-for", "10.0.0.2"),
        ("x-forwarded-client-cert", "URI=spiffe://cluster.local/ns/bank/sa/vault"),
        ("x-istio-source", "waypoint"),
        ("x-forwarded-network", "elsewhere"),
        ("x-envoy-peer-metadata", "CgA="),
    ];
    said.into_iter().map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap())).collect()
}

async fn asks(pool: &Pool<()>, headers: HeaderMap, path: &str) -> String {
    let request = ConnectRequest { to: "10.96.0.1:80".parse().unwrap(), headers };
    let mut tunnel = pool.open(&(), &request).await.unwrap().0;
    let ask = format!("GET {path} HTTP/1.1\r\nhost: web.shop\r\nconnection: close\r\nx-forwarded-client-cert: URI=spiffe://cluster.local/ns/bank/sa/vault\r\n\r\n");
    tunnel.write_all(ask.as_bytes()).await.unwrap();
    said(&mut tunnel).await
}

/// Only these may.
fn allow(account: &str, from: &str) -> wire::AuthzPolicy {
    let target = wire::TargetKind::Service(wire::ServiceTarget { host: Some(host("web")), ..Default::default() });
    let source = wire::AuthzSource { principals: vec![format!("cluster.local/ns/shop/sa/{account}")], ip_blocks: vec![from.into()], ..Default::default() };
    wire::AuthzPolicy {
        targets: vec![wire::Target { kind: Some(target) }],
        action: wire::AuthzAction::Allow as i32,
        rules: vec![wire::AuthzRule { from: vec![source], ..Default::default() }],
        ..Default::default()
    }
}

// T-16: who asks is who the certificate says, where policy looks, where metrics look, and where endpoints look.
#[tokio::test(start_paused = true)]
async fn what_a_peer_says_in_its_connect_changes_nothing() {
    let mut way = Way::new().await;
    put(&mut way.store, wire::MESH_SETTINGS, "mesh", &wire::MeshSettings { append_client_ip: true, ..Default::default() });
    way.store.publish();
    let plain = asks(&way.client, HeaderMap::new(), "/headers").await;
    let lied = asks(&way.client, forged(), "/headers").await;
    for answer in [&plain, &lied] {
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("\nx-forwarded-for: 10.0.0.1"), "{answer}");
        for word in ["bank", "vault", "10.0.0.2", "baggage", "forwarded:", "x-istio-source", "elsewhere", "peer-metadata"] {
            assert!(!answer.contains(word), "{word}: {answer}");
        }
    }
    let told: Vec<String> = way.told.lock().keys().map(ToString::to_string).collect();
    assert_eq!(told, ["x-isthmus-hops"], "nothing of it goes on");
    let metrics = String::from_utf8(way.proxy.books.expose(None, None).body).unwrap();
    let requests: Vec<&str> = metrics.lines().filter(|line| line.starts_with("istio_requests_total")).collect();
    assert!(requests.len() == 1 && requests[0].ends_with(" 2"), "one series for both: {requests:?}");
    assert!(requests[0].contains("source_principal=\"spiffe://cluster.local/ns/shop/sa/client\""), "{requests:?}");
    for (from, status) in [("10.0.0.2/32", "HTTP/1.1 403 "), ("10.0.0.1/32", "HTTP/1.1 200 ")] {
        put(&mut way.store, wire::AUTHZ_POLICY, "a", &allow("client", from));
        way.store.publish();
        let answer = asks(&way.client, forged(), "/").await;
        assert!(answer.starts_with(status), "{from}: {answer}");
    }
}

// T-40: another waypoint is itself, whomever it says that it speaks for.
#[tokio::test(start_paused = true)]
async fn another_waypoint_cannot_speak_for_the_client() {
    let mut way = Way::new().await;
    put(&mut way.store, wire::AUTHZ_POLICY, "a", &allow("client", "10.0.0.1/32"));
    way.store.publish();
    let other = node_as("far", &way.ca, &way.clock, &way.fabric, SocketAddr::new(ip(9), 15008));
    let mut headers = forged();
    headers.insert("forwarded", "for=\"10.0.0.1:40000\"".parse().unwrap());
    assert!(asks(&way.client, headers.clone(), "/").await.starts_with("HTTP/1.1 200 "));
    assert!(asks(&other, headers, "/").await.starts_with("HTTP/1.1 403 "));
}
