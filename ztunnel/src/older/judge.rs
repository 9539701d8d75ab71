//! Pure: which connections have been refused for longer than the grace.

use std::collections::HashMap;
use std::time::Duration;

use mesh_net::tcp_table::Entry;
use mesh_policy::Because;
use tokio::time::Instant;

/// Remembers since when each connection is refused.
#[derive(Debug)]
pub struct Judge {
    grace: Duration,
    /// By the kernel's name of the socket: addresses and ports are used again, it is not.
    since: HashMap<[u8; 8], Instant>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Judged {
    /// To be cut now.
    pub overdue: Vec<(Entry, Because)>,
    /// How many are refused, with those.
    pub refused: usize,
    /// When the next one's time is up.
    pub next: Option<Instant>,
}

impl Judge {
    pub fn new(grace: Duration) -> Judge {
        Judge { grace, since: HashMap::new() }
    }

    /// `refuses`: what policy has against a connection. One that policy allows in between starts anew.
    pub fn judge(&mut self, now: Instant, open: &[Entry], refuses: impl Fn(&Entry) -> Option<Because>) -> Judged {
        let refused: Vec<(Entry, Because)> = open.iter().filter_map(|entry| Some((*entry, refuses(entry)?))).collect();
        let since = refused.iter().map(|(entry, _)| {
            let cookie = entry.cookie();
            (cookie, self.since.get(&cookie).copied().unwrap_or(now))
        });
        self.since = since.collect();
        let due = |entry: &Entry| self.since[&entry.cookie()] + self.grace;
        let (overdue, waiting): (Vec<_>, Vec<_>) = refused.into_iter().partition(|(entry, _)| due(entry) <= now);
        let next = waiting.iter().map(|(entry, _)| due(entry)).min();
        Judged { refused: overdue.len() + waiting.len(), overdue, next }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const GRACE: Duration = Duration::from_secs(30);

    /// Clients by number: who is refused, and what that leads to at each second.
    #[test]
    fn who_is_refused_for_the_grace_is_overdue() {
        let begin = Instant::now();
        let mut judge = Judge::new(GRACE);
        for (second, open, refused, overdue, next) in [
            (0, vec![1, 2, 3], vec![], vec![], None),
            (10, vec![1, 2, 3], vec![1, 2], vec![], Some(40)),
            (20, vec![1, 2, 3], vec![1, 3], vec![], Some(40)), // 2 is allowed again
            (39, vec![1, 2, 3], vec![1, 2, 3], vec![], Some(40)),
            (40, vec![1, 2, 3], vec![1, 2, 3], vec![1], Some(50)),
            (41, vec![1, 2], vec![1, 2], vec![1], Some(69)), // it could not be cut: still overdue. 3 ended by itself
            (69, vec![2, 3], vec![2, 3], vec![2], Some(99)), // 3 is another connection now
            (70, vec![], vec![], vec![], None),
        ] {
            let open: Vec<Entry> = open.into_iter().map(Entry::numbered).collect();
            let refused: BTreeSet<[u8; 8]> = refused.into_iter().map(|n| Entry::numbered(n).cookie()).collect();
            let because = |entry: &Entry| refused.contains(&entry.cookie()).then_some(Because::NotSynced);
            let judged = judge.judge(begin + Duration::from_secs(second), &open, because);
            let cut: Vec<[u8; 8]> = judged.overdue.iter().map(|(entry, _)| entry.cookie()).collect();
            let expected: Vec<[u8; 8]> = overdue.into_iter().map(|n| Entry::numbered(n).cookie()).collect();
            assert_eq!(cut, expected, "at {second} s");
            assert_eq!(judged.next, next.map(|at| begin + Duration::from_secs(at)), "at {second} s");
            assert_eq!(judged.refused, refused.len(), "at {second} s");
        }
        assert!(judge.since.is_empty(), "nothing is remembered of what ended");
    }
}
