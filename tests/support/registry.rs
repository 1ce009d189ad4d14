//! The registry of test images: one a test program, ended with it.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use super::{eventually, root};

/// A running `scripts/registry`.
struct Registry {
    /// `127.0.0.1:PORT`.
    host: String,
    /// Its standard input is a pipe of ours: when this program ends in whatever way, the pipe is closed and the shell
    /// ends the registry.
    _shell: Child,
}

/// The host and port that serves docker.io's images to tests.
pub(crate) fn mirror() -> &'static str {
    static REGISTRY: OnceLock<Registry> = OnceLock::new();
    &REGISTRY.get_or_init(start).host
}

fn start() -> Registry {
    assert!(
        root().join("target/test-images/stamp").is_file(),
        "there are no test images; run scripts/images"
    );
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("registry-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let shell = Command::new("sh")
        .args(["-c", "scripts/registry \"$0\" & cat >&2; kill $!; rm -r \"$0\""])
        .arg(&folder)
        .current_dir(root())
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let host = eventually("registry", 20, || {
        let environment = std::fs::read_to_string(folder.join("environment.yml")).ok()?;
        let (_, rest) = environment.split_once("mirrors: [\"")?;
        rest.split_once('"').map(|(host, _)| host.to_owned())
    });
    Registry { host, _shell: shell }
}
