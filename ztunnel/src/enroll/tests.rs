use super::*;

fn uid(text: &str) -> PodUid {
    PodUid(text.into())
}

fn info(name: &str) -> PodInfo {
    PodInfo { name: name.into(), namespace: "shop".into(), service_account: "cart".into() }
}

fn add(name: &str, netns: u64) -> Event<u64> {
    Event::Add { uid: uid(name), info: Some(info(name)), netns, mark: Some(7), captured: None }
}

fn pod(name: &str, netns: u64) -> Enrolled<u64> {
    Enrolled { uid: uid(name), info: info(name), netns, mark: Some(7), captured: None }
}

fn running(book: &Enrolment<u64>) -> Vec<&str> {
    book.running().map(|pod| &*pod.uid.0).collect()
}

fn pending(book: &Enrolment<u64>) -> Vec<&str> {
    book.pending().map(|pod| &*pod.uid.0).collect()
}

/// Carries out every start with this outcome and gives the actions that were seen, with what the starts led to.
fn run(book: &mut Enrolment<u64>, event: Event<u64>, outcome: Result<(), &str>) -> Vec<Action<u64>> {
    let mut seen = Vec::new();
    for action in book.handle(event) {
        seen.push(action.clone());
        if let Action::Start(pod) = action {
            seen.extend(book.started(pod, outcome.map_err(str::to_owned), Answer::Expected));
        }
    }
    seen
}

fn connected() -> Enrolment<u64> {
    let mut book = Enrolment::default();
    assert_eq!(book.handle(Event::Connected), []);
    book
}

// Z-053 Z-063
#[test]
fn an_added_pod_is_started_and_acknowledged() {
    let mut book = connected();
    assert_eq!(run(&mut book, add("a", 1), Ok(())), [Action::Start(pod("a", 1)), Action::Ack]);
    assert_eq!(running(&book), ["a"]);
    assert_eq!(run(&mut book, Event::SnapshotSent, Ok(())), [Action::Ack, Action::Ready(true)]);
}

// Z-054
#[test]
fn the_same_pod_added_twice_is_started_once() {
    let mut book = connected();
    run(&mut book, add("a", 1), Ok(()));
    assert_eq!(run(&mut book, add("a", 1), Ok(())), [Action::Ack]);
}

// Z-055 Z-065
#[test]
fn a_pod_that_fails_to_start_is_refused_and_pending_once() {
    let mut book = connected();
    let seen = run(&mut book, add("a", 1), Err("port taken"));
    assert_eq!(seen, [Action::Start(pod("a", 1)), Action::Nack("failure to start proxy : port taken".into())]);
    run(&mut book, add("a", 1), Err("port taken"));
    assert_eq!((pending(&book), running(&book)), (vec!["a"], vec![]));
    assert_eq!(run(&mut book, Event::SnapshotSent, Ok(())), [Action::Ack, Action::Ready(false)]);
}

// Z-056
#[test]
fn a_pending_pod_is_tried_again_without_an_answer() {
    let mut book = connected();
    run(&mut book, add("a", 1), Err("port taken"));
    run(&mut book, Event::SnapshotSent, Ok(()));
    assert_eq!(book.handle(Event::Retry), [Action::Start(pod("a", 1))]);
    assert_eq!(book.started(pod("a", 1), Ok(()), Answer::NotExpected), [Action::Ready(true)]);
    assert_eq!((pending(&book), running(&book)), (vec![], vec!["a"]));
}

// Z-057
#[test]
fn a_pending_pod_that_is_deleted_is_forgotten() {
    let mut book = connected();
    run(&mut book, Event::SnapshotSent, Ok(()));
    run(&mut book, add("a", 1), Err("port taken"));
    assert_eq!(run(&mut book, Event::Delete { uid: uid("a"), drain: false }, Ok(())), [Action::Ack, Action::Ready(true)]);
    assert_eq!(book.handle(Event::Retry), []);
}

// Z-058
#[test]
fn deleted_before_the_end_of_the_snapshot_it_stops_with_that_end() {
    let mut book = connected();
    run(&mut book, add("a", 1), Ok(()));
    assert_eq!(run(&mut book, Event::Delete { uid: uid("a"), drain: false }, Ok(())), [Action::Ack]);
    assert_eq!(running(&book), ["a"]);
    let stop = Action::Stop { uid: uid("a"), how: Stop::Immediate };
    assert_eq!(run(&mut book, Event::SnapshotSent, Ok(())), [stop, Action::Ack, Action::Ready(true)]);
}

