//! Registries that mean harm: passwords that they lure, documents, layers and answers without an end, and a thousand at
//! random.

use std::io::Read as _;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use i2kit::oci::{Digest, Reference};
use i2kit::registry::{Error, Patience, Registry, Settings, Store, open_layer};
use i2kit::report::{Event, Events};
use i2kit_spec::Architecture;
use serde_json::json;

use super::fake_registry::{FakeRegistry, Fault};
use super::hostile_registry::HostileRegistry;
use super::{app, open, pull, registry_with, two_layers};

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
        run.args(["--exact", &format!("hostile::{NAME}"), "--nocapture"]).env(NAME, "1");
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
