use std::os::fd::AsFd;

use super::*;

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[tokio::test]
async fn packets_keep_their_edges_and_carry_descriptors() {
    let (a, b) = SeqPacket::pair().unwrap();
    let file = tempfile::tempfile().unwrap();
    a.send(b"one", None).await.unwrap();
    a.send(b"two", Some(file.as_fd())).await.unwrap();
    a.send(b"far too long", None).await.unwrap();
    let mut buffer = [0; 4];
    let packet = b.recv(&mut buffer).await.unwrap();
    assert_eq!((packet.length, packet.truncated, packet.descriptors.len()), (3, false, 0));
    let packet = b.recv(&mut buffer).await.unwrap();
    assert_eq!((packet.length, packet.descriptors.len()), (3, 1));
    let stat = |fd: &dyn AsFd| nix::sys::stat::fstat(fd.as_fd()).unwrap().st_ino;
    assert_eq!(stat(&packet.descriptors[0]), stat(&file), "it is the same file");
    let packet = b.recv(&mut buffer).await.unwrap();
    assert!(packet.truncated);
    drop(a);
    assert_eq!(b.recv(&mut buffer).await.unwrap().length, 0, "the far end's end");
    assert_eq!(b.send(b"x", None).await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn no_descriptor_is_lost() {
    // alone in a child process would be ideal; a count that other tests disturb is retried instead
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let closed = (0..20).any(|_| {
        let before = open_descriptors();
        runtime.block_on(async {
            let (a, b) = SeqPacket::pair().unwrap();
            let file = tempfile::tempfile().unwrap();
            let many = vec![file.as_fd(); DESCRIPTORS_MAX];
            a.send_with(b"many", &many).await.unwrap();
            let packet = b.recv(&mut [0; 8]).await.unwrap();
            assert_eq!(packet.descriptors.len(), DESCRIPTORS_MAX);
        });
        open_descriptors() <= before
    });
    assert!(closed, "descriptors stay open");
}

#[tokio::test]
async fn the_socket_is_for_its_owner_alone() {
    // V-64
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run/zds.sock");
    let listener = SeqListener::bind(&path).unwrap();
    let mode = |p: &Path| std::fs::metadata(p).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
    let (dialed, accepted) = (SeqPacket::connect(&path).unwrap(), listener.accept().await.unwrap());
    assert_eq!(accepted.peer_uid().unwrap(), nix::unistd::geteuid().as_raw());
    drop((dialed, listener));
    SeqListener::bind(&path).unwrap(); // a socket that was left behind is replaced

    let file = folder.path().join("file");
    std::fs::write(&file, "keep me").unwrap();
    assert_eq!(SeqListener::bind(&file).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(SeqListener::bind(&folder.path().join("s")).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
}
