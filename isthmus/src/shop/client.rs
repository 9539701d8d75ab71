//! HTTP clients: one that keeps its connection, and the ones that the tour reads.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::MARKER;

/// How long a service waits for another.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Pages of the shop are short.
const BODY_MAX: usize = 1 << 20;

/// Where a URL leads: host and port, and the path. Only plain http is spoken: encryption is the mesh's work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub authority: String,
    pub path: String,
}

impl Place {
    pub fn parse(url: &str) -> anyhow::Result<Place> {
        let rest = url.strip_prefix("http://").with_context(|| format!("{url:?} must begin with http://"))?;
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let authority = if has_port { host.to_owned() } else { format!("{host}:80") };
        Ok(Place { authority, path: format!("/{path}") })
    }
}

/// A service that is asked again and again, on one connection as long as it holds.
#[derive(Debug)]
pub struct Upstream {
    authority: String,
    connection: tokio::sync::Mutex<Option<SendRequest<Empty<Bytes>>>>,
}

impl Upstream {
    pub fn new(authority: String) -> Upstream {
        Upstream { authority, connection: tokio::sync::Mutex::default() }
    }

    /// Asks for a path. A connection that was cut while it was idle is replaced once.
    pub async fn get(&self, path: &str) -> anyhow::Result<(StatusCode, Bytes)> {
        let mut held = self.connection.lock().await;
        if let Some(connection) = held.as_mut()
            && let Ok(answer) = ask(connection, &self.authority, path).await
        {
            return Ok(answer);
        }
        *held = None;
        let mut connection = connect(&self.authority).await?;
        let answer = ask(&mut connection, &self.authority, path).await?;
        *held = Some(connection);
        Ok(answer)
    }
}

pub async fn connect(authority: &str) -> anyhow::Result<SendRequest<Empty<Bytes>>> {
    let stream = tokio::time::timeout(ANSWER_WITHIN, TcpStream::connect(authority)).await.map_err(|_| anyhow::anyhow!("{authority} does not answer"))?;
    let stream = stream.with_context(|| format!("cannot connect to {authority}"))?;
    stream.set_nodelay(true)?;
    speak(stream).await
}

pub async fn speak(stream: TcpStream) -> anyhow::Result<SendRequest<Empty<Bytes>>> {
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        // Its end shows in the next request.
        let _ = connection.await;
    });
    Ok(sender)
}

pub async fn ask(connection: &mut SendRequest<Empty<Bytes>>, authority: &str, path: &str) -> anyhow::Result<(StatusCode, Bytes)> {
    ask_with(connection, authority, path, &[]).await
}

/// With headers, each `NAME: VALUE`.
async fn ask_with(connection: &mut SendRequest<Empty<Bytes>>, authority: &str, path: &str, headers: &[String]) -> anyhow::Result<(StatusCode, Bytes)> {
    let answer = async {
        connection.ready().await?;
        let mut request = Request::get(path).header("host", authority).header("x-note", MARKER);
        for header in headers {
            let (name, value) = header.split_once(':').with_context(|| format!("{header:?} is not NAME: VALUE"))?;
            request = request.header(name.trim(), value.trim());
        }
        let request = request.body(Empty::new())?;
        let response = connection.send_request(request).await?;
        let status = response.status();
        let body = http_body_util::Limited::new(response.into_body(), BODY_MAX).collect().await.map_err(|error| anyhow::anyhow!("{error}"))?;
        Ok::<_, anyhow::Error>((status, body.to_bytes()))
    };
    tokio::time::timeout(ANSWER_WITHIN, answer).await.map_err(|_| anyhow::anyhow!("{authority} does not answer"))?
}

/// The load generator. Says one line when it begins to work and one when it no longer does.
pub async fn load(url: &str, rate: f64) -> anyhow::Result<()> {
    let place = Place::parse(url)?;
    let upstream = Upstream::new(place.authority.clone());
    let mut tick = tokio::time::interval(Duration::from_secs_f64(1.0 / rate.clamp(0.01, 10_000.0)));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut worked = None;
    loop {
        tick.tick().await;
        let works = match upstream.get(&place.path).await {
            Ok((status, _)) if status.is_success() => Ok(()),
            Ok((status, _)) => Err(format!("status {status}")),
            Err(error) => Err(format!("{error:#}")),
        };
        if worked != Some(works.is_ok()) {
            worked = Some(works.is_ok());
            match works {
                Ok(()) => println!("load: {url} answers"),
                Err(why) => println!("load: {url} fails: {why}"),
            }
        }
    }
}

/// Prints status, length and the first line of each answer.
pub async fn get_times(url: &str, times: u32, headers: &[String], limit: Duration) -> anyhow::Result<()> {
    let place = Place::parse(url)?;
    for _ in 0..times {
        let once = async {
            let mut connection = connect(&place.authority).await?;
            ask_with(&mut connection, &place.authority, &place.path, headers).await
        };
        let (status, body) = tokio::time::timeout(limit, once).await.map_err(|_| anyhow::anyhow!("{url} does not answer within {} ms", limit.as_millis()))??;
        if !status.is_success() {
            bail!("{url} answers {status}: {}", String::from_utf8_lossy(&body));
        }
        println!("{status} {} bytes: {}", body.len(), String::from_utf8_lossy(&body).lines().next().unwrap_or_default());
    }
    Ok(())
}

/// Keeps one connection busy. Each line is for the tour: `open`, later `cut MILLISECONDS REASON`.
pub async fn hold(url: &str) -> anyhow::Result<()> {
    let place = Place::parse(url)?;
    let mut connection = connect(&place.authority).await?;
    ask(&mut connection, &place.authority, &place.path).await?;
    // Whoever started us holds our standard input; when they are gone we have nobody to tell.
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0);
    });
    println!("open");
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    loop {
        tick.tick().await;
        if let Err(error) = ask(&mut connection, &place.authority, &place.path).await {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            println!("cut {} {error:#}", now.as_millis());
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_have_a_host_a_port_and_a_path() {
        for (url, authority, path) in [
            ("http://front", "front:80", "/"),
            ("http://front:8080/a/b", "front:8080", "/a/b"),
            ("http://[fd10::1]:80/", "[fd10::1]:80", "/"),
            ("http://[fd10::1]/", "[fd10::1]:80", "/"),
        ] {
            assert_eq!(Place::parse(url).unwrap(), Place { authority: authority.into(), path: path.into() });
        }
        assert!(Place::parse("https://front").is_err());
    }
}
