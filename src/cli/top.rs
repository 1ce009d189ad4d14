//! `i2kit top`: what instances and their containers use.

use std::collections::BTreeSet;

use serde::Serialize;

use super::args::{TopArgs, TopOrder};
use super::context::Context;
use super::exit::{Exit, Failure, OrExit as _};
use super::tables::{row, table};
use super::{connection, named, output};
use crate::cloud::CloudError;
use crate::manifest::api::Name;
use crate::manifest::support::Answer;
use crate::plan::fleet::{InstanceGroup, InstanceId, InstanceState, InstanceUsage, ResourceUsage};
use crate::report::{self, Format};

/// What one instance uses.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Used<'f> {
    group: &'f Name,
    instance: &'f InstanceId,
    /// What it is called: of a member of a StatefulSet its name, such as `db-0`.
    name: &'f str,
    /// All containers together.
    #[serde(flatten)]
    pod: ResourceUsage,
    /// The containers, the whole machine, and the time that processor use is averaged over.
    #[serde(flatten)]
    parts: &'f InstanceUsage,
}

/// Prints what instances use, by name or the highest first.
pub(super) async fn run(context: &Context, args: &TopArgs) -> Result<Exit, Failure> {
    let support = connection::provider(context)?.support();
    if matches!(support.answer("i2kit top"), Answer::NotYet | Answer::No) {
        let unsupported = CloudError::Unsupported {
            what: format!("`i2kit top` on {}", support.name),
            advice: "the cloud's own monitoring shows what instances use".into(),
        };
        return Err(unsupported).or_exit(Exit::Cloud);
    }
    let fleet = named::observe(connection::cloud(context).await?.as_ref(), None).await?;
    let (groups, only) = match &args.name {
        None => (fleet.groups.iter().collect(), None),
        Some(name) => {
            let (group, instance) = named::group_or_instance(&fleet, name)?;
            (vec![group], instance.map(|instance| &instance.id))
        }
    };
    let is_meant = |id: &InstanceId| only.is_none_or(|only| only == id);
    let mut found = used(&groups, &is_meant);
    sort(&mut found, args.sort_by);
    let running = groups
        .iter()
        .flat_map(|group| &group.instances)
        .any(|instance| instance.state == InstanceState::Running && is_meant(&instance.id));
    match context.format {
        Format::Json => output::json(&found),
        Format::Text if !found.is_empty() => report::result(&text(&found, args)),
        Format::Text if running => {
            let error = anyhow::anyhow!(
                "metrics not available yet: what an instance uses is known some ten seconds after its start"
            );
            return Err(Failure::new(Exit::Failure, error));
        }
        Format::Text => report::result("No instance runs.\n"),
    }
    Ok(Exit::Success)
}

/// What is known of the instances of these groups that are meant.
fn used<'f>(groups: &[&'f InstanceGroup], is_meant: &dyn Fn(&InstanceId) -> bool) -> Vec<Used<'f>> {
    let members = groups.iter().flat_map(|group| group.instances.iter().map(|each| (&group.name, each)));
    let known = members.filter(|(_, instance)| is_meant(&instance.id));
    known
        .filter_map(|(group, instance)| {
            let parts = instance.usage.as_ref().filter(|usage| !usage.containers.is_empty())?;
            Some(Used { group, instance: &instance.id, name: instance.called(), pod: parts.pod(), parts })
        })
        .collect()
}

