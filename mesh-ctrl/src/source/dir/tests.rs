use std::fs;
use std::os::unix::fs::symlink;
use std::time::Instant;

use tempfile::TempDir;
use tokio::time::timeout;

use super::*;

/// A watched folder and what has come of it.
struct Watched {
    dir: TempDir,
    events: mpsc::Receiver<Vec<Event>>,
}

impl Watched {
    /// Fills a folder, watches it and waits for what was there.
    async fn with(fill: impl FnOnce(&Path)) -> (Self, String) {
        let dir = TempDir::new().expect("a temporary directory");
        fill(dir.path());
        Self::over(dir, None).await
    }

    /// Watches a folder and waits for what was there.
    async fn over(dir: TempDir, remember: Option<PathBuf>) -> (Self, String) {
        let (sender, events) = mpsc::channel(64);
        // No rescan comes to the rescue of a missed event within a test.
        let config = Config { rescan: Duration::from_secs(600), remember, ..Config::new(dir.path()) };
        tokio::spawn(watch(config, sender));
        let mut watched = Self { dir, events };
        let mut first = String::new();
        while !first.contains("synced") {
            first.push_str(&watched.next().await);
        }
        (watched, first)
    }

    fn write(&self, path: &str, text: &str) {
        fs::write(self.dir.path().join(path), text).expect("written");
    }

    async fn next(&mut self) -> String {
        let batch = timeout(Duration::from_secs(5), self.events.recv()).await.expect("an event").expect("a watcher");
        let one = |event: Event| match event {
            Event::Apply(object) => format!("apply {}; ", object.key()),
            Event::Delete(key) => format!("delete {key}; "),
            Event::Standing(key, _) => panic!("a folder knows no status of {key}"),
            Event::InitialSynced => "synced; ".to_owned(),
            Event::Findings(findings) => format!("{} findings; ", findings.len()),
        };
        batch.into_iter().map(one).collect()
    }

    /// Whether nothing more comes for a while.
    async fn is_quiet(&mut self) -> bool {
        timeout(Duration::from_millis(100), self.events.recv()).await.is_err()
    }
}

fn namespace(name: &str) -> String {
    format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}, labels: {{l: {name}}}}}}}\n")
}

#[tokio::test]
async fn what_is_there_comes_first_then_edits_within_100_ms() {
    let (mut watched, first) =
        Watched::with(|dir| fs::write(dir.join("a.yaml"), namespace("a")).expect("written")).await;
    assert_eq!(first, "apply Namespace a; synced; ");
    let mut took = Vec::new();
    for i in 0..20 {
        let begin = Instant::now();
        watched.write("a.yaml", &namespace("a").replace("l: a", &format!("l: v{i}")));
        assert_eq!(watched.next().await, "apply Namespace a; ");
        took.push(begin.elapsed());
    }
    took.sort();
    println!("edit to event: median {:?}, worst {:?}", took[10], took[19]);
    assert!(took[10] < Duration::from_millis(100), "{took:?}");
    assert!(watched.is_quiet().await);
}

#[tokio::test]
async fn an_editor_that_renames_over_the_file_is_followed() {
    let (mut watched, _) = Watched::with(|dir| fs::write(dir.join("a.yaml"), namespace("a")).expect("written")).await;
    for i in 0..3 {
        watched.write(".a.yaml.swp", &namespace("a").replace("l: a", &format!("l: v{i}")));
        fs::rename(watched.dir.path().join(".a.yaml.swp"), watched.dir.path().join("a.yaml")).expect("renamed");
        assert_eq!(watched.next().await, "apply Namespace a; ");
    }
    // vim's way: the old file is moved aside, the new one written in its place.
    fs::rename(watched.dir.path().join("a.yaml"), watched.dir.path().join("a.yaml~")).expect("renamed");
    watched.write("a.yaml", &namespace("a").replace("l: a", "l: vim"));
    assert_eq!(watched.next().await, "apply Namespace a; ");
    assert!(watched.is_quiet().await);
}

