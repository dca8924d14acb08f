use std::io::Read;

use super::*;

fn image() -> Image {
    let entries = [("bin/b", Entry::link("a")), ("etc/z", Entry::file("z")), ("bin/a", Entry::program("a"))];
    Image {
        entries: entries.map(|(path, entry)| (path.to_owned(), entry)).into(),
        entrypoint: vec!["/bin/a".to_owned()],
        user: Some(65532),
        labels: BTreeMap::from([("org.opencontainers.image.title".to_owned(), "a".to_owned())]),
        time: 7,
    }
}

/// Path, mode, owner, time and content of what is in an archive, in its order.
fn entries(bytes: &[u8]) -> Vec<(String, u32, u64, u64, Vec<u8>)> {
    let mut archive = tar::Archive::new(bytes);
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        let header = entry.header().clone();
        let path = entry.path().unwrap().display().to_string();
        (path, header.mode().unwrap(), header.uid().unwrap(), header.mtime().unwrap(), content)
    });
    entries.collect()
}

#[test]
fn the_same_files_are_the_same_image_whatever_their_order() {
    for layer in [Layer::Plain, Layer::Gzip] {
        let [one, other] = [(); 2].map(|()| image().archive("localhost/a:1", layer).unwrap());
        assert_eq!((one.digest.clone(), &one.bytes), (other.digest, &other.bytes));
        let mut changed = image();
        changed.entries.insert("bin/a".to_owned(), Entry::program("b"));
        assert_ne!(one.digest, changed.archive("localhost/a:1", layer).unwrap().digest);
        let renamed = image().archive("localhost/b:1", layer).unwrap();
        assert_eq!(one.digest, renamed.digest, "a name is no part of an image");
    }
}

#[test]
fn an_archive_holds_what_the_index_names_by_its_digest() {
    for (layer, kind) in [(Layer::Plain, "tar"), (Layer::Gzip, "tar+gzip")] {
        let archive = image().archive("localhost/a:1", layer).unwrap();
        let found = entries(&archive.bytes);
        assert_eq!((found[0].0.as_str(), found[1].0.as_str(), found.len()), ("oci-layout", "index.json", 5));
        assert!(found.iter().all(|(_, mode, owner, time, _)| (*mode, *owner, *time) == (0o644, 0, 0)));
        let blob = |described: &Value| -> Vec<u8> {
            let digest = described["digest"].as_str().unwrap();
            let path = format!("blobs/{}", digest.replace(':', "/"));
            let content = found.iter().find(|(found, ..)| *found == path).expect("a blob of this digest").4.clone();
            assert_eq!(
                (sha256(&content), content.len()),
                (digest.to_owned(), described["size"].as_u64().unwrap() as usize)
            );
            content
        };
        let index: Value = serde_json::from_slice(&found[1].4).unwrap();
        assert_eq!(index["manifests"][0]["digest"], archive.digest);
        assert_eq!(index["manifests"][0]["annotations"]["io.containerd.image.name"], "localhost/a:1");
        let manifest: Value = serde_json::from_slice(&blob(&index["manifests"][0])).unwrap();
        assert_eq!(manifest["layers"][0]["mediaType"], format!("application/vnd.oci.image.layer.v1.{kind}"));

        let config: Value = serde_json::from_slice(&blob(&manifest["config"])).unwrap();
        assert_eq!(config["config"]["User"], "65532:65532");
        assert_eq!(config["config"]["Entrypoint"], json!(["/bin/a"]));
        assert_eq!(config["config"]["Labels"]["org.opencontainers.image.title"], "a");
        let mut content = blob(&manifest["layers"][0]);
        if layer == Layer::Gzip {
            let packed = std::mem::take(&mut content);
            flate2::read::GzDecoder::new(packed.as_slice()).read_to_end(&mut content).unwrap();
        }
        assert_eq!(config["rootfs"]["diff_ids"][0], sha256(&content));
        let within: Vec<_> =
            entries(&content).into_iter().map(|(path, mode, owner, time, _)| (path, mode, owner, time)).collect();
        let expected = [("bin/a", 0o755, 0, 7), ("bin/b", 0o777, 0, 7), ("etc/z", 0o644, 0, 7)];
        assert_eq!(within, expected.map(|(path, mode, owner, time)| (path.to_owned(), mode, owner, time)));
    }
}

#[test]
fn an_archive_that_is_renamed_is_the_same_image_by_another_name() {
    let named = |name| image().archive(name, Layer::Gzip).unwrap();
    let renamed = renamed(&named("registry.example/a:1").bytes, "localhost/a:dev").unwrap();
    assert_eq!(entries(&renamed), entries(&named("localhost/a:dev").bytes));
    let error = super::renamed(b"no archive", "localhost/a:dev").unwrap_err();
    assert!(!error.to_string().is_empty());
}
