use super::*;
use std::io::Write;

use mesh_model::identity::SpiffeId;
use tokio::io::duplex;

use crate::credential::Credential;
use crate::pem;
use crate::testing::{DAY, HandClock, Leaf, Signer, id, uri};
use crate::tls::{KeyExchange, Tls};

fn lists(signers: &[(&Signer, &[u64])]) -> CrlSet {
    let text: String = signers.iter().map(|(signer, serials)| signer.crl_pem(serials)).collect();
    CrlSet::parse(text.as_bytes()).unwrap()
}

fn leaf(signer: &Signer, serial: u64) -> Leaf {
    signer.leaf(vec![uri(&format!("spiffe://td/ns/shop/sa/s{serial}"))], serial, |_| {})
}

fn roots(signer: &Signer) -> Arc<Roots> {
    Arc::new(Roots::new(std::slice::from_ref(&signer.root)).unwrap())
}

fn book() -> Arc<Revocations> {
    Revocations::new(HandClock::new())
}

// Z-185, Z-186, Z-187
#[test]
fn files_are_read_whole_or_not_at_all() {
    let (a, b) = (Signer::root("a"), Signer::root("b"));
    let (pem_a, pem_b) = (a.crl_pem(&[1]), b.crl_pem(&[2, 3]));
    let good: [(Vec<u8>, usize); 6] = [
        (vec![], 0),
        (b" \n\t\n".to_vec(), 0),
        (pem_a.clone().into_bytes(), 1),
        (format!("# two authorities\n{pem_a}\n{pem_b}").into_bytes(), 2),
        (a.crl(&[1]), 1),
        ([a.crl(&[1]), b.crl(&[])].concat(), 2),
    ];
    for (text, count) in good {
        assert_eq!(CrlSet::parse(&text).unwrap().len(), count);
    }
    let der = a.crl(&[1]);
    let bad: [(Vec<u8>, &str); 7] = [
        (b"hello".to_vec(), "holds no list"),
        (format!("{pem_a}-----BEGIN X509 CRL-----\nAAAA").into_bytes(), "revocation list 1"),
        (pem::section("X509 CRL", b"no list").into_bytes(), "revocation list 0"),
        (pem::encode(&a.root).into_bytes(), "holds no list"),
        (der[..der.len() - 1].to_vec(), "DER length does not fit"),
        ([der.as_slice(), &[0x30, 0x80]].concat(), "revocation list 1"),
        (a.crl_pem(&[]).repeat(257).into_bytes(), "more than 256"),
    ];
    for (text, expect) in bad {
        let err = CrlSet::parse(&text).unwrap_err().to_string();
        assert!(err.contains(expect), "expected {expect:?}, got {err:?}");
    }
}

// V-22, V-29-like: lengths that lie
#[test]
fn lengths_that_lie_are_refused() {
    for bytes in [&[0x30][..], &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff], &[0x30, 0x85, 1, 1, 1, 1, 1], &[0x30, 0x82, 1], &[0x30, 0]] {
        assert!(CrlSet::parse(bytes).is_err(), "{bytes:x?}");
    }
}

fn verdict(leaf: &Leaf, root: &Signer, lists: &CrlSet) -> Result<(), NotOurPeer> {
    let at = HandClock::new().now();
    verify::chain(&leaf.chain[0], &leaf.chain[1..], &roots(root), Usage::Client, at, lists)
}

// Z-196, Z-200, Z-204, spec/dataplane.md 9.2
#[test]
fn revocation_follows_the_path_and_the_key_not_the_name() {
    let (root, twin) = (Signer::root("same"), Signer::root("same"));
    let below = root.intermediate("below", 20);
    let (direct, deep) = (leaf(&root, 7), leaf(&below, 7));
    let revoked = Err(NotOurPeer::Chain(webpki::Error::CertRevoked));
    let rows = [
        ("no list", CrlSet::default(), &direct, Ok(())),
        ("its number", lists(&[(&root, &[7])]), &direct, revoked.clone()),
        ("another number", lists(&[(&root, &[8])]), &direct, Ok(())),
        ("its number by another authority of the same name", lists(&[(&twin, &[7])]), &direct, Ok(())),
        ("the twin's list first, then the right one", lists(&[(&twin, &[]), (&root, &[7])]), &direct, revoked.clone()),
        ("the right one first", lists(&[(&root, &[7]), (&twin, &[])]), &direct, revoked.clone()),
        ("the root's list says nothing of what an intermediate signed", lists(&[(&root, &[7])]), &deep, Ok(())),
        ("by its intermediate", lists(&[(&below, &[7])]), &deep, revoked.clone()),
        ("its intermediate itself", lists(&[(&root, &[20])]), &deep, revoked.clone()),
    ];
    for (what, lists, leaf, expect) in rows {
        assert_eq!(verdict(leaf, &root, &lists), expect, "{what}");
    }
}

