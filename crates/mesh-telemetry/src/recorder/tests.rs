use std::io::Read;

use super::*;

const PLAIN: Family = Family::counter("shop_orders_total", "Orders");
const DEPTH: Family = Family::gauge("shop_queue", "Waiting orders");
const BUSY: Family = Family::counter_of_fractions("shop_busy_seconds_total", "Time at work");
const TIMES: Family = Family::histogram("shop_seconds", &[0.1, 1.0], "Time of an order");
const FAMILIES: &[Family] = &[PLAIN, DEPTH, BUSY, TIMES];

fn recorder(series: usize) -> Recorder {
    Recorder::with_families(Limits { series, idle: Duration::from_secs(600) }, FAMILIES)
}

fn by(name: &str) -> [Label; 1] {
    [Label::new("by", name.to_owned())]
}

fn text(recorder: &Recorder, now: Instant) -> String {
    String::from_utf8(recorder.render(now)).unwrap()
}

#[test]
fn the_text_is_open_metrics() {
    let recorder = recorder(100);
    recorder.counter(&PLAIN, &by("ann")).increment(3);
    recorder.counter(&PLAIN, &by("ann")).increment(4);
    recorder.counter(&PLAIN, &[Label::new("by", "a\"b\\c\nd"), Label::new("a", "")]).increment(1);
    recorder.gauge(&DEPTH, &[]).set(-2.0);
    recorder.gauge(&DEPTH, &[]).increment(0.5);
    recorder.gauge(&BUSY, &[]).set(12.25);
    for time in [0.05, 0.1, 0.7, 3.0] {
        recorder.histogram(&TIMES, &by("bob")).record(time);
    }
    let want = r##"# HELP isthmus_metrics_series_dropped Series that did not fit and were counted together
# TYPE isthmus_metrics_series_dropped counter
isthmus_metrics_series_dropped_total 0
# HELP shop_busy_seconds Time at work
# TYPE shop_busy_seconds counter
shop_busy_seconds_total 12.25
# HELP shop_orders Orders
# TYPE shop_orders counter
shop_orders_total{by="a\"b\\c\nd",a=""} 1
shop_orders_total{by="ann"} 7
# HELP shop_queue Waiting orders
# TYPE shop_queue gauge
shop_queue -1.5
# HELP shop_seconds Time of an order
# TYPE shop_seconds histogram
shop_seconds_sum{by="bob"} 3.85
shop_seconds_count{by="bob"} 4
shop_seconds_bucket{by="bob",le="0.1"} 2
shop_seconds_bucket{by="bob",le="1"} 3
shop_seconds_bucket{by="bob",le="+Inf"} 4
# EOF
"##;
    assert_eq!(text(&recorder, Instant::now()), want);
}

