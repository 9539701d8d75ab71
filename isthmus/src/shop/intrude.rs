//! What a malicious pod would try (spec/reliability.md 4.1). Every attempt is made for real; the line that it prints
//! says what happened, and whether it got through is judged here, next to the attempt.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use clap::Args;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt};
use serde::{Deserialize, Serialize};

/// Where the valuable things are on the machine; an intruder is given all that could be guessed.
#[derive(Debug, Args)]
pub struct Targets {
    /// Files that hold secrets.
    #[arg(long = "secret")]
    pub secrets: Vec<PathBuf>,
    /// Folders whose content must not be seen.
    #[arg(long = "folder")]
    pub folders: Vec<PathBuf>,
    /// Unix sockets.
    #[arg(long = "socket")]
    pub sockets: Vec<PathBuf>,
    /// Files that open network namespaces of others.
    #[arg(long = "netns")]
    pub netns: Vec<PathBuf>,
    /// Processes of the mesh, as the machine numbers them.
    #[arg(long = "process")]
    pub processes: Vec<i32>,
    /// host:port that is reached with a forged mark, saying MARK_NOTE.
    #[arg(long = "marked")]
    pub marked: Vec<String>,
    /// host:port of the mesh's own ports, which must not answer.
    #[arg(long = "port")]
    pub ports: Vec<String>,
}

/// What packets with a forged mark say.
pub const MARK_NOTE: &str = "isthmus-forged-mark-note-91bd";
/// The mark that other node daemons of this family exempt from capture (spec/dataplane.md 2.2), and some guesses.
const MARKS: [u32; 4] = [0x539, 0x111, 1, 0xffff_ffff];
const PATIENCE: Duration = Duration::from_secs(2);

/// One attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    pub attempt: String,
    /// True if the intruder got what it wanted.
    pub succeeded: bool,
    pub what: String,
}

pub async fn intrude(targets: &Targets) -> anyhow::Result<()> {
    let mut attempts = Vec::new();
    attempts.extend(targets.secrets.iter().map(|path| tried(format!("read {}", path.display()), fs::read(path).map(|_| "read".to_owned()))));
    attempts.extend(targets.folders.iter().map(|path| tried(format!("list {}", path.display()), fs::read_dir(path).map(|_| "listed".to_owned()))));
    attempts.extend(targets.sockets.iter().map(|path| tried(format!("connect to {}", path.display()), to_socket(path))));
    attempts.extend(targets.netns.iter().map(|path| tried(format!("enter {}", path.display()), enter(path))));
    attempts.extend(targets.processes.iter().map(|pid| tried(format!("enter the network of process {pid}"), enter(&PathBuf::from(format!("/proc/{pid}/ns/net"))))));
    attempts.push(tried("make a network namespace of its own".to_owned(), unshare(CloneFlags::CLONE_NEWNET).map(|()| "made".to_owned())));
    attempts.push(tried("mount a file system".to_owned(), mount_something()));
    attempts.push(tried("change the capture rules".to_owned(), program("nft", &["add", "table", "inet", "mine"])));
    attempts.push(tried("read the capture rules, and the mark in them".to_owned(), program("nft", &["list", "ruleset"])));
    attempts.push(tried("change a route".to_owned(), program("ip", &["route", "add", "192.0.2.0/24", "dev", "lo"])));
    attempts.push(tried("see a process of the mesh".to_owned(), see_mesh()));
    attempts.extend(targets.ports.iter().map(|place| tried(format!("reach the mesh's own port {place}"), reach(place))));
    for place in &targets.marked {
        attempts.extend(MARKS.iter().map(|mark| forged(place, *mark)));
    }
    for attempt in attempts {
        println!("{}", serde_json::to_string(&attempt)?);
    }
    Ok(())
}

/// What CAP_NET_RAW is for; with it marks can be set too.
pub fn raw_socket() -> anyhow::Result<()> {
    socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::RAW, Some(socket2::Protocol::ICMPV4))?;
    Ok(())
}

/// A bare IPv4 header: with a raw socket of this protocol the kernel takes the header as it is.
pub fn spoof(from: std::net::Ipv4Addr, to: std::net::Ipv4Addr) -> anyhow::Result<()> {
    const RAW: i32 = 255;
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::RAW, Some(socket2::Protocol::from(RAW)))?;
    let mut packet = vec![0x45, 0, 0, 20, 0, 1, 0, 0, 64, 253, 0, 0];
    packet.extend(from.octets());
    packet.extend(to.octets());
    socket.send_to(&packet, &SocketAddr::from((to, 0)).into())?;
    Ok(())
}

