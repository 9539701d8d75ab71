use super::*;
use std::os::unix::fs::PermissionsExt;

use crate::testing::{DAY, HOUR, id, start, uri, valid};
use rcgen::{CertificateRevocationListParams, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256};

fn ca() -> Ca {
    Ca::self_signed("td", ROOT_LIFE, Lifetimes::default(), start()).unwrap()
}

fn cart() -> SpiffeId {
    id("shop", "cart")
}

fn parsed(pem: &str) -> x509_parser::pem::Pem {
    x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap().1
}

fn csr_of(key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> String {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    change(&mut params);
    params.serialize_request(key).unwrap().pem().unwrap()
}

// spec/controlplane.md 3.5
#[test]
fn a_leaf_has_exactly_what_it_should() {
    let request = csr::request(&cart()).unwrap();
    let issued = ca().issue(&request.csr, &cart(), HOUR, start()).unwrap();
    assert_eq!(issued.chain.len(), 2, "leaf and root");
    assert!(issued.chain.iter().all(|element| element.ends_with("-----END CERTIFICATE-----\n")));
    assert!(issued.ignored.is_empty());
    let block = parsed(&issued.chain[0]);
    let leaf = block.parse_x509().unwrap();
    assert_eq!(leaf.subject().iter().count(), 0);
    assert_eq!(leaf.raw_serial().len(), 16);
    assert_eq!(issued.serial, leaf.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    let now = i64::try_from(unix_seconds(start())).unwrap();
    assert_eq!(leaf.validity().not_before.timestamp(), now - 120);
    assert_eq!(leaf.validity().not_after.timestamp(), now + 3600);
    let usage = leaf.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && usage.key_encipherment() && !usage.key_cert_sign() && !usage.crl_sign());
    let purpose = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(purpose.server_auth && purpose.client_auth && !purpose.any && !purpose.code_signing);
    let constraints = leaf.basic_constraints().unwrap().unwrap();
    assert!(constraints.critical && !constraints.value.ca);
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert!(names.critical);
    assert_eq!(names.value.general_names, [GeneralName::URI("spiffe://td/ns/shop/sa/cart")]);
    assert_eq!(leaf.extensions().len(), 6, "names, key usage, purpose, constraints, the two key identifiers");
    Credential::from_answer(&cart(), request.key, &issued.chain, start()).unwrap();
}

#[test]
fn serial_numbers_are_random() {
    let (ca, request) = (ca(), csr::request(&cart()).unwrap());
    let serials: std::collections::BTreeSet<String> =
        (0..100).map(|_| ca.issue(&request.csr, &cart(), HOUR, start()).unwrap().serial).collect();
    assert_eq!(serials.len(), 100);
}

// T-07: names, purposes and extensions of a request are never copied
#[test]
fn what_a_request_asks_for_is_ignored_or_refused() {
    let key = KeyPair::generate().unwrap();
    let ca = ca();
    let ignored = [
        csr_of(&key, |params| params.subject_alt_names = vec![uri("spiffe://td/ns/shop/sa/admin")]),
        csr_of(&key, |params| params.subject_alt_names = vec![uri("spiffe://td/ns/shop/sa/cart"), uri("spiffe://other/ns/x/sa/y")]),
        csr_of(&key, |params| params.subject_alt_names = vec![SanType::DnsName("*".to_owned().try_into().unwrap())]),
        csr_of(&key, |params| params.distinguished_name.push(DnType::CommonName, "admin")),
        csr_of(&key, |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning]),
        csr_of(&key, |params| {
            params.custom_extensions = vec![rcgen::CustomExtension::from_oid_content(&[1, 2, 3], vec![5, 0])];
        }),
        csr_of(&key, |params| {
            params.custom_extensions = vec![rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 30], vec![0x30, 0])];
        }),
    ];
    for csr in &ignored {
        let issued = ca.issue(csr, &cart(), HOUR, start()).unwrap();
        let block = parsed(&issued.chain[0]);
        let leaf = block.parse_x509().unwrap();
        let names = leaf.subject_alternative_name().unwrap().unwrap().value;
        assert_eq!(names.general_names, [GeneralName::URI("spiffe://td/ns/shop/sa/cart")]);
        assert_eq!((leaf.subject().iter().count(), leaf.extensions().len()), (0, 6));
        assert!(!leaf.extended_key_usage().unwrap().unwrap().value.code_signing);
    }
    let audit = |csr| ca.issue(csr, &cart(), HOUR, start()).unwrap().ignored;
    assert_eq!(audit(&ignored[0]), ["spiffe://td/ns/shop/sa/admin"]);
    assert_eq!(audit(&ignored[1]), ["spiffe://other/ns/x/sa/y"]);
    assert_eq!(audit(&ignored[2]), ["DNS:*"]);

    let good = csr_of(&key, |_| {});
    let der = parsed(&good).contents;
    let mut forged = der.clone();
    *forged.last_mut().unwrap() ^= 1;
    let refused = [
        (csr_of(&key, |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)), "certificate of an authority"),
        (csr_of(&key, |params| params.key_usages = vec![KeyUsagePurpose::KeyCertSign]), "right to sign"),
        (csr_of(&key, |params| params.key_usages = vec![KeyUsagePurpose::CrlSign]), "right to sign"),
        (include_str!("fixtures/rsa-1024.csr").to_owned(), "shorter than 2048"),
        (pem::section("CERTIFICATE REQUEST", &forged), "signature is wrong"),
        (pem::section("CERTIFICATE REQUEST", &[der.as_slice(), b"x"].concat()), "bytes after"),
        (pem::section("CERTIFICATE REQUEST", &der[..40]), "not a PKCS#10"),
        (pem::section("CERTIFICATE", &der), "not a certificate request"),
        (String::new(), "not PEM"),
        ("-----BEGIN CERTIFICATE REQUEST-----".to_owned(), "not PEM"),
        ("A".repeat(MAX_CSR_BYTES + 1), "at most 16384"),
    ];
    for (csr, expect) in refused {
        let err = ca.issue(&csr, &cart(), HOUR, start()).unwrap_err();
        assert!(err.is_callers_fault(), "{err}");
        assert!(err.to_string().contains(expect), "expected {expect:?}, got {err}");
    }
}

