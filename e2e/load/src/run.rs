//! The load: each kind of connection in tasks of its own, at times that are set when it begins, so that a stall is followed
//! by what was missed and not hidden by it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::answer::Answer;
use crate::client::{self, Held, Kept, To, Why};
use crate::report::{Kind, Report};
use crate::{ECHO_PORT, HTTP_PORT};

/// Requests that wait for an answer at a time: ten seconds of 500 a second, and more would only measure the queue.
const OPEN_MAX: usize = 5000;
/// How often a connection that is kept is used, and how long who has lost one waits.
const PAUSE: Duration = Duration::from_millis(100);

pub struct Plan {
    pub host: String,
    pub rate: u32,
    pub kept: u32,
    pub held: u32,
    pub pause: Duration,
    pub refusing: Option<String>,
    /// `name: value`, on every request.
    pub headers: Vec<String>,
}

/// After a time, or when the standard input ends, which is not looked at when there is a time.
pub async fn end(after: Option<Duration>) {
    match after {
        Some(after) => tokio::time::sleep(after).await,
        None => {
            let read = || std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            // However it ends, there is no more.
            let _ = tokio::task::spawn_blocking(read).await;
        }
    }
}

#[derive(Clone, Default)]
struct Book {
    report: Arc<Mutex<Report>>,
    begun: Arc<OnceLock<()>>,
}

