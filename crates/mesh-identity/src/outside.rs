//! TLS to servers outside of the mesh: public or given authorities, names instead of identities, TLS 1.2 and 1.3
//! (spec/waypoint.md 1.9). What a policy demands is checked by us or the connection fails.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use webpki::EndEntityCert;
use x509_parser::extensions::GeneralName;

use crate::channel::SYSTEM_BUNDLES;
use crate::crl::CrlSet;
use crate::pem;
use crate::tls::{HANDSHAKE_TIMEOUT, TlsFailure};
use crate::verify::{NotOurPeer, Roots, Usage, chain, system_time, to_rustls};

pub use tokio_rustls::client::TlsStream;

/// What is believed of a server, and what is shown to it.
#[derive(Clone, Copy, Debug)]
pub struct Trust<'a> {
    /// Sent as SNI, and what the certificate must be for where `names` is empty; `None`: the host that is connected to. An
    /// address is never sent.
    pub server_name: Option<&'a str>,
    /// DNS names or URIs, any of which the certificate may have.
    pub names: &'a [String],
    /// `None`: the store of the operating system.
    pub roots_pem: Option<&'a str>,
    /// Revocation lists; empty: none.
    pub crl_pem: &'a str,
    /// Whoever answers is believed.
    pub skip_verify: bool,
    /// Chain and key, as PEM.
    pub client: Option<(&'a str, &'a str)>,
}

/// Why a policy cannot be kept by anybody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadTrust {
    #[error("{0:?} is neither a DNS name nor an IP address")]
    Name(String),
    #[error("the authorities hold no usable certificate: {0}")]
    Roots(String),
    #[error("the revocation lists cannot be read: {0}")]
    Crl(String),
    #[error("the client certificate cannot be used: {0}")]
    Client(String),
}

/// The client's side of TLS to one server.
#[derive(Debug, Clone)]
pub struct Outside {
    config: Arc<ClientConfig>,
    server_name: Option<ServerName<'static>>,
}

impl Outside {
    /// # Errors
    /// What cannot be read or used in it.
    pub fn new(trust: &Trust<'_>) -> Result<Outside, BadTrust> {
        let server_name = trust.server_name.map(name).transpose()?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = NamedOutside {
            roots: if trust.skip_verify { Arc::new(Roots::readable(&[])) } else { roots(trust.roots_pem)? },
            accepted: accepted(trust),
            crls: crls(trust.crl_pem)?,
            skip: trust.skip_verify,
            provider: provider.clone(),
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13, &TLS12])
            .expect("the provider has suites of both versions")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match trust.client {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let bad = |why: String| BadTrust::Client(why);
                let chain = pem::certificates(chain.as_bytes()).map_err(|why| bad(why.to_string()))?;
                if chain.is_empty() {
                    return Err(bad("there is no certificate in it".to_owned()));
                }
                let key = pem::private_key(key.as_bytes()).map_err(|why| bad(why.to_string()))?;
                builder.with_client_auth_cert(chain, key).map_err(|why| bad(why.to_string()))?
            }
        };
        // A resumed session would skip the checks, and a policy that has changed must hold for the next connection.
        config.resumption = Resumption::disabled();
        Ok(Outside { config: Arc::new(config), server_name })
    }

    /// TLS with `host` over an open stream, offering these protocols (RFC 7301); none: nothing is offered.
    ///
    /// # Errors
    /// The handshake does not come about in time, or the server is not who it should be.
    pub async fn connect<IO>(&self, io: IO, host: &str, alpn: &[&[u8]]) -> Result<TlsStream<IO>, TlsFailure>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let server_name = match &self.server_name {
            Some(name) => name.clone(),
            None => name(host).map_err(|_| TlsFailure::Protocol(rustls::Error::General(format!("{host:?} is no name that a certificate could have"))))?,
        };
        let config = if alpn.is_empty() {
            self.config.clone()
        } else {
            let mut config = ClientConfig::clone(&self.config);
            config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
            Arc::new(config)
        };
        let handshake = TlsConnector::from(config).connect(server_name, io);
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
            Ok(done) => done.map_err(TlsFailure::from_io),
            Err(_elapsed) => Err(TlsFailure::TimedOut(HANDSHAKE_TIMEOUT)),
        }
    }
}

