//! Any text as a profile of system calls: what is read makes a filter that the guest reads the same.

use i2kit::plan::seccomp::Profile;
use i2kit_spec::seccomp::SeccompFilter;

/// Fails when something does not hold.
pub(crate) fn run(data: &[u8]) {
    let text: &str = &String::from_utf8_lossy(data);
    if let Ok(profile) = Profile::parse(text) {
        let filter = profile.filter(&["CAP_SYS_ADMIN".to_owned()], i2kit_spec::Architecture::Amd64, "6.1.0");
        let written = serde_json::to_string(&filter).expect("a filter has only string keys");
        assert_eq!(serde_json::from_str::<SeccompFilter>(&written).expect("it reads what it writes"), filter);
    }
}
