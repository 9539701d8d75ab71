//! Three network namespaces, pod - node - peer, joined by two links; a stand-in for the node daemon in the pod; and
//! programs that ask and answer. Everything vanishes with the test.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use mesh_cni::apply::{Place, SYSCTLS};
use mesh_cni::pod::Scope;
use mesh_cni::rules::Rules;
use mesh_net::linux::PodNet;
use mesh_net::net::{Accept, Datagrams, Net, Source};
use mesh_net::netns::Netns;
use mesh_net::sockopt::Options;
use nix::sched::{CloneFlags, unshare};
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

pub const POD4: &str = "10.77.1.2";
pub const POD6: &str = "fd77:1::2";
pub const PEER4: &str = "10.77.2.2";
pub const PEER6: &str = "fd77:2::2";
/// What the pod's daemon marks its sockets with, drawn by the first enrolment.
pub const MARK: u32 = 0x5eed_0001;

pub struct World {
    pub home: Netns,
    pub node: Netns,
    pub pod: Netns,
    pub peer: Netns,
}

impl World {
    /// `None`, and a line that says SKIPPED, without the right to make namespaces.
    pub fn new(test: &str) -> Option<World> {
        let home = Netns::current().unwrap();
        let (Some(node), Some(pod), Some(peer)) = (namespace(), namespace(), namespace()) else {
            println!("SKIPPED {test}: network namespaces need root");
            return None;
        };
        let world = World { home, node, pod, peer };
        for netns in [&world.node, &world.pod, &world.peer] {
            // addresses are unique here: nobody waits a second for that to be found out
            world.sh(netns, "for i in all default; do echo 0 > /proc/sys/net/ipv6/conf/$i/accept_dad; echo 0 > /proc/sys/net/ipv6/conf/$i/dad_transmits; done");
        }
        let at = |netns: &Netns| format!("/proc/{}/fd/{}", std::process::id(), netns.as_fd().as_raw_fd());
        world.sh(
            &world.node,
            &format!(
                "ip link add vpod type veth peer name eth0 netns {pod}; ip link add vpeer type veth peer name eth0 netns {peer}
             echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
             for i in pod:1 peer:2; do n=${{i#*:}}; i=v${{i%:*}}
               ip addr add 10.77.$n.1/24 dev $i; ip addr add fd77:$n::1/64 dev $i nodad; ip link set $i up
             done",
                pod = at(&world.pod),
                peer = at(&world.peer),
            ),
        );
        for (netns, n) in [(&world.pod, 1), (&world.peer, 2)] {
            world.sh(
                netns,
                &format!(
                    "ip addr add 10.77.{n}.2/24 dev eth0; ip addr add fd77:{n}::2/64 dev eth0 nodad; ip link set eth0 up
                 ip route add default via 10.77.{n}.1; ip -6 route add default via fd77:{n}::1"
                ),
            );
        }
        Some(world)
    }

    pub fn sh(&self, netns: &Netns, script: &str) -> String {
        let run = || Command::new("sh").args(["-ec", script]).stderr(Stdio::inherit()).output();
        let output = netns.run(&self.home, run).unwrap();
        assert!(output.status.success(), "{script}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn net(&self, netns: &Netns, mark: Option<u32>) -> PodNet {
        PodNet::new(netns.clone(), self.home.clone(), Options { mark, ..Options::default() }).unwrap()
    }

    /// A program in the pod.
    pub fn application(&self) -> PodNet {
        self.net(&self.pod, None)
    }

    pub fn outside(&self) -> PodNet {
        self.net(&self.peer, None)
    }

    pub fn place(&self) -> Place {
        self.place_in(&self.pod)
    }

    pub fn place_in(&self, within: &Netns) -> Place {
        Place { home: self.home.clone(), within: within.clone(), sysctls: SYSCTLS.into() }
    }

    pub fn rules(&self) -> Rules {
        Rules::adopt(self.place(), Arc::new(AtomicBool::new(false)), || MARK).unwrap().0
    }

    /// The pod's rules, as for a pod that starts.
    pub fn enrolled(&self, scope: Scope) -> Rules {
        let rules = self.rules();
        rules.capture(scope, true, Some([].into())).unwrap();
        rules
    }

    /// Waits for a level; 10 s are a failure.
    pub async fn until(&self, what: &str, mut reached: impl FnMut() -> bool) {
        let waiting = async {
            while !reached() {
                tokio::task::yield_now().await; // a look takes milliseconds of `nft` or netlink
            }
        };
        assert!(timeout(Duration::from_secs(10), waiting).await.is_ok(), "{what}");
    }

    /// Packets that a counted rule of the pod has seen, all rules with this comment together.
    pub fn counted(&self, comment: &str) -> u64 {
        let listed = self.sh(&self.pod, "nft list table inet isthmus");
        let lines = listed.lines().filter(|line| line.contains(&format!("comment \"{comment}\"")));
        lines.map(|line| line.split("counter packets ").nth(1).unwrap().split(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    }
}

fn namespace() -> Option<Netns> {
    let made = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).map_err(io::Error::from)?;
        assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status()?.success());
        Netns::current()
    });
    match made.join().unwrap() {
        Ok(netns) => Some(netns),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => None,
        Err(error) => panic!("{error}"),
    }
}

pub fn scope() -> Scope {
    Scope { dns: true, inbound: true, virtual_interfaces: vec![], exclude_inbound: vec![], exclude_outbound: vec![] }
}

/// A listener that tells each connection `NAME from X to Y` and then repeats what it hears.
pub async fn serve(net: &PodNet, name: &'static str, at: &str) -> Arc<AtomicUsize> {
    let mut listener = net.listen(at.parse().unwrap()).await.unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counting = count.clone();
    tokio::spawn(async move {
        loop {
            let mut accepted = listener.accept().await.unwrap();
            counting.fetch_add(1, SeqCst);
            tokio::spawn(async move {
                let hello = format!("{name} from {} to {}\n", accepted.from.ip(), accepted.to);
                let _ = accepted.stream.write_all(hello.as_bytes()).await;
                let (mut reading, mut writing) = accepted.stream.split();
                let _ = tokio::io::copy(&mut reading, &mut writing).await;
            });
        }
    });
    count
}

/// The daemon's listeners in the pod.
pub async fn daemon(world: &World, mark: u32) -> PodNet {
    let net = world.net(&world.pod, Some(mark));
    for (name, at) in [
        ("outbound", "[::]:15001"),
        ("inbound", "[::]:15006"),
        ("hbone", "[::]:15008"),
        ("dns4", "127.0.0.1:15053"),
        ("dns6", "[::1]:15053"),
    ] {
        serve(&net, name, at).await;
    }
    for at in ["127.0.0.1:15053", "[::1]:15053"] {
        answer_datagrams(&net, at, "from the daemon").await;
    }
    net
}

pub async fn answer_datagrams(net: &PodNet, at: &str, answer: &'static str) {
    let socket = net.bind_datagrams(at.parse().unwrap()).await.unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        while let Ok((_, from)) = socket.recv_from(&mut buffer).await {
            let _ = socket.send_to(answer.as_bytes(), from).await;
        }
    });
}