fn sort(found: &mut [Used<'_>], order: Option<TopOrder>) {
    found.sort_by(|a, b| {
        let by_name = (a.group, a.name, a.instance).cmp(&(b.group, b.name, b.instance));
        match order {
            None => by_name,
            Some(TopOrder::Cpu) => b.pod.cpu_millis.cmp(&a.pod.cpu_millis).then(by_name),
            Some(TopOrder::Memory) => b.pod.memory_bytes.cmp(&a.pod.memory_bytes).then(by_name),
        }
    });
}

/// The table of `kubectl top pod`, with the namespaces where there are several.
fn text(found: &[Used<'_>], args: &TopArgs) -> String {
    let amounts =
        |usage: &ResourceUsage| [format!("{}m", usage.cpu_millis), format!("{}Mi", usage.memory_bytes >> 20)];
    let namespaces: BTreeSet<&str> = found.iter().map(|used| used.group.namespace.as_str()).collect();
    let has_several = namespaces.len() > 1;
    let titled = |titles: &[&'static str]| {
        let first = has_several.then_some("NAMESPACE");
        table(&first.into_iter().chain(titles.iter().copied()).collect::<Vec<_>>())
    };
    let line = |used: &Used<'_>, cells: Vec<String>| {
        let first = has_several.then(|| used.group.namespace.clone());
        let cells = first.into_iter().chain([used.name.to_owned()]).chain(cells);
        cells.flat_map(|cell| row([cell])).collect::<Vec<String>>()
    };
    let table = if args.containers {
        let mut table = titled(&["POD", "NAME", "CPU(cores)", "MEMORY(bytes)"]);
        for used in found {
            let mut containers: Vec<(&String, &ResourceUsage)> = used.parts.containers.iter().collect();
            match args.sort_by {
                None => {}
                Some(TopOrder::Cpu) => {
                    containers.sort_by_key(|(_, usage)| std::cmp::Reverse(usage.cpu_millis));
                }
                Some(TopOrder::Memory) => {
                    containers.sort_by_key(|(_, usage)| std::cmp::Reverse(usage.memory_bytes));
                }
            }
            for (name, usage) in containers {
                let [cpu, memory] = amounts(usage);
                table.add_row(line(used, vec![name.clone(), cpu, memory]));
            }
        }
        table
    } else {
        let mut table = titled(&["NAME", "CPU(cores)", "MEMORY(bytes)"]);
        for used in found {
            let [cpu, memory] = amounts(&used.pod);
            table.add_row(line(used, vec![cpu, memory]));
        }
        table
    };
    let lines = table.lines().skip(usize::from(args.no_headers));
    lines.map(|line| line.trim_end().to_owned() + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group() -> InstanceGroup {
        let instance = |id: &str, containers: serde_json::Value| {
            serde_json::json!({"id": id, "revision": 1, "state": "running", "health": {"status": "healthy"},
                "since": 30, "endpoints": [], "containers": [],
                "usage": {"windowMs": 15000, "containers": containers}})
        };
        let use_of =
            |cpu: u64, memory: u64| serde_json::json!({"cpuMillis": cpu, "memoryBytes": memory << 20});
        serde_json::from_value(serde_json::json!({
            "name": {"namespace": "default", "name": "web"}, "replicas": 3,
            "settings": {"strategy": "Recreate", "minReadySeconds": 0, "progressDeadlineSeconds": 600,
                "revisionHistoryLimit": 10, "labels": {}},
            "current": 1, "nextRevision": 2, "revisions": [],
            "instances": [
                instance("web-1-b", serde_json::json!({"app": use_of(250, 30), "proxy": use_of(1, 40)})),
                instance("web-1-a", serde_json::json!({"app": use_of(3, 90), "proxy": use_of(7, 4)})),
                {"id": "web-1-c", "revision": 1, "state": "running", "health": {"status": "starting"},
                    "since": 30, "endpoints": [], "containers": []},
            ],
        }))
        .unwrap()
    }

    fn shown(sort_by: Option<TopOrder>, containers: bool, no_headers: bool) -> String {
        let group = group();
        let mut found = used(&[&group], &|_| true);
        sort(&mut found, sort_by);
        text(&found, &TopArgs { name: None, containers, sort_by, no_headers })
    }

    #[test]
    fn the_table_is_kubectls() {
        assert_eq!(
            shown(None, false, false),
            "NAME     CPU(cores)  MEMORY(bytes)\nweb-1-a  10m         94Mi\nweb-1-b  251m        70Mi\n"
        );
        assert_eq!(
            shown(Some(TopOrder::Cpu), false, true),
            "web-1-b  251m        70Mi\nweb-1-a  10m         94Mi\n"
        );
        assert_eq!(
            shown(Some(TopOrder::Memory), true, false),
            "POD      NAME   CPU(cores)  MEMORY(bytes)\nweb-1-a  app    3m          90Mi\nweb-1-a  proxy  7m          4Mi\n\
             web-1-b  proxy  1m          40Mi\nweb-1-b  app    250m        30Mi\n"
        );
        // Members of StatefulSets have names of their own, which are those of one namespace.
        let of = |namespace: &str| {
            let mut group = group();
            group.name.namespace = namespace.into();
            group.instances.remove(0);
            group.instances[0].name = Some("db-0".into());
            group
        };
        let (a, b) = (of("a"), of("b"));
        let args = TopArgs { name: None, containers: false, sort_by: None, no_headers: false };
        assert_eq!(
            text(&used(&[&b, &a], &|_| true), &args),
            "NAMESPACE  NAME  CPU(cores)  MEMORY(bytes)\nb          db-0  10m         94Mi\na          db-0  10m         94Mi\n"
        );
        assert_eq!(
            text(&used(&[&a], &|_| true), &args),
            "NAME  CPU(cores)  MEMORY(bytes)\ndb-0  10m         94Mi\n"
        );
        let group = group();
        let json = serde_json::to_value(used(&[&group], &|id| **id == *"web-1-a")).unwrap();
        assert_eq!(json[0]["cpuMillis"], 10);
        assert_eq!(json[0]["containers"]["app"]["memoryBytes"], 90 << 20);
        assert_eq!(json.as_array().map(Vec::len), Some(1));
    }
}
