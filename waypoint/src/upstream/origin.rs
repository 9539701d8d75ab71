//! TLS to the application, as its policy says: compiled once, used for each connection (spec/waypoint.md 1.9, 5.7).

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use mesh_identity::outside::{Outside, Trust};
use mesh_xds::messages::waypoint::{TlsClient, TlsMode};

use super::io::Sealed;
use super::{Alpn, BoxIo, ConnectError, Kind};
use crate::facts::Rejection;

/// How the application's certificate is checked and which one we show. Equal policies may share connections.
#[derive(Debug)]
pub struct Origin {
    wire: TlsClient,
    host: Arc<str>,
    /// Why no connection may be opened: the policy demands what we do not have, and nothing goes in the clear.
    outside: Result<Outside, Arc<str>>,
}

impl Origin {
    /// `None` where the policy says that there is no TLS. `host` is the name that is expected where it names none.
    ///
    /// What cannot be used compiles to what refuses every connection, and is reported.
    pub fn compile(wire: &TlsClient, host: &str) -> (Option<Arc<Origin>>, Option<Rejection>) {
        if wire.mode() == TlsMode::Disable && wire.invalid.is_empty() {
            return (None, None);
        }
        let outside = Origin::outside(wire, host);
        let rejection = outside.as_ref().err().map(|why| Rejection::new("InvalidTls", why.clone()));
        let origin = Origin { wire: wire.clone(), host: host.into(), outside: outside.map_err(Into::into) };
        (Some(Arc::new(origin)), rejection)
    }

    fn outside(wire: &TlsClient, host: &str) -> Result<Outside, String> {
        if !wire.invalid.is_empty() {
            return Err(wire.invalid.clone());
        }
        let server_name = if wire.server_name.is_empty() { host } else { &wire.server_name };
        let mutual = wire.mode() == TlsMode::Mutual;
        if mutual && (wire.cert_pem.is_empty() || wire.key_pem.is_empty()) {
            return Err("mutual TLS needs a certificate and a key".to_owned());
        }
        let trust = Trust {
            server_name,
            names: &wire.subject_alt_names,
            roots_pem: (!wire.ca_pem.is_empty()).then_some(&*wire.ca_pem),
            crl_pem: &wire.crl_pem,
            skip_verify: wire.insecure_skip_verify,
            client: mutual.then_some((&*wire.cert_pem, &*wire.key_pem)),
        };
        Outside::new(&trust).map_err(|why| why.to_string())
    }

    /// TLS over an open connection.
    ///
    /// # Errors
    /// The policy cannot be kept, or the far end does not keep it.
    pub async fn secure(&self, io: BoxIo, alpn: Alpn) -> Result<BoxIo, ConnectError> {
        let outside = self.outside.as_ref().map_err(|why| ConnectError::new(Kind::Tls, why.clone()))?;
        let offered: &[&[u8]] = match alpn {
            Alpn::None => &[],
            Alpn::Http1 => &[b"http/1.1"],
            Alpn::Http2 => &[b"h2"],
        };
        let secured = outside.connect(io, offered).await;
        let secured = secured.map_err(|why| ConnectError::new(Kind::Tls, format!("{}: {why}", self.host)))?;
        Ok(Box::new(Sealed(secured)))
    }
}

impl PartialEq for Origin {
    fn eq(&self, other: &Origin) -> bool {
        self.host == other.host && self.wire == other.wire
    }
}

impl Eq for Origin {}

impl Hash for Origin {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.host, self.wire.mode, &self.wire.server_name).hash(state);
    }
}
