//! Unmodified programs of Debian through the mesh: HTTP, Redis, PostgreSQL with TLS inside, SMTP, bulk, DNS, half-closed
//! and idle connections; what applications see, what is counted, and what the wire does not show.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::app::{End, Server, ask, dial, echo, echo_at_end, greet, to_end};
use super::mesh::{MARKER, Mesh, SAID, SOON, until, until_ok, v4, v6};
use e2e::{Check, Outcome, checks};

pub fn checks() -> Vec<Check<Mesh>> {
    let mut all = checks![
        curl_and_nginx,
        same_node_pods_are_tunnelled,
        outside_servers_and_clients_are_reached,
        source_address_is_preserved,
        redis,
        postgresql_with_tls_inside,
        smtp_where_the_server_speaks_first,
        iperf3_both_ways,
        netcat_half_close,
        socat_half_close,
        half_close_by_either_side,
        thousand_idle_connections,
        a_service_spreads_over_its_endpoints,
        a_service_without_endpoints_refuses,
        headless_names_lead_to_pods,
        dns_over_udp_and_tcp,
        bytes_are_counted_exactly,
        every_metric_is_there,
        connections_are_listed,
    ];
    let upstream = Check { name: "dns_unknown_names_are_forwarded", run: dns_unknown_names_are_forwarded, known: None };
    all.push(upstream);
    all.extend(checks![the_marker_never_crossed_the_wire]);
    all
}

// Z-230, Z-231, Z-232, Z-245
fn curl_and_nginx(mesh: &Mesh) -> Result<()> {
    let web = mesh.pod("web");
    let by_ip = [format!("http://{}/", v4(&web, 8080)), format!("http://{}/", v6(&web, 8080))];
    let by_name = [
        "http://web/",
        "http://web.app/",
        "http://web.app.svc.cluster.local:80/",
        "http://10.96.7.11/",
        "http://[fd10:96::7:11]/",
    ]
    .map(str::to_owned);
    for url in by_ip.iter().chain(&by_name) {
        let page = mesh.curl("client", url)?;
        ensure!(page.contains("web saw") && page.contains(SAID) && page.contains(MARKER), "{url}: {page}");
    }
    let million = mesh.exec("client", &["curl", "-sS", "-m", "10", "http://web/million"])?;
    ensure!(million.stdout.len() == 1_000_000, "a body of a million bytes came as {}", million.stdout.len());
    let inbound = mesh.admin("node-2", "/config_dump")?;
    ensure!(inbound["workloadState"].is_object(), "the dump tells of pods");
    let tunnelled = mesh.metric(
        "node-2",
        "istio_tcp_connections_opened_total",
        &["destination_workload=\"web\"", "connection_security_policy=\"mutual_tls\"", "source_workload=\"client\""],
    )?;
    ensure!(tunnelled >= 7.0, "tunnelled connections from client to web: {tunnelled}");
    Ok(())
}

// Z-242, Z-234, Z-235, Z-236, Z-237
fn same_node_pods_are_tunnelled(mesh: &Mesh) -> Result<()> {
    let near = mesh.pod("near");
    for url in [
        format!("http://{}/", v4(&near, 8080)),
        format!("http://{}/", v6(&near, 8080)),
        "http://near/".to_owned(),
        "http://10.96.7.12/".to_owned(),
    ] {
        let page = mesh.curl("client", &url)?;
        ensure!(page.contains("near saw"), "{url}: {page}");
    }
    let tunnelled = mesh.metric(
        "node-1",
        "istio_tcp_connections_opened_total",
        &["reporter=\"destination\"", "destination_workload=\"near\"", "connection_security_policy=\"mutual_tls\""],
    )?;
    ensure!(tunnelled >= 4.0, "tunnelled connections on one node: {tunnelled}");
    Ok(())
}

