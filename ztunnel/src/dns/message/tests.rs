use std::sync::Arc;

use mesh_model::service::Service;
use proptest::prelude::*;

use super::*;

fn question(name: &str, kind: RecordType, edns: Option<u16>) -> Vec<u8> {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    if let Some(payload) = edns {
        let mut edns = Edns::new();
        edns.set_max_payload(payload).set_dnssec_ok(true);
        message.set_edns(edns);
    }
    message.to_vec().unwrap()
}

fn asked(packet: &[u8]) -> Asked {
    match read(packet) {
        Read::Asked(asked) => *asked,
        other => panic!("{other:?}"),
    }
}

fn local(addresses: Vec<IpAddr>, alias_of: Option<usize>) -> Local {
    Local { service: Arc::new(Service::named("ns1", "a.ns1.svc.cluster.local")), addresses, alias_of }
}

fn many(count: u32) -> Vec<IpAddr> {
    (0..count).map(|n| IpAddr::from((0x0a00_0000 + n).to_be_bytes())).collect()
}

#[test]
fn a_question_is_read_in_lower_case_and_answered_as_it_was_written() {
    let asked = asked(&question("WwW.Example.com.", RecordType::AAAA, None));
    assert_eq!(asked.name().as_deref(), Some("www.example.com"));
    assert_eq!((asked.family(), asked.type_name(), asked.room(Transport::Udp)), (Some(Family::V6), "AAAA", 512));
    let reply = Message::from_vec(&asked.local(&local(vec!["fd00::1".parse().unwrap()], None), Transport::Udp)).unwrap();
    assert_eq!(reply.queries[0].name().to_ascii(), "WwW.Example.com.");
    assert_eq!(reply.answers[0].name.to_ascii(), "WwW.Example.com.");
    assert_eq!((reply.answers[0].ttl, reply.answers[0].data.ip_addr()), (30, Some("fd00::1".parse().unwrap())));
    let head = reply.metadata;
    assert_eq!(
        (
            head.id,
            head.message_type,
            head.authoritative,
            head.recursion_available,
            head.recursion_desired,
            head.truncation,
            head.response_code
        ),
        (0x1234, MessageType::Response, true, true, true, false, ResponseCode::NoError)
    );
    assert!(reply.edns.is_none());
}

#[test]
fn a_stripped_name_is_answered_by_an_alias() {
    let asked = asked(&question("b.ns2.ns1.svc.cluster.local.", RecordType::A, None));
    let reply = Message::from_vec(&asked.local(&local(many(1), Some(2)), Transport::Udp)).unwrap();
    let shown: Vec<String> =
        reply.answers.iter().map(|record| format!("{} {} {}", record.name, record.record_type(), record.data)).collect();
    assert_eq!(shown, ["b.ns2.ns1.svc.cluster.local. CNAME b.ns2.", "b.ns2. A 10.0.0.0"]);
}

// Z-024
#[test]
fn what_is_too_long_for_udp_is_cut_and_marked_and_whole_over_tcp() {
    for (offered, most) in [(None, 512), (Some(100), 512), (Some(1232), 1232), (Some(65535), 4096)] {
        let asked = asked(&question("a.ns1.svc.cluster.local.", RecordType::A, offered));
        let packet = asked.local(&local(many(1000), None), Transport::Udp);
        assert!(packet.len() <= most && packet.len() > most / 2, "{} bytes where {most} fit", packet.len());
        let reply = Message::from_vec(&packet).unwrap();
        assert!(reply.metadata.truncation && !reply.answers.is_empty());
        let whole = Message::from_vec(&asked.local(&local(many(1000), None), Transport::Tcp)).unwrap();
        assert_eq!((whole.metadata.truncation, whole.answers.len()), (false, 1000));
        assert!(!Message::from_vec(&asked.local(&local(many(20), None), Transport::Udp)).unwrap().metadata.truncation);
    }
}

#[test]
fn edns_is_answered_by_edns() {
    let asked = asked(&question("a.", RecordType::A, Some(1400)));
    for packet in [asked.local(&local(many(1), None), Transport::Udp), asked.failure(ResponseCode::ServFail)] {
        let reply = Message::from_vec(&packet).unwrap();
        let edns = reply.edns.unwrap();
        assert_eq!((edns.max_payload(), edns.version(), edns.flags().dnssec_ok), (1400, 0, true));
    }
}

