use std::collections::BTreeMap;

use super::*;

const OURS: &str = r#"{"type":"weft-cni"}"#;
const LIST: &str = "{\"cniVersion\": \"1.0.0\", \"name\": \"net\", \"plugins\": [\n  {\"type\": \"bridge\"}\n]}\n";
const SINGLE: &str = "{\"cniVersion\": \"0.4.0\", \"name\": \"net\", \"type\": \"bridge\"}\n";

/// A node's folders.
struct Node {
    dir: tempfile::TempDir,
}

impl Node {
    fn with(files: &[(&str, &str)]) -> Self {
        let node = Self { dir: tempfile::tempdir().unwrap() };
        for folder in ["net.d", "bin"] {
            fs::create_dir(node.dir.path().join(folder)).unwrap();
        }
        for (name, text) in files {
            node.write(name, text);
        }
        node
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.conf().join(name), text).unwrap();
    }

    fn conf(&self) -> PathBuf {
        self.dir.path().join("net.d")
    }

    fn bin(&self) -> PathBuf {
        self.dir.path().join("bin")
    }

    fn configure(&self) -> Result<(String, bool), String> {
        let done = configure(&self.conf(), OURS).map_err(|error| error.to_string())?;
        Ok((done.0.file_name().unwrap().to_string_lossy().into_owned(), done.1))
    }

    /// Every file below the folder of configurations.
    fn tree(&self) -> BTreeMap<String, String> {
        let mut tree = BTreeMap::new();
        for folder in [self.conf(), self.conf().join(FOLDER)] {
            for path in files(&folder).unwrap_or_default() {
                let name = path.strip_prefix(self.conf()).unwrap().display().to_string();
                tree.insert(name, fs::read_to_string(&path).unwrap());
            }
        }
        tree
    }
}

#[test]
fn the_first_configuration_gets_the_plugin_once_and_loses_it_again() {
    let files = [("10-net.conflist", LIST), ("20-other.conflist", LIST), ("00-notes.txt", "no configuration")];
    let node = Node::with(&files);
    let before = node.tree();
    assert_eq!(node.configure(), Ok(("10-net.conflist".to_owned(), true)));
    assert_eq!(node.configure(), Ok(("10-net.conflist".to_owned(), false)));
    let after = node.tree();
    assert!(after["10-net.conflist"].contains("weft-cni") && !after["20-other.conflist"].contains("weft-cni"));
    remove(&node.conf(), &node.bin()).unwrap();
    assert_eq!(node.tree(), before);
    remove(&node.conf(), &node.bin()).unwrap();
}

#[test]
fn a_single_configuration_is_kept_aside_and_comes_back() {
    let node = Node::with(&[("10-net.conf", SINGLE), ("10-net.conflist", LIST)]);
    let before = node.tree();
    assert_eq!(node.configure(), Ok(("10-net.conf.conflist".to_owned(), true)));
    assert_eq!(node.configure(), Ok(("10-net.conf.conflist".to_owned(), false)), "the list is the first now");
    assert_eq!(node.tree()["weft.d/10-net.conf"], SINGLE);
    // Its owner writes it again.
    let changed = SINGLE.replace("0.4.0", "1.0.0");
    node.write("10-net.conf", &changed);
    assert_eq!(node.configure(), Ok(("10-net.conf.conflist".to_owned(), true)));
    assert!(node.tree()["10-net.conf.conflist"].contains("1.0.0"));
    remove(&node.conf(), &node.bin()).unwrap();
    assert_eq!(
        node.tree(),
        BTreeMap::from([
            ("10-net.conf".to_owned(), changed),
            ("10-net.conflist".to_owned(), before["10-net.conflist"].clone())
        ])
    );
}

#[test]
fn what_is_no_configuration_is_left_alone() {
    let node = Node::with(&[]);
    assert!(node.configure().unwrap_err().contains("there is no network configuration in"));
    node.write("10-net.conflist", "half a");
    assert!(node.configure().unwrap_err().contains("10-net.conflist: not a network configuration"));
    assert_eq!(node.tree(), BTreeMap::from([("10-net.conflist".to_owned(), "half a".to_owned())]));
}

#[test]
fn the_program_is_replaced_only_by_another() {
    let node = Node::with(&[]);
    let program = node.dir.path().join("mesh-cni");
    fs::write(&program, "one").unwrap();
    assert!(place(&program, &node.bin()).unwrap());
    assert!(!place(&program, &node.bin()).unwrap());
    fs::write(&program, "two").unwrap();
    assert!(place(&program, &node.bin()).unwrap());
    let placed = node.bin().join(TYPE);
    assert_eq!((fs::read_to_string(&placed).unwrap().as_str(), mode(&placed)), ("two", 0o755));
    remove(&node.conf(), &node.bin()).unwrap();
    assert_eq!(files(&node.bin()).unwrap(), Vec::<PathBuf>::new());
}

#[test]
fn a_disk_that_is_full_leaves_the_old_file_whole() {
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: a_disk_that_is_full_leaves_the_old_file_whole: root");
        return;
    }
    let node = Node::with(&[]);
    let conf = node.conf();
    // In a mount namespace of this thread alone, a file system of two pages.
    let tried = std::thread::spawn(move || {
        let none = None::<&str>;
        unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).unwrap();
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        mount(Some("tmpfs"), &conf, Some("tmpfs"), MsFlags::empty(), Some("size=8k")).unwrap();
        let long = LIST.replace("bridge", &"b".repeat(3000));
        fs::write(conf.join("10-net.conflist"), &long).unwrap();
        fs::write(conf.join("other"), "x".repeat(4096)).unwrap();
        let error = configure(&conf, OURS).unwrap_err().to_string();
        let count = files(&conf).unwrap().len();
        (error, count, fs::read_to_string(conf.join("10-net.conflist")).unwrap() == long)
    });
    let (error, count, is_whole) = tried.join().unwrap();
    assert!(error.contains("write") && error.contains("No space left"), "{error}");
    assert_eq!(count, 2, "nothing half is left beside it");
    assert!(is_whole);
}
