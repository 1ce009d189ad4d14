//! Images from registries that behave and from registries that do not, from layouts, archives and a Docker daemon.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

#[path = "support/fake_registry.rs"]
mod fake_registry;
#[path = "support/hostile_registry.rs"]
mod hostile_registry;
#[path = "support/image.rs"]
mod image;

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fake_registry::{FakeRegistry, Fault};
use hostile_registry::HostileRegistry;
use i2kit::oci::{Digest, Reference};
use i2kit::registry::{
    Error, ImageSource, Key, Patience, Proxies, Registry, RegistrySettings, Settings, Store, open_layer,
};
use i2kit::report::{Event, Events};
use i2kit_spec::Architecture;
use image::{TestImage, TestLayer, index};
use serde_json::json;

/// Large enough for several chunks and batches on the way, small enough for a quick test.
const LAYER: usize = 1_500_000;

/// How long a test waits for a condition before it fails; no measure of speed.
const PATIENCE: Duration = Duration::from_mins(5);

/// An image of a gzipped and a plain layer.
fn two_layers() -> TestImage {
    let layers = vec![TestLayer::new("base", LAYER, true), TestLayer::new("top", 5000, false)];
    TestImage::new("amd64", layers)
}

/// A registry that holds `image` as `app:1`.
async fn registry_with(image: &TestImage) -> FakeRegistry {
    let fake = FakeRegistry::start().await;
    image.blobs().for_each(|blob| {
        fake.blob(blob);
    });
    fake.tag("app:1", image.digest());
    fake
}

fn app(fake: &FakeRegistry) -> Reference {
    format!("{}/app:1", fake.host()).parse().unwrap()
}

fn open(root: &Path, settings: Settings) -> Registry {
    Registry::new(settings, Store::open(root).unwrap(), Events::none()).unwrap()
}

/// Resolves and fetches `reference`, and checks that every layer unpacks to what `image` holds.
async fn pull(registry: &Registry, reference: &Reference, image: &TestImage) -> Result<(), Error> {
    let resolved = registry.resolve(reference, Architecture::default()).await?;
    let paths = registry.blobs(&resolved).await?;
    assert_eq!(resolved.config.config.cmd, ["/app"]);
    assert_eq!(paths.len(), image.layers.len());
    for ((layer, path), expected) in resolved.layers.iter().zip(&paths).zip(&image.layers) {
        assert_eq!(layer.diff_id, expected.diff_id());
        let mut tar = Vec::new();
        open_layer(path, &layer.blob.media_type, layer.diff_id)?.read_to_end(&mut tar).unwrap();
        assert_eq!(tar, expected.tar);
    }
    Ok(())
}

#[tokio::test]
async fn an_image_is_pulled_once_and_then_known_by_digest() {
    let image = two_layers();
    let fake = registry_with(&image).await;
    let folder = tempfile::tempdir().unwrap();
    let registry = open(folder.path(), Settings::default());
    pull(&registry, &app(&fake), &image).await.unwrap();
    fake.log();

    let resolved = registry.resolve(&app(&fake), Architecture::default()).await.unwrap();
    assert_eq!(fake.asked_for("/app/"), ["HEAD /v2/app/manifests/1"], "a tag costs one question");
    assert_eq!(resolved.reference.to_string(), format!("{}/app:1@{}", fake.host(), image.digest()));

    pull(&registry, &resolved.reference, &image).await.unwrap();
    assert_eq!(fake.log(), Vec::<String>::new(), "what is pinned and stored needs no network");
}

#[tokio::test]
async fn a_pull_tells_how_far_it_is() {
    let image = two_layers();
    let fake = registry_with(&image).await;
    let folder = tempfile::tempdir().unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    let events = Events::new(move |event| sink.lock().unwrap().push(event));
    let registry = Registry::new(Settings::default(), Store::open(folder.path()).unwrap(), events).unwrap();
    pull(&registry, &app(&fake), &image).await.unwrap();
    let blob = image.layers[0].digest().to_string();
    let size = image.layers[0].blob.len() as u64;
    let seen = seen.lock().unwrap();
    let of_blob: Vec<&Event> = seen
        .iter()
        .filter(|event| match event {
            Event::TaskStarted { id, .. }
            | Event::TaskProgress { id, .. }
            | Event::TaskFinished { id, .. } => *id == blob,
            _ => false,
        })
        .collect();
    let [
        Event::TaskStarted { title, total, .. },
        ..,
        Event::TaskProgress { done, .. },
        Event::TaskFinished { .. },
    ] = of_blob.as_slice()
    else {
        panic!("{of_blob:?}");
    };
    assert!(title.starts_with("pull app "), "{title}");
    assert_eq!((*total, *done), (Some(size), size));
}

