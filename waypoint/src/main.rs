//! The environment becomes settings, the settings become a proxy; the rest is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    eprintln!("waypoint: not built yet");
    ExitCode::FAILURE
}
