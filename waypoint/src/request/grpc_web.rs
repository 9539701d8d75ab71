//! gRPC-Web to gRPC and back, for ports that declare it (spec/waypoint.md 1.7): browsers cannot read trailers, so they come
//! as a last message of the body; and where a browser cannot read bytes either, all of it is base64.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, TE};
use http::{HeaderMap, header};
use http_body::{Body as _, Frame};

use crate::body::{Body, BodyError};

/// The first byte of the message that holds the trailers.
const TRAILERS: u8 = 0x80;

/// How a client of gRPC-Web writes its messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dialect {
    text: bool,
    /// What the client said: the answer says the same.
    content_type: HeaderValue,
}

impl Dialect {
    /// None: it is no gRPC-Web.
    pub fn of(headers: &HeaderMap) -> Option<Dialect> {
        let content_type = headers.get(CONTENT_TYPE)?;
        let rest = content_type.as_bytes().strip_prefix(b"application/grpc-web")?;
        let (text, rest) = match rest.strip_prefix(b"-text") {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        let whole = rest.is_empty() || rest.starts_with(b"+") || rest.starts_with(b";");
        whole.then(|| Dialect { text, content_type: content_type.clone() })
    }

    /// The request becomes one of gRPC.
    pub fn request(&self, headers: &mut HeaderMap, body: Body) -> Body {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.remove(header::ACCEPT);
        if !self.text {
            return body;
        }
        headers.remove(CONTENT_LENGTH);
        Body::boxed(Decoded { body, group: [0; 4], filled: 0 })
    }

    /// The response becomes one of gRPC-Web.
    pub fn response(&self, headers: &mut HeaderMap, body: Body) -> Body {
        headers.insert(CONTENT_TYPE, self.content_type.clone());
        headers.remove(CONTENT_LENGTH);
        headers.remove(header::TRAILER);
        if body.is_end_stream() {
            // The status stands in the headers.
            return Body::Empty;
        }
        Body::boxed(Told { body, text: self.text, left: BytesMut::new(), ready: VecDeque::new(), ended: false })
    }
}

/// Base64 as it comes, whole groups at a time. Each piece that the client wrote may have an end of its own.
struct Decoded {
    body: Body,
    group: [u8; 4],
    filled: usize,
}

impl Decoded {
    fn decode(&mut self, text: &[u8]) -> Result<Bytes, BodyError> {
        let mut bytes = BytesMut::with_capacity(text.len() / 4 * 3 + 3);
        for byte in text.iter().filter(|byte| !byte.is_ascii_whitespace()) {
            self.group[self.filled] = *byte;
            self.filled += 1;
            if self.filled == self.group.len() {
                let mut decoded = [0; 3];
                let length = STANDARD.decode_slice(self.group, &mut decoded).map_err(|_| "the body is not base64")?;
                bytes.put_slice(&decoded[..length]);
                self.filled = 0;
            }
        }
        Ok(bytes.freeze())
    }
}

impl http_body::Body for Decoded {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        loop {
            let frame = match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                None if this.filled > 0 => return Poll::Ready(Some(Err("the body ends within a group of base64".into()))),
                other => return Poll::Ready(other),
            };
            // A browser sends no trailers.
            let Ok(text) = frame.into_data() else { continue };
            let bytes = this.decode(&text)?;
            if !bytes.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
        }
    }
}

/// Messages, and the trailers as the last of them.
struct Told {
    body: Body,
    text: bool,
    /// Bytes that do not fill a group of base64 yet.
    left: BytesMut,
    ready: VecDeque<Bytes>,
    ended: bool,
}

impl Told {
    fn tell(&mut self, bytes: Bytes) {
        if !self.text {
            self.ready.push_back(bytes);
            return;
        }
        self.left.put_slice(&bytes);
        let whole = self.left.len() / 3 * 3;
        if whole > 0 {
            let bytes = self.left.split_to(whole);
            self.ready.push_back(STANDARD.encode(&bytes).into());
        }
    }

