//! Finds out what this machine lacks and installs it.
//!
//! Nothing is installed that was not named before, with its reason. When nothing is missing this costs a few stats and
//! two quick programs (`rustc --print sysroot`, `bpf-linker --version`), so that `test` and `demo` call it every time.

mod needs;

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use nix::unistd::geteuid;
use xtask::target;

use crate::child;
use crate::setup::needs::{BPF_LINKER, NEEDS, Need, Provider, Sign};

/// What a need is needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Any build
    Build,
    /// Building the eBPF object
    Ebpf,
    /// Running scenarios, the demo and the bench
    Mesh,
    /// What tests alone run
    Tests,
}

impl Purpose {
    pub(crate) const ALL: [Purpose; 4] = [Purpose::Build, Purpose::Ebpf, Purpose::Mesh, Purpose::Tests];
    pub(crate) const RUN: [Purpose; 3] = [Purpose::Build, Purpose::Ebpf, Purpose::Mesh];
}

/// Reports what is missing; exit status 1 when anything is.
pub(crate) fn check(purposes: &[Purpose]) -> ExitCode {
    let missing = missing(purposes);
    if missing.is_empty() {
        println!("nothing is missing");
        return ExitCode::SUCCESS;
    }
    report(&missing);
    ExitCode::FAILURE
}

/// Installs what is missing, or fails and prints the line that would.
pub(crate) fn ensure(purposes: &[Purpose]) -> Result<()> {
    let missing = missing(purposes);
    if missing.is_empty() {
        return Ok(());
    }
    report(&missing);

    let packages: Vec<&Need> = missing.iter().copied().filter(|need| need.provider == Provider::Packages).collect();
    if !packages.is_empty() {
        install_packages(&packages)?;
    }
    let components: Vec<&str> =
        missing.iter().filter(|need| need.provider == Provider::Rustup).map(|need| need.name).collect();
    if !components.is_empty() {
        if program("rustup").is_none() {
            bail!("without rustup, install these with your Rust toolchain: {}", components.join(" "));
        }
        announced(Command::new("rustup").args(["component", "add"]).args(&components))?;
    }
    if missing.iter().any(|need| need.provider == Provider::BpfLinker) {
        let mut install = child::cargo(&["install", "bpf-linker", "--version", BPF_LINKER, "--locked", "--force"]);
        install.args(["--no-default-features", "--features", "llvm-22"]).env("LLVM_PREFIX", "/usr/lib/llvm-22");
        announced(&mut install)?;
    }

    for download in missing.iter().filter_map(|need| need.download()) {
        if let Err(error) = download.fetch() {
            println!("without {}: {error:#}", download.name);
        }
    }

    let mut still = self::missing(purposes);
    still.retain(|need| need.provider != Provider::Download);
    if !still.is_empty() {
        report(&still);
        bail!("still missing after the installation");
    }
    Ok(())
}

fn missing(purposes: &[Purpose]) -> Vec<&'static Need> {
    let mut missing: Vec<&Need> =
        NEEDS.iter().filter(|need| purposes.contains(&need.purpose) && !is_there(&need.sign)).collect();
    // LLVM's headers only serve to build bpf-linker.
    if !missing.iter().any(|need| need.provider == Provider::BpfLinker) {
        missing.retain(|need| !need.only_for_linker);
    }
    missing
}

fn is_there(sign: &Sign) -> bool {
    match sign {
        Sign::Program(name) => program(name).is_some(),
        Sign::AnyProgram(names) => names.iter().any(|name| program(name).is_some()),
        Sign::AllPrograms(names) => names.iter().all(|name| program(name).is_some()),
        Sign::File(pattern) => Path::new(pattern).exists(),
        Sign::AnyFile(paths) => paths.iter().any(|path| Path::new(path).exists()),
        Sign::InSysroot(path) => sysroot().is_some_and(|sysroot| sysroot.join(path).exists()),
        Sign::Download(download) => download.is_there(),
        // Asked, not looked up: it may be there and not run, when LLVM's library was upgraded away.
        Sign::BpfLinker => Command::new("bpf-linker")
            .arg("--version")
            .stderr(Stdio::null())
            .output()
            .is_ok_and(|output| output.stdout.starts_with(format!("bpf-linker {BPF_LINKER}").as_bytes())),
    }
}

