//! The question as an HTTP request that looks like the client's, and what the answer means. Pure.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST, LOCATION, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};

use super::edits::{Edits, HeaderEdit, How};
use super::names::may_be_edited;
use super::{Question, Rules, Said};
use crate::call::Reply;

/// Whether the body that the service is shown is only its beginning.
pub const PARTIAL_BODY: HeaderName = HeaderName::from_static("x-envoy-auth-partial-body");

pub fn request(rules: &Rules, question: &Question<'_>) -> Result<Request<Bytes>, String> {
    let head = question.head;
    let query = head.query.map(|query| format!("?{query}")).unwrap_or_default();
    let target = format!("http://{}{}{}{query}", head.authority, rules.path_prefix, head.path);
    let mut request = Request::new(question.body.map(|shown| shown.bytes.clone()).unwrap_or_default());
    *request.uri_mut() = target.parse().map_err(|error| format!("{target:?} is not a URL: {error}"))?;
    *request.method_mut() = head.method.clone();
    let length = request.body().len();
    let headers = request.headers_mut();
    let told = head.headers.iter().filter(|(name, _)| rules.include.has(name) && may_be_edited(name));
    for (name, value) in told {
        headers.append(name, value.clone());
    }
    for (name, value) in &rules.additional {
        headers.insert(name, value.clone());
    }
    headers.insert(HOST, HeaderValue::from_str(head.authority).map_err(|error| error.to_string())?);
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    headers.remove(PARTIAL_BODY);
    if let Some(shown) = question.body {
        headers.insert(PARTIAL_BODY, HeaderValue::from_static(if shown.partial { "true" } else { "false" }));
    }
    Ok(request)
}

pub fn answer(rules: &Rules, reply: Reply) -> Said {
    match reply.status {
        StatusCode::OK => Said::Allow(Edits {
            request: edits(&reply.headers, How::Overwrite, |name| rules.to_upstream.has(name)),
            response: edits(&reply.headers, How::Append, |name| rules.to_client_on_allow.has(name)),
            ..Edits::default()
        }),
        status if status.is_server_error() => Said::Error { why: format!("HTTP status {}", status.as_u16()), status: None },
        status => Said::Deny { status, headers: to_client(rules, &reply.headers), body: reply.body },
    }
}

/// Of a header that is sent several times the first takes the place of what is there, the others stand beside it.
fn edits(headers: &HeaderMap, how: How, wanted: impl Fn(&HeaderName) -> bool) -> Vec<HeaderEdit> {
    let mut edits = Vec::new();
    for name in headers.keys().filter(|name| may_be_edited(name) && wanted(name)) {
        for (index, value) in headers.get_all(name).iter().enumerate() {
            let how = if index == 0 { how } else { How::Append };
            edits.push(HeaderEdit { how, name: name.clone(), value: value.clone() });
        }
    }
    edits
}

/// Without a list everything; with one also what a client needs to know what to do next.
fn to_client(rules: &Rules, headers: &HeaderMap) -> HeaderMap {
    let listed = |name: &HeaderName| rules.to_client_on_deny.as_ref().is_none_or(|names| names.has(name) || [WWW_AUTHENTICATE, LOCATION].contains(name));
    let told = headers.iter().filter(|(name, _)| may_be_edited(name) && listed(name));
    told.map(|(name, value)| (name.clone(), value.clone())).collect()
}
