//! Builds the eBPF programs and hands their object to `ebpf/object.rs`, so that the agent is one file.
//!
//! Set `WEFT_EBPF_OBJECT` to use an object that was built elsewhere, for instance on a machine with bpf-linker.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

fn main() {
    println!("cargo::rerun-if-env-changed=WEFT_EBPF_OBJECT");
    let object = match env::var_os("WEFT_EBPF_OBJECT") {
        Some(path) => {
            println!("cargo::rerun-if-changed={}", Path::new(&path).display());
            PathBuf::from(path)
        }
        None => build(),
    };
    let object = object.canonicalize().unwrap_or_else(|error| fail(&format!("{}: {error}", object.display())));
    let lean = PathBuf::from(variable("OUT_DIR")).join("weft-ebpf");
    let bytes = fs::read(&object).unwrap_or_else(|error| fail(&format!("{}: {error}", object.display())));
    let bytes = without_dwarf(&bytes).unwrap_or_else(|error| fail(&format!("{}: {error}", object.display())));
    fs::write(&lean, bytes).unwrap_or_else(|error| fail(&format!("{}: {error}", lean.display())));
    println!("cargo::rustc-env=WEFT_EBPF_OBJECT_BUILT={}", lean.display());
}

/// Leaves out what only a debugger reads: nine tenths of the object, and of the time to parse it (10 ms where aya-obj is
/// not optimised). BTF, made from it, stays: the verifier quotes source lines by it.
fn without_dwarf(object: &[u8]) -> object::build::Result<Vec<u8>> {
    let mut builder = object::build::elf::Builder::read(object)?;
    for section in &mut builder.sections {
        let name = section.name.as_slice();
        section.delete = name.starts_with(b".debug_") || name.starts_with(b".rel.debug_");
    }
    builder.delete_orphans();
    // LLVM keeps all names in .strtab; the builder keeps those of sections apart.
    let names = builder.sections.add();
    names.name = b".shstrtab"[..].into();
    names.sh_type = object::elf::SHT_STRTAB;
    names.sh_addralign = 1;
    names.data = object::build::elf::SectionData::SectionString;
    let mut lean = Vec::new();
    builder.write(&mut lean)?;
    Ok(lean)
}

fn build() -> PathBuf {
    let here = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    let workspace = here.parent().unwrap_or_else(|| fail("mesh-node lies in no workspace"));
    for source in ["mesh-ebpf/src", "mesh-ebpf/Cargo.toml"] {
        println!("cargo::rerun-if-changed={}", workspace.join(source).display());
    }
    if !runs("bpf-linker", &["--version"]) {
        fail("bpf-linker is missing: run `cargo xtask setup`");
    }
    let rustc = env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let sysroot = Command::new(&rustc).args(["--print", "sysroot"]).output();
    let sysroot = sysroot.unwrap_or_else(|error| fail(&format!("{rustc}: {error}"))).stdout;
    let sysroot = PathBuf::from(String::from_utf8_lossy(&sysroot).trim());
    if !sysroot.join("lib/rustlib/src/rust/library/core").exists() {
        fail("the rust-src component is missing: run `cargo xtask setup`");
    }

    // A target folder apart from the workspace's, whose lock the outer cargo holds, and kept between builds.
    let target = match env::var_os("CARGO_TARGET_DIR") {
        Some(target) => workspace.join(target).join("ebpf"),
        None => workspace.join("target/ebpf"),
    };
    let mut cargo = Command::new(variable("CARGO"));
    cargo.current_dir(workspace).args(["build", "--package", "mesh-ebpf", "--bin", "weft-ebpf", "--release"]);
    cargo
        .args(["--target", TARGET, "-Z", "build-std=core", "-Z", "trim-paths", "--locked"])
        .arg("--target-dir")
        .arg(&target);
    // What the outer cargo set for this build is meant for the host.
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let host =
            ["CARGO_ENCODED_RUSTFLAGS", "RUSTFLAGS", "RUSTC", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "TARGET"];
        if host.contains(&&*text) || text.starts_with("CARGO_PROFILE_") || text.starts_with("CARGO_FEATURE_") {
            cargo.env_remove(&name);
        }
    }
    // build-std on a stable toolchain; only for this build.
    cargo.env("RUSTC_BOOTSTRAP", "1");
    cargo.env("RUSTFLAGS", "-C linker=bpf-linker -C link-arg=--btf -C debuginfo=2");
    // More than one codegen unit does not link; anything less than full optimisation does not verify.
    cargo.env("CARGO_PROFILE_RELEASE_LTO", "fat").env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1");
    cargo.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "3").env("CARGO_PROFILE_RELEASE_DEBUG", "2");
    cargo.env("CARGO_PROFILE_RELEASE_PANIC", "abort").env("CARGO_PROFILE_RELEASE_STRIP", "none");
    // Names of files in BTF: those of this machine would make each checkout's agent another one.
    cargo.env("CARGO_PROFILE_RELEASE_TRIM_PATHS", "all");
    let status = cargo.status().unwrap_or_else(|error| fail(&format!("cargo: {error}")));
    if !status.success() {
        fail("the eBPF programs did not build; the compiler's own words are above");
    }
    target.join(TARGET).join("release/weft-ebpf")
}

fn runs(program: &str, arguments: &[&str]) -> bool {
    Command::new(program)
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|error| fail(&format!("{name}: {error}")))
}

fn fail(message: &str) -> ! {
    println!("cargo::error={message}");
    std::process::exit(1)
}

const TARGET: &str = "bpfel-unknown-none";
