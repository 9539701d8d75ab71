//! Services that are bound and unbound while tunnels come: who hears of it first must not matter (spec/waypoint.md 11 row 24).

use super::*;

/// A policy for the service `name`.
fn deny(name: &str) -> wire::AuthzPolicy {
    let target = wire::TargetKind::Service(wire::ServiceTarget { host: Some(host(name)), ..Default::default() });
    wire::AuthzPolicy {
        targets: vec![wire::Target { kind: Some(target) }],
        action: wire::AuthzAction::Deny as i32,
        rules: vec![wire::AuthzRule::default()],
        ..Default::default()
    }
}

impl Way {
    async fn echoes(&self, to: &str) {
        let mut tunnel = self.open(to).await.unwrap();
        tunnel.write_all(b"\0x").await.unwrap();
        tunnel.read_exact(&mut [0; 2]).await.unwrap();
    }

    async fn resets(&self, to: &str) {
        let mut tunnel = self.open(to).await.unwrap();
        tunnel.write_all(b"\0x").await.unwrap();
        assert_eq!(tunnel.read(&mut [0]).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset, "{to}");
    }

    fn awaited(&self, outcome: &'static str) -> bool {
        let text = String::from_utf8(self.proxy.books.expose(None, None).body).unwrap();
        text.contains(&format!("waypoint_bindings_awaited_total{{outcome=\"{outcome}\"}} 1"))
    }
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_for_what_is_not_bound_yet_waits_for_that() {
    let mut way = Way::new().await;
    let began = tokio::time::Instant::now();
    assert_eq!(way.refusal("10.96.0.4:80").await, 403);
    let took = began.elapsed();
    assert!((500..600).contains(&took.as_millis()) && way.awaited("refused"), "{took:?}");

    let waiting = async {
        let tunnel = way.client.open(&(), &ConnectRequest { to: "10.96.0.4:80".parse().unwrap(), headers: HeaderMap::new() }).await;
        tunnel.unwrap().0
    };
    let store = &mut way.store;
    let proxy = &way.proxy;
    let binding = async {
        // Until it waits: the network takes its time.
        while proxy.waiting.requests() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // What is another's wakes it in vain.
        bind(store, "old", 80);
        store.publish();
        bind(store, "late", 80);
        store.publish();
    };
    let (mut tunnel, ()) = tokio::join!(waiting, binding);
    tunnel.write_all(b"\0x").await.unwrap();
    tunnel.read_exact(&mut [0; 2]).await.unwrap();
    assert!(way.awaited("bound") && way.proxy.waiting.requests() == 0);
}

#[tokio::test(start_paused = true)]
async fn those_that_wait_are_bounded() {
    let way = Way::new().await;
    let began = tokio::time::Instant::now();
    let refused = join_all((0..=WAITING_PER_CLIENT_MAX).map(|_| way.refusal("10.96.0.4:80"))).await;
    assert!(refused.iter().all(|status| *status == 403));
    assert!(way.awaited("crowded"), "one of them did not wait");
    assert!(began.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn what_was_unbound_a_moment_ago_is_served_with_its_policies() {
    let mut way = Way::new().await;
    bind(&mut way.store, "late", 80);
    put(&mut way.store, wire::AUTHZ_POLICY, "shop/late", &deny("late"));
    way.store.publish();
    way.echoes("10.96.0.1:80").await;
    way.resets("10.96.0.4:80").await;
    unbind(&mut way.store, "web", 80);
    unbind(&mut way.store, "late", 80);
    way.store.take(wire::AUTHZ_POLICY, "shop/late", None).unwrap();
    way.store.publish();
    way.echoes("10.96.0.1:80").await;
    way.resets("10.96.0.4:80").await;
    // A policy that comes now is the newer word.
    put(&mut way.store, wire::AUTHZ_POLICY, "shop/web", &deny("web"));
    way.store.publish();
    assert_eq!(way.refusal("10.96.0.1:80").await, 404);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(way.refusal("10.96.0.4:80").await, 403);
}

#[tokio::test(start_paused = true)]
async fn connections_of_a_service_that_is_unbound_are_left_by_their_clients() {
    let mut way = Way::new().await;
    let mut tunnel = way.open("10.96.0.1:80").await.unwrap();
    let ask = b"GET /a HTTP/1.1\r\nhost: web.shop\r\n\r\n";
    let mut answer = [0; 1024];
    tunnel.write_all(ask).await.unwrap();
    let read = tunnel.read(&mut answer).await.unwrap();
    assert!(!String::from_utf8_lossy(&answer[..read]).contains("connection: close"));
    unbind(&mut way.store, "web", 80);
    tunnel.write_all(ask).await.unwrap();
    let answer = said(&mut tunnel).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("connection: close") && answer.ends_with("GET /a"), "{answer}");
}
