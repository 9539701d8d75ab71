//! What a pod may try against the mesh (spec/reliability.md 4): certificates of others, tunnels to others, the mesh's own
//! ports, marks, forged addresses, silence. Each check knows a way to fail: the same thing done right.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use isthmus::lab::state::PodState;
use mesh_hbone::OpenError;
use mesh_identity::sign::{Ca, Lifetimes, ROOT_LIFE};
use mesh_model::identity::SpiffeId;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::app::{End, Server, ask, dial, echo, greet, to_end};
use super::mesh::{MARKER, Mesh, SAID, SOON, until, until_ok, until_refused, v4, v6};
use super::peer::{HBONE, account, connect, credential, handshake, status};
use super::policy::STRICT;
use e2e::{Check, checks};

pub fn checks() -> Vec<Check<Mesh>> {
    checks![
        certificates_that_are_not_ours_are_refused,
        only_tls13_with_h2_is_spoken,
        a_valid_identity_reaches_its_destination_only,
        a_denied_identity_is_told_so,
        hostnames_in_tunnels,
        malicious_calls,
        admin_is_for_the_node_alone,
        forged_marks_do_not_leave,
        the_probe_address_is_no_passport,
        addresses_of_others_cannot_be_borrowed,
        guesses_at_other_protocols_are_refused,
        ten_thousand_silent_connections,
    ]
}

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Sends a word through a handshake and sees whether anything comes back. TLS 1.3 tells a client of its refusal only
/// when it reads.
fn is_served(mesh: &Mesh, from: &PodState, to: SocketAddr, ca: &Ca, identity: &SpiffeId, at: SystemTime) -> Result<()> {
    let as_whom = credential(ca, identity, at)?;
    let mut secured = handshake(mesh, from, to, &as_whom, at)?;
    mesh.rt.block_on(async {
        tokio::time::timeout(SOON, async {
            // The preface of HTTP/2 and empty SETTINGS (RFC 9113 3.4): a served peer answers with its own.
            secured.stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await?;
            let mut answer = [0; 9];
            secured.stream.read_exact(&mut answer).await?;
            Ok(())
        })
        .await?
    })
}

// T-01, T-61, Z-265
fn certificates_that_are_not_ours_are_refused(mesh: &Mesh) -> Result<()> {
    let (stranger, blank) = (mesh.pod("stranger"), mesh.pod("blank"));
    let server = Server::start(mesh, &blank, 7000, echo)?;
    let (ours, now) = (mesh.ca()?, SystemTime::now());
    let failures = || mesh.metric("node-2", "isthmus_failures_total", &["reporter=\"destination\""]);
    let before = failures()?;
    let other = Ca::self_signed("cluster.local", ROOT_LIFE, Lifetimes::default(), now)?;
    let client = account("client");
    for to in [v4(&blank, HBONE), v6(&blank, HBONE)] {
        is_served(mesh, &stranger, to, &ours, &client, now).context("a good certificate is served")?;
        for (what, ca, identity, at) in [
            ("of another authority", &other, &client, now),
            ("expired", &ours, &client, now - 2 * DAY),
            ("not yet valid", &ours, &client, now + 2 * DAY),
            ("of another trust domain", &ours, &SpiffeId::new("elsewhere.local", "app", "client"), now),
        ] {
            ensure!(is_served(mesh, &stranger, to, ca, identity, at).is_err(), "a certificate {what} is served at {to}");
        }
        let place = to.to_string();
        let none = mesh.exec(
            "stranger",
            &["sh", "-c", &format!("echo x | timeout 8 openssl s_client -connect {place} -alpn h2 -quiet 2>&1")],
        )?;
        let said = String::from_utf8_lossy(&none.stdout).into_owned();
        ensure!(said.contains("certificate required"), "without a certificate: {said}");
    }
    ensure!(server.accepted() == 0, "the application saw nothing");
    until(SOON, "each refused handshake is counted", || failures().ok().filter(|now| *now >= before + 8.0).map(drop))
}