fn tried<E: std::fmt::Display>(attempt: String, outcome: Result<String, E>) -> Attempt {
    match outcome {
        Ok(what) => Attempt { attempt, succeeded: true, what },
        Err(error) => Attempt { attempt, succeeded: false, what: error.to_string() },
    }
}

fn to_socket(path: &PathBuf) -> nix::Result<String> {
    let kinds = [SockType::SeqPacket, SockType::Stream];
    let mut last = nix::Error::ENOENT;
    for kind in kinds {
        let socket = socket(AddressFamily::Unix, kind, SockFlag::empty(), None)?;
        match connect(socket.as_raw_fd(), &UnixAddr::new(path)?) {
            Ok(()) => return Ok("connected".to_owned()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn enter(path: &PathBuf) -> std::io::Result<String> {
    let file = fs::File::open(path)?;
    setns(&file, CloneFlags::CLONE_NEWNET)?;
    Ok("entered".to_owned())
}

fn mount_something() -> nix::Result<String> {
    let nothing: Option<&str> = None;
    mount(Some("tmpfs"), "/mnt", Some("tmpfs"), MsFlags::empty(), nothing)?;
    Ok("mounted".to_owned())
}

fn program(name: &str, args: &[&str]) -> std::io::Result<String> {
    let output = Command::new(name).args(args).output()?;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).lines().next().unwrap_or_default().to_owned();
    // `nft list` without the right to look ends well and shows nothing; success is what it shows.
    match output.status.success() && (args[0] != "list" || !output.stdout.is_empty()) {
        true => Ok(format!("{name} did it; {}", said(&output.stdout))),
        false => Err(std::io::Error::other(format!("{name}: {}", if output.stderr.is_empty() { "nothing to see".to_owned() } else { said(&output.stderr) }))),
    }
}

fn see_mesh() -> std::io::Result<String> {
    for entry in fs::read_dir("/proc")?.flatten() {
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if ["ztunnel", "istiod-lite", "mesh-cni"].contains(&name.trim()) {
            return Ok(format!("{} is process {}", name.trim(), entry.file_name().to_string_lossy()));
        }
    }
    Err(std::io::Error::other("only the pod's own processes are there"))
}

fn reach(place: &str) -> std::io::Result<String> {
    let mut stream = dial(place, None)?;
    stream.write_all(b"GET /config_dump HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut answer = [0; 64];
    match stream.read(&mut answer)? {
        0 => Err(std::io::Error::other("closed at once")),
        count => Ok(format!("answered {:?}", String::from_utf8_lossy(&answer[..count]))),
    }
}

/// Sends text under a mark. Whether it left in the clear is seen on the wire, by the tour; here only what the kernel
/// said is told, and it is never a success by itself.
fn forged(place: &str, mark: u32) -> Attempt {
    let attempt = format!("send with mark {mark:#x} to {place}");
    let what = match dial(place, Some(mark)) {
        Ok(mut stream) => {
            let text = format!("GET / HTTP/1.1\r\nhost: {place}\r\nx-note: {MARK_NOTE}\r\nconnection: close\r\n\r\n");
            let mut answer = [0; 12];
            match stream.write_all(text.as_bytes()).and_then(|()| stream.read(&mut answer)) {
                Ok(count) => format!("the mark was set, the answer was {:?}", String::from_utf8_lossy(&answer[..count])),
                Err(error) => format!("the mark was set, then: {error}"),
            }
        }
        Err(error) => error.to_string(),
    };
    Attempt { attempt, succeeded: false, what }
}

fn dial(place: &str, mark: Option<u32>) -> std::io::Result<TcpStream> {
    let address: SocketAddr = place.to_socket_addrs()?.next().ok_or_else(|| std::io::Error::other("no address"))?;
    let family = if address.is_ipv4() { socket2::Domain::IPV4 } else { socket2::Domain::IPV6 };
    let socket = socket2::Socket::new(family, socket2::Type::STREAM, None)?;
    if let Some(mark) = mark {
        setsockopt(&socket, sockopt::Mark, &mark).map_err(|error| std::io::Error::other(format!("the mark cannot be set: {error}")))?;
    }
    socket.connect_timeout(&address.into(), PATIENCE)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket.into())
}
