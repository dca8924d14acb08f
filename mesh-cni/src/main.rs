//! The program that container runtimes call, by its name `weft-cni`. Standard output is for results and errors alone.

use std::io::{Read, Write};
use std::process::ExitCode;

use mesh_cni::call::Environment;
use mesh_cni::run::run;

/// Longest network configuration that is read, in bytes.
const MOST: u64 = 16 << 20;

fn main() -> ExitCode {
    let mut bytes = Vec::new();
    // What is lacking of it is found when it is read.
    let _ = std::io::stdin().take(MOST).read_to_end(&mut bytes);
    let stdin = String::from_utf8_lossy(&bytes);
    let output = run(&Environment::of_process(), &stdin, &mut |line| eprintln!("{line}"));
    let printed = std::io::stdout().write_all(output.stdout.as_bytes());
    match output.is_success && printed.is_ok() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
