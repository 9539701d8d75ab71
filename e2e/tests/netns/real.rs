//! Servers and clients that people use, unmodified, on both sides of the waypoint: nginx, Python's gRPC, WebSockets and HTTP
//! server, redis, exim, OpenSSL; curl, h2load, grpcurl. What Debian does not have comes from `e2e/peers/install`.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use serde_json::Value;

use super::gate::{ONE, PAGE, POST, Program, STORE, addresses, at, is_gate, number, peers, run};
use super::mesh::{MARKER, Mesh, SAID, SOON, said};
use e2e::{Check, Outcome, checks};

pub fn checks() -> Vec<Check<Mesh>> {
    let mut all = checks![
        nginx_over_http1,
        nginx_over_http2,
        a_client_that_waits_to_be_told_to_go_on,
        redis_behind_a_waypoint,
        smtp_behind_a_waypoint,
        tls_goes_through_unopened,
    ];
    let with_peers: [(&'static str, fn(&Mesh) -> Result<Outcome>); 4] = [
        ("websockets_over_http1", websockets_over_http1),
        ("websockets_over_http2", websockets_over_http2),
        ("grpc_of_each_kind", grpc_of_each_kind),
        ("grpcurl_by_reflection", grpcurl_by_reflection),
    ];
    all.extend(with_peers.map(|(name, run)| Check { name, run, known: None }));
    all
}

/// What the answer of a page says whom it saw.
fn saw_the_gate(mesh: &Mesh, page: &str) -> Result<()> {
    let seen = page.split("saw ").nth(1).and_then(|rest| rest.split(' ').next()).context("the page says whom it saw")?;
    is_gate(mesh, seen.parse()?)
}

fn nginx_over_http1(mesh: &Mesh) -> Result<()> {
    // Three requests on one connection.
    let url = "http://page/";
    let pages = mesh.says("client", &["curl", "-sS", "-m", "10", "-w", "%{http_version} %{num_connects}\n", "-H", &format!("x-marker: {MARKER}"), url, url, url])?;
    let lines: Vec<&str> = pages.lines().collect();
    let [one, first, two, second, three, third] = lines.as_slice() else { anyhow::bail!("{pages}") };
    ensure!([*first, *second, *third] == ["1.1 1", "1.1 0", "1.1 0"], "{pages}");
    for page in [one, two, three] {
        ensure!(page.contains(SAID) && page.contains(MARKER), "{page}");
        saw_the_gate(mesh, page)?;
    }
    let million = mesh.exec("client", &["curl", "-sS", "-m", "10", "http://page/million"])?;
    ensure!(million.stdout.len() == 1_000_000, "a body of a million bytes came as {}", million.stdout.len());
    let part = mesh.exec("client", &["curl", "-sS", "-m", "10", "-r", "10-109", "http://page/million"])?;
    ensure!(part.stdout.len() == 100, "a hundred of them came as {}", part.stdout.len());
    let head = mesh.says("client", &["curl", "-sS", "-m", "10", "-I", "http://page/million"])?.to_ascii_lowercase();
    ensure!(head.contains("200 ok") && head.contains("content-length: 1000000"), "{head}");
    h2load(mesh, &["--h1", "-n", "1000", "-c", "4"], &format!("http://{}/", at(PAGE, 80)))
}

/// h2load's summary: all of its requests have succeeded.
fn h2load(mesh: &Mesh, words: &[&str], url: &str) -> Result<()> {
    let said = mesh.says("client", &[&["h2load"], words, &[url]].concat())?;
    let line = said.lines().find(|line| line.starts_with("requests:")).with_context(|| said.clone())?;
    let count = words.iter().skip_while(|word| **word != "-n").nth(1).copied().unwrap_or_default();
    ensure!(line.contains(&format!("{count} succeeded, 0 failed, 0 errored, 0 timeout")), "{line}");
    let codes = said.lines().find(|line| line.starts_with("status codes:")).unwrap_or_default();
    ensure!(codes.contains(&format!("{count} 2xx")), "{codes}");
    Ok(())
}

/// nginx with HTTP/2 without TLS.
fn nginx_over_http2(mesh: &Mesh) -> Result<()> {
    let right = mesh.pod("right");
    let (conf, log) = (mesh.scratch("h2c-conf"), mesh.scratch("h2c-errors"));
    let text = format!(
        "daemon off;\nuser root;\nworker_processes 1;\npid {}.pid;\nerror_log {0};\nevents {{}}\nhttp {{\n  access_log off;\n  server {{\n    listen 7081 http2;\n    location / {{ return 200 \"right saw $remote_addr by $server_protocol\\n\"; }}\n  }}\n}}\n",
        log.display()
    );
    std::fs::write(&conf, text)?;
    let (conf, log) = (conf.display().to_string(), log.display().to_string());
    let _nginx = Program::start(mesh, &right, "h2c", &[], &["nginx", "-e", &log, "-c", &conf], 7081)?;
    let page = mesh.says("client", &["curl", "-sS", "-m", "10", "--http2-prior-knowledge", "-w", "%{http_version}", "http://one:81/"])?;
    ensure!(page.contains("HTTP/2.0") && page.ends_with('2'), "{page}");
    saw_the_gate(mesh, &page)?;
    // Nobody is held to the version of the other side.
    let page = mesh.says("client", &["curl", "-sS", "-m", "10", "-w", "%{http_version}", "http://one:81/"])?;
    ensure!(page.contains("HTTP/2.0") && page.ends_with("1.1"), "{page}");
    h2load(mesh, &["-n", "2000", "-c", "2", "-m", "50"], &format!("http://{}/", at(ONE, 81)))
}

fn script(name: &str) -> String {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("peers").join(name).display().to_string()
}

/// Python's own server, and curl, which sends a body only when it was told to.
fn a_client_that_waits_to_be_told_to_go_on(mesh: &Mesh) -> Result<()> {
    const BYTES: usize = 1 << 20;
    let _server = Program::start(mesh, &mesh.pod("right"), "expecting", &[], &["python3", &script("expecting_server.py"), "7080"], 7080)?;
    let body = "y".repeat(BYTES);
    let upload = |path: &str| {
        let url = format!("http://one/{path}");
        let words = ["curl", "-sSv", "-m", "10", "-H", "expect: 100-continue", "--expect100-timeout", "9", "-w", "%{http_code} %{size_upload}", "--data-binary", "@-", &url];
        mesh.exec_with("client", &words, &body)
    };
    let taken = upload("take")?;
    let talk = String::from_utf8_lossy(&taken.stderr).into_owned();
    let answer = said(&["curl"], taken)?;
    ensure!(talk.contains("< HTTP/1.1 100 Continue") && answer == format!("{BYTES} bytes\n200 {BYTES}"), "{answer}: {talk}");
    let refused = upload("refuse")?;
    let talk = String::from_utf8_lossy(&refused.stderr).into_owned();
    let answer = said(&["curl"], refused)?;
    ensure!(!talk.contains("100 Continue") && answer == "403 0", "{answer}: {talk}");
    Ok(())
}

fn redis_behind_a_waypoint(mesh: &Mesh) -> Result<()> {
    // By its address: that the name leads there is shown elsewhere.
    let store = std::net::Ipv4Addr::from(STORE).to_string();
    let redis = |words: &[&str]| mesh.says("client", &[&["redis-cli", "-h", &store], words].concat());
    let seen = redis(&["client", "info"])?;
    ensure!(addresses(mesh).iter().any(|own| seen.contains(&format!("addr={own}:"))), "{seen}");
    ensure!(redis(&["set", "behind", MARKER])?.trim() == "OK");
    let many: String = (0..1000).map(|number| format!("incr counted{}\n", number % 10)).collect();
    let answers = said(&["redis-cli"], mesh.exec_with("client", &["redis-cli", "-h", &store], &many)?)?;
    ensure!(answers.lines().filter(|line| !line.is_empty()).count() == 1000, "a thousand commands on one connection");
    ensure!(redis(&["get", "counted7"])?.trim() == "100" && redis(&["get", "behind"])?.trim() == MARKER);
    redis(&["del", "behind"]).map(drop)
}

/// The server speaks first, at a port that says so by its name.
fn smtp_behind_a_waypoint(mesh: &Mesh) -> Result<()> {
    let url = format!("smtp://{}", at(POST, 25));
    let words = ["curl", "-sSv", "-m", "10", &url, "--mail-from", "a@example.org", "--mail-rcpt", "b@example.org", "-T", "-"];
    let output = mesh.exec_with("client", &words, &format!("Subject: {MARKER}\r\n\r\nbehind\r\n"))?;
    let talk = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success() && talk.contains("220 mail") && talk.contains("250 OK id="), "{talk}");
    ensure!(addresses(mesh).iter().any(|own| talk.contains(&format!("[{own}]"))), "exim greets the waypoint: {talk}");
    Ok(())
}