#[tokio::test]
async fn a_busy_registry_is_asked_again() {
    let image = two_layers();
    let fake = registry_with(&image).await;
    let blob = image.layers[0].digest();
    fake.fail("/manifests/1", &[Fault::Status(503), Fault::Status(503)]);
    fake.fail(&image.digest().to_string(), &[Fault::Status(500)]);
    fake.fail(&blob.to_string(), &[Fault::Status(429), Fault::Status(502)]);
    let folder = tempfile::tempdir().unwrap();
    pull(&open(folder.path(), Settings::default()), &app(&fake), &image).await.unwrap();
    assert_eq!(fake.asked_for(&blob.to_string()).len(), 3);
}

#[tokio::test]
async fn a_broken_download_goes_on_where_it_stopped() {
    let image = two_layers();
    let fake = registry_with(&image).await;
    let blob = image.layers[0].digest();
    fake.fail(&blob.to_string(), &[Fault::Cut(200_000), Fault::Cut(300_000)]);
    let folder = tempfile::tempdir().unwrap();
    pull(&open(folder.path(), Settings::default()), &app(&fake), &image).await.unwrap();
    let asked = fake.asked_for(&blob.to_string());
    let offsets: Vec<u64> = asked
        .iter()
        .map(|line| line.rsplit_once("bytes=").unwrap().1.trim_end_matches('-').parse().unwrap())
        .collect();
    assert_eq!(offsets.len(), 3, "{asked:?}");
    assert!(offsets[0] == 0 && offsets[1] > 0 && offsets[2] > offsets[1], "{offsets:?}");
}

#[tokio::test]
async fn a_registry_without_ranges_starts_over() {
    let image = two_layers();
    let fake = registry_with(&image).await;
    let blob = image.layers[0].digest();
    fake.fail(&blob.to_string(), &[Fault::Cut(200_000), Fault::NoRange]);
    let folder = tempfile::tempdir().unwrap();
    pull(&open(folder.path(), Settings::default()), &app(&fake), &image).await.unwrap();
    assert_eq!(fake.asked_for(&blob.to_string()).len(), 2);
}

#[tokio::test]
async fn wrong_bytes_never_get_a_name() {
    let image = two_layers();
    let fake = registry_with(&image).await;
    let blob = image.layers[0].digest();
    for (fault, message) in [(Fault::Flip, "gave wrong bytes for"), (Fault::Longer, "were promised")] {
        fake.fail(&blob.to_string(), &[fault]);
        let folder = tempfile::tempdir().unwrap();
        let registry = open(folder.path(), Settings::default());
        let error = pull(&registry, &app(&fake), &image).await.unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
        assert_eq!(fake.asked_for(&blob.to_string()).len(), 1, "the same registry gives the same bytes");
        assert_eq!(registry.store().get(Key::Blob(blob)), None);
    }
}

#[tokio::test]
async fn a_manifest_that_is_not_its_digest_is_refused() {
    let image = two_layers();
    let fake = registry_with(&image).await;
    fake.fail(&image.digest().to_string(), &[Fault::Flip; 5]);
    let folder = tempfile::tempdir().unwrap();
    let registry = open(folder.path(), Settings::default());
    registry.resolve(&app(&fake), Architecture::default()).await.unwrap_err();
    assert_eq!(registry.store().get(Key::Blob(image.digest())), None);
}

