//! Requests over endpoints in memory that are slow, dead, flaky or not there (spec/waypoint.md 11, rows 11 and 17).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::StatusCode;
use mesh_model::address::NamespacedHostname;
use mesh_model::fixture::parse;
use mesh_model::identity::SpiffeId;
use mesh_xds::messages::waypoint as wire;
use mesh_xds::world::Edit;

use super::*;
use crate::choose::{Backend, BackendKey, Kind, Members, compile};
use crate::testing::{Endpoints, arrival, text};
use crate::upstream::{Alpn, Own};

struct Site {
    endpoints: Arc<Endpoints>,
    exchange: Exchange,
    reach: Reach,
    backend: Arc<Backend>,
}

/// A request without a body, or with one that can be sent once.
struct Get {
    method: Method,
    once: bool,
    sent: u32,
}

impl Send for Get {
    fn request(&mut self, _to: &Endpoint, attempt: u32) -> Request<Body> {
        self.sent += 1;
        assert_eq!(self.sent, attempt);
        let mut request = Request::new(if self.method == Method::GET { Body::Empty } else { Body::full("text") });
        *request.method_mut() = self.method.clone();
        request.headers_mut().insert("host", http::HeaderValue::from_static("web"));
        request
    }

    fn is_whole(&self) -> bool {
        !self.once
    }

    fn last(&mut self) {}
}

fn site(count: usize, policy: &str) -> Site {
    let nodes: String = (1..=count).map(|n| format!("node b: e{n} 10.0.1.{n} sa=shop/web tcp\n")).collect();
    let names: Vec<String> = (1..=count).map(|n| format!("e{n}")).collect();
    let fixture = parse(&format!("node a: wp 10.0.9.9 sa=shop/wp\n{nodes}service web.shop 10.96.0.1 80 : {}", names.join(" "))).unwrap();
    let (mut writer, world) = mesh_xds::world::world();
    writer.apply(fixture.changes.into_iter().map(Edit::Address));
    let own = Own {
        identity: SpiffeId::new("cluster.local", "shop", "wp"),
        network: "".into(),
        addresses: [[10, 0, 9, 9].into()].into(),
    };
    let key = BackendKey { host: NamespacedHostname::new("shop", "web.shop.svc.cluster.local"), port: 80, subset: "".into() };
    let policy = compile(&serde_saphyr::from_str::<wire::BackendPolicy>(policy).unwrap()).unwrap();
    let endpoints = Arc::<Endpoints>::default();
    // The world stays as it is, whoever writes it.
    std::mem::forget(writer);
    Site {
        exchange: Exchange::new(endpoints.clone()),
        endpoints,
        reach: Reach::new(world, own, now()),
        backend: Arc::new(Backend::new(key, Kind::Workloads, 0, Members::All, policy)),
    }
}

/// What one endpoint does with the requests that it gets.
#[derive(Clone, Copy)]
enum Does {
    Answers(u16),
    /// Answers so to the first ones, then 200.
    AnswersAtFirst(u16, usize),
    /// Takes the request and closes.
    Closes,
    /// Takes the request and says nothing.
    Hangs,
}

impl Site {
    /// What endpoint `en` does; what is not said is not there. Gives the number of requests that it had.
    fn endpoint(&self, n: usize, does: Does) -> Arc<AtomicUsize> {
        let had = Arc::new(AtomicUsize::new(0));
        let counter = had.clone();
        match does {
            Does::Closes => self.endpoints.raw(&id(n), move |mut io| {
                let counter = counter.clone();
                async move {
                    let mut bytes = Vec::new();
                    while !bytes.windows(4).any(|four| four == b"\r\n\r\n") && tokio::io::AsyncReadExt::read_buf(&mut io, &mut bytes).await.is_ok_and(|read| read > 0) {}
                    counter.fetch_add(1, Ordering::SeqCst);
                }
            }),
            _ => self.endpoints.http(&id(n), Version::Http1, move |_| {
                let nth = counter.fetch_add(1, Ordering::SeqCst);
                async move {
                    let status = match does {
                        Does::Answers(status) => status,
                        Does::AnswersAtFirst(status, count) if nth < count => status,
                        Does::AnswersAtFirst(..) => 200,
                        Does::Hangs | Does::Closes => std::future::pending().await,
                    };
                    let mut response = Response::new(Body::full(format!("e{n}")));
                    *response.status_mut() = StatusCode::from_u16(status).unwrap();
                    response
                }
            }),
        }
        had
    }

    async fn get(&self, plan: &Plan) -> Result<Answered, Unanswered> {
        self.send(plan, Method::GET, false, None).await
    }

    async fn send(&self, plan: &Plan, method: Method, once: bool, within: Option<Duration>) -> Result<Answered, Unanswered> {
        let (arrival, destination) = (arrival(), self.reach.backends.destination(&self.backend.key));
        let attempts = Attempts {
            reach: &self.reach,
            exchange: &self.exchange,
            errand: Errand {
                backend: &self.backend,
                destination: &destination,
                arrival: &arrival,
                host: None,
                hash: None,
                wanted: None,
                from_client: false,
                connect_timeout: Duration::from_secs(10),
                alpn: Alpn::None,
            },
            version: Version::Http1,
            plan,
            method: &method,
            grpc: false,
            deadline: within.map(|within| Instant::now() + within),
        };
        run(&attempts, &mut Get { method: method.clone(), once, sent: 0 }).await
    }

