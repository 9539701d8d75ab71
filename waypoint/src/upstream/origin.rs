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
    /// Why no connection may be opened: the policy demands what we do not have, and nothing goes in the clear.
    outside: Result<Option<Outside>, Arc<str>>,
}

impl Origin {
    /// What cannot be used compiles to what refuses every connection: see `wrong`.
    pub fn compile(wire: &TlsClient) -> Arc<Origin> {
        Arc::new(Origin { wire: wire.clone(), outside: Origin::outside(wire).map_err(Into::into) })
    }

    /// Why no connection comes about by it.
    pub fn wrong(&self) -> Option<Rejection> {
        self.outside.as_ref().err().map(|why| Rejection::new("InvalidTls", format!("{why}; connections that it is for are refused")))
    }

    fn outside(wire: &TlsClient) -> Result<Option<Outside>, String> {
        if !wire.invalid.is_empty() {
            return Err(wire.invalid.clone());
        }
        let mode = TlsMode::try_from(wire.mode).map_err(|_| format!("mode {} is unknown", wire.mode))?;
        let client = match mode {
            TlsMode::Disable => return Ok(None),
            TlsMode::Simple => None,
            TlsMode::Mutual if wire.cert_pem.is_empty() || wire.key_pem.is_empty() => {
                return Err("mutual TLS needs a certificate and a key".to_owned());
            }
            TlsMode::Mutual => Some((&*wire.cert_pem, &*wire.key_pem)),
        };
        let trust = Trust {
            server_name: (!wire.server_name.is_empty()).then_some(&*wire.server_name),
            names: &wire.subject_alt_names,
            roots_pem: (!wire.ca_pem.is_empty()).then_some(&*wire.ca_pem),
            crl_pem: &wire.crl_pem,
            skip_verify: wire.insecure_skip_verify,
            client,
        };
        Outside::new(&trust).map(Some).map_err(|why| why.to_string())
    }

    /// The policy says that there is no TLS.
    pub fn is_off(&self) -> bool {
        matches!(self.outside, Ok(None))
    }

    /// TLS with `host` over an open connection.
    ///
    /// # Errors
    /// The policy cannot be kept, or the far end does not keep it.
    pub async fn secure(&self, io: BoxIo, host: &str, alpn: Alpn) -> Result<BoxIo, ConnectError> {
        let outside = match &self.outside {
            Ok(Some(outside)) => outside,
            Ok(None) => return Ok(io),
            Err(why) => return Err(ConnectError::new(Kind::Tls, why.clone())),
        };
        let offered: &[&[u8]] = match alpn {
            Alpn::None => &[],
            Alpn::Http1 => &[b"http/1.1"],
            Alpn::Http2 => &[b"h2"],
        };
        let secured = outside.connect(io, host, offered).await;
        let secured = secured.map_err(|why| ConnectError::new(Kind::Tls, format!("{host}: {why}")))?;
        Ok(Box::new(Sealed(secured)))
    }
}

impl PartialEq for Origin {
    fn eq(&self, other: &Origin) -> bool {
        self.wire == other.wire
    }
}

impl Eq for Origin {}

impl Hash for Origin {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.wire.mode, &self.wire.server_name, &self.wire.subject_alt_names).hash(state);
    }
}
