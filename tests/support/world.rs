//! A world: folders of its own, and in them whatever the program makes.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use i2kit::manifest::api::Name;
use i2kit::plan::fleet::{Fleet, InstanceGroup};
use tempfile::TempDir;

use super::{Call, Images, guest, mirror, processes, root};

/// A folder in which the program runs as if it were alone on the machine. Dropping it destroys what was deployed.
#[derive(Debug)]
pub(crate) struct World {
    folder: TempDir,
    cache: PathBuf,
    /// What keeps the mount namespace in which calls run, where that is another one than the test's.
    disk: Option<Child>,
}

impl World {
    /// A world with an environment whose images come from the test registry. Worlds share a cache, so that a layer is
    /// fetched and converted once. Each environment has a name of its own: addresses and ports follow from names, and
    /// worlds of this and of other suites run beside each other.
    pub(crate) fn new() -> Self {
        Self::with(Images::Common)
    }

    /// The same with that set of test images.
    pub(crate) fn with(images: Images) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let name = format!("test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let mut world = Self::bare();
        world.cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache");
        let mirror = mirror(images);
        world.file(
            "environment.yml",
            &format!(
                "name: {name}\nregistries:\n  docker.io:\n    mirrors: [\"{mirror}\"]\n    plainHttp: true\n"
            ),
        )
    }

    /// A world without an environment file, and with a cache of its own.
    pub(crate) fn bare() -> Self {
        let folder = TempDir::with_prefix_in("world-", env!("CARGO_TARGET_TMPDIR")).unwrap();
        Self { cache: folder.path().join("cache"), folder, disk: None }
    }