impl Book {
    fn write(&self, write: impl FnOnce(&mut Report)) {
        write(&mut self.report.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn outcome(&self, kind: Kind, began: Instant, outcome: Result<(), Why>) {
        let took = began.elapsed();
        match outcome {
            Ok(()) => {
                // Whoever waits for the load to be there reads this line.
                self.begun.get_or_init(|| println!("begun"));
                self.write(|report| report.ok(kind, took));
            }
            Err(why) => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                self.write(|report| report.failure(kind, now, took, why));
            }
        }
    }

    fn took_answer(&self, answer: &Answer) -> Result<(), Why> {
        if answer.status != 200 {
            return Err(format!("answer: status {}", answer.status));
        }
        let said: serde_json::Value = serde_json::from_str(&answer.body).map_err(|error| format!("answer: {error}"))?;
        let word = |name: &str| said[name].as_str().unwrap_or_default();
        let (ip, _) = word("peer").rsplit_once(':').unwrap_or_default();
        self.write(|report| report.answered_by(word("name"), ip, answer.cookie.as_deref()));
        Ok(())
    }
}

/// Until `end`, and until what was begun has ended.
pub async fn run(plan: Plan, end: impl Future<Output = ()>) -> Report {
    let began = Instant::now();
    let book = Book::default();
    let (tell, over) = watch::channel(false);
    let (http, echo) = (To::new(format!("{}:{HTTP_PORT}", plan.host), &plan.headers), format!("{}:{ECHO_PORT}", plan.host));
    let mut tasks = JoinSet::new();
    if plan.rate > 0 {
        tasks.spawn(steady(http.clone(), plan.rate, Kind::Fresh, book.clone(), over.clone()));
    }
    if let Some(host) = plan.refusing {
        tasks.spawn(steady(To::new(format!("{host}:{HTTP_PORT}"), &plan.headers), 10, Kind::Refused, book.clone(), over.clone()));
    }
    for number in 0..plan.kept {
        tasks.spawn(keep(http.clone(), number, book.clone(), over.clone()));
    }
    for number in 0..plan.held {
        tasks.spawn(hold(echo.clone(), number, plan.pause, book.clone(), over.clone()));
    }
    end.await;
    let _ = tell.send(true);
    while tasks.join_next().await.is_some() {}
    let mut report = std::mem::take(&mut *book.report.lock().unwrap_or_else(PoisonError::into_inner));
    report.seconds = began.elapsed().as_secs_f64();
    report
}

/// New connections at a rate.
async fn steady(to: To, rate: u32, kind: Kind, book: Book, mut over: watch::Receiver<bool>) {
    let mut open = JoinSet::new();
    let mut ticks = interval(Duration::from_secs(1) / rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut number = 0_u64;
    loop {
        tokio::select! {
            _ = over.wait_for(|over| *over) => break,
            _ = ticks.tick(), if open.len() < OPEN_MAX => {
                open.spawn(one(to.clone(), number, kind, book.clone()));
                number += 1;
            }
            Some(_) = open.join_next() => {}
        }
    }
    while open.join_next().await.is_some() {}
}

async fn one(to: To, number: u64, kind: Kind, book: Book) {
    let began = Instant::now();
    let answer = client::fresh(&to, &format!("/{number}")).await;
    let outcome = match (kind, answer) {
        (Kind::Refused, Ok(answer)) => Err(format!("it was answered: {}", answer.body.trim_end())),
        (Kind::Refused, Err(_)) => Ok(()),
        (_, Ok(answer)) => is_for(&answer, &format!("/{number}")).and_then(|()| book.took_answer(&answer)),
        (_, Err(why)) => Err(why),
    };
    book.outcome(kind, began, outcome);
}

/// The answer names what was asked: another one would be somebody else's.
fn is_for(answer: &Answer, path: &str) -> Result<(), Why> {
    if answer.body.contains(&format!("\"path\":{path:?}")) { Ok(()) } else { Err(format!("answer: not to {path}: {}", answer.body.trim_end())) }
}

/// One request after the other on a connection; a new one when it breaks.
async fn keep(to: To, number: u32, book: Book, over: watch::Receiver<bool>) {
    let mut kept = None;
    for round in 0_u64.. {
        if *over.borrow() {
            return;
        }
        let (began, path) = (Instant::now(), format!("/{number}/{round}"));
        let outcome = ask_again(&mut kept, &to, &path, &book).await;
        let broken = outcome.is_err();
        book.outcome(Kind::Kept, began, outcome);
        pause(&mut kept, broken).await.unwrap_or_else(|why| {
            kept = None;
            book.outcome(Kind::Kept, Instant::now(), Err(why));
        });
    }
}

async fn ask_again(kept: &mut Option<Kept>, to: &To, path: &str, book: &Book) -> Result<(), Why> {
    let connection = match kept {
        Some(connection) => connection,
        None => kept.insert(Kept::open(to).await?),
    };
    let answer = connection.ask(path).await?;
    is_for(&answer, path)?;
    book.took_answer(&answer)
}

async fn pause(kept: &mut Option<Kept>, broken: bool) -> Result<(), Why> {
    if broken {
        *kept = None;
    }
    match kept {
        Some(connection) => connection.rest(PAUSE).await,
        None => {
            tokio::time::sleep(PAUSE).await;
            Ok(())
        }
    }
}

/// Block after block on a connection; a new one when it breaks.
async fn hold(at: String, number: u32, pause: Duration, book: Book, mut over: watch::Receiver<bool>) {
    while !*over.borrow() {
        let began = Instant::now();
        let mut held = match Held::open(&at, number).await {
            Ok(held) => held,
            Err(why) => {
                book.outcome(Kind::Held, began, Err(why));
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        loop {
            let began = Instant::now();
            let echoed = held.echo().await;
            let broken = echoed.is_err();
            book.outcome(Kind::Held, began, echoed);
            if broken {
                break;
            }
            let rested = tokio::select! {
                rested = held.rest(pause) => rested,
                _ = over.wait_for(|over| *over) => return,
            };
            if let Err(why) = rested {
                book.outcome(Kind::Held, Instant::now(), Err(why));
                break;
            }
        }
        // Who is cut off again and again does not come back at once each time.
        tokio::time::sleep(PAUSE).await;
    }
}

/// Addresses that are tried at a time.
const TRIED_AT_ONCE: usize = 500;

/// Each address once; how many took a connection.
pub async fn wander(from: Ipv4Addr, count: u32, port: u16) -> u32 {
    let (mut open, mut taken) = (JoinSet::new(), 0);
    for number in 0..count {
        let at = SocketAddr::from((Ipv4Addr::from_bits(from.to_bits().wrapping_add(number)), port));
        if open.len() >= TRIED_AT_ONCE {
            taken += u32::from(matches!(open.join_next().await, Some(Ok(true))));
        }
        open.spawn(async move { client::connect(&at.to_string()).await.is_ok() });
    }
    while let Some(done) = open.join_next().await {
        taken += u32::from(matches!(done, Ok(true)));
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_to_another_question_is_a_failure() {
        let answer = Answer { status: 200, cookie: None, body: r#"{"name":"a","path":"/7","peer":"10.0.0.1:1"}"#.into() };
        assert!(is_for(&answer, "/7").is_ok());
        assert!(is_for(&answer, "/8").unwrap_err().contains("not to /8"));
        let book = Book::default();
        book.took_answer(&answer).unwrap();
        assert!(book.took_answer(&Answer { status: 503, ..answer }).is_err());
        let report = book.report.lock().unwrap();
        assert_eq!((report.servers["a"], report.seen_as.first().map(String::as_str)), (1, Some("10.0.0.1")));
    }
}
