//! The question as a `CheckRequest`, and what a `CheckResponse` means. Pure.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version};
use prost_types::{Struct, Value, value::Kind};

use super::edits::{Edits, HeaderEdit, How};
use super::names::may_be_edited;
use super::over_http::PARTIAL_BODY;
use super::{Question, Rules, Said, wire};
use crate::facts::{Arrival, Head};

/// Where services look for the payload of a verified token.
const TOKEN_METADATA: &str = "envoy.filters.http.jwt_authn";

pub fn request(rules: &Rules, question: &Question<'_>, now: SystemTime) -> wire::CheckRequest {
    let head = question.head;
    let http = http_request(rules, question);
    let request = wire::Request { time: Some(now.into()), http: Some(http) };
    let token = head.claims.map(|claims| {
        let payload = Struct { fields: BTreeMap::from([("payload".to_owned(), of_json(&claims.payload))]) };
        wire::Metadata { filter_metadata: BTreeMap::from([(TOKEN_METADATA.to_owned(), payload)]) }
    });
    context(head.arrival, wire::AttributeContext { request: Some(request), metadata_context: token, ..Default::default() })
}

pub fn request_of_stream(arrival: &Arrival, server_name: Option<&str>, now: SystemTime) -> wire::CheckRequest {
    let request = wire::Request { time: Some(now.into()), http: None };
    let tls_session = server_name.map(|name| wire::TlsSession { sni: name.to_owned() });
    context(arrival, wire::AttributeContext { request: Some(request), tls_session, ..Default::default() })
}

fn context(arrival: &Arrival, rest: wire::AttributeContext) -> wire::CheckRequest {
    let source = wire::Peer { address: Some(address(arrival.source)), principal: arrival.identity.to_string(), ..Default::default() };
    let service = arrival.target.service().map(|service| service.hostname.to_string()).unwrap_or_default();
    let destination = wire::Peer { address: arrival.dialled.map(address), service, ..Default::default() };
    wire::CheckRequest { attributes: Some(wire::AttributeContext { source: Some(source), destination: Some(destination), ..rest }) }
}

fn address(address: SocketAddr) -> wire::Address {
    let socket = wire::SocketAddress { protocol: 0, address: address.ip().to_canonical().to_string(), port_value: u32::from(address.port()) };
    wire::Address { socket_address: Some(socket) }
}

fn http_request(rules: &Rules, question: &Question<'_>) -> wire::HttpRequest {
    let head = question.head;
    let path = head.query.map_or_else(|| head.path.to_owned(), |query| format!("{}?{query}", head.path));
    let shown = |name: &HeaderName| rules.include.is_empty() || rules.include.has(name);
    let mut headers = headers(head, &path, &shown);
    headers.remove(PARTIAL_BODY.as_str());
    let (mut body, mut raw_body) = (String::new(), Bytes::new());
    if let Some(beginning) = question.body {
        headers.insert(PARTIAL_BODY.to_string(), beginning.partial.to_string());
        match rules.pack_as_bytes {
            true => raw_body = beginning.bytes.clone(),
            false => body = String::from_utf8_lossy(&beginning.bytes).into_owned(),
        }
    }
    let length = head.headers.get(http::header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    wire::HttpRequest {
        id: text(head.headers, "x-request-id"),
        method: head.method.to_string(),
        headers,
        host: head.authority.to_owned(),
        scheme: head.scheme.to_owned(),
        size: length.unwrap_or(-1),
        protocol: if question.version == Version::HTTP_2 { "HTTP/2" } else { "HTTP/1.1" }.to_owned(),
        body,
        raw_body,
        header_map: raw_headers(head.headers, &shown),
        path,
    }
}

fn text(headers: &HeaderMap, name: &str) -> String {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).unwrap_or_default()
}

/// Every header that may be shown once, with all its values, and what HTTP/2 says in pseudo-headers.
fn headers(head: &Head<'_>, path: &str, shown: &dyn Fn(&HeaderName) -> bool) -> BTreeMap<String, String> {
    let mut all: BTreeMap<String, String> = BTreeMap::new();
    for name in head.headers.keys().filter(|name| *name != http::header::HOST && shown(name)) {
        let between = if name == http::header::COOKIE { "; " } else { "," };
        let values: Vec<_> = head.headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
        all.insert(name.to_string(), values.join(between));
    }
    let pseudo = [(":authority", head.authority), (":method", head.method.as_str()), (":path", path), (":scheme", head.scheme)];
    all.extend(pseudo.map(|(name, value)| (name.to_owned(), value.to_owned())));
    all
}

