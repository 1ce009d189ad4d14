//! Groups of machines of several kinds.

use serde::{Deserialize, Serialize};

/// Of which types a group's machines are, and how many of them the cloud cannot take back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MachineMix {
    /// Types in the order of preference; the one by size when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub types: Vec<String>,
    /// So many machines are on demand in any case.
    #[serde(default)]
    pub on_demand_base: u32,
    /// On-demand share above the base, in percent.
    pub on_demand_percent: u8,
}

impl MachineMix {
    /// What the manifest's words come to; `None` where all machines are of one kind.
    pub fn of(types: &[String], spot_percent: u8, on_demand_base: u32) -> Option<Self> {
        let all_alike = spot_percent == 0 || (spot_percent == 100 && on_demand_base == 0);
        (types.len() > 1 || !all_alike).then(|| Self {
            types: types.to_vec(),
            on_demand_base,
            on_demand_percent: 100_u8.saturating_sub(spot_percent),
        })
    }

    /// Its terms in words, such as `2 and 25 % on demand, else Spot`.
    pub fn terms(&self) -> String {
        match (self.on_demand_base, self.on_demand_percent) {
            (_, 100) => "on demand".into(),
            (0, 0) => "Spot".into(),
            (base, 0) => format!("{base} on demand, else Spot"),
            (0, percent) => format!("{percent} % on demand, else Spot"),
            (base, percent) => format!("{base} and {percent} % on demand, else Spot"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_of_one_kind_are_no_mix() {
        let types = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let one = types(&["m6a.large"]);
        for (spot, base) in [(0, 0), (100, 0), (0, 3)] {
            assert_eq!(MachineMix::of(&one, spot, base), None);
        }
        let terms = |spot, base| MachineMix::of(&one, spot, base).unwrap().terms();
        assert_eq!(terms(100, 2), "2 on demand, else Spot");
        assert_eq!(terms(75, 0), "25 % on demand, else Spot");
        let two = MachineMix::of(&types(&["m6a.large", "m6i.large"]), 0, 0).unwrap();
        assert_eq!((two.terms().as_str(), two.on_demand_percent), ("on demand", 100));
    }
}