/// Finds `name` where a login shell and root would.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0))
}

/// Where the toolchain is.
pub(crate) fn sysroot() -> Option<PathBuf> {
    let output = Command::new("rustc").args(["--print", "sysroot"]).current_dir(target::ROOT).output().ok()?;
    Some(PathBuf::from(String::from_utf8(output.stdout).ok()?.trim()))
}

fn report(missing: &[&Need]) {
    println!("missing on this machine:");
    for need in missing {
        println!("  {:<16} {}", need.name, need.why);
    }
}

fn install_packages(needs: &[&Need]) -> Result<()> {
    let names = |column: fn(&Need) -> &'static str| -> Vec<&'static str> {
        needs
            .iter()
            .flat_map(|need| column(need).split(' '))
            .filter(|name| !name.is_empty())
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect()
    };
    let Some(apt) = program("apt-get") else {
        let line = if program("dnf").is_some() {
            format!("sudo dnf install {}", names(|need| need.dnf).join(" "))
        } else if program("pacman").is_some() {
            format!("sudo pacman -S --needed {}", names(|need| need.pacman).join(" "))
        } else if program("apk").is_some() {
            format!("sudo apk add {}", names(|need| need.apk).join(" "))
        } else {
            bail!("no package manager that is known here; install the programs listed above");
        };
        bail!("install them, then run this again:\n\n  {line}\n");
    };
    let packages = names(|need| need.apt);
    let as_root = || {
        let mut command = if geteuid().is_root() {
            Command::new("env")
        } else {
            let mut sudo = Command::new("sudo");
            sudo.arg("env");
            sudo
        };
        // RUNLEVEL: invoke-rc.d then believes in single-user mode and starts no service.
        command.args(["DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1"]).arg(&apt);
        command
    };
    if !geteuid().is_root() && program("sudo").is_none() {
        bail!("install them as root, then run this again:\n\n  apt-get install {}\n", packages.join(" "));
    }
    // Stale lists name versions that mirrors no longer hold. Offline, a package cache may still do.
    if announced(as_root().arg("update")).is_err() {
        println!("apt-get update failed; trying with the lists that are there");
    }
    let services_stay_off = ServicesStayOff::begin()?;
    let installed = announced(as_root().args(["install", "--yes", "--no-install-recommends"]).args(&packages));
    drop(services_stay_off);
    if Path::new("/run/systemd/system").exists() && packages.iter().any(|name| SERVICES.contains(name)) {
        println!(
            "redis-server and nginx are not running, but start at the next boot; if that is not wanted:\n  \
             sudo systemctl disable redis-server nginx"
        );
    }
    installed.with_context(|| {
        if packages.iter().any(|name| name.starts_with("llvm-22")) {
            "install packages; where the distribution has no LLVM 22, add the repository of apt.llvm.org first"
        } else {
            "install packages"
        }
    })
}

fn announced(command: &mut Command) -> Result<()> {
    println!("> {}", child::line(command));
    child::succeed(command)
}

/// While it lives, no package's script starts a service (invoke-rc.d(8), policy-rc.d). A policy that the machine's owner
/// has set is left alone.
struct ServicesStayOff {
    made: bool,
}

impl ServicesStayOff {
    fn begin() -> Result<ServicesStayOff> {
        let made = geteuid().is_root() && !Path::new(POLICY).exists();
        if made {
            fs::write(POLICY, "#!/bin/sh\nexit 101\n").with_context(|| format!("write {POLICY}"))?;
            fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755))?;
        }
        Ok(ServicesStayOff { made })
    }
}

impl Drop for ServicesStayOff {
    fn drop(&mut self) {
        if self.made
            && let Err(error) = fs::remove_file(POLICY)
        {
            eprintln!("remove {POLICY}: {error}");
        }
    }
}