#[tokio::test]
async fn a_config_map_swap_is_one_batch() {
    let (mut watched, first) = Watched::with(|dir| {
        fs::create_dir(dir.join("..v1")).expect("made");
        fs::write(dir.join("..v1/a.yaml"), namespace("a")).expect("written");
        symlink("..v1", dir.join("..data")).expect("linked");
        symlink("..data/a.yaml", dir.join("a.yaml")).expect("linked");
    })
    .await;
    assert_eq!(first, "apply Namespace a; synced; ");
    for (i, version) in ["..v2", "..v3"].into_iter().enumerate() {
        let dir = watched.dir.path();
        fs::create_dir(dir.join(version)).expect("made");
        fs::write(dir.join(version).join("a.yaml"), namespace("a").replace("l: a", &format!("l: v{i}")))
            .expect("written");
        symlink(version, dir.join("..data_tmp")).expect("linked");
        fs::rename(dir.join("..data_tmp"), dir.join("..data")).expect("swapped");
        assert_eq!(watched.next().await, "apply Namespace a; ");
    }
    assert!(watched.is_quiet().await);
}

#[tokio::test]
async fn new_directories_are_watched_and_removed_ones_forgotten() {
    let (mut watched, _) = Watched::with(|_| {}).await;
    fs::create_dir_all(watched.dir.path().join("x/y")).expect("made");
    watched.write("x/y/a.yaml", &namespace("a"));
    assert_eq!(watched.next().await, "apply Namespace a; ");
    watched.write("x/y/a.yaml", &namespace("b"));
    let mut seen = watched.next().await;
    if !seen.contains("delete") {
        seen.push_str(&watched.next().await);
    }
    assert!(seen.contains("apply Namespace b") && seen.contains("delete Namespace a"), "{seen}");
    fs::rename(watched.dir.path().join("x"), watched.dir.path().join("z")).expect("renamed");
    assert!(watched.is_quiet().await, "the same object under another path is no change");
    watched.write("z/y/a.yaml", &namespace("b").replace("l: b", "l: moved"));
    assert_eq!(watched.next().await, "apply Namespace b; ");
    fs::remove_dir_all(watched.dir.path().join("z")).expect("removed");
    assert_eq!(watched.next().await, "delete Namespace b; ");
}

#[tokio::test]
async fn a_file_being_written_is_left_alone_until_it_is_closed() {
    use std::io::Write;
    let (mut watched, _) = Watched::with(|dir| fs::write(dir.join("a.yaml"), namespace("a")).expect("written")).await;
    let mut file = fs::File::create(watched.dir.path().join("a.yaml")).expect("truncated");
    assert!(watched.is_quiet().await, "empty for the moment, which takes nothing away");
    file.write_all(&namespace("b").as_bytes()[..20]).expect("written");
    assert!(watched.is_quiet().await);
    file.write_all(&namespace("b").as_bytes()[20..]).expect("written");
    drop(file);
    assert_eq!(watched.next().await, "delete Namespace a; apply Namespace b; ");
}

#[tokio::test]
async fn a_file_that_stays_open_is_read_in_the_end() {
    use std::io::Write;
    let (mut watched, _) = Watched::with(|_| {}).await;
    let mut file = fs::File::create(watched.dir.path().join("a.yaml")).expect("made");
    file.write_all(namespace("a").as_bytes()).expect("written");
    assert_eq!(watched.next().await, "apply Namespace a; ");
    drop(file);
}

#[tokio::test]
async fn deletion_and_mistakes_are_told() {
    let (mut watched, _) = Watched::with(|dir| fs::write(dir.join("a.yaml"), namespace("a")).expect("written")).await;
    watched.write("a.yaml", "{{{");
    assert_eq!(watched.next().await, "1 findings; ");
    watched.write("a.yaml", &namespace("a"));
    assert_eq!(watched.next().await, "0 findings; ");
    fs::remove_file(watched.dir.path().join("a.yaml")).expect("removed");
    assert_eq!(watched.next().await, "delete Namespace a; ");
}

