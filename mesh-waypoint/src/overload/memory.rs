//! How much memory there is for this process, and how much of it is in use.

use std::fs;
use std::path::Path;

/// Bytes that this process may have: of `memory.max` of its cgroup and of those above (cgroup v2) the least, else all that the machine has.
/// `None`: the kernel does not say.
pub fn limit() -> Option<u64> {
    let read = |path: &Path| fs::read_to_string(path).ok();
    let own = read(Path::new("/proc/self/cgroup")).and_then(|groups| least(&groups, read));
    let all = || read(Path::new("/proc/meminfo")).and_then(|text| kib(&text, "MemTotal:"));
    own.or_else(all)
}

/// Bytes of this process that are in memory.
pub(super) fn resident() -> Option<u64> {
    fs::read_to_string("/proc/self/status").ok().and_then(|text| kib(&text, "VmRSS:"))
}

/// Of `/proc/self/cgroup`.
fn least(groups: &str, read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let own = Path::new("/sys/fs/cgroup").join(own);
    let limits = own.ancestors().take_while(|group| group.starts_with("/sys/fs/cgroup"));
    limits.filter_map(|group| read(&group.join("memory.max"))?.trim().parse().ok()).min()
}

/// The number behind a word at the beginning of a line, which is in KiB, as bytes.
fn kib(text: &str, word: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(word))?;
    rest.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_of_all_limits_holds() {
        let files = [("/sys/fs/cgroup/a/b", "max\n"), ("/sys/fs/cgroup/a", "1000\n"), ("/sys/fs/cgroup/c", "7\n")];
        let read = |path: &Path| {
            let found = files.iter().find(|(group, _)| Path::new(group).join("memory.max") == path);
            found.map(|(_, text)| (*text).to_owned())
        };
        for (groups, limit) in [
            ("0::/a/b\n", Some(1000)),
            ("1:name=systemd:/x\n0::/a\n", Some(1000)),
            ("0::/c\n", Some(7)),
            ("0::/\n", None),
            ("0::/elsewhere\n", None),
            ("4:memory:/a\n", None),
            ("", None),
        ] {
            assert_eq!(least(groups, read), limit, "{groups:?}");
        }
    }

    #[test]
    fn what_the_kernel_says_is_read() {
        let status = "Name:\tx\nVmHWM:\t   90 kB\nVmRSS:\t   16 kB\nVmData: 7\n";
        for (word, bytes) in [("VmRSS:", Some(16 << 10)), ("VmData:", None), ("VmSwap:", None)] {
            assert_eq!(kib(status, word), bytes, "{word}");
        }
        assert!(limit().is_some_and(|limit| resident().is_some_and(|resident| resident < limit)));
    }
}
