//! LinuxKit's rules for its YAML, as far as they can be checked without images: what its schema allows (no unknown
//! key anywhere, the type of each value) and what its code refuses beyond that. Written from LinuxKit's documentation
//! `docs/yaml.md` and its schema, so that what i2kit writes is checked by something other than what wrote it.

use std::collections::BTreeSet;

use i2kit::oci::Reference;
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    kernel: Kernel,
    #[serde(default)]
    init: Vec<String>,
    #[serde(default)]
    onboot: Vec<Entry>,
    #[serde(default)]
    services: Vec<Entry>,
    #[serde(default)]
    files: Vec<File>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Kernel {
    image: String,
    #[expect(dead_code, reason = "only its type is checked")]
    cmdline: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Entry {
    name: String,
    image: String,
    command: Vec<String>,
    env: Vec<String>,
    cwd: String,
    #[serde(default)]
    uid: Option<u32>,
    #[serde(default)]
    gid: Option<u32>,
    capabilities: Vec<String>,
    mounts: Vec<Mount>,
    binds: Vec<String>,
    rlimits: Vec<String>,
    masked_paths: Vec<String>,
    readonly_paths: Vec<String>,
    #[expect(dead_code, reason = "only its type is checked")]
    no_new_privileges: bool,
    #[expect(dead_code, reason = "only its type is checked")]
    readonly: bool,
    #[serde(default)]
    resources: Option<i2kit_spec::runtime::Resources>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mount {
    destination: String,
    #[serde(rename = "type")]
    kind: String,
    source: String,
    #[serde(default)]
    options: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    path: String,
    mode: String,
    #[serde(default)]
    contents: Option<String>,
    #[serde(default)]
    directory: Option<bool>,
}

/// Everything that LinuxKit would refuse in `yaml`, in no particular order.
pub(crate) fn violations(yaml: &str) -> Vec<String> {
    let document: Document = match serde_yaml::from_str(yaml) {
        Ok(document) => document,
        Err(error) => return vec![format!("schema: {error}")],
    };
    let mut found = Vec::new();
    for image in document.init.iter().chain([&document.kernel.image]) {
        reference(image, &mut found);
    }
    let mut names = BTreeSet::new();
    for service in &document.services {
        if !names.insert(&service.name) {
            found.push(format!("service name {} is used twice", service.name));
        }
    }
    for one in document.onboot.iter().chain(&document.services) {
        entry(one, &mut found);
    }
    for file in &document.files {
        let octal = !file.mode.is_empty() && file.mode.bytes().all(|b| (b'0'..=b'7').contains(&b));
        if !octal {
            found.push(format!("{}: mode {} is not an octal string", file.path, file.mode));
        }
        if file.contents.is_some() == (file.directory == Some(true)) {
            found.push(format!("{}: needs either contents or directory", file.path));
        }
        // These are memory file systems at boot: a file there would be hidden.
        if ["var", "run", "tmp"]
            .iter()
            .any(|top| file.path.trim_start_matches('/').split('/').next() == Some(top))
        {
            found.push(format!("{}: hidden by a tmpfs at boot", file.path));
        }
    }
    found
}

fn reference(text: &str, found: &mut Vec<String>) {
    if let Err(error) = text.parse::<Reference>() {
        found.push(error.to_string());
    }
}

/// The resource limits that LinuxKit knows by name.
const RLIMITS: [&str; 16] = [
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

fn entry(entry: &Entry, found: &mut Vec<String>) {
    let mut refuse = |what: String| found.push(format!("{}: {what}", entry.name));
    if entry.command.is_empty() {
        refuse("no command".into());
    }
    if !entry.cwd.starts_with('/') {
        refuse(format!("cwd {} is not absolute", entry.cwd));
    }
    for variable in entry.env.iter().filter(|variable| !variable.contains('=')) {
        refuse(format!("environment entry {variable} has no value"));
    }
    for capability in &entry.capabilities {
        let known = matches!(capability.as_str(), "all" | "none") || capability.starts_with("CAP_");
        if !known
            || capability.bytes().any(|b| b.is_ascii_lowercase())
                && !matches!(capability.as_str(), "all" | "none")
        {
            refuse(format!("capability {capability}"));
        }
    }
    for limit in &entry.rlimits {
        let parts: Vec<&str> = limit.split(',').collect();
        let number = |text: &str| text == "unlimited" || text.parse::<u64>().is_ok();
        let good = matches!(parts[..], [name, soft, hard]
            if RLIMITS.contains(&name.to_lowercase().trim_start_matches("rlimit_")) && number(soft) && number(hard));
        if !good {
            refuse(format!("rlimit {limit}"));
        }
    }
    for bind in &entry.binds {
        let parts: Vec<&str> = bind.split(':').collect();
        if !(2..=3).contains(&parts.len()) || !parts[1].starts_with('/') {
            refuse(format!("bind {bind}"));
        }
    }
    for mount in &entry.mounts {
        if !mount.destination.starts_with('/') || mount.kind.is_empty() || mount.source.is_empty() {
            refuse(format!("mount of {} at {}", mount.source, mount.destination));
        }
        if mount.options.iter().any(String::is_empty) {
            refuse(format!("empty option of the mount at {}", mount.destination));
        }
    }
    for path in entry.masked_paths.iter().chain(&entry.readonly_paths) {
        if !path.starts_with('/') {
            refuse(format!("path {path} is not absolute"));
        }
    }
    // An id of 0 is written as no id at all.
    if entry.uid == Some(0) || entry.gid == Some(0) {
        refuse("root by number".into());
    }
    if let Some(cpu) = entry.resources.as_ref().and_then(|resources| resources.cpu.as_ref())
        && cpu.quota.is_some() != cpu.period.is_some()
    {
        refuse("a quota needs a period".into());
    }
    reference(&entry.image, found);
}
