//! The ratios as bars: in the terminal, and by gnuplot as a picture.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

use crate::compare::Row;
use crate::report::Report;

/// Columns of a bar that is as long as HAProxy's.
const ONE: f64 = 24.0;
/// A bar that would be longer is cut; the figure beside it says how long it is.
const MOST: f64 = 2.5;

/// One bar a load, `|` where the target is.
pub fn bars(rows: &[Row]) -> String {
    let width = rows.iter().map(|row| row.load.len()).max().unwrap_or_default();
    let mut text = format!("{:width$}  processor time, HAProxy = 1\n", "");
    for row in rows {
        let columns = |ratio: f64| (ratio.min(MOST) * ONE).round() as usize;
        let mut bar = vec!['='; columns(row.cpu_ratio)];
        if let Some(target) = row.cpu_target {
            let at = columns(target);
            bar.resize(bar.len().max(at + 1), ' ');
            bar[at] = '|';
        }
        let bar: String = bar.into_iter().collect();
        let _ = writeln!(text, "{:width$}  {bar} {:.2}", row.load, row.cpu_ratio);
    }
    text.trim_end().to_owned()
}

/// The same as a picture.
pub fn png(report: &Report, to: &Path) -> anyhow::Result<()> {
    ensure!(!report.rows.is_empty(), "no load was compared");
    let mut script = format!(
        "set terminal png size 900,420\nset output '{}'\nset style fill solid 0.7\nset boxwidth 0.6\nset yrange [0:*]\nset ylabel 'processor time, HAProxy = 1'\nset arrow from graph 0, first 1 to graph 1, first 1 nohead dt 2\nunset key\nplot '-' using 0:2:xtic(1) with boxes, '' using 0:2:2 with labels offset 0,0.7\n",
        to.display()
    );
    for _ in 0..2 {
        for row in &report.rows {
            let _ = writeln!(script, "\"{}\" {:.2}", row.load.replace(", ", "\\n"), row.cpu_ratio);
        }
        script.push_str("e\n");
    }
    let mut gnuplot =
        Command::new("gnuplot").stdin(Stdio::piped()).spawn().context("cannot start gnuplot (package gnuplot-nox)")?;
    gnuplot.stdin.take().context("standard input was asked for")?.write_all(script.as_bytes())?;
    ensure!(gnuplot.wait()?.success(), "gnuplot refused the plot");
    Ok(())
}
