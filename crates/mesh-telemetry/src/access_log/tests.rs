use super::*;
use crate::lines::{ROOM_BYTES, WhenFull};

fn at() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(1_772_600_767_123_456)
}

struct Ends {
    shop: SpiffeId,
    cart: SpiffeId,
}

impl Ends {
    fn new() -> Ends {
        Ends { shop: SpiffeId::new("cluster.local", "lab", "shop"), cart: SpiffeId::new("cluster.local", "lab", "cart") }
    }

    fn line<'a>(&'a self, event: Event<'a>) -> Line<'a> {
        let who = |workload, identity| Who {
            workload: Some(workload),
            namespace: Some("lab"),
            identity: Some(identity),
            cluster: Some("Kubernetes"),
        };
        Line {
            src_addr: "10.1.0.9:40112".parse().unwrap(),
            src: who("shop-0", &self.shop),
            dst_addr: "10.1.0.17:15008".parse().unwrap(),
            hbone_addr: Some("10.1.0.17:8080"),
            service: Some("cart.lab.svc.cluster.local"),
            dst: who("cart-7c", &self.cart),
            direction: Direction::Outbound,
            event,
        }
    }
}

fn complete(failure: Option<Why<'_>>) -> Event<'_> {
    Event::Complete { bytes_sent: 84, bytes_recv: 159, duration: Duration::from_micros(3_900), failure }
}

const WHY: Why<'_> = Why { stage: "authorize", reason: "denied_by_policy", error: "policy \"lab/p\" says no\nforged\tline" };

fn both(line: &Line<'_>) -> (String, String) {
    let (mut plain, mut object) = (Vec::new(), Vec::new());
    text(&mut plain, at(), line);
    json(&mut object, at(), line);
    (String::from_utf8(plain).unwrap(), String::from_utf8(object).unwrap())
}

#[test]
fn a_complete_connection_looks_as_the_field_expects() {
    let ends = Ends::new();
    let (plain, object) = both(&ends.line(complete(None)));
    assert_eq!(
        plain,
        "2026-03-04T05:06:07.123456Z\tinfo\taccess\tconnection complete\tsrc.addr=10.1.0.9:40112 src.workload=\"shop-0\" src.namespace=\"lab\" \
         src.identity=\"spiffe://cluster.local/ns/lab/sa/shop\" src.cluster=\"Kubernetes\" dst.addr=10.1.0.17:15008 dst.hbone_addr=10.1.0.17:8080 \
         dst.service=\"cart.lab.svc.cluster.local\" dst.workload=\"cart-7c\" dst.namespace=\"lab\" dst.identity=\"spiffe://cluster.local/ns/lab/sa/cart\" \
         dst.cluster=\"Kubernetes\" direction=\"outbound\" bytes_sent=84 bytes_recv=159 duration=\"3ms\"\n"
    );
    assert_eq!(
        object,
        "{\"level\":\"info\",\"time\":\"2026-03-04T05:06:07.123456Z\",\"scope\":\"access\",\"message\":\"connection complete\",\
         \"src.addr\":\"10.1.0.9:40112\",\"src.workload\":\"shop-0\",\"src.namespace\":\"lab\",\"src.identity\":\"spiffe://cluster.local/ns/lab/sa/shop\",\
         \"src.cluster\":\"Kubernetes\",\"dst.addr\":\"10.1.0.17:15008\",\"dst.hbone_addr\":\"10.1.0.17:8080\",\"dst.service\":\"cart.lab.svc.cluster.local\",\
         \"dst.workload\":\"cart-7c\",\"dst.namespace\":\"lab\",\"dst.identity\":\"spiffe://cluster.local/ns/lab/sa/cart\",\"dst.cluster\":\"Kubernetes\",\
         \"direction\":\"outbound\",\"bytes_sent\":84,\"bytes_recv\":159,\"duration\":\"3ms\"}\n"
    );
}

#[test]
fn a_failure_says_where_and_why_and_the_error_comes_last() {
    let ends = Ends::new();
    let (plain, object) = both(&ends.line(complete(Some(WHY))));
    assert!(plain.contains("\terror\taccess\tconnection complete\t"), "{plain}");
    assert!(
        plain.ends_with("duration=\"3ms\" stage=\"authorize\" reason=\"denied_by_policy\" error=\"policy \\\"lab/p\\\" says no\\nforged\\tline\"\n"),
        "{plain}"
    );
    assert_eq!(plain.lines().count(), 1);
    let object: serde_json::Value = serde_json::from_str(&object).unwrap();
    assert_eq!((object["level"].as_str(), object["error"].as_str()), (Some("error"), Some(WHY.error)));
}

#[test]
fn an_early_refusal_and_an_opening_are_short() {
    let ends = Ends::new();
    let (plain, _) = both(&ends.line(Event::Denied(Why { error: "no such pod", ..WHY })));
    assert_eq!(
        plain,
        "2026-03-04T05:06:07.123456Z\twarn\taccess\tconnection failed\tsrc.addr=10.1.0.9:40112 dst.addr=10.1.0.17:15008 direction=\"outbound\" \
         stage=\"authorize\" reason=\"denied_by_policy\" error=\"no such pod\"\n"
    );
    let (plain, _) = both(&ends.line(Event::Opened));
    assert!(
        plain.contains("\tdebug\taccess\tconnection opened\tsrc.addr=") && plain.ends_with("direction=\"outbound\"\n"),
        "{plain}"
    );
}

#[test]
fn what_is_unknown_is_left_out_and_what_a_peer_says_stays_one_value() {
    let line = Line {
        src_addr: "[::ffff:10.1.0.9]:1".parse().unwrap(),
        src: Who { workload: Some(""), ..Who::default() },
        dst_addr: "[fd00::1]:80".parse().unwrap(),
        hbone_addr: Some("a b=c\n:80"),
        service: None,
        dst: Who::default(),
        direction: Direction::Inbound,
        event: Event::Opened,
    };
    let (plain, object) = both(&line);
    assert_eq!(
        plain.split('\t').next_back().unwrap(),
        "src.addr=10.1.0.9:1 dst.addr=[fd00::1]:80 dst.hbone_addr=\"a b=c\\n:80\" direction=\"inbound\"\n"
    );
    let object: serde_json::Value = serde_json::from_str(&object).unwrap();
    assert_eq!(object.as_object().unwrap().len(), 8);
}

// T-17
#[test]
fn a_peer_can_neither_forge_a_line_nor_fill_the_log() {
    let ends = Ends::new();
    let long = "\u{1b}[31mred\n2026-03-04T05:06:07.123456Z\terror\taccess".repeat(20_000);
    let mut line = ends.line(complete(Some(Why { error: &long, ..WHY })));
    line.hbone_addr = Some(&long);
    let (plain, object) = both(&line);
    for shown in [&plain, &object] {
        assert!(shown.len() < 8 * 1024 && shown.lines().count() == 1, "{} bytes", shown.len());
        assert!(!shown.contains('\u{1b}'));
    }
}

#[test]
fn only_what_the_level_lets_through_is_written() {
    let written = Arc::new(parking_lot::Mutex::new(Vec::new()));
    struct Sink(Arc<parking_lot::Mutex<Vec<u8>>>);
    impl std::io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let lines = Lines::to(Sink(written.clone()), ROOM_BYTES, WhenFull::Drop).unwrap();
    let level = Arc::new(LevelOf::fixed(Level::Info));
    let log = AccessLog::new(lines.clone(), Format::Text, level.clone());
    let ends = Ends::new();
    log.write(at(), &ends.line(Event::Opened));
    log.write(at(), &ends.line(complete(None)));
    level.set(Level::Error);
    log.write(at(), &ends.line(complete(None)));
    log.write(at(), &ends.line(complete(Some(WHY))));
    AccessLog::off().write(at(), &ends.line(complete(Some(WHY))));
    assert!(lines.flush(Duration::from_secs(20)));
    let levels: Vec<String> = String::from_utf8(written.lock().clone())
        .unwrap()
        .lines()
        .map(|line| line.split('\t').nth(1).unwrap().to_owned())
        .collect();
    assert_eq!(levels, ["info", "error"]);
    assert!(!log.wants(Level::Info) && log.wants(Level::Error) && !AccessLog::off().wants(Level::Error));
}

proptest::proptest! {
    /// Whatever a peer puts into a name, a text line stays one line and a JSON line stays an object.
    #[test]
    fn a_line_stays_a_line(authority in ".*", workload in ".*", error in ".*") {
        let ends = Ends::new();
        let mut line = ends.line(complete(Some(Why { error: &error, ..WHY })));
        line.hbone_addr = Some(&authority);
        line.src.workload = Some(&workload);
        let (plain, object) = both(&line);
        proptest::prop_assert_eq!(plain.matches(['\n', '\r']).count(), 1);
        let object: serde_json::Value = serde_json::from_str(&object).unwrap();
        proptest::prop_assert_eq!(object["error"].as_str(), Some(clipped(&error)));
    }
}