// Z-243, Z-244
fn outside_servers_and_clients_are_reached(mesh: &Mesh) -> Result<()> {
    let bare = mesh.pod("bare");
    for url in ["http://bare.plain/".to_owned(), format!("http://{}/", v4(&bare, 8080)), format!("http://{}/", v6(&bare, 8080))] {
        // No marker: this is in the clear by right.
        let page = mesh.says("client", &["curl", "-sS", "-m", "5", &url])?;
        ensure!(page.contains("bare saw"), "{url}: {page}");
    }
    let web = mesh.pod("web");
    for url in ["http://web.app/".to_owned(), format!("http://{}/", v4(&web, 8080)), format!("http://{}/", v6(&web, 8080))] {
        let page = mesh.says("stranger", &["curl", "-sS", "-m", "5", &url])?;
        ensure!(page.contains("web saw"), "{url}: {page}");
    }
    let plain = mesh.metric(
        "node-2",
        "istio_tcp_connections_opened_total",
        &["destination_workload=\"web\"", "source_workload=\"stranger\"", "connection_security_policy=\"unknown\""],
    )?;
    ensure!(plain >= 3.0, "connections in the clear from stranger to web: {plain}");
    Ok(())
}

fn source_address_is_preserved(mesh: &Mesh) -> Result<()> {
    let (client, stranger, other) = (mesh.pod("client"), mesh.pod("stranger"), mesh.pod("other"));
    for server in ["blank", "near"] {
        let server = mesh.pod(server);
        let running = Server::start(mesh, &server, 7000, greet)?;
        for from in [&client, &stranger, &other] {
            for to in [v4(&server, 7000), v6(&server, 7000)] {
                let mut stream = dial(mesh, from, to)?;
                stream.shutdown(Shutdown::Write)?;
                let (line, end) = to_end(&mut stream);
                let own = if to.is_ipv4() { v4(from, 0).ip() } else { v6(from, 0).ip() };
                ensure!(
                    end == End::Finished && line == format!("{own}\n").into_bytes(),
                    "{} calls {to} and is seen as {:?}",
                    from.name,
                    String::from_utf8_lossy(&line)
                );
            }
        }
        ensure!(running.accepted() == 6, "{} connections reached {}", running.accepted(), server.name);
    }
    Ok(())
}

fn redis(mesh: &Mesh) -> Result<()> {
    ensure!(mesh.says("client", &["redis-cli", "-h", "redis", "set", "key", MARKER])?.trim() == "OK");
    ensure!(mesh.says("other", &["redis-cli", "-h", "redis.app", "get", "key"])?.trim() == MARKER);
    let many: String = (0..1000).map(|number| format!("set key{number} {MARKER}{number}\n")).collect();
    let said = super::mesh::said(&["redis-cli"], mesh.exec_with("client", &["redis-cli", "-h", "redis"], &many)?)?;
    ensure!(said.lines().filter(|line| line.trim() == "OK").count() == 1000, "a thousand commands on one connection");
    ensure!(mesh.says("client", &["redis-cli", "-h", "redis", "get", "key999"])?.trim() == format!("{MARKER}999"));
    Ok(())
}

fn postgresql_with_tls_inside(mesh: &Mesh) -> Result<()> {
    let psql = |query: &str| {
        mesh.says("client", &["psql", "host=pg user=postgres sslmode=require connect_timeout=5", "-At", "-c", query])
    };
    until_ok(Duration::from_secs(60), || psql("select 1")).context("the database answers")?;
    ensure!(
        psql("select ssl from pg_stat_ssl where pid = pg_backend_pid()")?.trim() == "t",
        "the client's own TLS is inside the tunnel"
    );
    psql(&format!("create table note (text text); insert into note select '{MARKER}' from generate_series(1, 1000)"))?;
    ensure!(psql("select count(*), min(text) from note")?.trim() == format!("1000|{MARKER}"));
    let clear = mesh.says(
        "client",
        &["psql", "host=pg user=postgres sslmode=disable", "-At", "-c", "select inet_client_addr(), text from note limit 1"],
    )?;
    ensure!(clear.contains(MARKER), "without TLS of its own: {clear}");
    psql("drop table note").map(drop)
}

fn smtp_where_the_server_speaks_first(mesh: &Mesh) -> Result<()> {
    let mail = format!("Subject: {MARKER}\r\n\r\n{MARKER}\r\n");
    let words =
        ["curl", "-sSv", "-m", "10", "smtp://mail", "--mail-from", "a@example.org", "--mail-rcpt", "b@example.org", "-T", "-"];
    let output = mesh.exec_with("client", &words, &mail)?;
    let talk = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success() && talk.contains("220 mail") && talk.contains("250 OK id="), "{talk}");
    let kept = mesh.says("mail", &["sh", "-c", "cat /tmp/spool/input/*-D"])?;
    ensure!(kept.contains(MARKER), "the server has the mail: {kept}");
    Ok(())
}

