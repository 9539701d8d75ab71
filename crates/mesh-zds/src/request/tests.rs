//! Every packet that the agent may send, and every one that it may not.

use super::*;
use crate::messages::{DelWorkload, KeepWorkload, SnapshotSent};

fn descriptor() -> OwnedFd {
    tempfile::tempfile().unwrap().into()
}

fn descriptors(count: usize) -> Vec<OwnedFd> {
    (0..count).map(|_| descriptor()).collect()
}

fn encoded(payload: Payload) -> Vec<u8> {
    WorkloadRequest { payload: Some(payload) }.encode_to_vec()
}

fn web() -> WorkloadInfo {
    WorkloadInfo { name: "web-1".into(), namespace: "shop".into(), service_account: "web".into() }
}

fn add(uid: &str, workload_info: Option<WorkloadInfo>, mark: u32) -> Vec<u8> {
    encoded(Payload::Add(AddWorkload { uid: uid.into(), workload_info, mark, captured: None }))
}

#[test]
fn good_requests() {
    // Z-049, Z-050
    for (mark, expected) in [(0, None), (0xdead_beef, Some(0xdead_beef))] {
        match parse(&add("u1", Some(web()), mark), descriptors(1)).unwrap() {
            Request::Add(add) => assert_eq!((add.uid.as_str(), add.workload, add.mark), ("u1", web(), expected)),
            other => panic!("{other:?}"),
        }
    }
    // Z-052
    for drain in [false, true] {
        let del = parse(&encoded(Payload::Del(DelWorkload { uid: "u1".into(), drain })), vec![]).unwrap();
        assert!(matches!(del, Request::Del { uid, drain: d } if uid == "u1" && d == drain));
    }
    let keep = parse(&encoded(Payload::Keep(KeepWorkload { uid: "u1".into() })), vec![]).unwrap();
    assert!(matches!(keep, Request::Keep { uid } if uid == "u1"));
    let sent = parse(&encoded(Payload::SnapshotSent(SnapshotSent {})), vec![]).unwrap();
    assert!(matches!(sent, Request::SnapshotSent));
}

#[test]
fn bad_requests_say_what_is_wrong() {
    let del = encoded(Payload::Del(DelWorkload { uid: "u1".into(), drain: false }));
    for (packet, fds, expected) in [
        (add("u1", Some(web()), 0), 0, "add of \"u1\" without a network namespace descriptor"),
        (add("u1", Some(web()), 0), 2, "2 descriptors came with one packet, at most one may"),
        (add("u1", None, 0), 1, "add of \"u1\" without workload_info"),
        (add("", Some(web()), 0), 1, "add without uid"),
        (del.clone(), 1, "a descriptor came with a request that carries none"), // Z-051
        (encoded(Payload::Del(DelWorkload { uid: String::new(), drain: false })), 0, "del without uid"),
        (WorkloadRequest { payload: None }.encode_to_vec(), 0, "a request without payload"),
        (vec![0x22, 0], 0, "a request without payload"), // field 4 was never assigned
    ] {
        assert_eq!(parse(&packet, descriptors(fds)).unwrap_err().to_string(), expected);
    }
    let cut = &del[..del.len() - 1];
    assert!(matches!(parse(cut, vec![]).unwrap_err(), Unreadable::Undecodable(_)));
}

#[test]
fn the_field_numbers_are_those_of_the_field() {
    // spec/dataplane.md 3.2: uid of del is 2, keep is 5; ours start at 100
    let del = encoded(Payload::Del(DelWorkload { uid: "u".into(), drain: true }));
    assert_eq!(del, [0x12, 6, 0x12, 1, b'u', 0xa0, 0x06, 1]);
    let keep = encoded(Payload::Keep(KeepWorkload { uid: "u".into() }));
    assert_eq!(keep, [0x2a, 3, 0x0a, 1, b'u']);
    let add = add("u", Some(WorkloadInfo { name: "n".into(), namespace: "s".into(), service_account: "a".into() }), 5);
    assert_eq!(add, [0x0a, 17, 0x0a, 1, b'u', 0x12, 9, 0x0a, 1, b'n', 0x12, 1, b's', 0x1a, 1, b'a', 0xa0, 0x06, 5]);
}

#[test]
fn no_byte_string_panics() {
    // V-71, F-49: every prefix and every one-byte change of a good packet gives a request or an error
    let good = add("0f3a5c", Some(web()), 77);
    for length in 0..=good.len() {
        let _ = parse(&good[..length], descriptors(1));
    }
    for at in 0..good.len() {
        for flip in 1..=255u8 {
            let mut packet = good.clone();
            packet[at] ^= flip;
            if let Ok(Request::Add(add)) = parse(&packet, descriptors(1)) {
                assert!(!add.uid.is_empty());
            }
        }
    }
}
