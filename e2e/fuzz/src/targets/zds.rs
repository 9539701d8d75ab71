//! A packet from the socket over which pods are handed to the daemon.

use std::fs::File;
use std::os::fd::OwnedFd;

use mesh_zds::messages::{AddWorkload, Ack, DelWorkload, KeepWorkload, Payload, SnapshotSent, WorkloadInfo, WorkloadRequest};
use mesh_zds::request::{Request, parse};
use prost::Message as _;

use crate::input::Input;
use crate::{Target, saw, saw_text};

fn packet(payload: Payload) -> Vec<u8> {
    WorkloadRequest { payload: Some(payload) }.encode_to_vec()
}

pub const REQUEST: Target = Target {
    name: "zds_request",
    check: |bytes| {
        let mut input = Input(bytes);
        let count = usize::from(input.byte() % 3);
        let descriptors: Vec<OwnedFd> = (0..count).map(|_| File::open("/dev/null").expect("it is there").into()).collect();
        match parse(input.0, descriptors) {
            Ok(request) => {
                let (uid, brings) = match request {
                    Request::Add(add) => {
                        assert_ne!(add.mark, Some(0), "a mark of 0 marks nothing");
                        (add.uid, 1)
                    }
                    Request::Keep { uid } => (uid, 0),
                    Request::Del { uid, drain } => {
                        saw(drain);
                        (uid, 0)
                    }
                    Request::SnapshotSent => ("all".to_owned(), 0),
                };
                saw(("request", brings));
                assert!(!uid.is_empty(), "a pod without a name");
                assert_eq!(count, brings, "descriptors that belong to nothing");
            }
            Err(why) => saw_text(&why.to_string()),
        }
        // The other end reads answers.
        if let Ok(answer) = Ack::decode(input.0) {
            saw(("ack", answer.error.is_empty()));
        }
    },
    seeds: || {
        let info = WorkloadInfo { name: "web".into(), namespace: "shop".into(), service_account: "web".into() };
        let add = packet(Payload::Add(AddWorkload { uid: "u-1".into(), workload_info: Some(info), mark: 7, captured: None }));
        let with = |count: u8, packet: &[u8]| [&[count], packet].concat();
        vec![
            with(1, &add),
            with(0, &add),
            with(2, &add),
            with(0, &packet(Payload::Keep(KeepWorkload { uid: "u-1".into() }))),
            with(0, &packet(Payload::Del(DelWorkload { uid: "u-1".into(), drain: true }))),
            with(1, &packet(Payload::SnapshotSent(SnapshotSent {}))),
        ]
    },
    words: &["u-1", "shop"],
};
