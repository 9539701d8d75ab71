//! A process that is out of descriptors: alone in its test program, since the limit is the whole process's.
#![allow(clippy::unwrap_used)] // helpers of tests fail like tests

use std::fs::File;
use std::time::Duration;

use mesh_net::accept::accept;
use mesh_net::linux::HostNet;
use mesh_net::net::{Accept, Net, Source};
use mesh_net::sockopt::Options;
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};
use nix::sys::time::TimeValLike;
use tokio::time::{sleep, timeout};

fn cpu_ms() -> i64 {
    let used = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    used.user_time().num_milliseconds() + used.system_time().num_milliseconds()
}

#[tokio::test]
async fn accepting_waits_for_descriptors_without_spinning() {
    // F-17: below 20 % of a CPU while starving, accepting within 1 s once descriptors are free
    let net = HostNet::new(Options::default());
    let mut listener = net.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let _client = net.dial(listener.local_addr(), Source::Any).await.unwrap(); // waits in the backlog
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 100, hard).unwrap();
    let mut held = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        held.push(file);
    }

    let accepting = tokio::spawn(async move { accept(&mut listener).await });
    let before = cpu_ms();
    sleep(Duration::from_secs(2)).await; // the time over which the CPU is counted
    let used = cpu_ms() - before;
    assert!(used < 400, "{used} ms of CPU in 2 s of starving");
    assert!(!accepting.is_finished());
    drop(held);
    timeout(Duration::from_secs(1), accepting).await.expect("accepts again within a second").unwrap().unwrap();
}
