//! Which network load balancer a Service shares: as few as their ports allow.

use std::fmt;
use std::str::FromStr;

use crate::manifest::api::ServiceType;
use crate::plan::fleet::BalancerSpec;

/// Listeners of one network load balancer, a quota of AWS.
const MOST_LISTENERS: usize = 50;

/// Who reaches a load balancer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scheme {
    /// The environment's network alone.
    Internal,
    /// Everybody that its security group lets in.
    Public,
}

impl Scheme {
    /// The scheme that a type of Service asks for.
    pub fn of(kind: ServiceType) -> Self {
        if kind == ServiceType::LoadBalancer { Self::Public } else { Self::Internal }
    }
}

/// One load balancer of an environment: `internal-0`, `public-1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BalancerSlot {
    /// Who reaches it.
    pub scheme: Scheme,
    /// Its number among those of the scheme.
    pub index: u32,
}

impl BalancerSlot {
    /// The slot in a name of CloudFormation, which has letters and digits only.
    pub fn in_template(self) -> String {
        let scheme = self.scheme.in_template();
        format!("{scheme}{}", self.index)
    }
}

impl Scheme {
    /// The scheme in a name of CloudFormation.
    pub fn in_template(self) -> &'static str {
        match self {
            Self::Internal => "Internal",
            Self::Public => "Public",
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Internal => "internal",
            Self::Public => "public",
        })
    }
}

impl fmt::Display for BalancerSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.scheme, self.index)
    }
}

impl FromStr for BalancerSlot {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (scheme, index) = text.split_once('-').ok_or(())?;
        let scheme = match scheme {
            "internal" => Scheme::Internal,
            "public" => Scheme::Public,
            _ => return Err(()),
        };
        Ok(Self { scheme, index: index.parse().map_err(drop)? })
    }
}

/// Where `spec` goes, given where all others are. A Service that has a place keeps it for as long as its ports are free
/// there: clients know the load balancer's name.
pub fn place(
    spec: &BalancerSpec,
    now: Option<BalancerSlot>,
    others: &[(BalancerSlot, BalancerSpec)],
) -> BalancerSlot {
    let scheme = Scheme::of(spec.kind);
    let fits = |placement: BalancerSlot| {
        let there = others.iter().filter(|(other, _)| *other == placement);
        let taken: Vec<_> = there.flat_map(|(_, spec)| &spec.listeners).collect();
        let free = spec.listeners.iter().all(|listener| {
            // TCP and UDP of one port could share a listener of the kind TCP_UDP only, with one target group.
            taken.iter().all(|other| other.port != listener.port)
        });
        free && taken.len() + spec.listeners.len() <= MOST_LISTENERS
    };
    if let Some(now) = now
        && now.scheme == scheme
        && fits(now)
    {
        return now;
    }
    // Every load balancer holds a Service, so that one more than there are Services is always free.
    let most = u32::try_from(others.len()).unwrap_or(u32::MAX);
    let free = (0..most).map(|index| BalancerSlot { scheme, index }).find(|placement| fits(*placement));
    free.unwrap_or(BalancerSlot { scheme, index: most })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::api::{Name, Protocol};
    use crate::plan::fleet::Listener;

    fn spec(kind: ServiceType, ports: &[u16]) -> BalancerSpec {
        let listener = |port: &u16| Listener::new(*port, Protocol::Tcp, vec![]);
        let name = Name { namespace: "default".into(), name: "a".into() };
        BalancerSpec::new(name, kind, ports.iter().map(listener).collect())
    }

    #[test]
    fn services_share_a_balancer_until_their_ports_collide() {
        use ServiceType::{ClusterIP, LoadBalancer};
        let mut placed = Vec::new();
        let mut put = |spec: BalancerSpec| {
            let placement = place(&spec, None, &placed);
            placed.push((placement, spec));
            placement.to_string()
        };
        assert_eq!(put(spec(ClusterIP, &[80])), "internal-0");
        assert_eq!(put(spec(ClusterIP, &[81, 82])), "internal-0");
        assert_eq!(put(spec(ClusterIP, &[82, 83])), "internal-1");
        assert_eq!(put(spec(LoadBalancer, &[80])), "public-0");
        assert_eq!(put(spec(ClusterIP, &[84])), "internal-0");
        let many: Vec<u16> = (1000..1048).collect();
        assert_eq!(put(spec(ClusterIP, &many)), "internal-1");
        assert_eq!(put(spec(ClusterIP, &[5000])), "internal-0");
    }

    #[test]
    fn a_place_is_kept_while_it_fits_and_reads_back() {
        let there = BalancerSlot { scheme: Scheme::Internal, index: 3 };
        let others = [(there, spec(ServiceType::ClusterIP, &[80]))];
        assert_eq!(place(&spec(ServiceType::ClusterIP, &[81]), Some(there), &others), there);
        assert_eq!(place(&spec(ServiceType::ClusterIP, &[80]), Some(there), &others).index, 0);
        assert_eq!(
            place(&spec(ServiceType::LoadBalancer, &[81]), Some(there), &others).scheme,
            Scheme::Public
        );
        assert_eq!("internal-3".parse(), Ok(there));
        assert_eq!("internal-x".parse::<BalancerSlot>(), Err(()));
    }
}
