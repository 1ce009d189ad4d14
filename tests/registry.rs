//! Images from registries that behave, or fail as real ones do. The modules: from layouts, archives and a Docker daemon;
//! from registries that mean harm.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

#[path = "support/fake_registry.rs"]
mod fake_registry;
#[path = "registry/hostile.rs"]
mod hostile;
#[path = "support/hostile_registry.rs"]
mod hostile_registry;
#[path = "support/image.rs"]
mod image;
#[path = "registry/local.rs"]
mod local;

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fake_registry::{FakeRegistry, Fault};
use i2kit::oci::Reference;
use i2kit::registry::{
    Error, Key, Proxies, PullSecret, Registry, RegistrySettings, Settings, Store, open_layer,
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

    // A Secret that a manifest brings along comes before what docker knows.
    let document = json!({ "auths": { fake.host(): { "username": "ann", "password": "secret" } } });
    let secret = PullSecret { name: "Secret default/registry".into(), document: document.to_string().into() };
    let other = tempfile::tempdir().unwrap();
    let settings = Settings { pull_secrets: vec![secret], ..settings("ann:wrong") };
    pull(&open(other.path(), settings), &app(&fake), &image).await.unwrap();
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
