//! Rules about Jobs and CronJobs: fields that need, or exclude, others.

use crate::manifest::api::{Indexes, MAX_INDEXES};
use crate::manifest::check::report::Check;
use crate::manifest::code::Code;
use crate::manifest::tree::Node;

/// The longest name of a CronJob. Source: Kubernetes' validation, which leaves 11 characters for the time of a run.
const CRON_JOB_NAME: usize = 52;

/// The longest host name. Source: Kubernetes' validation, RFC 1123.
const HOST_NAME: usize = 63;

/// Most rules of a failure or success policy. Source: Kubernetes' validation.
const MAX_RULES: usize = 20;

/// Pods of jobs end.
pub(in crate::manifest) fn job_restarts(check: &mut Check<'_>, spec: &Node<'_>) {
    let Some(pod) = spec.at(&["template", "spec"]) else { return };
    let policy = pod.get("restartPolicy");
    if matches!(policy.and_then(Node::scalar), None | Some("Always")) {
        let span = policy.map_or(pod.span, |policy| policy.span);
        check.below(&["template", "spec", "restartPolicy"], |check| {
            check
                .report(
                    Code::InvalidValue,
                    span,
                    "the pod of a Job must end: its default `Always` does not fit",
                )
                .help("write `restartPolicy: OnFailure` or `restartPolicy: Never`");
        });
    }
}

/// What is about indexes is for Indexed jobs, whose number of indexes is known.
pub(in crate::manifest) fn job_indexes(check: &mut Check<'_>, spec: &Node<'_>) {
    let indexed = spec.str("completionMode") == Some("Indexed");
    let number = |field: &str| spec.str(field).and_then(|text| text.parse::<u32>().ok());
    if indexed {
        let mode = spec.get("completionMode").map_or(spec.span, |node| node.span);
        match number("completions") {
            None if spec.get("completions").is_none() => {
                check
                    .report(Code::MissingField, mode, "an Indexed job needs `completions`")
                    .help("write how many indexes there are");
            }
            Some(completions) if completions > MAX_INDEXES => {
                let message = format!("an Indexed job has at most {MAX_INDEXES} indexes");
                refuse(check, spec, "completions", &message, "write several jobs");
            }
            _ => {}
        }
    } else {
        for field in ["backoffLimitPerIndex", "maxFailedIndexes", "successPolicy"] {
            let message = format!("`{field}` is for jobs with `completionMode: Indexed`");
            refuse(check, spec, field, &message, "write `completionMode: Indexed`, or remove it");
        }
    }
    let restarts = spec.at(&["template", "spec", "restartPolicy"]).and_then(Node::scalar);
    if indexed && restarts == Some("OnFailure") {
        let message = "`backoffLimitPerIndex` needs `restartPolicy: Never`, so that each failure is seen";
        refuse(check, spec, "backoffLimitPerIndex", message, "write `restartPolicy: Never` in the pod");
    }
    if spec.get("maxFailedIndexes").is_some() && spec.get("backoffLimitPerIndex").is_none() {
        let message = "`maxFailedIndexes` needs `backoffLimitPerIndex`: without it no index fails by itself";
        refuse(check, spec, "maxFailedIndexes", message, "write `backoffLimitPerIndex` too");
    }
    if let (Some(most), Some(completions)) = (number("maxFailedIndexes"), number("completions"))
        && most > completions
    {
        let message = format!("`maxFailedIndexes` is larger than the {completions} indexes that there are");
        refuse(check, spec, "maxFailedIndexes", &message, "write at most `completions`");
    }
}

/// A failure is looked at when its machine ends: the pod's containers must not be started again in it.
pub(in crate::manifest) fn failure_policy(check: &mut Check<'_>, spec: &Node<'_>) {
    let Some(policy) = spec.get("podFailurePolicy") else { return };
    let restarts = spec.at(&["template", "spec", "restartPolicy"]).and_then(Node::scalar);
    if restarts != Some("Never") {
        let message = "`podFailurePolicy` needs `restartPolicy: Never`, so that each failure is seen";
        refuse(check, spec, "podFailurePolicy", message, "write `restartPolicy: Never` in the pod");
    }
    if spec.str("podReplacementPolicy").is_some_and(|policy| policy != "Failed") {
        let message = "`podReplacementPolicy` is `Failed` beside `podFailurePolicy`";
        refuse(check, spec, "podReplacementPolicy", message, "remove it");
    }
    let items = policy.get("rules").map_or(&[][..], Node::items);
    if items.len() > MAX_RULES {
        let message = format!("a policy has at most {MAX_RULES} rules");
        refuse(check, spec, "podFailurePolicy", &message, "write fewer rules");
    }
    let by_index = spec.get("backoffLimitPerIndex").is_some();
    let pod = spec.at(&["template", "spec"]);
    let is_container = |name: &str| {
        let lists = ["containers", "initContainers"].into_iter().filter_map(|list| pod?.get(list));
        lists.flat_map(Node::items).any(|container| container.str("name") == Some(name))
    };
    check.key("podFailurePolicy", |check| {
        check.each(policy, "rules", |check, rule| {
            if !by_index && rule.str("action") == Some("FailIndex") {
                let message = "`FailIndex` needs `backoffLimitPerIndex`";
                refuse(check, rule, "action", message, "write `backoffLimitPerIndex` too, or `FailJob`");
            }
            let Some(codes) = rule.get("onExitCodes") else { return };
            check.key("onExitCodes", |check| {
                let values = codes.get("values").map_or(&[][..], Node::items);
                if codes.str("operator") == Some("In") && values.iter().any(|code| code.scalar() == Some("0"))
                {
                    refuse(
                        check,
                        codes,
                        "values",
                        "a container with exit code 0 did not fail",
                        "remove the 0",
                    );
                }
                if let Some(name) = codes.str("containerName").filter(|name| !is_container(name)) {
                    let message = format!("the pod has no container {}", check.shown(name));
                    refuse(check, codes, "containerName", &message, "name a container of the pod");
                }
            });
        });
    });
}

