//! What a CI run shows of a deployment: a page of Markdown, appended to the file that the runner names.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;

use super::context::Context;
use crate::plan::fleet::Fleet;
use crate::plan::rollout::Step;
use crate::text;

/// Appends the page; a file that cannot be written gives a note and no error, since the deployment is done.
pub(super) fn write(
    context: &Context,
    environment: &str,
    (done, fleet): (&[Step], &Fleet),
    failure: Option<&str>,
) {
    let Some(file) = &context.summary else { return };
    let page = text::visible(&page(environment, (done, fleet), failure)).into_owned();
    let written = OpenOptions::new()
        .append(true)
        .create(true)
        .open(file)
        .and_then(|mut file| file.write_all(page.as_bytes()));
    if let Err(error) = written {
        context.events.note(format!("cannot write the step summary {}: {error}", file.display()));
    }
}

/// The page: how it ended, what was done, what there is now.
fn page(environment: &str, (done, fleet): (&[Step], &Fleet), failure: Option<&str>) -> String {
    let mut page = String::new();
    let outcome = match failure {
        Some(_) => "failed",
        None if done.iter().all(|step| step.act().is_none()) => "unchanged",
        None => "deployed",
    };
    let _ = writeln!(page, "## i2kit: {} {outcome}\n", cell(environment));
    if let Some(failure) = failure {
        let _ = writeln!(page, "```text\n{}\n```\n", failure.replace("```", "'''"));
    }
    if !fleet.groups.is_empty() {
        page += "| group | revision | healthy | state |\n|---|---|---|---|\n";
        for group in &fleet.groups {
            let revision = group.current.map_or_else(|| "none".to_owned(), |number| number.to_string());
            let state = group.refresh.as_ref().map_or_else(String::new, |refresh| refresh.status.to_string());
            let name = cell(&group.name.to_string());
            let _ = writeln!(
                page,
                "| {name} | {revision} | {} of {} | {state} |",
                group.healthy(),
                group.replicas
            );
        }
        page += "\n";
    }
    if !fleet.balancers.is_empty() {
        page += "| service | addresses |\n|---|---|\n";
        for balancer in &fleet.balancers {
            let addresses = cell(&balancer.addresses().join(" "));
            let _ = writeln!(page, "| {} | {addresses} |", cell(&balancer.spec.name.to_string()));
        }
        page += "\n";
    }
    if !done.is_empty() {
        page += "<details><summary>steps</summary>\n\n```text\n";
        for step in done {
            let _ = writeln!(page, "{}", step.to_string().replace("```", "'''"));
        }
        page += "```\n\n</details>\n";
    }
    page
}

/// A text that cannot leave its cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_stands_above_what_was_done() {
        let fleet = Fleet::default();
        let text = page("staging", (&[], &fleet), Some("web: revision 3 failed\n```"));
        assert_eq!(text, "## i2kit: staging failed\n\n```text\nweb: revision 3 failed\n'''\n```\n\n");
        assert_eq!(page("staging", (&[], &fleet), None), "## i2kit: staging unchanged\n\n");
        let group = crate::manifest::api::Name { namespace: "default".into(), name: "old".into() };
        let step = Step::from(crate::plan::act::Act::DeleteGroup { group });
        let text = page("staging", (&[step], &fleet), None);
        assert!(text.contains("staging deployed") && text.contains("- group old and its VMs"), "{text}");
        assert_eq!(cell("a|b\nc"), "a\\|b c");
    }
}