// T-61
fn only_tls13_with_h2_is_spoken(mesh: &Mesh) -> Result<()> {
    let blank = mesh.pod("blank");
    let to = v4(&blank, HBONE);
    for (options, refusal) in [
        ("-tls1_2 -alpn h2", "alert"),
        ("-tls1_2 -cipher ALL:@SECLEVEL=0", "alert"),
        ("-tls1_3 -alpn http/1.1", "alert"),
        ("-tls1_3 -ciphersuites TLS_CHACHA20_POLY1305_SHA256 -alpn h2", "alert"),
    ] {
        let output =
            mesh.exec("stranger", &["sh", "-c", &format!("echo x | timeout 8 openssl s_client -connect {to} {options} 2>&1")])?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(said.contains(refusal) && said.contains("no peer certificate available"), "{options}: {said}");
    }
    // An SSLv2 hello, HTTP, and noise: closed without an answer that helps.
    for hello in [
        &b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10"[..],
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        &[0xff; 64],
    ] {
        let mut stream = dial(mesh, &mesh.pod("stranger"), to)?;
        stream.write_all(hello)?;
        let (answer, end) = to_end(&mut stream);
        ensure!(end != End::Open && answer.len() <= 7, "after {:?} came {answer:?}, {end:?}", String::from_utf8_lossy(hello));
    }
    Ok(())
}

// T-02, V-60, V-61, Z-261
fn a_valid_identity_reaches_its_destination_only(mesh: &Mesh) -> Result<()> {
    // From a pod outside: the mesh would carry an enrolled pod's own tunnels in tunnels.
    let (stranger, blank, web) = (mesh.pod("stranger"), mesh.pod("blank"), mesh.pod("web"));
    let as_client = credential(&mesh.ca()?, &account("client"), SystemTime::now())?;
    let server = Server::start(mesh, &blank, 7000, greet)?;
    let there = v4(&blank, HBONE);
    let own = v4(&blank, 7000);
    let mut tunnel = connect(mesh, &stranger, there, &as_client, &own.to_string())??;
    let line = mesh.rt.block_on(async {
        let mut line = [0; 4];
        tunnel.read_exact(&mut line).await.map(|_| line)
    })?;
    ensure!(&line == b"10.2", "the own address is served: {line:?}");
    drop(tunnel);
    let node = mesh.node("node-2");
    let foreign = [
        v4(&web, 8080).to_string(),
        v6(&web, 8080).to_string(),
        v4(&mesh.pod("bare"), 8080).to_string(),
        format!("{}:15000", node.wire.v4),
        format!("{}:15020", node.gateway.v4),
        "127.0.0.1:7000".into(),
        "[::1]:7000".into(),
        "[::ffff:127.0.0.1]:7000".into(),
        "0.0.0.0:7000".into(),
        "[::]:7000".into(),
        "169.254.169.254:80".into(),
        "10.96.0.1:443".into(),
        "10.96.7.11:80".into(),
        "localhost:7000".into(),
        "web.app.svc.cluster.local:80".into(),
        "127.1:7000".into(),
        "2130706433:7000".into(),
        "0x7f000001:7000".into(),
        "017700000001:7000".into(),
        "[fe80::1%eth0]:7000".into(),
        "[fe80::1%25eth0]:7000".into(),
        "[::1%1]:7000".into(),
        format!("+{}:7000", own.ip()),
        format!("{}:0", own.ip()),
        format!("{}:65536", own.ip()),
        format!("{}:15001", own.ip()),
        format!("{}:15006", own.ip()),
        format!("{}:15008", own.ip()),
        format!("[{}]:15008", v6(&blank, 0).ip()),
    ];
    let before = server.accepted();
    for authority in &foreign {
        match status(mesh, &stranger, there, &as_client, authority) {
            Ok(status) => ensure!((400..600).contains(&status), "CONNECT {authority} is answered with {status}"),
            // An authority that is none is a broken request.
            Err(error) => ensure!(
                error.to_string().contains("error") || error.to_string().contains("invalid"),
                "CONNECT {authority}: {error:#}"
            ),
        }
    }
    let other_pod = status(mesh, &stranger, there, &as_client, &v4(&web, 8080).to_string())?;
    ensure!(other_pod == 400, "another pod's address is a bad request: {other_pod}");
    ensure!(server.accepted() == before, "nothing was dialled");
    Ok(())
}

