//! Tokens of a cluster: what the API server's verdict means, how long it is kept, and who gets which certificate by it
//! (spec/controlplane.md 3.3, 3.4).

use std::sync::Arc;

use k8s_openapi::api::authentication::v1::TokenReviewStatus;
use mesh_identity::impersonate::{Rules, impersonate};
use mesh_identity::token::{AUDIENCE, Minter};
use mesh_runtime::{Publisher, watched};
use serde_json::{Value, json};

use super::*;
use crate::ca::authn::{Authn, Known, Tokens};
use crate::ca::placements::Placements;
use crate::ca::tests::{At, now, placements};
use crate::testing::api_server::ApiServer;
use crate::translate::tests::pod;

const REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

/// What an API server says of the node daemon's token.
fn verdict() -> Value {
    json!({
        "authenticated": true,
        "audiences": ["istio-ca"],
        "user": {
            "username": "system:serviceaccount:istio-system:ztunnel",
            "uid": "u",
            "groups": ["system:serviceaccounts", "system:serviceaccounts:istio-system", "system:authenticated"],
            "extra": {
                "authentication.kubernetes.io/pod-name": ["zt-1"],
                "authentication.kubernetes.io/pod-uid": ["uid-zt-1"],
                "authentication.kubernetes.io/node-name": ["n1"],
                "authentication.kubernetes.io/node-uid": ["uid-n1"],
            },
        },
    })
}

struct Case {
    server: ApiServer,
    minter: Minter,
    authn: Authn,
    placements: Publisher<Placements>,
}

fn case(yaml: &str) -> Case {
    let server = ApiServer::new();
    let (publisher, placed) = watched(placements(yaml));
    let authn = Authn {
        tokens: Tokens::Cluster(Reviews::new(server.client(), AUDIENCE)),
        cluster_id: "Kubernetes".into(),
        rules: Rules::parse("istio-system/ztunnel", "cluster.local").unwrap(),
        machines: vec![],
        placements: placed,
        clock: Arc::new(At(now())),
    };
    Case { server, minter: Minter::generate("https://kubernetes.default.svc").unwrap(), authn, placements: publisher }
}

impl Case {
    /// A token that the API server knows with this verdict.
    fn token(&self, verdict: Value, life: Duration) -> String {
        let object = |name: &str| ObjectRef { name: name.into(), uid: name.into() };
        let subject = Subject { namespace: "istio-system".into(), service_account: object("ztunnel"), pod: None, node: None };
        let token = self.minter.mint(&subject, AUDIENCE, life, now()).unwrap();
        self.server.know_token(&token, verdict);
        token
    }

    async fn known(&self, token: &str) -> Result<Known, String> {
        self.authn.token(token, Some("Kubernetes")).await.map_err(|Unknown(why)| why)
    }

    async fn ask(&self, token: &str, account: &str) -> String {
        let known = match self.known(token).await {
            Ok(known) => known,
            Err(why) => return why,
        };
        let wanted = format!("spiffe://cluster.local/ns/shop/sa/{account}");
        let answer = self.authn.placements.with(|placements| impersonate(&known.caller, &wanted, &self.authn.rules, placements));
        answer.map_or_else(|refused| refused.to_string(), |_| "yes".into())
    }
}

fn daemon() -> String {
    pod("istio-system", "zt-1", "10.0.0.1", "").replace("serviceAccountName: zt-1-sa", "serviceAccountName: ztunnel")
}

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn a_verdict_says_who_calls() {
    let read = |verdict: Value| -> Result<Subject, Unknown> {
        let status: TokenReviewStatus = serde_json::from_value(verdict).unwrap();
        subject_of(&status, AUDIENCE)
    };
    let subject = read(verdict()).unwrap();
    assert_eq!((&*subject.namespace, &*subject.service_account.name), ("istio-system", "ztunnel"));
    assert_eq!(subject.pod, Some(ObjectRef { name: "zt-1".into(), uid: "uid-zt-1".into() }));
    assert_eq!(subject.node.unwrap().name, "n1");

    let with = |pointer: &str, value: Value| {
        let mut changed = verdict();
        *changed.pointer_mut(pointer).unwrap() = value;
        changed
    };
    let user = "/user/username";
    let no_user = "the token's user is not system:serviceaccount:NAMESPACE:NAME";
    let table = [
        (with("/authenticated", json!(false)), "the API server does not know the token: no reason given"),
        (json!({ "error": "token expired" }), "the API server does not know the token: token expired"),
        (with("/audiences", json!([])), "the token is not for audience \"istio-ca\""),
        (with("/audiences", json!(["https://kubernetes.default.svc"])), "the token is not for audience \"istio-ca\""),
        (with("/user/groups", json!(["system:authenticated"])), "the token is not of a service account"),
        (with(user, json!("system:serviceaccount:a:b:c")), no_user),
        (with(user, json!("system:serviceaccount:a")), no_user),
        (with(user, json!("system:node:n1")), no_user),
        (with(user, json!("alice")), no_user),
    ];
    for (verdict, why) in table {
        assert_eq!(read(verdict.clone()), Err(Unknown(why.into())), "{verdict}");
    }
    let twice = with("/user/extra/authentication.kubernetes.io~1pod-name", json!(["zt-1", "zt-2"]));
    assert_eq!(read(twice).unwrap().pod, None, "two pods are none");
}

