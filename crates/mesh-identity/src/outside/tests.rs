use std::time::{Duration, SystemTime};

use rcgen::SanType;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::testing::{Leaf, Signer, uri, valid};

const HOUR: Duration = Duration::from_secs(3600);

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.to_owned().try_into().unwrap())
}

/// A leaf of today: these checks go by the machine's clock.
fn leaf(signer: &Signer, names: Vec<SanType>, serial: u64) -> Leaf {
    let now = SystemTime::now();
    signer.leaf(names, serial, |params| valid(params, now - HOUR, now + HOUR))
}

fn key_pem(key: &PrivateKeyDer<'_>) -> String {
    pem::section("PRIVATE KEY", key.secret_der())
}

struct Server {
    config: ServerConfig,
}

impl Server {
    fn new(leaf: Leaf, versions: &[&'static SupportedProtocolVersion], clients_of: Option<&Signer>) -> Server {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions).unwrap();
        let builder = match clients_of {
            None => builder.with_no_client_auth(),
            Some(signer) => {
                let mut roots = RootCertStore::empty();
                roots.add(signer.root.clone()).unwrap();
                builder.with_client_cert_verifier(WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build().unwrap())
            }
        };
        let mut config = builder.with_single_cert(leaf.chain, leaf.key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Server { config }
    }

    /// What a client with this trust hears from here, or why it hears nothing; and which name it asked for.
    async fn greet(&self, trust: &Trust<'_>, host: &str, alpn: &[&[u8]]) -> Result<String, String> {
        let outside = Outside::new(trust).map_err(|why| why.to_string())?;
        let (near, far) = duplex(1 << 16);
        let acceptor = TlsAcceptor::from(Arc::new(self.config.clone()));
        let serving = tokio::spawn(async move {
            let mut stream = acceptor.accept(far).await?;
            let state = stream.get_ref().1;
            let said = format!("{:?} {:?}", state.server_name(), state.alpn_protocol().map(String::from_utf8_lossy));
            stream.write_all(said.as_bytes()).await?;
            stream.shutdown().await
        });
        let mut stream = outside.connect(near, host, alpn).await.map_err(|why| why.to_string())?;
        let mut said = String::new();
        let read = stream.read_to_string(&mut said).await;
        drop(stream);
        let _ = serving.await;
        read.map(|_| said).map_err(|why| why.to_string())
    }
}

fn trust<'a>(roots: &'a str) -> Trust<'a> {
    Trust { server_name: None, names: &[], roots_pem: Some(roots), crl_pem: "", skip_verify: false, client: None }
}

#[tokio::test]
async fn a_server_is_believed_by_its_authority_and_name_and_by_nothing_less() {
    let signer = Signer::root("ours");
    let (roots, other) = (pem::encode(&signer.root), pem::encode(&Signer::root("other").root));
    let names = vec![dns("web.test"), uri("spiffe://td/ns/a/sa/b")];
    let server = Server::new(leaf(&signer, names, 7), &[&TLS13, &TLS12], None);
    let listed = |names: &[&str]| -> Vec<String> { names.iter().map(|name| name.to_string()).collect() };
    let revoked = signer.crl_pem(&[7]);
    let (by_uri, by_other, one_of) = (listed(&["spiffe://td/ns/a/sa/b"]), listed(&["other.test"]), listed(&["x.test", "web.test"]));
    let ours = trust(&roots);
    let table = [
        ("the host's own name", ours, "web.test", true),
        ("a final dot", ours, "web.test.", true),
        ("another host", ours, "other.test", false),
        ("another authority", trust(&other), "web.test", false),
        ("whatever it is", Trust { skip_verify: true, ..trust(&other) }, "other.test", true),
        ("a name of the policy's", Trust { server_name: Some("web.test"), ..ours }, "10.0.0.1", true),
        ("a URI", Trust { names: &by_uri, ..ours }, "other.test", true),
        ("one of several", Trust { names: &one_of, ..ours }, "other.test", true),
        ("none of several", Trust { names: &by_other, ..ours }, "web.test", false),
        ("revoked", Trust { crl_pem: &revoked, ..ours }, "web.test", false),
    ];
    for (what, trust, host, believed) in table {
        let heard = server.greet(&trust, host, &[]).await;
        assert_eq!(heard.is_ok(), believed, "{what}: {heard:?}");
    }
    // The store of the system does not have our authority in it.
    assert!(server.greet(&Trust { roots_pem: None, ..ours }, "web.test", &[]).await.is_err());
}

#[tokio::test]
async fn name_and_protocol_are_told_and_both_versions_are_spoken() {
    let signer = Signer::root("ours");
    let roots = pem::encode(&signer.root);
    for versions in [[&TLS13], [&TLS12]] {
        let server = Server::new(leaf(&signer, vec![dns("web.test")], 7), &versions, None);
        let heard = server.greet(&trust(&roots), "web.test", &[b"http/1.1"]).await.unwrap();
        assert_eq!(heard, r#"Some("web.test") Some("http/1.1")"#, "{versions:?}");
        assert_eq!(server.greet(&trust(&roots), "web.test", &[]).await.unwrap(), r#"Some("web.test") None"#);
    }
    let address: std::net::IpAddr = "10.0.0.1".parse().unwrap();
    let server = Server::new(leaf(&signer, vec![SanType::IpAddress(address)], 7), &[&TLS13], None);
    assert_eq!(server.greet(&trust(&roots), "10.0.0.1", &[]).await.unwrap(), "None None", "an address is never told");
}

#[tokio::test]
async fn a_client_shows_its_certificate_where_the_policy_gives_one() {
    let signer = Signer::root("ours");
    let roots = pem::encode(&signer.root);
    let server = Server::new(leaf(&signer, vec![dns("web.test")], 7), &[&TLS13], Some(&signer));
    assert!(server.greet(&trust(&roots), "web.test", &[]).await.is_err(), "it demands one");
    let own = leaf(&signer, vec![dns("client.test")], 8);
    let (chain, key) = (own.chain.iter().map(pem::encode).collect::<String>(), key_pem(&own.key));
    let mutual = Trust { client: Some((&chain, &key)), ..trust(&roots) };
    assert!(server.greet(&mutual, "web.test", &[]).await.is_ok());
}

#[test]
fn a_policy_that_nobody_could_keep_is_none() {
    let roots = pem::encode(&Signer::root("ours").root);
    for (trust, wrong) in [
        (trust("no certificate"), "authorities"),
        (Trust { crl_pem: "nonsense", ..trust(&roots) }, "revocation"),
        (Trust { server_name: Some("a b"), ..trust(&roots) }, "\"a b\""),
        (Trust { client: Some(("", "")), ..trust(&roots) }, "client certificate"),
    ] {
        let refused = Outside::new(&trust).unwrap_err().to_string();
        assert!(refused.contains(wrong), "{refused}");
    }
}
