use std::sync::atomic::Ordering::SeqCst;

use mesh_model::workload::Workload;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use tonic::Code;
use tower::Service;

use super::*;
use crate::catalog::{CatalogWriter, Update, catalog};
use crate::client::ztunnel_node;
use crate::messages::discovery::Node;
use crate::messages::{ADDRESS, AUTHORIZATION};
use crate::testing::{Network, Raw, Tokens, Wire, ads, config, raw, run};

fn a_workload(uid: &str, ip: &str) -> Update {
    let mut workload = Workload::named(uid, "shop", uid);
    workload.addresses = vec![ip.parse().unwrap()];
    Update::workload(&workload)
}

fn first(node: &str) -> DeltaDiscoveryRequest {
    let node = ztunnel_node("ztunnel-x", "istio-system", node, None, []);
    DeltaDiscoveryRequest { node: Some(node), type_url: ADDRESS.into(), ..Default::default() }
}

fn controller(limits: ServerLimits) -> (CatalogWriter, Ads, Network, CancellationToken) {
    let (mut writer, watched) = catalog();
    writer.apply([a_workload("w1", "10.0.0.1")]);
    writer.mark_ready();
    let stop = CancellationToken::new();
    let (ads, network) = ads(watched, limits, stop.clone());
    (writer, ads, network, stop)
}

async fn code(network: &Network, token: &str, request: DeltaDiscoveryRequest) -> Code {
    match raw(network, token, Some(request)).await {
        Err(status) => status.code(),
        Ok(mut raw) => match raw.responses.message().await {
            Err(status) => status.code(),
            Ok(_) => Code::Ok,
        },
    }
}

async fn hear(raw: &mut Raw) -> DeltaDiscoveryResponse {
    raw.responses.message().await.unwrap().expect("a response")
}

#[tokio::test(start_paused = true)]
async fn who_may_open_a_stream() {
    let (_writer, ads, network, _stop) = controller(ServerLimits::default());
    let with = |key: &str, text: &str| {
        let mut request = first("node-a");
        let value = Value { kind: Some(Kind::StringValue(text.to_owned())) };
        let metadata: &mut Struct = request.node.as_mut().unwrap().metadata.as_mut().unwrap();
        metadata.fields.insert(key.to_owned(), value);
        request
    };
    let unnamed = DeltaDiscoveryRequest { node: Some(Node::default()), ..first("node-a") };
    let by_name = DeltaDiscoveryRequest { resource_names_subscribe: vec!["w1".into()], ..first("node-a") };
    let table = [
        ("", first("node-a"), Code::Unauthenticated),
        ("junk", first("node-a"), Code::Unauthenticated),
        ("ztunnel node-a", first("node-a"), Code::Ok),
        ("ztunnel node-a", first("node-b"), Code::PermissionDenied),
        ("ztunnel node-a", with("NAMESPACE", "shop"), Code::PermissionDenied),
        ("ztunnel node-a", with("SERVICE_ACCOUNT", "admin"), Code::PermissionDenied),
        ("ztunnel node-a", unnamed, Code::PermissionDenied),
        ("waypoint -", first("node-a"), Code::PermissionDenied),
        ("waypoint -", by_name, Code::Ok),
    ];
    for (token, request, expected) in table {
        assert_eq!(code(&network, token, request.clone()).await, expected, "{token:?} {request:?}");
    }
    let counters = ads.counters();
    assert_eq!(counters.unauthenticated.load(SeqCst), 2);
    assert_eq!(counters.claims_refused.load(SeqCst), 4);
    assert_eq!(counters.subscriptions_refused.load(SeqCst), 1, "all addresses are for the node daemon");
}