#[test]
fn a_series_that_nobody_holds_and_that_rests_goes_away() {
    let recorder = recorder(100);
    let held = recorder.counter(&PLAIN, &by("held"));
    recorder.counter(&PLAIN, &by("gone")).increment(1);
    recorder.counter(&PLAIN, &[]).increment(1);
    recorder.gauge(&DEPTH, &by("fact")).set(1.0);
    let start = Instant::now();
    let minutes = |n: u64| start + Duration::from_secs(60 * n);
    let names = |now| {
        let text = text(&recorder, now);
        ["held", "gone", "fact"].into_iter().filter(|name| text.contains(&format!("\"{name}\""))).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(names(minutes(0)), "held gone fact");
    assert_eq!(names(minutes(9)), "held gone fact");
    recorder.counter(&PLAIN, &by("gone")).increment(1); // it moves: its time begins anew
    assert_eq!(names(minutes(11)), "held gone fact");
    assert_eq!(names(minutes(22)), "held fact");
    drop(held);
    assert_eq!(names(minutes(23)), "held fact", "it was held until now");
    assert_eq!(names(minutes(33)), "fact");
    assert_eq!(recorder.series(), 2, "the one without labels and the gauge");
}

#[test]
fn beyond_the_cap_one_series_counts_for_all() {
    let recorder = recorder(2);
    for name in ["a", "b", "c", "d", "a"] {
        recorder.counter(&PLAIN, &by(name)).increment(1);
    }
    let now = Instant::now();
    let shown = text(&recorder, now);
    for line in [
        "shop_orders_total{by=\"a\"} 2\n",
        "shop_orders_total{by=\"b\"} 1\n",
        "shop_orders_total{overflow=\"true\"} 2\n",
        "isthmus_metrics_series_dropped_total 2\n",
    ] {
        assert!(shown.contains(line), "{line} is not in\n{shown}");
    }
    assert!(!shown.contains("\"c\""));
    let later = now + Duration::from_secs(601);
    recorder.sweep(later);
    assert_eq!(recorder.series(), 0);
    recorder.counter(&PLAIN, &by("c")).increment(1);
    assert!(text(&recorder, later).contains("shop_orders_total{by=\"c\"} 1\n"), "room that became free is not used");
}

// V-13: a million names that a peer made up
#[test]
fn made_up_names_cost_no_memory() {
    let recorder = recorder(100);
    let memory = || {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    };
    for number in 0..10_000 {
        recorder.counter(&PLAIN, &by(&format!("first {number}"))).increment(1);
    }
    let (before, series) = (memory(), recorder.series());
    for number in 0..1_000_000 {
        recorder.counter(&PLAIN, &by(&format!("made up {number}"))).increment(1);
    }
    assert_eq!((series, recorder.series()), (100, 100));
    // A name of each would be over 60 MB.
    assert!(memory() < before + (8 << 20), "{} bytes more", memory() - before);
    let shown = text(&recorder, Instant::now());
    assert!(shown.contains("shop_orders_total{overflow=\"true\"} 1009900\n"), "{}", &shown[shown.len() - 200..]);
}

// Z-068
#[test]
fn the_content_type_follows_the_request_and_the_body_does_not() {
    let recorder = recorder(10);
    let now = Instant::now();
    for (accept, want) in [
        (None, "text/plain; charset=utf-8"),
        (Some("*/*"), "text/plain; charset=utf-8"),
        (Some("text/plain;version=0.0.4"), "text/plain; charset=utf-8"),
        (
            Some("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.3"),
            "application/openmetrics-text;charset=utf-8;version=1.0.0",
        ),
        (Some("text/html, Application/OpenMetrics-Text"), "application/openmetrics-text;charset=utf-8;version=1.0.0"),
        (Some("application/openmetrics-text;q=0"), "text/plain; charset=utf-8"),
    ] {
        let answer = recorder.expose(accept, None, now);
        assert_eq!((answer.content_type, answer.content_encoding), (want, None), "{accept:?}");
        assert!(answer.body.ends_with(b"# EOF\n"));
    }
}

#[test]
fn gzip_is_used_where_it_is_accepted() {
    let recorder = recorder(10);
    let now = Instant::now();
    for (accepted, packed) in
        [(Some("gzip, deflate"), true), (Some("br;q=1.0, gzip;q=0.8"), true), (Some("gzip;q=0"), false), (Some("br"), false)]
    {
        let answer = recorder.expose(None, accepted, now);
        assert_eq!(answer.content_encoding.is_some(), packed, "{accepted:?}");
        let mut body = answer.body;
        if packed {
            let mut unpacked = Vec::new();
            flate2::read::GzDecoder::new(&body[..]).read_to_end(&mut unpacked).unwrap();
            body = unpacked;
        }
        assert_eq!(body, recorder.render(now));
    }
}

// Z-238
#[test]
fn every_family_of_the_data_plane_is_there_before_anything_happened() {
    let shown = text(&Recorder::new(Limits::DEFAULT), Instant::now());
    for family in crate::families::ALL {
        let name = match family.kind {
            Kind::Counter | Kind::CounterOfFractions => {
                family.name.strip_suffix("_total").expect("a counter's name ends in _total")
            }
            _ => &family.name,
        };
        assert!(shown.contains(&format!("# TYPE {name} ")), "{name}");
    }
}

#[test]
fn the_recorder_is_one_that_metrics_can_use() {
    use metrics::Recorder as _;
    let recorder = recorder(10);
    let metadata = Metadata::new("test", metrics::Level::INFO, None);
    recorder.describe_counter("later_total".into(), None, "Said later".into());
    recorder
        .register_counter(&Key::from_parts("later_total", vec![Label::new("z", "1"), Label::new("a", "2")]), &metadata)
        .increment(5);
    recorder.register_histogram(&Key::from_name("shop_seconds"), &metadata).record(0.5);
    let shown = text(&recorder, Instant::now());
    assert!(shown.contains("# HELP later Said later\n# TYPE later counter\nlater_total{z=\"1\",a=\"2\"} 5\n"), "{shown}");
    assert!(shown.contains("shop_seconds_bucket{le=\"1\"} 1\n"), "{shown}");
}

#[test]
fn many_threads_lose_no_count() {
    let recorder = recorder(100);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let recorder = recorder.clone();
            scope.spawn(move || {
                for step in 0..1000 {
                    recorder.counter(&PLAIN, &by(&format!("{}", step % 10))).increment(1);
                    recorder.histogram(&TIMES, &[]).record(f64::from(thread));
                }
            });
        }
    });
    let shown = text(&recorder, Instant::now());
    assert_eq!(shown.matches("} 400\n").count(), 10, "{shown}");
    assert!(shown.contains("shop_seconds_sum 6000\nshop_seconds_count 4000\n"), "{shown}");
}
