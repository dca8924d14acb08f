//! What a scenario needs from the machine, and how it says that it was not there.

use nix::unistd::geteuid;
use xtask::leftovers;

use crate::program::find;

/// What is lacking to run a scenario with these programs, none when all is there.
#[must_use]
pub fn lacking(programs: &[&str]) -> Option<String> {
    if !geteuid().is_root() {
        return Some("needs root".to_owned());
    }
    if let Err(error) = leftovers::cgroup2_mount() {
        return Some(format!("{error:#}"));
    }
    let absent: Vec<&str> = ["ip"].iter().chain(programs).copied().filter(|name| find(name).is_none()).collect();
    (!absent.is_empty()).then(|| format!("needs {} (cargo xtask setup)", absent.join(", ")))
}

/// Opens a scenario: returns from it with `Ok(())` and one line `skipped: ..` when root, cgroup v2 or one of the named
/// programs is lacking. `cargo xtask test` counts such lines, and on CI takes them for failures.
///
/// ```
/// fn a_claim() -> anyhow::Result<()> {
///     weft_tests::needs!("no-such-program");
///     unreachable!("it is not there");
/// }
/// a_claim().unwrap();
/// ```
#[macro_export]
macro_rules! needs {
    ($($program:literal),* $(,)?) => {
        if let Some(lacking) = $crate::needs::lacking(&[$($program),*]) {
            println!("skipped: {}:{}: {lacking}", module_path!(), line!());
            return Ok(());
        }
    };
}
