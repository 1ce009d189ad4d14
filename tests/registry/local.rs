//! Images from layouts, archives and a Docker daemon.

use std::collections::BTreeMap;
use std::path::Path;

use i2kit::oci::{Digest, Reference};
use i2kit::registry::{Error, ImageSource, Settings};
use i2kit_spec::Architecture;
use serde_json::json;

use super::image::{self, TestImage, TestLayer};
use super::{open, pull, two_layers};

/// Writes `image` as an OCI layout.
fn write_layout(folder: &Path, image: &TestImage) {
    let blobs = folder.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    for blob in image.blobs() {
        std::fs::write(blobs.join(Digest::of(blob).hex()), blob).unwrap();
    }
    let mut entry = image::descriptor(i2kit::oci::media::OCI_MANIFEST, &image.manifest);
    entry["annotations"] = json!({ "org.opencontainers.image.ref.name": "1" });
    let index = json!({ "schemaVersion": 2, "manifests": [entry] });
    std::fs::write(folder.join("index.json"), index.to_string()).unwrap();
    std::fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

/// `image` as `docker save` writes it: layers unpacked, one of them behind a link.
fn docker_archive(image: &TestImage) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |path: &str, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, path, content).unwrap();
    };
    let mut paths = Vec::new();
    for (number, layer) in image.layers.iter().enumerate() {
        add(&format!("{number}.tar"), &layer.tar);
        paths.push(format!("legacy/{number}/layer.tar"));
    }
    let config = format!("{}.json", Digest::of(&image.config).hex());
    add(&config, &image.config);
    add("repositories", b"{}");
    let manifest = json!([{ "Config": config, "RepoTags": ["app:1"], "Layers": paths }]);
    add("manifest.json", manifest.to_string().as_bytes());
    for (number, path) in paths.iter().enumerate() {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        tar.append_link(&mut header, path, format!("../../{number}.tar")).unwrap();
    }
    tar.into_inner().unwrap()
}

/// `folder` packed as an OCI archive.
fn oci_archive(folder: &Path) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_dir_all(".", folder).unwrap();
    tar.into_inner().unwrap()
}

fn from(source: ImageSource) -> Settings {
    Settings { images: BTreeMap::from([("app:1".to_owned(), source)]), ..Settings::default() }
}

#[tokio::test]
async fn images_come_from_layouts_and_archives() {
    let image = two_layers();
    let folder = tempfile::tempdir().unwrap();
    let layout = folder.path().join("layout");
    write_layout(&layout, &image);
    let archives = [
        ("docker.tar", docker_archive(&image)),
        ("docker.tar.zst", zstd::encode_all(docker_archive(&image).as_slice(), 1).unwrap()),
        ("oci.tar", oci_archive(&layout)),
    ];
    let mut sources = vec![ImageSource::Layout(layout.clone())];
    for (name, bytes) in archives {
        std::fs::write(folder.path().join(name), bytes).unwrap();
        sources.push(ImageSource::Archive(folder.path().join(name)));
    }
    let reference: Reference = "app:1".parse().unwrap();
    for source in sources {
        let store = tempfile::tempdir().unwrap();
        let registry = open(store.path(), from(source.clone()));
        pull(&registry, &reference, &image).await.unwrap();
        // Without the source, what was pinned still resolves, and what was pulled is there.
        let pinned = registry.resolve(&reference, Architecture::default()).await.unwrap().reference;
        drop(registry);
        pull(&open(store.path(), Settings::default()), &pinned, &image).await.unwrap();
        // After a prune, all comes back from the source.
        let everything = i2kit::registry::cache::PrunePolicy { max_bytes: Some(0), ..Default::default() };
        i2kit::registry::cache::prune(store.path(), &everything).unwrap();
        pull(&open(store.path(), from(source)), &pinned, &image).await.unwrap();
    }
}

#[tokio::test]
async fn a_changed_archive_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("app.tar");
    let reference: Reference = "app:1".parse().unwrap();
    let first = two_layers();
    let second = TestImage::new("amd64", vec![TestLayer::new("new", 2000, true)]);
    for image in [&first, &second] {
        std::fs::write(&file, docker_archive(image)).unwrap();
        let registry = open(folder.path(), from(ImageSource::Archive(file.clone())));
        pull(&registry, &reference, image).await.unwrap();
    }
}