/// The client's own TLS ends at the server: whose certificate it verifies is the server's.
fn tls_goes_through_unopened(mesh: &Mesh) -> Result<()> {
    let (key, certificate) = (mesh.scratch("tls-key").display().to_string(), mesh.scratch("tls-cert").display().to_string());
    let right = mesh.pod("right");
    let made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=one.example", "-addext", "subjectAltName=DNS:one.example", "-days", "2", "-keyout", &key, "-out", &certificate];
    run(&right, &[], &made)?;
    let _server = Program::start(mesh, &right, "tls", &[], &["openssl", "s_server", "-quiet", "-www", "-accept", "7085", "-key", &key, "-cert", &certificate], 7085)?;
    let resolve = format!("one.example:85:{}", std::net::Ipv4Addr::from(ONE));
    let page = run(&mesh.pod("client"), &[], &["curl", "-sS", "-m", "10", "--cacert", &certificate, "--resolve", &resolve, "https://one.example:85/"])?;
    ensure!(page.contains("TLSv1.3"), "{page}");
    Ok(())
}

/// The folder of Python's packages, or why there is none.
fn python() -> Result<std::result::Result<String, Outcome>> {
    let folder = peers()?.join("python");
    let missing = || Outcome::Skipped("Python's packages could not be installed: run e2e/peers/install".to_owned());
    Ok(if folder.is_dir() { Ok(folder.display().to_string()) } else { Err(missing()) })
}

