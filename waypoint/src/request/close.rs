//! The end of the page: what every answer gets, and who closes the account.

use std::time::Instant;

use http::header::{CONNECTION, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Response, Version as Spoken};

use super::answer::{Asked, End, Limits};
use super::forward::Answered;
use super::lasting::Lasting;
use super::{Again, Answer, Page, Turned, upgrade};
use crate::account::Direction;
use crate::body::Body;
use crate::error::Reason;
use crate::reply;

const OVERLOADED: HeaderName = HeaderName::from_static("x-envoy-overloaded");

impl Page<'_> {
    pub(super) fn finish(mut self, answered: Answered) -> Response<Answer> {
        let Answered { mut response, asked, deadline, upgraded, again, .. } = answered;
        *response.version_mut() = Spoken::HTTP_11;
        self.dress(response.headers_mut());
        self.account.because(&Reason::Upstream);
        let Some((client, endpoint)) = upgraded else {
            let lasting = |body| match again {
                Some(again) => Body::boxed(Lasting::new(body, again)),
                None => body,
            };
            return self.close_with(response.map(lasting), asked, deadline);
        };
        // A stream of bytes from here on, which lasts as long as they flow.
        let (mut account, entered) = (self.account, self.entered);
        let (drain, place) = (self.connection.drain.clone(), self.connection.place.clone());
        account.responded(response.status(), response.headers());
        let (mut up, mut down) = (account.tap(Direction::Request), account.tap(Direction::Response));
        drop(self.connection.drain.spawn(async move {
            let carried = upgrade::carry(client, endpoint, |bytes| up.data(bytes), |bytes| down.data(bytes));
            tokio::select! {
                () = carried => {}
                refused = lost(again) => account.because(&refused),
                () = drain.forced() => account.termination("drained"),
            }
            drop((asked, entered, place));
            account.close();
        }));
        response.map(Answer::from)
    }

    pub(super) fn refuse(mut self, turned: Turned) -> Response<Answer> {
        let Turned { reason, answer } = turned;
        let mut response = answer.unwrap_or_else(|| reply::of(&reason, self.grpc));
        self.dress(response.headers_mut());
        if matches!(reason, Reason::Malformed(_)) && self.spoken < Spoken::HTTP_2 {
            // Where the next request begins is anybody's guess.
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if matches!(reason, Reason::Overflow) && self.policies.http.envoy_headers {
            response.headers_mut().insert(OVERLOADED, HeaderValue::from_static("true"));
        }
        self.account.because(&reason);
        self.close_with(response, None, None)
    }

    fn close_with(mut self, response: Response<Body>, asked: Option<Asked>, deadline: Option<Instant>) -> Response<Answer> {
        let (mut parts, mut body) = response.into_parts();
        if let Some(dialect) = &self.web {
            body = dialect.response(&mut parts.headers, body);
        }
        if self.method == Method::HEAD && matches!(body, Body::Full(_)) {
            body = Body::Empty;
        }
        if (self.parted || self.cx.is_stopping()) && self.spoken < Spoken::HTTP_2 {
            // The next request is to go where the service is bound now, or to who will be there; of HTTP/2 the connection says
            // so itself.
            parts.headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        self.account.responded(parts.status, &parts.headers);
        let tap = self.account.tap(Direction::Response);
        let limits = Limits { deadline: deadline.map(Into::into), idle: self.policies.http.stream_idle_timeout };
        let end = End { account: self.account, tap, asked, _entered: self.entered };
        Response::from_parts(parts, Answer::new(body, end, limits))
    }

    /// What every answer gets, an endpoint's and ours.
    fn dress(&mut self, headers: &mut HeaderMap) {
        if let Some((rule, origin)) = self.cors.take()
            && let Some(cors) = rule.filters.cors()
        {
            cors.response(origin.as_ref(), headers);
        }
        for (name, value) in &self.extra {
            headers.append(name, value.clone());
        }
    }
}

async fn lost(again: Option<Again>) -> Reason {
    match again {
        Some(again) => again.lost().await,
        None => std::future::pending().await,
    }
}
