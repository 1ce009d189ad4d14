//! One container as an OCI runtime configuration: the manifest's settings over its image's.

use std::collections::BTreeMap;

use i2kit_spec::runtime::{
    Capabilities, Config, Cpu, Linux, Memory, Mount, Namespace, NamespaceKind, OCI_VERSION, Process,
    Resources, Rlimit, Root, User,
};

use super::environment::Environment;
use super::{security, volume};
use crate::manifest::api::{self, Container, PodSpec};
use crate::oci::ContainerConfig;

/// Open files: a low soft limit, because some programs loop over all possible descriptors when they start, and a high
/// hard one, up to which programs that need it raise theirs. The values are systemd's and containerd's.
const OPEN_FILES: (u64, u64) = (1024, 524_288);

/// Length of the processor quota's period in microseconds, the kernel's default.
const CPU_PERIOD: u64 = 100_000;

/// The container's command, or `None` when neither manifest nor image has one.
fn command(container: &Container, image: &ContainerConfig) -> Option<Vec<String>> {
    let args = || container.args.clone().unwrap_or_default();
    let line = match (&container.command, &container.args) {
        (Some(command), _) => [command.clone(), args()].concat(),
        (None, Some(_)) => [image.entrypoint.clone(), args()].concat(),
        (None, None) => [image.entrypoint.clone(), image.cmd.clone()].concat(),
    };
    (!line.is_empty()).then_some(line)
}

/// Whether the command is the manifest's, in which references to variables are expanded, unlike in an image's.
pub(super) fn is_written(container: &Container) -> bool {
    container.command.is_some() || container.args.is_some()
}

/// The OCI runtime configuration of `container`, or `None` when there is no command to run.
pub(super) fn config(
    container: &Container,
    image: &ContainerConfig,
    environment: &Environment,
    volumes: Vec<Mount>,
    pod: &PodSpec,
) -> Option<Config> {
    let args = command(container, image)?;
    let args =
        if is_written(container) { args.iter().map(|arg| environment.expand(arg)).collect() } else { args };
    let mut mounts = mounts();
    volume::insert(&mut mounts, volumes);
    let working_dir = container.working_dir.as_deref().unwrap_or(&image.working_dir);
    let mut config = Config {
        oci_version: OCI_VERSION.into(),
        process: Process {
            terminal: false,
            user: User::default(),
            args,
            env: environment.entries(container, image),
            cwd: if working_dir.is_empty() { "/".into() } else { working_dir.into() },
            capabilities: Capabilities::default(),
            rlimits: vec![Rlimit { kind: "RLIMIT_NOFILE".into(), soft: OPEN_FILES.0, hard: OPEN_FILES.1 }],
            no_new_privileges: false,
            oom_score_adj: None,
        },
        root: Root { path: "rootfs".into(), readonly: false },
        hostname: String::new(),
        mounts,
        annotations: BTreeMap::new(),
        linux: Linux {
            namespaces: [NamespaceKind::Pid, NamespaceKind::Mount, NamespaceKind::Cgroup]
                .map(|kind| Namespace { kind })
                .into(),
            resources: resources(&container.resources),
            ..Linux::default()
        },
    };
    security::apply(&mut config, &container.security, pod);
    Some(config)
}

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Mount {
    Mount {
        destination: destination.into(),
        kind: kind.into(),
        source: source.into(),
        options: options.iter().map(|&option| option.into()).collect(),
    }
}

/// LinuxKit's default mounts, with the shared memory and message queues that container engines add, and the VM's own
/// name resolution files.
fn mounts() -> Vec<Mount> {
    vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
        ),
        mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
        mount("/etc/hosts", "bind", "/etc/hosts", &["rbind", "rw"]),
        mount("/etc/hostname", "bind", "/etc/hostname", &["rbind", "rw"]),
        mount("/etc/resolv.conf", "bind", "/etc/resolv.conf", &["rbind", "rw"]),
    ]
}

