//! Expressions of CEL in a model: what is one, for the controller that reports what is none and for the waypoint that evaluates it.

use std::thread;

use cel::common::ast::Expr;
use cel::{IdedExpr, Program};

/// Longest expression, in bytes.
pub const LONGEST: usize = 4 << 10;
/// Operations within one another. Evaluation goes as deep, on the stack of whoever asks.
pub const DEEPEST: usize = 32;
/// For reading an expression, which goes deeper than what is taken of it.
const STACK: usize = 64 << 20;

/// # Errors
/// It is no expression of CEL, or none that is taken; the text says why.
pub fn parse(source: &str) -> Result<Program, String> {
    if source.len() > LONGEST {
        return Err(format!("it has more than {LONGEST} bytes"));
    }
    // What the parser makes of somebody's text must not end who reads the configuration: neither a panic nor its recursion.
    thread::scope(|scope| {
        let read = || {
            let program = Program::compile(source).map_err(|error| error.to_string())?;
            is_taken(&program.expression().expr, DEEPEST)
                .then_some(program)
                .ok_or_else(|| format!("it goes deeper than {DEEPEST}, or has a loop"))
        };
        let reading = thread::Builder::new().stack_size(STACK).spawn_scoped(scope, read);
        let read = reading.map_err(|error| error.to_string())?.join();
        read.unwrap_or_else(|_| Err("it cannot be read".to_owned()))
    })
}

/// Whether an expression is at most so deep, and ends in time whatever it is about: there are no loops in it, as in the reference.
fn is_taken(expression: &Expr, deepest: usize) -> bool {
    let Some(left) = deepest.checked_sub(1) else { return false };
    let all = |mut parts: std::slice::Iter<'_, IdedExpr>| parts.all(|part| is_taken(&part.expr, left));
    match expression {
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => true,
        Expr::Select(select) => is_taken(&select.operand.expr, left),
        Expr::List(list) => all(list.elements.iter()),
        Expr::Call(call) => {
            call.target.as_ref().is_none_or(|target| is_taken(&target.expr, left)) && all(call.args.iter())
        }
        Expr::Map(_) | Expr::Struct(_) | Expr::Comprehension(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_expression_or_too_deep_is_refused() {
        let deep = |part: &str, times: usize, rest: &str| format!("{}{rest}", part.repeat(times));
        for expression in [
            String::new(),
            "response.code >=".to_owned(),
            "a b".to_owned(),
            "[1, 2].all(x, x > 0)".to_owned(),
            deep("(", LONGEST, ""),
            deep("(", LONGEST / 2 - 1, &format!("1{}", ")".repeat(LONGEST / 2 - 1))),
            deep("[", LONGEST / 2 - 1, &"]".repeat(LONGEST / 2 - 1)),
            deep("1+", LONGEST / 2 - 1, "1"),
            deep("a.", LONGEST / 2 - 1, "a"),
            deep("a?b:", LONGEST / 4 - 1, "c"),
            deep("f(", LONGEST / 3 - 1, &format!("1{}", ")".repeat(LONGEST / 3 - 1))),
            deep("1+", LONGEST, "1"),
        ] {
            assert!(parse(&expression).is_err(), "{expression}");
        }
        for expression in ["response.code >= 400", "'x' in request.headers", "size([1, 2]) > 1 ? 'a' : 'b'"] {
            assert!(parse(expression).is_ok(), "{expression}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_written_is_read_or_refused(source in "[a-z0-9.()'\"\\[\\]{}&|!<>=+*?:, -]{0,40}", other: String) {
            let _ = (parse(&source), parse(&other));
        }
    }
}