// Z-260
fn a_denied_identity_is_told_so(mesh: &Mesh) -> Result<()> {
    let (stranger, blank) = (mesh.pod("stranger"), mesh.pod("blank"));
    let server = Server::start(mesh, &blank, 7000, greet)?;
    let _file = mesh.apply(
        "deny-other.yaml",
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: deny-other, namespace: app}\nspec:\n  selector: {matchLabels: {app: blank}}\n  action: DENY\n  rules:\n  - from:\n    - source: {principals: [cluster.local/ns/app/sa/other]}\n",
    )?;
    let ca = mesh.ca()?;
    let (there, to) = (v4(&blank, HBONE), v4(&blank, 7000).to_string());
    let other = credential(&ca, &account("other"), SystemTime::now())?;
    until(SOON, "the policy is in force", || {
        matches!(connect(mesh, &stranger, there, &other, &to), Ok(Err(OpenError::Status(status))) if status.as_u16() == 401)
            .then_some(())
    })?;
    let accepted = server.accepted();
    ensure!(status(mesh, &stranger, there, &other, &to)? == 401);
    ensure!(server.accepted() == accepted, "the application saw nothing of it");
    let allowed = credential(&ca, &account("client"), SystemTime::now())?;
    connect(mesh, &stranger, there, &allowed, &to)?.context("another identity is served")?;
    Ok(())
}

// Z-253, Z-262, Z-263
fn hostnames_in_tunnels(mesh: &Mesh) -> Result<()> {
    let (stranger, blank) = (mesh.pod("stranger"), mesh.pod("blank"));
    let _server = Server::start(mesh, &blank, 7000, greet)?;
    let as_client = credential(&mesh.ca()?, &account("client"), SystemTime::now())?;
    // A port by number, and one whose target is the name of a container's port.
    for (authority, expected) in [
        ("blank.app.svc.cluster.local:7000", true),
        ("blank.app.svc.cluster.local:7001", true),
        ("blank.app.svc.cluster.local:7002", false),
        ("web.app.svc.cluster.local:80", false),
    ] {
        let opened = connect(mesh, &stranger, v4(&blank, HBONE), &as_client, authority)?;
        ensure!(opened.is_ok() == expected, "CONNECT {authority}: {:?}", opened.err());
    }
    Ok(())
}

// T-03, Z-264
fn malicious_calls(mesh: &Mesh) -> Result<()> {
    let (blank, near, node) = (mesh.pod("blank"), mesh.pod("near"), mesh.node("node-1"));
    let mut calls = 0;
    for from in [mesh.pod("client"), mesh.pod("stranger")] {
        let v6_of = |address: isthmus::plan::Addresses| address.v6.expect("IPv6 is there").into();
        let v4_of = |address: isthmus::plan::Addresses| std::net::IpAddr::V4(address.v4);
        let places: Vec<std::net::IpAddr> = vec![
            v4_of(from.addresses),
            v6_of(from.addresses),
            Ipv4Addr::LOCALHOST.into(),
            std::net::Ipv6Addr::LOCALHOST.into(),
            v4_of(node.wire),
            v6_of(node.wire),
            v4_of(node.gateway),
            v6_of(node.gateway),
            v4_of(near.addresses),
            v6_of(near.addresses),
            v4_of(blank.addresses),
            v6_of(blank.addresses),
        ];
        for place in places {
            for port in [15000, 15001, 15006, 15008, 15053, 15080, 15021] {
                let to = SocketAddr::new(place, port);
                let answer = request(mesh, &from, to);
                calls += 1;
                // Readiness says nothing but that it is there, as the kubelet must be able to ask it.
                let own_question = port == 15021
                    && [v4_of(node.wire), v6_of(node.wire), v4_of(node.gateway), v6_of(node.gateway)].contains(&place);
                ensure!(
                    own_question || !answer.starts_with(b"HTTP/1.1 200"),
                    "{} at {to} is answered: {}",
                    from.name,
                    String::from_utf8_lossy(&answer)
                );
                ensure!(!String::from_utf8_lossy(&answer).contains("certificates"), "{} at {to} sees the dump", from.name);
            }
        }
    }
    ensure!(calls >= 105, "{calls} calls");
    // The daemons did not run in circles: they are there, idle, and serve.
    mesh.curl("client", "http://web/").map(drop)
}