/// Indexes of a success policy are those of the job, and no more of them are counted than there are.
pub(in crate::manifest) fn success_policy(check: &mut Check<'_>, spec: &Node<'_>) {
    let Some(policy) = spec.get("successPolicy") else { return };
    let completions = spec.str("completions").and_then(|text| text.parse::<u32>().ok());
    if policy.get("rules").map_or(&[][..], Node::items).len() > MAX_RULES {
        let message = format!("a policy has at most {MAX_RULES} rules");
        refuse(check, spec, "successPolicy", &message, "write fewer rules");
    }
    check.key("successPolicy", |check| {
        check.each(policy, "rules", |check, rule| {
            let indexes = rule.str("succeededIndexes").and_then(|text| text.parse().ok());
            let indexes: Option<crate::manifest::api::Indexes> = indexes;
            if indexes.is_none() && rule.get("succeededCount").is_none() {
                let message = "a rule needs `succeededIndexes` or `succeededCount`";
                check.report(Code::MissingField, rule.span, message).help("write one of them");
            }
            if let (Some(last), Some(completions)) = (indexes.as_ref().and_then(Indexes::last), completions)
                && last >= completions
            {
                let message = format!("the last index of the job is {}", completions.saturating_sub(1));
                refuse(check, rule, "succeededIndexes", &message, "write indexes that the job has");
            }
            let most = indexes.as_ref().map_or(completions, |set| Some(set.len()));
            let count = rule.str("succeededCount").and_then(|text| text.parse::<u32>().ok());
            if let (Some(count), Some(most)) = (count, most)
                && count > most
            {
                let message = format!("only {most} indexes can succeed");
                refuse(check, rule, "succeededCount", &message, "write a smaller number");
            }
        });
    });
}

/// The host names of an Indexed job's machines are its name and their index.
pub(in crate::manifest) fn job_name(check: &mut Check<'_>, object: &Node<'_>) {
    let Some(name) = object.at(&["metadata", "name"]) else { return };
    let Some(spec) = object.get("spec").filter(|spec| spec.str("completionMode") == Some("Indexed")) else {
        return;
    };
    let completions = spec.str("completions").and_then(|text| text.parse::<u32>().ok());
    let Some(last) = completions.and_then(|all| all.min(MAX_INDEXES).checked_sub(1)) else { return };
    let most = HOST_NAME.saturating_sub(format!("-{last}").len());
    if name.scalar().is_some_and(|name| name.len() > most) {
        check.below(&["metadata", "name"], |check| {
            let message = format!(
                "the name of an Indexed job with {} completions has at most {most} characters: with `-{last}` it is a \
                 host name of at most {HOST_NAME}",
                last + 1
            );
            check.report(Code::InvalidValue, name.span, message).help("write a shorter name");
        });
    }
}

/// Names of CronJobs are shorter than others.
pub(in crate::manifest) fn cron_job_name(check: &mut Check<'_>, object: &Node<'_>) {
    let Some(name) = object.at(&["metadata", "name"]) else { return };
    if name.scalar().is_some_and(|name| name.len() > CRON_JOB_NAME) {
        check.below(&["metadata", "name"], |check| {
            let message = format!("the name of a CronJob has at most {CRON_JOB_NAME} characters");
            check.report(Code::InvalidValue, name.span, message).help("write a shorter name");
        });
    }
}

/// Reports a value that cannot be, where the field is given.
fn refuse(check: &mut Check<'_>, object: &Node<'_>, field: &str, message: &str, help: &str) {
    let Some(entry) = object.entry(field) else { return };
    check.key(field, |check| {
        check.report(Code::InvalidValue, entry.value.span, message).help(help);
    });
}

#[cfg(test)]
mod tests {
    use crate::manifest::{Options, SourceFile, read, render};

    /// `code path` of what is found in an Indexed Job with these fields.
    fn findings(name: &str, restarts: &str, fields: &str) -> Vec<String> {
        let text = format!(
            "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: {name}}}\nspec:\n  completionMode: Indexed\n  {fields}\n  \
             template:\n    spec:\n      restartPolicy: {restarts}\n      containers:\n      - {{name: main, image: \
             'example.org/main:1'}}\n"
        );
        let files = [SourceFile { name: "x.yaml".into(), bytes: text.into_bytes() }];
        let reading = read(&files, &Options { language_only: true, ..Options::default() });
        let found = render::json(&files, &reading);
        let found = found.iter().filter(|finding| finding["severity"] == "error");
        found.map(|finding| format!("{} {}", finding["code"], finding["path"]).replace('"', "")).collect()
    }

    #[test]
    fn the_name_and_the_largest_index_are_a_host_name() {
        let name = "x".repeat(61);
        assert_eq!(findings(&name, "Never", "completions: 10"), Vec::<String>::new());
        assert_eq!(findings(&name, "Never", "completions: 11"), ["invalid-value metadata.name"]);
        assert_eq!(findings(&"x".repeat(60), "Never", "completions: 11"), Vec::<String>::new());
    }

    #[test]
    fn failures_by_index_are_of_pods_that_are_not_started_again() {
        let fields = "completions: 2\n  backoffLimitPerIndex: 1";
        assert_eq!(findings("parts", "Never", fields), Vec::<String>::new());
        assert_eq!(findings("parts", "OnFailure", fields), ["invalid-value spec.backoffLimitPerIndex"]);
    }
}
