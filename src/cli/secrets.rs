//! Where the values of Secrets come from: the set itself, and files that the environment names.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::context::Context;
use super::environment::Environment;
use super::exit::{Exit, Failure, OrExit as _};
use crate::cloud::{Cloud, identity};
use crate::manifest::OutsideSecret;
use crate::manifest::api::{Name, ObjectSet, Secret, SecretValue};
use crate::manifest::support::Answer;
use crate::plan::fleet::Fleet;
use crate::plan::{replicated, secret};
use crate::registry::PullSecret;

/// What clouds answer about that read certificates of Ingresses from Secrets.
const TLS_SECRETS: &str = "IngressTLS.secretName";

/// The keys of Secrets that hold credentials for registries, of today's type and of the older one.
const PULL_KEYS: [&str; 2] = [".dockerconfigjson", ".dockercfg"];

/// The Secrets of the set's pods and Ingresses, with the versions of their values.
#[derive(Debug, Default)]
pub(super) struct Secrets {
    /// The values.
    pub values: Vec<Secret>,
    /// The versions that the cloud gives the values.
    pub versions: BTreeMap<Name, String>,
}

/// The Secrets that the environment has values for, with their keys.
pub(super) fn outside(environment: &Environment) -> BTreeMap<String, OutsideSecret> {
    let read = |(name, path): (&String, &PathBuf)| {
        let secret = match values(environment, name, path) {
            Ok(values) => OutsideSecret::Keys(values.into_keys().collect()),
            Err(error) => OutsideSecret::Unreadable(format!("{error:#}")),
        };
        (name.clone(), secret)
    };
    environment.secrets.iter().map(read).collect()
}

/// The values at `path`, which the environment file gives for the Secret `name`. An error says where that is written.
fn values(
    environment: &Environment,
    name: &str,
    path: &Path,
) -> anyhow::Result<BTreeMap<String, SecretValue>> {
    let read = if path.is_dir() { folder(path) } else { lines(path) };
    read.with_context(|| format!("{}: `secrets.{name}`", environment.file.display()))
}

/// Finds the values of all Secrets that pods of the set name, and those of certificates, and asks the cloud for their versions.
/// A replicated group keeps the identity that the cloud has of it; a new one is made where there is none.
pub(super) async fn find(
    context: &Context,
    cloud: &dyn Cloud,
    (set, fleet): (&ObjectSet, &Fleet),
) -> Result<Secrets, Failure> {
    let mut values: BTreeMap<Name, Secret> = BTreeMap::new();
    let mut kept: BTreeMap<Name, String> = BTreeMap::new();
    let mut identities = BTreeSet::new();
    for (name, group) in replicated::identities(set) {
        match known_version(fleet, group, &name) {
            Some(version) => {
                kept.insert(name.clone(), version);
            }
            None => {
                values.insert(name.clone(), identity::new(&name, group).or_exit(Exit::Cloud)?);
            }
        }
        identities.insert(name);
    }
    for (group, template) in set.pods() {
        for (name, optional) in secret::named(&template.spec) {
            let full = Name { namespace: group.namespace.clone(), name };
            let is_own =
                identities.contains(&full) && template.spec.init_containers.iter().any(is_coordinator);
            if replicated::is_identity_of_another(&full.name, if is_own { &group.name } else { "" }) {
                let error = anyhow::anyhow!(
                    "{group} names Secret {full}: names that end like that are i2kit's own, for the key pairs of replicated groups; name \
                     another Secret"
                );
                return Err(Failure::new(Exit::Manifest, error));
            }
            if values.contains_key(&full) || identities.contains(&full) {
                continue;
            }
            match value(context, set, &full).or_exit(Exit::Environment)? {
                Some(secret) => {
                    values.insert(full, secret);
                }
                None if optional => {}
                None => {
                    let error = anyhow::anyhow!(
                        "Secret {full} of {group} has no value here: give its manifest, or under `secrets` of the \
                         environment file the folder or file that holds it"
                    );
                    return Err(Failure::new(Exit::Environment, error));
                }
            }
        }
    }
    if context.environment.provider.support().answer(TLS_SECRETS) == Answer::Yes {
        for (name, ingress) in secret::of_ingresses(set) {
            let found = value(context, set, &name);
            let found = found.with_context(|| format!("the certificate of Ingress {ingress}"));
            // Without values the cloud makes a certificate itself.
            values.extend(found.or_exit(Exit::Environment)?.map(|found| (name, found)));
        }
    }
    let values: Vec<Secret> = values.into_values().collect();
    let mut versions = cloud.secret_versions(&values).await.or_exit(Exit::Cloud)?;
    versions.extend(kept);
    Ok(Secrets { values, versions })
}

