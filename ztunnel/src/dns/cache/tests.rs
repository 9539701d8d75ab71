use hickory_proto::op::{Edns, MessageType, OpCode, Query};
use hickory_proto::rr::rdata::{A, SOA};
use hickory_proto::rr::{Name, RecordType};

use super::super::message::{Read, read};
use super::*;

fn asked(name: &str, id: u16, edns: bool) -> Asked {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    if edns {
        message.set_edns(Edns::new());
    }
    match read(&message.to_vec().unwrap()) {
        Read::Asked(asked) => *asked,
        other => panic!("{other:?}"),
    }
}

fn reply(asked: &Asked, code: ResponseCode, ttls: &[u32]) -> Message {
    let mut message = Message::response(asked.id(), OpCode::Query);
    message.metadata.response_code = code;
    message.add_query(asked.query().clone());
    for ttl in ttls {
        message.add_answer(Record::from_rdata(asked.query().name().clone(), *ttl, RData::A(A::new(10, 0, 0, 1))));
    }
    message
}

fn with_soa(mut message: Message, ttl: u32, minimum: u32) -> Message {
    let zone = Name::from_ascii("example.com.").unwrap();
    message.add_authority(Record::from_rdata(zone.clone(), ttl, RData::SOA(SOA::new(zone.clone(), zone, 1, 2, 3, 4, minimum))));
    message
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[test]
fn an_answer_is_given_again_until_its_shortest_record_ends() {
    let (mut cache, start) = (Cache::default(), Instant::now());
    let first = asked("www.Example.com.", 1, true);
    cache.keep(&first, &reply(&first, ResponseCode::NoError, &[100, 40]), 100, start);
    let later = asked("WWW.example.com.", 2, false);
    let packet = cache.find(&later, Transport::Udp, start + seconds(15)).unwrap();
    let again = Message::from_vec(&packet).unwrap();
    assert_eq!(again.metadata.id, 2);
    assert_eq!(again.queries[0].name().to_ascii(), "WWW.example.com.");
    assert_eq!(again.answers.iter().map(|record| record.ttl).collect::<Vec<_>>(), [85, 25]);
    assert!(again.edns.is_none());
    assert!(cache.find(&later, Transport::Udp, start + seconds(40)).is_none());
    assert!(cache.find(&asked("example.com.", 3, false), Transport::Udp, start).is_none());
}

#[test]
fn only_what_may_be_kept_is_kept_and_not_for_ever() {
    let question = asked("a.example.com.", 1, false);
    let mut truncated = reply(&question, ResponseCode::NoError, &[60]);
    truncated.metadata.truncation = true;
    for (what, message, life) in [
        ("an answer", reply(&question, ResponseCode::NoError, &[60]), 60),
        ("a long-lived answer", reply(&question, ResponseCode::NoError, &[1_000_000]), 3600),
        ("an answer without a life", reply(&question, ResponseCode::NoError, &[0, 60]), 0),
        ("a cut answer", truncated, 0),
        ("no such name", with_soa(reply(&question, ResponseCode::NXDomain, &[]), 900, 30), 30),
        ("no such record", with_soa(reply(&question, ResponseCode::NoError, &[]), 900, 900), 60),
        ("absence that nobody vouches for", reply(&question, ResponseCode::NXDomain, &[]), 0),
        ("a failure", reply(&question, ResponseCode::ServFail, &[60]), 0),
    ] {
        let (mut cache, start) = (Cache::default(), Instant::now());
        cache.keep(&question, &message, 100, start);
        let mut kept = |after| cache.find(&question, Transport::Tcp, start + seconds(after)).is_some();
        assert_eq!(kept(0), life > 0, "{what}");
        assert!(!kept(life), "{what} is kept too long");
        assert!(life == 0 || kept(life - 1), "{what} is kept too short");
    }
}

// T-15
#[test]
fn random_names_fill_no_memory() {
    let (mut cache, start) = (Cache::default(), Instant::now());
    for n in 0..20_000 {
        let question = asked(&format!("r{n}.example.com."), 1, false);
        cache.keep(&question, &reply(&question, ResponseCode::NoError, &[300]), 60, start);
        assert!(cache.bytes <= MOST_BYTES);
        assert_eq!(cache.bytes, cache.entries.values().map(|entry| entry.bytes).sum::<usize>());
    }
    let question = asked("large.example.com.", 1, false);
    cache.keep(&question, &reply(&question, ResponseCode::NoError, &[300]), 60_000, start);
    assert!(cache.find(&question, Transport::Tcp, start).is_none(), "one answer would take most of the room");
}
