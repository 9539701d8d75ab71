use hickory_proto::rr::rdata::{A, AAAA, CNAME, SOA};

use super::*;

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn a(owner: &str, ttl: u32, ip: [u8; 4]) -> Record {
    Record::from_rdata(name(owner), ttl, RData::A(A(ip.into())))
}

fn cname(owner: &str, ttl: u32, to: &str) -> Record {
    Record::from_rdata(name(owner), ttl, RData::CNAME(CNAME(name(to))))
}

fn soa(ttl: u32, minimum: u32) -> Record {
    Record::from_rdata(name("example.com."), ttl, RData::SOA(SOA::new(name("ns."), name("mail."), 1, 2, 3, 4, minimum)))
}

fn reply(code: ResponseCode, answers: Vec<Record>, authorities: Vec<Record>) -> Message {
    let mut message = Message::response(7, OpCode::Query);
    message.metadata.response_code = code;
    message.answers = answers;
    message.authorities = authorities;
    message
}

fn found(ips: &[&str], seconds: u64) -> Found {
    Found::Addresses { addresses: ips.iter().map(|ip| ip.parse().unwrap()).collect(), life: Duration::from_secs(seconds) }
}

fn absent(exists: bool, seconds: u64) -> Found {
    Found::Absent { exists, life: Duration::from_secs(seconds) }
}

#[test]
fn what_an_answer_says() {
    let six = Record::from_rdata(name("db.example.com."), 9, RData::AAAA(AAAA("fd00::1".parse().unwrap())));
    let ok = ResponseCode::NoError;
    for (what, message, expected) in [
        ("two, the shorter life", reply(ok, vec![a("db.example.com.", 60, [10, 0, 0, 2]), a("DB.example.com.", 30, [10, 0, 0, 1])], vec![]), found(&["10.0.0.2", "10.0.0.1"], 30)),
        ("an alias of an alias", reply(ok, vec![a("c.net.", 300, [10, 0, 0, 3]), cname("b.net.", 20, "c.net."), cname("db.example.com.", 60, "b.net.")], vec![]), found(&["10.0.0.3"], 20)),
        ("another's word", reply(ok, vec![a("other.net.", 60, [10, 0, 0, 4])], vec![]), absent(true, 5)),
        ("an alias of somebody else", reply(ok, vec![cname("db.example.com.", 60, "b.net."), a("c.net.", 60, [10, 0, 0, 4])], vec![soa(90, 30)]), absent(true, 30)),
        ("the other family", reply(ok, vec![six], vec![soa(10, 60)]), absent(true, 10)),
        ("no such name", reply(ResponseCode::NXDomain, vec![], vec![soa(900, 300)]), absent(false, 300)),
        ("no such name, and nothing else", reply(ResponseCode::NXDomain, vec![], vec![]), absent(false, 5)),
        ("aliases in a ring", reply(ok, vec![cname("db.example.com.", 60, "b.net."), cname("b.net.", 60, "db.example.com.")], vec![]), absent(true, 5)),
        ("the same twice", reply(ok, vec![a("db.example.com.", 60, [10, 0, 0, 2]), a("db.example.com.", 60, [10, 0, 0, 2])], vec![]), found(&["10.0.0.2"], 60)),
    ] {
        assert_eq!(read(&message, "db.example.com", Family::V4), Ok(expected), "{what}");
    }
    let mut cut = reply(ok, vec![a("db.example.com.", 60, [10, 0, 0, 2])], vec![]);
    cut.metadata.truncation = true;
    assert_eq!(read(&cut, "db.example.com", Family::V4), Ok(Found::Truncated));
    let many = reply(ok, (0..200).map(|n| a("db.example.com.", 60, [10, 0, 0, n])).collect(), vec![]);
    assert!(matches!(read(&many, "db.example.com", Family::V4), Ok(Found::Addresses { addresses, .. }) if addresses.len() == ADDRESSES_MAX));
}

#[test]
fn a_question_is_asked_in_full_and_what_is_no_name_is_not_asked() {
    for (family, kind) in [(Family::V4, RecordType::A), (Family::V6, RecordType::AAAA)] {
        let message = Message::from_vec(&question("db.example.com", family, 77).unwrap()).unwrap();
        assert_eq!((message.metadata.id, message.metadata.recursion_desired), (77, true));
        assert_eq!((message.queries[0].name(), message.queries[0].query_type()), (&name("db.example.com."), kind));
    }
    for text in ["a..b", &"x".repeat(64), &"a.".repeat(200)] {
        assert!(question(text, Family::V4, 1).is_err(), "{text}");
    }
}