/// Whether a container is the coordinator of a replicated pod.
fn is_coordinator(container: &crate::manifest::api::Container) -> bool {
    container.image == replicated::reference()
}

/// The version of a group's identity that its newest revision with one names.
fn known_version(fleet: &Fleet, group: &Name, identity: &Name) -> Option<String> {
    let revisions = fleet.group(group)?.revisions.iter().rev();
    revisions.filter_map(|revision| revision.launch.secrets.get(&identity.name)).flatten().next().cloned()
}

/// The Secrets with credentials for registries that pods of the set name, or their service accounts, in the order written. One
/// without a value is a warning, as in Kubernetes: the image may be public, or docker may have logged in.
pub(super) fn for_pulling(context: &Context, set: &ObjectSet) -> Result<Vec<PullSecret>, Failure> {
    let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
    for (group, template) in set.pods() {
        let account = template.spec.service_account.as_deref().unwrap_or("default");
        let accounts = set
            .service_accounts
            .iter()
            .filter(|found| found.meta.name.namespace == group.namespace && found.meta.name.name == account);
        let of_accounts = accounts.flat_map(|account| &account.image_pull_secrets);
        for name in template.spec.image_pull_secrets.iter().chain(of_accounts) {
            let full = Name { namespace: group.namespace.clone(), name: name.clone() };
            if !seen.insert(full.clone()) {
                continue;
            }
            let secret = value(context, set, &full).or_exit(Exit::Environment)?;
            match secret.iter().find_map(|secret| PULL_KEYS.iter().find_map(|key| secret.data.get(*key))) {
                Some(document) => found.push(PullSecret {
                    name: format!("Secret {full}"),
                    document: document.reveal().to_vec(),
                }),
                None => context.events.warn(format!(
                    "imagePullSecrets of {group}: Secret {full} has no `.dockerconfigjson` here; going on without it"
                )),
            }
        }
    }
    Ok(found)
}

/// The Secret of that name: of the set itself, else of the environment.
fn value(context: &Context, set: &ObjectSet, name: &Name) -> anyhow::Result<Option<Secret>> {
    let known = set.secrets.iter().find(|secret| secret.name == *name).cloned();
    known.map_or_else(|| named_file(context, name), |secret| Ok(Some(secret)))
}

/// The Secret whose values are in a file or folder that the environment names.
fn named_file(context: &Context, name: &Name) -> anyhow::Result<Option<Secret>> {
    let named = &context.environment.secrets;
    let full = format!("{}/{}", name.namespace, name.name);
    let found = named.get_key_value(&full).or_else(|| named.get_key_value(&name.name));
    let Some((key, path)) = found else { return Ok(None) };
    let data = values(&context.environment, key, path)?;
    Ok(Some(Secret { name: name.clone(), kind: "Opaque".into(), data }))
}

/// A file a key, as `kubectl create secret generic --from-file` takes a folder.
fn folder(path: &Path) -> anyhow::Result<BTreeMap<String, SecretValue>> {
    let mut keys = BTreeMap::new();
    for entry in fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))? {
        let file = entry.with_context(|| format!("cannot read {}", path.display()))?.path();
        let name = file.file_name().and_then(|name| name.to_str());
        let name = name.with_context(|| format!("the name of {} is not UTF-8", file.display()))?.to_owned();
        if file.is_file() && (!name.starts_with('.') || PULL_KEYS.contains(&name.as_str())) {
            let value = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
            keys.insert(name, SecretValue::new(value));
        }
    }
    Ok(keys)
}