#[tokio::test]
async fn spoiled_leftovers_are_not_built_upon() {
    let image = two_layers();
    let fake = registry_with(&image).await;
    let blob = image.layers[0].digest();
    let folder = tempfile::tempdir().unwrap();
    let registry = open(folder.path(), Settings::default());
    let mut partial = registry.store().path(Key::Blob(blob)).into_os_string();
    partial.push(".partial");
    std::fs::write(&partial, vec![7; 100_000]).unwrap();
    pull(&registry, &app(&fake), &image).await.unwrap();
    let asked = fake.asked_for(&blob.to_string());
    assert!(asked[0].ends_with("bytes=100000-") && asked[1].ends_with("bytes=0-"), "{asked:?}");
    assert!(!Path::new(&partial).exists());
}

#[tokio::test]
async fn an_account_opens_the_registry() {
    let image = two_layers();
    let fake = registry_with(&image).await;
    fake.require("ann:secret");
    let folder = tempfile::tempdir().unwrap();
    let settings = |account: &str| {
        use base64::Engine as _;
        let auth = base64::engine::general_purpose::STANDARD.encode(account);
        let config = folder.path().join("config.json");
        std::fs::write(&config, json!({ "auths": { fake.host(): { "auth": auth } } }).to_string()).unwrap();
        Settings { docker_config: Some(config), ..Settings::default() }
    };

    let error = pull(&open(folder.path(), Settings::default()), &app(&fake), &image).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("to an anonymous user") && text.contains("docker login 127.0.0.1"), "{text}");
    let error = pull(&open(folder.path(), settings("ann:wrong")), &app(&fake), &image).await.unwrap_err();
    assert!(error.to_string().contains("to user ann"), "{error}");
    pull(&open(folder.path(), settings("ann:secret")), &app(&fake), &image).await.unwrap();
}

/// Settings with `mirrors` before `fake`.
fn mirrored(fake: &FakeRegistry, mirrors: &[String]) -> Settings {
    let registry = RegistrySettings { mirrors: mirrors.to_vec(), plain_http: None };
    Settings { registries: BTreeMap::from([(fake.host(), registry)]), ..Settings::default() }
}

#[tokio::test]
async fn a_mirror_that_works_is_enough() {
    let image = two_layers();
    let mirror = registry_with(&image).await;
    let origin = FakeRegistry::start().await;
    let folder = tempfile::tempdir().unwrap();
    let registry = open(folder.path(), mirrored(&origin, &[mirror.host()]));
    pull(&registry, &app(&origin), &image).await.unwrap();
    assert_eq!(origin.log(), Vec::<String>::new());
}

#[tokio::test]
async fn bad_mirrors_are_passed_over() {
    let image = two_layers();
    let origin = registry_with(&image).await;
    let blob = image.layers[0].digest();
    let lying = registry_with(&image).await;
    lying.fail(&blob.to_string(), &[Fault::Flip]);
    lying.fail(&image.digest().to_string(), &[Fault::Flip]);
    let broken = registry_with(&image).await;
    broken.fail("", &[Fault::Status(500); 50]);
    let empty = FakeRegistry::start().await;
    let gone = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let mirrors = [gone, broken.host(), empty.host(), lying.host()];
    let folder = tempfile::tempdir().unwrap();
    pull(&open(folder.path(), mirrored(&origin, &mirrors)), &app(&origin), &image).await.unwrap();
    assert_eq!(origin.asked_for(&blob.to_string()).len(), 1);
}

#[tokio::test]
async fn loopback_registries_bypass_proxies() {
    let image = two_layers();
    let fake = registry_with(&image).await;
    let nowhere = Some("http://127.0.0.1:9".to_owned());
    let proxies = Proxies { https: nowhere.clone(), http: nowhere, none_for: None };
    let folder = tempfile::tempdir().unwrap();
    let registry = open(folder.path(), Settings { proxies, ..Settings::default() });
    pull(&registry, &app(&fake), &image).await.unwrap();
}

#[tokio::test]
async fn two_runs_fetch_a_blob_once() {
    let image = two_layers();
    let fake = registry_with(&image).await;
    let blob = image.layers[0].digest();
    fake.fail(&blob.to_string(), &[Fault::Slow(Duration::from_millis(2)); 10]);
    let folder = tempfile::tempdir().unwrap();
    let runs = [open(folder.path(), Settings::default()), open(folder.path(), Settings::default())];
    let reference = app(&fake);
    let pulls = runs.iter().flat_map(|run| [pull(run, &reference, &image), pull(run, &reference, &image)]);
    futures::future::try_join_all(pulls).await.unwrap();
    assert_eq!(fake.asked_for(&blob.to_string()).len(), 1);
}