/// What comes back for a question in HTTP; nothing when there is no connection.
fn request(mesh: &Mesh, from: &PodState, to: SocketAddr) -> Vec<u8> {
    let asked = mesh.within(&from.netns, move || -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(3))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(b"GET /config_dump HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        let _ = stream.take(4096).read_to_end(&mut answer);
        Ok(answer)
    });
    asked.ok().and_then(Result::ok).unwrap_or_default()
}

// T-20
fn admin_is_for_the_node_alone(mesh: &Mesh) -> Result<()> {
    let node = mesh.node("node-1");
    let on_node = |words: &str| -> Result<String> {
        let output = std::process::Command::new("nsenter")
            .arg(format!("--net={}", isthmus::lab::netns::path(&node.netns).display()))
            .args(["sh", "-c", words])
            .output()?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let code = "curl -s -m 5 -o /dev/null -w %{http_code}";
    ensure!(on_node(&format!("{code} http://localhost:15000/config_dump"))? == "200", "the node may look");
    for (what, command) in [
        ("another Host", format!("{code} -X POST -H 'host: evil.example' http://127.0.0.1:15000/logging?level=debug")),
        ("an Origin", format!("{code} -X POST -H 'origin: http://evil.example' http://127.0.0.1:15000/logging?level=debug")),
        ("GET where POST is asked for", format!("{code} http://127.0.0.1:15000/quitquitquit")),
    ] {
        let answer = on_node(&command)?;
        ensure!(answer.starts_with('4'), "{what}: {answer}");
    }
    let pid = mesh.daemon("node-1");
    for place in [node.wire.v4.to_string(), node.gateway.v4.to_string()] {
        for pod in ["client", "stranger"] {
            for url in [format!("http://{place}:15000/config_dump"), format!("http://{place}:15000/quitquitquit")] {
                ensure!(
                    mesh.exec(pod, &["curl", "-sS", "-m", "3", "-X", "POST", "-H", "host: localhost", &url])
                        .is_ok_and(|output| !output.status.success()),
                    "{pod} reaches {url}"
                );
            }
        }
    }
    ensure!(mesh.daemon("node-1") == pid && pid.is_some(), "the daemon still runs");
    Ok(())
}

// T-04
fn forged_marks_do_not_leave(mesh: &Mesh) -> Result<()> {
    let blank = mesh.pod("blank");
    let _server = Server::start(mesh, &blank, 7000, echo)?;
    let note = isthmus::shop::MARK_NOTE;
    // As a container's own process with NET_RAW, and with more rights than a container has: many marks at full rate.
    let to = [v4(&blank, 7000), v6(&blank, 7000)];
    let words: Vec<String> = to.iter().flat_map(|to| ["--marked".to_owned(), to.to_string()]).collect();
    let words: Vec<&str> = ["isthmus-shop", "intrude"].into_iter().chain(words.iter().map(String::as_str)).collect();
    let told = mesh.says("client", &words)?;
    ensure!(told.contains("the mark was set"), "a pod can set marks: {told}");
    let client = mesh.pod("client");
    let tried = mesh.within(&client.netns, move || -> Result<usize> {
        let mut tried = 0;
        for mark in (0..600u32).map(|number| number.wrapping_mul(0x9e37_79b9) | 1) {
            let socket = nix::sys::socket::socket(
                nix::sys::socket::AddressFamily::Inet,
                nix::sys::socket::SockType::Stream,
                nix::sys::socket::SockFlag::SOCK_NONBLOCK,
                None,
            )?;
            nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::Mark, &mark)?;
            let SocketAddr::V4(there) = to[0] else { continue };
            let address = nix::sys::socket::SockaddrIn::from(there);
            // In progress is as good as done: the packet is on its way.
            let _ = nix::sys::socket::connect(std::os::fd::AsRawFd::as_raw_fd(&socket), &address);
            let mut stream = TcpStream::from(socket);
            let _ = stream.write_all(note.as_bytes());
            tried += 1;
        }
        Ok(tried)
    })??;
    ensure!(tried == 600);
    // The same thing, said by a pod outside, is seen: then everything before it was seen as well.
    let (stranger, bare) = (mesh.pod("stranger"), mesh.pod("bare"));
    let mut stream = dial(mesh, &stranger, v4(&bare, 8080))?;
    stream.write_all(format!("GET / HTTP/1.0\r\nx-note: {note}\r\n\r\n").as_bytes())?;
    to_end(&mut stream);
    let is_meshed = mesh.is_meshed();
    until(SOON, "the note of the pod outside is seen", || (mesh.sightings(note, |ip| !is_meshed(ip)).0 > 0).then_some(()))?;
    let seen = mesh.sightings(note, &is_meshed).0;
    ensure!(seen == 0, "notes under forged marks were seen in the clear {seen} times");
    // Pods that use no marks are not hurt by the counting of marks.
    mesh.curl("client", "http://web/").map(drop)
}