#[tokio::test(start_paused = true)]
async fn the_stream_ends_when_its_token_expires() {
    let (_writer, ads, network, _stop) = controller(ServerLimits::default());
    let begun = Instant::now();
    let mut raw = raw(&network, "ztunnel node-a 90", Some(first("node-a"))).await.unwrap();
    assert_eq!(hear(&mut raw).await.resources.len(), 1);
    assert_eq!(ads.clients().len(), 1);
    let status = raw.responses.message().await.unwrap_err();
    assert_eq!((status.code(), begun.elapsed().as_secs()), (Code::Unauthenticated, 90));
    assert!(ads.clients().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_catalog_that_is_not_ready_is_not_told() {
    let (mut writer, watched) = catalog();
    let (ads, network) = ads(watched, ServerLimits::default(), CancellationToken::new());
    assert_eq!(code(&network, "ztunnel node-a", first("node-a")).await, Code::Unavailable);
    let (world, _) = run(&network, config(false));
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!((world.version(), ads.counters().streams.load(SeqCst)), (0, 0), "an empty answer would mean: there is nothing");
    writer.apply([a_workload("w1", "10.0.0.1")]);
    writer.mark_ready();
    world.clone().wait_for(|world| world.synced.addresses && world.directory.workload_count() == 1).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn streams_end_in_order_when_the_controller_stops() {
    let (_writer, ads, network, stop) = controller(ServerLimits::default());
    let mut raw = raw(&network, "ztunnel node-a", Some(first("node-a"))).await.unwrap();
    hear(&mut raw).await;
    stop.cancel();
    assert_eq!(raw.responses.message().await.unwrap_err().code(), Code::Unavailable);
    assert!(ads.clients().is_empty());
}

#[tokio::test(start_paused = true)]
async fn streams_are_bounded_and_places_come_back() {
    let (_writer, ads, network, _stop) = controller(ServerLimits { streams_max: 2, ..ServerLimits::default() });
    let mut one = raw(&network, "ztunnel node-a", Some(first("node-a"))).await.unwrap();
    let mut two = raw(&network, "ztunnel node-a", Some(first("node-a"))).await.unwrap();
    hear(&mut one).await;
    hear(&mut two).await;
    assert_eq!(code(&network, "ztunnel node-a", first("node-a")).await, Code::ResourceExhausted);
    assert_eq!(ads.counters().over_limit.load(SeqCst), 1);
    drop(one);
    while ads.clients().len() > 1 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(code(&network, "ztunnel node-a", first("node-a")).await, Code::Ok);
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_loses_its_place() {
    let (_writer, _ads, network, _stop) = controller(ServerLimits::default());
    let begun = Instant::now();
    let mut silent = raw(&network, "ztunnel node-a", None).await.unwrap();
    assert_eq!(silent.responses.message().await.unwrap_err().code(), Code::DeadlineExceeded);
    assert_eq!(begun.elapsed(), FIRST_REQUEST);
}

#[tokio::test(start_paused = true)]
async fn what_a_client_sends_is_bounded_by_who_it_is() {
    let limits = ServerLimits { request_bytes_max: 1 << 20, other_request_bytes_max: 10_000, ..ServerLimits::default() };
    let (_writer, _ads, network, _stop) = controller(limits);
    let claims = |count: usize| {
        let versions = (0..count).map(|i| (format!("name-{i}"), "0123456789abcdef".to_owned())).collect();
        DeltaDiscoveryRequest { initial_resource_versions: versions, ..first("node-a") }
    };
    let named = |count: usize| DeltaDiscoveryRequest { resource_names_subscribe: vec!["w1".into()], ..claims(count) };
    assert_eq!(code(&network, "ztunnel node-a", claims(10_000)).await, Code::Ok, "a reconnect lists every name");
    assert_eq!(code(&network, "ztunnel node-a", claims(100_000)).await, Code::OutOfRange);
    assert_eq!(code(&network, "waypoint -", named(100)).await, Code::Ok);
    assert_eq!(code(&network, "waypoint -", named(10_000)).await, Code::OutOfRange);
}

// A client that does not read costs its window and two messages, and is told the latest state when it reads again.
#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_piles_nothing_up() {
    let (mut writer, ads, network, _stop) = controller(ServerLimits::default());
    let mut raw = raw(&network, "ztunnel node-a", Some(first("node-a"))).await.unwrap();
    hear(&mut raw).await;
    network.set(Wire::Held);
    for round in 0..5_000 {
        writer.apply([a_workload("w1", &format!("10.0.{}.{}", round >> 8, round & 255))]);
        tokio::task::yield_now().await;
    }
    // Within the ping's patience.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let while_held = ads.counters().responses.load(SeqCst);
    network.set(Wire::Open);
    let last = a_workload("w1", &format!("10.0.{}.{}", 4_999 >> 8, 4_999 & 255));
    let Update::Put(_, last) = last else { unreachable!() };
    loop {
        let response = hear(&mut raw).await;
        if response.resources.last().is_some_and(|resource| *resource.version == *last.version) {
            break;
        }
    }
    let afterwards = ads.counters().responses.load(SeqCst) - while_held;
    // What fits into windows and pipes was sent one by one; the rest was joined.
    assert!(while_held < 4_000, "{while_held} responses went into a wire that is held");
    assert!(afterwards <= 5, "{afterwards} responses for what had piled up");
}

#[tokio::test(start_paused = true)]
async fn many_nodes_that_come_back_at_once_are_all_served() {
    let (_writer, ads, network, _stop) = controller(ServerLimits { first_answers_at_once: 2, ..ServerLimits::default() });
    let nodes: Vec<_> = (0..200)
        .map(|i| {
            let network = network.clone();
            tokio::spawn(async move {
                let mut raw = raw(&network, &format!("ztunnel node-{i}"), Some(first(&format!("node-{i}")))).await.unwrap();
                let answer = hear(&mut raw).await;
                (answer.resources.len(), answer.nonce)
            })
        })
        .collect();
    let mut nonces = std::collections::BTreeSet::new();
    for node in nodes {
        let (resources, nonce) = node.await.unwrap();
        assert_eq!(resources, 1);
        nonces.insert(nonce);
    }
    assert_eq!((nonces.len(), ads.counters().streams.load(SeqCst)), (200, 200), "each stream has nonces of its own");
}

#[tokio::test(start_paused = true)]
async fn two_types_on_one_stream_and_a_push_in_order() {
    let (mut writer, ads, network, _stop) = controller(ServerLimits::default());
    let mut raw = raw(&network, "ztunnel node-a", Some(first("node-a"))).await.unwrap();
    raw.requests.send(DeltaDiscoveryRequest { type_url: AUTHORIZATION.into(), ..Default::default() }).await.unwrap();
    assert_eq!([hear(&mut raw).await.type_url, hear(&mut raw).await.type_url], [ADDRESS, AUTHORIZATION]);
    let policy = mesh_policy::Policy::new("shop", "p", mesh_policy::Scope::WorkloadSelector, mesh_policy::Action::Deny);
    writer.apply([a_workload("w2", "10.0.0.2"), Update::policy(&policy.key(), &policy)]);
    let told = [hear(&mut raw).await, hear(&mut raw).await];
    assert_eq!([&*told[0].resources[0].name, &*told[1].resources[0].name], ["shop/p", "w2"], "the policy first");
    let ack = DeltaDiscoveryRequest { type_url: ADDRESS.into(), response_nonce: told[1].nonce.clone(), ..Default::default() };
    raw.requests.send(ack).await.unwrap();
    while ads.clients()[0].types[ADDRESS].acked != told[1].nonce {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(ads.clients()[0].types[ADDRESS].version, 2);
}

#[tokio::test]
async fn other_methods_are_the_other_service_s() {
    #[derive(Clone)]
    struct Other;
    impl Service<http::Request<tonic::body::Body>> for Other {
        type Response = http::Response<tonic::body::Body>;
        type Error = Infallible;
        type Future = std::future::Ready<Result<Self::Response, Infallible>>;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }
        fn call(&mut self, _: http::Request<tonic::body::Body>) -> Self::Future {
            std::future::ready(Ok(http::Response::builder().header("who", "other").body(tonic::body::Body::empty()).unwrap()))
        }
    }
    let (mut writer, watched) = catalog();
    writer.mark_ready();
    let ads = Ads::new(watched, Tokens, ServerLimits::default(), 1, CancellationToken::new());
    let ask = |path: &str| http::Request::builder().uri(path).body(tonic::body::Body::empty()).unwrap();
    let mut both = ads.clone().beside(Other);
    let answer = both.call(ask("/istio.v1.auth.IstioCertificateService/CreateCertificate")).await.unwrap();
    assert_eq!(answer.headers()["who"], "other");
    let answer = both.call(ask(DELTA_METHOD)).await.unwrap();
    assert_eq!(answer.headers()["grpc-status"], "16", "no token");
    let mut alone = ads;
    let answer = alone.call(ask("/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources")).await.unwrap();
    assert_eq!(answer.headers()["grpc-status"], "12", "the state-of-the-world method is not served");
}

#[tokio::test(start_paused = true)]
async fn what_is_sent_is_measured_and_a_push_knows_how_old_its_change_is() {
    struct Told(mpsc::UnboundedSender<(usize, Option<Duration>)>);
    impl Measure for Told {
        fn sent(&self, sent: Sent<'_>) {
            assert_eq!(sent.type_url, ADDRESS);
            let _ = self.0.send((sent.bytes, sent.behind));
        }
    }
    let (mut writer, ads, network, _stop) = controller(ServerLimits::default());
    let (sender, mut told) = mpsc::unbounded_channel();
    ads.measured_by(Told(sender));
    let mut raw = raw(&network, "ztunnel node-a", Some(first("node-a"))).await.unwrap();
    let answer = hear(&mut raw).await;
    assert_eq!(told.recv().await, Some((answer.encoded_len(), None)), "an answer is behind nothing");
    writer.apply([a_workload("w2", "10.0.0.2")]);
    let push = hear(&mut raw).await;
    assert_eq!(told.recv().await, Some((push.encoded_len(), Some(Duration::ZERO))));
    // Two changes in one push: it is as late as the first.
    writer.apply([a_workload("w3", "10.0.0.3")]);
    tokio::time::advance(Duration::from_secs(3)).await;
    writer.apply([a_workload("w4", "10.0.0.4")]);
    while let Some((_, behind)) = told.recv().await {
        if behind == Some(Duration::from_secs(3)) {
            return;
        }
    }
}
