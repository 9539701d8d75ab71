//! What every long-lived process needs: drain, readiness, signals, knobs, backoff, admin HTTP.
