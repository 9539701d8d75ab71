//! Answers of upstream servers, kept for as long as they may be: bounded in bytes, one for each pod, so that no pod can
//! put words into another's mouth. Pure: time is an argument.

use std::collections::HashMap;
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{RData, Record};
use tokio::time::Instant;

use super::message::{Asked, Transport, fitted};

type Key = (String, u16, u16, bool, bool);

/// Answers by question.
#[derive(Debug, Default)]
pub struct Cache {
    entries: HashMap<Key, Entry>,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    message: Message,
    bytes: usize,
    stored: Instant,
    life: Duration,
}

/// What one pod's answers may take: some five hundred of the usual size.
const MOST_BYTES: usize = 256 * 1024;
/// No answer is kept longer than this, so that a wrong one heals.
const LONGEST: Duration = Duration::from_secs(3600);
/// "There is no such name" is kept shorter: people create the name and try again.
const LONGEST_ABSENCE: Duration = Duration::from_secs(60);

impl Cache {
    /// The answer to this question, with what is left of its records' lives.
    pub fn find(&mut self, asked: &Asked, transport: Transport, now: Instant) -> Option<Vec<u8>> {
        let entry = self.entries.get(&asked.key())?;
        let age = now.saturating_duration_since(entry.stored);
        if age >= entry.life {
            return None;
        }
        let mut message = entry.message.clone();
        let age_seconds = u32::try_from(age.as_secs()).unwrap_or(u32::MAX);
        for record in message.answers.iter_mut().chain(&mut message.authorities).chain(&mut message.additionals) {
            record.ttl = record.ttl.saturating_sub(age_seconds);
        }
        message.metadata.id = asked.id();
        message.metadata.recursion_desired = true;
        message.queries = vec![asked.query().clone()];
        if asked.edns().is_none() {
            message.edns = None;
        }
        Some(fitted(message, asked.room(transport)))
    }

    /// Keeps an answer, if it says that it may be kept.
    pub fn keep(&mut self, asked: &Asked, reply: &Message, bytes: usize, now: Instant) {
        let Some(life) = life(reply).filter(|_| bytes <= MOST_BYTES / 8) else { return };
        let key = asked.key();
        if let Some(old) = self.entries.remove(&key) {
            self.bytes -= old.bytes;
        }
        // Parsed records are larger than the packet; four times is what a packet of addresses comes to.
        let bytes = bytes * 4 + key.0.len();
        self.make_room(bytes, now);
        self.bytes += bytes;
        self.entries.insert(key, Entry { message: reply.clone(), bytes, stored: now, life });
    }

    fn make_room(&mut self, bytes: usize, now: Instant) {
        if self.bytes + bytes <= MOST_BYTES {
            return;
        }
        self.entries.retain(|_, entry| now.saturating_duration_since(entry.stored) < entry.life);
        if self.entries.values().map(|entry| entry.bytes).sum::<usize>() + bytes > MOST_BYTES {
            // Full of answers that still live: somebody asks for random names. Beginning anew costs one question each.
            self.entries.clear();
        }
        self.bytes = self.entries.values().map(|entry| entry.bytes).sum();
    }
}

/// How long an answer may be kept: as long as its shortest record (RFC 1035), or as its SOA says for an absence (RFC 2308).
fn life(reply: &Message) -> Option<Duration> {
    if reply.metadata.truncation {
        return None;
    }
    let absent = reply.answers.is_empty();
    let longest = match reply.metadata.response_code {
        ResponseCode::NoError if !absent => LONGEST,
        ResponseCode::NoError | ResponseCode::NXDomain => LONGEST_ABSENCE,
        _ => return None,
    };
    let records: &[Record] = if absent { &reply.authorities } else { &reply.answers };
    let lives = records.iter().filter(|record| !absent || matches!(record.data, RData::SOA(_)));
    let seconds = lives.map(|record| match &record.data {
        RData::SOA(soa) if absent => record.ttl.min(soa.minimum),
        _ => record.ttl,
    });
    let life = Duration::from_secs(u64::from(seconds.min()?)).min(longest);
    (!life.is_zero()).then_some(life)
}

#[cfg(test)]
mod tests;
