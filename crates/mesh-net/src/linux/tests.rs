//! Real sockets: on this host's loopback, and (as root) in a namespace of their own, with rules of nftables.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::time::Duration;

use socket2::{Domain, SockRef, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::netns::tests::fresh;
use crate::sockopt::Spoofing;

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

async fn connect<N: Net>(net: &N, listener: &mut N::Listener, to: SocketAddr, from: Source) -> (N::Stream, Accepted<N::Stream>) {
    let (dialed, accepted) = tokio::join!(net.dial(to, from), listener.accept());
    (dialed.unwrap(), accepted.unwrap())
}

// Z-023
#[tokio::test]
async fn ipv4_over_a_dual_stack_socket_is_plain_ipv4() {
    let net = HostNet::new(Options::default());
    let mut listener = net.listen(at("[::]:0")).await.unwrap();
    let port = listener.local_addr().port();
    for to in [format!("127.0.0.1:{port}"), format!("[::1]:{port}"), format!("[::ffff:127.0.0.1]:{port}")] {
        let to = at(&to);
        let (_dialed, accepted) = connect(&net, &mut listener, to, Source::Any).await;
        assert_eq!(accepted.local, canonical(to));
        assert_eq!(accepted.to, canonical(to), "nothing was redirected");
        assert_eq!(accepted.from.ip(), canonical(to).ip());
    }
}

// Z-126
#[tokio::test]
async fn accepted_sockets_inherit_the_options() {
    let net = HostNet::new(Options::default());
    let mut listener = net.listen(at("127.0.0.1:0")).await.unwrap();
    let to = listener.local_addr();
    let (dialed, accepted) = connect(&net, &mut listener, to, Source::Loopback).await;
    for stream in [&dialed, &accepted.stream] {
        let socket = SockRef::from(stream);
        assert!(socket.tcp_nodelay().unwrap());
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(180));
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(180));
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 9);
    }
    assert_eq!(accepted.from.ip(), IpAddr::from(Ipv4Addr::LOCALHOST));
}

// F-29
#[tokio::test]
async fn sockets_between_nodes_notice_a_machine_that_is_gone() {
    let net = HostNet::new(Options::default()).between_nodes(Duration::from_millis(4000));
    let mut listener = net.listen(at("127.0.0.1:0")).await.unwrap();
    let to = listener.local_addr();
    let (dialed, accepted) = connect(&net, &mut listener, to, Source::Any).await;
    for stream in [&dialed, &accepted.stream] {
        let socket = SockRef::from(stream);
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(1));
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(1));
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(4)));
    }
}

#[tokio::test]
async fn ports_are_shared_only_on_request() {
    for (port_reuse, shared) in [(true, true), (false, false)] {
        // Z-046, Z-045
        let net = HostNet::new(Options { port_reuse, ..Options::default() });
        let first = net.listen(at("127.0.0.1:0")).await.unwrap();
        assert_eq!(net.listen(first.local_addr()).await.is_ok(), shared);
        let first = net.bind_datagrams(at("127.0.0.1:0")).await.unwrap();
        // port 0 is never shared: two sockets that asked for any port must not get the same
        assert!(net.bind_datagrams(first.local_addr()).await.is_err());
    }
}