fn iperf3_both_ways(mesh: &Mesh) -> Result<()> {
    for direction in [&[][..], &["-R"][..]] {
        let words: Vec<&str> = ["iperf3", "-c", "bulk", "-n", "64M", "-J"].iter().chain(direction).copied().collect();
        let report: serde_json::Value = serde_json::from_str(&mesh.says("client", &words)?)?;
        let bytes = report["end"]["sum_received"]["bytes"].as_u64().unwrap_or(0);
        // iperf3's server stops to read when its client says that it is done.
        ensure!(bytes > 32 << 20, "{direction:?}: {bytes} bytes came through");
    }
    Ok(())
}

fn netcat_half_close(mesh: &Mesh) -> Result<()> {
    let server = Server::start(mesh, &mesh.pod("blank"), 7000, echo_at_end)?;
    let text = format!("{MARKER}\n").repeat(1000);
    for family in ["-4", "-6"] {
        let output = mesh.exec_with("client", &["nc", family, "-N", "blank", "7000"], &text)?;
        ensure!(
            output.stdout == text.as_bytes(),
            "{family}: {} of {} bytes came back after the client's end",
            output.stdout.len(),
            text.len()
        );
    }
    ensure!(server.accepted() == 2);
    Ok(())
}

fn socat_half_close(mesh: &Mesh) -> Result<()> {
    let _server = Server::start(mesh, &mesh.pod("blank"), 7000, echo_at_end)?;
    let output = mesh.exec_with("client", &["socat", "-t5", "-", "TCP4:blank:7000"], MARKER)?;
    ensure!(output.stdout == MARKER.as_bytes(), "{:?}", String::from_utf8_lossy(&output.stdout));
    Ok(())
}

// F-32
fn half_close_by_either_side(mesh: &Mesh) -> Result<()> {
    const MUCH: usize = 3 << 20;
    let (client, blank) = (mesh.pod("client"), mesh.pod("blank"));
    // The server says everything, ends its side, and only then reads.
    let server = Server::start(mesh, &blank, 7000, |conversation| {
        conversation.stream.write_all(&vec![b'x'; MUCH])?;
        conversation.stream.shutdown(Shutdown::Write)?;
        let mut buffer = vec![0; 65536];
        while conversation.read(&mut buffer)? > 0 {}
        Ok(())
    })?;
    let mut stream = dial(mesh, &client, v4(&blank, 7000))?;
    let (all, end) = to_end(&mut stream);
    ensure!(all.len() == MUCH && end == End::Finished, "{} bytes, {end:?}", all.len());
    stream.write_all(&vec![b'y'; MUCH]).context("after the server's end the client still speaks")?;
    drop(stream);
    until(SOON, "all that the client said after the server's end is there", || (server.received() == MUCH as u64).then_some(()))
}

fn thousand_idle_connections(mesh: &Mesh) -> Result<()> {
    const MANY: usize = 1000;
    let (client, blank) = (mesh.pod("client"), mesh.pod("blank"));
    let server = Server::start(mesh, &blank, 7000, echo)?;
    let to = v4(&blank, 7000);
    let streams = mesh.within(&client.netns, move || {
        (0..MANY).map(|_| std::net::TcpStream::connect(to)).collect::<std::io::Result<Vec<_>>>()
    })??;
    until(SOON, "all connections reach the server", || (server.accepted() == MANY).then_some(()))?;
    let open = mesh.metric("node-2", "istio_tcp_connections_opened_total", &["destination_workload=\"blank\""])?
        - mesh.metric("node-2", "istio_tcp_connections_closed_total", &["destination_workload=\"blank\""])?;
    ensure!(open >= MANY as f64, "the daemon counts {open} open connections");
    for (number, mut stream) in streams.iter().enumerate() {
        stream.set_read_timeout(Some(SOON))?;
        stream.write_all(&(number as u64).to_be_bytes())?;
    }
    for (number, mut stream) in streams.iter().enumerate() {
        let mut answer = [0; 8];
        std::io::Read::read_exact(&mut stream, &mut answer).with_context(|| format!("connection {number}"))?;
        ensure!(u64::from_be_bytes(answer) == number as u64, "connection {number} hears another's words");
    }
    drop(streams);
    let closed = || {
        let opened = mesh
            .metric("node-1", "istio_tcp_connections_opened_total", &["reporter=\"source\"", "destination_workload=\"blank\""])
            .ok()?;
        let closed = mesh
            .metric("node-1", "istio_tcp_connections_closed_total", &["reporter=\"source\"", "destination_workload=\"blank\""])
            .ok()?;
        (opened == closed).then_some(())
    };
    until(SOON, "every connection is accounted for once they are closed", closed)
}