const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Packages that bring a service along.
const SERVICES: [&str; 2] = ["redis-server", "nginx-light"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_tell_present_from_absent() {
        assert!(is_there(&Sign::Program("sh")));
        assert!(!is_there(&Sign::Program("weft-no-such-program")));
        assert!(is_there(&Sign::AnyProgram(&["weft-no-such-program", "sh"])));
        assert!(is_there(&Sign::AllPrograms(&["sh"])));
        assert!(!is_there(&Sign::AllPrograms(&["weft-no-such-program", "sh"])));
        assert!(is_there(&Sign::File("/proc/self/stat")));
        assert!(!is_there(&Sign::File("/proc/self/weft")));
        assert!(is_there(&Sign::InSysroot("lib")));
        assert!(!is_there(&Sign::InSysroot("weft")));
    }

    /// A machine that has it by chance would hide that a fresh one lacks it.
    #[test]
    fn every_program_that_tests_run_is_installed_by_setup() {
        let mut asked = BTreeSet::new();
        sources(&Path::new(target::ROOT).join("tests"), &mut |text| asked.extend(programs_in(text)));
        for known in ["tcpdump", "redis-benchmark", "pivot_root", "iptables", "grpcio and websockets"] {
            assert!(asked.contains(known), "{known} is run, and not found in the sources: {asked:?}");
        }
        let brought: BTreeSet<&str> = NEEDS.iter().flat_map(|need| need.sign.programs()).chain(PRESENT).collect();
        let lacking: Vec<&String> = asked.iter().filter(|name| !brought.contains(name.as_str())).collect();
        assert!(lacking.is_empty(), "tests run {lacking:?}, which no row of xtask/src/setup/needs.rs brings");
    }

    /// What is on every Linux, what says by itself where it comes from, and what is not meant to be there.
    const PRESENT: [&str; 4] = ["sh", "go", "no-such-program", "weft-no-such-program"];

    /// Hands over every file of Rust below `folder`.
    fn sources(folder: &Path, each: &mut impl FnMut(&str)) {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                sources(&path, each);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                each(&fs::read_to_string(&path).unwrap());
            }
        }
    }

    /// Programs that a source names where it needs, looks for or starts one.
    fn programs_in(text: &str) -> BTreeSet<String> {
        let lists = [("needs!(", ')'), ("const NEEDED: [", ';')];
        let calls = ["Command::new(", ".command(", "find(", "output("];
        let mut found = BTreeSet::new();
        for (begin, end) in lists.into_iter().chain(calls.map(|call| (call, ','))) {
            for (at, _) in text.match_indices(begin) {
                let rest = &text[at + begin.len()..];
                // Not the method of a text, or the end of another name; and the demo's screen is told of a place first.
                let before = text[..at].chars().next_back().unwrap_or(' ');
                let is_other = match begin.starts_with('.') {
                    true => text[..at].ends_with("screen"),
                    false => before == '.' || before == '_' || before.is_alphanumeric(),
                };
                if is_other {
                    continue;
                }
                // Of a list its strings up to the end, of a call what it begins with.
                let rest = match begin {
                    "const NEEDED: [" => rest.split_once('=').map_or("", |(_, list)| list),
                    _ => rest,
                };
                let call = calls.contains(&begin);
                if call && !rest.starts_with('"') {
                    continue;
                }
                let piece = rest.split(if call { ')' } else { end }).next().unwrap_or_default();
                let strings = piece.split('"').skip(1).step_by(2).take(if call { 1 } else { usize::MAX });
                found.extend(strings.filter(|name| !name.contains(['/', '$', '{'])).map(str::to_owned));
            }
        }
        found
    }

    #[test]
    fn every_package_need_says_why_and_where_from() {
        for need in NEEDS {
            assert!(!need.why.is_empty(), "{}", need.name);
            let columns = [need.apt, need.dnf, need.pacman, need.apk];
            assert_eq!(
                need.provider == Provider::Packages,
                columns.iter().all(|names| !names.is_empty()),
                "{}: packages, and only they, have a name in every distribution",
                need.name
            );
        }
    }
}
