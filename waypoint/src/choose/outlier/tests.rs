//! The arithmetic of ejection (spec/waypoint.md 5.5; 11, row 17).

use super::*;
use crate::choose::policy::compile;
use mesh_xds::messages::waypoint::{BackendPolicy, OutlierDetection};

fn outlier(wire: OutlierDetection) -> Outlier {
    compile(&BackendPolicy { outlier: Some(wire), ..BackendPolicy::default() }).unwrap().outlier.unwrap()
}

fn answered(status: u16, grpc: Option<u16>) -> Outcome {
    Outcome::Answered { status, grpc, took: Duration::ZERO }
}

#[test]
fn what_counts_as_a_failure() {
    let plain = outlier(OutlierDetection::default());
    let split = outlier(OutlierDetection { split_local_origin_errors: true, ..OutlierDetection::default() });
    let codes = outlier(OutlierDetection { http_error_codes: vec![429, 503], ..OutlierDetection::default() });
    // server, gateway, local
    for (policy, outcome, expected) in [
        (&plain, answered(200, None), [Some(false), Some(false), Some(false)]),
        (&plain, answered(404, None), [Some(false), Some(false), Some(false)]),
        (&plain, answered(500, None), [Some(true), Some(false), Some(false)]),
        (&plain, answered(503, None), [Some(true), Some(true), Some(false)]),
        (&plain, answered(200, Some(0)), [Some(false), Some(false), Some(false)]),
        (&plain, answered(200, Some(14)), [Some(true), Some(true), Some(false)]),
        (&plain, answered(200, Some(13)), [Some(true), Some(false), Some(false)]),
        (&plain, answered(200, Some(8)), [Some(false), Some(false), Some(false)]),
        (&plain, Outcome::Failed(Failure::Connect), [Some(true), Some(true), Some(false)]),
        (&plain, Outcome::Failed(Failure::AttemptTimeout), [Some(true), Some(true), Some(false)]),
        (&split, Outcome::Failed(Failure::Connect), [None, None, Some(true)]),
        (&split, answered(500, None), [Some(true), Some(false), Some(false)]),
        (&codes, answered(500, None), [Some(false), Some(false), Some(false)]),
        (&codes, answered(429, None), [Some(true), Some(false), Some(false)]),
        (&codes, answered(200, Some(8)), [Some(true), Some(false), Some(false)]),
        (&codes, answered(503, None), [Some(true), Some(true), Some(false)]),
        (&codes, answered(504, None), [Some(false), Some(false), Some(false)]),
    ] {
        let Marks { server, gateway, local } = marks(policy, &outcome);
        assert_eq!([server, gateway, local], expected, "{outcome:?}");
    }
}

#[test]
fn a_row_is_broken_by_one_success() {
    let policy = outlier(OutlierDetection { consecutive_5xx: Some(3), ..OutlierDetection::default() });
    let (bad, good) = (marks(&policy, &answered(500, None)), marks(&policy, &answered(200, None)));
    let after = |all: &[Marks]| all.iter().fold(Rows::default(), |rows, marks| rows.after(*marks));
    assert!(!after(&[bad, bad]).suffice(&policy));
    assert!(!after(&[bad, bad, good, bad]).suffice(&policy));
    assert!(after(&[good, bad, bad, bad]).suffice(&policy));
    let off = outlier(OutlierDetection { consecutive_5xx: Some(0), ..OutlierDetection::default() });
    assert!(!after(&[bad; 100]).suffice(&off), "0 switches it off");
}

#[test]
fn how_many_may_be_out_and_for_how_long() {
    let percent = |percent| outlier(OutlierDetection { max_ejection_percent: Some(percent), ..OutlierDetection::default() });
    let most = |percent_max, endpoints| (0..=endpoints).find(|ejected| !may_eject(&percent(percent_max), *ejected, endpoints)).unwrap_or(endpoints + 1);
    for (percent, endpoints, expected) in
        [(10, 1, 1), (10, 5, 1), (10, 19, 1), (10, 20, 2), (10, 100, 10), (0, 10, 1), (50, 3, 1), (50, 4, 2), (100, 3, 3), (29, 100, 29)]
    {
        assert_eq!(most(percent, endpoints), expected, "{percent} % of {endpoints}");
    }
    let policy = percent(10);
    for (nth, seconds) in [(1, 30), (2, 60), (5, 150), (10, 300), (11, 300), (u32::MAX, 300)] {
        assert_eq!(duration(&policy, nth).as_secs(), seconds);
    }
    let long = outlier(OutlierDetection { base_ejection_time_ms: 600_000, ..OutlierDetection::default() });
    assert_eq!(duration(&long, 3).as_secs(), 600, "never shorter than the first");
}

#[test]
fn policies_that_cannot_be_are_refused() {
    let wrong = |wire| compile(&BackendPolicy { outlier: Some(wire), ..BackendPolicy::default() }).unwrap_err().to_string();
    assert!(wrong(OutlierDetection { max_ejection_percent: Some(101), ..OutlierDetection::default() }).contains("maxEjectionPercent 101"));
    assert!(wrong(OutlierDetection { http_error_codes: vec![99], ..OutlierDetection::default() }).contains("99 is no HTTP status"));
}