// Z-257
fn a_service_spreads_over_its_endpoints(mesh: &Mesh) -> Result<()> {
    let pages = mesh.says("client", &["sh", "-c", "for i in $(seq 40); do curl -sS -m 5 http://pool/; done"])?;
    let who: BTreeSet<&str> = pages.lines().filter_map(|line| line.split(' ').next()).collect();
    ensure!(
        who == BTreeSet::from(["pool-a", "pool-b"]) && pages.lines().count() == 40,
        "answers of {who:?}, {} pages",
        pages.lines().count()
    );
    Ok(())
}

fn a_service_without_endpoints_refuses(mesh: &Mesh) -> Result<()> {
    ensure!(mesh.curl("client", "http://nobody/").is_err(), "there is nobody who could answer");
    let log = std::fs::read_to_string(mesh.log("ztunnel.node-1"))?;
    ensure!(log.contains("\"reason\":\"no_healthy_upstream\""), "the log names the reason");
    Ok(())
}

fn headless_names_lead_to_pods(mesh: &Mesh) -> Result<()> {
    let web = mesh.pod("web");
    ensure!(mesh.says("client", &["dig", "+short", "heads.app.svc.cluster.local"])?.trim() == web.addresses.v4.to_string());
    let page = mesh.curl("client", "http://heads:8080/")?;
    ensure!(page.contains("web saw"), "{page}");
    Ok(())
}

fn dns_over_udp_and_tcp(mesh: &Mesh) -> Result<()> {
    let dig = |words: &[&str]| mesh.says("client", &[&["dig", "+tries=1", "+time=5"], words].concat());
    for how in ["+notcp", "+tcp"] {
        for (name, kind, answer) in [
            ("web.app.svc.cluster.local", "A", "10.96.7.11"),
            ("web.app.svc.cluster.local", "AAAA", "fd10:96::7:11"),
            ("web.app", "A", "10.96.7.11"),
            ("web", "A", "10.96.7.11"),
            ("bare.plain", "A", "10.96.7.14"),
        ] {
            let said = dig(&[how, "+short", name, kind])?;
            ensure!(said.trim() == answer, "{how} {name} {kind}: {said:?}");
        }
        let said = dig(&[how, "+search", "web", "A"])?;
        ensure!(said.contains("web.app.svc.cluster.local.") && said.contains("10.96.7.11"), "by the search list: {said}");
        // A service of IPv4 alone: the name is there, the record is not.
        let said = dig(&[how, "pool.app.svc.cluster.local", "AAAA"])?;
        ensure!(said.contains("status: NOERROR") && said.contains("ANSWER: 0") && said.contains(" aa "), "{said}");
    }
    // Names in other namespaces are found by the search list alone, in two labels.
    ensure!(!mesh.says("client", &["getent", "hosts", "bare.plain"])?.is_empty());
    let asked = mesh.metric("node-1", "istio_dns_requests_total", &["request_protocol=\"tcp\"", "request_query_type=\"a\""])?;
    ensure!(asked >= 4.0, "questions over TCP that were counted: {asked}");
    Ok(())
}

