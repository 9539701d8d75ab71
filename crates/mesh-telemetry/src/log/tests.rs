use std::io::Write;
use std::time::Duration;

use super::*;
use crate::levels::Level;
use crate::lines::{ROOM_BYTES, WhenFull};

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Runs with a log of its own and returns its lines, without their times.
fn logged(format: Format, levels: Option<&str>, run: impl FnOnce(&Log)) -> Vec<String> {
    let sink = Sink::default();
    let lines = Lines::to(sink.clone(), ROOM_BYTES, WhenFull::Wait).unwrap();
    let (log, subscriber) = log(lines.clone(), format, levels).unwrap();
    tracing::subscriber::with_default(subscriber, || run(&log));
    assert!(lines.flush(Duration::from_secs(20)));
    let text = String::from_utf8(sink.0.lock().clone()).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn say() {
    let span = tracing::info_span!("inbound", id = %"4bf9", peer = "shop");
    let _in_span = span.enter();
    tracing::warn!(target: "ztunnel::tunnel", count = 3, ok = true, name = "a\"b", addr = %"10.0.0.1:80", "could not\nconnect");
}

#[test]
fn text_has_its_columns() {
    let lines = logged(Format::Text, None, |_| {
        say();
        tracing::info!(target: "access", "plain");
    });
    let without_time: Vec<&str> = lines.iter().map(|line| line.split_once('\t').unwrap().1).collect();
    assert_eq!(
        without_time,
        [
            "warn\ttunnel:inbound{id=4bf9 peer=\"shop\"}\tcould not\\nconnect\tcount=3 ok=true name=\"a\\\"b\" addr=10.0.0.1:80",
            "info\taccess\tplain",
        ]
    );
    assert_eq!(lines[0].split('\t').next().unwrap().len(), "2026-03-04T05:06:07.123456Z".len());
}

#[test]
fn json_has_its_keys_in_order() {
    let lines = logged(Format::Json, None, |_| say());
    let object: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
    assert!(lines[0].starts_with("{\"level\":\"warn\",\"time\":\""));
    let after_time = lines[0].split_once("Z\",").unwrap().1;
    assert_eq!(
        after_time,
        "\"scope\":\"ztunnel::tunnel\",\"message\":\"could not\\nconnect\",\"count\":3,\"ok\":true,\"name\":\"a\\\"b\",\"addr\":\"10.0.0.1:80\",\
         \"inbound\":{\"id\":\"4bf9\",\"peer\":\"shop\"}}"
    );
    assert_eq!(object["inbound"]["peer"], "shop");
}

// Z-003
#[test]
fn levels_change_while_it_runs_and_bad_ones_are_refused() {
    let lines = logged(Format::Text, Some("warn"), |log| {
        assert_eq!(log.answer(false, None), (200, "current log level is hickory_server::server=off,warn\n".to_owned()));
        tracing::info!(target: "one", "not said");
        assert_eq!(
            log.answer(false, Some("access=debug,info")),
            (200, "current log level is hickory_server::server=off,access=debug,info\n".to_owned())
        );
        tracing::info!(target: "two", "said");
        assert!(log.access().wants(Level::Debug));
        let (status, body) = log.answer(false, Some("loud"));
        assert!(status == 400 && body.starts_with("Invalid level provided: \"loud\" is no log level"), "{body}");
        assert_eq!(log.answer(true, Some("loud")).0, 400);
        assert_eq!(log.levels(), "hickory_server::server=off,access=debug,info", "a refused change changed something");
        assert_eq!(log.answer(true, None), (200, "current log level is hickory_server::server=off,warn\n".to_owned()));
        assert!(!log.access().wants(Level::Info));
        assert_eq!(log.answer(true, Some("trace")), (200, "current log level is hickory_server::server=off,trace\n".to_owned()));
        tracing::trace!(target: "three", "said");
        tracing::error!(target: "hickory_server::server", "not said");
    });
    let targets: Vec<&str> = lines.iter().map(|line| line.split('\t').nth(2).unwrap()).collect();
    assert_eq!(targets, ["two", "three"]);
}

#[test]
fn a_wrong_start_level_is_an_error() {
    let lines = Lines::to(io::sink(), ROOM_BYTES, WhenFull::Drop).unwrap();
    assert!(log(lines, Format::Text, Some("verbose")).is_err());
}
