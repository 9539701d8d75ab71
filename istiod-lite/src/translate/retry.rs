//! Retries as Istio writes them (spec/waypoint.md 5.2).

use mesh_xds::messages::waypoint::{RetryOn, RetryPolicy};

use crate::objects::virtual_service::HttpRetry;

/// What Istio retries on where nothing is said.
const DEFAULT: [RetryOn; 5] = [RetryOn::ConnectFailure, RetryOn::RefusedStream, RetryOn::GrpcUnavailable, RetryOn::GrpcCancelled, RetryOn::StatusCodes];

/// The policy, and words of `retryOn` that are not known.
pub fn of_istio(retry: &HttpRetry) -> (RetryPolicy, Vec<String>) {
    let mut unknown = Vec::new();
    let mut policy = RetryPolicy {
        attempts: retry.attempts,
        per_try_timeout_ms: retry.per_try_timeout.map_or(0, |span| span.ms()),
        backoff_base_ms: retry.backoff.map_or(0, |span| span.ms()),
        same_endpoint: retry.retry_ignore_previous_hosts == Some(false),
        ..RetryPolicy::default()
    };
    for word in retry.retry_on.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        match (RetryOn::of_word(word), word.parse::<u32>()) {
            (Some(on), _) => policy.on.push(on as i32),
            (None, Ok(code)) if (100..=599).contains(&code) => policy.codes.push(code),
            _ => unknown.push(word.to_owned()),
        }
    }
    if !policy.codes.is_empty() && !policy.on.contains(&(RetryOn::StatusCodes as i32)) {
        policy.on.push(RetryOn::StatusCodes as i32);
    }
    if policy.on.is_empty() {
        policy.on = DEFAULT.map(|on| on as i32).to_vec();
    }
    (policy, unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_numbers_are_causes_and_others_are_told() {
        let on = |text: &str| {
            let (policy, unknown) = of_istio(&HttpRetry { attempts: 3, retry_on: text.into(), ..HttpRetry::default() });
            let words: Vec<&str> = policy.on.iter().map(|on| RetryOn::try_from(*on).unwrap().word()).collect();
            format!("{} {:?} {unknown:?}", words.join(","), policy.codes)
        };
        let table = [
            ("", "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes [] []"),
            ("5xx, reset", "5xx,reset [] []"),
            ("gateway-error,503,409", "gateway-error,retriable-status-codes [503, 409] []"),
            ("http3-post-connect-failure,connect-failure", "connect-failure [] [\"http3-post-connect-failure\"]"),
        ];
        for (text, expected) in table {
            assert_eq!(on(text), expected, "{text}");
        }
    }
}
