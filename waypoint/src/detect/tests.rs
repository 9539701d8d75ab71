use std::collections::VecDeque;

use tokio::io::AsyncReadExt;
use tokio::time::Instant;

use super::*;

/// A client that says these pieces, then ends or keeps silent.
struct Client {
    pieces: VecDeque<&'static [u8]>,
    ends: bool,
}

impl Duplex for Client {
    fn poll_read_chunk(&mut self, _: &mut Context<'_>, _: usize) -> Poll<io::Result<Option<Bytes>>> {
        match self.pieces.pop_front() {
            Some(piece) => Poll::Ready(Ok(Some(Bytes::from_static(piece)))),
            None if self.ends => Poll::Ready(Ok(None)),
            None => Poll::Pending,
        }
    }

    fn poll_write_chunk(&mut self, _: &mut Context<'_>, _: &mut Bytes) -> Poll<io::Result<()>> {
        Poll::Pending
    }

    fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn reset(&mut self) {}
}

impl AsyncRead for Client {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(chunk) = std::task::ready!(self.poll_read_chunk(cx, 0))? {
            buffer.put_slice(&chunk);
        }
        Poll::Ready(Ok(()))
    }
}

async fn told(pieces: &[&'static [u8]], ends: bool, question: Question) -> (Protocol, Duration, Vec<u8>) {
    let began = Instant::now();
    let client = Client { pieces: pieces.iter().copied().collect(), ends };
    let (protocol, mut arrived) = detect(client, question, PATIENCE).await;
    let took = began.elapsed();
    arrived.stream.ends = true;
    let mut all = Vec::new();
    arrived.read_to_end(&mut all).await.unwrap();
    (protocol, took, all)
}

// spec/waypoint.md 11 rows 3 and 4
#[tokio::test(start_paused = true)]
async fn what_is_spoken_is_found_out_and_no_byte_is_lost() {
    use Question::{Anything, Nothing, ServerName, Version};
    let zero = Duration::ZERO;
    #[allow(clippy::type_complexity, reason = "the rows of a table")]
    let table: &[(&[&'static [u8]], bool, Question, Protocol, Duration)] = &[
        (&[b"G", b"E", b"T", b" / HTTP/1.1\r", b"\n\r\n"], false, Anything, Protocol::Http1, zero),
        (&[b"PRI * HT", b"TP/2.0\r\n\r\nSM"], false, Anything, Protocol::Http2, zero),
        (&[b"PRI * HT", b"TP/2.0\r\n\r\nSM"], false, Version, Protocol::Http2, zero),
        (&[b"\0\0"], false, Anything, Protocol::Opaque, zero),
        (&[], false, Anything, Protocol::Opaque, PATIENCE),
        (&[b"GET"], false, Anything, Protocol::Opaque, PATIENCE),
        (&[], true, Anything, Protocol::Opaque, zero),
        (&[b"GET"], true, Anything, Protocol::Opaque, zero),
        (&[b"GET / HTTP/1.1\r\n"], false, Nothing, Protocol::Opaque, zero),
        (&[], false, Nothing, Protocol::Opaque, zero),
        (&[b"GET / HTTP/1.1\r\n"], false, ServerName, Protocol::Opaque, zero),
        (&[], false, ServerName, Protocol::Opaque, PATIENCE),
        (&[], false, Version, Protocol::Http1, PATIENCE),
    ];
    for (pieces, ends, question, protocol, took) in table {
        let said = format!("{pieces:?} {ends} {question:?}");
        let (found, waited, all) = told(pieces, *ends, *question).await;
        assert_eq!((found, waited), (protocol.clone(), *took), "{said}");
        assert_eq!(all, pieces.concat(), "{said}");
    }
}

#[test]
fn what_is_declared_is_not_asked_for() {
    for (declared, port, expected) in [
        (PortProtocol::Auto, 8080, Question::Anything),
        (PortProtocol::Auto, 3306, Question::Nothing),
        (PortProtocol::Auto, 25, Question::Nothing),
        (PortProtocol::Tcp, 8080, Question::Nothing),
        (PortProtocol::Tls, 443, Question::ServerName),
        (PortProtocol::Http1, 25, Question::Version),
        (PortProtocol::Grpc, 80, Question::Version),
    ] {
        assert_eq!(question(declared, port), expected, "{declared:?} {port}");
    }
}