/// A value that is no text is shown there as it is.
pub(super) fn raw_headers(headers: &HeaderMap, shown: &dyn Fn(&HeaderName) -> bool) -> Option<wire::HeaderMap> {
    let told = || headers.iter().filter(|(name, _)| shown(name));
    if told().all(|(_, value)| std::str::from_utf8(value.as_bytes()).is_ok()) {
        return None;
    }
    let raw = |(name, value): (&HeaderName, &HeaderValue)| wire::HeaderValue {
        key: name.to_string(),
        value: String::new(),
        raw_value: Bytes::copy_from_slice(value.as_bytes()),
    };
    Some(wire::HeaderMap { headers: told().map(raw).collect() })
}

pub fn answer(response: wire::CheckResponse) -> Said {
    let wire::CheckResponse { status, http_response, dynamic_metadata } = response;
    let code = status.map_or(0, |status| status.code);
    match http_response {
        Some(wire::HttpResponse::Error(error)) => {
            Said::Error { why: format!("it could not decide (gRPC status {code})"), status: error.status.and_then(status_of) }
        }
        Some(wire::HttpResponse::Ok(ok)) if code == 0 => Said::Allow(allowed(ok, dynamic_metadata)),
        _ if code == 0 => Said::Allow(Edits { metadata: dynamic_metadata, ..Edits::default() }),
        Some(wire::HttpResponse::Denied(denied)) => {
            let mut headers = HeaderMap::new();
            for edit in denied.headers.iter().filter_map(|option| edit(option, How::Overwrite)) {
                edit.apply(&mut headers);
            }
            let status = denied.status.and_then(status_of).unwrap_or(StatusCode::FORBIDDEN);
            Said::Deny { status, headers, body: denied.body.into() }
        }
        _ => Said::Deny { status: StatusCode::FORBIDDEN, headers: HeaderMap::new(), body: Bytes::new() },
    }
}

fn status_of(status: wire::HttpStatus) -> Option<StatusCode> {
    u16::try_from(status.code).ok().and_then(|code| StatusCode::from_u16(code).ok()).filter(|status| status.as_u16() >= 200)
}

fn allowed(ok: wire::OkResponse, metadata: Option<Struct>) -> Edits {
    let removable = |name: &String| HeaderName::try_from(name.as_str()).ok().filter(may_be_edited);
    Edits {
        request: ok.headers.iter().filter_map(|option| edit(option, How::Overwrite)).collect(),
        remove: ok.headers_to_remove.iter().filter_map(removable).collect(),
        set_query: ok.query_parameters_to_set.into_iter().map(|parameter| (parameter.key, parameter.value)).collect(),
        remove_query: ok.query_parameters_to_remove,
        response: ok.response_headers_to_add.iter().filter_map(|option| edit(option, How::Append)).collect(),
        metadata,
        ..Edits::default()
    }
}

/// `unsaid`: what it is where the option does not say how; for the request it takes the place of what is there.
fn edit(option: &wire::HeaderValueOption, unsaid: How) -> Option<HeaderEdit> {
    let header = option.header.as_ref()?;
    let how = match (option.append, option.append_action) {
        (Some(append), _) => if append.value { How::Append } else { How::Overwrite },
        (None, 1) => How::AddIfAbsent,
        (None, 2) => How::Overwrite,
        (None, 3) => How::OverwriteIfExists,
        (None, _) => unsaid,
    };
    let name = HeaderName::try_from(header.key.as_str()).ok().filter(may_be_edited)?;
    let value = if header.raw_value.is_empty() { header.value.as_bytes() } else { &header.raw_value };
    Some(HeaderEdit { how, name, value: HeaderValue::from_bytes(value).ok()? })
}

fn of_json(value: &serde_json::Value) -> Value {
    use serde_json::Value as Json;
    let kind = match value {
        Json::Null => Kind::NullValue(0),
        Json::Bool(truth) => Kind::BoolValue(*truth),
        Json::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Json::String(text) => Kind::StringValue(text.clone()),
        Json::Array(list) => Kind::ListValue(prost_types::ListValue { values: list.iter().map(of_json).collect() }),
        Json::Object(map) => Kind::StructValue(Struct { fields: map.iter().map(|(name, value)| (name.clone(), of_json(value))).collect() }),
    };
    Value { kind: Some(kind) }
}
