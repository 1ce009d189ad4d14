//! `scripts/demo` as a user without rights, with a program and images that are built already.

use std::fs;
use std::process::Command;

use tempfile::TempDir;

use crate::support::{Call, guest, machines, root};

/// A user that nobody has.
const USER: &str = "54321";

/// Copies what the demo reads, with a program and a guest that are built already, and runs it as that user, in a mount
/// namespace where the device of virtual interfaces has the mode that Debian gives it.
const SCRIPT: &str = r#"set -e
cd "$1"
cp -r --parents scripts manifests tests/images target/test-images "$2"
cp -r "$3" "$2/guest"
cp "$4" "$2/program"
chown -R "$5:$5" "$2"
mount -t tmpfs -o mode=755 tmpfs /mnt
mknod /mnt/tun c 10 200
chmod 666 /mnt/tun
mount --bind /mnt/tun /dev/net/tun
cd "$2"
exec setpriv --reuid "$5" --regid "$5" --clear-groups --no-new-privs env -i HOME="$2" PATH="$PATH" \
    I2KIT_PROGRAM="$2/program" I2KIT_GUEST="$2/guest" scripts/demo
"#;

#[test]
fn a_user_without_rights_sees_the_whole_demo() {
    if !machines() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", SCRIPT, "sh"]);
    command.arg(root()).arg(folder.path()).arg(guest()).arg(env!("CARGO_BIN_EXE_i2kit")).arg(USER);
    // What such a user sees otherwise than root: a port that it may not have is another one, and the demo says so.
    let shown = Call::new(command)
        .says("port 80 of Service nginx")
        .prints("nginx http://127.")
        .prints(":8080/")
        .prints("3/3 healthy")
        .prints("Nothing is left");
    let said = shown.run().stderr;
    assert!(!said.contains("until then machines have qemu's user network"), "{said}");
    assert!(fs::metadata(folder.path().join("target/demo-home")).is_ok());
}
