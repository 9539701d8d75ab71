//! The agent against our own daemon's end, and against daemons that are old, slow, silent or wrong.

use std::sync::atomic::{AtomicUsize, Ordering};

use tempfile::TempDir;

use super::*;
use crate::daemon::Daemon;
use crate::request::Request;

/// Two pods of the node; remembers what was asked and answered.
#[derive(Default)]
struct Node {
    asked: Mutex<Vec<Daemons>>,
    answers: Mutex<Vec<(String, Result<(), Undone>)>>,
}

fn pod(uid: &str) -> Announcement {
    let workload = WorkloadInfo { name: format!("{uid}-name"), namespace: "shop".into(), service_account: "web".into() };
    Announcement { uid: uid.into(), workload, mark: 0xabcd_0123, captured: None, netns: Some(Netns::current().unwrap()) }
}

impl Pods for Node {
    async fn snapshot(&self, daemons: Daemons) -> Vec<Announcement> {
        self.asked.lock().unwrap().push(daemons);
        vec![pod("u1"), Announcement { netns: None, ..pod("u2") }]
    }

    fn answered(&self, uid: &str, done: Result<(), Undone>) {
        self.answers.lock().unwrap().push((uid.to_owned(), done));
    }
}

struct World {
    agent: Agent,
    node: Arc<Node>,
    folder: TempDir,
}

impl World {
    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("zds.sock")
    }
}

fn world() -> World {
    let world = World { agent: Agent::default(), node: Arc::default(), folder: tempfile::tempdir().unwrap() };
    let (agent, node, path) = (world.agent.clone(), world.node.clone(), world.path());
    tokio::spawn(async move { agent.serve(&path, node).await });
    world
}

