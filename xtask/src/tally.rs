//! Adds up what `cargo test` prints. Pure: lines in, counts out.
//!
//! A test that could not run prints a line `skipped: <what it lacked>` and returns, so the harness calls it passed; a
//! test binary that crashed prints no result at all. Both are put right here.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

/// Counts over any number of test binaries.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) skipped: usize,
    /// What was lacking, one entry per skipped test.
    pub(crate) reasons: Vec<String>,
    /// What failed tests printed, each under its name: the first [`TOLD`] lines of it.
    pub(crate) failures: Vec<String>,
    /// Tests of whole worlds that failed and were not run again, each with its binary: they depend on what else the machine does.
    pub(crate) worlds: Vec<(PathBuf, String)>,
    /// The scenarios' binary, once it has been run.
    pub(crate) scenarios: Option<PathBuf>,
    /// Tests that failed, and passed when they were run again alone.
    pub(crate) unsteady: Vec<String>,
    open: Option<Binary>,
}

/// The test binary whose output is being read.
#[derive(Debug, Default, PartialEq, Eq)]
struct Binary {
    /// A set, because `--show-output` repeats what an uncaptured test has already printed.
    skipped: BTreeSet<String>,
    /// Within the outputs of those that failed.
    failures: bool,
    /// Within the list of their names.
    names: bool,
    /// Where it lies, if its tests are of whole worlds.
    world: Option<PathBuf>,
}

const SCENARIOS: &str = "scenarios";

/// Lines of failed tests' output that are kept.
const TOLD: usize = 300;

impl Tally {
    /// Reads one line of output.
    pub(crate) fn line(&mut self, line: &str) {
        if let Some(binary) = &mut self.open {
            // The heading comes twice: before the outputs, and before a mere list of names.
            if line == "failures:" {
                binary.names = binary.failures;
                binary.failures = !binary.failures;
            } else if let (true, Some(program), Some(name)) = (binary.names, &binary.world, line.strip_prefix("    ")) {
                self.worlds.push((program.clone(), name.trim().to_owned()));
            } else if binary.failures && self.failures.len() < TOLD {
                self.failures.push(line.to_owned());
            }
        }
        let line = line.trim();
        if line.starts_with("Running ") || line.starts_with("Doc-tests ") {
            self.close_without_result();
            let program = line.rsplit_once('(').and_then(|(_, path)| path.strip_suffix(')')).map(PathBuf::from);
            let world = program.filter(|program| [SCENARIOS, "cluster"].contains(&target(program)));
            if let Some(program) = world.as_ref().filter(|program| target(program) == SCENARIOS) {
                self.scenarios = Some(program.clone());
            }
            self.open = Some(Binary { world, ..Binary::default() });
        } else if let Some(counts) = line.strip_prefix("test result: ") {
            let binary = self.open.take().unwrap_or_default();
            let [passed, failed, ignored] = counts_of(counts);
            let skipped = binary.skipped.len();
            self.passed += passed.saturating_sub(skipped);
            self.failed += failed;
            self.skipped += skipped + ignored;
            self.reasons.extend(binary.skipped);
        } else if let Some(reason) = skip_reason(line)
            && let Some(binary) = &mut self.open
        {
            binary.skipped.insert(reason.to_owned());
        }
    }

    /// Ends one run of cargo. When it failed and no test did, it was the build or the harness: that counts as a failure.
    pub(crate) fn end(&mut self, succeeded: bool, failed_before: usize) {
        self.close_without_result();
        if !succeeded && self.failed == failed_before {
            self.failed += 1;
        }
    }

    /// Takes back that a test failed, since it has passed alone.
    pub(crate) fn forgive(&mut self, name: String) {
        self.failed -= 1;
        self.passed += 1;
        self.unsteady.push(name);
    }

    /// Makes every skipped test a failed one: on a machine that is there to run them all, lacking something is a fault.
    pub(crate) fn forbid_skips(&mut self) {
        self.failed += self.reasons.len();
        self.skipped -= self.reasons.len();
        self.reasons.clear();
    }