// T-30, and the rows beside it
#[tokio::test]
async fn a_node_gets_certificates_for_its_own_pods_only() {
    let elsewhere = pod("shop", "b", "10.0.0.3", "").replace("nodeName: n1", "nodeName: n2");
    let on = |name: &str, phase: &str| pod("shop", name, "10.0.0.4", "").replace("phase: Running", &format!("phase: {phase}"));
    let unscheduled = pod("shop", "waiting", "10.0.0.5", "").replace("nodeName: n1, ", "");
    let mirror = pod("shop", "mirror", "10.0.0.6", "").replace("namespace: shop,", "namespace: shop, annotations: {kubernetes.io/config.mirror: abc},");
    let both = [pod("shop", "two", "10.0.0.7", ""), elsewhere.replace("name: b", "name: two-b").replace("b-sa", "two-sa")].concat();
    let mesh = [daemon(), pod("shop", "a", "10.0.0.2", ""), elsewhere, on("ended", "Succeeded"), on("failed", "Failed"), on("starting", "Pending"), unscheduled, mirror, both].concat();
    let mut case = case(&mesh);
    let token = case.token(verdict(), HOUR);
    let not_here = |account: &str| format!("no workload of spiffe://cluster.local/ns/shop/sa/{account} runs on node n1");
    let table = [
        ("a-sa", "yes".to_owned()),
        ("starting-sa", "yes".to_owned()),
        ("two-sa", "yes".to_owned()),
        ("b-sa", not_here("b-sa")),
        ("ended-sa", not_here("ended-sa")),
        ("failed-sa", not_here("failed-sa")),
        ("waiting-sa", not_here("waiting-sa")),
        ("nobody", not_here("nobody")),
        // T-31: a node's own credential can make such a pod in any namespace
        ("mirror-sa", not_here("mirror-sa")),
    ];
    for (account, answer) in table {
        assert_eq!(case.ask(&token, account).await, answer, "{account}");
    }
    assert_eq!(case.server.asked("POST", REVIEWS), 1, "one review for all of them");

    // a pod that was deleted a moment ago, though its token is still kept
    case.placements.publish(placements(&daemon()));
    assert_eq!(case.ask(&token, "a-sa").await, not_here("a-sa"));
    // the daemon's own pod is not known yet, or not any more
    case.placements.publish(placements(&pod("shop", "a", "10.0.0.2", "")));
    assert_eq!(case.ask(&token, "a-sa").await, "the caller's pod istio-system/zt-1 is not known (yet)");
    // nor does it get a certificate of its own, or is told anything
    assert_eq!(case.known(&token).await, Err("the caller's pod istio-system/zt-1 is not known (yet)".into()));
}

#[tokio::test]
async fn a_token_must_fit_the_pod_that_is_there() {
    let case = case(&[daemon(), pod("shop", "a", "10.0.0.2", "")].concat());
    let with = |key: &str, value: &str| {
        let mut changed = verdict();
        changed["user"]["extra"][key] = json!([value]);
        changed
    };
    let mut unbound = verdict();
    unbound["user"]["extra"] = json!({});
    let mut other = verdict();
    other["user"]["username"] = json!("system:serviceaccount:istio-system:other");
    let table = [
        (with(POD_UID, "older"), "the token is of an earlier pod istio-system/zt-1"),
        (with(NODE_NAME, "n2"), "pod istio-system/zt-1 is on another node than its token says"),
        (with(POD_NAME, "zt-9"), "the caller's pod istio-system/zt-9 is not known (yet)"),
        (other, "pod istio-system/zt-1 runs as another service account than its token says"),
        (unbound, "the caller's credential is bound to no pod and no node"),
    ];
    for (index, (verdict, answer)) in table.into_iter().enumerate() {
        // Each another token: one that is known is kept.
        let token = case.token(verdict, HOUR - Duration::from_secs(index as u64));
        assert_eq!(case.ask(&token, "a-sa").await, answer);
    }
}

#[tokio::test]
async fn a_token_is_asked_about_once_in_ten_seconds_and_not_past_its_end() {
    tokio::time::pause();
    let case = case(&daemon());
    let token = case.token(verdict(), HOUR);
    let reviews = || case.server.asked("POST", REVIEWS);
    assert_eq!(case.known(&token).await.unwrap().expires, now() + HOUR, "what the token began ends with it");
    case.known(&token).await.unwrap();
    assert_eq!(reviews(), 1);
    tokio::time::advance(KEPT_FOR).await;
    case.server.forget_token(&token);
    assert_eq!(case.known(&token).await, Err("the API server does not know the token: unknown".into()));
    assert_eq!(reviews(), 2);

    // refused without a question
    let table = [
        ("junk".to_owned(), "the token names no end: only tokens that end are taken"),
        ("a".repeat(TOKEN_BYTES_MAX + 1), "the token is longer than 16384 bytes"),
        (case.token(verdict(), Duration::ZERO), "the token has expired"),
    ];
    for (token, why) in table {
        assert_eq!(case.known(&token).await, Err(why.into()));
    }
    let other = case.authn.token(&token, Some("west")).await;
    assert_eq!(other, Err(Unknown("the caller is of cluster \"west\", this is \"Kubernetes\"".into())));
    assert_eq!(reviews(), 2);
}