/// Whether this process was started by [`second_process`] for the test `name`; then it pulls what it is told to.
async fn is_second_process(name: &str) -> bool {
    #[expect(clippy::disallowed_methods, reason = "how a test tells its second process what to do")]
    let Ok(arguments) = std::env::var(name) else { return false };
    let (reference, root) = arguments.split_once(' ').unwrap();
    let docker_config = Some(Path::new(root).join("config.json"));
    let registry = open(Path::new(root), Settings { docker_config, ..Settings::default() });
    let resolved = registry.resolve(&reference.parse().unwrap(), Architecture::default()).await.unwrap();
    registry.blobs(&resolved).await.unwrap();
    true
}

/// Runs the test `name` once more in a process of its own, which pulls `reference` with the cache `root`.
fn second_process(name: &str, reference: &Reference, root: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture"]).env(name, format!("{reference} {}", root.display()));
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credential_helpers_are_asked() {
    use std::os::unix::fs::PermissionsExt as _;
    const NAME: &str = "credential_helpers_are_asked";
    if is_second_process(NAME).await {
        return;
    }
    let image = two_layers();
    let fake = registry_with(&image).await;
    fake.require("eve:secret");
    let folder = tempfile::tempdir().unwrap();
    let helper = folder.path().join("docker-credential-test");
    let script = "#!/bin/sh\n/bin/cat >&2\necho '{\"Username\":\"eve\",\"Secret\":\"secret\"}'\n";
    std::fs::write(&helper, script).unwrap();
    std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::write(folder.path().join("config.json"), r#"{"credsStore":"test"}"#).unwrap();
    let mut run = second_process(NAME, &app(&fake), folder.path());
    let output = run.env("PATH", folder.path()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(fake.log().iter().any(|line| line.contains(&image.layers[0].digest().to_string())));
}

/// The second process is killed in the middle of a download.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_run_is_resumed() {
    const NAME: &str = "a_killed_run_is_resumed";
    if is_second_process(NAME).await {
        return;
    }
    let image = two_layers();
    let fake = registry_with(&image).await;
    let blob = image.layers[0].digest();
    fake.fail(&blob.to_string(), &[Fault::Stop(700_000)]);
    let folder = tempfile::tempdir().unwrap();
    let reference = app(&fake);
    let mut run = second_process(NAME, &reference, folder.path()).spawn().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let mut partial = store.path(Key::Blob(blob)).into_os_string();
    partial.push(".partial");
    let written = || std::fs::metadata(&partial).map_or(0, |data| data.len());
    let started = Instant::now();
    while written() == 0 {
        assert!(started.elapsed() < PATIENCE, "nothing is written");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    run.kill().unwrap();
    run.wait().unwrap();
    let left = written();
    assert!(left > 0 && left < image.layers[0].blob.len() as u64, "killed in the middle: {left}");
    assert_eq!(store.get(Key::Blob(blob)), None);
    fake.log();

    pull(&open(folder.path(), Settings::default()), &reference, &image).await.unwrap();
    let asked = fake.asked_for(&blob.to_string());
    assert_eq!(asked.len(), 1);
    assert!(asked[0].ends_with(&format!("bytes={left}-")), "{asked:?}");
}

#[tokio::test]
async fn the_platform_is_chosen_from_an_index() {
    let image = two_layers();
    let other = TestImage::new("arm64", vec![TestLayer::new("other", 1000, true)]);
    let fake = registry_with(&image).await;
    let both = fake.blob(&index(&[("arm64", &other), ("amd64", &image)]));
    fake.tag("app:both", both);
    let one = fake.blob(&index(&[("arm64", &other)]));
    fake.tag("app:one", one);
    let folder = tempfile::tempdir().unwrap();
    let registry = open(folder.path(), Settings::default());
    let reference = |tag: &str| format!("{}/app:{tag}", fake.host()).parse::<Reference>().unwrap();
    let resolved = registry.resolve(&reference("both"), Architecture::default()).await.unwrap();
    assert_eq!(resolved.manifest, image.digest());
    let error = registry.resolve(&reference("one"), Architecture::default()).await.unwrap_err();
    assert!(error.to_string().ends_with("no image for linux/amd64; there are: linux/arm64"), "{error}");
}

#[tokio::test]
async fn absent_images_and_registries_say_what_to_do() {
    let fake = FakeRegistry::start().await;
    let folder = tempfile::tempdir().unwrap();
    let registry = open(folder.path(), Settings::default());
    let error = registry.resolve(&app(&fake), Architecture::default()).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    let closed: Reference = "127.0.0.1:1/app:1".parse().unwrap();
    let error = registry.resolve(&closed, Architecture::default()).await.unwrap_err().to_string();
    assert!(
        error.contains("Connection refused") && error.ends_with("check that it runs, and the port"),
        "{error}"
    );
    let http = format!("https://{}", fake.host());
    let registry = open(folder.path(), mirrored(&fake, &[http]));
    let error = registry.resolve(&app(&fake), Architecture::default()).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
}

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

/// A registry over the network that others may tell something of.
fn watched(root: &Path, settings: Settings) -> (Registry, Arc<Mutex<Vec<String>>>) {
    let notes = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&notes);
    let events = Events::new(move |event| {
        if let Event::Note { message } = event {
            sink.lock().unwrap().push(message);
        }
    });
    (Registry::new(settings, Store::open(root).unwrap(), events).unwrap(), notes)
}

/// Settings with a password for `host`.
fn with_password(folder: &Path, host: &str) -> Settings {
    use base64::Engine as _;
    let auth = base64::engine::general_purpose::STANDARD.encode("ann:secret");
    let config = folder.join("config.json");
    std::fs::write(&config, json!({ "auths": { host: { "auth": auth } } }).to_string()).unwrap();
    Settings { docker_config: Some(config), ..Settings::default() }
}

#[tokio::test]
async fn a_registry_may_offer_two_ways_in() {
    const BASIC: &str = "Basic realm=\"registry\"";
    const BEARER: &str = "Bearer realm=\"http://HOST/token\",service=\"r\",scope=\"repository:app:pull\"";
    let image = two_layers();
    for challenges in [[BASIC, BEARER], [BEARER, BASIC]] {
        let fake = registry_with(&image).await;
        fake.challenge(&challenges);
        let folder = tempfile::tempdir().unwrap();
        pull(&open(folder.path(), Settings::default()), &app(&fake), &image).await.unwrap();
        let asked: Vec<String> = fake.asked_for("/token");
        assert_eq!(asked, ["GET /token"], "one token serves all, and no password is shown");
    }
}

#[tokio::test]
async fn a_password_goes_nowhere_in_the_clear() {
    let image = two_layers();
    let fake = registry_with(&image).await;
    fake.challenge(&["Bearer realm=\"http://192.0.2.1/token\",service=\"r\""]);
    let folder = tempfile::tempdir().unwrap();
    let settings = with_password(folder.path(), &fake.host());
    let error = pull(&open(folder.path(), settings.clone()), &app(&fake), &image).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::PlainRealm { .. }), "{text}");
    assert!(text.contains("http://192.0.2.1") && text.contains("plainHttp: true"), "{text}");

    // To another name it goes, and that is told once.
    let other = FakeRegistry::start().await;
    let realm = format!("http://localhost:{}/token", other.host().rsplit_once(':').unwrap().1);
    fake.challenge(&[&format!("Bearer realm=\"{realm}\"")]);
    let (registry, notes) = watched(folder.path(), settings);
    pull(&registry, &app(&fake), &image).await.unwrap();
    assert_eq!(other.asked_for("/token"), ["GET /token with a password"]);
    let notes = notes.lock().unwrap();
    let told: Vec<&String> = notes.iter().filter(|note| note.contains("checked by localhost")).collect();
    assert_eq!(told.len(), 1, "{notes:?}");
}

