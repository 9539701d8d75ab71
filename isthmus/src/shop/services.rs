//! The shop's services. Each answers plain HTTP, or lines for the database, on a fixed port of its pod.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use anyhow::Context;
use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::MARKER;
use super::client::{Place, Upstream};

const HTTP_PORT: u16 = 8080;
const DB_PORT: u16 = 6400;
/// The database of a sample keeps few values, and each line is short.
const KEYS_MAX: usize = 1000;

/// IPv4 and IPv6 where the kernel has both.
async fn listen(port: u16) -> anyhow::Result<TcpListener> {
    match TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).await {
        Ok(listener) => Ok(listener),
        Err(_) => TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).await.with_context(|| format!("cannot listen on port {port}")),
    }
}

type Answer = (StatusCode, String);

async fn serve<F: Future<Output = Answer> + Send + 'static>(answer: impl Fn(String) -> F + Clone + Send + Sync + 'static) -> anyhow::Result<()> {
    let listener = listen(HTTP_PORT).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let _ = stream.set_nodelay(true);
        let answer = answer.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                let answer = answer(request.uri().path().to_owned());
                async move {
                    let (status, text) = answer.await;
                    let mut response = Response::new(Full::new(Bytes::from(text)));
                    *response.status_mut() = status;
                    Ok::<_, Infallible>(response)
                }
            });
            // A client that goes away is no event for a shop.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

pub async fn catalog(edition: &str) -> anyhow::Result<()> {
    let said = format!("anchors, ropes and maps, edition {edition}; {MARKER}\n");
    serve(move |_| {
        let said = said.clone();
        async move { (StatusCode::OK, said) }
    })
    .await
}

pub async fn front(catalog: &str, cart: &str) -> anyhow::Result<()> {
    let catalog = Arc::new(Upstream::new(Place::parse(catalog)?.authority));
    let cart = Arc::new(Upstream::new(Place::parse(cart)?.authority));
    serve(move |path| {
        let (catalog, cart) = (catalog.clone(), cart.clone());
        async move {
            if path == "/health" {
                return (StatusCode::OK, "ok\n".to_owned());
            }
            match (catalog.get("/items").await, cart.get("/add").await) {
                (Ok((_, items)), Ok((_, basket))) => {
                    (StatusCode::OK, format!("For sale: {}In your basket: {}", String::from_utf8_lossy(&items), String::from_utf8_lossy(&basket)))
                }
                (Err(error), _) | (_, Err(error)) => (StatusCode::BAD_GATEWAY, format!("{error:#}\n")),
            }
        }
    })
    .await
}

pub async fn cart(db: &str) -> anyhow::Result<()> {
    let db = Arc::new(DbClient { address: db.to_owned(), connection: tokio::sync::Mutex::default() });
    serve(move |_| {
        let db = db.clone();
        async move {
            match db.ask(&format!("add basket {MARKER}")).await {
                Ok(count) => (StatusCode::OK, format!("{count} items; {MARKER}\n")),
                Err(error) => (StatusCode::BAD_GATEWAY, format!("{error:#}\n")),
            }
        }
    })
    .await
}

/// Lines in, lines out: `add KEY NOTE` counts, `get KEY` tells.
pub async fn db() -> anyhow::Result<()> {
    let values: Arc<Mutex<BTreeMap<String, u64>>> = Arc::default();
    let listener = listen(DB_PORT).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let values = values.clone();
        tokio::spawn(async move {
            let (input, mut output) = stream.into_split();
            let mut lines = BufReader::new(input).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let reply = answer_line(&values, &line);
                if output.write_all(reply.as_bytes()).await.is_err() {
                    return;
                }
            }
        });
    }
}

fn answer_line(values: &Mutex<BTreeMap<String, u64>>, line: &str) -> String {
    let mut words = line.split_whitespace();
    let Ok(mut values) = values.lock() else { return "error\n".to_owned() };
    match (words.next(), words.next()) {
        (Some("add"), Some(key)) if values.len() < KEYS_MAX || values.contains_key(key) => {
            let value = values.entry(key.to_owned()).or_default();
            *value += 1;
            format!("{value} {MARKER}\n")
        }
        (Some("get"), Some(key)) => format!("{} {MARKER}\n", values.get(key).copied().unwrap_or_default()),
        _ => "error\n".to_owned(),
    }
}

struct DbClient {
    address: String,
    connection: tokio::sync::Mutex<Option<BufReader<TcpStream>>>,
}

impl DbClient {
    async fn ask(&self, line: &str) -> anyhow::Result<u64> {
        let mut held = self.connection.lock().await;
        if let Some(connection) = held.as_mut()
            && let Ok(value) = exchange(connection, line).await
        {
            return Ok(value);
        }
        *held = None;
        let stream = TcpStream::connect(&self.address).await.with_context(|| format!("cannot connect to the database at {}", self.address))?;
        let mut connection = BufReader::new(stream);
        let value = exchange(&mut connection, line).await?;
        *held = Some(connection);
        Ok(value)
    }
}

async fn exchange(connection: &mut BufReader<TcpStream>, line: &str) -> anyhow::Result<u64> {
    connection.write_all(format!("{line}\n").as_bytes()).await?;
    let mut reply = String::new();
    connection.read_line(&mut reply).await?;
    let number = reply.split_whitespace().next().context("the database closed the connection")?;
    number.parse().with_context(|| format!("the database answered {reply:?}"))
}