#[test]
fn keys_of_all_usual_kinds_get_certificates() {
    let keys = [
        KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap(),
        KeyPair::generate_for(&PKCS_ED25519).unwrap(),
        KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap(),
    ];
    for key in keys {
        let issued = ca().issue(&csr_of(&key, |_| {}), &cart(), HOUR, start()).unwrap();
        assert_eq!(parsed(&issued.chain[0]).parse_x509().unwrap().public_key().raw, key.subject_public_key_info());
    }
}

// spec/controlplane.md 3.5
#[test]
fn lifetimes_have_a_default_a_maximum_and_the_signers_end() {
    let life = |ca: &Ca, asked: Duration, now: SystemTime| {
        ca.issue(&csr::request(&cart()).unwrap().csr, &cart(), asked, now).map(|issued| issued.not_after)
    };
    let ca = ca();
    assert_eq!(life(&ca, Duration::ZERO, start()).unwrap(), start() + DAY);
    assert_eq!(life(&ca, 90 * DAY, start()).unwrap(), start() + 90 * DAY);
    assert!(matches!(life(&ca, 90 * DAY + HOUR, start()), Err(CannotSign::TooLong { .. })));
    assert!(matches!(life(&ca, Duration::MAX, start()), Err(CannotSign::TooLong { .. })));
    let late = start() + ROOT_LIFE - HOUR;
    assert_eq!(life(&ca, DAY, late).unwrap(), start() + ROOT_LIFE);
    let over = life(&ca, DAY, start() + ROOT_LIFE).unwrap_err();
    assert!(matches!(over, CannotSign::SignerExpired(_)));
    assert!(!over.is_callers_fault());
}

/// A root, an intermediate and their files.
struct Pki {
    files: PluggedIn,
}

