//! A question for the addresses of a name, and what an answer says of it. Pure; bytes from anybody are read here.

use std::net::IpAddr;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

/// Which of the two kinds of address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    V4,
    V6,
}

/// What a server says of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// In the server's order.
    Addresses { addresses: Vec<IpAddr>, life: Duration },
    /// There is no such name, or it has no address of this family.
    Absent { exists: bool, life: Duration },
    /// There is more than fits into a datagram.
    Truncated,
}

/// Aliases of aliases that are followed.
const ALIASES_MAX: usize = 8;
/// Addresses of one family that are used of an answer: more are never tried.
const ADDRESSES_MAX: usize = 32;
/// An absence that says nothing of its life (RFC 2308 5 demands a SOA, and servers leave it out).
const ABSENT_DEFAULT: Duration = Duration::from_secs(5);

/// The packet of a question.
///
/// # Errors
/// The text is no name that a server can be asked for.
pub fn question(name: &str, family: Family, number: u16) -> Result<Vec<u8>, String> {
    let mut message = Message::new(number, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(full(name)?, family.kind()));
    message.to_vec().map_err(|why| format!("{name:?} cannot be asked for: {why}"))
}

/// What a message that answers the question for `name` says.
///
/// # Errors
/// The name is none.
pub fn read(message: &Message, name: &str, family: Family) -> Result<Found, String> {
    if message.metadata.truncation {
        return Ok(Found::Truncated);
    }
    let mut owner = full(name)?;
    let mut life = Duration::MAX;
    let seconds = |record: &Record| Duration::from_secs(u64::from(record.ttl));
    // What is of another name than the one that was asked for, or its alias, is nobody's word here.
    for _ in 0..=ALIASES_MAX {
        let of_owner = || message.answers.iter().filter(|record| record.dns_class == DNSClass::IN && record.name == owner);
        let addresses: Vec<(&Record, IpAddr)> = of_owner().filter_map(|record| Some((record, family.of(&record.data)?))).collect();
        if !addresses.is_empty() {
            let life = addresses.iter().map(|(record, _)| seconds(record)).min().unwrap_or_default().min(life);
            let mut kept: Vec<IpAddr> = Vec::new();
            for (_, ip) in addresses {
                if !kept.contains(&ip) && kept.len() < ADDRESSES_MAX {
                    kept.push(ip);
                }
            }
            return Ok(Found::Addresses { addresses: kept, life });
        }
        let alias = of_owner().find_map(|record| match &record.data {
            RData::CNAME(to) => Some((seconds(record), to.0.clone())),
            _ => None,
        });
        let Some((of_alias, to)) = alias else { break };
        (life, owner) = (life.min(of_alias), to);
    }
    let soa = message.authorities.iter().find_map(|record| match &record.data {
        RData::SOA(soa) => Some(seconds(record).min(Duration::from_secs(u64::from(soa.minimum)))),
        _ => None,
    });
    let exists = message.metadata.response_code != ResponseCode::NXDomain;
    Ok(Found::Absent { exists, life: soa.unwrap_or(ABSENT_DEFAULT).min(life) })
}

fn full(name: &str) -> Result<Name, String> {
    let mut name = Name::from_ascii(name).map_err(|why| format!("{name:?} is no name: {why}"))?;
    name.set_fqdn(true);
    Ok(name)
}

impl Family {
    fn kind(self) -> RecordType {
        match self {
            Family::V4 => RecordType::A,
            Family::V6 => RecordType::AAAA,
        }
    }

    fn of(self, data: &RData) -> Option<IpAddr> {
        match (self, data) {
            (Family::V4, RData::A(a)) => Some(IpAddr::V4(a.0)),
            (Family::V6, RData::AAAA(aaaa)) => Some(IpAddr::V6(aaaa.0)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