// Z-239
fn dns_unknown_names_are_forwarded(mesh: &Mesh) -> Result<Outcome> {
    let Some(server) = first_name_server()? else {
        return Ok(Outcome::Skipped(
            "this machine's /etc/resolv.conf names no IPv4 server but itself; nothing can be put in its place".to_owned(),
        ));
    };
    // The machine's name server, played by this check: on the node, at its address.
    let netns = mesh.node("node-1").netns;
    isthmus::lab::netns::ip_batch(Some(&netns), &format!("addr add {server}/32 dev lo\n"))?;
    let socket = mesh.within(&netns, move || UdpSocket::bind(SocketAddr::from((server, 53))))??;
    let asked = Arc::new(AtomicUsize::new(0));
    let (counted, answering) = (asked.clone(), socket.try_clone()?);
    answering.set_read_timeout(Some(Duration::from_secs(20)))?;
    let player = std::thread::spawn(move || {
        let mut question = [0; 512];
        while let Ok((length @ 12.., from)) = answering.recv_from(&mut question) {
            counted.fetch_add(1, Ordering::SeqCst);
            let _ = answering.send_to(&no_such_name(&question[..length]), from);
        }
    });
    let unknown = mesh.says("client", &["dig", "+tries=1", "+time=5", "nowhere.example"]);
    let in_cluster = mesh.says("client", &["dig", "+tries=1", "+time=5", "nothing-there.app.svc.cluster.local"]);
    isthmus::lab::netns::ip_batch(Some(&netns), &format!("addr del {server}/32 dev lo\n"))?;
    // A datagram that is no question ends the player.
    mesh.within(&netns, move || UdpSocket::bind("127.0.0.1:0").and_then(|own| own.send_to(b"end", (server, 53))))?.ok();
    drop(socket);
    let (unknown, in_cluster) = (unknown?, in_cluster?);
    ensure!(unknown.contains("status: NXDOMAIN"), "{unknown}");
    ensure!(in_cluster.contains("status: NXDOMAIN"), "{in_cluster}");
    ensure!(asked.load(Ordering::SeqCst) >= 2, "both questions reached the machine's name server");
    let forwarded = mesh.metric("node-1", "istio_dns_upstream_requests_total", &[])?;
    ensure!(forwarded >= 2.0, "forwarded questions that were counted: {forwarded}");
    drop(player);
    Ok(Outcome::Held)
}

fn first_name_server() -> Result<Option<Ipv4Addr>> {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let first =
        text.lines().filter_map(|line| line.strip_prefix("nameserver")).find_map(|rest| rest.trim().parse::<Ipv4Addr>().ok());
    Ok(first.filter(|server| !server.is_loopback()))
}

/// The question as an answer: QR, RA, NXDOMAIN (RFC 1035 4.1.1). Without additional records, so their count is 0.
fn no_such_name(question: &[u8]) -> Vec<u8> {
    let end = question[12..].iter().position(|byte| *byte == 0).map_or(question.len(), |at| (12 + at + 5).min(question.len()));
    let mut answer = question[..end].to_vec();
    answer[2] |= 0x80;
    answer[3] = 0x83;
    answer[6..12].fill(0);
    answer
}

// Z-240, Z-241
fn bytes_are_counted_exactly(mesh: &Mesh) -> Result<()> {
    let (client, blank) = (mesh.pod("client"), mesh.pod("blank"));
    let _server = Server::start(mesh, &blank, 7000, |conversation| {
        let mut buffer = vec![0; 100_000];
        let mut heard = 0;
        while heard < 54_321 {
            heard += conversation.read(&mut buffer)?;
        }
        conversation.stream.write_all(&vec![b'z'; 123_457])
    })?;
    let count = |node: &str, reporter: &str, family: &str| {
        mesh.metric(
            node,
            family,
            &[
                &format!("reporter=\"{reporter}\""),
                "source_workload=\"client\"",
                "destination_workload=\"blank\"",
                "connection_security_policy=\"mutual_tls\"",
            ],
        )
    };
    let all = || -> Result<Vec<f64>> {
        let families = [
            "istio_tcp_connections_opened_total",
            "istio_tcp_connections_closed_total",
            "istio_tcp_sent_bytes_total",
            "istio_tcp_received_bytes_total",
        ];
        [("node-1", "source"), ("node-2", "destination")]
            .iter()
            .flat_map(|(node, reporter)| families.map(|family| count(node, reporter, family)))
            .collect()
    };
    let before = all()?;
    let mut stream = dial(mesh, &client, v4(&blank, 7000))?;
    stream.write_all(&vec![b'a'; 54_321])?;
    let (answer, _) = to_end(&mut stream);
    ensure!(answer.len() == 123_457);
    drop(stream);
    let mut grown = Vec::new();
    // Sent is what the destination says to the source, received what the source says (spec/dataplane.md 8.1).
    let expected = vec![1.0, 1.0, 123_457.0, 54_321.0, 1.0, 1.0, 123_457.0, 54_321.0];
    let settled = until(SOON, "both daemons have counted the connection", || {
        grown = all().ok()?.iter().zip(&before).map(|(now, then)| now - then).collect();
        (grown == expected).then_some(())
    });
    settled
        .with_context(|| format!("opened, closed, sent, received at source and destination grew by {grown:?}, not {expected:?}"))
}

