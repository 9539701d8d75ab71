//! A reader who never rests: requests at a steady rate, each on a connection of its own, counted.

use std::future::Future;
use std::str::FromStr;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::http;

/// Requests that wait for an answer at a time; more would only measure the queue.
const OPEN_MAX: usize = 1000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    authority: String,
    path: String,
}

impl FromStr for Url {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not http://HOST:PORT/PATH");
        let rest = text.strip_prefix("http://").ok_or_else(wrong)?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if authority.is_empty() {
            return Err(wrong());
        }
        let ported = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let authority = if ported { authority.to_owned() } else { format!("{authority}:80") };
        Ok(Self { authority, path: format!("/{path}") })
    }
}

#[derive(Default)]
struct Tally {
    sent: u64,
    answered: u64,
    failed: u64,
    /// The last reason for a failure.
    why: Option<String>,
}

impl Tally {
    fn count(&mut self, answer: Result<(), String>) {
        match answer {
            Ok(()) => self.answered += 1,
            Err(why) => {
                self.failed += 1;
                self.why = Some(why);
            }
        }
    }

    fn say(&self) {
        let why = self.why.as_deref().map_or(String::new(), |why| format!(", last failure: {why}"));
        println!("sent={} answered={} failed={}{why}", self.sent, self.answered, self.failed);
    }
}

/// Until `count` requests are answered or failed, or until `end`.
pub async fn run(url: &Url, every: Duration, count: Option<u64>, end: impl Future<Output = ()>) -> anyhow::Result<()> {
    let mut tally = Tally::default();
    let mut open = JoinSet::new();
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut said = Instant::now();
    let mut end = std::pin::pin!(end);
    while count.is_none_or(|count| tally.sent < count) {
        tokio::select! {
            () = &mut end => break,
            _ = ticks.tick(), if open.len() < OPEN_MAX => {
                open.spawn(ask(url.clone()));
                tally.sent += 1;
            }
            Some(done) = open.join_next() => tally.count(done.unwrap_or_else(|error| Err(error.to_string()))),
        }
        if said.elapsed() >= Duration::from_secs(1) {
            tally.say();
            said = Instant::now();
        }
    }
    while let Some(done) = open.join_next().await {
        tally.count(done.unwrap_or_else(|error| Err(error.to_string())));
    }
    tally.say();
    anyhow::ensure!(tally.failed == 0, "{} of {} requests failed", tally.failed, tally.sent);
    Ok(())
}

pub async fn once(url: &Url) -> anyhow::Result<()> {
    let (status, body) = http::get(&url.authority, &url.path).await?;
    println!("{}", String::from_utf8_lossy(&body).trim_end());
    anyhow::ensure!(status.is_success(), "status {status}");
    Ok(())
}

async fn ask(url: Url) -> Result<(), String> {
    match http::get(&url.authority, &url.path).await {
        Ok((status, _)) if status.is_success() => Ok(()),
        Ok((status, _)) => Err(format!("status {status}")),
        Err(error) => Err(format!("{error:#}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_say_where_and_what() {
        let url = |text: &str| text.parse::<Url>().map(|url| (url.authority, url.path)).ok();
        let is = |authority: &str, path: &str| Some((authority.to_owned(), path.to_owned()));
        assert_eq!(url("http://a:9080/b/c"), is("a:9080", "/b/c"));
        assert_eq!(url("http://a"), is("a:80", "/"));
        assert_eq!(url("http://[fd00::1]:80/"), is("[fd00::1]:80", "/"));
        assert_eq!(url("http://[fd00::1]/"), is("[fd00::1]:80", "/"));
        assert_eq!(url("https://a/"), None);
        assert_eq!(url("http:///b"), None);
    }
}