#[tokio::test]
async fn a_refusal_is_a_refusal() {
    let net = HostNet::new(Options::default());
    // bound and not listening: the port refuses, and no other test can be given it meanwhile
    let closed = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    closed.bind(&at("127.0.0.1:0").into()).unwrap();
    let port = closed.local_addr().unwrap().as_socket().unwrap();
    assert_eq!(net.dial(port, Source::Any).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn a_source_of_another_family_falls_back_or_fails() {
    let source = Source::Of("fd00::1".parse().unwrap());
    let net = HostNet::new(Options::default());
    let mut listener = net.listen(at("127.0.0.1:0")).await.unwrap();
    let to = listener.local_addr();
    let (_dialed, accepted) = connect(&net, &mut listener, to, source).await;
    assert_eq!(accepted.from.ip(), IpAddr::from(Ipv4Addr::LOCALHOST));
    let strict = HostNet::new(Options { spoofing: Spoofing::Required, ..Options::default() });
    assert_eq!(strict.dial(to, source).await.unwrap_err().kind(), io::ErrorKind::AddrNotAvailable);
}

#[tokio::test]
async fn datagrams_go_both_ways() {
    let net = HostNet::new(Options::default());
    let a = net.bind_datagrams(at("127.0.0.1:0")).await.unwrap();
    let b = net.bind_datagrams(at("127.0.0.1:0")).await.unwrap();
    a.send_to(b"ping", b.local_addr()).await.unwrap();
    let mut buffer = [0; 16];
    assert_eq!(b.recv_from(&mut buffer).await.unwrap(), (4, a.local_addr()));
}

/// An old daemon and a new one share a port; when the old one retires, what has come to it is answered, and nothing more comes.
#[tokio::test]
async fn a_retired_socket_answers_what_has_come_and_gets_nothing_more() {
    const CLIENTS: usize = 64;
    let Some(pod) = fresh("a_retired_socket_answers_what_has_come_and_gets_nothing_more") else { return };
    let net = pod_net(pod, Options { port_reuse: true, ..Options::default() });
    let here = at("127.0.0.1:15053");
    let (old, new) = (net.bind_datagrams(here).await.unwrap(), net.bind_datagrams(here).await.unwrap());
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(net.bind_datagrams(at("127.0.0.1:0")).await.unwrap());
    }
    let ask_all = async |word: &[u8]| {
        for client in &clients {
            client.send_to(word, here).await.unwrap();
        }
    };
    /// Answers all that is in the queue; how many that were.
    async fn answer(socket: &UdpSockets) -> usize {
        let mut buffer = [0; 16];
        let mut count = 0;
        while let Ok(received) = timeout(Duration::from_millis(20), socket.recv_from(&mut buffer)).await {
            socket.send_to(b"answer", received.unwrap().1).await.unwrap();
            count += 1;
        }
        count
    }
    ask_all(b"before").await;
    old.retire().unwrap();
    ask_all(b"after").await;
    let (by_old, by_new) = (answer(&old).await, answer(&new).await);
    assert!(by_old > 0 && by_new >= CLIENTS, "the kernel spread the first questions over both: {by_old}, {by_new}");
    assert_eq!(by_old + by_new, 2 * CLIENTS, "nothing is lost");
    let mut buffer = [0; 16];
    for client in &clients {
        for _ in 0..2 {
            assert_eq!(client.recv_from(&mut buffer).await.unwrap(), (6, here));
        }
    }
}

fn pod_net(pod: Netns, options: Options) -> PodNet {
    PodNet::new(pod, Netns::current().unwrap(), options).unwrap()
}

fn inside(pod: &Netns, command: &str) {
    let home = Netns::current().unwrap();
    let status = pod.run(&home, || Command::new("sh").args(["-ec", command]).status()).unwrap();
    assert!(status.success(), "{command}");
}

#[tokio::test]
async fn a_pods_sockets_are_marked_and_in_its_namespace() {
    // Z-047
    let Some(pod) = fresh("a_pods_sockets_are_marked_and_in_its_namespace") else { return };
    let net = pod_net(pod, Options { mark: Some(0x7fff_1234), ..Options::default() });
    let mut listener = net.listen(at("[::]:0")).await.unwrap();
    let to = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), listener.local_addr().port());
    let (dialed, accepted) = connect(&net, &mut listener, to, Source::Any).await;
    assert_eq!(SockRef::from(&dialed).mark().unwrap(), 0x7fff_1234);
    assert_eq!(SockRef::from(&accepted.stream).mark().unwrap(), 0x7fff_1234, "inherited");
    let from_home = HostNet::new(Options::default()).dial(to, Source::Any).await;
    assert_eq!(from_home.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn the_original_destination_is_found_for_both_families() {
    let Some(pod) = fresh("the_original_destination_is_found_for_both_families") else { return };
    inside(
        &pod,
        "nft add table inet t; nft add chain inet t o '{ type nat hook output priority -100; }'; nft add rule inet t o meta mark 0 tcp dport 80 redirect to :15001",
    );
    inside(
        &pod,
        "ip link add d0 type veth peer name d1; ip link set d1 up; ip addr add 10.9.0.1/24 dev d0; ip -6 addr add fd09::1/64 dev d0 nodad; ip link set d0 up",
    );
    let net = pod_net(pod.clone(), Options { mark: Some(7), ..Options::default() });
    let application = pod_net(pod, Options::default());
    let mut listener = net.listen(at("[::]:15001")).await.unwrap();
    for meant in [at("10.9.0.77:80"), at("[fd09::77]:80")] {
        let (dialed, accepted) = tokio::join!(application.dial(meant, Source::Any), listener.accept());
        let (_dialed, accepted) = (dialed.unwrap(), accepted.unwrap());
        assert_eq!(accepted.to, meant);
        assert_eq!(accepted.local.port(), 15001);
    }
}

#[tokio::test]
async fn the_source_address_is_kept() {
    let Some(pod) = fresh("the_source_address_is_kept") else { return };
    // replies to the foreign address are delivered here: what the capture rules do by a mark
    inside(
        &pod,
        "ip route add local 198.51.100.0/24 dev lo; ip -6 route add local 2001:db8::/64 dev lo; ip -6 addr add fd09::1/128 dev lo nodad",
    );
    let net = pod_net(pod, Options { spoofing: Spoofing::Required, ..Options::default() });
    let mut listener = net.listen(at("[::]:80")).await.unwrap();
    for (to, source) in [("127.0.0.1:80", "198.51.100.7"), ("[fd09::1]:80", "2001:db8::7")] {
        let source: IpAddr = source.parse().unwrap();
        let (mut dialed, mut accepted) = connect(&net, &mut listener, at(to), Source::Of(source)).await;
        assert_eq!(accepted.from.ip(), source);
        accepted.stream.write_all(b"seen").await.unwrap();
        let mut got = [0; 4];
        dialed.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"seen");
    }
}

#[tokio::test]
async fn nobody_answering_is_a_timeout() {
    let Some(pod) = fresh("nobody_answering_is_a_timeout") else { return };
    inside(
        &pod,
        "nft add table inet t; nft add chain inet t i '{ type filter hook input priority 0; }'; nft add rule inet t i tcp dport 81 drop",
    );
    let net = pod_net(pod, Options { connect_timeout: Duration::from_millis(200), ..Options::default() });
    let error = net.dial(at("127.0.0.1:81"), Source::Any).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert_eq!(error.to_string(), "no answer from 127.0.0.1:81 in 200ms");
}
