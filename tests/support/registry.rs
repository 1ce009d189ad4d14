//! The registries of test images: one of each set a test program, ended with it.

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

/// The sets of images that `scripts/images` makes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Images {
    /// What most tests run.
    Common,
    /// Real software of all kinds.
    Software,
}

/// The host and port that serves docker.io's images to tests.
pub(crate) fn mirror(images: Images) -> &'static str {
    static COMMON: OnceLock<Registry> = OnceLock::new();
    static SOFTWARE: OnceLock<Registry> = OnceLock::new();
    let (registry, set) = match images {
        Images::Common => (&COMMON, "images"),
        Images::Software => (&SOFTWARE, "software"),
    };
    &registry.get_or_init(|| start(set)).host
}

fn start(set: &str) -> Registry {
    let made = root().join(format!("target/test-{set}"));
    assert!(made.join("stamp").is_file(), "there are no test images; run scripts/images {set}");
    let folder =
        PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("registry-{set}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let shell = Command::new("sh")
        .args(["-c", "scripts/registry \"$0\" \"$1\" & cat >&2; kill $!; rm -r \"$0\""])
        .arg(&folder)
        .arg(made.join("registry"))
        .current_dir(root())
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let host = eventually("registry", || {
        let environment = std::fs::read_to_string(folder.join("environment.yml")).ok()?;
        let (_, rest) = environment.split_once("mirrors: [\"")?;
        rest.split_once('"').map(|(host, _)| host.to_owned())
    });
    Registry { host, _shell: shell }
}