fn websockets_over_http1(mesh: &Mesh) -> Result<Outcome> {
    let folder = match python()? {
        Ok(folder) => folder,
        Err(skipped) => return Ok(skipped),
    };
    let path = [("PYTHONPATH", folder.as_str())];
    let _server = Program::start(mesh, &mesh.pod("right"), "websockets", &path, &["python3", &script("websocket_server.py"), "7080"], 7080)?;
    let told = run(&mesh.pod("client"), &path, &["python3", &script("websocket_client.py"), &at(ONE, 80).to_string()])?;
    let told: Value = serde_json::from_str(&told)?;
    is_gate(mesh, told["seen_as"].as_str().unwrap_or_default().trim_start_matches("::ffff:").parse()?)?;
    let expected = [("turns", 200), ("large", 1 << 20), ("close", 4000)];
    ensure!(expected.iter().all(|(name, is)| number(&told, name) == *is) && told["pong"] == true, "{told}");
    Ok(Outcome::Held)
}

/// RFC 8441: the server still speaks HTTP/1.1.
fn websockets_over_http2(mesh: &Mesh) -> Result<Outcome> {
    let folder = match python()? {
        Ok(folder) => folder,
        Err(skipped) => return Ok(skipped),
    };
    let path = [("PYTHONPATH", folder.as_str())];
    let _server = Program::start(mesh, &mesh.pod("right"), "websockets", &path, &["python3", &script("websocket_server.py"), "7080"], 7080)?;
    let stream = super::app::dial(mesh, &mesh.pod("client"), at(ONE, 80))?;
    stream.set_nonblocking(true)?;
    let seen = mesh.rt.block_on(async { tokio::time::timeout(SOON, talk(tokio::net::TcpStream::from_std(stream)?)).await? })?;
    is_gate(mesh, seen.trim_start_matches("::ffff:").parse()?)?;
    Ok(Outcome::Held)
}

/// Hears the greeting, says a word, hears it, says good-bye.
async fn talk(stream: tokio::net::TcpStream) -> Result<String> {
    let (mut send, connection) = h2::client::handshake(stream).await?;
    tokio::spawn(async move {
        // Its end shows in the answers.
        let _ = connection.await;
    });
    while !send.is_extended_connect_protocol_enabled() {
        send = send.ready().await?;
        tokio::task::yield_now().await;
    }
    let request = http::Request::builder()
        .method(http::Method::CONNECT)
        .uri("http://one/")
        .header("sec-websocket-version", "13")
        .extension(h2::ext::Protocol::from_static("websocket"))
        .body(())?;
    let (answer, mut say) = send.send_request(request, false)?;
    let answer = answer.await?;
    ensure!(answer.status() == 200, "{answer:?}");
    let mut hear = Frames { body: answer.into_body(), bytes: Vec::new() };
    let (kind, greeting) = hear.frame().await?;
    ensure!(kind == TEXT);
    // A client masks what it says (RFC 6455 5.3).
    let masked = |kind: u8, text: &[u8]| {
        let mask = [1, 2, 3, 4];
        let masked = text.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask);
        Bytes::from_iter([0x80 | kind, 0x80 | text.len() as u8].into_iter().chain(mask).chain(masked))
    };
    say.send_data(masked(TEXT, b"word"), false)?;
    ensure!(hear.frame().await? == (TEXT, b"word".to_vec()));
    say.send_data(masked(CLOSE, &4000_u16.to_be_bytes()), false)?;
    let (kind, code) = hear.frame().await?;
    ensure!(kind == CLOSE && code.starts_with(&4000_u16.to_be_bytes()), "{kind}: {code:?}");
    Ok(String::from_utf8(greeting)?)
}

