//! An HTTP request, top to bottom.

use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;

use crate::body::Body;
use crate::error::Reason;
use crate::exchange::{Exchange, Fault, Rules, Version};
use crate::facts::Arrival;
use crate::http1or2::Connection;
use crate::hygiene::{self, Found, Kind, Manner, Turned};
use crate::reply;
use crate::upstream::Endpoint;

mod answer;
mod expect;
pub mod guard;
mod outgoing;
mod replay;
mod upgrade;

pub use answer::Answer;
use expect::Expectation;
use upgrade::Agreed;

/// What requests share.
pub struct Context {
    pub exchange: Exchange,
    pub manner: Manner,
    /// Where an arrival's requests go.
    pub upstream: Box<dyn Fn(&Arrival) -> Option<(Endpoint, Version)> + Send + Sync>,
}

pub async fn request(incoming: Request<Incoming>, connection: &Connection, cx: &Context) -> Response<Answer> {
    let version = incoming.version();
    let grpc = version == http::Version::HTTP_2 && hygiene::is_grpc(incoming.headers());
    match page(incoming, connection, cx).await {
        Ok(response) => response.map(Answer::from),
        Err(reason) => {
            let mut response = reply::of(&reason, grpc);
            if matches!(reason, Reason::Malformed(_)) && version < http::Version::HTTP_2 {
                // Where the next request begins is anybody's guess.
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            response.map(Answer::from)
        }
    }
}

async fn page(incoming: Request<Incoming>, connection: &Connection, cx: &Context) -> Result<Response<Body>, Reason> {
    let (mut parts, body) = incoming.into_parts();
    let found = match hygiene::clean(&mut parts, &connection.arrival, connection.class, &cx.manner, &mut rand::rng()) {
        Ok(found) => found,
        Err(Turned::Refused(reason)) => return Err(reason),
        Err(Turned::Redirect(to)) => return Ok(reply::redirect(&to)),
    };
    let (endpoint, version) = (cx.upstream)(&connection.arrival).ok_or(Reason::NoHealthyUpstream)?;
    forward(parts, body.into(), &found, &endpoint, version, cx).await
}

async fn forward(
    mut parts: http::request::Parts,
    body: Body,
    found: &Found,
    endpoint: &Endpoint,
    version: Version,
    cx: &Context,
) -> Result<Response<Body>, Reason> {
    // Whatever is to become a stream of bytes is asked for in HTTP/1.1.
    let version = if found.kind == Kind::Plain { version } else { Version::Http1 };
    if found.grpc && version == Version::Http1 {
        return Err(Reason::TrailersImpossible);
    }
    upgrade::ask(found.kind, &mut parts.method, &mut parts.headers, &mut rand::rng());
    let client = parts.extensions.remove::<OnUpgrade>().filter(|_| found.kind != Kind::Plain);
    let expectation = found.expects_continue.then(Expectation::default);
    let body = expectation.iter().fold(body, |body, expectation| expectation.gate(body));
    let mut request = outgoing::request(&parts, found.kind, version, None, body);
    if let Some(expectation) = expectation.clone() {
        hyper::ext::on_informational(&mut request, move |informational| {
            if informational.status() == http::StatusCode::CONTINUE {
                expectation.wanted();
            }
        });
    }
    let mut response = cx.exchange.send(endpoint, version, &Rules::default(), request).await.map_err(Reason::Fault)?;
    if let Some(expectation) = expectation {
        expectation.answered(response.status());
    }
    let agreed = upgrade::agreed(found.kind, response.status(), response.headers());
    let endpoint = response.extensions_mut().remove::<OnUpgrade>();
    hygiene::clean_response(response.headers_mut());
    match (agreed, client, endpoint) {
        (Agreed::No, ..) => {}
        (Agreed::Yes, Some(client), Some(endpoint)) => {
            upgrade::tell(found.kind, &mut response);
            tokio::spawn(upgrade::carry(client, endpoint));
        }
        (Agreed::Yes | Agreed::Nonsense, ..) => {
            return Err(Reason::Fault(Fault::Protocol("an upgrade that was not asked for".into())));
        }
    }
    Ok(response)
}

#[cfg(test)]
mod tests;
