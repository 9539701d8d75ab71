use super::*;
use crate::testing::{Signer, start, uri};
use rcgen::{CustomExtension, SanType};

fn identity(names: Vec<SanType>) -> Result<SpiffeId, NotOurPeer> {
    identity_of(&Signer::root("a").leaf(names, 7, |_| {}).chain[0])
}

// V-24, V-25
#[test]
fn only_one_well_formed_uri_name_is_an_identity() {
    let good = "spiffe://td/ns/a/sa/b";
    assert_eq!(identity(vec![uri(good)]).unwrap().to_string(), good);
    let dns = |name: &str| SanType::DnsName(name.to_owned().try_into().unwrap());
    assert_eq!(identity(vec![dns("b.a.svc"), uri(good)]).unwrap().to_string(), good);

    let long = format!("spiffe://td/ns/a/sa/{}", "b".repeat(10_000));
    let bad_uris = [
        "spiffe://td/ns/a/sa/b\0x", "spiffe://td/ns/a/sa/b\n", "SPIFFE://td/ns/a/sa/b", "spiffe://td/ns/a/sa/%62",
        "spiffe://td/ns//sa/b", "spiffe://td/ns/../sa/b", "spiffe://td/ns/./sa/b", "spiffe://td/ns/a/sa/b/", "spiffe://td/ns/a/sa/b?x",
        "spiffe://td/ns/a/sa/b#x", "spiffe://td:80/ns/a/sa/b", "spiffe://u@td/ns/a/sa/b", "https://td/ns/a/sa/b", "spiffe://td/ns/a/sa/*",
        long.as_str(),
    ];
    let mut bad: Vec<Vec<SanType>> = bad_uris.into_iter().map(|text| vec![uri(text)]).collect();
    bad.push(vec![]);
    bad.push(vec![dns("spiffe.td.ns.a.sa.b")]);
    bad.push(vec![SanType::Rfc822Name("spiffe://td/ns/a/sa/b".to_owned().try_into().unwrap())]);
    bad.push(vec![SanType::OtherName((vec![1, 3, 6, 1, 5], good.into()))]);
    bad.push(vec![uri(good), uri(good)]);
    bad.push(vec![uri("spiffe://foreign/ns/a/sa/b"), uri(good)]);
    for names in bad {
        let shown = format!("{names:?}");
        assert!(matches!(identity(names), Err(NotOurPeer::NoIdentity(_))), "{shown:.200} was accepted");
    }
}

// V-24
#[test]
fn a_second_extension_with_names_is_no_identity() {
    let names = vec![uri("spiffe://td/ns/a/sa/b")];
    let leaf = Signer::root("a").leaf(names, 7, |params| {
        // SEQUENCE { [6] "spiffe://x/ns/a/sa/b" } under the number of subjectAltName
        let mut content = vec![0x30, 22, 0x86, 20];
        content.extend_from_slice(b"spiffe://x/ns/a/sa/b");
        params.custom_extensions = vec![CustomExtension::from_oid_content(&[2, 5, 29, 17], content)];
    });
    assert!(matches!(identity_of(&leaf.chain[0]), Err(NotOurPeer::NoIdentity(_))));
}

// V-25: found by fuzzing; one reader saw the second name alone
#[test]
fn a_name_that_is_no_text_beside_a_good_one_is_a_second_name() {
    for first in [&b"spiffe://td/ns/a/sa/\xae"[..], b"spiffe://td/ns/a/sa/b"] {
        let second = b"spiffe://td/ns/a/sa/c";
        let names = [&[0x86, first.len() as u8][..], first, &[0x86, second.len() as u8], second].concat();
        let content = [&[0x30, names.len() as u8][..], &names].concat();
        let leaf = Signer::root("a").leaf(vec![], 7, |params| {
            params.custom_extensions = vec![CustomExtension::from_oid_content(&[2, 5, 29, 17], content.clone())];
        });
        assert!(matches!(identity_of(&leaf.chain[0]), Err(NotOurPeer::NoIdentity(_))), "{}", first.escape_ascii());
    }
}

// V-24: found by fuzzing; what stands behind a certificate is looked at by some readers
#[test]
fn bytes_after_a_certificate_make_it_none() {
    let leaf = Signer::root("a").leaf(vec![uri("spiffe://td/ns/a/sa/b")], 7, |_| {});
    assert!(identity_of(&leaf.chain[0]).is_ok());
    let longer = CertificateDer::from([leaf.chain[0].as_ref(), b"\0"].concat());
    assert!(matches!(identity_of(&longer), Err(NotOurPeer::NoIdentity(_))));
}

#[test]
fn what_is_no_certificate_is_no_identity() {
    for bytes in [&b""[..], b"x", &[0x30, 0x82, 0xff, 0xff], &[0x30; 4096]] {
        let bytes = CertificateDer::from(bytes.to_vec());
        assert!(matches!(identity_of(&bytes), Err(NotOurPeer::NoIdentity(_))));
        let roots = Roots::readable(&[]);
        let refused = chain(&bytes, &[], &roots, Usage::Client, start(), &CrlSet::default());
        assert!(matches!(refused, Err(NotOurPeer::Chain(_))));
    }
}

// V-22
#[test]
fn a_long_list_of_intermediates_is_refused_before_any_path_is_built() {
    let root = Signer::root("a");
    let leaf = root.leaf(vec![uri("spiffe://td/ns/a/sa/b")], 7, |_| {});
    let roots = Roots::new(std::slice::from_ref(&root.root)).unwrap();
    let many: Vec<_> = (0..100).map(|serial| root.intermediate("a", serial + 10).der).collect();
    let check = |count: usize| chain(&leaf.chain[0], &many[..count], &roots, Usage::Client, start(), &CrlSet::default());
    assert_eq!(check(MAX_INTERMEDIATES), Ok(()));
    assert_eq!(check(MAX_INTERMEDIATES + 1), Err(NotOurPeer::TooManyIntermediates(9)));
    assert_eq!(check(100), Err(NotOurPeer::TooManyIntermediates(100)));
}

// V-24
#[test]
fn mutated_leaves_never_panic() {
    let root = Signer::root("a");
    let leaf = root.leaf(vec![uri("spiffe://td/ns/a/sa/b")], 7, |_| {});
    let roots = Roots::new(std::slice::from_ref(&root.root)).unwrap();
    crate::testing::mutations(&leaf.chain[0], 3000, |bytes| {
        let damaged = CertificateDer::from(bytes.to_vec());
        let _ = identity_of(&damaged);
        let trusted = chain(&damaged, &[], &roots, Usage::Client, start(), &CrlSet::default()).is_ok();
        assert!(!trusted || damaged == leaf.chain[0]);
    });
}