async fn meet(tls: &Tls, client: &Credential, server: &Credential, expected: SpiffeId) -> (String, String) {
    let (near, far) = duplex(64 << 10);
    let expected = [expected];
    let (dialled, accepted) = tokio::join!(tls.connect(near, client, &expected), tls.accept(far, server));
    let show = |result: Result<SpiffeId, crate::tls::TlsFailure>| match result {
        Ok(peer) => peer.to_string(),
        Err(err) => err.to_string(),
    };
    (show(dialled.map(|secured| secured.peer)), show(accepted.map(|secured| secured.peer)))
}

// Z-179, Z-180 and their mirror on the inbound side
#[tokio::test]
async fn handshakes_refuse_revoked_leaves_and_intermediates() {
    let root = Signer::root("a");
    let below = root.intermediate("b", 20);
    let client = root.credential(&id("shop", "cart"), 7);
    let server = below.credential(&id("shop", "web"), 8);
    let book = book();
    let tls = Tls::new(KeyExchange::Standard, HandClock::new(), book.clone());
    let (dialled, accepted) = meet(&tls, &client, &server, id("shop", "web")).await;
    assert_eq!((dialled.as_str(), accepted.as_str()), ("spiffe://td/ns/shop/sa/web", "spiffe://td/ns/shop/sa/cart"));
    for revoked in [lists(&[(&below, &[8])]), lists(&[(&root, &[20])])] {
        book.replace(revoked).await;
        let (dialled, _) = meet(&tls, &client, &server, id("shop", "web")).await;
        assert!(dialled.contains("Revoked"), "{dialled}");
    }
    book.replace(lists(&[(&root, &[7])])).await;
    let (_, accepted) = meet(&tls, &client, &server, id("shop", "web")).await;
    assert!(accepted.contains("Revoked"), "{accepted}");
    book.replace(CrlSet::default()).await;
    let (dialled, _) = meet(&tls, &client, &server, id("shop", "web")).await;
    assert_eq!(dialled, "spiffe://td/ns/shop/sa/web");
}

// Z-197, Z-198, Z-202, Z-203, Z-206, Z-207
#[tokio::test]
async fn a_reload_ends_exactly_the_connections_below_what_was_revoked() {
    let root = Signer::root("a");
    let (left, right) = (root.intermediate("left", 20), root.intermediate("right", 21));
    let lower = left.intermediate("lower", 30);
    let roots = roots(&root);
    let leaves = [leaf(&left, 1), leaf(&left, 2), leaf(&lower, 3), leaf(&right, 1), leaf(&root, 5)];
    let rows: [(&str, CrlSet, [bool; 5]); 6] = [
        ("one leaf", lists(&[(&left, &[1])]), [true, false, false, false, false]),
        ("the leaf of the lower one", lists(&[(&lower, &[3])]), [false, false, true, false, false]),
        ("the lower one", lists(&[(&left, &[30])]), [false, false, true, false, false]),
        ("the left one, with all below", lists(&[(&root, &[20])]), [true, true, true, false, false]),
        ("a leaf and the right one", lists(&[(&root, &[5, 21])]), [false, false, false, true, true]),
        ("nothing", lists(&[(&root, &[99])]), [false; 5]),
    ];
    for (what, lists, expect) in rows {
        let book = book();
        let live: Vec<_> = leaves.iter().map(|leaf| book.register(&leaf.chain, &roots, Usage::Client)).collect();
        assert!(live.iter().all(|registered| !registered.is_revoked()));
        book.replace(lists).await;
        let ended: Vec<bool> = live.iter().map(Registered::is_revoked).collect();
        assert_eq!(ended, expect, "{what}");
    }
}

// Z-196: the signal wakes who waits
#[tokio::test]
async fn a_waiting_connection_is_woken() {
    let root = Signer::root("a");
    let book = book();
    let registered = book.register(&leaf(&root, 7).chain, &roots(&root), Usage::Server);
    let (_, ()) = tokio::join!(registered.revoked(), book.replace(lists(&[(&root, &[7])])));
    assert!(registered.is_revoked());
}

// Z-199, Z-208: whichever comes second sees the other
#[tokio::test]
async fn registering_after_a_reload_sees_the_lists() {
    let root = Signer::root("a");
    let book = book();
    book.replace(lists(&[(&root, &[7])])).await;
    assert!(book.register(&leaf(&root, 7).chain, &roots(&root), Usage::Client).is_revoked());
    assert!(!book.register(&leaf(&root, 8).chain, &roots(&root), Usage::Client).is_revoked());
    assert_eq!(book.chains(), 0, "both have left");
}

// Z-201, Z-205
#[tokio::test]
async fn connections_of_one_peer_share_an_entry_and_leave_nothing() {
    let root = Signer::root("a");
    let roots = roots(&root);
    let book = book();
    let (one, two) = (leaf(&root, 1), leaf(&root, 2));
    let mut live: Vec<_> = (0..1000).map(|_| book.register(&one.chain, &roots, Usage::Client)).collect();
    live.push(book.register(&two.chain, &roots, Usage::Client));
    assert_eq!(book.chains(), 2);
    let as_server = book.register(&one.chain, &roots, Usage::Server);
    assert_eq!(book.chains(), 3, "the same certificate on the other side is checked for another purpose");
    book.replace(lists(&[(&root, &[1])])).await;
    assert_eq!(live.iter().filter(|registered| registered.is_revoked()).count(), 1000);
    assert!(as_server.is_revoked());
    live.truncate(1);
    drop(as_server);
    assert_eq!(book.chains(), 1);
    live.clear();
    assert_eq!(book.chains(), 0);
}