    fn end(&mut self, trailers: &HeaderMap) {
        let mut text = BytesMut::new();
        for (name, value) in trailers {
            text.put_slice(name.as_str().as_bytes());
            text.put_slice(b": ");
            text.put_slice(value.as_bytes());
            text.put_slice(b"\r\n");
        }
        let mut message = BytesMut::with_capacity(5 + text.len());
        message.put_u8(TRAILERS);
        message.put_u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
        message.put(text);
        self.tell(message.freeze());
        if !self.left.is_empty() {
            let rest = self.left.split();
            self.ready.push_back(STANDARD.encode(&rest).into());
        }
        self.ended = true;
    }
}

impl http_body::Body for Told {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        loop {
            if let Some(bytes) = this.ready.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            if this.ended {
                return Poll::Ready(None);
            }
            match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                None => this.end(&HeaderMap::new()),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) => this.tell(bytes),
                    Err(frame) => this.end(&frame.into_trailers().unwrap_or_default()),
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    fn pieces(pieces: &[&[u8]], trailers: Option<HeaderMap>) -> Body {
        let data = pieces.iter().map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece))));
        let frames: Vec<_> = data.chain(trailers.map(|trailers| Ok(Frame::trailers(trailers)))).collect();
        Body::boxed(StreamBody::new(futures_util::stream::iter(frames)))
    }

    fn said(content_type: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(content_type))])
    }

    #[test]
    fn which_requests_are_of_it() {
        for (content_type, text) in [
            ("application/grpc-web", Some(false)),
            ("application/grpc-web+proto", Some(false)),
            ("application/grpc-web-text", Some(true)),
            ("application/grpc-web-text+proto", Some(true)),
            ("application/grpc-web;charset=x", Some(false)),
            ("application/grpc-webx", None),
            ("application/grpc", None),
            ("text/plain", None),
        ] {
            assert_eq!(Dialect::of(&said(content_type)).map(|dialect| dialect.text), text, "{content_type}");
        }
    }

    #[tokio::test]
    async fn base64_comes_in_any_pieces() {
        let whole = b"\0\0\0\0\x05hello".as_slice();
        let text = STANDARD.encode(whole);
        let twice = format!("{}{}", STANDARD.encode(&whole[..5]), STANDARD.encode(&whole[5..]));
        for text in [text, twice] {
            for cut in 0..text.len() {
                let mut headers = said("application/grpc-web-text");
                let dialect = Dialect::of(&headers).unwrap();
                let body = dialect.request(&mut headers, pieces(&[&text.as_bytes()[..cut], &text.as_bytes()[cut..]], None));
                assert_eq!(body.collect().await.unwrap().to_bytes(), whole, "{text} cut at {cut}");
                assert_eq!(headers[CONTENT_TYPE], "application/grpc");
            }
        }
        for broken in ["AAA", "AA=A", "????"] {
            let mut headers = said("application/grpc-web-text");
            let dialect = Dialect::of(&headers).unwrap();
            assert!(dialect.request(&mut headers, pieces(&[broken.as_bytes()], None)).collect().await.is_err(), "{broken}");
        }
    }

    #[tokio::test]
    async fn trailers_are_the_last_message() {
        let trailers = HeaderMap::from_iter([(header::HeaderName::from_static("grpc-status"), HeaderValue::from_static("5"))]);
        let expected = b"messages\x80\0\0\0\x10grpc-status: 5\r\n".as_slice();
        for (content_type, text) in [("application/grpc-web+proto", false), ("application/grpc-web-text", true)] {
            let dialect = Dialect::of(&said(content_type)).unwrap();
            let mut headers = said("application/grpc");
            let body = dialect.response(&mut headers, pieces(&[b"mess", b"", b"ages"], Some(trailers.clone())));
            let got = body.collect().await.unwrap();
            assert!(got.trailers().is_none());
            let got = got.to_bytes();
            let got = if text { STANDARD.decode(&got).unwrap() } else { got.to_vec() };
            assert_eq!(got, expected);
            assert_eq!(headers[CONTENT_TYPE], content_type);
        }
    }
}