/// Requests and limits in the runtime specification's words; conversions are the kubelet's.
fn resources(wanted: &api::ResourceRequirements) -> Option<Resources> {
    // A limit without a request is also the request, as Kubernetes defaults it.
    let request_cpu = wanted.request_cpu_millis.or(wanted.limit_cpu_millis);
    let request_memory = wanted.request_memory_bytes.or(wanted.limit_memory_bytes);
    let memory = (request_memory.is_some() || wanted.limit_memory_bytes.is_some()).then_some(Memory {
        limit: wanted.limit_memory_bytes.map(|limit| limit.0),
        reservation: request_memory.map(|request| request.0),
    });
    let cpu = (request_cpu.is_some() || wanted.limit_cpu_millis.is_some()).then(|| Cpu {
        // 1024 shares are one core; the kernel takes no less than 2.
        shares: request_cpu.map(|millis| (millis * 1024 / 1000).max(2)),
        // The kernel refuses quotas below one millisecond.
        quota: wanted.limit_cpu_millis.map(|millis| (millis * CPU_PERIOD / 1000).max(1000)),
        period: wanted.limit_cpu_millis.map(|_| CPU_PERIOD),
    });
    (memory.is_some() || cpu.is_some()).then_some(Resources { memory, cpu, pids: None })
}

#[cfg(test)]
mod tests {
    use i2kit_spec::{Bytes, EnvValue, EnvVar};

    use super::*;

    fn config(container: &Container, image: &ContainerConfig, pod: &PodSpec) -> Option<Config> {
        super::config(container, image, &Environment::of(container), Vec::new(), pod)
    }

    fn container() -> Container {
        Container::new("web", "nginx".parse().unwrap())
    }

    fn image() -> ContainerConfig {
        ContainerConfig {
            entrypoint: vec!["/entry".into()],
            cmd: vec!["serve".into()],
            env: vec!["PATH=/bin".into(), "A=image".into()],
            working_dir: "/srv".into(),
            ..ContainerConfig::default()
        }
    }

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn command_and_args_replace_as_in_kubernetes() {
        let args = |container: &Container| {
            config(container, &image(), &PodSpec::default()).unwrap().process.args.join(" ")
        };
        let mut c = container();
        assert_eq!(args(&c), "/entry serve");
        c.args = Some(words("other"));
        assert_eq!(args(&c), "/entry other");
        c.command = Some(words("/own"));
        assert_eq!(args(&c), "/own other");
        c.args = None;
        assert_eq!(args(&c), "/own");
        assert_eq!(config(&container(), &ContainerConfig::default(), &PodSpec::default()), None);
    }

    #[test]
    fn environment_overrides_and_expands_in_order() {
        let mut c = container();
        let env =
            |name: &str, value: &str| EnvVar { name: name.into(), value: EnvValue::Written(value.into()) };
        c.env = vec![env("B", "$(A)"), env("A", "1"), env("C", "$(A)-$(B)")];
        c.command = Some(words("run $(C) $(PATH)"));
        let config = config(&c, &image(), &PodSpec::default()).unwrap();
        assert_eq!(config.process.env, ["PATH=/bin", "A=1", "B=$(A)", "C=1-$(A)"]);
        assert_eq!(config.process.args, ["run", "1-$(A)", "$(PATH)"], "the image's variables are not known");
        assert_eq!(config.process.cwd, "/srv");
    }

    #[test]
    fn limits_convert_as_the_kubelet_does() {
        let wanted = api::ResourceRequirements {
            limit_cpu_millis: Some(250),
            request_memory_bytes: Some(Bytes::mib(64)),
            limit_memory_bytes: Some(Bytes::mib(128)),
            ..api::ResourceRequirements::default()
        };
        let got = resources(&wanted).unwrap();
        assert_eq!(got.cpu, Some(Cpu { shares: Some(256), quota: Some(25_000), period: Some(100_000) }));
        assert_eq!(got.memory, Some(Memory { limit: Some(128 << 20), reservation: Some(64 << 20) }));
        assert_eq!(resources(&api::ResourceRequirements::default()), None);
    }
}