#[tokio::test]
async fn an_api_server_that_is_down_lets_nobody_in() {
    let case = case(&daemon());
    let token = case.token(verdict(), HOUR);
    case.server.set_down(true);
    let why = case.known(&token).await.unwrap_err();
    assert!(why.starts_with("the API server cannot be asked about the token: "), "{why}");
    case.server.set_down(false);
    case.known(&token).await.unwrap();
}

#[test]
fn what_is_kept_has_a_bound() {
    let status: TokenReviewStatus = serde_json::from_value(verdict()).unwrap();
    let subject = subject_of(&status, AUDIENCE);
    let mut verdicts = Verdicts::default();
    for index in 0..KEPT_MAX * 2 {
        verdicts.settle(&index.to_string().into(), &subject);
    }
    assert_eq!(verdicts.kept.len(), KEPT_MAX);
}

#[tokio::test]
async fn of_two_hundred_that_show_one_token_one_asks() {
    let case = case(&daemon());
    let token = case.token(verdict(), HOUR);
    let all = futures_util::future::join_all((0..200).map(|_| case.known(&token))).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    assert_eq!(case.server.asked("POST", REVIEWS), 1);
    // one that is not good costs no more
    let other = case.token(verdict(), HOUR / 2);
    case.server.forget_token(&other);
    let all = futures_util::future::join_all((0..200).map(|_| case.known(&other))).await;
    assert!(all.iter().all(Result::is_err), "{all:?}");
    assert_eq!(case.server.asked("POST", REVIEWS), 2);
}

/// Nobody answers; the client is asked and asked.
fn silent() -> Client {
    Client::new(tower::service_fn(|_: http::Request<kube::client::Body>| std::future::pending::<Result<http::Response<kube::client::Body>, std::io::Error>>()), "default")
}

// strangers are many before anybody is known, and wait no longer than one review may take
#[tokio::test]
async fn who_waits_for_a_review_has_a_bound_and_an_end() {
    tokio::time::pause();
    let reviews = Reviews::new(silent(), AUDIENCE);
    let minter = Minter::generate("https://kubernetes.default.svc").unwrap();
    let account = |index: usize| ObjectRef { name: format!("a{index}"), uid: "u".into() };
    let token = |index: usize| {
        let subject = Subject { namespace: "shop".into(), service_account: account(index), pod: None, node: None };
        minter.mint(&subject, AUDIENCE, HOUR, now()).unwrap()
    };
    let tokens: Vec<String> = (0..=WAITING_MAX).map(token).collect();
    let began = Instant::now();
    let all = futures_util::future::join_all(tokens.iter().map(|token| reviews.subject(token, now()))).await;
    assert_eq!(began.elapsed().as_secs(), REVIEW_TIMEOUT.as_secs(), "the wait for the others is in it");
    let why = |answer: &Result<_, Unknown>| answer.as_ref().map(|_: &(Subject, SystemTime)| ()).unwrap_err().0.clone();
    assert_eq!(why(&all[WAITING_MAX]), format!("{WAITING_MAX} tokens wait for their review already"));
    assert_eq!(why(&all[WAITING_MAX - 1]), "the API server said nothing about the token within 5s");
    assert!(reviews.reviewer.verdicts.lock().asked.is_empty(), "and nothing is left of them");
    // many with one token
    let all = futures_util::future::join_all((0..=WAITING_MAX).map(|_| reviews.subject(&tokens[0], now()))).await;
    assert_eq!(why(&all[WAITING_MAX]), format!("{WAITING_MAX} callers wait for a review of their token already"));
}

#[tokio::test]
async fn an_answer_that_cannot_be_read_tells_no_log_the_token() {
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);
    impl std::io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let log = Log::default();
    let out = log.clone();
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::INFO).with_writer(move || out.clone()).finish();
    let _here = tracing::subscriber::set_default(subscriber);
    tracing::warn!("the log is heard");
    // A current-thread runtime: the review runs under this log as well.
    let case = case(&daemon());
    let token = case.token(json!("no status"), HOUR);
    case.server.know_token(&token, json!({ "authenticated": token }));
    let why = case.known(&token).await.unwrap_err();
    assert!(why.starts_with("the API server cannot be asked about the token: its answer cannot be read (line "), "{why}");
    let log = String::from_utf8(log.0.lock().clone()).unwrap();
    assert!(log.contains("the log is heard") && !log.contains(&token) && !why.contains(&token), "{log}");
}