#[test]
fn what_is_no_question_is_refused_by_its_code() {
    let code = |packet: &[u8]| match read(packet) {
        Read::Refused(reply) => {
            let reply = Message::from_vec(&reply).unwrap();
            assert_eq!((reply.metadata.id, reply.metadata.message_type), (0x1234, MessageType::Response));
            reply.metadata.response_code
        }
        other => panic!("{other:?}"),
    };
    let plain = question("a.", RecordType::A, None);
    let with = |change: fn(&mut Message)| {
        let mut message = Message::from_vec(&plain).unwrap();
        change(&mut message);
        message.to_vec().unwrap()
    };
    assert_eq!(code(&with(|message| message.metadata.op_code = OpCode::Update)), ResponseCode::NotImp);
    assert_eq!(code(&with(|message| message.metadata.op_code = OpCode::Notify)), ResponseCode::NotImp);
    assert_eq!(code(&with(|message| message.metadata.message_type = MessageType::Response)), ResponseCode::FormErr);
    assert_eq!(code(&with(|message| message.queries.clear())), ResponseCode::FormErr);
    assert_eq!(code(&with(|message| message.queries.push(message.queries[0].clone()))), ResponseCode::FormErr);
    assert_eq!(code(&plain[..plain.len() - 1]), ResponseCode::FormErr);
    assert_eq!(read(&plain[..11]), Read::Nothing);
    assert_eq!(read(&[]), Read::Nothing);
}

#[test]
fn some_questions_are_none_of_ours() {
    for (name, kind) in
        [("a.", RecordType::SRV), ("a.", RecordType::HTTPS), ("a.", RecordType::ANY), ("a.", RecordType::Unknown(65000))]
    {
        assert_eq!(asked(&question(name, kind, None)).family(), None, "{kind}");
    }
    assert_eq!(asked(&question("a.", RecordType::Unknown(65000), None)).type_name(), "unknown");
    assert_eq!(asked(&question(".", RecordType::A, None)).name(), None);
    // one label with a dot in it is not two labels
    assert_eq!(asked(&question("a\\.ns1.svc.cluster.local.", RecordType::A, None)).name(), None);
}

#[test]
fn whoever_asks_too_much_is_refused_cheaply_and_answers_are_not_answered() {
    let packet = question("a.", RecordType::A, None);
    let reply = Message::from_vec(&refused(&packet).unwrap()).unwrap();
    assert_eq!((reply.metadata.id, reply.metadata.response_code), (0x1234, ResponseCode::Refused));
    let mut answer = packet;
    answer[2] |= 0x80;
    assert_eq!(refused(&answer), None);
    assert_eq!(refused(&[1, 2]), None);
}

proptest! {
    /// Whatever comes, it is read without harm, and every answer is a message.
    #[test]
    fn garbage_does_no_harm(packet in proptest::collection::vec(any::<u8>(), 0..600)) {
        check(&packet)?;
    }

    /// The same for packets that are almost right.
    #[test]
    fn damaged_questions_do_no_harm(name in "([a-zA-Z0-9_]{1,20}\\.){1,6}", kind in any::<u16>(), offered in any::<Option<u16>>(), flips in proptest::collection::vec((any::<u16>(), any::<u8>()), 0..4)) {
        let mut packet = question(&name, RecordType::from(kind), offered);
        for (at, value) in flips {
            let at = usize::from(at) % packet.len();
            packet[at] = value;
        }
        check(&packet)?;
    }
}

fn check(packet: &[u8]) -> Result<(), TestCaseError> {
    match read(packet) {
        Read::Nothing => prop_assert!(packet.len() < 12),
        Read::Refused(reply) => prop_assert_eq!(&reply[..2], &packet[..2]),
        Read::Asked(asked) => {
            let _ = (asked.name(), asked.key(), asked.type_name(), asked.shown_name());
            let labels = asked.query().name().num_labels();
            for alias_of in [None, Some(usize::from(labels))] {
                let reply = asked.local(&local(many(50), alias_of), Transport::Udp);
                prop_assert!(reply.len() <= asked.room(Transport::Udp));
                prop_assert!(Message::from_vec(&reply).is_ok());
            }
        }
    }
    Ok(())
}