const TEXT: u8 = 1;
const CLOSE: u8 = 8;

/// Short frames of a server (RFC 6455 5.2).
struct Frames {
    body: h2::RecvStream,
    bytes: Vec<u8>,
}

impl Frames {
    async fn frame(&mut self) -> Result<(u8, Vec<u8>)> {
        loop {
            if let [kind, length, rest @ ..] = self.bytes.as_slice()
                && let Some(text) = rest.get(..usize::from(*length))
            {
                let frame = (kind & 0x0f, text.to_vec());
                self.bytes.drain(..2 + frame.1.len());
                return Ok(frame);
            }
            let data = self.body.data().await.context("the server ended it")??;
            self.body.flow_control().release_capacity(data.len())?;
            self.bytes.extend_from_slice(&data);
        }
    }
}

fn grpc_server(mesh: &Mesh, path: &[(&str, &str)]) -> Result<Program> {
    Program::start(mesh, &mesh.pod("right"), "grpc", path, &["python3", &script("grpc_server.py"), "7082"], 7082)
}

fn grpc_of_each_kind(mesh: &Mesh) -> Result<Outcome> {
    let folder = match python()? {
        Ok(folder) => folder,
        Err(skipped) => return Ok(skipped),
    };
    let path = [("PYTHONPATH", folder.as_str())];
    let _server = grpc_server(mesh, &path)?;
    let told = run(&mesh.pod("client"), &path, &["python3", &script("grpc_client.py"), &at(ONE, 82).to_string()])?;
    let told: Value = serde_json::from_str(&told)?;
    ensure!(addresses(mesh).iter().any(|own| told["seen_as"].to_string().contains(&own.to_string())), "{told}");
    let expected = [("large", 4 << 20), ("down", 1000), ("up", 1_000_000), ("turns", 200), ("left", 0), ("at_once", 500)];
    for (name, is) in expected {
        ensure!(number(&told, name) == is, "{name} is not {is}: {told}");
    }
    for (name, is) in [("unary", "hello"), ("trailer", "tail"), ("failed", "ABORTED: as asked: %"), ("late", "DEADLINE_EXCEEDED"), ("unknown", "UNIMPLEMENTED")] {
        ensure!(told[name] == is, "{name} is not {is}: {told}");
    }
    Ok(Outcome::Held)
}

/// Reflection is a stream both ways; health is found by it.
fn grpcurl_by_reflection(mesh: &Mesh) -> Result<Outcome> {
    let folder = match python()? {
        Ok(folder) => folder,
        Err(skipped) => return Ok(skipped),
    };
    let grpcurl = peers()?.join("bin/grpcurl").display().to_string();
    if !std::path::Path::new(&grpcurl).is_file() {
        return Ok(Outcome::Skipped("grpcurl could not be built: run e2e/peers/install".to_owned()));
    }
    let _server = grpc_server(mesh, &[("PYTHONPATH", &folder)])?;
    let (client, to) = (mesh.pod("client"), at(ONE, 82).to_string());
    let services = run(&client, &[], &[&grpcurl, "-plaintext", "-max-time", "10", &to, "list"])?;
    ensure!(services.contains("grpc.health.v1.Health") && services.contains("reflection"), "{services}");
    let health = run(&client, &[], &[&grpcurl, "-plaintext", "-max-time", "10", "-d", r#"{"service": "e2e.Echo"}"#, &to, "grpc.health.v1.Health/Check"])?;
    ensure!(health.contains("SERVING"), "{health}");
    let unknown = run(&client, &[], &[&grpcurl, "-plaintext", "-max-time", "10", "-d", r#"{"service": "nobody"}"#, &to, "grpc.health.v1.Health/Check"]);
    ensure!(unknown.is_err_and(|error| format!("{error:#}").contains("NotFound")), "a status of the server's own is passed on");
    Ok(Outcome::Held)
}
