//! These make network namespaces: they need root, and say so when they are left out.

use std::net::TcpListener;
use std::process::Command;

use super::*;

/// A new namespace with its loopback up, made on a thread of its own; `None` (and a line that says SKIPPED) without the right to.
pub(crate) fn fresh(test: &str) -> Option<Netns> {
    let made = std::thread::spawn(|| {
        nix::sched::unshare(CloneFlags::CLONE_NEWNET).map_err(io::Error::from)?;
        let up = Command::new("ip").args(["link", "set", "lo", "up"]).status()?;
        assert!(up.success());
        Netns::current()
    });
    match made.join().unwrap() {
        Ok(netns) => Some(netns),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            println!("SKIPPED {test}: making a network namespace needs root");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_thread_comes_back() {
    // Z-048
    let Some(pod) = fresh("a_thread_comes_back") else { return };
    let home = Netns::current().unwrap();
    assert_ne!(pod.identity(), home.identity());
    let inside = pod.run(&home, Netns::current).unwrap();
    assert_eq!(inside.identity(), pod.identity());
    assert_eq!(Netns::current().unwrap().identity(), home.identity());
    // a port of the pod is free at home
    let port = pod.run(&home, || TcpListener::bind("127.0.0.1:0")).unwrap().local_addr().unwrap().port();
    TcpListener::bind(("127.0.0.1", port)).unwrap();
}

#[test]
fn a_panic_comes_back_too() {
    let Some(pod) = fresh("a_panic_comes_back_too") else { return };
    let home = Netns::current().unwrap();
    let panicked = std::panic::catch_unwind(|| pod.run(&home, || -> io::Result<()> { panic!("inside") }));
    assert!(panicked.is_err());
    assert_eq!(Netns::current().unwrap().identity(), home.identity());
}

#[test]
fn what_is_no_namespace_is_refused() {
    let home = Netns::current().unwrap();
    let file = Netns::from_fd(tempfile::tempfile().unwrap().into()).unwrap();
    let error = file.run(&home, || Ok(())).unwrap_err();
    assert!(matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::PermissionDenied), "{error}");
    let error = Netns::open(Path::new("/no/such/netns")).unwrap_err();
    assert_eq!(error.to_string(), "/no/such/netns: No such file or directory (os error 2)");
}
