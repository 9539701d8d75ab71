//! For how long an answer is used, and what stands in for one that does not come. Pure: time is an argument.
//!
//! | | is used |
//! |---|---|
//! | addresses | for the life that the servers say, at least `LIFE_MIN`, at most `LIFE_MAX` |
//! | "there is no such name" | for the life that they say, at most `ABSENT_MAX` |
//! | no answer at all | nobody asks again for `FAILED_FOR`; the last addresses serve until then, for `STALE_MAX` (RFC 8767) |

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// An answer for no time at all would cost a question for each connection.
pub const LIFE_MIN: Duration = Duration::from_secs(5);
/// No answer is kept longer, so that a wrong one heals.
pub const LIFE_MAX: Duration = Duration::from_secs(3600);
/// People create a name and try again.
pub const ABSENT_MAX: Duration = Duration::from_secs(60);
/// How often servers that do not answer are asked for one name (RFC 2308 7: never more than 5 minutes).
pub const FAILED_FOR: Duration = Duration::from_secs(5);
/// How long addresses serve while nobody says what the new ones are.
pub const STALE_MAX: Duration = Duration::from_secs(24 * 3600);
/// Names kept: a wildcard host lets clients name what they like.
pub const NAMES_MAX: usize = 4_096;

/// What is known of names.
#[derive(Debug, Default)]
pub struct Book {
    entries: HashMap<Arc<str>, Entry>,
}

#[derive(Debug)]
struct Entry {
    answer: Answer,
    /// Until when it is used without asking anybody.
    until: Instant,
    /// The last addresses, and since when they stand in.
    stale: Option<(Arc<[IpAddr]>, Instant)>,
}

/// What was said of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Addresses(Arc<[IpAddr]>),
    /// There is none; a sentence.
    Absent(Arc<str>),
    /// Nobody said anything; a sentence.
    Failed(Arc<str>),
}

impl Book {
    /// What may be used now; `None`: somebody is to be asked.
    pub fn find(&self, name: &str, now: Instant) -> Option<Answer> {
        let entry = self.entries.get(name).filter(|entry| now < entry.until)?;
        Some(entry.or_stale(now))
    }

    /// Keeps what was said, and gives what is used of it: of a failure, the last addresses.
    pub fn keep(&mut self, name: &Arc<str>, answer: Answer, life: Duration, now: Instant) -> Answer {
        let known = self.entries.get(name);
        let (life, stale) = match &answer {
            Answer::Addresses(addresses) => (life.clamp(LIFE_MIN, LIFE_MAX), Some((addresses.clone(), now))),
            Answer::Absent(_) => (life.min(ABSENT_MAX), None),
            Answer::Failed(_) => (FAILED_FOR, known.and_then(|entry| entry.stale.clone())),
        };
        let entry = Entry { answer, until: now + life, stale };
        let used = entry.or_stale(now);
        if known.is_some() || self.has_room(now) {
            self.entries.insert(name.clone(), entry);
        }
        used
    }

    /// Names there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Those that are over make room; then, where clients ask for ever new names, what only stands in.
    fn has_room(&mut self, now: Instant) -> bool {
        if self.entries.len() >= NAMES_MAX {
            self.entries.retain(|_, entry| now < entry.until || entry.stale.is_some());
        }
        if self.entries.len() >= NAMES_MAX {
            self.entries.retain(|_, entry| now < entry.until);
        }
        self.entries.len() < NAMES_MAX
    }
}

impl Entry {
    fn or_stale(&self, now: Instant) -> Answer {
        match (&self.answer, &self.stale) {
            (Answer::Failed(_), Some((addresses, since))) if now.saturating_duration_since(*since) < STALE_MAX => Answer::Addresses(addresses.clone()),
            (answer, _) => answer.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(text: &str) -> Answer {
        Answer::Addresses(text.split(' ').map(|ip| ip.parse().unwrap()).collect())
    }

    fn failed() -> Answer {
        Answer::Failed("nobody answered".into())
    }

    #[test]
    fn an_answer_is_used_for_its_life_within_bounds() {
        let absent = || Answer::Absent("no such name".into());
        let begun = Instant::now();
        let seconds = Duration::from_secs;
        for (answer, life, used_for) in [
            (addresses("10.0.0.1"), seconds(30), seconds(30)),
            (addresses("10.0.0.1"), seconds(0), LIFE_MIN),
            (addresses("10.0.0.1"), seconds(86_400), LIFE_MAX),
            (absent(), seconds(10), seconds(10)),
            (absent(), seconds(900), ABSENT_MAX),
            (failed(), seconds(900), FAILED_FOR),
        ] {
            let mut book = Book::default();
            assert_eq!(book.keep(&"db".into(), answer.clone(), life, begun), answer);
            assert_eq!(book.find("db", begun + used_for - Duration::from_millis(1)), Some(answer.clone()), "{life:?}");
            assert_eq!(book.find("db", begun + used_for), None, "{answer:?} {life:?}");
        }
    }

    #[test]
    fn the_last_addresses_serve_while_nobody_answers_and_not_when_somebody_says_that_there_are_none() {
        let (mut book, begun, name) = (Book::default(), Instant::now(), "db".into());
        let old = addresses("10.0.0.1 10.0.0.2");
        book.keep(&name, old.clone(), Duration::from_secs(30), begun);
        let mut now = begun;
        for _ in 0..3 {
            now += Duration::from_secs(60);
            assert_eq!(book.keep(&name, failed(), Duration::ZERO, now), old);
            assert_eq!(book.find("db", now + Duration::from_secs(1)), Some(old.clone()));
            assert_eq!(book.find("db", now + FAILED_FOR), None, "then they are asked again");
        }
        let too_old = begun + STALE_MAX;
        assert_eq!(book.keep(&name, failed(), Duration::ZERO, too_old), failed());
        book.keep(&name, old, Duration::from_secs(30), too_old);
        let gone = Answer::Absent("no such name".into());
        assert_eq!(book.keep(&name, gone.clone(), Duration::from_secs(5), too_old), gone);
        assert_eq!(book.keep(&name, failed(), Duration::ZERO, too_old + Duration::from_secs(9)), failed(), "what is gone does not come back");
    }

    #[test]
    fn the_book_is_bounded_and_what_is_used_stays() {
        let (mut book, begun) = (Book::default(), Instant::now());
        for n in 0..NAMES_MAX {
            book.keep(&format!("n{n}").into(), addresses("10.0.0.1"), Duration::from_secs(60), begun);
        }
        book.keep(&"more".into(), addresses("10.0.0.1"), Duration::from_secs(60), begun);
        assert_eq!((book.len(), book.find("more", begun)), (NAMES_MAX, None));
        book.keep(&"n1".into(), addresses("10.0.0.2"), Duration::from_secs(60), begun);
        assert_eq!(book.find("n1", begun), Some(addresses("10.0.0.2")), "one that is known is renewed");
        let later = begun + Duration::from_secs(61);
        book.keep(&"more".into(), addresses("10.0.0.1"), Duration::from_secs(60), later);
        assert_eq!((book.len(), book.find("more", later)), (1, Some(addresses("10.0.0.1"))));
    }
}
