//! Laws of the model, tried on generated values.

mod generate;
mod policy;
mod snapshot;
mod wire;

/// So many cases, or as many as a longer run asks for by `PROPTEST_CASES`.
fn cases(usual: u32) -> proptest::test_runner::Config {
    let asked = proptest::test_runner::Config::default();
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => asked,
        None => proptest::test_runner::Config { cases: usual, ..asked },
    }
}