    fn destination(&self) -> Arc<choose::Destination> {
        self.reach.backends.destination(&self.backend.key)
    }
}

fn id(n: usize) -> String {
    parse(&format!("node b: e{n} 10.0.1.{n} sa=shop/web")).unwrap().workload(&format!("e{n}")).uid.0.to_string()
}

fn plan(yaml: &str) -> Plan {
    let policy = serde_saphyr::from_str::<wire::RetryPolicy>(yaml).unwrap();
    Plan::of(Some(&policy), true, &wire::MeshSettings::default())
}

fn status(answered: &Result<Answered, Unanswered>) -> u16 {
    match answered {
        Ok(answered) => answered.response.status().as_u16(),
        Err(unanswered) => unanswered.reason.status().as_u16(),
    }
}

const RETRY: &str = "{attempts: 3, on: [retriable-status-codes, connect-failure, attempt-timeout, reset], codes: [503], perTryTimeoutMs: 100}";

#[tokio::test(start_paused = true)]
async fn a_dead_a_slow_and_a_broken_endpoint_are_not_noticed() {
    let site = site(4, "{retryBudget: {minConcurrency: 50}}");
    let had = [site.endpoint(1, Does::Answers(200)), site.endpoint(2, Does::Hangs), site.endpoint(3, Does::Closes)];
    let mut attempts = BTreeMap::new();
    for _ in 0..100 {
        let answered = site.get(&plan(RETRY)).await.unwrap();
        *attempts.entry(answered.from.attempts).or_insert(0) += 1;
        assert_eq!(answered.from.endpoint.id.as_ref(), id(1));
        assert_eq!(text(answered.response).await, "e1");
    }
    // The dead one is asked again when it has been left out for a while: four attempts are rare.
    assert!((1..=3).all(|count| attempts.contains_key(&count)), "{attempts:?}");
    assert!(had.iter().all(|had| had.load(Ordering::SeqCst) > 10));
    assert_eq!(site.destination().active(), 0);
}

// spec/waypoint.md 2.6: `attempts` are retries, and the last status is the client's.
#[tokio::test(start_paused = true)]
async fn attempts_are_retries_and_the_last_answer_is_passed_on() {
    for (failures, expected, requests, flags) in [(2, 200, 3, "-"), (3, 200, 4, "-"), (4, 503, 4, "URX")] {
        let site = site(1, "{}");
        let had = site.endpoint(1, Does::AnswersAtFirst(503, failures));
        let answered = site.get(&plan(RETRY)).await;
        assert_eq!((status(&answered), had.load(Ordering::SeqCst)), (expected, requests), "{failures}");
        let answered = answered.unwrap();
        assert_eq!((answered.from.attempts as usize, answered.from.flags.to_string()), (requests, flags.to_owned()));
    }
    let site = site(1, "{}");
    let had = site.endpoint(1, Does::Answers(500));
    assert_eq!((status(&site.get(&plan(RETRY)).await), had.load(Ordering::SeqCst)), (500, 1), "500 is not in the list");
    let had = site.endpoint(1, Does::Answers(503));
    let once = site.send(&plan(RETRY), Method::GET, true, None).await;
    assert_eq!((status(&once), had.load(Ordering::SeqCst)), (503, 1), "the body is gone");
}

