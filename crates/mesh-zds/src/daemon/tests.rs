use std::os::fd::AsFd;

use super::*;
use crate::messages::{AddWorkload, DelWorkload, Payload, WorkloadInfo, WorkloadRequest};

async fn connected() -> (Daemon, SeqPacket) {
    let (ours, agent) = SeqPacket::pair().unwrap();
    let daemon = Daemon::greet(ours).await.unwrap();
    let hello = ZdsHello::decode(&*received(&agent).await).unwrap();
    assert_eq!(hello, ZdsHello { version: 1, random_mark: true });
    (daemon, agent)
}

async fn received(socket: &SeqPacket) -> Vec<u8> {
    let mut buffer = vec![0; 2048];
    let packet = socket.recv(&mut buffer).await.unwrap();
    buffer.truncate(packet.length);
    buffer
}

async fn answered(agent: &SeqPacket) -> String {
    let Some(Answer::Ack(ack)) = WorkloadResponse::decode(&*received(agent).await).unwrap().payload else { panic!() };
    ack.error
}

fn encoded(payload: Payload) -> Vec<u8> {
    WorkloadRequest { payload: Some(payload) }.encode_to_vec()
}

#[tokio::test]
async fn requests_are_answered_one_by_one() {
    let (mut daemon, agent) = connected().await;
    let file = tempfile::tempfile().unwrap();
    let add = AddWorkload { uid: "u1".into(), workload_info: Some(WorkloadInfo::default()), mark: 9, captured: None };
    agent.send(&encoded(Payload::Add(add)), Some(file.as_fd())).await.unwrap();
    assert!(matches!(daemon.next().await.unwrap(), Request::Add(add) if add.mark == Some(9)));
    daemon.ack(Err("failure to start proxy : no port")).await.unwrap();
    assert_eq!(answered(&agent).await, "failure to start proxy : no port");
    agent.send(&encoded(Payload::Del(DelWorkload { uid: "u1".into(), drain: true })), None).await.unwrap();
    assert!(matches!(daemon.next().await.unwrap(), Request::Del { drain: true, .. }));
    daemon.ack(Ok(())).await.unwrap();
    assert_eq!(answered(&agent).await, "");
    drop(agent);
    assert!(matches!(daemon.next().await.unwrap_err(), Error::Closed));
}

#[tokio::test]
async fn what_cannot_be_read_is_refused_to_the_agent() {
    // F-49, spec/dataplane.md 3.4
    let file = tempfile::tempfile().unwrap();
    let del = encoded(Payload::Del(DelWorkload { uid: "u1".into(), drain: false }));
    let long = vec![0x0a; RECEIVED_BYTES_MAX + 1];
    let big = encoded(Payload::Del(DelWorkload { uid: "u".repeat(70_000), drain: false }));
    for (packet, fds, expected) in [
        (&b"\xff\xff"[..], 0, "failure to read message : not a WorkloadRequest"),
        (&del, 1, "failure to read message : a descriptor came with a request that carries none"),
        (&del, 3, "failure to read message : 3 descriptors came with one packet, at most one may"),
        (&long, 0, "failure to read message : the packet is longer than 131072 bytes"),
    ] {
        let (mut daemon, agent) = connected().await;
        agent.send_with(packet, &vec![file.as_fd(); fds]).await.unwrap();
        let error = daemon.next().await.unwrap_err();
        assert!(matches!(error, Error::Unreadable(_)), "{error}");
        let answer = answered(&agent).await;
        assert!(answer.starts_with(expected), "{answer}");
    }
    let (mut daemon, agent) = connected().await;
    agent.send(&big, None).await.unwrap();
    assert!(matches!(daemon.next().await.unwrap(), Request::Del { uid, .. } if uid.len() == 70_000));
}

#[test]
fn descriptors_of_refused_packets_are_closed() {
    // F-49: a descriptor left open shows as a file that cannot be unlinked from our table
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (mut daemon, agent) = connected().await;
        let (reading, writing) = std::io::pipe().unwrap();
        let del = encoded(Payload::Del(DelWorkload { uid: "u1".into(), drain: false }));
        agent.send_with(&del, &[writing.as_fd(), writing.as_fd()]).await.unwrap();
        drop(writing);
        daemon.next().await.unwrap_err();
        // every copy of the writing end is closed, so reading ends instead of waiting
        let mut rest = Vec::new();
        std::io::Read::read_to_end(&mut { reading }, &mut rest).unwrap();
    });
}

#[test]
fn a_long_error_is_cut_at_a_character() {
    let text = "é".repeat(2000);
    let packet = encode_ack(Err(&text));
    assert!(packet.len() <= SENT_BYTES_MAX, "{}", packet.len());
    let Some(Answer::Ack(ack)) = WorkloadResponse::decode(&*packet).unwrap().payload else { panic!() };
    assert!(text.starts_with(&ack.error) && ack.error.len() > 1000);
}
