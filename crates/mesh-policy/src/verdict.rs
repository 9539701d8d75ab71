//! The answer, which always names its reason: a policy, or the absence of one.

use std::fmt;

use mesh_model::workload::PolicyKey;

#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Verdict {
    pub because: Because,
    /// What dry-run policies would have said. They never decide.
    pub dry_run: Vec<DryRunNote>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Because {
    /// Allowed: no ALLOW policy selects the workload, and no DENY matched.
    NoAllowPolicy,
    /// Allowed by this ALLOW policy.
    AllowedBy(PolicyKey),
    /// Refused by this DENY policy.
    DeniedBy(PolicyKey),
    /// Refused: this DENY policy holds an entry that cannot be read, and may have meant this connection.
    MayBeDeniedBy(PolicyKey),
    /// Refused: ALLOW policies select the workload, none matched. `malformed` names one that might have, if the entry
    /// in it that cannot be read had been sound.
    NoneAllowed { malformed: Option<PolicyKey> },
    /// Refused: the workload is bound to a policy of which we were never told the content.
    UnknownPolicy(PolicyKey),
    /// Refused: a policy that selects the workload was sent in a form that cannot be read.
    UnreadablePolicy(PolicyKey),
    /// Refused: the control plane has not told us yet which policies there are.
    NotSynced,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DryRunNote {
    WouldDeny(PolicyKey),
    WouldAllow(PolicyKey),
    /// An ALLOW that does not match: enforced, it would leave the connection to other ALLOW policies.
    WouldNotAllow(PolicyKey),
}

impl Verdict {
    pub fn is_allowed(&self) -> bool {
        self.because.is_allowed()
    }

    /// The policy that decided or is missing; `None` when the reason is an absence.
    pub fn policy(&self) -> Option<&PolicyKey> {
        match &self.because {
            Because::AllowedBy(key)
            | Because::DeniedBy(key)
            | Because::MayBeDeniedBy(key)
            | Because::UnknownPolicy(key)
            | Because::UnreadablePolicy(key) => Some(key),
            Because::NoneAllowed { malformed } => malformed.as_ref(),
            Because::NoAllowPolicy | Because::NotSynced => None,
        }
    }
}

impl Because {
    pub fn is_allowed(&self) -> bool {
        match self {
            Because::NoAllowPolicy | Because::AllowedBy(_) => true,
            Because::DeniedBy(_)
            | Because::MayBeDeniedBy(_)
            | Because::NoneAllowed { .. }
            | Because::UnknownPolicy(_)
            | Because::UnreadablePolicy(_)
            | Because::NotSynced => false,
        }
    }

    /// One word for metrics and for `isthmus why`; the list is exhaustive.
    pub fn code(&self) -> &'static str {
        match self {
            Because::NoAllowPolicy => "no_allow_policy",
            Because::AllowedBy(_) => "allowed",
            Because::DeniedBy(_) => "denied",
            Because::MayBeDeniedBy(_) => "malformed_deny",
            Because::NoneAllowed { malformed: None } => "none_allowed",
            Because::NoneAllowed { malformed: Some(_) } => "malformed_allow",
            Because::UnknownPolicy(_) => "unknown_policy",
            Because::UnreadablePolicy(_) => "unreadable_policy",
            Because::NotSynced => "policies_not_synced",
        }
    }
}

/// The two common refusals read as in the field (spec/dataplane.md 5.8, 6.4), because people search their logs for them.
impl fmt::Display for Because {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Because::NoAllowPolicy => f.write_str("no allow policy selects the workload"),
            Because::AllowedBy(key) => write!(f, "allowed by: {key}"),
            Because::DeniedBy(key) => write!(f, "explicitly denied by: {key}"),
            Because::MayBeDeniedBy(key) => {
                write!(f, "denied by: {key}, which holds an entry that cannot be read; correct the policy")
            }
            Because::NoneAllowed { malformed: None } => f.write_str("allow policies exist, but none allowed"),
            Because::NoneAllowed { malformed: Some(key) } => {
                write!(f, "allow policies exist, but none allowed ({key} holds an entry that cannot be read; correct it)")
            }
            Because::UnknownPolicy(key) => {
                write!(f, "the workload is bound to policy {key}, which the control plane has not sent")
            }
            Because::UnreadablePolicy(key) => {
                write!(f, "policy {key} selects the workload but cannot be read; see the rejections of the control plane")
            }
            Because::NotSynced => f.write_str("the control plane has not sent its policies yet"),
        }
    }
}

impl fmt::Display for DryRunNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DryRunNote::WouldDeny(key) => write!(f, "dry-run: would be denied by: {key}"),
            DryRunNote::WouldAllow(key) => write!(f, "dry-run: would be allowed by: {key}"),
            DryRunNote::WouldNotAllow(key) => write!(f, "dry-run: would not be allowed by: {key}"),
        }
    }
}