// T-05
fn the_probe_address_is_no_passport(mesh: &Mesh) -> Result<()> {
    const PROBE: &str = "169.254.7.127";
    const PROBE_V6: &str = "fd16:9254:7127:1337:ffff:ffff:ffff:ffff";
    let (client, blank) = (mesh.pod("client"), mesh.pod("blank"));
    let seen: Arc<Mutex<Vec<IpAddr>>> = Arc::default();
    let sees = seen.clone();
    let _server = Server::start(mesh, &blank, 7000, move |conversation| {
        if let Ok(mut seen) = sees.lock() {
            seen.push(conversation.from.ip());
        }
        greet(conversation)
    })?;
    let _file = mesh.apply("strict.yaml", STRICT)?;
    until_refused(SOON, "STRICT", || {
        dial(mesh, &mesh.pod("stranger"), v4(&blank, 7000)).and_then(|mut stream| ask(&mut stream, "x"))
    })?;
    if let Ok(mut seen) = seen.lock() {
        seen.clear();
    }
    let dropped = || drops(mesh, "node-1");
    let before = dropped()?;
    for pod in ["client", "stranger"] {
        let netns = mesh.pod(pod).netns;
        // With an address that the pod gives itself: answers never come, so a SYN is all that can be sent.
        isthmus::lab::netns::ip_batch(
            Some(&netns),
            &format!("addr add {PROBE}/32 dev lo\naddr add {PROBE_V6}/128 dev lo nodad\n"),
        )?;
        for (from, to) in [(PROBE.parse()?, v4(&blank, 7000)), (PROBE_V6.parse()?, v6(&blank, 7000))] {
            let from: std::net::IpAddr = from;
            let connected = mesh.within(&netns, move || connect_from(SocketAddr::new(from, 0), to, 0x539))?;
            // What an enrolled pod says is carried as that pod's, whatever address it gives itself.
            ensure!(pod == "client" || connected.is_err() || !heard(connected), "{pod} from {from} reaches {to}");
        }
        if let (IpAddr::V4(from), IpAddr::V4(to)) = (PROBE.parse()?, v4(&blank, 0).ip()) {
            mesh.within(&netns, move || raw_syn(from, to, 7000))??;
        }
        isthmus::lab::netns::ip_batch(Some(&netns), &format!("addr del {PROBE}/32 dev lo\naddr del {PROBE_V6}/128 dev lo\n"))?;
    }
    let owns = [v4(&client, 0).ip(), v6(&client, 0).ip()];
    let seen = seen.lock().map(|seen| seen.clone()).unwrap_or_default();
    ensure!(seen.iter().all(|ip| owns.contains(ip)), "the application saw callers at {seen:?}");
    ensure!(dropped()? > before, "the node counts what it drops");
    ask(&mut dial(mesh, &client, v4(&blank, 7000)).and_then(skip_greeting)?, MARKER).context("a tunnel is served meanwhile")?;
    Ok(())
}

fn skip_greeting(mut stream: TcpStream) -> Result<TcpStream> {
    let mut byte = [0];
    while byte != [b'\n'] {
        stream.read_exact(&mut byte)?;
    }
    Ok(stream)
}

fn heard(connected: Result<TcpStream>) -> bool {
    let Ok(mut stream) = connected else { return false };
    let mut word = [0; 2];
    stream.read_exact(&mut word).is_ok()
}