#[tokio::test]
async fn a_layout_that_lies_is_refused() {
    let image = two_layers();
    let folder = tempfile::tempdir().unwrap();
    let layout = folder.path().join("layout");
    write_layout(&layout, &image);
    let path = layout.join("blobs/sha256").join(image.layers[0].digest().hex());
    let mut bytes = image.layers[0].blob.clone();
    bytes[1000] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let registry = open(folder.path(), from(ImageSource::Layout(layout)));
    let reference: Reference = "app:1".parse().unwrap();
    let error = pull(&registry, &reference, &image).await.unwrap_err();
    assert!(matches!(error, Error::Digest { .. }), "{error}");
    std::fs::remove_file(&path).unwrap();
    let error = pull(&registry, &reference, &image).await.unwrap_err();
    assert!(matches!(error, Error::Missing { .. }), "{error}");
}

/// A Docker daemon that knows `app:1`, on a socket at `path`.
fn daemon(path: &Path, archive: Vec<u8>) {
    let listener = tokio::net::UnixListener::bind(path).unwrap();
    let app = axum::Router::new().fallback(move |request: axum::extract::Request| {
        let archive = archive.clone();
        async move {
            use axum::response::IntoResponse as _;
            match request.uri().path() {
                "/images/docker.io/library/app:1/json" => r#"{"Id":"sha256:0123"}"#.into_response(),
                "/images/docker.io/library/app:1/get" => archive.into_response(),
                _ => axum::http::StatusCode::NOT_FOUND.into_response(),
            }
        }
    });
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
}

#[tokio::test]
async fn images_come_from_the_docker_daemon() {
    let image = two_layers();
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("docker.sock");
    let settings = |name: &str| Settings {
        images: BTreeMap::from([(name.to_owned(), ImageSource::Daemon)]),
        docker_socket: socket.clone(),
        ..Settings::default()
    };
    let reference: Reference = "app:1".parse().unwrap();
    let error = pull(&open(folder.path(), settings("app:1")), &reference, &image).await.unwrap_err();
    assert!(error.to_string().contains("is not reached"), "{error}");

    daemon(&socket, docker_archive(&image));
    pull(&open(folder.path(), settings("app:1")), &reference, &image).await.unwrap();
    let other: Reference = "other:1".parse().unwrap();
    let error = pull(&open(folder.path(), settings("other:1")), &other, &image).await.unwrap_err();
    assert!(matches!(error, Error::DaemonImage { .. }), "{error}");
}

#[tokio::test]
async fn a_source_that_is_something_else_is_told_so() {
    let image = two_layers();
    let folder = tempfile::tempdir().unwrap();
    let (layout, file) = (folder.path().join("layout"), folder.path().join("app.tar"));
    write_layout(&layout, &image);
    std::fs::write(&file, docker_archive(&image)).unwrap();
    let notes = folder.path().join("notes.txt");
    std::fs::write(&notes, "these are words, not a tar\n".repeat(40)).unwrap();
    let two = folder.path().join("two");
    write_layout(&two, &image);
    let entry = image::descriptor(i2kit::oci::media::OCI_MANIFEST, &image.manifest);
    let index = json!({ "schemaVersion": 2, "manifests": [entry, entry] });
    std::fs::write(two.join("index.json"), index.to_string()).unwrap();
    for (source, words) in [
        (ImageSource::Layout(file), "is a file, which `layout` does not take: name it by `archive`"),
        (ImageSource::Archive(layout), "is a folder, which `archive` does not take: name it by `layout`"),
        (ImageSource::Archive(notes), "is not an archive"),
        (ImageSource::Layout(two), "there are 2 images and none has a name"),
    ] {
        let store = tempfile::tempdir().unwrap();
        let registry = open(store.path(), from(source));
        let error = registry.resolve(&"app:1".parse().unwrap(), Architecture::default()).await.unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
}
