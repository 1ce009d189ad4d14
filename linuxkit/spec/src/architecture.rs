//! Processor architectures of machines.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Processor architecture of a machine, in the words of OCI and Go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    /// x86-64.
    #[default]
    Amd64,
    /// 64-bit Arm.
    Arm64,
}

impl Architecture {
    /// All architectures.
    pub const ALL: [Self; 2] = [Self::Amd64, Self::Arm64];

    /// The architecture that this program is compiled for: the guest's own, in the guest.
    pub const COMPILED: Self = if cfg!(target_arch = "aarch64") { Self::Arm64 } else { Self::Amd64 };

    /// `amd64` or `arm64`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// What i2kit lacks to build and run machines of this architecture; `None` for one that works.
    pub const fn missing(self) -> Option<&'static str> {
        match self {
            Self::Amd64 => None,
            Self::Arm64 => Some("a guest bundle with an arm64 kernel"),
        }
    }

    /// Whether it is the default, which serialised forms leave out.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_serialised_form() {
        for architecture in Architecture::ALL {
            let json = serde_json::to_string(&architecture).unwrap();
            assert_eq!(json, format!("\"{architecture}\""));
            assert_eq!(serde_json::from_str::<Architecture>(&json).unwrap(), architecture);
        }
        assert!(serde_json::from_str::<Architecture>("\"s390x\"").is_err());
        assert_eq!(Architecture::default().missing(), None);
    }
}