/// A connection from a borrowed address, under a mark that would keep it from being captured where it is known.
fn connect_from(from: SocketAddr, to: SocketAddr, mark: u32) -> Result<TcpStream> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt};
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Stream, SockFlag::empty(), None)?;
    setsockopt(&socket, sockopt::Mark, &mark)?;
    setsockopt(&socket, sockopt::SendTimeout, &nix::sys::time::TimeVal::new(2, 0))?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &nix::sys::time::TimeVal::new(2, 0))?;
    setsockopt(&socket, sockopt::IpTransparent, &true)?;
    let raw = std::os::fd::AsRawFd::as_raw_fd(&socket);
    bind(raw, &SockaddrStorage::from(from))?;
    connect(raw, &SockaddrStorage::from(to))?;
    Ok(TcpStream::from(socket))
}

/// A first packet that no socket of the kernel sent, under a mark that other daemons exempt.
fn raw_syn(from: Ipv4Addr, to: Ipv4Addr, port: u16) -> Result<()> {
    use nix::sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, setsockopt, socket, sockopt,
    };
    let socket = socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), SockProtocol::Raw)?;
    setsockopt(&socket, sockopt::Mark, &0x539)?;
    let mut tcp =
        [&4321u16.to_be_bytes()[..], &port.to_be_bytes(), &1u32.to_be_bytes(), &[0; 4], &[0x50, 2, 0xff, 0xff, 0, 0, 0, 0]]
            .concat();
    // RFC 9293 3.1: the sum covers the addresses, the protocol and the length as well.
    let pseudo = [&from.octets()[..], &to.octets(), &[0, 6, 0, tcp.len() as u8]].concat();
    let words = pseudo.chunks(2).chain(tcp.chunks(2)).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum = words.sum::<u32>();
    let folded = (sum & 0xffff) + (sum >> 16);
    tcp[16..18].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    let header = [0x45, 0, 0, 40, 0, 1, 0, 0, 64, 6, 0, 0];
    let packet = [&header[..], &from.octets(), &to.octets(), &tcp].concat();
    let there = SockaddrIn::from(std::net::SocketAddrV4::new(to, port));
    // A rule that drops it at once is told to the sender; that is as good as one that drops it later.
    let _ = sendto(std::os::fd::AsRawFd::as_raw_fd(&socket), &packet, &there, MsgFlags::empty());
    Ok(())
}

/// Packets that the rules of a node dropped.
fn drops(mesh: &Mesh, node: &str) -> Result<u64> {
    let output = std::process::Command::new("nsenter")
        .arg(format!("--net={}", isthmus::lab::netns::path(&mesh.node(node).netns).display()))
        .args(["nft", "list", "ruleset"])
        .output()?;
    let rules = String::from_utf8_lossy(&output.stdout).into_owned();
    let dropping = rules.lines().filter(|line| line.contains("counter packets") && line.contains("drop"));
    Ok(dropping.filter_map(|line| line.split("packets ").nth(1)?.split(' ').next()?.parse::<u64>().ok()).sum())
}

// T-06
fn addresses_of_others_cannot_be_borrowed(mesh: &Mesh) -> Result<()> {
    let (other, stranger, bare, blank) = (mesh.pod("other"), mesh.pod("stranger"), mesh.pod("bare"), mesh.pod("blank"));
    let server = Server::start(mesh, &bare, 7000, greet)?;
    let inside = Server::start(mesh, &blank, 7000, greet)?;
    // Counted call by call: a change of policy that comes through in between writes the node's rules anew, from 0.
    let mut dropped = 0;
    for (own, from, at) in [
        (v4(&other, 0), &bare, v4(&bare, 7000)),
        (v6(&other, 0), &bare, v6(&bare, 7000)),
        (v4(&other, 0), &blank, v4(&blank, 7000)),
        (v6(&other, 0), &blank, v6(&blank, 7000)),
    ] {
        let before = drops(mesh, "node-1")?;
        let connected = mesh.within(&stranger.netns, move || connect_from(own, at, 1))?;
        ensure!(connected.is_err(), "{} speaks as {own} with {}", stranger.name, from.name);
        dropped += drops(mesh, "node-1")?.saturating_sub(before);
    }
    ensure!(dropped >= 4, "the node counts what it drops: {dropped}");
    ensure!(
        (server.accepted(), inside.accepted()) == (0, 0),
        "no application saw a borrowed address: {} outside, {} inside",
        server.accepted(),
        inside.accepted()
    );
    ensure!(dial(mesh, &stranger, v4(&bare, 7000)).is_ok(), "with its own address it is served");
    Ok(())
}