// Z-238
fn every_metric_is_there(mesh: &Mesh) -> Result<()> {
    let text = mesh.metrics("node-1")?;
    for family in [
        "istio_build",
        "istio_tcp_connections_opened",
        "istio_tcp_connections_closed",
        "istio_tcp_connections_failed",
        "istio_tcp_sent_bytes",
        "istio_tcp_received_bytes",
        "istio_xds_connection_terminations",
        "istio_xds_message",
        "istio_xds_message_bytes",
        "istio_on_demand_dns",
        "istio_dns_requests",
        "istio_dns_upstream_requests",
        "istio_dns_upstream_failures",
        "istio_dns_upstream_request_duration_seconds",
        "workload_manager_active_proxy_count",
        "workload_manager_pending_proxy_count",
        "workload_manager_proxies_started",
        "workload_manager_proxies_stopped",
    ] {
        ensure!(text.lines().any(|line| line.starts_with(&format!("# TYPE {family} "))), "{family} is missing");
    }
    ensure!(text.ends_with("# EOF\n"), "OpenMetrics ends with EOF");
    Ok(())
}

fn connections_are_listed(mesh: &Mesh) -> Result<()> {
    let (client, blank) = (mesh.pod("client"), mesh.pod("blank"));
    let _server = Server::start(mesh, &blank, 7000, echo)?;
    let mut stream = dial(mesh, &client, "10.96.7.31:7000".parse()?)?;
    ask(&mut stream, MARKER)?;
    let output = std::process::Command::new(super::mesh::program("isthmus")?)
        .args(["--name", &mesh.name, "connections", "-o", "json"])
        .output()?;
    let listed: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let ours: Vec<_> = listed
        .as_array()
        .into_iter()
        .flatten()
        .filter(|one| one["destination"].as_str().is_some_and(|to| to.ends_with(":7000")))
        .collect();
    let found = |pod: &str, direction: &str| {
        ours.iter().any(|one| {
            one["pod"] == pod
                && one["direction"] == direction
                && one["encrypted"] == true
                && one["sourceIdentity"] == "spiffe://cluster.local/ns/app/sa/client"
        })
    };
    ensure!(found("app/blank", "inbound"), "the connection at its destination: {listed:#}");
    let outbound = listed.as_array().into_iter().flatten().any(|one| {
        one["pod"] == "app/client" && one["direction"] == "outbound" && one["service"] == "blank.app.svc.cluster.local"
    });
    ensure!(outbound, "the connection at its source: {listed:#}");
    Ok(())
}

// T-63
fn the_marker_never_crossed_the_wire(mesh: &Mesh) -> Result<()> {
    let (client, blank) = (mesh.pod("client"), mesh.pod("blank"));
    let _server = Server::start(mesh, &blank, 7000, echo)?;
    // Something in the tunnel, whatever else was run before; and something beside it, which the tap must see.
    for to in [v4(&blank, 7000), v6(&blank, 7000)] {
        ask(&mut dial(mesh, &client, to)?, MARKER)?;
    }
    mesh.curl("stranger", "http://bare/")?;
    let is_meshed = mesh.is_meshed();
    until(SOON, "what an un-enrolled pair says is seen on the wire", || {
        (mesh.sightings(MARKER, |ip| !is_meshed(ip)).0 > 0 && mesh.sightings(SAID, |ip| !is_meshed(ip)).0 > 0).then_some(())
    })?;
    for word in [MARKER, SAID] {
        let (seen, records) = mesh.sightings(word, &is_meshed);
        ensure!(seen == 0, "{word:?} was seen {seen} times between pods of the mesh");
        ensure!(records > 0, "no TLS record was seen at all");
    }
    Ok(())
}