#[tokio::test]
async fn documents_without_an_end_are_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let fake = FakeRegistry::start().await;
    let long = fake.blob(&vec![b' '; (4 << 20) + 1]);
    fake.tag("app:1", long);
    let registry = open(folder.path(), Settings::default());
    let error = registry.resolve(&app(&fake), Architecture::default()).await.unwrap_err();
    assert!(matches!(error, Error::Document { limit: 4_194_304, .. }), "{error}");

    fake.challenge(&["Bearer realm=\"http://HOST/token\""]);
    let refused = [
        (format!("{{\"token\":\"{}\"}}", "t".repeat(1 << 20)), "more than 1048576 bytes"),
        ("{\"token\":\"abc\\ndef\"}".to_owned(), "no header can carry"),
        ("{\"token\":null}".to_owned(), "gave no token"),
        ("<html>".to_owned(), "gave no token"),
    ];
    for (answer, words) in refused {
        fake.hand_out(&answer);
        let registry = open(folder.path(), Settings::default());
        let error = registry.resolve(&app(&fake), Architecture::default()).await.unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[tokio::test]
async fn a_layer_that_fills_every_disk_is_refused_before_its_first_byte() {
    let image = two_layers();
    let fake = registry_with(&image).await;
    let mut manifest: serde_json::Value = serde_json::from_slice(&image.manifest).unwrap();
    manifest["layers"][0]["size"] = json!(1_u64 << 62);
    fake.tag("app:1", fake.blob(manifest.to_string().as_bytes()));
    let folder = tempfile::tempdir().unwrap();
    let error = pull(&open(folder.path(), Settings::default()), &app(&fake), &image).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
    assert!(fake.asked_for(&image.layers[0].digest().to_string()).is_empty());
}

#[tokio::test]
async fn mirrors_are_named_with_their_answers_when_the_registry_is_not_reached() {
    let empty = FakeRegistry::start().await;
    let closed = registry_with(&two_layers()).await;
    closed.require("ann:secret");
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mirrors = RegistrySettings { mirrors: vec![empty.host(), closed.host()], plain_http: None };
    let registries = BTreeMap::from([(gone.clone(), mirrors)]);
    let folder = tempfile::tempdir().unwrap();
    let registry = open(folder.path(), Settings { registries, ..Settings::default() });
    let reference: Reference = format!("{gone}/app:1").parse().unwrap();
    let text = registry.resolve(&reference, Architecture::default()).await.unwrap_err().to_string();
    for words in [
        format!("{gone} is not reached"),
        format!("{} has no `{gone}/app:1`", empty.host()),
        format!("{} refuses `{gone}/app:1`", closed.host()),
    ] {
        assert!(text.contains(&words), "{words} is not in: {text}");
    }
}

#[tokio::test]
async fn a_registry_that_crawls_is_told_and_given_up() {
    let image = two_layers();
    let fake = registry_with(&image).await;
    let blob = image.layers[0].digest().to_string();
    fake.fail(&blob, &[Fault::Slow(Duration::from_millis(40)); 50]);
    let folder = tempfile::tempdir().unwrap();
    let patience = Patience {
        first_wait: Duration::ZERO,
        window: Duration::from_millis(100),
        progress: 1 << 20,
        ..Patience::default()
    };
    let (registry, notes) = watched(folder.path(), Settings { patience, ..Settings::default() });
    let error = pull(&registry, &app(&fake), &image).await.unwrap_err();
    assert!(error.to_string().contains("it sent"), "{error}");
    assert!(notes.lock().unwrap().iter().any(|note| note.contains("is slow: it sent")));
}

#[test]
fn a_bomb_of_zeros_takes_no_room() {
    use std::io::Write as _;
    use std::os::unix::fs::MetadataExt as _;
    const SIZE: u64 = 200 << 20;
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(SIZE);
    header.set_mode(0o644);
    tar.append_data(&mut header, "zeros", std::io::repeat(0).take(SIZE)).unwrap();
    let tar = tar.into_inner().unwrap();
    let mut blob = tempfile::NamedTempFile::new().unwrap();
    let mut packed = flate2::write::GzEncoder::new(&mut blob, flate2::Compression::fast());
    packed.write_all(&tar).unwrap();
    packed.finish().unwrap();
    let id = i2kit::oci::DiffId(Digest::of(&tar));
    let mut layer = open_layer(blob.path(), i2kit::oci::media::OCI_LAYER_GZIP, id).unwrap();
    let out = tempfile::NamedTempFile::new().unwrap();
    i2kit::erofs::write_layer(&mut layer, out.as_file()).unwrap();
    layer.finish().unwrap();
    let data = out.as_file().metadata().unwrap();
    assert!(data.len() > SIZE && data.blocks() * 512 < 1 << 20, "{} of {}", data.blocks() * 512, data.len());
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

/// Where a process keeps its memory at most: several documents and layers at once, not one without an end.
const MEMORY_KIB: u64 = 400 << 10;

/// Bytes of the store that one behaviour leads to at most: both layers, whole and begun, and documents.
const FILES: u64 = 16 << 20;

/// Requests that one behaviour leads to at most: each of five things is asked for a few times, each time with a token.
const REQUESTS: u32 = 300;

/// Bytes that are taken at most: some documents up to their bound, and what was on its way when it was met.
const TAKEN: u64 = 400 << 20;

/// What one seed did.
async fn pull_hostile(seed: u64) -> bool {
    let fake = HostileRegistry::start(seed).await;
    let folder = tempfile::tempdir().unwrap();
    let patience = Patience {
        first_wait: Duration::ZERO,
        silence: Duration::from_secs(2),
        document: Duration::from_secs(2),
        window: Duration::from_secs(1),
        progress: 1024,
    };
    let registry = open(folder.path(), Settings { patience, ..Settings::default() });
    let reference: Reference = format!("{}/app:1", fake.host).parse().unwrap();
    let pulled = async {
        let resolved = registry.resolve(&reference, Architecture::default()).await?;
        let paths = registry.blobs(&resolved).await?;
        for (layer, path) in resolved.layers.iter().zip(&paths) {
            let mut tar = open_layer(path, &layer.blob.media_type, layer.diff_id)?;
            std::io::copy(&mut tar, &mut std::io::sink()).map_err(Error::of_layer)?;
        }
        Ok::<(), Error>(())
    };
    let result = pulled.await;
    let words = result.as_ref().map_or_else(ToString::to_string, |()| String::new());
    assert!(words.len() < 2000, "seed {seed}: {words}");
    assert!(fake.requests() <= REQUESTS, "seed {seed}: {} requests", fake.requests());
    assert!(fake.sent() <= TAKEN, "seed {seed}: {} bytes taken", fake.sent());
    let mut bytes = 0;
    for file in std::fs::read_dir(folder.path().join("blobs/sha256")).unwrap() {
        let path = file.unwrap().path();
        let content = std::fs::read(&path).unwrap();
        bytes += content.len() as u64;
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert!(name.ends_with(".partial") || name == Digest::of(&content).hex(), "seed {seed}: {name}");
    }
    assert!(bytes <= FILES, "seed {seed}: {bytes} bytes are left");
    result.is_ok()
}

/// The largest memory that this process had, in KiB.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// A thousand registries that lie, break off, never end and hand out what is none, in a process of their own, whose
/// memory nobody else uses.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_hostile_registries_do_no_harm() {
    use futures::StreamExt as _;
    const NAME: &str = "a_thousand_hostile_registries_do_no_harm";
    let is_second = std::env::var_os(NAME).is_some();
    if !is_second {
        let mut run = Command::new("sh");
        // A guard for the machine; what is asserted is the memory that was used.
        run.args(["-c", "ulimit -v 8000000; exec \"$@\"", "sh"]).arg(std::env::current_exe().unwrap());
        run.args(["--exact", NAME, "--nocapture"]).env(NAME, "1");
        let output = tokio::task::spawn_blocking(move || run.output()).await.unwrap().unwrap();
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}\n{words}", String::from_utf8_lossy(&output.stdout));
        assert!(!words.contains("panicked"), "{words}");
        return;
    }
    let seeds = futures::stream::iter(0..1000_u64).map(|seed| tokio::spawn(pull_hostile(seed)));
    let pulled: Vec<bool> = seeds.buffer_unordered(24).map(|seed| seed.unwrap()).collect().await;
    // Some behave, or only seem to misbehave: otherwise nothing was tried.
    let good = pulled.iter().filter(|pulled| **pulled).count();
    assert!((50..950).contains(&good), "{good} of 1000 gave an image");
    let peak = peak_memory();
    assert!(peak <= MEMORY_KIB, "{peak} KiB of memory");
}
