//! Profiles of system calls as container engines keep them in files, and what one means for a container. The form is
//! Docker's, of which the OCI runtime specification's is a part.

use i2kit_spec::Architecture;
use i2kit_spec::seccomp::{SeccompAction, SeccompArg, SeccompFilter, SeccompRule};
use serde::Deserialize;

/// Flags that change nothing here: a container begins with one thread, and the kernel allows speculation anyway.
const FLAGS: [&str; 2] = ["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"];

/// A call has six arguments.
const ARGUMENTS: u8 = 6;

/// The kernel's largest error number.
const MAX_ERRNO: u16 = 4095;

/// A profile.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Profile {
    default_action: SeccompAction,
    default_errno_ret: Option<u16>,
    /// The number's name, for people.
    #[serde(rename = "defaultErrno")]
    _default_errno: Option<String>,
    /// Unused: the rules of the machine's architecture are picked by their `includes` and `excludes`.
    #[serde(rename = "architectures")]
    _architectures: Option<Vec<String>>,
    #[serde(rename = "archMap")]
    _arch_map: Option<serde_json::Value>,
    flags: Option<Vec<String>>,
    syscalls: Option<Vec<Rule>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    name: Option<String>,
    names: Option<Vec<String>>,
    action: SeccompAction,
    errno_ret: Option<u16>,
    #[serde(rename = "errno")]
    _errno: Option<String>,
    args: Option<Vec<SeccompArg>>,
    #[serde(rename = "comment")]
    _comment: Option<String>,
    #[serde(default)]
    includes: Condition,
    #[serde(default)]
    excludes: Condition,
}

/// When a rule holds, or does not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Condition {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

/// Why a profile is refused.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// It is not what a profile looks like.
    #[error("this is no seccomp profile: {0}")]
    Form(#[from] serde_json::Error),
    /// A flag with a meaning that the guest does not have.
    #[error("flag `{0}` of a seccomp profile is not known here; remove it")]
    Flag(String),
    /// There is no such argument.
    #[error("calls have arguments 0 to 5, and a rule for `{name}` asks for {index}")]
    Argument {
        /// The first call of the rule.
        name: String,
        /// The argument.
        index: u8,
    },
    /// No kernel gives this error.
    #[error("errnoRet {0} is larger than any error number (4095)")]
    Errno(u16),
}

impl Profile {
    /// Reads a profile.
    pub fn parse(text: &str) -> Result<Self, ProfileError> {
        let profile: Self = serde_json::from_str(text)?;
        let unknown = profile.flags.iter().flatten().find(|flag| !FLAGS.contains(&flag.as_str()));
        if let Some(flag) = unknown {
            return Err(ProfileError::Flag(flag.clone()));
        }
        let rules = || profile.syscalls.iter().flatten();
        let errors = rules().filter_map(|rule| rule.errno_ret).chain(profile.default_errno_ret);
        if let Some(errno) = errors.into_iter().find(|errno| *errno > MAX_ERRNO) {
            return Err(ProfileError::Errno(errno));
        }
        for rule in rules() {
            if let Some(arg) = rule.args.iter().flatten().find(|arg| arg.index >= ARGUMENTS) {
                let name = rule.all_names().into_iter().next().unwrap_or_default();
                return Err(ProfileError::Argument { name, index: arg.index });
            }
        }
        Ok(profile)
    }

    /// The filter of a container that may hold these capabilities, on a kernel of this architecture and release.
    pub fn filter(&self, capabilities: &[String], architecture: Architecture, kernel: &str) -> SeccompFilter {
        let holds = |rule: &&Rule| {
            let (includes, excludes) = (&rule.includes, &rule.excludes);
            let held = |name: &String| capabilities.contains(name);
            let ours = |arches: &Option<Vec<String>>| {
                arches
                    .as_ref()
                    .filter(|list| !list.is_empty())
                    .map(|list| list.iter().any(|name| name == architecture.name()))
            };
            let reached =
                |least: &Option<String>| least.as_ref().map(|least| release(kernel) >= release(least));
            includes.caps.iter().flatten().all(held)
                && !excludes.caps.iter().flatten().any(held)
                && ours(&includes.arches) != Some(false)
                && ours(&excludes.arches) != Some(true)
                && reached(&includes.min_kernel) != Some(false)
                && reached(&excludes.min_kernel) != Some(true)
        };
        let rules = self.syscalls.iter().flatten().filter(holds).map(|rule| SeccompRule {
            names: rule.all_names(),
            action: rule.action,
            errno_ret: rule.errno_ret,
            args: rule.args.clone().unwrap_or_default(),
        });
        SeccompFilter {
            default_action: self.default_action,
            default_errno_ret: self.default_errno_ret,
            syscalls: rules.collect(),
        }
    }
}

impl Rule {
    /// The calls' names, also in the older form that has one.
    fn all_names(&self) -> Vec<String> {
        self.name.iter().chain(self.names.iter().flatten()).cloned().collect()
    }
}

/// The first two numbers of a kernel's release.
fn release(text: &str) -> (u32, u32) {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_hold_as_docker_says() {
        let profile = Profile::parse(
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "architectures": ["SCMP_ARCH_X86_64"],
              "syscalls": [
                {"names": ["read", "write"], "action": "SCMP_ACT_ALLOW", "args": null, "comment": "always"},
                {"name": "mount", "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
                {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_SYS_ADMIN"]},
                 "args": [{"index": 0, "value": 2114060288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]},
                {"names": ["arch_prctl"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["amd64", "x32"]}},
                {"names": ["s390_pci_mmio_read"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["s390x"]}},
                {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
                {"names": ["new"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "6.10"}}]}"#,
        )
        .unwrap();
        let names = |capabilities: &[&str]| {
            let capabilities: Vec<String> = capabilities.iter().map(|name| (*name).to_owned()).collect();
            let filter = profile.filter(&capabilities, Architecture::Amd64, "6.1.0-1-cloud-amd64");
            filter.syscalls.into_iter().flat_map(|rule| rule.names).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(names(&[]), "read write clone arch_prctl ptrace");
        assert_eq!(names(&["CAP_SYS_ADMIN"]), "read write mount arch_prctl ptrace");
        let filter = profile.filter(&[], Architecture::Amd64, "6.1");
        let text = serde_json::to_string(&filter).unwrap();
        assert_eq!(serde_json::from_str::<SeccompFilter>(&text).unwrap(), filter);
    }

    #[test]
    fn what_is_no_profile_is_refused_with_its_place() {
        let error = |text: &str| Profile::parse(text).unwrap_err().to_string();
        let with = |rest: &str| error(&format!("{{\"defaultAction\": \"SCMP_ACT_ALLOW\", {rest}}}"));
        assert!(error("{").contains("line 1 column"), "{}", error("{"));
        assert!(
            error("{\"defaultAction\": \"SCMP_ACT_NOTIFY\"}").contains("unknown variant `SCMP_ACT_NOTIFY`")
        );
        assert!(with("\"listenerPath\": \"/x\"").contains("unknown field `listenerPath`"));
        assert!(with("\"flags\": [\"SECCOMP_FILTER_FLAG_NEW_LISTENER\"]").contains("NEW_LISTENER"));
        assert!(with("\"defaultErrnoRet\": 5000").contains("5000"));
        let args = "\"syscalls\": [{\"names\": [\"dup\"], \"action\": \"SCMP_ACT_LOG\", \"args\": [{\"index\": 6, \"value\": 0, \"op\": \"SCMP_CMP_EQ\"}]}]";
        assert!(with(args).contains("a rule for `dup` asks for 6"));
    }
}
