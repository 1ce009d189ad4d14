//! What a running VM knows of itself: the source of variables and files that name the instance.

use std::net::IpAddr;

use i2kit_spec::InstanceField;

/// The VM as a member of its group.
#[derive(Debug, Clone, Default)]
pub struct Instance {
    /// The instance's name.
    pub name: String,
    /// Its index, when it is one of an Indexed Job.
    pub index: Option<u32>,
    /// An id that no other boot has.
    pub uid: String,
    /// The addresses of the first interface, that of IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// Number of processors.
    pub processors: u64,
    /// Bytes of memory that the kernel manages.
    pub memory: u64,
}

impl Instance {
    /// The value of a field as text.
    pub fn value(&self, field: InstanceField) -> String {
        match field {
            InstanceField::Name | InstanceField::NodeName => self.name.clone(),
            InstanceField::Ordinal => self.name.rsplit('-').next().unwrap_or_default().to_owned(),
            InstanceField::Uid => self.uid.clone(),
            InstanceField::Ip => self.addresses.first().map(IpAddr::to_string).unwrap_or_default(),
            // The first interface is the only one, so its addresses are all there are.
            InstanceField::Ips => self.addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(","),
            InstanceField::CompletionIndex => self.index.map(|index| index.to_string()).unwrap_or_default(),
            InstanceField::CpuMillis(unit) => (self.processors * 1000).div_ceil(unit.max(1)).to_string(),
            InstanceField::MemoryBytes(unit) => self.memory.div_ceil(unit.max(1)).to_string(),
        }
    }
}

/// Bytes of memory that the kernel manages.
pub fn memory() -> u64 {
    let info = rustix::system::sysinfo();
    // The kernel's types differ between architectures.
    #[expect(clippy::useless_conversion, reason = "a smaller type elsewhere")]
    u64::from(info.totalram).saturating_mul(u64::from(info.mem_unit.max(1)))
}

/// Number of processors.
pub fn processors() -> u64 {
    std::thread::available_parallelism().map_or(1, |count| count.get() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_rounded_up_to_their_unit() {
        let instance = Instance { processors: 2, memory: (100 << 20) + 1, ..Instance::default() };
        assert_eq!(instance.value(InstanceField::CompletionIndex), "");
        assert_eq!([instance.value(InstanceField::Ip), instance.value(InstanceField::Ips)], ["", ""]);
        let addresses = ["10.78.1.7", "fd69::107"].map(|address| address.parse().unwrap()).into();
        let both = Instance { addresses, ..instance.clone() };
        let expected = ["10.78.1.7", "10.78.1.7,fd69::107"];
        assert_eq!([both.value(InstanceField::Ip), both.value(InstanceField::Ips)], expected);
        let third = Instance { index: Some(2), ..instance.clone() };
        assert_eq!(third.value(InstanceField::CompletionIndex), "2");
        assert_eq!(instance.value(InstanceField::CpuMillis(1)), "2000");
        assert_eq!(instance.value(InstanceField::CpuMillis(1000)), "2");
        assert_eq!(instance.value(InstanceField::MemoryBytes(1 << 20)), "101");
    }
}
