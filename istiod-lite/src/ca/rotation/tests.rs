//! The steps as a table, and nodes that talk to each other while they are taken: no handshake fails.

use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::BoxFuture;
use mesh_identity::sign::{Ca, Lifetimes, PluggedIn};
use mesh_identity::{Authority, Clock, Credentials, KeyExchange, Revocations, SignFailure, Tls};
use mesh_model::identity::SpiffeId;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;
use tokio::time::Instant;

use super::*;
use crate::ca::home;
use crate::ca::keep::{Keep, Source};
use crate::ca::live::Live;
use crate::ca::stored::Stored;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const TIMES: Times = Times { distribution: Duration::from_secs(600), renew_below_percent: 20 };

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000 + seconds)
}

fn root(name: &str, begins: SystemTime, life: Duration) -> Signer {
    Signer { certificate: name.into(), root: name.into(), begins, ends: begins + life }
}

/// Ten years of which 20 % are left after eight; a day's certificates.
fn book() -> Book {
    Book::begin(root("old", at(0), 3650 * DAY), [], DAY)
}

#[test]
fn three_steps_each_after_its_wait() {
    let mut book = book();
    let due = at(0) + 2920 * DAY;
    let wait = DAY + TIMES.distribution + CLOCK_SKEW;
    assert_eq!(TIMES.wait(DAY), wait);
    assert_eq!(book.step(&TIMES, true, due - SECOND), Step::Wait { until: due });
    assert_eq!(book.step(&TIMES, true, due), Step::Announce);
    // A plugged-in root is not ours to renew.
    assert!(matches!(book.step(&TIMES, false, due), Step::Wait { .. }));

    book.want(root("new", due, 3650 * DAY), &["new".into()].into(), due);
    assert_eq!(book.bundle(), "oldnew");
    assert_eq!(book.step(&TIMES, true, due), Step::Wait { until: due + wait });
    assert_eq!(book.step(&TIMES, true, due + wait), Step::Promote);

    let promoted = due + wait + HOUR;
    book.promote(promoted);
    assert_eq!((&*book.signer.root, book.bundle()), ("new", "newold".into()));
    assert_eq!(book.step(&TIMES, true, promoted), Step::Wait { until: promoted + wait });
    assert_eq!(book.step(&TIMES, true, promoted + wait), Step::Drop("old".into()));
    book.drop_root(&"old".into());
    assert_eq!(book.bundle(), "new");
    assert!(matches!(book.step(&TIMES, true, promoted + wait), Step::Wait { .. }));
}

#[test]
fn who_was_given_a_longer_life_is_waited_for() {
    let mut book = book();
    assert!(!book.issued(HOUR) && book.issued(90 * DAY) && !book.issued(DAY));
    book.want(root("new", at(0), 3650 * DAY), &["new".into()].into(), at(0));
    assert_eq!(book.step(&TIMES, true, at(0)), Step::Wait { until: at(0) + TIMES.wait(90 * DAY) });
}

// Certificates end with their signer: a change that comes too late does not wait until nothing can be issued any more.
#[test]
fn a_signer_that_ends_is_not_waited_for() {
    let mut book = Book::begin(root("old", at(0), 10 * HOUR), [], DAY);
    assert_eq!(book.step(&TIMES, true, at(0)), Step::Announce, "two waits do not fit, so the change begins at once");
    book.want(root("new", at(0), 3650 * DAY), &["new".into()].into(), at(0));
    assert_eq!(book.step(&TIMES, true, at(0)), Step::Wait { until: at(0) + 4 * HOUR });
    assert_eq!(book.step(&TIMES, true, at(0) + 4 * HOUR), Step::Promote);
}