    /// A binary that began and told no result has crashed.
    fn close_without_result(&mut self) {
        if self.open.take().is_some() {
            self.failed += 1;
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// The name of cargo's target that `program` was built from: `deps/scenarios-0123456789abcdef` is `scenarios`.
fn target(program: &Path) -> &str {
    program.file_name().and_then(|name| name.to_str()?.rsplit_once('-')).map_or("", |(target, _)| target)
}

/// The reason in `skipped: reason`, also behind the harness's own `test name ... `.
fn skip_reason(line: &str) -> Option<&str> {
    line.strip_prefix("skipped: ").or_else(|| line.split_once(" ... skipped: ").map(|(_, reason)| reason))
}

/// Passed, failed and ignored of `ok. 3 passed; 0 failed; 1 ignored; ..`.
fn counts_of(text: &str) -> [usize; 3] {
    ["passed", "failed", "ignored"].map(|name| {
        text.split(['.', ';'])
            .filter_map(|part| part.trim().split_once(' '))
            .find(|(_, word)| *word == name)
            .and_then(|(count, _)| count.parse().ok())
            .unwrap_or(0)
    })
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(output: &str, succeeded: bool, expected: Expect) {
        let mut tally = Tally::default();
        output.lines().for_each(|line| tally.line(line));
        tally.end(succeeded, 0);
        expected.assert_eq(&tally.to_string());
    }

    #[test]
    fn sums_binaries_and_doc_tests() {
        check(
            "     Running unittests src/lib.rs (target/debug/deps/core-1)\n\
             test a ... ok\n\
             test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
             \x20  Doc-tests core\n\
             test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n",
            true,
            expect!["5 passed, 0 failed, 1 skipped"],
        );
    }

    #[test]
    fn a_skipped_test_is_not_a_passed_one_and_counts_once() {
        check(
            "Running tests/kernel.rs (k)\n\
             skipped: loads_programs: needs root\n\
             test attaches ... skipped: attaches: needs root\n\
             skipped: attaches: needs root\n\
             test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured\n",
            true,
            expect!["1 passed, 0 failed, 2 skipped"],
        );
    }

    #[test]
    fn a_failed_test_counts_once_and_so_does_a_failed_build() {
        check(
            "Running a (a)\ntest result: FAILED. 1 passed; 2 failed; 0 ignored\nerror: test failed\n",
            false,
            expect!["1 passed, 2 failed, 0 skipped"],
        );
        check("error[E0425]: cannot find value\n", false, expect!["0 passed, 1 failed, 0 skipped"]);
    }

    #[test]
    fn what_failed_tests_printed_is_kept_and_nothing_else() {
        let mut tally = Tally::default();
        let output = "Running a (a)\ntest x ... FAILED\n\nsuccesses:\n\n---- y stdout ----\nwell\n\nfailures:\n\n---- x stdout ----\n\
                      Error: gone\n\nfailures:\n    x\n\ntest result: FAILED. 1 passed; 1 failed; 0 ignored\nerror: test failed\n";
        output.lines().for_each(|line| tally.line(line));
        assert_eq!(tally.failures, ["", "---- x stdout ----", "Error: gone", ""]);
    }

    #[test]
    fn failed_tests_of_whole_worlds_are_known_by_name_and_others_are_not() {
        let mut tally = Tally::default();
        let output = |path: &str| {
            format!(
                "     Running {path}\ntest a::x ... FAILED\n\nfailures:\n\n---- a::x stdout ----\n    indented\n\nfailures:\n    a::x\n    b::y\n\n\
                 test result: FAILED. 1 passed; 2 failed; 0 ignored\n"
            )
        };
        for path in [
            "tests/cluster/main.rs (target/debug/deps/cluster-12)",
            "tests/scenarios/main.rs (target/debug/deps/scenarios-12)",
            "unittests src/lib.rs (target/debug/deps/mesh_core-12)",
        ] {
            output(path).lines().for_each(|line| tally.line(line));
        }
        let known: Vec<String> =
            tally.worlds.iter().map(|(program, name)| format!("{} {name}", program.display())).collect();
        assert_eq!(
            known,
            ["cluster-12 a::x", "cluster-12 b::y", "scenarios-12 a::x", "scenarios-12 b::y"]
                .map(|id| format!("target/debug/deps/{id}"))
        );
        assert_eq!(tally.scenarios.as_deref(), Some(Path::new("target/debug/deps/scenarios-12")));
        tally.forgive("a::x".into());
        expect!["4 passed, 5 failed, 0 skipped"].assert_eq(&tally.to_string());
    }

    #[test]
    fn a_crashed_binary_is_a_failure_even_beside_failed_ones() {
        check(
            "Running a (a)\ntest x ... \nerror: signal: 11\n\
             Running b (b)\ntest result: FAILED. 0 passed; 1 failed; 0 ignored\n",
            false,
            expect!["0 passed, 2 failed, 0 skipped"],
        );
    }

    #[test]
    fn forbidden_skips_become_failures_and_ignored_tests_stay_skipped() {
        let mut tally = Tally::default();
        for line in ["Running a (a)", "skipped: no cgroup2", "test result: ok. 2 passed; 0 failed; 1 ignored"] {
            tally.line(line);
        }
        tally.forbid_skips();
        expect!["1 passed, 1 failed, 1 skipped"].assert_eq(&tally.to_string());
    }
}
