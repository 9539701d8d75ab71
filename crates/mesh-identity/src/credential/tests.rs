use super::*;
use crate::testing::{DAY, HOUR, Signer, id, start, uri, valid};

fn leaf(signer: &Signer) -> crate::testing::Leaf {
    signer.leaf(vec![uri("spiffe://td/ns/shop/sa/cart")], 7, |_| {})
}

fn take(answer: &[String], key: PrivateKeyDer<'static>) -> Result<Credential, BadAnswer> {
    Credential::from_answer(&id("shop", "cart"), key, answer, start())
}

// Z-190
#[test]
fn a_good_answer_becomes_a_credential_without_the_root() {
    let root = Signer::root("a");
    let below = root.intermediate("b", 2);
    let leaf = leaf(&below);
    let answer = leaf.answer(std::slice::from_ref(&root.root));
    let credential = take(&answer, leaf.key).unwrap();
    assert_eq!(credential.chain(), leaf.chain);
    assert_eq!(credential.root_certificates(), [root.root]);
    assert_eq!(credential.not_after(), start() + DAY);
    assert!(!credential.expired(start() + DAY - HOUR));
    assert!(credential.expired(start() + DAY));
}

// Older authorities put several certificates in one element (spec/dataplane.md 10).
#[test]
fn every_element_is_read_as_a_bundle_and_a_root_in_the_chain_is_not_presented() {
    let root = Signer::root("a");
    let below = root.intermediate("b", 2);
    let leaf = leaf(&below);
    let whole: String = leaf.chain.iter().chain([&root.root]).map(pem::encode).collect();
    let credential = take(&[whole, pem::encode(&root.root)], leaf.key).unwrap();
    assert_eq!(credential.chain(), leaf.chain);
}

// Z-178
#[test]
fn several_roots_are_all_kept() {
    let (root, next) = (Signer::root("a"), Signer::root("b"));
    let leaf = leaf(&root);
    let answer = leaf.answer(&[next.root.clone(), root.root.clone()]);
    assert_eq!(take(&answer, leaf.key).unwrap().root_certificates(), [next.root, root.root]);
}

// Z-026, Z-027
#[test]
fn bad_answers_are_refused_with_their_reason() {
    let (root, other) = (Signer::root("a"), Signer::root("a"));
    let roots = [root.root.clone()];
    let name = || vec![uri("spiffe://td/ns/shop/sa/cart")];
    let mut rows: Vec<(&str, Vec<String>, PrivateKeyDer<'static>)> = Vec::new();
    let good = leaf(&root);
    rows.push(("empty certificate chain", vec![], good.key.clone_key()));
    rows.push(("no root certificate", vec![pem::encode(&good.chain[0])], good.key.clone_key()));
    rows.push(("no root certificate", vec![pem::encode(&good.chain[0]), String::new()], good.key.clone_key()));
    rows.push(("no leaf certificate", vec![String::new(), pem::encode(&root.root)], good.key.clone_key()));
    rows.push(("no leaf certificate", vec![pem::encode(&root.root); 2], good.key.clone_key()));
    rows.push(("element 0", vec!["-----BEGIN CERTIFICATE-----\n!".into(), pem::encode(&root.root)], good.key.clone_key()));
    let garbage = pem::section("CERTIFICATE", b"no certificate");
    rows.push(("cannot be read", vec![pem::encode(&good.chain[0]), garbage.clone()], good.key.clone_key()));
    rows.push(("does not belong to the key", vec![garbage, pem::encode(&root.root)], good.key.clone_key()));
    rows.push(("does not belong to the key", good.answer(&roots), leaf(&root).key));
    rows.push(("does not lead to the roots", good.answer(std::slice::from_ref(&other.root)), good.key.clone_key()));
    rows.push(("10 certificates before the roots", vec![pem::encode(&good.chain[0]).repeat(10), pem::encode(&root.root)], good.key.clone_key()));
    rows.push(("65 roots", vec![pem::encode(&good.chain[0]), pem::encode(&root.root).repeat(65)], good.key.clone_key()));
    let mut made = |expect, names, change: fn(&mut rcgen::CertificateParams)| {
        let leaf = root.leaf(names, 7, change);
        rows.push((expect, leaf.answer(&roots), leaf.key));
    };
    made("answered with a certificate of spiffe://td/ns/shop/sa/other", vec![uri("spiffe://td/ns/shop/sa/other")], |_| {});
    made("answered with a certificate of spiffe://td2/ns/shop/sa/cart", vec![uri("spiffe://td2/ns/shop/sa/cart")], |_| {});
    made("several URI names", [name(), name()].concat(), |_| {});
    made("no subject alternative name", vec![], |_| {});
    made("already expired, at 2026-03-04T05:06:07Z", name(), |params| valid(params, start() - DAY, start()));
    made("does not lead to the roots", name(), |params| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    });
    for (expect, answer, key) in rows {
        let err = take(&answer, key).unwrap_err().to_string();
        assert!(err.contains(expect), "expected {expect:?}, got {err:?}");
    }
}

#[test]
fn a_node_whose_clock_is_behind_takes_its_certificate() {
    let root = Signer::root("a");
    let leaf = leaf(&root);
    let answer = leaf.answer(std::slice::from_ref(&root.root));
    assert!(Credential::from_answer(&id("shop", "cart"), leaf.key, &answer, start() - 2 * HOUR).is_ok());
}

#[test]
fn an_intermediate_that_ends_sooner_ends_the_credential() {
    let root = Signer::root("a");
    let mut below = root.intermediate("b", 2);
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    valid(&mut params, start() - DAY, start() + HOUR);
    below.der = params.signed_by(&key, &root.issuer).unwrap().der().clone();
    below.issuer = rcgen::Issuer::new(params, key);
    below.above = vec![below.der.clone()];
    let leaf = leaf(&below);
    let answer = leaf.answer(std::slice::from_ref(&root.root));
    assert_eq!(take(&answer, leaf.key).unwrap().not_after(), start() + HOUR);
}

// T-50
#[test]
fn the_key_is_never_printed() {
    let root = Signer::root("a");
    let credential = root.credential(&id("shop", "cart"), 7);
    let shown = format!("{credential:?}");
    assert_eq!(
        shown,
        "Credential { identity: spiffe://td/ns/shop/sa/cart, not_before: \"2026-03-04T05:04:07Z\", \
         not_after: \"2026-03-05T05:06:07Z\", .. }"
    );
}

// A hostile or broken authority, or one in the middle
#[test]
fn mutated_answers_never_panic_and_never_name_another() {
    let root = Signer::root("a");
    let leaf = leaf(&root);
    crate::testing::mutations(&leaf.chain[0], 1500, |bytes| {
        let answer = [pem::section("CERTIFICATE", bytes), pem::encode(&root.root)];
        if let Ok(credential) = take(&answer, leaf.key.clone_key()) {
            assert_eq!(credential.chain(), leaf.chain, "a damaged leaf has no valid signature");
        }
    });
    crate::testing::mutations(&root.root, 1500, |bytes| {
        let answer = [pem::encode(&leaf.chain[0]), pem::section("CERTIFICATE", bytes)];
        let _ = take(&answer, leaf.key.clone_key());
    });
    crate::testing::mutations(pem::encode(&leaf.chain[0]).as_bytes(), 1000, |bytes| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let _ = take(&[text, pem::encode(&root.root)], leaf.key.clone_key());
    });
}
