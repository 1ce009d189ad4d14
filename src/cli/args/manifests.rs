//! Arguments of what reads manifests: the sets of files that every verb takes, and the verbs that are about the language.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::manifest::External;

/// Manifests given on the command line.
#[derive(Debug, Args)]
#[expect(clippy::struct_field_names, reason = "the word that messages of clap show")]
pub(in crate::cli) struct Manifests {
    /// Manifest files, folders of them, or `-` for standard input; all are read as one set
    #[arg(value_name = "MANIFEST", required_unless_present_any = ["filename", "kustomize"])]
    pub manifests: Vec<PathBuf>,
    /// Manifests that are named by options.
    #[command(flatten)]
    pub options: FileOptions,
    /// How they are read.
    #[command(flatten)]
    pub reading: Reading,
}

/// `-f` and `-k`, as kubectl has them.
#[derive(Debug, Clone, Default, Args)]
pub(in crate::cli) struct FileOptions {
    /// The same as MANIFEST (repeatable)
    #[arg(short = 'f', long = "filename", value_name = "FILE")]
    pub filename: Vec<PathBuf>,
    /// Folder with a kustomization, built with kubectl or kustomize (repeatable)
    #[arg(short = 'k', long = "kustomize", value_name = "DIR")]
    pub kustomize: Vec<PathBuf>,
}

impl FileOptions {
    /// Whether they name nothing.
    pub(in crate::cli) fn is_empty(&self) -> bool {
        self.filename.is_empty() && self.kustomize.is_empty()
    }
}

/// How manifests are read.
#[derive(Debug, Clone, Default, Args)]
pub(in crate::cli) struct Reading {
    /// Skip objects of a kind: KIND or KIND.GROUP (repeatable)
    #[arg(long, value_name = "KIND")]
    pub ignore_kind: Vec<String>,
    /// Object that exists outside the manifests, such as secret/NAME (repeatable)
    #[arg(long, value_name = "KIND/NAME")]
    pub external: Vec<External>,
    /// Accept privileged containers, which can change their own machine
    #[arg(long)]
    pub allow_privileged: bool,
    /// Accept hostNetwork, hostPID and hostIPC, which then mean the pod's own machine
    #[arg(long)]
    pub host_is_vm: bool,
}

/// `check`.
#[derive(Debug, Args)]
pub(in crate::cli) struct CheckArgs {
    /// The set.
    #[command(flatten)]
    pub set: Manifests,
    /// Format of findings [default: that of --output]
    #[arg(long, value_enum)]
    pub format: Option<Findings>,
    /// Check the language only, not whether this version or the cloud can deploy it
    #[arg(long)]
    pub language_only: bool,
}

/// `check --format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Findings {
    /// Text with the line of each finding
    Text,
    /// JSON list
    Json,
    /// SARIF 2.1.0, for code scanning services
    Sarif,
    /// GitHub workflow commands, shown beside the lines of a change
    Github,
}

/// `convert`.
#[derive(Debug, Args)]
pub(in crate::cli) struct ConvertArgs {
    /// Manifest files, folders of them, or `-` for standard input
    #[arg(value_name = "MANIFEST", required_unless_present_any = ["filename", "kustomize"])]
    pub manifests: Vec<PathBuf>,
    /// Manifests that are named by options.
    #[command(flatten)]
    pub options: FileOptions,
}

/// `explain`.
#[derive(Debug, Args)]
pub(in crate::cli) struct ExplainArgs {
    /// Code of a finding [default: list all codes]
    pub code: Option<String>,
}

/// `schema`.
#[derive(Debug, Args)]
pub(in crate::cli) struct SchemaArgs {
    /// Format
    #[arg(long, value_enum, default_value_t = SchemaFormat::JsonSchema)]
    pub format: SchemaFormat,
}

/// `schema --format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum SchemaFormat {
    /// JSON Schema, for editors
    JsonSchema,
    /// Markdown page docs/manifests.md
    Markdown,
    /// Markdown table of README.md: which cloud supports what
    Features,
}
