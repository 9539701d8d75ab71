//! How many worker threads carry traffic (spec/dataplane.md 9.1, 9.4).

use mesh_runtime::knobs::{Knobs, Setting};

/// What `ZTUNNEL_WORKER_THREADS` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workers {
    AllCores,
    Exactly(usize),
    /// Of the cores, rounded up.
    Percent(usize),
}

impl Setting for Workers {
    const KIND: &'static str = "number, or `N%`";
    const EXPECTED: &'static str = "a number of threads, a part of the cores like 25%, or 0 for all cores";

    fn parse(text: &str) -> Option<Workers> {
        if let Some(percent) = text.strip_suffix('%') {
            return usize::parse(percent).filter(|percent| (1..=1000).contains(percent)).map(Workers::Percent);
        }
        // A thousand threads are a mistake, not a wish.
        usize::parse(text)
            .filter(|count| *count <= 1024)
            .map(|count| if count == 0 { Workers::AllCores } else { Workers::Exactly(count) })
    }
}

/// The variable, else `concurrency`, else what fits the machine: a quarter of it and never fewer than two.
pub(super) fn workers(knobs: &mut Knobs<'_>, concurrency: Option<u32>, cores: usize) -> usize {
    knobs.section("Threads");
    let said = knobs.optional(
        "ZTUNNEL_WORKER_THREADS",
        "`concurrency`, else the CPU limit, else a quarter of the cores and at least 2",
        "Threads that carry traffic; 0: one per core.",
    );
    let first: Option<usize> = knobs.optional("ZTUNNEL_CPU_LIMIT", "–", "The CPU limit of the daemon in cores.");
    let second: Option<usize> = knobs.optional("ZTUNNEL_RESOURCE_CPU_LIMIT", "–", "The same, as Kubernetes tells it.");
    let request: Option<usize> = knobs.optional("ZTUNNEL_RESOURCE_CPU_REQUEST", "–", "The CPU request of the daemon in cores.");
    let limit = first.or(second).filter(|limit| *limit > 0);
    let said = said.or(concurrency.map(|count| if count == 0 { Workers::AllCores } else { Workers::Exactly(count as usize) }));
    count(said, limit, request.unwrap_or(0), cores)
}

fn count(said: Option<Workers>, limit: Option<usize>, request: usize, cores: usize) -> usize {
    let count = match (said, limit) {
        (Some(Workers::Exactly(count)), _) => count,
        (Some(Workers::AllCores), _) => cores,
        (Some(Workers::Percent(percent)), _) => (cores * percent).div_ceil(100),
        (None, Some(limit)) => limit.max(request),
        (None, None) => cores.div_ceil(4).max(request).max(2),
    };
    count.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    // Z-010
    #[test]
    fn numbers_and_parts_are_read_and_nonsense_is_not() {
        for (text, want) in [
            ("4", Some(4)),
            ("0", Some(16)),
            ("25%", Some(4)),
            ("1%", Some(1)),
            ("33%", Some(6)),
            ("100%", Some(16)),
            ("1024", Some(1024)),
        ] {
            assert_eq!(Workers::parse(text).map(|said| count(Some(said), None, 0, 16)), want, "{text}");
        }
        for nonsense in ["", "%", "-1", "1.5", "25 %", "0%", "abc", "4x", "100000", "1001%", "+4"] {
            assert_eq!(Workers::parse(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn limits_and_requests_count_when_nothing_is_said() {
        for (limit, request, cores, want) in
            [(None, 0, 1, 2), (None, 0, 16, 4), (None, 0, 17, 5), (None, 6, 16, 6), (Some(1), 0, 16, 1), (Some(3), 5, 16, 5)]
        {
            assert_eq!(count(None, limit, request, cores), want, "{limit:?} {request} {cores}");
        }
    }
}
