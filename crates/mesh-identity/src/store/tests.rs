use super::*;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures_util::future::{BoxFuture, join_all};

use crate::authority::{LocalAuthority, SignFailure};
use crate::sign::{Ca, Lifetimes};
use crate::testing::{DAY, HOUR, TokioClock, id};

/// An authority that takes its time, counts, and can be away.
struct Slow {
    real: LocalAuthority,
    takes: Duration,
    away: AtomicBool,
    calls: Mutex<BTreeMap<SpiffeId, usize>>,
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Slow {
    fn calls(&self) -> usize {
        self.calls.lock().values().sum()
    }
}

impl Authority for Slow {
    fn sign<'a>(&'a self, csr: String, identity: &'a SpiffeId, lifetime: Duration) -> BoxFuture<'a, Result<Vec<String>, SignFailure>> {
        Box::pin(async move {
            *self.calls.lock().entry(identity.clone()).or_default() += 1;
            let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(now, Ordering::SeqCst);
            tokio::time::sleep(self.takes).await;
            self.now.fetch_sub(1, Ordering::SeqCst);
            if self.away.load(Ordering::SeqCst) {
                return Err(SignFailure::Unreachable("nobody there".to_owned()));
            }
            self.real.sign(csr, identity, lifetime).await
        })
    }
}

struct Bench {
    authority: Arc<Slow>,
    credentials: Credentials,
    clock: Arc<TokioClock>,
    runner: tokio::task::JoinHandle<()>,
}

fn bench(lifetime: Duration) -> Bench {
    let clock = TokioClock::new();
    let lifetimes = Lifetimes { default: DAY, max: 400 * DAY };
    let ca = Arc::new(Ca::self_signed("td", 3650 * DAY, lifetimes, clock.now()).unwrap());
    let authority = Arc::new(Slow {
        real: LocalAuthority::new(ca, clock.clone()),
        takes: Duration::from_millis(100),
        away: AtomicBool::new(false),
        calls: Mutex::default(),
        now: AtomicUsize::new(0),
        most: AtomicUsize::new(0),
    });
    let credentials = Credentials::new(authority.clone(), clock.clone(), lifetime, 7);
    let runner = tokio::spawn(credentials.clone().run());
    Bench { authority, credentials, clock, runner }
}

async fn sleep(time: Duration) {
    tokio::time::sleep(time).await;
}

// Z-030, Z-028
#[tokio::test(start_paused = true)]
async fn many_readers_cost_one_request() {
    let bench = bench(DAY);
    let wanted = id("shop", "cart");
    let all = join_all((0..1000).map(|_| bench.credentials.get(&wanted))).await;
    let first = all[0].clone().unwrap();
    assert_eq!(first.identity(), &wanted);
    assert!(all.iter().all(|one| Arc::ptr_eq(one.as_ref().unwrap(), &first)));
    assert_eq!(bench.authority.calls(), 1);
}

// Z-036, Z-033, Z-034
#[tokio::test(start_paused = true)]
async fn prefetched_identities_are_ready_and_at_most_eight_are_asked_for_at_once() {
    let bench = bench(DAY);
    let all: Vec<SpiffeId> = (0..40).map(|number| id("shop", &format!("s{number}"))).collect();
    all.iter().for_each(|identity| bench.credentials.prefetch(identity));
    sleep(Duration::from_secs(2)).await;
    all.iter().for_each(|identity| bench.credentials.prefetch(identity));
    assert!(all.iter().all(|identity| bench.credentials.ready(identity).is_some()));
    assert_eq!((bench.authority.calls(), bench.authority.most.load(Ordering::SeqCst)), (40, 8));
}

// Z-031, F-13
#[tokio::test(start_paused = true)]
async fn readers_always_see_a_valid_certificate_across_renewals() {
    let bench = bench(HOUR);
    let wanted = id("shop", "cart");
    bench.credentials.prefetch(&wanted);
    bench.credentials.get(&wanted).await.unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..24 * 60 {
        sleep(Duration::from_secs(60)).await;
        let credential = bench.credentials.ready(&wanted).expect("no gap");
        assert!(!credential.expired(bench.clock.now()));
        seen.insert(credential.chain()[0].to_vec());
    }
    assert!((48..=61).contains(&seen.len()), "{} certificates in a day of hourly ones", seen.len());
    assert!(bench.authority.calls() <= seen.len() + 1);
}

// F-09, Z-042, Z-040
#[tokio::test(start_paused = true)]
async fn while_the_authority_is_away_the_old_certificate_serves_to_its_end() {
    let bench = bench(HOUR);
    let wanted = id("shop", "cart");
    bench.credentials.prefetch(&wanted);
    let first = bench.credentials.get(&wanted).await.unwrap();
    bench.authority.away.store(true, Ordering::SeqCst);
    while bench.clock.now() < first.not_after() - Duration::from_secs(1) {
        assert!(Arc::ptr_eq(&bench.credentials.get(&wanted).await.unwrap(), &first));
        sleep(Duration::from_secs(1)).await;
    }
    let tries = bench.authority.calls();
    assert!(tries <= 25, "{tries} requests in half an hour of absence");
    sleep(Duration::from_secs(2)).await;
    let err = bench.credentials.get(&wanted).await.unwrap_err();
    assert!(err.to_string().contains("nobody there"), "{err}");
    assert!(bench.credentials.dump()[0].state.starts_with("Unavailable: "), "{}", bench.credentials.dump()[0].state);

    bench.authority.away.store(false, Ordering::SeqCst);
    let began = Instant::now();
    bench.credentials.get(&wanted).await.unwrap();
    assert!(began.elapsed() <= Duration::from_secs(2), "{:?} after it came back", began.elapsed());
    assert_eq!(bench.credentials.dump()[0].state, "Available");
}

// Weakness 42: a pod whose workload the authority does not know yet
#[tokio::test(start_paused = true)]
async fn a_connection_waits_for_one_attempt_and_hears_why_it_failed() {
    let bench = bench(DAY);
    bench.authority.away.store(true, Ordering::SeqCst);
    let wanted = id("shop", "cart");
    bench.credentials.prefetch(&wanted);
    sleep(Duration::from_secs(200)).await; // deep in back-off
    let before = bench.authority.calls();
    let all = join_all((0..100).map(|_| bench.credentials.get(&wanted))).await;
    for one in all {
        let expect = "no certificate for spiffe://td/ns/shop/sa/cart: the certificate authority cannot be reached: nobody there";
        assert_eq!(one.unwrap_err().to_string(), expect);
    }
    assert_eq!(bench.authority.calls(), before + 1);
}

// An authority that never answers
#[tokio::test(start_paused = true)]
async fn a_request_that_hangs_ends() {
    let clock = TokioClock::new();
    struct Hangs;
    impl Authority for Hangs {
        fn sign<'a>(&'a self, _: String, _: &'a SpiffeId, _: Duration) -> BoxFuture<'a, Result<Vec<String>, SignFailure>> {
            Box::pin(std::future::pending())
        }
    }
    let credentials = Credentials::new(Arc::new(Hangs), clock, DAY, 1);
    let _runner = tokio::spawn(credentials.clone().run());
    let began = Instant::now();
    let err = credentials.get(&id("shop", "cart")).await.unwrap_err();
    assert!(err.to_string().contains("did not answer within 10s"), "{err}");
    assert!(began.elapsed() < REQUEST_TIMEOUT + Duration::from_secs(1));
}

// Z-038, Z-039, Z-037
#[tokio::test(start_paused = true)]
async fn forgetting_ends_waits_and_drops_the_certificate() {
    let bench = bench(DAY);
    let wanted = id("shop", "cart");
    let (answer, ()) = tokio::join!(bench.credentials.get(&wanted), async {
        sleep(Duration::from_millis(50)).await;
        bench.credentials.forget(&wanted);
    });
    assert_eq!(answer.unwrap_err(), Unavailable::Forgotten(wanted.clone()));
    assert!(bench.credentials.is_empty());
    sleep(Duration::from_secs(1)).await;
    assert!(bench.credentials.is_empty(), "the late answer brings nothing back");

    bench.credentials.prefetch(&wanted);
    let kept = bench.credentials.get(&wanted).await.unwrap();
    bench.credentials.forget(&wanted);
    assert!(bench.credentials.ready(&wanted).is_none());
    assert!(bench.credentials.dump().is_empty());
    assert_eq!(Arc::strong_count(&kept), 1, "the key lives only with its last connection");
    let again = bench.credentials.get(&wanted).await.unwrap();
    assert_ne!(again.chain()[0], kept.chain()[0]);
}

// Z-037: the end of the program
#[tokio::test(start_paused = true)]
async fn when_the_runner_ends_nobody_waits_for_ever() {
    let bench = bench(DAY);
    let wanted = id("shop", "cart");
    let (answer, ()) = tokio::join!(bench.credentials.get(&wanted), async {
        sleep(Duration::from_millis(50)).await;
        bench.runner.abort();
    });
    assert_eq!(answer.unwrap_err(), Unavailable::Closed(wanted.clone()));
    assert_eq!(bench.credentials.get(&id("shop", "web")).await.unwrap_err(), Unavailable::Closed(id("shop", "web")));
    drop(bench.runner);
    assert_eq!(bench.authority.now.load(Ordering::SeqCst), 1, "the request itself was dropped");
    assert_eq!(Arc::strong_count(&bench.authority), 2, "and nothing holds the authority but the store and this test");
}

// F-11
#[tokio::test(start_paused = true)]
async fn a_wall_clock_a_day_ahead_is_noticed_within_five_seconds() {
    let bench = bench(HOUR);
    let wanted = id("shop", "cart");
    bench.credentials.prefetch(&wanted);
    let before = bench.credentials.get(&wanted).await.unwrap();
    bench.clock.jump(DAY);
    assert!(bench.credentials.ready(&wanted).is_none(), "an expired certificate is never handed out");
    sleep(Duration::from_secs(6)).await;
    let after = bench.credentials.ready(&wanted).expect("renewed");
    assert!(after.not_after() > before.not_after() + DAY - HOUR);
    assert_eq!(bench.authority.calls(), 2);
}

// Z-027 in the whole: an authority that answers with someone else's name
#[tokio::test(start_paused = true)]
async fn an_answer_for_another_identity_is_a_failure() {
    struct Wrong(LocalAuthority);
    impl Authority for Wrong {
        fn sign<'a>(&'a self, csr: String, _: &'a SpiffeId, lifetime: Duration) -> BoxFuture<'a, Result<Vec<String>, SignFailure>> {
            Box::pin(async move { self.0.sign(csr, &id("shop", "admin"), lifetime).await })
        }
    }
    let clock = TokioClock::new();
    let ca = Arc::new(Ca::self_signed("td", DAY, Lifetimes::default(), clock.now()).unwrap());
    let credentials = Credentials::new(Arc::new(Wrong(LocalAuthority::new(ca, clock.clone()))), clock, HOUR, 1);
    let _runner = tokio::spawn(credentials.clone().run());
    let err = credentials.get(&id("shop", "cart")).await.unwrap_err();
    assert!(err.to_string().contains("the authority answered with a certificate of spiffe://td/ns/shop/sa/admin"), "{err}");
}

// Z-001, Z-041, spec/dataplane.md 8.3, T-50
#[tokio::test(start_paused = true)]
async fn the_dump_shows_states_and_no_key() {
    let bench = bench(DAY);
    bench.credentials.prefetch(&id("shop", "web"));
    bench.credentials.prefetch(&id("shop", "cart"));
    let early = bench.credentials.dump();
    assert_eq!(early.iter().map(|one| one.state.as_str()).collect::<Vec<_>>(), ["Initializing"; 2]);
    assert_eq!(early[0].identity, "spiffe://td/ns/shop/sa/cart");
    sleep(Duration::from_secs(1)).await;
    let text = serde_json::to_string(&bench.credentials.dump()).unwrap();
    let dump: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(dump[0]["state"], "Available");
    let leaf = &dump[0]["certChain"][0];
    assert_eq!(leaf["validFrom"], "2026-03-04T05:04:07Z");
    assert_eq!(leaf["expirationTime"], "2026-03-05T05:06:07Z");
    assert!(leaf["serialNumber"].as_str().unwrap().bytes().all(|byte| byte.is_ascii_digit()));
    let pem = STANDARD.decode(leaf["pem"].as_str().unwrap()).unwrap();
    assert!(pem.starts_with(b"-----BEGIN CERTIFICATE-----\n"));
    assert_eq!(dump[0]["rootCerts"].as_array().unwrap().len(), 1);
    assert!(!text.contains("PRIVATE") && !text.contains(&STANDARD.encode("PRIVATE")));
}

// The bound of a node, through the shell
#[tokio::test(start_paused = true)]
async fn too_many_identities_are_refused_by_name() {
    let bench = bench(DAY);
    bench.authority.away.store(true, Ordering::SeqCst);
    for number in 0..MAX_IDENTITIES {
        bench.credentials.prefetch(&id("shop", &format!("s{number}")));
    }
    let one_more = id("one", "more");
    assert_eq!(bench.credentials.get(&one_more).await.unwrap_err(), Unavailable::TooMany(one_more.clone()));
    assert_eq!(bench.credentials.len(), MAX_IDENTITIES);
}
