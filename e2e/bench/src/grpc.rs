//! A gRPC server, as small as one can be (`h2` alone): every call is answered with one message of five bytes and status 0
//! in trailers, whatever it asks. And how h2load is made a client of it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use anyhow::Context;
use bytes::Bytes;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::net::{TcpListener, TcpStream};

/// One message: no compression, five bytes, and they.
const MESSAGE: &[u8] = b"\0\0\0\0\x05hello";

/// Serves on every address until the process ends.
pub fn serve(port: u16) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).await.context("cannot listen")?;
        loop {
            let (stream, _) = listener.accept().await?;
            tokio::spawn(connection(stream));
        }
    })
}

async fn connection(stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        tokio::spawn(call(request, respond));
    }
}

async fn call(request: Request<h2::RecvStream>, mut respond: SendResponse<Bytes>) -> Result<(), h2::Error> {
    let mut body = request.into_body();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
    }
    let mut response = Response::new(());
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    let mut stream = respond.send_response(response, false)?;
    stream.send_data(Bytes::from_static(MESSAGE), false)?;
    let status = HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]);
    stream.send_trailers(status)
}

/// What h2load is told so that what it sends are calls; `message` is a file for it.
pub fn words(message: &Path) -> anyhow::Result<Vec<String>> {
    std::fs::write(message, MESSAGE)?;
    let data = message.display().to_string();
    Ok(["-H", "content-type: application/grpc", "-H", "te: trailers", "-d", &data].map(str::to_owned).to_vec())
}
