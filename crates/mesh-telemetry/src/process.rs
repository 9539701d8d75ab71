//! Figures about this process, taken when a scrape asks: descriptors and the runtime's threads. Linux only, as all of it.

use metrics::Label;
use tokio::runtime::Handle;

use crate::families;
use crate::recorder::Recorder;

/// Writes the present figures of the process, and of the runtime that carries traffic, into the recorder.
pub fn record(recorder: &Recorder, data_path: &Handle) {
    if let Some(open) = open_descriptors() {
        recorder.gauge(&families::OPEN_FDS, &[]).set(open as f64);
    }
    if let Some(most) = std::fs::read_to_string("/proc/self/limits").ok().as_deref().and_then(descriptor_limit) {
        recorder.gauge(&families::MAX_FDS, &[]).set(most as f64);
    }
    if let Some(seconds) = std::fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(processor_seconds) {
        recorder.gauge(&families::CPU, &[]).set(seconds);
    }
    if let Some(bytes) = std::fs::read_to_string("/proc/self/status").ok().as_deref().and_then(resident_bytes) {
        recorder.gauge(&families::RESIDENT, &[]).set(bytes as f64);
    }
    let metrics = data_path.metrics();
    recorder.gauge(&families::TOKIO_WORKERS, &[]).set(metrics.num_workers() as f64);
    recorder.gauge(&families::TOKIO_QUEUE, &[]).set(metrics.global_queue_depth() as f64);
    recorder.gauge(&families::TOKIO_TASKS, &[]).set(metrics.num_alive_tasks() as f64);
    for worker in 0..metrics.num_workers() {
        let labels = [Label::new("worker", worker.to_string())];
        recorder.gauge(&families::TOKIO_BUSY, &labels).set(metrics.worker_total_busy_duration(worker).as_secs_f64());
        recorder.counter(&families::TOKIO_PARK, &labels).absolute(metrics.worker_park_count(worker));
        recorder.counter(&families::TOKIO_PARK_UNPARK, &labels).absolute(metrics.worker_park_unpark_count(worker));
    }
}

/// Open descriptors, without the one that lists them.
fn open_descriptors() -> Option<usize> {
    Some(std::fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1))
}

/// Fields 14 and 15 of `/proc/self/stat`, in ticks of 10 ms on every Linux that this runs on. The second field is a name
/// in parentheses, in which anything may stand.
fn processor_seconds(stat: &str) -> Option<f64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    Some((ticks()? + ticks()?) as f64 / 100.0)
}

/// `VmRSS` of `/proc/self/status`.
fn resident_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// The soft limit in the text of `/proc/self/limits`; unlimited is told as the largest number.
fn descriptor_limit(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    let soft = line.split_whitespace().next()?;
    if soft == "unlimited" { Some(u64::MAX) } else { soft.parse().ok() }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::recorder::Limits;

    #[tokio::test]
    async fn the_figures_of_this_process_are_there() {
        let recorder = Recorder::new(Limits::DEFAULT);
        record(&recorder, &Handle::current());
        let text = String::from_utf8(recorder.render(Instant::now())).unwrap();
        let value = |name: &str| -> f64 {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name}"));
            line.trim().parse().unwrap()
        };
        assert!(value("process_open_fds ") >= 3.0);
        assert!(value("process_max_fds ") >= value("process_open_fds "));
        assert!(value("process_resident_memory_bytes ") > 1e6 && value("process_cpu_seconds_total ") >= 0.0);
        assert_eq!(processor_seconds("7 (a) b) c) S 1 2 3 4 5 6 7 8 9 10 150 25 0 0"), Some(1.75));
        assert_eq!(value("tokio_num_workers "), 1.0);
        assert!(value("tokio_worker_total_busy_duration_seconds_total{worker=\"0\"} ") >= 0.0);
        assert_eq!(
            descriptor_limit("Max open files            unlimited            unlimited            files\n"),
            Some(u64::MAX)
        );
    }
}
