//! What goes out as one gRPC call, and what each answer means.

use std::sync::Mutex;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::*;

#[derive(Clone, PartialEq, prost::Message)]
struct Word {
    #[prost(string, tag = "1")]
    text: String,
}

/// Answers with what it was given, and keeps what it was asked.
struct Server {
    reply: Result<Reply, CallError>,
    asked: Mutex<Vec<(Version, Request<Bytes>)>>,
}

impl Caller for Server {
    fn call<'a>(&'a self, _: To<'a>, version: Version, request: Request<Bytes>, _: Limits) -> BoxFuture<'a, Result<Reply, CallError>> {
        self.asked.lock().unwrap().push((version, request));
        let reply = self.reply.clone();
        async move { reply }.boxed()
    }
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())).collect()
}

fn reply(status: u16, head: &[(&'static str, &str)], body: &[u8], trailers: Option<&[(&'static str, &str)]>) -> Reply {
    Reply { status: StatusCode::from_u16(status).unwrap(), headers: headers(head), body: Bytes::copy_from_slice(body), trailers: trailers.map(headers) }
}

async fn call(reply: Result<Reply, CallError>) -> (Result<Word, Failure>, Version, Request<Bytes>) {
    let server = Server { reply, asked: Mutex::default() };
    let to = To::Url { tls: false, host: "authz.shop", port: 9000 };
    let metadata = headers(&[("x-id", "7")]);
    let answer = unary(&server, to, "authz.shop:9000", "/a.B/Check", metadata, &Word { text: "hi".into() }, Duration::from_millis(250)).await;
    let (version, request) = server.asked.lock().unwrap().pop().unwrap();
    (answer, version, request)
}

const YES: &[u8] = b"\0\0\0\0\x05\x0a\x03yes";

#[tokio::test]
async fn a_call_is_one_framed_message_over_http2() {
    let (answer, version, request) = call(Ok(reply(200, &[("content-type", "application/grpc")], YES, Some(&[("grpc-status", "0")])))).await;
    assert_eq!(answer, Ok(Word { text: "yes".into() }));
    assert_eq!(version, Version::Http2);
    assert_eq!((request.method(), request.uri().to_string().as_str()), (&Method::POST, "http://authz.shop:9000/a.B/Check"));
    assert_eq!(request.headers(), &headers(&[("x-id", "7"), ("content-type", "application/grpc"), ("te", "trailers"), ("grpc-timeout", "250m")]));
    assert_eq!(&request.body()[..], b"\0\0\0\0\x04\x0a\x02hi");
}

#[tokio::test]
async fn every_answer_that_is_not_one_message_is_a_failure() {
    let ok: Option<&[(&str, &str)]> = Some(&[("grpc-status", "0")]);
    let table: Vec<(&str, Result<Reply, CallError>, i32)> = vec![
        ("a status in the trailers", Ok(reply(200, &[], b"", Some(&[("grpc-status", "7"), ("grpc-message", "no%20way")]))), 7),
        ("only headers", Ok(reply(200, &[("grpc-status", "16")], b"", None)), 16),
        ("no status", Ok(reply(200, &[], YES, None)), 2),
        ("a status that is no number", Ok(reply(200, &[("grpc-status", "x")], YES, None)), 2),
        ("HTTP 404", Ok(reply(404, &[], b"", None)), 12),
        ("HTTP 503", Ok(reply(503, &[("grpc-status", "0")], YES, None)), 14),
        ("HTTP 302", Ok(reply(302, &[], b"", None)), 2),
        ("no message", Ok(reply(200, &[], b"", ok)), 13),
        ("half a prefix", Ok(reply(200, &[], b"\0\0\0", ok)), 13),
        ("a message cut short", Ok(reply(200, &[], b"\0\0\0\0\x09\x0a", ok)), 13),
        ("two messages", Ok(reply(200, &[], b"\0\0\0\0\0\0\0\0\0\0", ok)), 13),
        ("compressed", Ok(reply(200, &[], b"\x01\0\0\0\0", ok)), 12),
        ("no protobuf", Ok(reply(200, &[], b"\0\0\0\0\x02\x0a\x09", ok)), 13),
        ("too late", Err(CallError::Timeout), 4),
        ("nobody there", Err(CallError::Connect("refused".into())), 14),
        ("too large", Err(CallError::TooLarge(7)), 13),
    ];
    for (name, reply, code) in table {
        assert_eq!(call(reply).await.0.map_err(|failure| failure.code), Err(code), "{name}");
    }
    let (answer, ..) = call(Ok(reply(200, &[("grpc-status", "7"), ("grpc-message", "no%20way%0a")], b"", None))).await;
    assert_eq!(answer.unwrap_err().to_string(), "gRPC status 7: no way");
}