// Z-210: what a peer sent along without need is not part of its path
#[tokio::test]
async fn a_revoked_intermediate_that_is_not_on_the_path_ends_nothing() {
    let root = Signer::root("a");
    let junk = root.intermediate("junk", 20);
    let mut chain = leaf(&root, 7).chain;
    chain.push(junk.der.clone());
    let book = book();
    let registered = book.register(&chain, &roots(&root), Usage::Client);
    book.replace(lists(&[(&root, &[20])])).await;
    assert!(!registered.is_revoked());
}

// Z-200
#[tokio::test]
async fn an_expired_leaf_does_not_hide_that_it_is_revoked() {
    let root = Signer::root("a");
    let clock = HandClock::new();
    let book = Revocations::new(clock.clone());
    let registered = book.register(&leaf(&root, 7).chain, &roots(&root), Usage::Client);
    clock.set(clock.now() + 2 * DAY);
    book.replace(lists(&[(&root, &[7])])).await;
    assert!(registered.is_revoked());
}

// Z-209
#[tokio::test]
async fn a_chain_that_cannot_be_checked_is_counted() {
    let (root, other) = (Signer::root("a"), Signer::root("b"));
    let book = book();
    let registered = book.register(&leaf(&other, 7).chain, &roots(&root), Usage::Client);
    book.replace(lists(&[(&root, &[7])])).await;
    assert!(!registered.is_revoked());
    assert_eq!(book.unchecked(), 1);
}

#[test]
fn without_configuration_nothing_is_kept() {
    let root = Signer::root("a");
    let book = Revocations::disabled();
    let registered = book.register(&leaf(&root, 7).chain, &roots(&root), Usage::Client);
    assert_eq!(book.chains(), 0);
    assert!(!registered.is_revoked());
}

fn put(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    std::fs::File::create(&beside).unwrap().write_all(text.as_bytes()).unwrap();
    std::fs::rename(&beside, path).unwrap();
}

async fn until(what: &str, mut fine: impl FnMut() -> bool) {
    let patience = tokio::time::Instant::now() + Duration::from_secs(30);
    while !fine() {
        assert!(tokio::time::Instant::now() < patience, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

// Z-184, G6: a missing file, a first file, a broken one, a change, a removal
#[tokio::test(start_paused = true)]
async fn the_file_is_followed_and_a_broken_one_keeps_the_last_good() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("crl.pem");
    let root = Signer::root("a");
    let book = book();
    let registered = book.register(&leaf(&root, 7).chain, &roots(&root), Usage::Client);
    let follower = tokio::spawn({
        let (book, path) = (book.clone(), path.clone());
        async move { book.follow(&path).await }
    });
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(book.lists().is_empty());

    put(&path, &root.crl_pem(&[1]));
    until("the first file", || book.lists().len() == 1).await;
    put(&path, "-----BEGIN X509 CRL-----\nbroken");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(book.lists().len(), 1, "the last good lists stay");
    assert!(!registered.is_revoked());

    let began = tokio::time::Instant::now();
    put(&path, &format!("{}{}", root.crl_pem(&[7]), Signer::root("b").crl_pem(&[])));
    registered.revoked().await;
    assert!(began.elapsed() <= Duration::from_secs(2), "{:?}", began.elapsed());
    std::fs::remove_file(&path).unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(book.lists().len(), 2);
    follower.abort();
}

#[test]
fn mutated_lists_never_panic() {
    let root = Signer::root("a");
    let leaf = leaf(&root, 7);
    crate::testing::mutations(&root.crl(&[7, 8, 9]), 3000, |bytes| {
        if let Ok(lists) = CrlSet::parse(bytes) {
            let _ = verdict(&leaf, &root, &lists); // may say anything, but must say it
        }
    });
    crate::testing::mutations(root.crl_pem(&[7]).as_bytes(), 1000, |bytes| {
        let _ = CrlSet::parse(bytes);
    });
}

// V-22: lists with an issuing distribution point
#[test]
fn a_partitioned_list_counts_but_for_certificates_that_name_another_point() {
    let root = Signer::root("a");
    let lists = CrlSet::parse(&root.crl_at(&[7], Some("http://crl.test/one"))).unwrap();
    let at = |point: Option<&str>| {
        root.leaf(vec![uri("spiffe://td/ns/shop/sa/cart")], 7, |params| {
            let uris = point.map(|point| vec![point.to_owned()]);
            params.crl_distribution_points = uris.into_iter().map(|uris| rcgen::CrlDistributionPoint { uris }).collect();
        })
    };
    let revoked = Err(NotOurPeer::Chain(webpki::Error::CertRevoked));
    assert_eq!(verdict(&at(Some("http://crl.test/one")), &root, &lists), revoked);
    assert_eq!(verdict(&at(Some("http://crl.test/two")), &root, &lists), Ok(()));
    assert_eq!(verdict(&at(None), &root, &lists), revoked);
}
