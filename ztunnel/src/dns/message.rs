//! DNS messages: what a packet asks, and the packet that answers. Pure; bytes from anybody are read here, and none of them
//! may do harm.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

pub use mesh_dns::Transport;

use super::answer::{Family, Local};

/// A question that can be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    head: Metadata,
    query: Query,
    edns: Option<Edns>,
}

/// What to do with a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    Asked(Box<Asked>),
    /// No question that we take: this is the answer to send.
    Refused(Vec<u8>),
    /// Not even a header: nobody to answer.
    Nothing,
}

/// Answers live for half a minute: pods of a service come and go (spec/dataplane.md 7).
const TTL_SECONDS: u32 = 30;
/// The length that every client takes over UDP (RFC 1035 4.2.1).
const UDP_BYTES: u16 = 512;
/// The longest answer over UDP, whatever the client offers: on a loopback more fits, through a network more is lost.
const UDP_BYTES_MOST: u16 = 4096;

/// Reads a packet of a client.
pub fn read(packet: &[u8]) -> Read {
    let Some(head) = packet.first_chunk::<12>() else { return Read::Nothing };
    let id = u16::from_be_bytes([head[0], head[1]]);
    let message = match Message::from_vec(packet) {
        Ok(message) => message,
        Err(_) => return Read::Refused(failure_to(id, OpCode::from_u8(head[2] >> 3 & 0x0f), ResponseCode::FormErr)),
    };
    let refuse = |code| Read::Refused(failure_to(id, message.metadata.op_code, code));
    if message.metadata.message_type == MessageType::Response {
        return refuse(ResponseCode::FormErr);
    }
    if message.metadata.op_code != OpCode::Query {
        return refuse(ResponseCode::NotImp);
    }
    let [query] = message.queries.as_slice() else { return refuse(ResponseCode::FormErr) };
    Read::Asked(Box::new(Asked { head: message.metadata, query: query.clone(), edns: message.edns.clone() }))
}

impl Asked {
    pub fn id(&self) -> u16 {
        self.head.id
    }

    /// The name in lower case without its final dot. `None` for one that no service can have: the root, or labels with
    /// dots or bytes in them that are no part of a hostname.
    pub fn name(&self) -> Option<String> {
        let mut name = String::with_capacity(64);
        for label in self.query.name().iter() {
            if !label.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_*".contains(byte)) {
                return None;
            }
            if !name.is_empty() {
                name.push('.');
            }
            name.extend(label.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
        }
        (!name.is_empty()).then_some(name)
    }

    /// The name as it is shown to people.
    pub fn shown_name(&self) -> String {
        self.query.name().to_ascii()
    }

    /// The family of addresses that is asked for; `None` when it is something else.
    pub fn family(&self) -> Option<Family> {
        match (self.query.query_class(), self.query.query_type()) {
            (DNSClass::IN, RecordType::A) => Some(Family::V4),
            (DNSClass::IN, RecordType::AAAA) => Some(Family::V6),
            _ => None,
        }
    }