/// What an operator plugs in, and what comes of it at once and after a wait.
#[test]
fn plugged_in_changes() {
    let signer = |certificate: &str, root: &str| Signer { certificate: certificate.into(), ..self::root(root, at(0), 3650 * DAY) };
    let roots = |names: &[&str]| names.iter().map(|name| Pem::from(*name)).collect::<BTreeSet<_>>();
    let begin = || Book::begin(signer("i1", "a"), roots(&["a"]), DAY);
    let wait = TIMES.wait(DAY);

    // Another intermediate below the same root: at once.
    let mut book = begin();
    book.want(signer("i2", "a"), &roots(&["a"]), at(9));
    assert_eq!(book.step(&TIMES, false, at(9)), Step::Promote);
    book.promote(at(9));
    assert!(matches!(book.step(&TIMES, false, at(9) + 9 * wait), Step::Wait { .. }), "its root stays");

    // Everything replaced in one go: the three steps.
    let mut book = begin();
    book.want(signer("i2", "b"), &roots(&["b"]), at(9));
    assert_eq!((&*book.signer.certificate, book.bundle()), ("i1", "ab".into()));
    assert_eq!(book.step(&TIMES, false, at(9)), Step::Wait { until: at(9) + wait });
    assert_eq!(book.step(&TIMES, false, at(9) + wait), Step::Promote);
    book.promote(at(9) + wait);
    assert_eq!(book.step(&TIMES, false, at(9) + 2 * wait), Step::Drop("a".into()));

    // A root added by hand, the signer changed later: nothing is left to wait for.
    let mut book = begin();
    book.want(signer("i1", "a"), &roots(&["a", "b"]), at(9));
    assert_eq!((book.next.is_none(), book.bundle()), (true, "ab".into()));
    book.want(signer("i2", "b"), &roots(&["a", "b"]), at(9) + wait);
    assert_eq!(book.step(&TIMES, false, at(9) + wait), Step::Promote);
    book.promote(at(9) + wait);
    assert!(matches!(book.step(&TIMES, false, at(9) + 9 * wait), Step::Wait { .. }), "both stay while both are plugged in");
    book.want(signer("i2", "b"), &roots(&["b"]), at(9) + 9 * wait);
    assert_eq!(book.step(&TIMES, false, at(9) + 10 * wait), Step::Drop("a".into()));

    // Taken back before it was promoted: the new root goes, when nobody can have seen anything of it.
    let mut book = begin();
    book.want(signer("i2", "b"), &roots(&["b"]), at(9));
    book.want(signer("i1", "a"), &roots(&["a"]), at(99));
    assert_eq!((book.next.is_none(), &*book.signer.certificate), (true, "i1"));
    assert_eq!(book.step(&TIMES, false, at(99) + wait), Step::Drop("b".into()));
}

// --- nodes that talk

#[derive(Debug)]
struct PausedClock(Instant);

impl Clock for PausedClock {
    fn now(&self) -> SystemTime {
        at(0) + self.0.elapsed()
    }
}

/// The way of one node to the authority.
struct Line {
    live: Arc<Live>,
    clock: Arc<dyn Clock>,
    is_cut: Arc<AtomicBool>,
}

impl Authority for Line {
    fn sign<'a>(&'a self, csr: String, identity: &'a SpiffeId, life: Duration) -> BoxFuture<'a, Result<Vec<String>, SignFailure>> {
        Box::pin(async move {
            if self.is_cut.load(Ordering::Relaxed) {
                return Err(SignFailure::Unreachable("cut".into()));
            }
            let now = self.clock.now();
            let issued = self.live.ca().issue(&csr, identity, life, now).map_err(|error| SignFailure::Unreachable(error.to_string()))?;
            self.live.issued(&issued, now);
            Ok(issued.chain)
        })
    }
}

struct Node {
    identity: SpiffeId,
    credentials: Credentials,
    is_cut: Arc<AtomicBool>,
}

struct Mesh {
    keep: Keep,
    live: Arc<Live>,
    clock: Arc<dyn Clock>,
    tls: Tls,
    nodes: Vec<Node>,
    rng: SmallRng,
    handshakes: usize,
    failed: Vec<String>,
    /// Bundles that were shown, by their number of roots.
    roots_seen: BTreeSet<usize>,
}

const LIFE: Duration = Duration::from_secs(120);
const LIVES: Lifetimes = Lifetimes { default: LIFE, max: LIFE };

impl Mesh {
    fn new(source: Source, stored: Stored, times: Times, clock: Arc<dyn Clock>) -> Mesh {
        let live = Arc::new(Live::new(stored.ca(LIVES, clock.now()).unwrap(), LIFE, stored.session_seeds()));
        let keep = Keep { source, stored, is_told: true, live: live.clone(), lifetimes: LIVES, times, clock: clock.clone() };
        let nodes = (0..5).map(|index| {
            let is_cut = Arc::new(AtomicBool::new(false));
            let line = Line { live: live.clone(), clock: clock.clone(), is_cut: is_cut.clone() };
            let credentials = Credentials::new(Arc::new(line), clock.clone(), LIFE, index);
            tokio::spawn(credentials.clone().run());
            let identity = SpiffeId::new("cluster.local", "shop", &format!("n{index}"));
            credentials.prefetch(&identity);
            Node { identity, credentials, is_cut }
        });
        let tls = Tls::new(KeyExchange::Standard, clock.clone(), Revocations::disabled());
        Mesh { nodes: nodes.collect(), keep, live, clock, tls, rng: SmallRng::seed_from_u64(7), handshakes: 0, failed: Vec::new(), roots_seen: BTreeSet::new() }
    }

