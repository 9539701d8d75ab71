//! A request that goes on is judged again, as it was, when its policies change. Those that its CUSTOM policies
//! asked are not asked a second time; those of new ones are.

use std::sync::Arc;

use http::request::Parts;
use http::{HeaderMap, Request};

use super::Context;
use super::guard::{Guard, Passed};
use crate::body::Body;
use crate::error::Reason;
use crate::facts::Arrival;
use crate::hygiene::Found;
use crate::permits::Permit;
use crate::settings::Policies;

pub struct Again {
    pub cx: Arc<Context>,
    pub arrival: Arc<Arrival>,
    pub permit: Permit,
    /// What it was judged by last.
    pub policies: Arc<Policies>,
    /// The head as it was judged.
    pub parts: Parts,
    pub found: Found,
    pub passed: Passed,
}

impl Again {
    /// Resolves when policy does not allow it any more.
    pub async fn lost(mut self) -> Reason {
        loop {
            let law = self.permit.changed().await;
            let settings = self.cx.settings.load();
            let guard = Guard {
                settings: &settings,
                policies: &law.policies,
                keys: &self.cx.keys,
                caller: &*self.cx.caller,
                arrival: &self.arrival,
                found: &self.found,
            };
            if let Err(refused) = guard.again(&self.policies, &mut self.parts, &mut Body::Empty, &mut self.passed).await {
                return refused.reason;
            }
            self.policies = law.policies.clone();
        }
    }
}

/// A head as it is judged, of which only that is kept which will be changed.
pub struct Head {
    parts: Parts,
    found: Found,
    whole: bool,
}

impl Head {
    /// `changes`: whether the headers will be others when it is sent.
    pub fn of(parts: &Parts, found: &Found, changes: bool) -> Head {
        let (mut kept, ()) = Request::new(()).into_parts();
        kept.method.clone_from(&parts.method);
        kept.uri.clone_from(&parts.uri);
        kept.version = parts.version;
        if changes {
            kept.headers.clone_from(&parts.headers);
        }
        Head { parts: kept, found: found.clone(), whole: changes }
    }

    /// With the headers that it was sent with.
    pub fn sent_with(mut self, headers: HeaderMap) -> (Parts, Found) {
        if !self.whole {
            self.parts.headers = headers;
        }
        (self.parts, self.found)
    }
}