/// Lines `KEY=VALUE`, as `kubectl create secret generic --from-env-file` reads them: nothing is unquoted.
fn lines(path: &Path) -> anyhow::Result<BTreeMap<String, SecretValue>> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut keys = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.trim_start().starts_with('#') {
            continue;
        }
        // The line itself is not shown: it may be a value.
        let (key, value) = line
            .split_once('=')
            .with_context(|| format!("{}:{}: the line is not KEY=VALUE", path.display(), number + 1))?;
        keys.insert(key.trim().to_owned(), SecretValue::new(value.as_bytes().to_vec()));
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_and_files_hold_keys_as_kubectl_reads_them() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("db.env");
        fs::write(&file, "# comment\n\nuser=app\npassword=\"a=b\" \n").unwrap();
        let read = lines(&file).unwrap();
        assert_eq!(read["user"].reveal(), b"app");
        assert_eq!(read["password"].reveal(), b"\"a=b\" ");
        fs::write(root.path().join(".hidden"), "x").unwrap();
        assert_eq!(folder(root.path()).unwrap().into_keys().collect::<Vec<_>>(), ["db.env"]);
        fs::write(&file, "hunter2\n").unwrap();
        let message = format!("{:#}", lines(&file).unwrap_err());
        assert!(message.ends_with("db.env:1: the line is not KEY=VALUE"), "{message}");
    }

    #[test]
    fn secrets_for_registries_come_from_pods_accounts_and_the_environment() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("outside")).unwrap();
        fs::write(root.path().join("outside/.dockerconfigjson"), "from the environment").unwrap();
        fs::write(root.path().join("outside/.hidden"), "x").unwrap();
        fs::write(root.path().join("e.yml"), "name: test\nsecrets: {outside: outside}\n").unwrap();
        let notes = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let kept = std::sync::Arc::clone(&notes);
        let mut context =
            crate::cli::context::context(Some(&root.path().join("e.yml")), crate::report::Format::Json, true)
                .unwrap();
        context.events =
            crate::report::Events::new(move |event| kept.lock().unwrap().push(format!("{event:?}")));
        let text = "apiVersion: v1\nkind: Secret\nmetadata: {name: own}\ntype: kubernetes.io/dockerconfigjson\n\
            stringData: {.dockerconfigjson: from the manifest}\n---\n\
            apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: builder}\nimagePullSecrets: [{name: own}, {name: gone}]\n---\n\
            apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {serviceAccountName: builder, \
            imagePullSecrets: [{name: outside}], containers: [{name: web, image: nginx}]}\n";
        let file = crate::manifest::SourceFile { name: "web.yaml".into(), bytes: text.as_bytes().to_vec() };
        let external = ["secret/outside", "secret/gone"].map(|name| name.parse().unwrap()).into();
        let options = crate::manifest::Options { external, ..Default::default() };
        let reading = crate::manifest::read(&[file], &options);
        assert!(!reading.has_errors(), "{:?}", reading.diagnostics);
        let found = for_pulling(&context, &reading.set).unwrap();
        let found: Vec<(&str, &[u8])> =
            found.iter().map(|secret| (secret.name.as_str(), secret.document.as_slice())).collect();
        assert_eq!(
            found,
            [("Secret outside", &b"from the environment"[..]), ("Secret own", b"from the manifest")]
        );
        let notes = notes.lock().unwrap();
        assert!(notes.len() == 1 && notes[0].contains("Secret gone"), "{notes:?}");
        assert_eq!(
            folder(&root.path().join("outside")).unwrap().into_keys().collect::<Vec<_>>(),
            [".dockerconfigjson"]
        );
    }

    #[tokio::test]
    async fn a_replicated_group_keeps_the_identity_that_its_cloud_has() {
        let text = "apiVersion: v1\nkind: Service\nmetadata: {name: db}\nspec: {clusterIP: None, selector: {app: db}, \
            ports: [{port: 80}]}\n---\napiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: db}\nspec: {serviceName: db, replicas: 3, \
            podManagementPolicy: Parallel, selector: {matchLabels: {app: db}}, template: {metadata: {labels: {app: db}, \
            annotations: {i2kit.dev/replicated: http}}, spec: {containers: [{name: db, image: \"db:1\", ports: [{containerPort: 80}]}]}}}\n";
        let file = crate::manifest::SourceFile { name: "db.yaml".into(), bytes: text.as_bytes().to_vec() };
        let reading = crate::manifest::read(&[file], &crate::manifest::Options::default());
        assert!(!reading.has_errors(), "{:?}", reading.diagnostics);
        let set = replicated::expand(reading.set);
        let [(identity, group)] = &replicated::identities(&set).collect::<Vec<_>>()[..] else { panic!() };
        // Two revisions, of which the newer one names the identity.
        let revision = |number: u32, version: Option<&str>| {
            let launch = crate::plan::example::launch(crate::plan::image::LaunchImage::unplanned().id);
            let secrets = version.map(|version| (identity.name.clone(), Some(version.to_owned())));
            let launch = crate::plan::fleet::LaunchSpec { secrets: secrets.into_iter().collect(), ..launch };
            crate::plan::fleet::Revision { number, launch, created: 0, cause: String::new(), deployed: None }
        };
        let settings = crate::plan::example::settings(crate::manifest::api::Strategy::Recreate);
        let mut known = crate::plan::fleet::InstanceGroup::new((*group).clone(), settings);
        known.revisions = vec![revision(1, None), revision(2, Some("v2"))];
        let fleet = Fleet { groups: vec![known], ..Fleet::default() };
        assert_eq!(known_version(&fleet, group, identity), Some("v2".to_owned()));
        assert_eq!(known_version(&Fleet::default(), group, identity), None);

        let context = crate::cli::context::context(None, crate::report::Format::Json, true).unwrap();
        let cloud = crate::cloud::sim::Sim::default();
        let found = find(&context, &cloud, (&set, &fleet)).await.unwrap();
        assert_eq!(found.versions, [(identity.clone(), "v2".to_owned())].into());
        assert!(found.values.is_empty(), "nothing is made anew, and nothing is sent");
    }

    #[tokio::test]
    async fn the_key_pair_of_a_group_is_given_to_no_other_pod() {
        let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: thief}\nspec: {containers: [{name: thief, image: \"thief:1\", envFrom: \
            [{secretRef: {name: db.replica.i2kit.dev}}]}]}\n";
        let file = crate::manifest::SourceFile { name: "thief.yaml".into(), bytes: text.as_bytes().to_vec() };
        let external = ["secret/db.replica.i2kit.dev".parse().unwrap()].into();
        let options = crate::manifest::Options { external, ..Default::default() };
        let reading = crate::manifest::read(&[file], &options);
        assert!(!reading.has_errors(), "{:?}", reading.diagnostics);
        let context = crate::cli::context::context(None, crate::report::Format::Json, true).unwrap();
        let cloud = crate::cloud::sim::Sim::default();
        let failure = find(&context, &cloud, (&reading.set, &Fleet::default())).await.unwrap_err();
        assert_eq!(failure.exit, Exit::Manifest);
        let error = failure.error.unwrap().to_string();
        assert!(error.contains("i2kit's own"), "{error}");
    }

    #[test]
    fn a_file_that_is_missing_is_named_with_its_place_in_the_environment_file() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("db.env"), "user=app\n").unwrap();
        let file = root.path().join("e.yml");
        fs::write(&file, "name: test\nsecrets: {db: db.env, mail: gone.env}\n").unwrap();
        let found = outside(&crate::cli::environment::read(Some(&file)).unwrap());
        assert_eq!(found["db"], OutsideSecret::Keys(["user".to_owned()].into()));
        let OutsideSecret::Unreadable(why) = &found["mail"] else { panic!("{found:?}") };
        assert!(why.starts_with(&format!("{}: `secrets.mail`: cannot read", file.display())), "{why}");
        assert!(why.contains("gone.env"), "{why}");
    }
}
