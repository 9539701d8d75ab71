//! The sample shop's programs; see `isthmus::shop`.
fn main() -> std::process::ExitCode {
    isthmus::shop::main()
}
