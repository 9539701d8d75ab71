use std::net::TcpListener;

use super::*;
use crate::netns::Netns;
use crate::netns::tests::fresh;
const OURS: u32 = 7;

/// `local remote state mark`, a socket per line.
fn table(text: &str) -> Vec<Entry> {
    let entry = |(at, line): (usize, &str)| {
        let [local, remote, state, mark] = line.split_whitespace().collect::<Vec<_>>().try_into().unwrap();
        let flow = Flow { local: local.parse().unwrap(), remote: remote.parse().unwrap() };
        let mut id = [0; 48];
        id[40] = at as u8;
        Entry { flow, state: State(state.parse().unwrap()), mark: Some(mark.parse().unwrap()), name: Name { family: 2, id } }
    };
    text.lines().filter(|line| !line.trim().is_empty()).enumerate().map(entry).collect()
}

fn shown(entries: &[Entry]) -> Vec<String> {
    entries.iter().map(|entry| format!("{} {}", entry.flow.local, entry.flow.remote)).collect()
}

#[test]
fn only_connections_past_us_are_uncarried() {
    let entries = table(
        "
        0.0.0.0:80        0.0.0.0:0        10 0
        10.0.1.5:49153    10.0.0.7:80       1 0
        [fd00:1::5]:49161 [fd00:2::7]:80    8 0
        10.0.1.5:80       10.0.0.7:49162    1 9
        10.0.1.5:49155    10.0.0.7:80       1 0
        127.0.0.1:15001   10.0.1.5:49155    1 7
        10.0.1.5:80       198.51.100.9:4001 1 0
        198.51.100.9:4001 10.0.1.5:80       1 7
        10.0.1.5:15008    198.51.100.9:4002 1 7
        10.0.1.5:40000    10.0.0.9:15008    1 7
        10.0.1.5:40001    10.0.1.5:80       1 0
        10.0.1.5:80       10.0.1.5:40001    1 0
        127.0.0.1:40002   127.0.0.1:80      1 0
        ",
    );
    assert_eq!(
        shown(&uncarried(&entries, |mark| mark == OURS, &[15001]).unwrap()),
        ["10.0.1.5:49153 10.0.0.7:80", "[fd00:1::5]:49161 [fd00:2::7]:80", "10.0.1.5:80 10.0.0.7:49162"],
        "not: listening; redirected out or in, where our end is here; ours; the pod talking to itself"
    );
}

#[test]
fn without_marks_nothing_is_guessed() {
    let mut entries = table("10.0.1.5:49153 10.0.0.7:80 1 0");
    entries[0].mark = None;
    assert_eq!(uncarried(&entries, |mark| mark == OURS, &[15001]).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
}

#[test]
fn a_server_is_told_by_its_port() {
    let servers = Servers::of(&table("0.0.0.0:40000 0.0.0.0:0 10 0"), 32768..=60999);
    for (local, accepted) in [("10.0.1.5:40000", true), ("10.0.1.5:80", true), ("10.0.1.5:40001", false), ("[fd00::1]:61000", true)] {
        let flow = Flow { local: local.parse().unwrap(), remote: "10.0.0.7:40001".parse().unwrap() };
        assert_eq!(servers.accepted(&flow), accepted, "{local}");
    }
}

#[test]
fn what_is_cut_short_is_no_socket() {
    let mut body = vec![0; ENTRY_BYTES];
    body[0] = libc::AF_INET as u8;
    assert!(entry(&body).is_some_and(|e| e.mark.is_none()));
    body.extend([8, 0, 15, 0, 7, 0, 0]); // a mark without its last byte
    assert!(entry(&body).is_some_and(|e| e.mark.is_none()));
    assert!(entry(&body[..ENTRY_BYTES - 1]).is_none());
    body[0] = 99;
    assert!(entry(&body).is_none(), "another family");
}

#[test]
fn the_kernel_lists_a_connection_and_ends_it() {
    let Some(netns) = fresh("the_kernel_lists_a_connection_and_ends_it") else { return };
    let home = Netns::current().unwrap();
    netns
        .run(&home, || {
            for (at, client) in [("127.0.0.1:0", "127.0.0.1"), ("[::]:0", "::1"), ("[::]:0", "127.0.0.1")] {
                let listener = TcpListener::bind(at)?;
                let to = SocketAddr::new(client.parse().unwrap(), listener.local_addr()?.port());
                let mut client = std::net::TcpStream::connect(to)?;
                let (_server, from) = listener.accept()?;
                let flow = Flow { local: to, remote: canonical(from) };
                let all = list()?;
                assert!(all.iter().any(|e| !e.is_connection() && e.flow.local.port() == to.port()));
                let found = all.into_iter().find(|e| e.flow == flow).unwrap();
                assert_eq!((found.state, found.mark), (State::ESTABLISHED, Some(0)));
                destroy(&found)?;
                let ended = std::io::Read::read(&mut client, &mut [0]).unwrap_err();
                assert_eq!(ended.kind(), io::ErrorKind::ConnectionReset);
                assert!(!list()?.iter().any(|e| e.flow == flow));
                destroy(&found)?; // twice is as good as once
            }
            assert!(client_ports()?.contains(&40000));
            Ok(())
        })
        .unwrap();
}