/// A connection whose caller has this port; dropped, it ends by a reset, so that its port is free at once.
pub async fn call(world: &World, netns: &Netns, port: u16, to: &str) -> TcpStream {
    let socket = netns
        .run(&world.home, || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            socket.set_linger(Some(Duration::ZERO))?;
            socket.bind(&SocketAddr::from(([0, 0, 0, 0], port)).into())?;
            socket.connect_timeout(&to.parse::<SocketAddr>().unwrap().into(), Duration::from_secs(5))?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        })
        .unwrap();
    TcpStream::from_std(socket.into()).unwrap()
}

pub async fn line(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        line.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(line).unwrap().trim_end().to_owned()
}

/// What answers at `to`: the first line, or the kind of error.
pub async fn ask(net: &PodNet, to: &str) -> String {
    ask_as(net, to, Source::Any).await
}

pub async fn ask_as(net: &PodNet, to: &str, source: Source) -> String {
    let to: SocketAddr = to.parse().unwrap();
    let asking = async {
        let mut stream = net.dial(to, source).await?;
        let mut line = Vec::new();
        while !line.ends_with(b"\n") {
            match stream.read_u8().await {
                Ok(byte) => line.push(byte),
                Err(_) => break,
            }
        }
        io::Result::Ok(String::from_utf8(line).unwrap().trim().to_owned())
    };
    match timeout(Duration::from_millis(1500), asking).await {
        Ok(Ok(line)) => line,
        Ok(Err(error)) => format!("{:?}", error.kind()),
        Err(_) => "silence".to_owned(),
    }
}

/// One UDP question; the answer, and whether it came from whom it was sent to.
pub async fn ask_datagram(net: &PodNet, from: &str, to: &str) -> String {
    let socket = net.bind_datagrams(from.parse().unwrap()).await.unwrap();
    let to: SocketAddr = to.parse().unwrap();
    let mut buffer = [0; 512];
    let asking = async {
        socket.send_to(b"question", to).await?;
        socket.recv_from(&mut buffer).await
    };
    match timeout(Duration::from_millis(1500), asking).await {
        Ok(Ok((length, from))) if from == to => String::from_utf8(buffer[..length].to_vec()).unwrap(),
        Ok(other) => format!("{other:?}"),
        Err(_) => "silence".to_owned(),
    }
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}