fn pki(organization: &str) -> Pki {
    let root_key = KeyPair::generate().unwrap();
    let root_params = root_params(organization, ROOT_LIFE, start());
    let root = root_params.self_signed(&root_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = super::root_params("intermediate", ROOT_LIFE / 2, start());
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let intermediate = params.signed_by(&key, &Issuer::new(root_params, root_key)).unwrap();
    Pki { files: PluggedIn {
        certificate: intermediate.pem(),
        key: key.serialize_pem(),
        chain: intermediate.pem() + &root.pem(),
        roots: root.pem(),
    } }
}

// spec/controlplane.md 3.6
#[test]
fn a_plugged_in_intermediate_answers_with_its_chain() {
    let pki = pki("a");
    for chain in [pki.files.chain.clone(), String::new(), pki.files.certificate.clone()] {
        let ca = Ca::load(&PluggedIn { chain, ..pki.files.clone() }, Lifetimes::default(), start()).unwrap();
        let request = csr::request(&cart()).unwrap();
        let issued = ca.issue(&request.csr, &cart(), HOUR, start()).unwrap();
        let text = |pem: &str| pem.replace("\r\n", "\n");
        assert_eq!(issued.chain[1..], [text(&pki.files.certificate), text(&pki.files.roots)]);
        Credential::from_answer(&cart(), request.key, &issued.chain, start()).unwrap();
    }
}

// F-12: the middle step of a root rotation
#[test]
fn more_roots_go_out_in_the_last_element_once_each() {
    let (old, new) = (ca(), ca());
    let both = old.root_bundle() + &new.root_bundle();
    let ca = old.with_more_roots(&both).unwrap();
    let request = csr::request(&cart()).unwrap();
    let issued = ca.issue(&request.csr, &cart(), HOUR, start()).unwrap();
    assert_eq!(issued.chain.len(), 2);
    assert_eq!(issued.chain[1], both);
    assert_eq!(Credential::from_answer(&cart(), request.key, &issued.chain, start()).unwrap().root_certificates().len(), 2);
}

#[test]
fn plugged_in_files_that_do_not_fit_together_stop_the_start() {
    let (good, other) = (pki("a").files, pki("a").files);
    let leaf = {
        let ca = Ca::load(&good, Lifetimes::default(), start()).unwrap();
        ca.issue(&csr::request(&cart()).unwrap().csr, &cart(), HOUR, start()).unwrap().chain[0].clone()
    };
    let rows = [
        (PluggedIn { key: other.key.clone(), ..good.clone() }, "not the key of"),
        (PluggedIn { roots: other.roots.clone(), chain: String::new(), ..good.clone() }, "would not be trusted"),
        (PluggedIn { certificate: leaf, ..good.clone() }, "CA:TRUE is missing"),
        (PluggedIn { certificate: String::new(), ..good.clone() }, "ca-cert.pem holds no certificate"),
        (PluggedIn { roots: String::new(), ..good.clone() }, "root-cert.pem holds no certificate"),
        (PluggedIn { key: "x".to_owned(), ..good.clone() }, "ca-key.pem"),
    ];
    for (files, expect) in rows {
        let err = Ca::load(&files, Lifetimes::default(), start()).unwrap_err().to_string();
        assert!(err.contains(expect), "expected {expect:?}, got {err:?}");
    }
    let late = Ca::load(&good, Lifetimes::default(), start() + ROOT_LIFE).unwrap_err();
    assert!(late.to_string().contains("expired"), "{late}");
}

// Keys that openssl writes: PKCS#1 for RSA, SEC1 for elliptic curves
#[test]
fn plugged_in_keys_of_older_forms_sign() {
    for text in [include_str!("fixtures/rsa-pkcs1.key"), include_str!("fixtures/p256-sec1.key")] {
        let key = KeyPair::try_from(&pem::private_key(text.as_bytes()).unwrap()).unwrap();
        let root = root_params("older", ROOT_LIFE, start()).self_signed(&key).unwrap();
        let files = PluggedIn { certificate: root.pem(), key: text.to_owned(), chain: String::new(), roots: root.pem() };
        let ca = Ca::load(&files, Lifetimes::default(), start()).unwrap();
        assert!(ca.issue(&csr::request(&cart()).unwrap().csr, &cart(), HOUR, start()).is_ok());
    }
}

#[test]
fn the_controllers_own_certificate_names_hosts_and_addresses() {
    let serving = ca().serving(&["istiod.istio-system.svc".into(), "127.0.0.1".into(), "::1".into()], ROOT_LIFE, start()).unwrap();
    assert_eq!(serving.not_after, start() + ROOT_LIFE);
    let (_, leaf) = x509_parser::parse_x509_certificate(&serving.chain[0]).unwrap();
    let names = leaf.subject_alternative_name().unwrap().unwrap().value;
    let mut loopback = [0u8; 16];
    loopback[15] = 1;
    assert_eq!(names.general_names, [
        GeneralName::DNSName("istiod.istio-system.svc"),
        GeneralName::IPAddress(&[127, 0, 0, 1]),
        GeneralName::IPAddress(&loopback),
    ]);
    assert!(ca().serving(&["bücher".into()], HOUR, start()).is_err());
}

// Revocation lists of our root are accepted by peers: it may sign them.
#[test]
fn the_root_may_sign_revocation_lists() {
    let ca = ca();
    let params = CertificateRevocationListParams {
        this_update: rcgen::date_time_ymd(2026, 1, 1),
        next_update: rcgen::date_time_ymd(2027, 1, 1),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: rcgen::KeyIdMethod::Sha256,
    };
    let list = params.signed_by(&ca.issuer).unwrap();
    assert_eq!(crate::crl::CrlSet::parse(list.der()).unwrap().len(), 1);
}

#[test]
fn the_key_is_never_printed() {
    let ca = ca();
    let shown = format!("{ca:?}");
    assert_eq!(shown, "Ca { not_after: \"2036-03-01T05:06:07Z\", intermediates: 0, roots: 1, .. }");
}

fn mode(path: &std::path::Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

// T-53, spec/controlplane.md 3.6
#[test]
fn a_self_signed_root_is_made_once_and_kept_private() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("ca");
    let make = || home::self_signed(&home, "td", ROOT_LIFE, Lifetimes::default(), start()).unwrap();
    let first = make();
    assert_eq!(mode(&home), 0o700);
    assert_eq!(mode(&home.join("root/ca-key.pem")), 0o600);
    let again = make();
    assert_eq!((again.root_bundle(), again.private_pem()), (first.root_bundle(), first.private_pem()));
    std::fs::remove_file(home.join("root/ca-key.pem")).unwrap();
    let err = home::self_signed(&home, "td", ROOT_LIFE, Lifetimes::default(), start()).unwrap_err().to_string();
    assert!(err.contains("holds ca-cert.pem but not ca-key.pem"), "{err}");
}

#[test]
fn programs_that_start_together_agree_on_one_root() {
    let folder = tempfile::tempdir().unwrap();
    let roots: Vec<String> = std::thread::scope(|scope| {
        let make = || home::self_signed(folder.path(), "td", ROOT_LIFE, Lifetimes::default(), start()).unwrap().root_bundle();
        let started: Vec<_> = (0..8).map(|_| scope.spawn(make)).collect();
        started.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(roots.iter().all(|root| *root == roots[0]));
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["root"], "nothing is left beside");
}

#[test]
fn plugged_in_folders_are_whole_or_absent() {
    let folder = tempfile::tempdir().unwrap();
    let read = || home::plugged_in(folder.path(), Lifetimes::default(), start());
    let put = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    assert!(read().unwrap().is_none());
    assert!(home::plugged_in(&folder.path().join("absent"), Lifetimes::default(), start()).unwrap().is_none());
    let files = pki("a").files;
    put("ca-cert.pem", &files.certificate);
    put("ca-key.pem", &files.key);
    put("root-cert.pem", &files.roots);
    let err = read().unwrap_err().to_string();
    assert!(err.contains("holds ca-cert.pem but not cert-chain.pem"), "{err}");
    put("cert-chain.pem", &files.chain);
    assert_eq!(read().unwrap().unwrap().roots().len(), 1);
    // The layout of a kubernetes.io/tls secret wins when tls.crt is there.
    let other = pki("b").files;
    put("tls.crt", &other.certificate);
    assert!(read().unwrap_err().to_string().contains("holds tls.crt but not tls.key"));
    put("tls.key", &other.key);
    put("ca.crt", &other.roots);
    let ca = read().unwrap().unwrap();
    assert_eq!(ca.root_bundle(), other.roots.replace("\r\n", "\n"));
}

#[test]
fn an_expired_root_is_not_silently_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let now = start();
    home::self_signed(folder.path(), "td", ROOT_LIFE, Lifetimes::default(), now).unwrap();
    let err = home::self_signed(folder.path(), "td", ROOT_LIFE, Lifetimes::default(), now + ROOT_LIFE).unwrap_err().to_string();
    assert!(err.contains("expired"), "{err}");
    let mut params = CertificateParams::default();
    valid(&mut params, now, now); // the helper and the authority agree on what a date is
    assert_eq!(params.not_before, params.not_after);
}

// T-07
#[test]
fn mutated_requests_never_panic_and_never_carry_anything_over() {
    let ca = ca();
    let request = csr::request(&cart()).unwrap();
    let der = parsed(&request.csr).contents;
    let key = X509CertificationRequest::from_der(&der).unwrap().1.certification_request_info.subject_pki.raw.to_vec();
    crate::testing::mutations(&der, 1500, |bytes| {
        let csr = pem::section("CERTIFICATE REQUEST", bytes);
        // Damage outside of what is signed may go unnoticed; what is signed may not change.
        if let Ok(issued) = ca.issue(&csr, &cart(), HOUR, start()) {
            assert_eq!(parsed(&issued.chain[0]).parse_x509().unwrap().public_key().raw, key);
            assert!(issued.ignored.is_empty());
        }
    });
    crate::testing::mutations(request.csr.as_bytes(), 1000, |bytes| {
        if let Ok(issued) = ca.issue(&String::from_utf8_lossy(bytes), &cart(), HOUR, start()) {
            assert!(issued.ignored.is_empty());
        }
    });
}
