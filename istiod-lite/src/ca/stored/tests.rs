//! What is kept, by whom it can be read, and what an operator may do to it.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::ca::home;
use crate::ca::rotation::{Step, Times};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000)
}

fn authority() -> Ca {
    Ca::self_signed("cluster.local", 3650 * DAY, Lifetimes::default(), now()).unwrap()
}

fn parse(data: &Data) -> Result<Option<Stored>, BadData> {
    Stored::parse(data, Lifetimes::default(), now())
}

#[test]
fn what_is_kept_is_read_again_in_every_step() {
    let mut stored = Stored::new(&authority(), DAY);
    assert_eq!(parse(&stored.data()).unwrap().as_ref(), Some(&stored));
    stored.announce(&authority(), now());
    assert_eq!(parse(&stored.data()).unwrap().as_ref(), Some(&stored));
    assert_eq!(stored.ca(Lifetimes::default(), now()).unwrap().roots().len(), 2);
    stored.promote(now());
    assert_eq!(parse(&stored.data()).unwrap().as_ref(), Some(&stored));
    assert!(!format!("{stored:?}").contains("PRIVATE"));
    assert!(parse(&Data::new()).unwrap().is_none());
}

/// The keys of the Secret `istio-ca-secret`, as authorities of the field write and read them (spec/controlplane.md 3.6).
#[test]
fn an_authority_of_the_field_is_taken_over() {
    let theirs = authority();
    let data: Data = [
        ("ca-cert.pem", theirs.certificate_pem()),
        ("ca-key.pem", theirs.private_pem()),
        ("root-cert.pem", theirs.certificate_pem()),
        ("cert-chain.pem", String::new()),
        ("key.pem", String::new()),
    ]
    .map(|(name, text)| (name.to_owned(), text))
    .into();
    let stored = parse(&data).unwrap().unwrap();
    assert_eq!(stored.ca(Lifetimes::default(), now()).unwrap().certificate_pem(), theirs.certificate_pem());
    let ours = stored.data();
    for (name, text) in &data {
        assert_eq!(ours.get(name), Some(text), "{name}");
    }
}

// Upstream leaves root-cert.pem stale and forgets the root before (spec/controlplane.md 3.6); here neither happens.
#[test]
fn a_root_that_somebody_else_put_in_signs_and_the_one_before_is_kept_for_a_wait() {
    let before = Stored::new(&authority(), DAY);
    let theirs = authority();
    let mut data = before.data();
    data.insert("ca-cert.pem".into(), theirs.certificate_pem());
    data.insert("ca-key.pem".into(), theirs.private_pem());
    let stored = parse(&data).unwrap().unwrap();
    assert_eq!(*stored.book.signer.certificate, *theirs.certificate_pem());
    assert_eq!(stored.book.roots.len(), 2);
    assert_eq!(stored.data()["root-cert.pem"], theirs.certificate_pem() + &before.book.signer.root);
    let times = Times { distribution: Duration::ZERO, renew_below_percent: 20 };
    assert_eq!(stored.book.step(&times, true, now() + times.wait(DAY)), Step::Drop(before.book.signer.root));
}

#[test]
fn what_cannot_be_used_is_named() {
    let whole = Stored::new(&authority(), DAY).data();
    let broken = |change: &dyn Fn(&mut Data)| {
        let mut data = whole.clone();
        change(&mut data);
        parse(&data).unwrap_err().to_string()
    };
    assert_eq!(broken(&|data| drop(data.remove("ca-key.pem"))), "ca-key.pem is missing");
    assert_eq!(broken(&|data| drop(data.remove("ca-cert.pem"))), "ca-cert.pem is missing");
    assert!(broken(&|data| drop(data.insert("rotation.json".into(), "{".into()))).starts_with("rotation.json cannot be read: "));
    assert_eq!(broken(&|data| drop(data.insert("ca-key.pem".into(), authority().private_pem()))), "ca-key.pem is not the key of ca-cert.pem");
    let ended = Stored::parse(&whole, Lifetimes::default(), now() + 3651 * DAY).unwrap_err();
    assert!(ended.is_ended(), "{ended}");
}

/// What was published before a restart says which roots nodes know, and which they may still need.
#[test]
fn a_plugged_in_authority_remembers_by_what_was_published() {
    let (old, new) = (authority(), authority());
    let files = |ca: &Ca| PluggedIn { certificate: ca.certificate_pem(), key: ca.private_pem(), chain: String::new(), roots: ca.root_bundle() };
    let times = Times { distribution: Duration::ZERO, renew_below_percent: 20 };
    let start = |published: &str| Stored::plugged_in(&files(&new), published, Lifetimes::default(), now()).unwrap();
    let since = |stored: &Stored| stored.book.roots[&stored.book.signer.root].since;

    assert_eq!(since(&start("")), SystemTime::UNIX_EPOCH, "the first start: nobody has a certificate");
    assert_eq!(since(&start(&new.root_bundle())), SystemTime::UNIX_EPOCH);
    let changed = start(&old.root_bundle());
    assert_eq!((since(&changed), changed.book.roots.len()), (now(), 2));
    assert_eq!(changed.book.step(&times, false, now() + times.wait(DAY)), Step::Drop(old.root_bundle().as_str().into()));
    assert!(Stored::plugged_in(&PluggedIn { key: old.private_pem(), ..files(&new) }, "", Lifetimes::default(), now()).is_err());
}

#[test]
fn a_folder_holds_one_whole_version_that_nobody_else_can_read() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("ca");
    assert!(home::load(&place).unwrap().is_empty());
    let first = mesh_identity::sign::home::self_signed(&place, "cluster.local", 3650 * DAY, Lifetimes::default(), now()).unwrap();
    let mut stored = parse(&home::load(&place).unwrap()).unwrap().unwrap();
    assert_eq!(*stored.book.signer.certificate, *first.certificate_pem(), "what the first start made is read");
    for _ in 0..3 {
        stored.announce(&authority(), now());
        stored.promote(now());
        home::save(&place, &stored.data()).unwrap();
        assert_eq!(parse(&home::load(&place).unwrap()).unwrap().as_ref(), Some(&stored));
    }
    let names: Vec<String> = std::fs::read_dir(&place).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    assert_eq!(names.len(), 2, "the link and one version: {names:?}");
    for entry in std::fs::read_dir(place.join("current")).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.path());
    }
    assert_eq!(std::fs::metadata(&place).unwrap().permissions().mode() & 0o777, 0o700);
}

/// What replicas of a waypoint share is the same at every replica of the controller, and sessions hold while the root changes,
/// also where one replica has changed it and another has not.
#[test]
fn sessions_hold_while_the_root_changes() {
    let mut stored = Stored::new(&authority(), DAY);
    let first = stored.session_seeds();
    assert_eq!(parse(&stored.data()).unwrap().unwrap().session_seeds(), first, "another replica reads the same key");
    stored.announce(&authority(), now());
    let announced = stored.session_seeds();
    assert_eq!((announced.len(), &announced[0]), (2, &first[0]));
    stored.promote(now());
    let promoted = stored.session_seeds();
    assert_eq!(promoted, [announced[1].clone(), first[0].clone()], "each opens what the other seals");
    let root_before = stored.book.roots.keys().find(|root| **root != stored.book.signer.root).cloned().unwrap();
    stored.book.drop_root(&root_before);
    assert_eq!(parse(&stored.data()).unwrap().unwrap().session_seeds(), promoted, "a restart does not forget the one before");
    // The next change forgets it.
    stored.announce(&authority(), now());
    stored.promote(now());
    assert_eq!(stored.session_seeds()[1..], promoted[..1]);
}