    /// Lets time pass: each second a look at the authority, every other a handshake of two nodes.
    async fn pass(&mut self, seconds: u64) {
        for second in 0..seconds {
            tokio::time::sleep(SECOND).await;
            if let (_, Some(ca)) = self.keep.turn(self.clock.now()).unwrap() {
                self.live.replace(ca, self.keep.stored.session_seeds());
                self.keep.is_told = true;
            }
            self.roots_seen.insert(self.live.ca().roots().len());
            // The last node reaches the authority for few seconds only, so it often has old certificates, or none.
            self.nodes.last().unwrap().is_cut.store(second % 100 > 12, Ordering::Relaxed);
            if second % 2 == 0 {
                let from = self.rng.random_range(0..self.nodes.len());
                let to = (from + self.rng.random_range(1..self.nodes.len())) % self.nodes.len();
                self.handshake(from, to).await;
            }
        }
    }

    async fn handshake(&mut self, from: usize, to: usize) {
        let (from, to) = (&self.nodes[from], &self.nodes[to]);
        let (Some(mine), Some(theirs)) = (from.credentials.ready(&from.identity), to.credentials.ready(&to.identity)) else { return };
        let (near, far) = tokio::io::duplex(1 << 16);
        let expected = [to.identity.clone()];
        let (dialled, accepted) = tokio::join!(self.tls.connect(near, &mine, &expected), self.tls.accept(far, &theirs));
        self.handshakes += 1;
        if let Err(error) = dialled.map(drop).and(accepted.map(drop)) {
            self.failed.push(format!("{:?}: {} to {}: {error}", self.clock.now().duration_since(at(0)), from.identity, to.identity));
        }
    }
}

/// Short waits: what nodes read from files is nothing here, and their clocks agree.
const SHORT: Times = Times { distribution: Duration::ZERO, renew_below_percent: 100 };

fn own(folder: &TempDir, clock: &dyn Clock) -> (Source, Stored) {
    let ca = Ca::self_signed("cluster.local", 3650 * DAY, LIVES, clock.now()).unwrap();
    (Source::Own { folder: folder.path().join("ca"), trust_domain: "cluster.local".into(), root_life: 3650 * DAY }, Stored::new(&ca, LIFE))
}

// F-12
#[tokio::test(start_paused = true)]
async fn no_handshake_fails_while_our_root_changes() {
    let folder = tempfile::tempdir().unwrap();
    let clock: Arc<dyn Clock> = Arc::new(PausedClock(Instant::now()));
    let (source, stored) = own(&folder, &*clock);
    let first = stored.book.signer.root.clone();
    let mut mesh = Mesh::new(source, stored, SHORT, clock);
    // A root that is due at once is followed by the next: several changes in a row.
    let wait = SHORT.wait(LIFE + SECOND).as_secs();
    mesh.pass(4 * wait).await;
    assert_eq!(mesh.failed, Vec::<String>::new());
    assert!(mesh.handshakes > 250, "{}", mesh.handshakes);
    assert!(mesh.roots_seen.contains(&2), "{:?}", mesh.roots_seen);
    assert_ne!(mesh.keep.stored.book.signer.root, first);
    assert!(!mesh.keep.stored.book.roots.contains_key(&first), "the first root has left the bundle");
    // What is stored is what is in force, so a restart goes on where this was.
    let kept = Stored::parse(&home::load(&folder.path().join("ca")).unwrap(), LIVES, mesh.clock.now()).unwrap().unwrap();
    assert_eq!(kept, mesh.keep.stored);
}

fn plugged(ca: &Ca) -> PluggedIn {
    PluggedIn { certificate: ca.certificate_pem(), key: ca.private_pem(), chain: String::new(), roots: ca.root_bundle() }
}

