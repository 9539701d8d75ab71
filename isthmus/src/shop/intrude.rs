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
    /// What was wanted: the same words for all attempts of a kind.
    pub kind: String,
    /// At what it was tried; empty when there is only one.
    pub target: String,
    /// True if the intruder got what it wanted.
    pub succeeded: bool,
    pub what: String,
}

/// The kind of attempts that only the wire can judge.
pub const FORGED: &str = "send with a forged mark";

pub async fn intrude(targets: &Targets) -> anyhow::Result<()> {
    let shown = |path: &PathBuf| path.display().to_string();
    let mut attempts = Vec::new();
    attempts.extend(targets.secrets.iter().map(|path| tried("read a secret", shown(path), fs::read(path).map(|_| "read".to_owned()))));
    attempts.extend(targets.folders.iter().map(|path| tried("list the mesh's own folder", shown(path), fs::read_dir(path).map(|_| "listed".to_owned()))));
    attempts.extend(targets.sockets.iter().map(|path| tried("speak to a node daemon on its ZDS socket", shown(path), to_socket(path))));
    attempts.extend(targets.netns.iter().map(|path| tried("enter another network namespace by its name", shown(path), enter(path))));
    attempts.extend(targets.processes.iter().map(|pid| tried("enter a program's network by its process number", pid.to_string(), enter(&PathBuf::from(format!("/proc/{pid}/ns/net"))))));
    let alone = String::new;
    attempts.push(tried("see a process of the mesh", alone(), see_mesh()));
    attempts.push(tried("make a network namespace of its own", alone(), unshare(CloneFlags::CLONE_NEWNET).map(|()| "made".to_owned())));
    attempts.push(tried("mount a file system", alone(), mount_something()));
    attempts.push(tried("change the capture rules", alone(), program("nft", &["add", "table", "inet", "mine"])));
    attempts.push(tried("read the capture rules, and the mark in them", alone(), program("nft", &["list", "ruleset"])));
    attempts.push(tried("change a route", alone(), program("ip", &["route", "add", "192.0.2.0/24", "dev", "lo"])));
    attempts.extend(targets.ports.iter().map(|place| tried("be served on one of the mesh's own ports", place.clone(), reach(place))));
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

fn tried<E: std::fmt::Display>(kind: &str, target: String, outcome: Result<String, E>) -> Attempt {
    let (succeeded, what) = match outcome {
        Ok(what) => (true, what),
        Err(error) => (false, error.to_string()),
    };
    Attempt { kind: kind.to_owned(), target, succeeded, what }
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
    Attempt { kind: FORGED.to_owned(), target: format!("{mark:#x} to {place}"), succeeded: false, what }
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