    /// The type that is asked for, as metrics call it; types without a name are one.
    pub fn type_name(&self) -> &'static str {
        match self.query.query_type() {
            RecordType::Unknown(_) => "unknown",
            known => known.into(),
        }
    }

    /// What makes two questions the same for a cache: name, type, class, and what the client can take.
    pub fn key(&self) -> (String, u16, u16, bool, bool) {
        let dnssec = self.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok);
        let (kind, class) = (self.query.query_type().into(), self.query.query_class().into());
        (self.query.name().to_ascii().to_ascii_lowercase(), kind, class, dnssec, self.head.checking_disabled)
    }

    /// The query as it was written, case and all: an answer has to repeat it.
    pub fn query(&self) -> &Query {
        &self.query
    }

    pub fn edns(&self) -> Option<&Edns> {
        self.edns.as_ref()
    }

    /// The longest answer that the client takes.
    pub fn room(&self, transport: Transport) -> usize {
        match transport {
            Transport::Tcp => usize::from(u16::MAX),
            Transport::Udp => {
                let offered = self.edns.as_ref().map_or(UDP_BYTES, Edns::max_payload);
                usize::from(offered.clamp(UDP_BYTES, UDP_BYTES_MOST))
            }
        }
    }

    /// The packet for an answer of ours. What does not fit is left out, and the packet says so.
    pub fn local(&self, local: &Local, transport: Transport) -> Vec<u8> {
        let mut message = self.response(ResponseCode::NoError);
        message.metadata.authoritative = true;
        let asked = self.query.name().clone();
        let owner = match local.alias_of.and_then(|labels| Name::from_labels(asked.iter().take(labels)).ok()) {
            Some(target) => {
                message.add_answer(Record::from_rdata(asked, TTL_SECONDS, RData::CNAME(CNAME(target.clone()))));
                target
            }
            None => asked,
        };
        for address in &local.addresses {
            let data = match address {
                IpAddr::V4(ip) => RData::A(A(*ip)),
                IpAddr::V6(ip) => RData::AAAA(AAAA(*ip)),
            };
            message.add_answer(Record::from_rdata(owner.clone(), TTL_SECONDS, data));
        }
        fitted(message, self.room(transport))
    }

    /// The packet for an answer that is only a code.
    pub fn failure(&self, code: ResponseCode) -> Vec<u8> {
        encoded(&self.response(code))
    }

    fn response(&self, code: ResponseCode) -> Message {
        let mut message = Message::response(self.head.id, OpCode::Query);
        message.metadata = Metadata::response_from_request(&self.head);
        message.metadata.recursion_available = true;
        message.metadata.response_code = code;
        message.add_query(self.query.clone());
        if let Some(asked) = &self.edns {
            // EDNS is answered by EDNS (RFC 6891 6.1.1), but none of its options is ours to answer.
            let mut edns = Edns::new();
            edns.set_max_payload(asked.max_payload().max(UDP_BYTES)).set_dnssec_ok(asked.flags().dnssec_ok);
            message.set_edns(edns);
        }
        message
    }
}

/// Encodes a message; when it is too long, records are left out until it fits, and the packet is marked as truncated.
pub fn fitted(mut message: Message, room: usize) -> Vec<u8> {
    // More than this cannot fit, so it need not even be tried.
    let most = room / RECORD_BYTES_LEAST;
    if message.answers.len() <= most {
        let packet = encoded(&message);
        if packet.len() <= room {
            return packet;
        }
    }
    message.metadata.truncation = true;
    message.authorities.clear();
    message.additionals.clear();
    let answers = std::mem::take(&mut message.answers);
    let mut with = |count: usize| {
        message.answers = answers[..count].to_vec();
        encoded(&message)
    };
    // `fits` answers fit, `too_many` do not (or do not exist).
    let (mut fits, mut too_many) = (0, answers.len().min(most) + 1);
    let mut packet = with(0);
    while too_many - fits > 1 {
        let middle = (fits + too_many) / 2;
        let tried = with(middle);
        if tried.len() <= room {
            (fits, packet) = (middle, tried);
        } else {
            too_many = middle;
        }
    }
    packet
}

/// A record with a compressed name and no data: name 2, type 2, class 2, TTL 4, length 2 (RFC 1035 4.1.3).
const RECORD_BYTES_LEAST: usize = 12;

/// The answer to a packet whose sender asks too much: only its number is looked at. `None` for what is no question.
pub fn refused(packet: &[u8]) -> Option<Vec<u8>> {
    let head = packet.first_chunk::<12>().filter(|head| head[2] & 0x80 == 0)?;
    Some(failure_to(u16::from_be_bytes([head[0], head[1]]), OpCode::Query, ResponseCode::Refused))
}

fn failure_to(id: u16, op_code: OpCode, code: ResponseCode) -> Vec<u8> {
    encoded(&Message::error_msg(id, op_code, code))
}

/// A message that was made of parsed parts can be written; if it ever cannot, a bare failure is better than a panic.
fn encoded(message: &Message) -> Vec<u8> {
    message.to_vec().unwrap_or_else(|_| {
        let [high, low] = message.metadata.id.to_be_bytes();
        // A response (0x80) with SERVFAIL (2) and no sections.
        vec![high, low, 0x80, 0x82, 0, 0, 0, 0, 0, 0, 0, 0]
    })
}

#[cfg(test)]
mod tests;
