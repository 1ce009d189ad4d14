//! A container's configuration with nothing in it, for tests.

use i2kit_spec::runtime::Config;

/// No process, mount or namespace.
pub(crate) fn config() -> Config {
    let json = serde_json::json!({
        "ociVersion": "1.2.0",
        "process": {
            "user": {"uid": 0, "gid": 0}, "args": [], "env": [], "cwd": "/", "capabilities": {},
            "noNewPrivileges": false,
        },
        "root": {"path": "rootfs"},
        "mounts": [],
        "linux": {"namespaces": []},
    });
    serde_json::from_value(json).unwrap()
}
