//! Holds what ARCHITECTURE.md promises about the source: each rule is a pure function from text to findings, a test
//! that runs it over the tree, and a test that feeds it a bad sample, so that a rule which cannot fail is noticed.

mod floors;
mod module_order;
mod purity;
mod unsafe_rooms;
mod names;
mod generated;
mod source;

use source::tree;

#[track_caller]
fn none(findings: Vec<String>) {
    assert!(findings.is_empty(), "\n  {}\n", findings.join("\n  "));
}

#[test]
fn crates_see_only_the_floors_below_them() {
    none(floors::findings(&source::manifests()));
}

#[test]
fn modules_use_only_modules_listed_below_them() {
    let mut seen = 0;
    let mut findings = Vec::new();
    for root in source::crate_roots() {
        seen += 1;
        findings.extend(module_order::findings(&root));
    }
    assert!(seen >= 7, "found only {seen} crate roots");
    none(findings);
}

#[test]
fn the_pure_crates_touch_no_socket_clock_or_task() {
    for root in ["mesh-core/src", "mesh-analysis/src"] {
        none(tree(root).iter().flat_map(purity::findings).collect());
    }
}

#[test]
fn unsafe_stays_in_its_rooms() {
    none(tree(".").iter().flat_map(unsafe_rooms::findings).collect());
}

#[test]
fn files_are_named_after_one_idea() {
    none(tree(".").iter().flat_map(names::findings).collect());
}

#[test]
fn every_scenario_file_is_listed_so_that_it_runs() {
    none(names::unlisted_scenarios(&tree("tests/scenarios")));
}

#[test]
fn generated_files_are_committed() {
    let Some(tracked) = source::tracked() else {
        println!("skipped: generated_files_are_committed: not a git checkout");
        return;
    };
    none(generated::findings(&tree("."), &tracked));
}

#[test]
fn nothing_large_is_committed() {
    let Some(tracked) = source::tracked() else {
        println!("skipped: nothing_large_is_committed: not a git checkout");
        return;
    };
    none(generated::large(&source::sizes(&tracked)));
}

/// A warning, not a rule: the list is there to be looked at.
#[test]
fn long_files_are_listed() {
    for line in names::long(&tree(".")) {
        println!("long: {line}");
    }
}
