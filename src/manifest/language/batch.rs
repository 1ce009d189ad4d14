//! Jobs and CronJobs: machines that run to an end.

use super::field::{
    COUNT, COUNT_1, OneOf, SECONDS, TEXT, Table, Text, Type, mapped, no_meaning, refused, silent, word, works,
};
use super::meta::{JOB_META, LABEL_META};
use super::workload::{API_VERSION, KIND, PODS, STATUS};

/// `batch/v1` Job.
pub(super) static JOB: Table = Table::new(
    "Job",
    "Machines that run to an end once.",
    &[
        API_VERSION,
        KIND,
        works("metadata", Type::Object(&JOB_META), "its name").required(),
        works("spec", Type::Object(&JOB_SPEC), "what it runs").required(),
        STATUS,
    ],
);

static JOB_SPEC: Table = Table::new(
    "JobSpec",
    "A pod that ends, and how often it must succeed.",
    &[
        PODS,
        mapped(
            "completions",
            COUNT,
            "successes that make the job done; without it one is enough, and machines beside it may end",
        ),
        mapped("parallelism", COUNT, "machines at a time").default("1"),
        mapped("backoffLimit", COUNT, "failures after which the job has failed; 6 by default"),
        mapped("activeDeadlineSeconds", COUNT_1, "the job has failed after this time"),
        mapped(
            "ttlSecondsAfterFinished",
            SECONDS,
            "the job, with its output, is removed so long after its end",
        ),
        works(
            "completionMode",
            Type::Choice(&[
                word("NonIndexed", "all machines are equal"),
                word(
                    "Indexed",
                    "each has an index in JOB_COMPLETION_INDEX, and each index must succeed once",
                ),
            ]),
            "whether machines have an index",
        )
        .default("NonIndexed"),
        works("suspend", Type::Bool, "whether no machine runs for now; those that run are stopped")
            .default("false"),
        silent("selector", "written by clusters into the objects that they print"),
        silent("manualSelector", "a job always finds its own machines"),
        works("podFailurePolicy", Type::Object(&FAILURE_POLICY), "what follows from which failure"),
        works("successPolicy", Type::Object(&SUCCESS_POLICY), "when an Indexed job is done early"),
        works("backoffLimitPerIndex", COUNT, "failures after which an index has failed; for Indexed jobs"),
        works("maxFailedIndexes", COUNT, "failed indexes that the job survives; all by default"),
        no_meaning("scheduling", Type::Any, "there is nothing to schedule"),
        works(
            "podReplacementPolicy",
            Type::Choice(&[
                word("TerminatingOrFailed", "as soon as it stops"),
                word("Failed", "once it has ended; the default beside podFailurePolicy"),
            ]),
            "when a machine is replaced",
        ),
        refused("managedBy", TEXT, "there are no other controllers", "remove it")
            .unless(&["kubernetes.io/job-controller"]),
    ],
);

static FAILURE_POLICY: Table = Table::new(
    "PodFailurePolicy",
    "Rules about failures; the first one that matches decides, and a failure that none matches counts.",
    &[works("rules", Type::List(&Type::Object(&FAILURE_RULE)), "the rules, at most 20").required()],
);

static FAILURE_RULE: Table = Table::new(
    "PodFailurePolicyRule",
    "What follows from a failure.",
    &[
        works(
            "action",
            Type::Choice(&[
                word("FailJob", "the job has failed"),
                word("FailIndex", "the index has failed; needs backoffLimitPerIndex"),
                word("Ignore", "the failure does not count"),
                word("Count", "the failure counts, as without rules"),
            ]),
            "what follows",
        )
        .required(),
        works("onExitCodes", Type::Object(&EXIT_CODES), "exit codes of containers that it matches"),
        mapped(
            "onPodConditions",
            Type::List(&Type::Object(&POD_CONDITION)),
            "conditions of pods that it matches",
        ),
    ],
)
.one_of(&[OneOf { fields: &["onExitCodes", "onPodConditions"], required: true }]);

static EXIT_CODES: Table = Table::new(
    "PodFailurePolicyOnExitCodesRequirement",
    "Exit codes of containers that failed.",
    &[
        works("containerName", TEXT, "the container; any one by default"),
        works(
            "operator",
            Type::Choice(&[word("In", "the code is one of the values"), word("NotIn", "it is none of them")]),
            "how codes are compared",
        )
        .required(),
        works("values", Type::Filled(&Type::Int(0, 255)), "the codes").required(),
    ],
);

static POD_CONDITION: Table = Table::new(
    "PodFailurePolicyOnPodConditionsPattern",
    "A condition of a pod. DisruptionTarget is that of a pod whose machine ended, and not because the pod did; no pod has \
     others.",
    &[
        works("type", Type::Text(Text::Filled), "the condition").required(),
        works(
            "status",
            Type::Choice(&[
                word("True", "it holds"),
                word("False", "it does not"),
                word("Unknown", "nobody knows"),
            ]),
            "its status",
        )
        .zero()
        .default("True"),
    ],
);

static SUCCESS_POLICY: Table = Table::new(
    "SuccessPolicy",
    "Rules of which one is enough for an Indexed job to be done; what still runs is stopped.",
    &[works("rules", Type::Filled(&Type::Object(&SUCCESS_RULE)), "the rules, at most 20").required()],
);

static SUCCESS_RULE: Table = Table::new(
    "SuccessPolicyRule",
    "Indexes that make the job done.",
    &[
        works(
            "succeededIndexes",
            Type::Text(Text::Indexes),
            "indexes that must have succeeded; all by default",
        ),
        works("succeededCount", COUNT_1, "how many of them are enough; all by default"),
    ],
);

/// `batch/v1` CronJob.
pub(super) static CRON_JOB: Table = Table::new(
    "CronJob",
    "A Job that is run at the times of a schedule.",
    &[
        API_VERSION,
        KIND,
        works("metadata", Type::Object(&LABEL_META), "its name; at most 52 characters").required(),
        works("spec", Type::Object(&CRON_JOB_SPEC), "what it runs, and when").required(),
        STATUS,
    ],
);

static CRON_JOB_SPEC: Table = Table::new(
    "CronJobSpec",
    "A job, and when it runs.",
    &[
        works(
            "schedule",
            Type::Text(Text::Cron),
            "minute, hour, day of month, month, day of week; or `@daily` and its like, or `@every 90m`",
        )
        .required(),
        works("jobTemplate", Type::Object(&JOB_TEMPLATE), "the job").required(),
        works("timeZone", Type::Text(Text::TimeZone), "IANA name of the time zone").default("Etc/UTC"),
        works(
            "concurrencyPolicy",
            Type::Choice(&[
                word("Allow", "side by side"),
                word("Forbid", "it waits for the end of the last one"),
                word("Replace", "the running one is stopped"),
            ]),
            "what happens when the last one still runs",
        )
        .zero()
        .default("Allow"),
        works("suspend", Type::Bool, "whether the schedule rests").default("false"),
        works("startingDeadlineSeconds", COUNT, "how late it may still start"),
        works("successfulJobsHistoryLimit", COUNT, "successful runs kept, with their output").default("3"),
        works("failedJobsHistoryLimit", COUNT, "failed runs kept, with their output").default("1"),
    ],
);

static JOB_TEMPLATE: Table = Table::new(
    "JobTemplateSpec",
    "The job that a CronJob runs.",
    &[
        silent("metadata", "runs are numbered, and named after their CronJob"),
        works("spec", Type::Object(&JOB_SPEC), "the job").required(),
    ],
);
