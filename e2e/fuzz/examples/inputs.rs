//! Makes what is signed in `inputs/` and `keys/` anew: certificates, lists, requests and tokens of an authority that
//! nobody trusts. `cargo run -p fuzz --example inputs`, and commit what it wrote.

use std::fs;
use std::path::Path;
use std::time::Duration;

use fuzz::targets::identity::{keys, now};
use mesh_identity::sign::{Ca, Lifetimes, ROOT_LIFE};
use mesh_identity::token::{AUDIENCE, Minter, ObjectRef, Subject};
use mesh_model::identity::SpiffeId;
use rcgen::{
    CertificateParams, CertificateRevocationListParams, DistinguishedName, Issuer, KeyIdMethod, KeyPair, RevokedCertParams,
    SanType, SerialNumber,
};

const HOUR: Duration = Duration::from_secs(3600);

fn main() -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let write = |path: &str, bytes: &[u8]| -> anyhow::Result<()> {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap_or(root))?;
        Ok(fs::write(path, bytes)?)
    };
    let lifetimes = Lifetimes { default: HOUR, max: HOUR };
    let ca = Ca::self_signed("cluster.local", ROOT_LIFE, lifetimes, now())?;
    write("keys/ca.pem", ca.certificate_pem().as_bytes())?;
    write("keys/ca.key", ca.private_pem().as_bytes())?;

    let identity = SpiffeId::new("cluster.local", "shop", "cart");
    let request = mesh_identity::csr::request(&identity)?.csr;
    write("inputs/csr/plain", request.as_bytes())?;
    let mut serials = Vec::new();
    for name in ["signed-0", "signed-1-revoked"] {
        let issued = ca.issue(&request, &identity, HOUR, now())?;
        write(&format!("inputs/x509_names/{name}"), &der(&issued.chain[0])?)?;
        let serial: Result<Vec<u8>, _> = (0..16).map(|at| u8::from_str_radix(&issued.serial[at * 2..at * 2 + 2], 16)).collect();
        serials.push(SerialNumber::from(serial?));
    }
    let issuer = Issuer::from_ca_cert_pem(&ca.certificate_pem(), KeyPair::from_pem(&ca.private_pem())?)?;
    let key = KeyPair::generate()?;
    let uri = |text: &str| -> anyhow::Result<SanType> { Ok(SanType::URI(text.try_into()?)) };
    let odd = [
        ("two", vec![uri("spiffe://td/ns/a/sa/b")?, uri("spiffe://td/ns/a/sa/c")?]),
        ("dns", vec![SanType::DnsName("web.shop".try_into()?), uri("spiffe://td/ns/a/sa/b")?]),
        ("mail", vec![SanType::Rfc822Name("spiffe://td/ns/a/sa/b".try_into()?)]),
        ("other", vec![SanType::OtherName((vec![1, 3, 6, 1, 5], "spiffe://td/ns/a/sa/b".into()))]),
        ("none", vec![]),
    ];
    for (name, names) in odd {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = names;
        write(&format!("inputs/x509_names/odd-{name}"), params.signed_by(&key, &issuer)?.der())?;
    }
    let mut wishes = CertificateParams::default();
    wishes.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    wishes.subject_alt_names = vec![uri("spiffe://other/ns/a/sa/b")?];
    write("inputs/csr/authority", wishes.serialize_request(&key)?.pem()?.as_bytes())?;
    let mut wishes = CertificateParams::default();
    wishes.subject_alt_names = vec![uri("spiffe://other/ns/a/sa/b")?];
    write("inputs/csr/another-name", wishes.serialize_request(&key)?.pem()?.as_bytes())?;

    let at = |offset: u64| rcgen::date_time_ymd(2026, 1, 2) + Duration::from_secs(offset);
    for (name, revoked) in [("empty", &serials[..0]), ("one", &serials[1..])] {
        let entry = |serial: &SerialNumber| RevokedCertParams {
            serial_number: serial.clone(),
            revocation_time: at(0),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: at(0),
            next_update: at(3600),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(entry).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&issuer)?;
        write(&format!("inputs/crl/{name}-pem"), list.pem()?.as_bytes())?;
        write(&format!("inputs/crl/{name}-der"), list.der())?;
    }

    let minter = Minter::generate(keys::ISSUER)?;
    write("keys/token.pub", minter.public_pem().as_bytes())?;
    let reference = |name: &str| ObjectRef { name: name.to_owned(), uid: format!("{name}-uid") };
    let mut subject =
        Subject { namespace: "shop".to_owned(), service_account: reference("cart"), pod: None, node: Some(reference("n1")) };
    write("inputs/token/signed-node", minter.mint(&subject, AUDIENCE, HOUR, now())?.as_bytes())?;
    subject.pod = Some(reference("cart-1"));
    write("inputs/token/signed-pod", minter.mint(&subject, AUDIENCE, HOUR, now())?.as_bytes())?;
    write("inputs/token/signed-other-audience", minter.mint(&subject, "other", HOUR, now())?.as_bytes())?;
    Ok(())
}

fn der(pem: &str) -> anyhow::Result<Vec<u8>> {
    use rustls_pki_types::pem::PemObject as _;
    Ok(rustls_pki_types::CertificateDer::from_pem_slice(pem.as_bytes())?.to_vec())
}