// T-23
fn guesses_at_other_protocols_are_refused(mesh: &Mesh) -> Result<()> {
    let (stranger, blank) = (mesh.pod("stranger"), mesh.pod("blank"));
    let server = Server::start(mesh, &blank, 7000, echo)?;
    // TLS to a port of the application is the application's: in the clear, without an identity.
    let mut stream = dial(mesh, &stranger, v4(&blank, 7000))?;
    ask(&mut stream, "\u{16}\u{3}\u{1} a hello that is none").context("bytes that look like TLS are bytes")?;
    let _file = mesh.apply(
        "identified.yaml",
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: identified, namespace: app}\nspec:\n  selector: {matchLabels: {app: blank}}\n  action: ALLOW\n  rules:\n  - from:\n    - source: {principals: ['*']}\n",
    )?;
    until_refused(SOON, "who has no identity is refused", || {
        dial(mesh, &stranger, v4(&blank, 7000)).and_then(|mut stream| ask(&mut stream, "x"))
    })?;
    let accepted = server.accepted();
    for hello in
        [&b"\x16\x03\x01\x00\x05hello"[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"PROXY TCP4 10.244.1.10 10.244.2.10 1 7000\r\n"]
    {
        for port in [7000, HBONE, 15006] {
            let Ok(mut stream) = dial(mesh, &stranger, v4(&blank, port)) else { continue };
            let _ = stream.write_all(hello);
            let (answer, end) = to_end(&mut stream);
            ensure!(end != End::Open && answer.len() <= 7, "port {port}: {answer:?} {end:?}");
        }
    }
    ensure!(server.accepted() == accepted, "the application accepted nothing");
    until_ok(SOON, || dial(mesh, &mesh.pod("client"), v4(&blank, 7000)).and_then(|mut stream| ask(&mut stream, MARKER))).map(drop)
}

// T-09
fn ten_thousand_silent_connections(mesh: &Mesh) -> Result<()> {
    const MANY: usize = 10_000;
    const REAPED_WITHIN: Duration = Duration::from_secs(6);
    let (stranger, blank) = (mesh.pod("stranger"), mesh.pod("blank"));
    let _server = Server::start(mesh, &blank, 7000, echo)?;
    let is_meshed = mesh.is_meshed();
    ensure!(mesh.sightings(MARKER, is_meshed).0 == 0, "until now nothing leaked");
    let to = v4(&blank, HBONE);
    let began = Instant::now();
    let silent = mesh.within(&stranger.netns, move || {
        (0..MANY).map_while(|_| TcpStream::connect_timeout(&to, Duration::from_secs(5)).ok()).collect::<Vec<_>>()
    })?;
    let opened = began.elapsed();
    ensure!(silent.len() == MANY, "{} of {MANY} could be opened", silent.len());
    let mut slowest = Duration::ZERO;
    for number in 0..50 {
        let asked = Instant::now();
        ask(&mut dial(mesh, &mesh.pod("client"), v4(&blank, 7000))?, MARKER)
            .with_context(|| format!("call {number} of a pod that means well"))?;
        slowest = slowest.max(asked.elapsed());
    }
    ensure!(slowest < Duration::from_secs(1), "a call of a pod that means well took {slowest:?}");
    let last = silent.last().context("there are connections")?;
    last.set_read_timeout(Some(REAPED_WITHIN))?;
    for mut stream in &silent {
        stream.set_read_timeout(Some(REAPED_WITHIN))?;
        let mut byte = [0];
        let end = stream.read(&mut byte);
        ensure!(
            !matches!(&end, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock) && !matches!(end, Ok(1..)),
            "a silent connection is still open: {end:?}"
        );
    }
    let all = began.elapsed();
    ensure!(all < opened + REAPED_WITHIN, "opened in {opened:?}, all gone after {all:?}");
    drop(silent);
    // So many streams fill the capture's memory; the checks to come need it.
    mesh.watch_wire()?;
    let page = mesh.curl("client", "http://web/")?;
    ensure!(page.contains(SAID), "{page}");
    Ok(())
}
