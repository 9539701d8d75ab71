//! Times as logs show them: RFC 3339, UTC, microseconds, always of the same width.

use std::time::SystemTime;

use jiff::Timestamp;
use jiff::fmt::temporal::DateTimePrinter;

const PRINTER: DateTimePrinter = DateTimePrinter::new().precision(Some(6));

/// Appends a time like `2026-03-04T05:06:07.123456Z`. Times outside of the years that can be printed become the nearest.
pub fn write_time(out: &mut Vec<u8>, time: SystemTime) {
    let timestamp =
        Timestamp::try_from(time).unwrap_or(if time < SystemTime::UNIX_EPOCH { Timestamp::MIN } else { Timestamp::MAX });
    // Writing into a Vec cannot fail.
    let _ = PRINTER.print_timestamp(&timestamp, jiff::fmt::StdIoWrite(out));
}

/// The same as a string.
pub fn time_text(time: SystemTime) -> String {
    let mut out = Vec::with_capacity(27);
    write_time(&mut out, time);
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    // Z-177
    #[test]
    fn times_are_utc_with_six_digits() {
        for (micros, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (1_772_600_767_123_456, "2026-03-04T05:06:07.123456Z"),
            (951_782_400_000_001, "2000-02-29T00:00:00.000001Z"),
        ] {
            assert_eq!(time_text(SystemTime::UNIX_EPOCH + Duration::from_micros(micros)), text);
        }
        assert_eq!(time_text(SystemTime::UNIX_EPOCH - Duration::from_secs(1)), "1969-12-31T23:59:59.000000Z");
    }
}
