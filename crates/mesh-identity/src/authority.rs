//! Asking the certificate authority: the trait, the gRPC client, and an authority in the same process.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::uri::PathAndQuery;
use mesh_model::identity::SpiffeId;
use tonic::transport::Channel;
use tonic_prost::ProstCodec;

use crate::channel::{BadHeaders, CallHeaders};
use crate::clock::Clock;
use crate::sign::Ca;
use crate::wire;

/// How long one request may take. The authority answers within milliseconds; a waiting connection gives up about then.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// A chain with its roots; see also the limits of `Credential::from_answer`.
const MAX_ANSWER_BYTES: usize = 4 << 20;

/// Turns a request into a chain: leaf, intermediates, and the root bundle last.
pub trait Authority: Send + Sync + 'static {
    fn sign<'a>(
        &'a self,
        csr: String,
        identity: &'a SpiffeId,
        lifetime: Duration,
    ) -> BoxFuture<'a, Result<Vec<String>, SignFailure>>;
}

#[derive(Debug, thiserror::Error)]
pub enum SignFailure {
    #[error("the certificate authority cannot be reached: {0}")]
    Unreachable(String),
    #[error("the certificate authority refused with {code}: {message}")]
    Refused { code: tonic::Code, message: String },
    #[error("the request cannot be authenticated: {0}")]
    Headers(#[from] BadHeaders),
    #[error("{0}")]
    Local(String),
}

/// Whom a node asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// For its workloads: each request names the identity, and the authority checks that it runs there.
    Shared,
    /// For itself only: the token is the workload's own.
    Dedicated,
}

/// The client of `istio.v1.auth.IstioCertificateService` (spec/controlplane.md 3.1).
#[derive(Debug, Clone)]
pub struct GrpcAuthority {
    channel: Channel,
    headers: Arc<CallHeaders>,
    mode: Mode,
    own: Option<SpiffeId>,
}

impl GrpcAuthority {
    /// `channel` comes from `crate::channel::connect`; `headers` carries the token, the cluster and what is configured.
    pub fn new(channel: Channel, headers: CallHeaders, mode: Mode) -> GrpcAuthority {
        GrpcAuthority { channel, headers: Arc::new(headers), mode, own: None }
    }

    /// The identity that the token itself proves: a certificate for it names nobody else, whatever the mode.
    pub fn whose_own_is(self, own: Option<SpiffeId>) -> GrpcAuthority {
        GrpcAuthority { own, ..self }
    }

    async fn ask(&self, csr: String, identity: &SpiffeId, lifetime: Duration) -> Result<Vec<String>, SignFailure> {
        let mut grpc = tonic::client::Grpc::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES);
        let mut request = tonic::Request::new(wire::IstioCertificateRequest {
            csr,
            validity_duration: i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX),
            metadata: match self.mode {
                Mode::Shared if self.own.as_ref() != Some(identity) => {
                    Some(wire::one_string(wire::IMPERSONATED_IDENTITY, identity.to_string()))
                }
                Mode::Shared | Mode::Dedicated => None,
            },
        });
        *request.metadata_mut() = self.headers.metadata().await?;
        request.set_timeout(REQUEST_TIMEOUT);
        grpc.ready().await.map_err(|err| SignFailure::Unreachable(causes(&err)))?;
        let codec = ProstCodec::<wire::IstioCertificateRequest, wire::IstioCertificateResponse>::default();
        let path = PathAndQuery::from_static(wire::CREATE_CERTIFICATE);
        let answer = grpc.unary(request, path, codec).await.map_err(refused)?;
        Ok(answer.into_inner().cert_chain)
    }
}

impl Authority for GrpcAuthority {
    fn sign<'a>(
        &'a self,
        csr: String,
        identity: &'a SpiffeId,
        lifetime: Duration,
    ) -> BoxFuture<'a, Result<Vec<String>, SignFailure>> {
        Box::pin(self.ask(csr, identity, lifetime))
    }
}

fn refused(status: tonic::Status) -> SignFailure {
    match status.code() {
        tonic::Code::Unavailable => SignFailure::Unreachable(match std::error::Error::source(&status) {
            Some(source) => causes(source),
            None => status.message().to_owned(),
        }),
        code => SignFailure::Refused { code, message: status.message().chars().take(512).collect() },
    }
}

/// An error with all its causes: tonic's own text is only "transport error".
pub(crate) fn causes(err: &(dyn std::error::Error + 'static)) -> String {
    let chain = std::iter::successors(Some(err), |err| err.source());
    let mut texts: Vec<String> = chain.map(|err| err.to_string()).collect();
    texts.dedup();
    texts.join(": ")
}

/// An authority in this process: tests, simulations and `FAKE_CA`.
#[derive(Debug, Clone)]
pub struct LocalAuthority {
    ca: Arc<Ca>,
    clock: Arc<dyn Clock>,
}

impl LocalAuthority {
    pub fn new(ca: Arc<Ca>, clock: Arc<dyn Clock>) -> LocalAuthority {
        LocalAuthority { ca, clock }
    }
}

impl Authority for LocalAuthority {
    fn sign<'a>(
        &'a self,
        csr: String,
        identity: &'a SpiffeId,
        lifetime: Duration,
    ) -> BoxFuture<'a, Result<Vec<String>, SignFailure>> {
        let issued = self.ca.issue(&csr, identity, lifetime, self.clock.now());
        Box::pin(async { issued.map(|issued| issued.chain).map_err(|err| SignFailure::Local(err.to_string())) })
    }
}