#[tokio::test]
async fn one_file_may_be_the_source() {
    let dir = TempDir::new().expect("a temporary directory");
    let path = dir.path().join("all.txt");
    fs::write(&path, namespace("a")).expect("written");
    let (sender, events) = mpsc::channel(64);
    tokio::spawn(watch(Config::new(&path), sender));
    let mut watched = Watched { dir, events };
    assert_eq!(watched.next().await, "apply Namespace a; synced; ");
    watched.write("all.txt", &namespace("b"));
    assert_eq!(watched.next().await, "delete Namespace a; apply Namespace b; ");
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_an_error_and_one_that_goes_keeps_its_objects() {
    let (sender, _events) = mpsc::channel(1);
    let error = watch(Config::new("/nonexistent/folder"), sender).await.expect_err("no folder");
    assert_eq!(error.to_string(), "read /nonexistent/folder");
    let (mut watched, _) = Watched::with(|dir| fs::write(dir.join("a.yaml"), namespace("a")).expect("written")).await;
    let (path, aside) = (watched.dir.path().to_owned(), watched.dir.path().with_extension("aside"));
    fs::rename(&path, &aside).expect("renamed");
    assert_eq!(watched.next().await, "1 findings; ");
    fs::rename(&aside, &path).expect("renamed back");
    assert_eq!(watched.next().await, "0 findings; ");
}

/// Somebody's edit is broken at the moment that the controller is restarted.
#[tokio::test]
async fn a_restart_beside_a_broken_file_takes_nothing_away() {
    let state = TempDir::new().expect("a temporary directory");
    let remember = || Some(state.path().join("last-good"));
    // What is kept is kept after it has been told.
    let until_kept = async |texts: &[&str]| {
        let kept = || -> Vec<String> {
            let copies = fs::read_dir(state.path().join("last-good")).expect("made at the start");
            // What is still being written has a name of its own, and is nobody's copy yet.
            let done = copies.flatten().map(|copy| copy.path()).filter(|copy| copy.extension().is_none());
            done.filter_map(|copy| fs::read_to_string(copy).ok()).collect()
        };
        let all = async {
            while !texts.iter().all(|text| kept().iter().any(|copy| copy.contains(text))) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(5), all).await.expect("kept");
    };
    let in_force = |told: &str| {
        let mut objects = BTreeSet::new();
        for event in told.split("; ") {
            match event.split_once(' ') {
                Some(("apply", object)) => _ = objects.insert(object.to_owned()),
                Some(("delete", object)) => _ = objects.remove(object),
                _ => {}
            }
        }
        objects.into_iter().collect::<Vec<_>>().join(", ")
    };
    let dir = TempDir::new().expect("a temporary directory");
    for (name, text) in [("a", namespace("a")), ("b", format!("{}---\n{}", namespace("b"), namespace("c")))] {
        fs::write(dir.path().join(name).with_extension("yaml"), text).expect("written");
    }
    let (watched, first) = Watched::over(dir, remember()).await;
    assert_eq!(in_force(&first), "Namespace a, Namespace b, Namespace c");
    until_kept(&["name: a", "name: c"]).await;
    let Watched { dir, events } = watched;
    drop(events);

    // One is no YAML any more, of the other one object is wrong and one is new.
    fs::write(dir.path().join("a.yaml"), "{apiVersion: v1, kind: Names").expect("written");
    let wrong = namespace("b").replace("{l: b}", "[]");
    fs::write(dir.path().join("b.yaml"), format!("{wrong}---\n{}", namespace("d"))).expect("written");
    let (mut watched, first) = Watched::over(dir, remember()).await;
    assert_eq!(in_force(&first), "Namespace a, Namespace b, Namespace d");
    assert!(first.contains("2 findings"), "{first}");
    // Mended, it says what it says; removed, it says nothing, also to the next start.
    watched.write("a.yaml", &namespace("e"));
    let told = format!("apply Namespace a; {}", watched.next().await);
    assert_eq!(in_force(&told), "Namespace e");
    until_kept(&["name: e"]).await;
    let Watched { dir, events } = watched;
    drop(events);
    fs::remove_file(dir.path().join("b.yaml")).expect("removed");
    let (watched, first) = Watched::over(dir, remember()).await;
    assert_eq!(in_force(&first), "Namespace e");
    fs::write(watched.dir.path().join("b.yaml"), "{").expect("written");
    let (_watched, first) = Watched::over(watched.dir, remember()).await;
    assert_eq!(in_force(&first), "Namespace e", "another file under the same name");
}
