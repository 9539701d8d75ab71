//! What is open when policy changes (spec/dataplane.md 6.6).

use tokio::time::Instant as Now;

use super::*;

/// For everybody.
fn policy(action: wire::AuthzAction, kind: wire::TargetKind) -> wire::AuthzPolicy {
    let targets = vec![wire::Target { kind: Some(kind) }];
    wire::AuthzPolicy { targets, action: action as i32, rules: vec![wire::AuthzRule::default()], ..Default::default() }
}

fn service(name: &str) -> wire::TargetKind {
    wire::TargetKind::Service(wire::ServiceTarget { host: Some(host(name)), ..Default::default() })
}

fn gateway() -> wire::TargetKind {
    wire::TargetKind::Gateway(wire::GatewayTarget { namespace: "shop".into(), name: "wp".into() })
}

/// A stream that has carried a byte each way.
async fn begun(way: &Way, to: &str) -> Tunnel {
    let mut tunnel = way.open(to).await.unwrap();
    tunnel.write_all(b"\0x").await.unwrap();
    tunnel.read_exact(&mut [0; 2]).await.unwrap();
    tunnel
}

async fn lives(tunnel: &mut Tunnel) {
    tunnel.write_all(b"y").await.unwrap();
    tunnel.read_exact(&mut [0; 1]).await.unwrap();
}

async fn is_cut(tunnel: &mut Tunnel) {
    let began = Now::now();
    assert_eq!(tunnel.read(&mut [0]).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert!(began.elapsed() < Duration::from_millis(100), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_open_stream_is_cut_when_policy_refuses_it_and_no_other_is() {
    let mut way = Way::new().await;
    bind(&mut way.store, "late", 80);
    way.store.publish();
    let (mut web, mut late, mut pod) = (begun(&way, "10.96.0.1:80").await, begun(&way, "10.96.0.4:80").await, begun(&way, "10.0.0.2:8080").await);
    put(&mut way.store, wire::AUTHZ_POLICY, "a", &policy(wire::AuthzAction::Deny, service("late")));
    way.store.publish();
    is_cut(&mut late).await;
    put(&mut way.store, wire::AUTHZ_POLICY, "b", &policy(wire::AuthzAction::Allow, service("web")));
    way.store.publish();
    lives(&mut web).await;
    lives(&mut pod).await;
    put(&mut way.store, wire::AUTHZ_POLICY, "c", &policy(wire::AuthzAction::Deny, gateway()));
    way.store.publish();
    is_cut(&mut web).await;
    is_cut(&mut pod).await;
    assert!(way.proxy.http.permits.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_stream_outlives_the_end_of_its_binding() {
    let mut way = Way::new().await;
    let mut web = begun(&way, "10.96.0.1:80").await;
    unbind(&mut way.store, "web", 80);
    tokio::time::sleep(Duration::from_secs(60)).await;
    lives(&mut web).await;
}