// A server may close a kept connection in the moment in which the next request is on its way: by default nobody who may ask
// again notices it, with a route or without one.
#[tokio::test(start_paused = true)]
async fn a_kept_connection_that_ends_under_a_request_costs_only_those_that_may_not_be_asked_twice() {
    for routed in [true, false] {
        let site = site(1, "{}");
        site.endpoints.raw(&id(1), |mut io| async move {
            // One answer for each connection; the next request is read, and the connection closed.
            for answer in [&b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"[..], b""] {
                let mut bytes = Vec::new();
                while !bytes.windows(4).any(|four| four == b"\r\n\r\n") && tokio::io::AsyncReadExt::read_buf(&mut io, &mut bytes).await.is_ok_and(|read| read > 0) {}
                let _ = tokio::io::AsyncWriteExt::write_all(&mut io, answer).await;
            }
        });
        let plan = Plan::of(None, routed, &wire::MeshSettings::default());
        for (method, attempts) in [(Method::GET, Ok(1)), (Method::GET, Ok(2)), (Method::POST, Err(503)), (Method::GET, Ok(1))] {
            let answered = site.send(&plan, method.clone(), false, None).await;
            let status = status(&answered);
            let made = answered.as_ref().map(|answered| answered.from.attempts).map_err(|_| status);
            assert_eq!(made, attempts, "{method} routed={routed}");
            if let Ok(answered) = answered {
                assert_eq!(text(answered.response).await, "ok");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_there() {
    let none = site(0, "{}").get(&plan(RETRY)).await.unwrap_err();
    assert_eq!((none.reason.status().as_u16(), none.reason.words().flags.to_string(), none.attempts), (503, "UH".into(), 1));
    let site = site(2, "{}");
    let dead = site.get(&plan(RETRY)).await.unwrap_err();
    assert_eq!((dead.reason.status().as_u16(), dead.attempts, dead.flags.to_string()), (503, 4, "URX".into()));
    assert!(dead.endpoint.is_some());
    let without = site.get(&Plan::NONE).await.unwrap_err();
    assert_eq!((without.attempts, without.flags.to_string()), (1, "-".into()));
}

#[tokio::test(start_paused = true)]
async fn the_requests_own_time_ends_all_attempts() {
    let site = site(2, "{}");
    let had = [site.endpoint(1, Does::Hangs), site.endpoint(2, Does::Hangs)];
    let began = Instant::now();
    let late = site.send(&plan(RETRY), Method::GET, false, Some(Duration::from_millis(250))).await.unwrap_err();
    assert_eq!(late.reason.status(), StatusCode::GATEWAY_TIMEOUT);
    assert!(began.elapsed() <= Duration::from_millis(251), "{:?}", began.elapsed());
    assert!(had.iter().map(|had| had.load(Ordering::SeqCst)).sum::<usize>() >= 2);
    // Without a time of the request's own it ends when the tries are used up.
    let tried = site.get(&plan(RETRY)).await.unwrap_err();
    assert_eq!((tried.reason.status(), tried.attempts), (StatusCode::GATEWAY_TIMEOUT, 4));
}

#[tokio::test(start_paused = true)]
async fn what_may_have_had_an_effect_is_not_done_twice() {
    let (site, careful) = (site(2, "{}"), plan("{attempts: 3, on: [gateway-error]}"));
    let had = [site.endpoint(1, Does::Closes), site.endpoint(2, Does::Closes)];
    let count = || had.iter().map(|had| had.load(Ordering::SeqCst)).sum::<usize>();
    assert_eq!(status(&site.send(&careful, Method::POST, false, None).await), 503);
    assert_eq!(count(), 1);
    assert_eq!(status(&site.send(&careful, Method::GET, false, None).await), 503);
    assert_eq!(count(), 5);
}

#[tokio::test(start_paused = true)]
async fn endpoints_that_fail_go_out_and_too_many_requests_are_turned_away() {
    let site = site(4, "{outlier: {consecutive5xx: 3, maxEjectionPercent: 50}, pool: {maxRequests: 3}}");
    let broken = site.endpoint(1, Does::Answers(503));
    for n in 2..=4 {
        site.endpoint(n, Does::Answers(200));
    }
    for _ in 0..100 {
        assert_eq!(status(&site.get(&plan(RETRY)).await), 200);
    }
    assert_eq!((broken.load(Ordering::SeqCst), site.destination().ejected()), (3, 1));
    let held = [site.get(&plan(RETRY)).await.unwrap(), site.get(&plan(RETRY)).await.unwrap(), site.get(&plan(RETRY)).await.unwrap()];
    assert_eq!(site.destination().active(), 3, "until the body has been read");
    let over = site.get(&plan(RETRY)).await.unwrap_err();
    assert_eq!((over.reason.status().as_u16(), over.reason.words().flags.to_string()), (503, "UO".into()));
    drop(held);
    assert_eq!(status(&site.get(&plan(RETRY)).await), 200);
}

#[tokio::test(start_paused = true)]
async fn requests_wait_for_a_connection_in_their_order_and_not_too_many() {
    let site = Arc::new(site(1, "{pool: {maxConnections: 1, maxPendingRequests: 2}}"));
    let most = Arc::new(AtomicUsize::new(0));
    let (now, seen) = (Arc::new(AtomicUsize::new(0)), most.clone());
    site.endpoints.http(&id(1), Version::Http1, move |_| {
        let (now, seen) = (now.clone(), seen.clone());
        async move {
            seen.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            sleep(Duration::from_secs(1)).await;
            now.fetch_sub(1, Ordering::SeqCst);
            Response::new(Body::Empty)
        }
    });
    let one = || {
        let site = site.clone();
        tokio::spawn(async move { status(&site.get(&Plan::NONE).await) })
    };
    let mut all = Vec::new();
    for request in [one(), one(), one(), one(), one()] {
        all.push(request.await.unwrap());
    }
    all.sort_unstable();
    assert_eq!((all, most.load(Ordering::SeqCst)), (vec![200, 200, 200, 503, 503], 1));
    // One that leaves while it waits holds nobody up.
    let first = one();
    let left = site.send(&Plan::NONE, Method::GET, false, Some(Duration::from_millis(100))).await;
    assert_eq!(status(&left), 504);
    assert_eq!((first.await.unwrap(), status(&site.get(&Plan::NONE).await)), (200, 200));
}