fn put(folder: &TempDir, files: &PluggedIn) {
    for (name, text) in [("ca-cert.pem", &files.certificate), ("ca-key.pem", &files.key), ("cert-chain.pem", &files.chain), ("root-cert.pem", &files.roots)] {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
}

// F-12
#[tokio::test(start_paused = true)]
async fn no_handshake_fails_when_all_plugged_in_files_are_replaced_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let clock: Arc<dyn Clock> = Arc::new(PausedClock(Instant::now()));
    let make = || plugged(&Ca::self_signed("cluster.local", 3650 * DAY, LIVES, clock.now()).unwrap());
    let (old, new) = (make(), make());
    put(&folder, &old);
    let stored = Stored::plugged_in(&old, "", LIVES, clock.now()).unwrap();
    let source = Source::PluggedIn { folder: folder.path().to_owned(), seen: Some(Box::new(old)) };
    let mut mesh = Mesh::new(source, stored, SHORT, clock.clone());
    mesh.pass(30).await;
    put(&folder, &new);
    mesh.pass(3).await;
    assert_eq!((mesh.live.ca().roots().len(), mesh.live.ca().certificate_pem() == new.certificate), (2, false), "known, and not signing yet");
    // Half of a set is no set: what was taken stays.
    std::fs::remove_file(folder.path().join("ca-key.pem")).unwrap();
    mesh.pass(2 * SHORT.wait(LIFE + SECOND).as_secs()).await;
    assert_eq!(mesh.failed, Vec::<String>::new());
    assert!(mesh.handshakes > 150, "{}", mesh.handshakes);
    assert_eq!(mesh.live.ca().root_bundle(), new.roots);
    assert_eq!(mesh.live.ca().certificate_pem(), new.certificate);
}

// F-12, from istio-ca-secret to cacerts, with a restart after each third of a wait
#[tokio::test(start_paused = true)]
async fn no_handshake_fails_when_a_self_signed_root_gives_way_to_a_plugged_in_one() {
    let folder = tempfile::tempdir().unwrap();
    let clock: Arc<dyn Clock> = Arc::new(PausedClock(Instant::now()));
    let (source, stored) = own(&folder, &*clock);
    let first = stored.book.signer.root.clone();
    let mut kept = stored.data();
    let mut mesh = Mesh::new(source, stored, Times { renew_below_percent: 0, ..SHORT }, clock.clone());
    mesh.pass(150).await;
    let files = plugged(&Ca::self_signed("cluster.local", 3650 * DAY, LIVES, clock.now()).unwrap());
    put(&folder, &files);
    let wait = SHORT.wait(LIFE + SECOND).as_secs();
    for _ in 0..9 {
        let published = mesh.live.ca().root_bundle();
        let before = Stored::parse(&kept, LIVES, clock.now()).unwrap().unwrap();
        let stored = match before.give_way(&files, &published, LIVES, clock.now()).unwrap() {
            Some(giving) => {
                kept = giving.data_without_next();
                giving
            }
            None => Stored::plugged_in(&files, &published, LIVES, clock.now()).unwrap(),
        };
        mesh.keep.source = Source::PluggedIn { folder: folder.path().to_owned(), seen: Some(Box::new(files.clone())) };
        mesh.live.replace(stored.ca(LIVES, clock.now()).unwrap(), stored.session_seeds());
        mesh.keep.stored = stored;
        mesh.pass(wait / 3).await;
    }
    assert_eq!(mesh.live.ca().certificate_pem(), files.certificate, "restarts do not keep it from signing");
    // Each restart begins the last wait anew: the old root stays longer than it must.
    mesh.pass(wait + 1).await;
    assert_eq!(mesh.failed, Vec::<String>::new());
    assert!(mesh.handshakes > 250, "{}", mesh.handshakes);
    assert_eq!((mesh.live.ca().root_bundle(), mesh.live.ca().certificate_pem()), (files.roots, files.certificate));
    assert!(!mesh.keep.stored.book.roots.contains_key(&first));
}

// The same nodes and a root that is not announced: this is what the waits are for.
#[tokio::test(start_paused = true)]
async fn without_the_waits_handshakes_fail() {
    let folder = tempfile::tempdir().unwrap();
    let clock: Arc<dyn Clock> = Arc::new(PausedClock(Instant::now()));
    let (source, stored) = own(&folder, &*clock);
    let mut mesh = Mesh::new(source, stored, Times { renew_below_percent: 0, ..SHORT }, clock);
    mesh.pass(30).await;
    let now = mesh.clock.now();
    mesh.keep.stored.announce(&Ca::self_signed("cluster.local", DAY, LIVES, now).unwrap(), now);
    mesh.keep.stored.promote(now);
    mesh.keep.is_told = false;
    mesh.pass(LIFE.as_secs()).await;
    assert!(mesh.failed.iter().any(|failed| failed.contains("not trusted")), "{:?}", mesh.failed);
}