/// Connects once the socket is there.
async fn raw(world: &World) -> SeqPacket {
    loop {
        match SeqPacket::connect(&world.path()) {
            Ok(socket) => return socket,
            Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
}

async fn expect(daemon: &mut Daemon, answer: Result<(), &str>) -> String {
    let shown = match daemon.next().await.unwrap() {
        Request::Add(add) => {
            let netns = Netns::from_fd(add.netns).unwrap();
            assert_eq!(netns.identity(), Netns::current().unwrap().identity());
            format!("add {} {} {:x?}", add.uid, add.workload.name, add.mark)
        }
        Request::Keep { uid } => format!("keep {uid}"),
        Request::Del { uid, drain } => format!("del {uid} {drain}"),
        Request::SnapshotSent => "snapshot sent".to_owned(),
    };
    daemon.ack(answer).await.unwrap();
    shown
}

async fn greeted(world: &World) -> Daemon {
    let mut daemon = Daemon::greet(raw(world).await).await.unwrap();
    assert_eq!(expect(&mut daemon, Ok(())).await, "add u1 u1-name Some(abcd0123)");
    assert_eq!(expect(&mut daemon, Ok(())).await, "keep u2");
    assert_eq!(expect(&mut daemon, Ok(())).await, "snapshot sent");
    daemon
}

#[tokio::test]
async fn the_newest_gets_new_pods_and_all_hear_of_those_that_left() {
    let world = world();
    assert_eq!(world.agent.add(pod("u3")).await, Err(Undone::NoDaemon));
    assert_eq!(world.agent.del("u3", false).await, Ok(()), "nobody serves it");
    let mut old = greeted(&world).await;
    let mut new = greeted(&world).await;
    assert_eq!(world.node.asked.lock().unwrap().last(), Some(&Daemons { count: 2, fixed_mark: false }));
    let (added, shown) = tokio::join!(world.agent.add(pod("u3")), expect(&mut new, Err("no")));
    assert_eq!(shown, "add u3 u3-name Some(abcd0123)");
    assert_eq!(added, Err(Undone::Refused("no".to_owned())));
    let (deleted, first, second) = tokio::join!(world.agent.del("u3", true), expect(&mut old, Ok(())), expect(&mut new, Ok(())));
    assert_eq!((deleted, first.as_str(), second.as_str()), (Ok(()), "del u3 true", "del u3 true"));
    // the newest leaves: the one before it is the newest again
    drop(new);
    world.agent.daemons().wait_for(|d| d.count == 1).await.unwrap();
    let (added, shown) = tokio::join!(world.agent.add(pod("u4")), expect(&mut old, Ok(())));
    assert_eq!((added, shown.as_str()), (Ok(()), "add u4 u4-name Some(abcd0123)"));
}

#[tokio::test]
async fn answers_to_the_snapshot_are_reported() {
    let world = world();
    let mut daemon = Daemon::greet(raw(&world).await).await.unwrap();
    expect(&mut daemon, Err("failure to start proxy : busy")).await;
    expect(&mut daemon, Ok(())).await;
    expect(&mut daemon, Ok(())).await;
    let (added, _) = tokio::join!(world.agent.add(pod("u3")), expect(&mut daemon, Ok(())));
    added.unwrap();
    let refused = Err(Undone::Refused("failure to start proxy : busy".to_owned()));
    assert_eq!(*world.node.answers.lock().unwrap(), [("u1".to_owned(), refused), ("u2".to_owned(), Ok(()))]);
}

#[tokio::test]
async fn a_daemon_without_the_extension_gets_no_mark_and_is_counted() {
    let world = world();
    let old = raw(&world).await;
    old.send(&ZdsHello { version: 1, random_mark: false }.encode_to_vec(), None).await.unwrap();
    let mut buffer = [0; 2048];
    let packet = old.recv(&mut buffer).await.unwrap();
    let Some(Payload::Add(add)) = WorkloadRequest::decode(&buffer[..packet.length]).unwrap().payload else { panic!() };
    assert_eq!((add.mark, packet.descriptors.len()), (0, 1));
    assert!(packet.length <= SENT_BYTES_MAX);
    assert_eq!(*world.agent.daemons().borrow(), Daemons { count: 1, fixed_mark: true });
    drop(old);
    world.agent.daemons().wait_for(|d| *d == Daemons::default()).await.unwrap();
}

// Z-064
#[tokio::test(start_paused = true)]
async fn a_daemon_that_is_silent_or_wrong_is_left() {
    let ack = WorkloadResponse { payload: Some(Answer::Ack(crate::messages::Ack::default())) }.encode_to_vec();
    let hello = ZdsHello { version: 1, random_mark: true }.encode_to_vec();
    let cases: [(&str, Vec<Vec<u8>>); 5] = [
        ("no hello", vec![]),
        ("hello that cannot be read", vec![b"\xff\xff\xff".to_vec()]),
        ("no answer", vec![hello.clone()]),
        ("answer without payload", vec![hello.clone(), vec![0x22, 0]]),
        ("more answers than requests", vec![hello, ack.clone(), ack.clone(), ack.clone(), ack]),
    ];
    for (name, packets) in cases {
        let world = world();
        let socket = raw(&world).await;
        for packet in packets {
            socket.send(&packet, None).await.unwrap();
        }
        let mut buffer = [0; 2048];
        let ended = tokio::time::timeout(Duration::from_secs(30), async {
            while socket.recv(&mut buffer).await.is_ok_and(|p| p.length > 0) {}
        });
        ended.await.unwrap_or_else(|_| panic!("{name}: the connection lives on"));
        world.agent.daemons().wait_for(|d| d.count == 0).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_is_an_error_to_whoever_asked() {
    let world = world();
    let daemon = greeted(&world).await;
    assert_eq!(world.agent.add(pod("u3")).await, Err(Undone::Late));
    drop(daemon);
}

#[tokio::test]
async fn a_pod_whose_names_do_not_fit_is_refused_here() {
    let world = world();
    let _daemon = greeted(&world).await;
    let long = Announcement { uid: "u".repeat(1100), ..pod("u3") };
    assert_eq!(world.agent.add(long).await, Err(Undone::TooLong));
}

#[tokio::test(start_paused = true)]
async fn connections_are_accepted_slowly_and_not_without_end() {
    let world = world();
    let accepted = AtomicUsize::new(0);
    let mut held = Vec::new();
    let started = tokio::time::Instant::now();
    for _ in 0..CONNECTIONS_MAX {
        held.push(greeted(&world).await);
        accepted.fetch_add(1, Ordering::Relaxed);
    }
    assert!(started.elapsed() >= ACCEPT_EVERY * (CONNECTIONS_MAX as u32 - 1), "{:?}", started.elapsed());
    let refused = raw(&world).await;
    let mut buffer = [0; 64];
    assert_eq!(refused.recv(&mut buffer).await.map(|p| p.length).unwrap_or(0), 0, "one too many");
}