fn name(text: &str) -> Result<ServerName<'static>, BadTrust> {
    let bare = text.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.');
    ServerName::try_from(bare.to_owned()).map_err(|_| BadTrust::Name(text.to_owned()))
}

fn roots(given: Option<&str>) -> Result<Arc<Roots>, BadTrust> {
    match given {
        Some(text) => {
            let certificates = pem::certificates(text.as_bytes()).map_err(|why| BadTrust::Roots(why.to_string()))?;
            let roots = Roots::new(&certificates).map_err(|why| BadTrust::Roots(why.to_string()))?;
            if roots.is_empty() { Err(BadTrust::Roots("there is none".to_owned())) } else { Ok(Arc::new(roots)) }
        }
        None => system_roots(),
    }
}

/// The store of the system, read once: it comes with the image.
fn system_roots() -> Result<Arc<Roots>, BadTrust> {
    static SYSTEM: OnceLock<Result<Arc<Roots>, BadTrust>> = OnceLock::new();
    let read = || {
        let path = SYSTEM_BUNDLES.iter().find(|path| Path::new(path).exists()).unwrap_or(&SYSTEM_BUNDLES[0]);
        let unreadable = |why: String| BadTrust::Roots(format!("{path}: {why}"));
        let text = std::fs::read(path).map_err(|why| unreadable(why.to_string()))?;
        let certificates = pem::certificates(&text).map_err(|why| unreadable(why.to_string()))?;
        let roots = Roots::readable(&certificates);
        if roots.is_empty() { Err(unreadable("there is none".to_owned())) } else { Ok(Arc::new(roots)) }
    };
    SYSTEM.get_or_init(read).clone()
}

fn crls(text: &str) -> Result<CrlSet, BadTrust> {
    if text.trim().is_empty() {
        return Ok(CrlSet::default());
    }
    CrlSet::parse(text.as_bytes()).map_err(|why| BadTrust::Crl(why.to_string()))
}

/// A name that a certificate may have.
enum Accepted {
    Name(ServerName<'static>),
    Uri(String),
}

/// A name that is neither stands as one that no certificate has: the list does not get wider by an error in it.
fn accepted(trust: &Trust<'_>) -> Vec<Accepted> {
    let one = |text: &String| match name(text) {
        Ok(name) => Accepted::Name(name),
        Err(_) => Accepted::Uri(text.clone()),
    };
    trust.names.iter().map(one).collect()
}

struct NamedOutside {
    roots: Arc<Roots>,
    /// Empty: the server name.
    accepted: Vec<Accepted>,
    crls: CrlSet,
    skip: bool,
    provider: Arc<CryptoProvider>,
}

impl NamedOutside {
    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), NotOurPeer> {
        chain(leaf, rest, &self.roots, Usage::Server, system_time(now), &self.crls)?;
        let parsed = EndEntityCert::try_from(leaf).map_err(NotOurPeer::Chain)?;
        let holds = |accepted: &Accepted| match accepted {
            Accepted::Name(name) => parsed.verify_is_valid_for_subject_name(name).is_ok(),
            Accepted::Uri(uri) => has_uri(leaf, uri),
        };
        let of_server = || self.accepted.is_empty() && parsed.verify_is_valid_for_subject_name(server_name).is_ok();
        if self.accepted.iter().any(holds) || of_server() {
            return Ok(());
        }
        if self.accepted.is_empty() {
            return Err(NotOurPeer::OtherName(server_name.to_str().into_owned()));
        }
        let names = self.accepted.iter().map(|accepted| match accepted {
            Accepted::Name(name) => name.to_str().into_owned(),
            Accepted::Uri(uri) => uri.clone(),
        });
        Err(NotOurPeer::OtherName(names.collect::<Vec<_>>().join(", ")))
    }
}

fn has_uri(leaf: &CertificateDer<'_>, wanted: &str) -> bool {
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(leaf) else { return false };
    let Ok(Some(names)) = parsed.subject_alternative_name() else { return false };
    names.value.general_names.iter().any(|name| matches!(name, GeneralName::URI(uri) if *uri == wanted))
}

impl std::fmt::Debug for NamedOutside {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NamedOutside")
    }
}

impl ServerCertVerifier for NamedOutside {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if !self.skip {
            self.verify(leaf, rest, server_name, now).map_err(to_rustls)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
