use expect_test::{Expect, expect};
use serde_json::json;

use super::*;

/// Steps as words: `[` and `]` are a list's begin and end, `a` a namespace in it or changed, `-a` one deleted, `!a` one
/// that cannot be read, `?` something that does not say what it is.
fn check(steps: &str, expect: Expect) {
    let mut ledger = Ledger::new(Kind::Namespace);
    let (mut lines, mut in_list) = (String::new(), false);
    for word in steps.split_whitespace() {
        let step = match word {
            "[" => Step::List,
            "]" => Step::ListEnd,
            "?" => Step::Listed(json!({"apiVersion": "v1", "kind": "Namespace"})),
            _ => match word.strip_prefix('-') {
                Some(name) => Step::Deleted(namespace(name)),
                None if in_list => Step::Listed(namespace(word)),
                None => Step::Changed(namespace(word)),
            },
        };
        in_list = word == "[" || in_list && word != "]";
        let mut events = Vec::new();
        let next = ledger.take(step, &mut events);
        for event in &events {
            match event {
                Event::Apply(object) => lines += &format!("{word}: apply {}\n", object.key().name),
                Event::Delete(key) => lines += &format!("{word}: delete {}\n", key.name),
                event => panic!("{event:?}"),
            }
        }
        if next == Next::ListAgain {
            lines += &format!("{word}: list again, {} in doubt\n", ledger.doubted());
        }
    }
    for finding in ledger.findings() {
        lines += &format!("{finding}\n");
    }
    expect.assert_eq(&lines);
}

fn namespace(name: &str) -> Value {
    let (name, labels) = match name.strip_prefix('!') {
        Some(name) => (name, json!(7)),
        None => (name, json!({})),
    };
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
}

#[test]
fn little_that_is_missing_from_a_list_is_gone() {
    check(
        "[ a b c ] [ a b ]",
        expect![[r#"
            a: apply a
            b: apply b
            c: apply c
            a: apply a
            b: apply b
            ]: delete c
        "#]],
    );
}

#[test]
fn an_empty_list_removes_nothing_until_a_second_one_is_empty_too() {
    check(
        "[ a b ] [ ]",
        expect![[r#"
            a: apply a
            b: apply b
            ]: list again, 2 in doubt
        "#]],
    );
    check(
        "[ a b ] [ ] [ a b ]",
        expect![[r#"
            a: apply a
            b: apply b
            ]: list again, 2 in doubt
            a: apply a
            b: apply b
        "#]],
    );
    check(
        "[ a b ] [ ] [ ]",
        expect![[r#"
            a: apply a
            b: apply b
            ]: list again, 2 in doubt
            ]: delete a
            ]: delete b
        "#]],
    );
}

#[test]
fn more_than_half_missing_is_as_suspicious_and_a_second_list_confirms_what_it_lacks_too() {
    check(
        "[ a b c d ] [ a ] [ b ]",
        expect![[r#"
            a: apply a
            b: apply b
            c: apply c
            d: apply d
            a: apply a
            ]: list again, 3 in doubt
            b: apply b
            ]: delete c
            ]: delete d
            ]: delete a
        "#]],
    );
}

#[test]
fn a_list_with_something_unreadable_in_it_removes_nothing() {
    check(
        "[ a b c d ] [ a b c ? ]",
        expect![[r#"
            a: apply a
            b: apply b
            c: apply c
            d: apply d
            a: apply a
            b: apply b
            c: apply c
            ]: list again, 1 in doubt
        "#]],
    );
}

#[test]
fn a_list_that_breaks_off_removes_nothing() {
    check(
        "[ a b ] [ a [ a b ]",
        expect![[r#"
            a: apply a
            b: apply b
            a: apply a
            a: apply a
            b: apply b
        "#]],
    );
}

#[test]
fn an_object_that_cannot_be_read_leaves_its_last_good_version_in_force() {
    check(
        "[ a !b ] !a -b",
        expect![[r#"
            a: apply a
            -b: delete b
            error refused: Namespace a: metadata.labels: invalid type: integer `7`, expected a map
        "#]],
    );
    check(
        "[ a ] !a a",
        expect![[r#"
            a: apply a
            a: apply a
        "#]],
    );
    check(
        "[ a ] !a -a",
        expect![[r#"
            a: apply a
            -a: delete a
        "#]],
    );
}

#[test]
fn what_was_never_there_is_not_deleted() {
    check("[ ] -a", expect![""]);
}