// Z-059 Z-066
#[test]
fn added_deleted_and_added_again_it_runs_once() {
    let mut book = connected();
    run(&mut book, Event::SnapshotSent, Ok(()));
    run(&mut book, add("a", 1), Ok(()));
    let seen = run(&mut book, Event::Delete { uid: uid("a"), drain: false }, Ok(()));
    assert_eq!(seen[0], Action::Stop { uid: uid("a"), how: Stop::Immediate });
    run(&mut book, add("a", 1), Ok(()));
    assert_eq!(running(&book), ["a"]);
}

#[test]
fn a_live_pod_that_is_released_drains() {
    let mut book = connected();
    run(&mut book, Event::SnapshotSent, Ok(()));
    run(&mut book, add("a", 1), Ok(()));
    let seen = run(&mut book, Event::Delete { uid: uid("a"), drain: true }, Ok(()));
    assert_eq!(seen[0], Action::Stop { uid: uid("a"), how: Stop::Drain });
}

// Z-060. Nor does an agent that goes and comes make the daemon unready: Kubernetes would let it go before its successor is
// ready, and 900 of 10,000 connections failed in an upgrade of both.
#[test]
fn a_new_connection_keeps_running_pods() {
    let mut book = connected();
    run(&mut book, add("a", 1), Ok(()));
    run(&mut book, Event::SnapshotSent, Ok(()));
    assert_eq!(book.handle(Event::Connected), []);
    assert_eq!(running(&book), ["a"]);
    assert_eq!(run(&mut book, Event::Keep { uid: uid("a") }, Ok(())), [Action::Ack]);
    assert_eq!(run(&mut book, Event::SnapshotSent, Ok(())), [Action::Ack, Action::Ready(true)]);
    assert_eq!(running(&book), ["a"]);
}

// Z-061
#[test]
fn another_namespace_for_the_same_pod_replaces_it() {
    let mut book = connected();
    run(&mut book, add("a", 1), Ok(()));
    let seen = run(&mut book, add("a", 2), Ok(()));
    assert_eq!(seen, [Action::Stop { uid: uid("a"), how: Stop::Immediate }, Action::Start(pod("a", 2)), Action::Ack]);
    assert_eq!(book.running().map(|pod| pod.netns).collect::<Vec<_>>(), [2]);
}

// Z-062
#[test]
fn a_pod_without_a_name_breaks_the_protocol() {
    let mut book = connected();
    let seen = run(&mut book, Event::Add { uid: uid("a"), info: None, netns: 1, mark: None, captured: None }, Ok(()));
    assert!(matches!(&seen[..], [Action::Nack(_), Action::Give(Broken::NoInfo(_))]), "{seen:?}");
}

#[test]
fn keep_and_end_of_snapshot_after_the_end_break_the_protocol() {
    let mut book = connected();
    run(&mut book, Event::SnapshotSent, Ok(()));
    let seen = run(&mut book, Event::Keep { uid: uid("a") }, Ok(()));
    assert!(matches!(&seen[..], [Action::Nack(_), Action::Give(Broken::KeepAfterSnapshot(_))]), "{seen:?}");
    let seen = run(&mut book, Event::SnapshotSent, Ok(()));
    assert!(matches!(&seen[..], [Action::Nack(_), Action::Give(Broken::SecondSnapshot)]), "{seen:?}");
}

// Z-067
#[test]
fn pods_missing_from_a_new_snapshot_are_stopped() {
    let mut book = connected();
    run(&mut book, add("a", 1), Ok(()));
    run(&mut book, add("b", 2), Ok(()));
    run(&mut book, Event::SnapshotSent, Ok(()));
    book.handle(Event::Connected);
    run(&mut book, add("b", 2), Ok(()));
    let stop = Action::Stop { uid: uid("a"), how: Stop::Immediate };
    assert_eq!(run(&mut book, Event::SnapshotSent, Ok(())), [stop, Action::Ack, Action::Ready(true)]);
}

#[test]
fn deleting_an_unknown_pod_is_acknowledged() {
    let mut book = connected();
    run(&mut book, Event::SnapshotSent, Ok(()));
    assert_eq!(run(&mut book, Event::Delete { uid: uid("x"), drain: false }, Ok(())), [Action::Ack, Action::Ready(true)]);
}