    /// The same world with its state on a disk of its own with so many MiB: a tmpfs that nobody else sees.
    #[must_use]
    pub(crate) fn with_small_disk(mut self, mebibytes: u32) -> Self {
        fs::create_dir(self.path().join("state")).unwrap();
        // What stays names this folder neither in its arguments nor in its environment, and ends with this process.
        let script = format!(
            "mount -t tmpfs -o mode=700,size={mebibytes}m small state && echo mounted && exec env -i cat"
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &script]).current_dir(self.path());
        let mut disk = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(disk.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "mounted\n", "the disk");
        self.disk = Some(disk);
        self
    }

    /// The folder of states, by a path that leads there from outside.
    pub(crate) fn state(&self) -> PathBuf {
        let state = self.path().join("state");
        match &self.disk {
            None => state,
            Some(disk) => {
                let root = Path::new("/proc").join(disk.id().to_string()).join("root");
                root.join(state.strip_prefix("/").unwrap())
            }
        }
    }

    /// The same world with a cache of its own.
    #[must_use]
    pub(crate) fn with_own_cache(mut self) -> Self {
        self.cache = self.path().join("cache");
        self
    }

    /// The folder that calls run in.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The folder of caches.
    pub(crate) fn cache(&self) -> &Path {
        &self.cache
    }

    /// Writes a file.
    #[must_use]
    pub(crate) fn file(self, name: &str, text: &str) -> Self {
        self.write(name, text);
        self
    }

    /// Writes a file.
    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path().join(name), text).unwrap();
    }

    /// Writes the example `path` of the repository, each `from` in it replaced by its `to`, as `name`.
    pub(crate) fn write_example(&self, path: &str, name: &str, replace: &[(&str, &str)]) {
        let mut text = fs::read_to_string(root().join(path)).unwrap();
        for (from, to) in replace {
            assert!(text.contains(from), "{path} has no `{from}`");
            text = text.replace(from, to);
        }
        self.write(name, &text);
    }

    /// A call of the program in this world.
    pub(crate) fn i2kit(&self, arguments: &[&str]) -> Call {
        Call::new(self.command(arguments))
    }

    /// A call of another program in this world.
    pub(crate) fn tool(&self, program: &str, arguments: &[&str]) -> Call {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(self.path());
        Call::new(command)
    }

    /// The program in this world.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let program = env!("CARGO_BIN_EXE_i2kit");
        let mut command = match &self.disk {
            None => Command::new(program),
            Some(disk) => {
                let mut command = Command::new("nsenter");
                let namespace = format!("--mount=/proc/{}/ns/mnt", disk.id());
                // Who enters is in the root folder.
                command.args([namespace.as_str(), "sh", "-c", "cd \"$0\" && exec \"$@\""]);
                command.arg(self.path()).arg(program);
                command
            }
        };
        let path = |name: &str| self.path().join(name);
        command
            .args(arguments)
            .current_dir(self.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.path())
            .env("I2KIT_GUEST", guest())
            .env("XDG_CACHE_HOME", &self.cache)
            .env("XDG_CONFIG_HOME", path("config"))
            .env("XDG_DATA_HOME", path("data"))
            .env("XDG_STATE_HOME", path("state"));
        command
    }

    /// What the environment holds.
    pub(crate) fn fleet(&self) -> Fleet {
        serde_json::from_str(&self.i2kit(&["status", "--output", "json"]).run().stdout).unwrap()
    }

    /// The group of that name in the default namespace.
    pub(crate) fn group(&self, name: &str) -> InstanceGroup {
        let name = Name { namespace: "default".into(), name: name.into() };
        let fleet = self.fleet();
        fleet.group(&name).unwrap_or_else(|| panic!("no group {name} in {fleet:#?}")).clone()
    }

    /// The first address of the balancer of that name in the default namespace.
    pub(crate) fn address(&self, name: &str) -> String {
        let name = Name { namespace: "default".into(), name: name.into() };
        let fleet = self.fleet();
        let addresses = fleet.balancer(&name).map(i2kit::plan::fleet::LoadBalancer::addresses);
        addresses
            .unwrap_or_default()
            .first()
            .unwrap_or_else(|| panic!("no address of {name}: {fleet:#?}"))
            .clone()
    }

    /// The processes of this world: those whose command line or environment names its folder, with their programs.
    pub(crate) fn processes(&self) -> Vec<(u32, String)> {
        let words = |arguments: Vec<u8>| String::from_utf8_lossy(&arguments).replace('\0', " ");
        processes::of(self.path()).into_iter().map(|(pid, arguments)| (pid, words(arguments))).collect()
    }

    /// The local cloud's process, once there is one: after a kill, the command that needs it starts the next.
    pub(crate) fn local_cloud(&self) -> u32 {
        super::eventually("local cloud", || {
            let found = self.processes().into_iter().find(|(_, arguments)| arguments.contains("local-cloud"));
            found.map(|(pid, _)| pid)
        })
    }

    /// Fails the test unless everything is gone: processes, and files of the local cloud.
    pub(crate) fn assert_nothing_left(&self) {
        super::eventually("end of all processes", || self.processes().is_empty().then_some(()));
        let state = self.state().join("i2kit/local");
        let left: Vec<_> = fs::read_dir(state).into_iter().flatten().flatten().map(|e| e.path()).collect();
        assert!(left.is_empty(), "destroy left {left:?}");
    }
}

impl Drop for World {
    /// Ends what the test left running; after a failure, shows what there was.
    #[expect(clippy::print_stderr, reason = "what a failed test leaves is shown with its output")]
    fn drop(&mut self) {
        if !self.path().join("state").exists() {
            return;
        }
        if std::thread::panicking() {
            let status = self.command(&["status"]).output();
            let log = fs::read_to_string(self.state().join("i2kit/local/cloud.log"));
            eprintln!(
                "{}",
                status.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default()
            );
            eprintln!("{}", log.unwrap_or_default());
        }
        let _ = self.command(&["destroy", "--all"]).output();
        processes::end(self.path(), std::time::Duration::from_secs(10));
        if let Some(disk) = &mut self.disk {
            drop(disk.stdin.take());
            let _ = disk.wait();
        }
    }
}

/// Sends SIGKILL, and waits for the end. A child of the test remains as a zombie, which has no command line.
pub(crate) fn kill(pid: u32) {
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
    super::eventually("end of what was killed", || {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.is_empty().then_some(())
    });
}
