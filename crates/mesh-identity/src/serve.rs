//! The gRPC service of the authority, `istio.v1.auth.IstioCertificateService`: authenticate, authorize, sign.
//!
//! The three steps are the controller's; this page is their order and what a caller may see of their failures, which is
//! almost nothing (spec/controlplane.md 3.4). The service mounts beside others on one tonic server.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use mesh_model::identity::SpiffeId;
use tonic::server::{NamedService, UnaryService};
use tonic::{Code, Request, Response, Status};
use tonic_prost::ProstCodec;

use crate::channel::Caller as Connection;
use crate::sign::{CannotSign, Issued};
use crate::wire;

/// A request holds a CSR and a name.
const MAX_REQUEST_BYTES: usize = 64 << 10;

/// What a caller shows of itself, before anything of it is believed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shown {
    /// Of the bearer token; more than one authorization header reads as none.
    pub bearer: Option<Bearer>,
    /// More than one reads as none.
    pub cluster: Option<String>,
    /// Proved by TLS.
    pub connection: Connection,
}

/// A token that is not printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Bearer(pub String);

impl std::fmt::Debug for Bearer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bearer(hidden)")
    }
}

/// Why a step refused. The text is for our log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);

/// The steps of issuing.
pub trait Issuing: Send + Sync + 'static {
    /// Who was authenticated.
    type Caller: Send + Sync;

    fn authenticate(&self, shown: &Shown) -> impl Future<Output = Result<Self::Caller, Refused>> + Send;

    /// The identity that the certificate is for: the one that is asked for, if the caller may, or the caller's own.
    fn authorize(
        &self,
        caller: &Self::Caller,
        impersonated: Option<&str>,
    ) -> impl Future<Output = Result<SpiffeId, Refused>> + Send;

    fn sign(
        &self,
        csr: &str,
        identity: &SpiffeId,
        life: Duration,
    ) -> impl Future<Output = Result<Issued, CannotSign>> + Send;

    /// One call was answered: audit log and counters.
    fn answered(&self, shown: &Shown, outcome: &Outcome);
}

/// How a call ended, with what the log may know.
#[derive(Debug)]
pub enum Outcome {
    Issued(Issued),
    Unauthenticated(Refused),
    NotAllowed { impersonated: Option<String>, why: Refused },
    BadMetadata,
    NotSigned { identity: SpiffeId, why: CannotSign },
}

/// The service.
#[derive(Debug)]
pub struct CaService<I> {
    issuing: Arc<I>,
}

impl<I: Issuing> CaService<I> {
    pub fn new(issuing: Arc<I>) -> CaService<I> {
        CaService { issuing }
    }
}

impl<I> Clone for CaService<I> {
    fn clone(&self) -> CaService<I> {
        CaService { issuing: self.issuing.clone() }
    }
}

impl<I> NamedService for CaService<I> {
    const NAME: &'static str = wire::SERVICE;
}

async fn create<I: Issuing>(issuing: &I, request: Request<wire::IstioCertificateRequest>) -> Result<Vec<String>, Status> {
    let shown = Shown::of(&request);
    let outcome = decide(issuing, &shown, &request.into_inner()).await;
    issuing.answered(&shown, &outcome);
    match outcome {
        Outcome::Issued(issued) => Ok(issued.chain),
        Outcome::Unauthenticated(_) => Err(Status::unauthenticated("request authenticate failure")),
        // The code of the field for this case; a node daemon retries it like any other.
        Outcome::NotAllowed { .. } => Err(Status::unauthenticated("request impersonation authentication failure")),
        Outcome::BadMetadata => Err(Status::invalid_argument("ImpersonatedIdentity must be a string")),
        Outcome::NotSigned { why, .. } if why.is_callers_fault() => Err(Status::invalid_argument(why.to_string())),
        Outcome::NotSigned { .. } => Err(Status::internal("the certificate cannot be signed")),
    }
}

async fn decide<I: Issuing>(issuing: &I, shown: &Shown, request: &wire::IstioCertificateRequest) -> Outcome {
    let caller = match issuing.authenticate(shown).await {
        Ok(caller) => caller,
        Err(why) => return Outcome::Unauthenticated(why),
    };
    let Ok(impersonated) = wire::string_of(request.metadata.as_ref(), wire::IMPERSONATED_IDENTITY) else {
        return Outcome::BadMetadata;
    };
    let identity = match issuing.authorize(&caller, impersonated).await {
        Ok(identity) => identity,
        Err(why) => return Outcome::NotAllowed { impersonated: impersonated.map(str::to_owned), why },
    };
    let life = Duration::from_secs(u64::try_from(request.validity_duration).unwrap_or(0)); // ≤ 0: the default
    match issuing.sign(&request.csr, &identity, life).await {
        Ok(issued) => Outcome::Issued(issued),
        Err(why) => Outcome::NotSigned { identity, why },
    }
}

impl Shown {
    /// Of any gRPC request that came over `channel::incoming`.
    pub fn of<T>(request: &Request<T>) -> Shown {
        let only = |name: &str| {
            let mut values = request.metadata().get_all(name).iter();
            let first = values.next()?.to_str().ok()?;
            values.next().is_none().then_some(first)
        };
        let bearer = only("authorization").and_then(|value| value.strip_prefix("Bearer "));
        Shown {
            bearer: bearer.map(|token| Bearer(token.trim().to_owned())).filter(|token| !token.0.is_empty()),
            cluster: only("clusterid").map(str::to_owned),
            connection: request.extensions().get::<Connection>().cloned().unwrap_or_default(),
        }
    }
}

struct Create<I>(Arc<I>);

impl<I: Issuing> UnaryService<wire::IstioCertificateRequest> for Create<I> {
    type Response = wire::IstioCertificateResponse;
    type Future = BoxFuture<'static, Result<Response<Self::Response>, Status>>;

    fn call(&mut self, request: Request<wire::IstioCertificateRequest>) -> Self::Future {
        let issuing = self.0.clone();
        Box::pin(async move {
            let cert_chain = create(&*issuing, request).await?;
            Ok(Response::new(wire::IstioCertificateResponse { cert_chain }))
        })
    }
}

impl<I: Issuing, B> tower::Service<http::Request<B>> for CaService<I>
where
    B: http_body::Body + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
    B::Data: Send,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let issuing = self.issuing.clone();
        Box::pin(async move {
            if request.uri().path() != wire::CREATE_CERTIFICATE {
                return Ok(Status::new(Code::Unimplemented, "no such method").into_http());
            }
            let codec = ProstCodec::<wire::IstioCertificateResponse, wire::IstioCertificateRequest>::default();
            let mut grpc = tonic::server::Grpc::new(codec).max_decoding_message_size(MAX_REQUEST_BYTES);
            Ok(grpc.unary(Create(issuing), request).await)
        })
    }
}

#[cfg(test)]
mod tests;
